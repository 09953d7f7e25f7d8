"""train() from end to end on a tiny data set, and what it says when something is wrong."""

import json
import multiprocessing
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from data.doctor.check import check_dataset
from data.loader import build_dataset
from data.resolve import load_config
from layers.losses.criterion import Criterion
from layers.problems import DataWarning
from yolact.build import build_model
from yolact.checkpoint import read_checkpoint
from yolact.engine import train as module
from yolact.engine.idle import IdleSteps
from yolact.engine.records import read_records
from yolact.engine.rundir import RunDir, new_run
from yolact.engine.step import ReadStep
from yolact.engine.train import train
from yolact.testing import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


def metrics(run, kind="train"):
    return [
        r
        for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if r["kind"] == kind
    ]


def test_a_run_folder_holds_what_it_should(data, tmp_path, capsys):
    cfg = tiny.config(
        data,
        iterations=4,
        keep_every=2,
        validate_every=2,
        ema_decay=0.9,
        loss={"mask": "bce + 0.5*mse"},
    )
    run = train(cfg, device="cpu", runs_root=tmp_path / "runs")
    assert run.path == tmp_path / "runs/tiny/1"
    names = {str(p.relative_to(run)) for p in run.path.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "weights/last.pth",
        "weights/best.pth",
        "gallery.jpg",
        "weights/step_00000002.pth",
        "results/bbox_detections.json",
        "results/mask_detections.json",
    } <= names
    assert sum(name.startswith("pictures/") for name in names) == 3 and any(
        name.startswith("tensorboard/events") for name in names
    )
    assert not any(name.endswith(".part") for name in names)
    lines = metrics(run)
    assert [r["step"] for r in lines] == [2, 4] and lines[0]["losses"].keys() == {
        "box",
        "class",
        "mask",
        "semantic",
    }
    shares = {
        f"{term}/share{size}"
        for term in ("bce", "mse")
        for size in ("", "/small", "/medium", "/large")
    }
    assert lines[0]["terms"].keys() == {"bce", "bce/weighted", "mse", "mse/weighted"} | shares
    assert lines[0]["terms"]["bce/share"] + lines[0]["terms"]["mse/share"] == pytest.approx(1)
    assert lines[1]["lr"] == pytest.approx(1e-3) and lines[0]["lr"] == pytest.approx(5.5e-4)
    assert [r["step"] for r in metrics(run, "validation")] == [2, 4]
    out = capsys.readouterr().out
    for expected in (
        "10 training and 3 validation images",
        "training from scratch",
        "batch norm    frozen",
        "M parameters",
        "[4/4]",
        "mask AP",
    ):
        assert expected in out
    last = read_checkpoint(run / "weights/last.pth")
    assert last["step"] == 4 and last["format"] == 1 and last["ema"].keys() == last["model"].keys()
    assert last["config"]["train"]["ema_decay"] == 0.9


def test_training_lowers_the_loss(data, tmp_path):
    cfg = tiny.config(
        data,
        iterations=40,
        log_every=10,
        save_every=100,
        optimizer="adamw",
        lr=3e-3,
        lr_steps=(),
        warmup_iterations=5,
        freeze_bn="never",
    )
    found = [r["loss"] for r in metrics(train(cfg, device="cpu", run_dir=tmp_path / "run"))]
    assert found[-1] < 0.6 * found[0]


def test_validation_and_best_use_the_average(data, tmp_path, monkeypatch):
    seen, original = [], module.evaluate

    def evaluate(model, *args, **kwargs):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return original(model, *args, **kwargs)

    monkeypatch.setattr(module, "evaluate", evaluate)
    run = train(
        tiny.config(data, iterations=3, ema_decay=0.9), device="cpu", run_dir=tmp_path / "run"
    )
    last, best = (read_checkpoint(run / "weights" / name) for name in ("last.pth", "best.pth"))
    for other, equal in ((last["ema"], True), (best["model"], True), (last["model"], False)):
        assert all(torch.equal(seen[0][k], other[k]) for k in other) is equal


