"""What happens before the first step of a training: checks, data sets, the run's folder, and the
summary that is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.coco import CocoDataset
from data.doctor.check import check_dataset
from data.loader import TrainOrder
from data.resolve import settings_of
from data.schema import Config
from layers.problems import number_of
from yolact.cli import say
from yolact.engine import distributed, precision
from yolact.engine.datasets import DataSet, OwnItems, finds_ap, training_set, validation_set
from yolact.engine.device_check import refuse_wrong
from yolact.engine.precision import AUTO
from yolact.engine.rundir import RunDir, find_checkpoint, home_of, named_run, new_run
from yolact.engine.state import TrainState
from yolact.locking import RunLock


@dataclass(frozen=True)
class Sets:
    """The data of a run: what is trained on, what AP is found on, and what pictures are drawn of;
    the last two None without validation."""

    train: CocoDataset | OwnItems
    val: CocoDataset | OwnItems | None
    pictures: CocoDataset | OwnItems | None

    def notes(self) -> list[str]:
        if self.val is None:
            return ["note: no validation: a train_set was given, and no val_set"]
        if not finds_ap(self.val):
            return [
                "note: the validation set has no ground truth (no annotation_file, or "
                "data.val_truth=false): there will be pictures, but no AP and no best.pth"
            ]
        return []


def settled(cfg: Config, device: torch.device, checkpoint: dict | None) -> tuple[Config, list[str]]:
    """The config without any 'auto', which rank 0 decides, or the run that goes on has decided;
    and lines that say what was chosen. ValueError where the device computes other numbers."""
    refuse_wrong(device, assigner=cfg.assign.name)
    chosen: dict[str, dict[str, Any]] = {"train": {}, "eval": {}}
    notes = []
    for section, changes in chosen.items():
        asked = getattr(cfg, section)
        # a training's precision settles its layout; that of an evaluation has no setting
        for key in ("precision", "channels_last") if section == "train" else ("precision",):
            if AUTO not in (asked.precision, getattr(asked, key)):
                continue
            old = checkpoint["config"].get(section, {}).get(key) if checkpoint else None
            if old is None:
                value, why = _choice(section, key, asked.precision, device)
            else:
                value, why = old, "as before"
            changes[key] = value
            notes.append(f"auto          {section}.{key}: {value} ({why})")
    cfg = cfg.model_copy(
        update={
            section: getattr(cfg, section).model_copy(update=changes)
            for section, changes in chosen.items()
            if changes
        }
    )
    return cfg, notes


def _choice(section: str, key: str, asked: str, device: torch.device) -> tuple[Any, str]:
    """What 'auto' comes to on rank 0, and why; asked: the precision that the section names."""
    if key == "channels_last" and asked not in (AUTO, "float32"):
        return True, f"{asked} gains nothing without"
    tried = distributed.first_run_by_main(
        lambda: precision.tried(device, bf16=asked == AUTO, backward=section == "train")
    )
    return getattr(tried, key), tried.reason


def check_split(cfg: Config) -> None:
    """Refuses a batch that cannot be split, as the loader will, before data are read and a folder
    is made."""
    TrainOrder(
        1,
        seed=cfg.train.seed,
        batch_size=cfg.train.batch_size,
        accumulate=cfg.train.accumulate,
        world_size=distributed.world_size(),
    )


def find_start(
    cfg: Config,
    resume: str | Path | None,
    runs_root: str | Path,
    run_dir: str | Path | None,
    lock: RunLock,
) -> tuple[Path, dict] | None:
    """The checkpoint to resume, its path and content; None for a new run. Holds the run that will
    go on."""
    if resume is None:
        return None
    elsewhere = run_dir is not None and Path(run_dir).resolve() != Path(resume).resolve()
    return find_checkpoint(resume, Path(runs_root), cfg.name, None if elsewhere else lock)


def check_data(cfg: Config) -> list[str]:
    """The quick part of the data check. Warnings as lines; errors as one ValueError."""
    findings = check_dataset(cfg, fast=True)
    errors = [str(f) for f in findings if f.level == "error"]
    if errors:
        more = (
            f"; and {len(errors) - 3} more, which scripts/check_data.py lists"
            if len(errors) > 3
            else ""
        )
        raise ValueError(f"data set {cfg.data.name}: {'; '.join(errors[:3])}{more}")
    return [f"warning: {f}" for f in findings if f.level == "warning"]


def check_length(cfg: Config) -> list[str]:
    """A note where no validation comes before the end. ValueError where train.epochs could not be
    turned into iterations."""
    if cfg.train.epochs is not None:
        raise ValueError(
            f"train.epochs={cfg.train.epochs:g}: there are no training images to count at "
            f"data.train_annotations={cfg.data.train_annotations or 'none'}: correct the path, or "
            "set train.iterations"
        )
    plan = cfg.train
    if plan.validate_every <= plan.iterations:
        return []
    return [
        f"note: train.validate_every={plan.validate_every} is more than the {plan.iterations} "
        "iterations: AP and best.pth come only at the end"
    ]


def open_sets(
    cfg: Config, state: TrainState, train_set: DataSet | None, val_set: DataSet | None
) -> Sets:
    """The user's sets where given, else the config's."""
    trained = training_set(cfg, train_set, state.criterion)
    if cfg.train.cache_features and not isinstance(trained, CocoDataset):
        raise ValueError(
            "train.cache_features keeps one picture of each index, and a train_set of your own may "
            "give others: set it to false"
        )
    if train_set is not None and val_set is None:
        return Sets(trained, None, None)
    val = validation_set(cfg, val_set, masks=False)
    given = val if val_set is None else val_set  # a set that was read here is not read again
    pictures = validation_set(cfg, given, masks=True)
    return Sets(trained, val, pictures)


def open_run(
    cfg: Config,
    run_dir: str | Path | None,
    checkpoint: Path | None,
    step: int,
    runs_root: Path,
    lock: RunLock,
) -> tuple[RunDir, list[str]]:
    """The folder to write to, held by `lock`, and notes on it: on resume the checkpoint's own,
    unless it holds newer checkpoints, which then stay as they are."""
    home = home_of(checkpoint, step) if checkpoint is not None else None
    if home is not None and (run_dir is None or Path(run_dir).resolve() == home.path):
        lock.take(home.path)
        return home.make(), []
    if run_dir is not None:
        return named_run(Path(run_dir), lock)
    run = new_run(runs_root, cfg.name)
    lock.take(run.path)
    return run, []


def lacks_evaluation(run: RunDir, cfg: Config, step: int, sets: Sets) -> bool:
    """Whether a training that goes on from `step` is at its end, without the records that its last
    validation leaves."""
    return step == cfg.train.iterations and finds_ap(sets.val) and not run.records.exists()


def changed_settings(cfg: Config, checkpoint: dict) -> list[str]:
    """Settings that differ from those the checkpoint was trained with."""
    old, new = map(settings_of, (checkpoint["config"], cfg.model_dump(mode="json")))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"changed       {key}: {old.get(key)} -> {new.get(key)}" for key in changed]


def print_summary(
    cfg: Config,
    run: RunDir,
    state: TrainState,
    device: torch.device,
    sets: Sets,
    notes: list[str],
) -> None:
    """What is trained, on what, where to: as it is, which is not always as the config says."""
    trained = sum(p.numel() for group in state.optimizer.param_groups for p in group["params"])
    total = sum(p.numel() for p in [*state.model.parameters(), *state.criterion.parameters()])
    plan, ranks, losses = cfg.train, distributed.world_size(), state.criterion
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    split = (
        f" = {ranks} x {plan.accumulate} x {plan.batch_size // ranks // plan.accumulate}"
        if ranks * plan.accumulate > 1
        else ""
    )
    epochs = plan.iterations * plan.batch_size / len(sets.train)
    steps = (
        f"{number_of(plan.iterations, 'step')} of {number_of(plan.batch_size, 'image')}{split} "
        f"({epochs:.3g} epochs){f', from step {state.step}' if state.step else ''}"
    )
    validated = 0 if sets.val is None else len(sets.val)
    images = f"{len(sets.train)} training and {number_of(validated, 'validation image')}"
    parameters = f"{total / 1e6:.2f} M parameters ({trained / 1e6:.2f} M trained)"
    for line in (
        f"run           {run.path}",
        f"model         {cfg.name}: {cfg.model.backbone}, {cfg.model.max_size} px, {parameters}",
        f"data          {cfg.data.name}: {images}, {number_of(cfg.num_classes, 'class')}",
        f"training      {steps}, {plan.optimizer} lr {plan.lr:g}",
        f"losses        box {losses.box_loss.expression}, class {losses.class_loss.expression}, "
        f"mask {losses.mask_loss.expression}",
        f"device        {name}{f' x {ranks}' if ranks > 1 else ''}, {plan.precision}",
        *notes,
    ):
        say(line)
