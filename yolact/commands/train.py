"""Train a model: python train.py --config NAME_or_FILE [key=value ...]"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.config import NOTES
from data.resolve import dump_yaml, list_configs, list_datasets, load_config
from data.schema import Config
from yolact import cli

DESCRIPTION = """Train YOLACT or YOLACT++ on a COCO-format data set. A run is one folder, runs/<config>/<n>.

  python train.py --config yolact_plus_small_cigarettes loss.mask="bce + 0.5*mse" train.batch_size=16
  python train.py --resume                      continue the latest run
  torchrun --nproc_per_node=2 train.py --config yolact_base"""

# YOLACT's flag -> the setting that it is
SETTINGS = {
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "momentum": "train.momentum",
    "decay": "train.weight_decay",
    "gamma": "train.lr_gamma",
    "num_workers": "train.num_workers",
    "dataset": "dataset",
}


def parser() -> cli.Parser:
    flags = cli.Parser(
        usage="%(prog)s --config NAME_or_FILE [flags] [key=value ...]", description=DESCRIPTION
    )
    flags.add_argument(
        "--config",
        help="a name of data/config.py, a YAML file, or a run's config.yaml (default: yolact_base)",
    )
    flags.switch("--print_config", help="print every setting, and stop")
    flags.add_argument(
        "--list",
        choices=("configs", "datasets", "losses", "assigners"),
        help="list what can be chosen, and stop",
    )
    flags.optional_value(
        "--resume",
        implied="latest",
        metavar="RUN",
        help="continue a run: its folder, a checkpoint of it, or nothing (also 'interrupt') for "
        "the config's latest run",
    )
    flags.add_argument(
        "--run_dir", type=Path, help="folder of this run (default: runs/<config>/<n>)"
    )
    flags.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    old = flags.add_argument_group("YOLACT's flags")
    old.add_argument("--dataset", help="an entry of DATASETS in data/config.py")
    old.add_argument("--batch_size", help="same as train.batch_size=")
    old.add_argument("--lr", "--learning_rate", help="same as train.lr=")
    old.add_argument("--momentum", help="same as train.momentum=")
    old.add_argument("--decay", "--weight_decay", help="same as train.weight_decay=")
    old.add_argument("--gamma", help="same as train.lr_gamma=")
    old.add_argument("--num_workers", help="same as train.num_workers=")
    flags.switch("--cuda", default=None, help="--cuda=False trains on the CPU")
    flags.switch("--no_autoscale", help="same as train.autoscale=false")
    old.add_argument(
        "--save_folder",
        type=Path,
        help="runs are folders <save_folder>/<config>/<n> instead of runs/<config>/<n>",
    )
    old.add_argument(
        "--save_interval",
        type=int,
        help="iterations between checkpoints, each kept unless --keep_latest",
    )
    flags.switch(
        "--keep_latest",
        help="keep only the latest checkpoint (and those at --keep_latest_interval)",
    )
    old.add_argument(
        "--keep_latest_interval", type=int, default=100_000, help="with --keep_latest; 0 keeps none"
    )
    old.add_argument("--validation_size", type=int, help="same as train.validate_images=")
    old.add_argument(
        "--validation_epoch", type=int, help="epochs between validations; -1 = only at the end"
    )
    old.add_argument(
        "--start_iter",
        type=int,
        default=-1,
        help="0 with --resume=FILE starts a new training from its weights",
    )
    old.add_argument("--log_folder", help="replaced: logs are in the run's folder")
    old.add_argument("--batch_alloc", help="replaced by torchrun --nproc_per_node=N train.py ...")
    flags.switch("--no_log", help="replaced: the logs of a run are always written")
    flags.switch("--log_gpu", help="replaced: GPU memory is logged without it")
    flags.switch("--no_interrupt", help="replaced: an interrupted run always saves a checkpoint")
    return flags


def overrides(arguments: Namespace) -> list[str]:
    """The flags that are settings, as key=value, before those that were given as such."""
    changes = [
        f"{key}={getattr(arguments, flag)}"
        for flag, key in SETTINGS.items()
        if getattr(arguments, flag) is not None
    ]
    if arguments.no_autoscale:
        changes.append("train.autoscale=false")
    if arguments.save_interval is not None:
        changes.append(f"train.save_every={arguments.save_interval}")
    if arguments.keep_latest:
        changes.append(f"train.keep_every={max(0, arguments.keep_latest_interval)}")
    elif arguments.save_interval is not None:
        changes.append(f"train.keep_every={arguments.save_interval}")
    if arguments.validation_size is not None:
        changes.append(f"train.validate_images={max(0, arguments.validation_size)}")
    return changes + arguments.overrides


def explain_replaced(arguments: Namespace) -> None:
    """Say what became of the flags of YOLACT that are not settings here. ValueError for those that
    cannot be honoured."""
    if arguments.batch_alloc is not None:
        raise ValueError(
            "--batch_alloc: each process takes an equal share of the batch; run torchrun "
            "--nproc_per_node=N train.py ..."
        )
    if not is_main():
        return
    if arguments.log_folder is not None:
        cli.note(
            "--log_folder: metrics.jsonl and TensorBoard events are in the run's folder, see "
            "--save_folder and --run_dir"
        )
    if arguments.no_log:
        cli.note(
            "--no_log: a run's metrics.jsonl is always written; train.log_every=N sets how often"
        )
    if arguments.log_gpu:
        cli.note("--log_gpu: peak GPU memory is always logged on CUDA")
    if arguments.no_interrupt:
        cli.note(
            "--no_interrupt: an interrupted run always saves weights/interrupt.pth; delete the "
            "run's folder if it is not wanted"
        )


def explain_autoscale(config: Config, source: str | Path, changes: list[str]) -> None:
    """Say what another batch size than 8 did to the schedule."""
    plain = load_config(source, [*changes, "train.autoscale=false"], check_names=False).train
    scaled = [
        f"{key} {getattr(plain, key):.7g} -> {getattr(config.train, key):.7g}"
        for key in ("lr", "iterations")
        if getattr(plain, key) != getattr(config.train, key)
    ]
    if scaled and is_main():
        cli.note(
            f"scaled for batch {config.train.batch_size} (--no_autoscale leaves them): "
            f"{', '.join(scaled)}"
        )


def is_main() -> bool:
    """Whether this process speaks for all of a torchrun."""
    return os.environ.get("RANK", "0") == "0"


def describe(name: str) -> str:
    """A named config in one line: its note, or its model, data set and mask loss."""
    if name in NOTES:
        return NOTES[name]
    config = load_config(name, check_names=False)
    model = (
        f"{config.model.backbone}, {config.model.max_size} "
        f"px{', YOLACT++' if config.model.mask_iou_net else ''}"
    )
    return f"{model:32} {config.data.name:20} {config.loss.mask}"


def show_list(kind: str) -> None:
    if kind == "configs":
        group = ""
        for name in sorted(list_configs(), key=lambda name: (name.rpartition("/")[0], name)):
            folder = name.rpartition("/")[0]
            if folder != group:
                print(f"\n{folder}/")
                group = folder
            print(f"{name:34} {describe(name)}")
    elif kind == "datasets":
        from data.config import DATASETS

        for name in list_datasets():
            classes = DATASETS[name]["class_names"]
            print(
                f"{name:20} {len(classes):3} class{'es' if len(classes) > 1 else '  '}  "
                f"{DATASETS[name].get('root', '')}"
            )
    elif kind == "losses":
        from layers.losses import registry
        from layers.losses.box import box_losses
        from layers.losses.classification import class_losses

        groups = {
            "loss.mask, a sum of": [registry.get(name) for name in registry.names()],
            "loss.box, one of": box_losses(),
            "loss.classification, one of": class_losses(),
        }
        width = max(len(info.signature) for losses in groups.values() for info in losses)
        for index, (title, losses) in enumerate(groups.items()):
            print(f"{title}:" if index == 0 else f"\n{title}:")
            for info in losses:
                print(f"  {info.signature:{width}} {info.kind:8} {info.summary}")
    else:
        from layers.assign import assigner_signatures

        signatures = assigner_signatures()
        for signature, summary in signatures.items():
            print(f"{signature:{max(map(len, signatures))}} {summary}")


def main(arguments: Namespace) -> None:
    if arguments.list:
        show_list(arguments.list)
        return
    explain_replaced(arguments)
    changes, resume = overrides(arguments), arguments.resume
    if arguments.start_iter > 0:
        raise ValueError(
            "--start_iter: a checkpoint holds its own iteration; only --start_iter=0 with "
            "--resume=FILE means something, a new training from the weights in FILE"
        )
    if resume is not None and arguments.start_iter == 0:
        changes.append(f"train.init_from={resume}")
        resume = None
    resume = "latest" if resume == "interrupt" else resume
    source = arguments.config or "yolact_base"
    if resume is not None and arguments.config is None:
        source = run_config(resume, runs_root(arguments))
        resume = source.parent if resume == "latest" else resume
    if arguments.print_config:
        config = load_config(source, changes, check_names=False)
        if source in NOTES and not changes:  # a change may make it untrue
            print(f"# {NOTES[source]}")
        print(dump_yaml(config), end="")
        return
    config = load_config(source, changes)
    if arguments.validation_epoch is not None:
        config = load_config(
            source,
            [
                *changes,
                f"train.validate_every={validation_interval(config, arguments.validation_epoch)}",
            ],
        )
    explain_autoscale(config, source, changes)
    from yolact.engine.train import train

    train(
        config,
        run_dir=arguments.run_dir,
        resume=resume,
        device=device(arguments),
        runs_root=runs_root(arguments),
    )


def device(arguments: Namespace) -> str | None:
    if arguments.cuda is None:
        return arguments.device
    return arguments.device or ("cuda" if arguments.cuda else "cpu")


def runs_root(arguments: Namespace) -> Path:
    return arguments.save_folder or Path("runs")


def run_config(resume: str, root: Path) -> Path:
    """The config.yaml of the run that `resume` means: its folder, a checkpoint in it, or 'latest'
    for the newest run under root."""
    if resume == "latest":
        # config names may hold a /
        checkpoints = [
            path for name in ("last", "interrupt") for path in root.glob(f"**/weights/{name}.pth")
        ]
        if not checkpoints:
            raise ValueError(
                f"--resume: there is no run with a checkpoint in {root}: start one without --resume"
            )
        path = max(checkpoints, key=lambda checkpoint: checkpoint.stat().st_mtime)
    else:
        path = Path(resume)
    if not path.exists():
        raise ValueError(f"--resume: {path} does not exist")
    folder = path if path.is_dir() else path.parent.parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"--resume: there is no {folder / 'config.yaml'}: name the config by --config, or "
            f"start a new training from the weights by train.init_from={path}"
        )
    return folder / "config.yaml"


def validation_interval(config: Config, epochs: int) -> int:
    """Iterations in `epochs` epochs of the training set; 0 (only at the end) for a negative
    number."""
    if epochs <= 0:
        return 0
    from data.annotations import read_json

    path = Path(config.data.root) / config.data.train_annotations
    content = read_json(path)
    annotated = {annotation.get("image_id") for annotation in content["annotations"]}
    images = sum(
        config.data.keep_empty or image.get("id") in annotated for image in content["images"]
    )
    if not images:
        raise ValueError(f"{path} has no images to train on")
    return max(1, epochs * images // config.train.batch_size)


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, parser().parse(argv))
