"""Say what is wrong with a COCO-format data set, and the fix.

    python scripts/check_data.py NAME [key=value ...]      a data set of data/config.py, a config,
        or a config file
    python scripts/check_data.py --annotations FILE --images FOLDER
    python scripts/check_data.py ... --write OUT.json
        a mended copy of the annotations, and a list of what was done

    python scripts/check_data.py NAME --views FILE.jpg
        training images, augmented as the config says

--write puts right what the file and its pictures tell, and leaves out what cannot be used. The
input stays as it is. Of a set with two files the copy of the second is OUT_val.json. The check that
follows is of the copies.

Without --fast it ends with a bound: the mask AP that the config reaches where it learns its targets
exactly, by the masks of at most 2000 instances.

Exit code 0 when there is no error (there may be warnings), 1 when there is one, 2 when the check
could not run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from data.annotations import read_coco
from data.config import CONFIGS, DATASETS
from data.doctor.check import SPLITS, check_dataset
from data.doctor.findings import Findings, Progress, listing
from data.doctor.split import Split
from data.mend.masks import Scale, Wishes
from data.resolve import load_config
from data.rules import category_name
from data.schema import Config, DataConfig
from layers.names import unknown_name
from layers.problems import is_line
from yolact.cli import Arguments, note, run, say
from yolact.mended_files import write_mended

ENOUGH = 0.9  # a bound below it costs accuracy
DEFAULT = "yolact_base"  # the config of a data set that is named alone


def _check(args: argparse.Namespace) -> int:
    if args.write and args.annotations:
        write_mended({args.annotations: (args.images, args.write)}, _wishes(args))
        args.annotations = args.write
    cfg, splits = _config(args)
    if args.write and not args.annotations:
        cfg = _mended(cfg, args)
    progress = _bar if sys.stderr.isatty() else None
    found = Findings()
    for finding in check_dataset(cfg, fast=args.fast, splits=splits, progress=progress):
        found.add(finding.level, finding.problem)
    if not args.fast:
        _tell_bound(cfg, splits, found, progress)
    print(listing(found))
    if args.views:
        _draw_views(cfg, args.views)
    return int(any(finding.level == "error" for finding in found))


def _wishes(args: argparse.Namespace) -> Wishes:
    return Wishes(args.clear_crowd, args.scale, args.drop_missing, read_sizes=not args.fast)


def _mended(cfg: Config, args: argparse.Namespace) -> Config:
    """The config with mended copies of its annotation files in their place."""
    there = [split for name in SPLITS if (split := Split.of(cfg.data, name)) is not None]
    out: Path = args.write
    second = out.with_name(f"{out.stem}_{SPLITS[1]}{out.suffix}")
    files: dict[Path, tuple[Path, Path]] = {}
    for split in there:
        files.setdefault(split.path, (split.images_dir, second if files else out))
    write_mended(files, _wishes(args))
    copies = {f"{s.name}_annotations": str(files[s.path][1].resolve()) for s in there}
    words = " ".join(f"data.{key}={shlex.quote(path)}" for key, path in copies.items())
    say(f"to use the copies: {words}")
    return cfg.model_copy(update={"data": cfg.data.model_copy(update=copies)})


def _tell_bound(
    cfg: Config,
    splits: Sequence[str],
    found: Findings,
    progress: Callable[[str], Progress] | None,
) -> None:
    """What masks of the config's kind can reach on the last of the splits that there is."""
    from yolact.bound import Rule, mask_bounds  # torch, which --help and --fast do without

    there = [split for name in splits if (split := Split.of(cfg.data, name)) is not None]
    if not there:
        return  # which is an error that is told already
    own, best = Rule.of(cfg), Rule.of(cfg, target="coverage", stride=4, masks="subpixel")
    path, show = there[-1].path, progress("mask bound") if progress else None
    try:
        bound, other = mask_bounds(path, [own, best], progress=show)
    except ValueError:
        found.note("has no mask that can be used, so that mask AP has no bound", path)
        return
    settings = [] if own.by_coverage else ["loss.mask_target=coverage"]
    settings += [] if own.masks == best.masks else ["eval.masks=subpixel"]
    instead = f"; {_points(other['AP'])} with {best.words}" if settings else ""
    what = (
        f"lets masks that are learnt exactly reach mask AP {_points(bound['AP'])} (AP90 "
        f"{_points(bound['AP90'])}, AP95 {_points(bound['AP95'])}) with {own.words}{instead} "
        f"(config {cfg.name}, {bound.instances} of {bound.total} instances)"
    )
    if bound["AP"] >= ENOUGH:
        found.note(what, path)
        return
    fix = (
        f"set {' and '.join(settings)}, or raise model.max_size"
        if settings
        else "raise model.max_size"
    )
    found.warning(what, path, fix)


