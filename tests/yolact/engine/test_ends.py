"""Ends of a training that leave its weights whole: they save, and say how to go on."""

import errno
import multiprocessing
import os
import re
import signal

import pytest
import torch

from data import locking
from tests.yolact.engine.test_distributed import _enter, free_port
from tests.yolact.engine.test_resume import Crash, assert_same, checkpoint, metrics
from yolact.engine import saving
from yolact.engine import train as module
from yolact.engine.rundir import RunDir
from yolact.engine.step import Updater
from yolact.engine.train import train
from yolact.locking import RunLock
from yolact.testing import tiny

# statistics, a counter, an average and a measured factor: all that a step changes beside weights
STATEFUL = dict(
    freeze_bn="never",
    accumulate=2,
    ema_decay=0.9,
    optimizer="adamw",
    loss={"mask": "bce(weight=learned) + mse(match='grad')"},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


def patched_step(patch, at, change):
    """change(updater, images) in place of the images of the last micro-batch of step `at`."""
    original, calls = Updater._prepare, []

    def prepare(self, images):
        images = original(self, images)
        calls.append(self.state.step)
        last = calls.count(self.state.step) == self.cfg.train.accumulate
        return change(images) if self.state.step == at and last else images

    patch.setattr(Updater, "_prepare", prepare)


def fail(_):
    raise RuntimeError("CUDA error: unspecified")


def same_in_the_end(cfg, run, tmp_path):
    whole = train(cfg, device="cpu", run_dir=tmp_path / "whole")
    train(cfg, device="cpu", resume=run)
    assert_same(checkpoint(whole), checkpoint(run))
    assert metrics(whole) == metrics(run)


def test_an_image_that_fails_costs_no_step(data, tmp_path, monkeypatch):
    cfg = tiny.config(data, iterations=6, save_every=100, log_every=2)
    run, original = tmp_path / "run", module.Trainer._next_batches

    def next_batches(self):
        if self.state.step == 3:
            raise ValueError("image a.jpg cannot be decoded: mend it")
        return original(self)

    with monkeypatch.context() as patch, pytest.raises(ValueError) as told:
        patch.setattr(module.Trainer, "_next_batches", next_batches)
        train(cfg, device="cpu", run_dir=run)
    assert str(told.value) == (
        "image a.jpg cannot be decoded: mend it; training ended at step 3 and is saved up to step "
        f"3; go on with --resume={run}"
    )
    same_in_the_end(cfg, run, tmp_path)


def test_a_step_that_fails_half_way_leaves_no_trace(data, tmp_path, monkeypatch, capsys):
    cfg = tiny.config(data, iterations=5, save_every=100, log_every=1, **STATEFUL)
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="unspecified"):
        patched_step(patch, 2, fail)
        train(cfg, device="cpu", run_dir=run)
    assert f"saved up to step 2; go on with --resume={run}\n" in capsys.readouterr().err
    same_in_the_end(cfg, run, tmp_path)


def test_a_step_that_is_not_finite_is_gone_back_before(data, tmp_path, monkeypatch):
    """Found two steps later, at the next line."""
    cfg = tiny.config(data, iterations=8, save_every=100, log_every=3, **STATEFUL)
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(ValueError) as told:
        patched_step(patch, 3, lambda images: images * float("inf"))
        train(cfg, device="cpu", run_dir=run)
    assert re.search(r"step 4: .*nan.*saved up to step 3; go on with --resume", str(told.value))
    same_in_the_end(cfg, run, tmp_path)


def test_an_error_between_two_lines_does_not_hide_a_step_that_was_not_finite(
    data, tmp_path, monkeypatch
):
    cfg = tiny.config(data, iterations=8, save_every=100, log_every=100)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="step 2: .*up to step 1;"):
        patched_step(patch, 1, lambda images: images * float("inf"))
        original = module.Trainer._next_batches

        def next_batches(self):
            if self.state.step == 4:
                raise OSError(errno.EIO, "Input/output error", "a.jpg")
            return original(self)

        patch.setattr(module.Trainer, "_next_batches", next_batches)
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert checkpoint(tmp_path / "run", "interrupt.pth")["step"] == 1