def scored(monkeypatch, *scores):
    """Validations that find these mask APs."""
    left, original = iter(scores), module.evaluate

    class Scored:
        def __init__(self, result, ap):
            self.result, self.mask_ap = result, ap

        def __getattr__(self, name):
            return getattr(self.result, name)

    monkeypatch.setattr(module, "evaluate", lambda *a, **k: Scored(original(*a, **k), next(left)))


def test_best_is_replaced_only_by_a_better_one(data, tmp_path, monkeypatch):
    scored(monkeypatch, 0.2, 0.1, 0.3, float("nan"))
    run = train(
        tiny.config(data, iterations=4, validate_every=1), device="cpu", run_dir=tmp_path / "run"
    )
    assert [r["best"] for r in metrics(run, "validation")] == [True, False, True, False]
    assert read_checkpoint(run / "weights/best.pth")["step"] == 3
    assert read_checkpoint(run / "weights/last.pth")["training"]["best_ap"] == 0.3


def test_patience_ends_a_training_and_a_higher_one_goes_on(data, tmp_path, monkeypatch, capsys):
    scored(monkeypatch, 0.2, 0.1, 0.3, 0.3, float("nan"), 0.1, 0.4, 0.1)
    cfg = tiny.config(data, iterations=8, validate_every=1, patience=2)
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert [r["step"] for r in metrics(run, "validation")] == [1, 2, 3, 4, 5]
    assert "ended at step 5 of 8: no better mask AP in 2 validations" in capsys.readouterr().out
    assert read_checkpoint(run / "weights/best.pth")["step"] == 3
    last = read_checkpoint(run / "weights/last.pth")
    assert (last["step"], last["training"]["stale"]) == (5, 2)
    assert read_records(run / "results/records.npz").note["step"] == 5
    assert train(cfg, device="cpu", resume=run.path).path == run.path  # nothing is left to do
    assert len(metrics(run, "validation")) == 5
    more = cfg.model_copy(update={"train": cfg.train.model_copy(update={"patience": 4})})
    train(more, device="cpu", resume=run.path)
    assert [r["step"] for r in metrics(run, "validation")] == [*range(1, 9)]
    assert read_checkpoint(run / "weights/best.pth")["step"] == 7


def test_patience_needs_validations(data):
    with pytest.raises(ValueError, match="patience=2 counts validations.*set validate_every"):
        tiny.config(data, validate_every=0, patience=2)


def test_init_from_counts_as_pretrained(data, tmp_path, capsys):
    first = train(tiny.config(data, iterations=1), device="cpu", run_dir=tmp_path / "first")
    weights = first / "weights/last.pth"
    cfg = tiny.config(
        data, iterations=1, init_from=str(weights), freeze_bn="auto", lr=1e-12, warmup_iterations=0
    )
    second = train(cfg, device="cpu", run_dir=tmp_path / "second")
    out = capsys.readouterr().out
    assert (
        f"{weights}: loaded" in out
        and "batch norm    frozen (freeze_bn=auto, 4 images a device and forward pass, pretrained)"
        in out
    )
    before, after = (read_checkpoint(run / "weights/last.pth")["model"] for run in (first, second))
    assert all((before[k].double() - after[k].double()).abs().max() < 1e-6 for k in before)


def test_runs_are_numbered_without_a_race(tmp_path):
    (tmp_path / "tiny" / "7").mkdir(parents=True)
    (tmp_path / "tiny" / "notes").mkdir()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: new_run(tmp_path, "tiny").path.name, range(16)))
    assert sorted(map(int, found)) == list(range(8, 24))


def test_leftovers_of_a_kill_are_removed(tmp_path):
    run = RunDir(tmp_path / "run").make()
    for name in (".last.pth.abc.part", ".probe.123"):
        (run.weights / name).write_text("half")
    (run.weights / "last.pth").write_text("whole")
    run.make()
    assert [p.name for p in run.weights.iterdir()] == ["last.pth"]


# ---------------------------------------------------------------- what goes wrong