def _draw_views(cfg: Config, file: Path) -> None:
    from yolact.engine.pictures import training_views
    from yolact.files import write_image

    write_image(file, training_views(cfg))
    say(f"training images as stored, and as the first epochs show them: {file}")


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _config(args: argparse.Namespace) -> tuple[Config, tuple[str, ...]]:
    """The config to check, and its splits. Anchors come from --config where a data set alone is
    named."""
    if args.annotations:
        categories = read_coco(args.annotations)["categories"]
        if not categories:
            raise ValueError(f"{args.annotations} has no categories: add them")
        names = [category_name(category) or "" for category in categories]
        sound = [name for name in dict.fromkeys(names) if name.strip() and is_line(name)]
        data = DataConfig(
            name=args.annotations.stem,
            train_images=str(args.images),
            train_annotations=str(args.annotations),
            class_names=tuple(sound) or ("object",),
        )
        source = args.config or DEFAULT
        return load_config(source, args.overrides).model_copy(update={"data": data}), ("train",)
    if args.dataset in DATASETS:
        source = args.config or (args.dataset if args.dataset in CONFIGS else DEFAULT)
        if source == DEFAULT and not args.config and not args.fast:
            note(f"anchors and masks are those of config {DEFAULT}: --config names another")
        return load_config(source, [f"dataset={args.dataset}", *args.overrides]), SPLITS
    if not Path(args.dataset).exists() and args.dataset.removesuffix("_config") not in CONFIGS:
        raise ValueError(
            f"{unknown_name('data set or config', args.dataset, [*DATASETS, *CONFIGS])}; for a "
            "JSON file use --annotations"
        )
    return load_config(args.dataset, args.overrides), SPLITS


def _bar(stage: str) -> Callable[[int, int], None]:
    bar = tqdm(desc=stage, leave=False, unit="")

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", help="name of a data set or config, or a config file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the config, such as data.root=PATH",
    )
    parser.add_argument(
        "--annotations", type=Path, help="a COCO-format JSON file, instead of a name"
    )
    parser.add_argument("--images", type=Path, help="the folder of its images")
    parser.add_argument(
        "--config",
        help="config whose anchors are checked against the boxes (default: the one called as the "
        f"data set, else {DEFAULT})",
    )
    parser.add_argument(
        "--fast", action="store_true", help="annotation files and folder listings only"
    )
    parser.add_argument(
        "--views",
        type=Path,
        metavar="FILE",
        help="draw training images as stored and as training sees them, with their masks",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="OUT.json",
        help="write a mended copy of the annotations there, list what was done, and check the copy",
    )
    parser.add_argument(
        "--clear_crowd",
        action="store_true",
        help="with --write: iscrowd=0 everywhere, where a tool marked single objects as crowds",
    )
    parser.add_argument(
        "--scale",
        choices=get_args(Scale),
        help="with --write: coordinates are percent of the image, or shares of it (0..1)",
    )
    parser.add_argument(
        "--drop_missing",
        action="store_true",
        help="with --write: leave out images whose files are not there",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    arguments = parser.parse_intermixed_args(argv)
    if bool(arguments.dataset) == bool(arguments.annotations) or bool(
        arguments.annotations
    ) != bool(arguments.images):
        parser.error("give the name of a data set, or --annotations and --images")
    wishes = {"--clear_crowd": "clear_crowd", "--scale": "scale", "--drop_missing": "drop_missing"}
    alone = [flag for flag, name in wishes.items() if getattr(arguments, name)]
    if alone and not arguments.write:
        parser.error(f"{alone[0]} changes a copy: give --write OUT.json too")
    return run(_check, arguments)