def test_weights_that_changed_by_half_are_not_saved(data, tmp_path, monkeypatch, capsys):
    cfg = tiny.config(data, iterations=4, save_every=2)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        original, steps = torch.optim.SGD.step, []

        def step(self, *args):
            original(self, *args)
            steps.append(1)
            if len(steps) == 4:
                raise RuntimeError("device lost")

        patch.setattr(torch.optim.SGD, "step", step)
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert "step 4 had changed a part of the weights) and is saved up to step 2;" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run/weights/interrupt.pth").exists()


def test_no_memory_is_one_line(data, tmp_path, monkeypatch):
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(ValueError, match="^out of memory .*batch_size.*accumulate; .* to step 1;"):
        patched_step(monkeypatch, 1, full)
        train(tiny.config(data), device="cpu", run_dir=tmp_path / "run")


def test_a_checkpoint_that_is_kept_is_caught_up_on(data, tmp_path, monkeypatch):
    cfg = tiny.config(data, iterations=4, keep_every=2, validate_every=2)
    whole, run = train(cfg, device="cpu", run_dir=tmp_path / "whole"), tmp_path / "run"
    original = saving.save_checkpoint

    def killed(path, content):
        if path.name == "step_00000002.pth":
            raise Crash
        original(path, content)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(saving, "save_checkpoint", killed)
        train(cfg, device="cpu", run_dir=run)
    train(cfg, device="cpu", resume=run)
    for name in ("step_00000002.pth", "step_00000004.pth", "last.pth"):
        assert_same(checkpoint(whole, name), checkpoint(run, name))


# ---------------------------------------------------------------- folders


def test_a_run_that_ended_before_its_first_checkpoint_starts_anew(data, tmp_path, capsys):
    cfg = tiny.config(data, iterations=2, log_every=1)
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    lines = metrics(run)
    for file in [*run.path.glob("weights/*"), *run.path.glob("results/*")]:
        file.unlink()
    with pytest.raises(ValueError, match="already holds a run"):  # it is done, without weights
        train(cfg, device="cpu", run_dir=run)
    log = run.path / "metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="before the first one, so start it again, --run_dir="):
        train(cfg, device="cpu", resume=run)
    capsys.readouterr()
    train(cfg, device="cpu", run_dir=run)
    assert "ended before its first checkpoint: it starts anew" in capsys.readouterr().out
    assert metrics(run) == lines and len(list(run.path.glob("tensorboard/events*"))) == 1


def _hold(folder, ready, done):
    with RunLock() as lock:
        lock.take(folder)
        ready.set()
        done.wait(60)


def test_two_processes_do_not_train_one_run(data, tmp_path):
    cfg, context = tiny.config(data, iterations=2), multiprocessing.get_context("fork")
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run.path, ready, done), daemon=True)
    other.start()
    assert ready.wait(20)
    longer = tiny.config(data, iterations=3, keep_every=1)
    said = rf"is being trained by another process \(process {other.pid} on .*\): wait"
    for where in ({"resume": run}, {"resume": run / "weights/last.pth"}, {"run_dir": run}):
        with pytest.raises(ValueError, match=said):
            train(longer, device="cpu", **where)
    # weights that are kept for good may start another run meanwhile
    aside = train(longer, device="cpu", resume=run, run_dir=tmp_path / "aside")
    assert checkpoint(aside)["step"] == 3 and checkpoint(run)["step"] == 2
    done.set()
    other.join()
    train(longer, device="cpu", resume=run)
    assert checkpoint(run)["step"] == 3