def test_a_diverging_run_stops_and_names_step_term_and_images(data, tmp_path):
    cfg = tiny.config(data, iterations=10, lr=1e30, warmup_iterations=0, log_every=5, save_every=1)
    with pytest.raises(
        ValueError,
        match=r"step 2: .*(box|class|mask).* = (nan|inf).* on image ids \[\d.*"
        r"on_nonfinite=skip; .*--resume",
    ):
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run/weights/last.pth")
    assert saved["step"] == 1 and all(torch.isfinite(v).all() for v in saved["model"].values())


def test_skip_goes_on_and_says_so(data, tmp_path, capsys):
    cfg = tiny.config(data, iterations=4, lr=1e30, warmup_iterations=0, on_nonfinite="skip")
    with pytest.warns(DataWarning, match="diverged"):
        run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert "warning: step 2 skipped" in capsys.readouterr().out
    assert [r["skipped"] for r in metrics(run)] == [1, 2] and metrics(run)[1]["loss"] is None
    assert all(
        torch.isfinite(v).all() for v in read_checkpoint(run / "weights/last.pth")["model"].values()
    )


def test_a_folder_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/run .*choose another"):
        train(tiny.config(data), device="cpu", run_dir=tmp_path / "file/run")
    with pytest.raises(OSError, match="file/tiny .*choose another"):
        train(tiny.config(data), device="cpu", runs_root=tmp_path / "file")


def test_a_full_disk_loses_nothing_that_was_saved(data, tmp_path):
    """Files of more than 50 kB cannot be written from here on: the same error from the same call as
    on a full disk."""
    run = train(tiny.config(data, iterations=2), device="cpu", run_dir=tmp_path / "run")
    before = (run / "weights/last.pth").read_bytes()
    said = tmp_path / "said"

    def job():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            train(tiny.config(data, iterations=6, save_every=2), device="cpu", resume=run)
        except OSError as error:
            said.write_text(str(error))

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    process.join(60)
    assert (
        "last.pth" in said.read_text()
        and f"--resume={run}" in said.read_text()
        and "step 4" in said.read_text()
    )
    assert (run / "weights/last.pth").read_bytes() == before and not list(run.path.rglob(".*.part"))


def test_a_dead_loader_process(data, tmp_path, monkeypatch):
    original = module.Updater.__call__

    def kill_a_worker(self, batches):
        if self.state.step == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return original(self, batches)

    cfg = tiny.config(data, iterations=50, num_workers=2)
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match="a loader process died.*fewer workers"),
    ):
        patch.setattr(module.Updater, "__call__", kill_a_worker)
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    # it is noticed in this step or in the next, whose end may be whole as well
    step = max(read_checkpoint(p)["step"] for p in (tmp_path / "run/weights").glob("[il]*.pth"))
    run = train(tiny.config(data, iterations=step + 1), device="cpu", resume=tmp_path / "run")
    assert read_checkpoint(run / "weights/last.pth")["step"] == step + 1 >= 3


