"""YOLACT's flags: one table each for train.py and eval.py, with what every flag became here.

A flag is a setting of the config, a switch that stands for one, a flag of our own that kept its
name, or one whose work is done by something else. Imports no torch.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.schema import Config
from yolact import cli


@dataclass(frozen=True)
class LegacyFlag:
    """One flag of YOLACT.

    names     without dashes; the first names it among the parsed arguments
    help      what it does
    setting   the config key that takes its value
    on, off   a switch instead: the key=value that --flag and --flag=False stand for
    became    no setting: what does its work, which is said when the flag is given
    refused   whether training or evaluation then stops, since the flag cannot be honoured
    takes     how a value is read; None = a switch
    default   of a flag that is not given
    """

    names: tuple[str, ...]
    help: str = ""
    setting: str = ""
    on: str = ""
    off: str = ""
    became: str = ""
    refused: bool = False
    takes: Callable[[str], Any] | None = str
    default: Any = None

    @property
    def describes(self) -> str:
        if self.became:
            return f"replaced: {self.became}"
        return self.help or f"same as {self.setting + '=' if self.setting else self.on}"


def _setting(names: str, setting: str, text: str = "") -> LegacyFlag:
    return LegacyFlag(tuple(names.split()), setting=setting, help=text)


def _switch(name: str, *, on: str, off: str = "", text: str = "") -> LegacyFlag:
    return LegacyFlag((name,), on=on, off=off, help=text, takes=None)


def _replaced(name: str, became: str, *, switch: bool = True, refused: bool = False) -> LegacyFlag:
    return LegacyFlag((name,), became=became, refused=refused, takes=None if switch else str)


def _kept(name: str, text: str, takes: Callable[[str], Any] = int, default: Any = None):
    return LegacyFlag((name,), help=text, takes=takes, default=default)


_FOLDER = "metrics.jsonl and TensorBoard events are in the run's folder, see --save_folder and "
_VIEWER = "there is no web viewer; --display writes pictures beside their ground truth"

TRAIN = (
    _setting("dataset", "dataset", "an entry of DATASETS in data/config.py"),
    _setting("batch_size", "train.batch_size"),
    _setting("lr learning_rate", "train.lr"),
    _setting("momentum", "train.momentum"),
    _setting("decay weight_decay", "train.weight_decay"),
    _setting("gamma", "train.lr_gamma"),
    _setting("num_workers", "train.num_workers"),
    _switch("no_autoscale", on="train.autoscale=false"),
    _kept("save_folder", "runs are folders <save_folder>/<config>/<n> instead of runs/...", Path),
    _kept("save_interval", "iterations between checkpoints, each kept unless --keep_latest"),
    LegacyFlag(
        ("keep_latest",),
        help="keep only the latest checkpoint (and those at --keep_latest_interval)",
        takes=None,
    ),
    _kept("keep_latest_interval", "with --keep_latest; 0 keeps none", default=100_000),
    _kept("validation_size", "same as train.validate_images="),
    _kept("validation_epoch", "epochs between validations; -1 = only at the end"),
    _kept("start_iter", "0 with --resume=FILE: a new training from its weights", default=-1),
    _replaced("log_folder", _FOLDER + "--run_dir", switch=False),
    _replaced(
        "batch_alloc",
        "each process takes an equal share of the batch; run torchrun --nproc_per_node=N "
        "train.py ...",
        switch=False,
        refused=True,
    ),
    _replaced(
        "no_log", "a run's metrics.jsonl is always written; train.log_every=N sets how often"
    ),
    _replaced("log_gpu", "peak GPU memory is always logged on CUDA"),
    _replaced(
        "no_interrupt",
        "an interrupted run always saves weights/interrupt.pth; delete the run's folder if it is "
        "not wanted",
    ),
)

EVAL = (
    _setting("dataset", "dataset", "an entry of DATASETS in data/config.py, not the config's"),
    _switch(
        "fast_nms",
        on="eval.nms=fast",
        off="eval.nms=traditional",
        text="--fast_nms=False is eval.nms=traditional",
    ),
    _switch("cross_class_nms", on="eval.nms=cross_class"),
    _switch("no_crop", on="eval.crop=false"),
    LegacyFlag(
        ("run_coco_eval",),
        help="run_coco_eval.py's job, the same as --resume: COCO's AP of the two files that "
        "--output_coco_json wrote",
        takes=None,
        default=False,
    ),
    _replaced(
        "gt_ann_file",
        "the ground truth is the config's or that of --dataset; data.val_annotations=FILE names "
        "another, from data.root on",
        switch=False,
        refused=True,
    ),
    _replaced("eval_type", "boxes and masks are both evaluated", switch=False),
    _replaced(
        "ap_data_file", "detections are kept as COCO JSON, see --output_coco_json", switch=False
    ),
    _replaced(
        "no_sort",
        "images are always taken in the order of the annotation file; --shuffle with --display "
        "changes it",
    ),
    _replaced("emulate_playback", "a saved video keeps the frame rate of its source"),
    _replaced("output_web_json", _VIEWER, refused=True),
    _replaced("web_det_path", _VIEWER, switch=False, refused=True),
    _replaced("mask_proto_debug", "use --display_prototypes and --display_lincomb", refused=True),
)


def add(flags: cli.Parser, table: Sequence[LegacyFlag]) -> None:
    """Makes the parser take the flags of a table."""
    group = flags.add_argument_group("YOLACT's flags")
    for flag in table:
        names = [f"--{name}" for name in flag.names]
        if flag.takes is None:
            flags.switch(*names, default=None if flag.off else False, help=flag.describes)
        else:
            group.add_argument(*names, type=flag.takes, default=flag.default, help=flag.describes)


def settings(arguments: Namespace, table: Sequence[LegacyFlag]) -> list[str]:
    """The given flags of a table that are settings, as key=value."""
    changes = []
    for flag in table:
        value = getattr(arguments, flag.names[0])
        if value is not None and flag.setting:
            changes.append(f"{flag.setting}={value}")
        elif value is not None and (flag.on if value else flag.off):
            changes.append(flag.on if value else flag.off)
    return changes


def explain(arguments: Namespace, table: Sequence[LegacyFlag], *, quiet: bool = False) -> None:
    """Says what became of given flags that are no settings here; quiet: one of many processes.
    ValueError for those that cannot be honoured."""
    given = [flag for flag in table if flag.became and getattr(arguments, flag.names[0])]
    for flag in given:
        if flag.refused:
            raise ValueError(f"--{flag.names[0]}: {flag.became}")
        if not quiet:
            cli.note(f"--{flag.names[0]}: {flag.became}")


def train_settings(arguments: Namespace) -> list[str]:
    """All settings that train.py's flags stand for, as key=value."""
    changes = settings(arguments, TRAIN)
    every = arguments.save_interval
    if every is not None:
        changes.append(f"train.save_every={every}")
    if arguments.keep_latest:
        changes.append(f"train.keep_every={max(0, arguments.keep_latest_interval)}")
    elif every is not None:
        changes.append(f"train.keep_every={every}")
    if arguments.validation_size is not None:
        changes.append(f"train.validate_images={max(0, arguments.validation_size)}")
    return changes


def resumed(resume: str | None, start_iter: int) -> tuple[str | None, list[str]]:
    """(what to resume, settings) for --resume and --start_iter. ValueError for a start iteration
    other than 0, since a checkpoint holds its own."""
    if start_iter > 0:
        raise ValueError(
            "--start_iter: a checkpoint holds its own iteration; only --start_iter=0 with "
            "--resume=FILE means something, a new training from the weights in FILE"
        )
    if resume is not None and start_iter == 0:
        return None, [f"train.init_from={resume}"]
    return "latest" if resume == "interrupt" else resume, []


def validation_interval(config: Config, epochs: int) -> int:
    """Iterations in `epochs` epochs of the training set; 0 (only at the end) for a negative
    number."""
    if epochs <= 0:
        return 0
    from data.length import training_images

    path = Path(config.data.root) / config.data.train_annotations
    images = training_images(config.data)  # checked before training
    if not images:
        raise ValueError(f"{path} has no images to train on")
    return max(1, epochs * images // config.train.batch_size)


def device(arguments: Namespace) -> str | None:
    """The device that --device and --cuda mean; None = a GPU where there is one."""
    if arguments.cuda is None:
        return arguments.device
    return arguments.device or ("cuda" if arguments.cuda else "cpu")
