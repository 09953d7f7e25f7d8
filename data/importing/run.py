"""An import from its source to the files of the new set, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from data.importing.cityscapes import read_cityscapes
from data.importing.coco import read_coco_set
from data.importing.labelme import read_labelme
from data.importing.listing import Listing
from data.importing.masks import read_masks
from data.importing.recognise import recognise
from data.importing.records import Hints, Source
from data.importing.sound import check_found
from data.importing.split import split_pictures
from data.importing.voc import read_voc
from data.importing.write import Target, Written, write_set
from data.importing.yolo import read_yolo
from data.prepare.archives import unpack
from data.resolve import RUN_CONFIG
from data.start import START, START_NETWORK
from layers.problems import Problem, ProblemError, number_of

READERS: dict[str, Callable[[Listing, Hints], Source]] = {
    "coco": read_coco_set,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "masks": read_masks,
    "voc": read_voc,
    "cityscapes": read_cityscapes,
}

PLAIN = Hints()


def import_set(
    source: Path,
    target: Target,
    *,
    kind: str = "",
    hints: Hints = PLAIN,
    val_share: float = 0.2,
    seed: int = 0,
) -> list[str]:
    """Writes target.out, which must not be there yet; returns lines that say what was done.

    source: a folder, a zip, or a COCO or labelme JSON, YOLO YAML file in its folder. kind: of
    READERS, '' to look. ProblemError or OSError where it cannot be done; nothing is left then.
    """
    if not 0 < val_share < 1:
        raise ValueError(f"--val_share={val_share} must lie between 0 and 1")
    out = Path(os.path.abspath(target.out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ProblemError(
            Problem("is there already", f"--out {target.out}", "choose a new folder")
        )
    target = replace(target, out=out)
    with _staging(out) as staging:
        listing, archive = _listed(source, staging)
        alone = "" if archive is not None or source.is_dir() else source.name
        kind = kind or recognise(listing, alone)
        found = check_found(READERS[kind](listing, hints))
        train, val, lines = split_pictures(found.pictures, val_share=val_share, seed=seed)
        target = replace(target, copy=target.copy or archive is not None)
        new = staging / "new"
        written = write_set(new, {"train": train, "val": val}, found.classes, target)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            out.rmdir()
        new.rename(out)
    counts = Counter(shape.label for picture in (*train, *val) for shape in picture.shapes)
    named = ", ".join(f"{name} {counts[name]}" for name in found.classes[:12])
    more = ", ..." if len(found.classes) > 12 else ""
    scales = ", ".join(f"{level[0]:g}" for level in written.anchors.scales)
    return [
        f"read     {kind}: {number_of(len(train) + len(val), 'image')}, "
        f"{number_of(sum(counts.values()), 'object')} of {number_of(len(found.classes), 'class')} "
        f"({named}{more})",
        *(f"         {line}" for line in found.lines),
        f"split    {len(train)} training and {number_of(len(val), 'validation image')}",
        *(f"         {line}" for line in lines),
        f"anchors  from {scales} px, ratios {', '.join(f'{r:g}' for r in written.anchors.ratios)}; "
        f"mean IoU with boxes {written.anchors.before:.2f} -> {written.anchors.iou:.2f}",
        f"network  {target.base}, {_beginning(written)}",
        f"length   {number_of(written.epochs, 'epoch')}, "
        f"{number_of(written.iterations, 'iteration')}",
        f"wrote    {out / RUN_CONFIG}",
    ]


def _beginning(written: Written) -> str:
    if written.starts:
        return f"from the weights that ship (train.init_from={START})"
    return f"no weights ship for it (they fit {START_NETWORK})"


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside `out`, or in the nearest parent that there is; removed in the end."""
    parent = next(folder for folder in out.parents if folder.is_dir())
    staging = parent / f".{out.name}.{os.getpid()}.part"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _listed(source: Path, staging: Path) -> tuple[Listing, Path | None]:
    """The files of a source, and the folder that a zip was unpacked to."""
    if source.is_dir():
        return Listing.of(source.absolute()), None
    if not source.exists():
        raise ProblemError(Problem("does not exist", str(source), "correct the path"))
    suffix = source.suffix.lower()
    if suffix == ".zip":
        unpacked = staging / "unpacked"
        unpacked.mkdir()
        unpack(source, unpacked)
        return Listing.of(unpacked), unpacked
    if suffix in (".json", ".yaml", ".yml"):
        listing = Listing.of(source.absolute().parent)
        others = [name for name in listing.ending(suffix) if name != source.name]
        kept = tuple(name for name in listing.names if name not in others)
        return Listing(listing.root, kept), None
    fix = "give a folder, a zip, or a JSON or YAML file of annotations"
    raise ProblemError(Problem("is no annotated set", f"file {source}", fix))