def test_data_errors_stop_before_anything_is_written(data, tmp_path):
    cfg = tiny.config(data)
    broken = cfg.model_copy(
        update={"data": cfg.data.model_copy(update={"train_annotations": str(data / "gone.json")})}
    )
    with pytest.raises(ValueError, match="gone.json"):
        train(broken, device="cpu", runs_root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_set_is_refused(data, tmp_path, split):
    content = json.loads((data / f"{split}.json").read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**content, "images": [], "annotations": []}))
    cfg = tiny.config(data)
    cfg = cfg.model_copy(
        update={
            "data": cfg.data.model_copy(
                update={f"{split}_annotations": str(tmp_path / "empty.json")}
            )
        }
    )
    with pytest.raises(ValueError, match="empty.json"):
        train(cfg, device="cpu", runs_root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("every, told", [(3, True), (2, False), (0, False)])
def test_a_validation_interval_beyond_the_end_is_told(data, tmp_path, capsys, every, told):
    train(
        tiny.config(data, iterations=2, validate_every=every),
        device="cpu",
        run_dir=tmp_path / "run",
    )
    assert (
        "note: train.validate_every=3 is more than the 2 iterations: AP and best.pth"
        in capsys.readouterr().out
    ) is told


def test_the_tiny_data_set_is_sound(data):
    cfg = tiny.config(data)
    assert not [f for f in check_dataset(cfg, fast=True) if f.level == "error"]
    assert len(build_dataset(cfg, "train")) == 10


def test_what_python_hands_over_is_said_as_it_is(data, tmp_path, capsys):
    """config.yaml names the config's mask loss, and another one trains."""
    cfg = tiny.config(data, iterations=1)
    model = build_model(cfg)
    criterion = Criterion(model, mask="dice")
    run = train(cfg, model=model, criterion=criterion, device="cpu", run_dir=tmp_path / "run")
    assert ", mask dice\n" in capsys.readouterr().out
    assert json.loads((run / "env.json").read_text())["given"] == ["model", "criterion"]
    plain = train(cfg, device="cpu", run_dir=tmp_path / "plain")
    assert ", mask bce\n" in capsys.readouterr().out
    assert "given" not in json.loads((plain / "env.json").read_text())


def test_a_training_without_an_instance_says_so_and_its_undefined_ap_is_never_best(
    data, tmp_path, capsys
):
    cfg = tiny.config(data, iterations=3, validate_every=3)
    content = json.loads((data / "train.json").read_text())
    crowds = [{**annotation, "iscrowd": 1} for annotation in content["annotations"]]
    (tmp_path / "crowds.json").write_text(json.dumps({**content, "annotations": crowds}))
    named = {f"{split}_annotations": str(tmp_path / "crowds.json") for split in ("train", "val")}
    images = {"val_images": cfg.data.train_images}
    cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={**named, **images})})
    with pytest.raises(ValueError, match="crowds.json holds no instance to learn from: .*crowds"):
        train(cfg, device="cpu", run_dir=tmp_path / "refused")
    sets = {f"{split}_set": build_dataset(cfg, split) for split in ("train", "val")}
    run = train(cfg, **sets, device="cpu", run_dir=tmp_path / "run")
    out = capsys.readouterr().out
    assert out.count("warning: 3 steps in a row, to step 3, without an instance to learn from") == 1
    assert "mask AP undefined: the validation images hold no instance" in out
    assert "best so far" not in out and not (run / "weights/best.pth").exists()
    assert [r["best"] for r in metrics(run, "validation")] == [False]
    assert read_checkpoint(run / "weights/last.pth")["training"]["best_ap"] == -1
    assert run.best == run / "weights/last.pth" and run.best_ap is None


def test_steps_with_an_instance_are_not_idle():
    def step(number, box, problem=""):
        return ReadStep(number, {"box": box, "class": 3.0, "mask": 0.0}, {}, 1.0, False, problem)

    idle = IdleSteps(100)
    said = [idle.warning(step(i, 0.0)) for i in range(1, 50)] + [idle.warning(step(50, 0.1))]
    assert not any(said)
    said = [idle.warning(step(i, 0.0)) for i in range(51, 161)]
    assert [i for i, text in enumerate(said) if text] == [49] and "50 steps in a row" in said[49]
    idle = IdleSteps(2)
    assert not idle.warning(step(1, 0.0, "not finite")) and not idle.warning(step(2, 0.0))


def test_epochs_are_told_beside_steps_or_refused_where_nothing_can_be_counted(
    data, tmp_path, capsys
):
    cfg = tiny.config(data, epochs=0.8)
    with pytest.raises(ValueError, match="train.epochs=0.8: there are no training images to count"):
        train(cfg, device="cpu", run_dir=tmp_path / "refused")
    cfg = load_config(cfg.model_dump(), check_names=False)
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert "2 steps of 4 images (0.8 epochs), " in capsys.readouterr().out  # of 10 images
    assert load_config(run.path) == cfg and cfg.train.epochs is None
