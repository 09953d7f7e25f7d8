"""Stopping and going on: exact resume, signals, kills, and what resume may name."""

import json
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from yolact.checkpoint import read_checkpoint, save_checkpoint
from yolact.engine import log
from yolact.engine import train as module
from yolact.engine.rundir import find_checkpoint
from yolact.engine.state import random_state, set_random_state
from yolact.engine.train import Interrupted, train
from yolact.testing import tiny

TIMES = {"time", "images_per_s", "seconds", "memory_mb"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def two_steps(data, tmp_path_factory):
    cfg = tiny.config(data, iterations=2, validate_every=2)
    return cfg, train(cfg, device="cpu", run_dir=tmp_path_factory.mktemp("two") / "run")


def assert_same(a, b, where="checkpoint"):
    """Two nested structures are equal bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def checkpoint(run, name="last.pth"):
    found = read_checkpoint(run / "weights" / name)
    found["training"]["random"] = None  # differs with what the test process drew before
    return found


def metrics(run):
    def bare(record):
        return {
            k: bare(v) if isinstance(v, dict) else v for k, v in record.items() if k not in TIMES
        }

    return [bare(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Crash(Exception):
    pass


def crash_after(monkeypatch, steps):
    """Ends the next training without warning after so many of its steps."""
    original, done = module.Updater.__call__, []

    def call(self, batches):
        if len(done) == steps:
            raise Crash
        done.append(1)
        return original(self, batches)

    monkeypatch.setattr(module.Updater, "__call__", call)


VARIANTS = {
    "sgd": dict(),
    "learned_matched_sampled": dict(),
    "adamw_ema_bn": dict(optimizer="adamw", ema_decay=0.9, freeze_bn="never", schedule="cosine"),
    "fp16_accumulate": dict(precision="fp16", accumulate=2, clip_grad_norm=5.0, ema_decay=0.5),
}


@pytest.fixture(scope="module", params=VARIANTS)
def whole_run(request, data, tmp_path_factory):
    """Without oneDNN for fp16: on processors with fp16 instructions, its gradients overflow at
    random, twice the same run differently."""
    with torch.backends.mkldnn.flags(
        enabled=torch.backends.mkldnn.enabled and "fp16" not in request.param
    ):
        yield _whole_run(request, data, tmp_path_factory)


def _whole_run(request, data, tmp_path_factory):
    loss = (
        {"mask": "bce(weight=learned) + mse(match='grad') + focal(sampling=points(9))"}
        if "learned" in request.param
        else None
    )
    cfg = tiny.config(
        data,
        augment=True,
        iterations=7,
        save_every=3,
        validate_every=3,
        log_every=2,
        gradients_every=2,
        loss=loss,
        **VARIANTS[request.param],
    )
    return cfg, train(cfg, device="cpu", run_dir=tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_k_then_k_steps_equal_2k_bit_for_bit(whole_run, tmp_path, monkeypatch, workers):
    """Killed in the middle of an epoch (batches straddle them), two steps after the last
    checkpoint, after a line that must go."""
    cfg, whole = whole_run
    cfg = cfg.model_copy(update={"train": cfg.train.model_copy(update={"num_workers": workers})})
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_after(patch, 5)
        train(cfg, device="cpu", run_dir=tmp_path / "parts")
    assert checkpoint(tmp_path / "parts")["step"] == 3 and [
        m["step"] for m in metrics(tmp_path / "parts")
    ] == [2, 3, 4]
    parts = train(cfg, device="cpu", resume=tmp_path / "parts")
    assert parts.path == tmp_path / "parts"
    assert metrics(whole) == metrics(parts) and [m["step"] for m in metrics(parts)] == [
        2,
        3,
        4,
        6,
        6,
        7,
        7,
    ]
    for name in ("last.pth", "best.pth"):
        found = [read_checkpoint(run / "weights" / name) for run in (whole, parts)]
        for each in found:
            each["config"]["train"]["num_workers"] = None
            # differs with what the test process drew before
            each.get("training", {})["random"] = None
        assert_same(*found)


def test_random_states_come_back():
    before = random_state()

    def draw():
        return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()

    first = draw()
    set_random_state(before)
    assert draw() == first


def test_validation_leaves_no_trace(data, tmp_path):
    runs = [
        train(
            tiny.config(data, iterations=4, validate_every=every),
            device="cpu",
            run_dir=tmp_path / str(every),
        )
        for every in (0, 1)
    ]
    found = [checkpoint(run) for run in runs]
    assert_same(found[0]["model"], found[1]["model"])
    assert_same(found[0]["training"]["optimizer"], found[1]["training"]["optimizer"])


# ---------------------------------------------------------------- signals and kills


def start(cfg, **options):
    """train() in a forked process."""

    def job():
        torch.set_num_threads(1)
        train(cfg, device="cpu", **options)

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    return process


def wait_for_lines(run, count, process):
    deadline = time.monotonic() + 30
    while (
        not (run / "metrics.jsonl").exists()
        or len((run / "metrics.jsonl").read_text().splitlines()) < count
    ):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "signum, code, workers", [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 2)]
)
def test_a_signal_saves_an_interrupt_checkpoint(data, tmp_path, signum, code, workers):
    cfg = tiny.config(
        data, iterations=100_000, save_every=100_000, log_every=1, num_workers=workers
    )
    run = tmp_path / "run"
    process = start(cfg, run_dir=run)
    wait_for_lines(run, 3, process)
    os.kill(process.pid, signum)
    process.join(30)
    assert process.exitcode == code
    stopped = checkpoint(run, "interrupt.pth")["step"]
    assert stopped >= 3 and not (run / "weights/last.pth").exists()
    done = train(
        tiny.config(data, iterations=stopped + 2, log_every=1, num_workers=workers),
        device="cpu",
        resume=run,
    )
    whole = train(
        tiny.config(data, iterations=stopped + 2, log_every=1),
        device="cpu",
        run_dir=tmp_path / "whole",
    )
    assert_same(checkpoint(done)["model"], checkpoint(whole)["model"])
    assert not (run / "weights/interrupt.pth").exists()  # older than last.pth by now


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_the_job(data, tmp_path, signum, code):
    """A terminal's Ctrl-C and a scheduler's SIGTERM reach the loader's processes too."""
    cfg = tiny.config(data, iterations=100_000, log_every=1, num_workers=2)

    def job():
        os.setpgrp()
        train(cfg, device="cpu", run_dir=tmp_path / "run")

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    wait_for_lines(tmp_path / "run", 2, process)
    os.killpg(process.pid, signum)
    process.join(30)
    assert process.exitcode == code and checkpoint(tmp_path / "run", "interrupt.pth")["step"] >= 2


def test_a_signal_during_validation_is_answered_at_once_and_validation_made_up_for(
    data, tmp_path, monkeypatch
):
    cfg = tiny.config(data, iterations=4, validate_every=2)
    whole = train(cfg, device="cpu", run_dir=tmp_path / "whole")
    original = module.evaluate

    def evaluate(*args, **kwargs):
        torch.rand(3)  # what an interrupted validation drew must not matter
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
        patch.setattr(module, "evaluate", evaluate)
        train(cfg, device="cpu", run_dir=tmp_path / "parts")
    assert stop.value.code == 143 and module.evaluate is original
    assert checkpoint(tmp_path / "parts", "interrupt.pth")["training"]["validated"] == 0
    parts = train(cfg, device="cpu", resume=tmp_path / "parts")
    assert_same(checkpoint(whole), checkpoint(parts))
    assert metrics(whole) == metrics(parts)


@pytest.mark.parametrize("iterations", [2, 4])
def test_a_failing_validation_loses_no_training(data, tmp_path, monkeypatch, iterations):
    """It fails once before its line in metrics.jsonl, once after it; then it is made up for, also
    at the end of the run."""
    cfg = tiny.config(data, iterations=iterations, validate_every=2, save_every=100, log_every=1)
    whole = train(cfg, device="cpu", run_dir=tmp_path / "whole")
    run, options = tmp_path / "parts", {"run_dir": tmp_path / "parts"}
    for owner, part in ((module, "evaluate"), (log, "write_image")):

        def fail(*args, **kwargs):
            raise Crash

        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(owner, part, fail)
            train(cfg, device="cpu", **options)
        saved = checkpoint(run)
        assert saved["step"] == 2 and saved["training"]["validated"] == 0
        options = {"resume": run}
    train(cfg, device="cpu", resume=run)
    assert_same(checkpoint(whole), checkpoint(run))
    assert metrics(whole) == metrics(run)


def test_a_second_signal_ends_at_once(data, tmp_path, monkeypatch):
    def twice(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(module.Updater, "__call__", twice)
    before = signal.getsignal(signal.SIGINT)  # a shell starts background jobs with SIGINT ignored
    with pytest.raises(KeyboardInterrupt):
        train(tiny.config(data), device="cpu", run_dir=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_from_a_scheduler_and_from_the_parent_is_one_request(data, tmp_path, monkeypatch):
    original = module.Updater.__call__

    def twice(self, batches):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batches)

    monkeypatch.setattr(module.Updater, "__call__", twice)
    with pytest.raises(Interrupted):
        train(tiny.config(data), device="cpu", run_dir=tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "weights" / "interrupt.pth")["step"] == 1


def test_kill_9_at_random_moments_leaves_a_usable_checkpoint(data, tmp_path):
    """Saving at every step, so that kills fall into writes; in the end the run equals one that was
    left alone."""
    cfg = tiny.config(
        data,
        iterations=50,
        batch_size=2,
        save_every=1,
        log_every=3,
        validate_every=0,
        ema_decay=0.9,
    )
    run, rng, kills = tmp_path / "run", random.Random(0), 0
    process = start(cfg, run_dir=run)
    wait_for_lines(run, 1, process)
    while process.is_alive():
        time.sleep(rng.uniform(0.02, 0.2))
        if kills < 4 and process.is_alive():
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            step = checkpoint(run)["step"]
            process = start(cfg, resume=run)
            deadline = time.monotonic() + 20
            while (
                kills < 4
                and process.is_alive()
                and checkpoint(run)["step"] <= step
                and time.monotonic() < deadline
            ):
                time.sleep(0.02)
    process.join()
    assert process.exitcode == 0 and kills >= 3
    whole = train(cfg, device="cpu", run_dir=tmp_path / "whole")
    assert_same(checkpoint(whole), checkpoint(run))
    assert metrics(whole) == metrics(run)
    assert not list(run.rglob("*.part"))


# ---------------------------------------------------------------- what to resume


def test_resume_latest_a_folder_or_a_file(data, tmp_path):
    cfg = tiny.config(data, iterations=2)
    first = train(cfg, device="cpu", runs_root=tmp_path)
    second = train(cfg, device="cpu", runs_root=tmp_path)
    assert (first.path, second.path) == (tmp_path / "tiny/1", tmp_path / "tiny/2")
    longer = tiny.config(data, iterations=4)
    assert train(longer, device="cpu", resume="latest", runs_root=tmp_path) == second
    assert checkpoint(second)["step"] == 4 and checkpoint(first)["step"] == 2
    assert (
        train(longer, device="cpu", resume=first / "weights/last.pth", runs_root=tmp_path) == first
    )
    assert_same(checkpoint(first)["model"], checkpoint(second)["model"])
    env = json.loads((first / "env.json").read_text())
    assert [start["step"] for start in env["resumed"]] == [2]


def test_going_back_to_an_older_checkpoint_starts_a_new_folder(data, tmp_path):
    cfg = tiny.config(data, iterations=4, keep_every=2)
    run = train(cfg, device="cpu", runs_root=tmp_path)
    assert sorted(p.name for p in (run / "weights").iterdir()) == [
        "best.pth",
        "last.pth",
        "step_00000002.pth",
        "step_00000004.pth",
    ]
    before = (run / "weights/last.pth").read_bytes()
    other = train(cfg, device="cpu", resume=run / "weights/step_00000002.pth", runs_root=tmp_path)
    assert other.path == tmp_path / "tiny/2" and (run / "weights/last.pth").read_bytes() == before
    assert_same(checkpoint(run)["model"], checkpoint(other)["model"])


def test_changed_settings_are_told_and_used(data, tmp_path, capsys):
    run = train(tiny.config(data, iterations=2), device="cpu", run_dir=tmp_path / "run")
    train(tiny.config(data, iterations=3, lr=5e-4), device="cpu", resume=run)
    assert "changed       train.lr: 0.001 -> 0.0005" in capsys.readouterr().out
    assert metrics(run)[-2]["lr"] == 5e-4 and "lr: 0.0005" in (run / "config.yaml").read_text()


def test_a_finished_run_has_nothing_left_to_do(data, tmp_path):
    run = train(tiny.config(data, iterations=2), device="cpu", run_dir=tmp_path / "run")
    before = checkpoint(run)
    train(tiny.config(data, iterations=2), device="cpu", resume=run)
    assert_same(before, checkpoint(run))


def test_a_finished_run_without_records_is_evaluated_again_and_not_trained(
    data, tmp_path, monkeypatch
):
    cfg = tiny.config(data, iterations=4, validate_every=2, log_every=1)
    run = train(cfg, run_dir=tmp_path / "run", device="cpu").path
    before, weights = metrics(run), checkpoint(run)
    evaluated = []
    real = module.Trainer._look
    monkeypatch.setattr(
        module.Trainer, "_look", lambda self, last: evaluated.append(last) or real(self, last)
    )
    crash_after(monkeypatch, 0)
    train(cfg, resume=run, device="cpu")
    assert not evaluated
    (run / "results" / "records.npz").unlink()
    train(cfg, resume=run, device="cpu")
    assert evaluated == [True] and (run / "results" / "records.npz").is_file()
    after = metrics(run)
    assert [line | {"best": 0} for line in after] == [line | {"best": 0} for line in before]
    assert_same(checkpoint(run)["model"], weights["model"])


def test_what_cannot_be_resumed_is_refused(data, tmp_path):
    cfg = tiny.config(data, iterations=2)
    for resume, message in (
        ("latest", "no run to resume in .*start one without --resume"),
        (tmp_path, "holds no checkpoint to resume"),
        (tmp_path / "gone.pth", "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            find_checkpoint(resume, tmp_path / "runs", "tiny")
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="best.pth holds weights only.*init_from"):
        train(cfg, device="cpu", resume=run / "weights/best.pth")
    with pytest.raises(ValueError, match="already holds a run: go on with it by --resume"):
        train(cfg, device="cpu", run_dir=run)
    with pytest.raises(ValueError, match="does not fit the model.*--resume without --config"):
        train(tiny.config(data, model={"fpn_channels": 24}), device="cpu", resume=run)
    last = run / "weights/last.pth"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match="last.pth is truncated"):
        train(cfg, device="cpu", resume=run)


def test_a_damaged_checkpoint_is_told_and_the_other_one_taken(data, tmp_path, capsys):
    cfg = tiny.config(data, iterations=4, keep_every=2)
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    last, interrupt = run / "weights/last.pth", run / "weights/interrupt.pth"
    interrupt.write_bytes(last.read_bytes()[:-1000])
    assert find_checkpoint(run, tmp_path, "tiny")[1]["step"] == 4
    assert "interrupt.pth is truncated or damaged" in capsys.readouterr().err
    last.write_bytes(b"")
    with pytest.raises(ValueError, match="last.pth is empty.*; or resume from .*step_00000004.pth"):
        find_checkpoint(run, tmp_path, "tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(step=2.5), "step must be a whole number, found 2.5"),
        (lambda c: c.update(step=-1), "step must be >= 0, found -1"),
        (lambda c: c.update(step=1), "validated=2 is beyond step=1"),
        (lambda c: c["training"].pop("random"), "training.random is missing"),
        (lambda c: c["training"].update(random=[{}]), "random states cannot be put back"),
        (lambda c: c["training"]["meter"].update(counts=[]), "training.meter.counts must be"),
        (lambda c: c["criterion"].update(x=torch.ones(1)), "criterion, .*cannot be put back"),
        (
            lambda c: c["training"]["optimizer"]["state"][0]["momentum_buffer"].fill_(float("nan")),
            "not finite, first training.optimizer of parameter 0, momentum_buffer .*has diverged",
        ),
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_refused(two_steps, tmp_path, change, message):
    cfg, run = two_steps
    content = read_checkpoint(run / "weights/last.pth")
    change(content)
    save_checkpoint(tmp_path / "a.pth", content)
    with pytest.raises(ValueError, match=message) as told:
        train(cfg, device="cpu", resume=tmp_path / "a.pth", runs_root=tmp_path / "runs")
    assert "\n" not in str(told.value)


def test_a_checkpoint_beyond_the_end_is_told(two_steps, tmp_path, capsys):
    cfg, run = two_steps
    shorter = cfg.model_copy(update={"train": cfg.train.model_copy(update={"iterations": 1})})
    train(shorter, device="cpu", resume=run, run_dir=tmp_path / "shorter")
    assert "of step 2, beyond train.iterations=1: nothing is left" in capsys.readouterr().out