def test_a_lock_does_not_outlive_its_process_in_a_child(tmp_path):
    """Loader processes live on for seconds after a kill."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    with RunLock() as lock:
        lock.take(tmp_path)
        child = context.Process(target=done.wait, daemon=True)
        child.start()
    other = context.Process(target=_hold, args=(tmp_path, ready, done), daemon=True)
    other.start()
    assert ready.wait(20) and child.is_alive()
    done.set()
    other.join()
    child.join()


def test_a_file_system_without_locks_is_told_once(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locking.fcntl, "lockf", none)
    for _ in range(2):
        with RunLock() as lock:
            lock.take(tmp_path)
    assert capsys.readouterr().err.count(f"of {tmp_path} has no locks (No locks") == 1


def test_a_folder_of_another_process_is_left_as_it_is(tmp_path):
    """Its half-written checkpoint too."""
    half = RunDir(tmp_path).make().weights / ".last.pth.1.part"
    half.write_text("half")
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done), daemon=True)
    other.start()
    assert ready.wait(20)
    with pytest.raises(ValueError, match="another process"):
        module.open_run(tiny.config(), tmp_path, None, 0, tmp_path, RunLock())
    done.set()
    other.join()
    assert half.exists()


# ---------------------------------------------------------------- several processes


def two_processes(job, folder, *arguments):
    """(exit code, what it said) of each of two processes that train together."""
    context, port = multiprocessing.get_context("fork"), free_port()
    processes = [
        context.Process(target=_enter, args=(rank, port, _told, (job, folder, arguments)))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    said = [folder / f"said{rank}" for rank in range(2)]
    return [
        (process.exitcode, file.read_text() if file.exists() else "")
        for process, file in zip(processes, said, strict=True)
    ]


def _told(rank, job, folder, arguments):
    try:
        job(rank, folder, *arguments)
    except ValueError as error:
        (folder / f"said{rank}").write_text(str(error))
        raise SystemExit(2) from None


def _killed_job(rank, folder, cfg):
    original = Updater._prepare

    def prepare(self, images):
        if rank == 1 and self.state.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, images)

    Updater._prepare = prepare
    train(cfg, device="cpu", run_dir=folder / "run")


def test_a_process_that_is_killed_ends_the_others_in_one_line(data, tmp_path):
    cfg = tiny.config(data, iterations=6, save_every=100, freeze_bn="never")
    (code, said), (killed, nothing) = two_processes(_killed_job, tmp_path, cfg)
    assert code == 2 and killed == -signal.SIGKILL and not nothing
    assert said.startswith("another process of this training has ended") and "\n" not in said
    assert said.endswith(f"is saved up to step 3; go on with --resume={tmp_path / 'run'}")
    train(cfg, device="cpu", resume=tmp_path / "run")


def _bad_image_job(rank, folder, cfg):
    original = module.step_batches

    def batches(*arguments, **options):
        for step, found in enumerate(original(*arguments, **options)):
            if rank == 1 and step == 3:
                raise ValueError("image a.jpg is empty")
            yield found

    module.step_batches = batches
    train(cfg, device="cpu", run_dir=folder / "run")


def test_an_image_that_fails_for_one_process_ends_all_at_one_step(data, tmp_path):
    cfg = tiny.config(data, iterations=6, save_every=100)
    found = two_processes(_bad_image_job, tmp_path, cfg)
    assert [code for code, _ in found] == [2, 2]
    said = [text for _, text in found if text]
    assert len(said) == 1 and said[0].startswith("image a.jpg is empty")
    saved = checkpoint(tmp_path / "run", "interrupt.pth")
    assert saved["step"] == 3


def _signalled_job(rank, folder, cfg):
    original = Updater._prepare

    def prepare(self, images):
        if rank == 1 and self.state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, images)

    Updater._prepare = prepare
    train(cfg, device="cpu", run_dir=folder / "run")


def test_a_signal_to_one_process_stops_all_before_the_next_step(data, tmp_path):
    cfg = tiny.config(data, iterations=50, save_every=100, log_every=100)
    found = two_processes(_signalled_job, tmp_path, cfg)
    assert [code for code, _ in found] == [143, 143]
    assert checkpoint(tmp_path / "run", "interrupt.pth")["step"] == 4
