"""Which format a folder holds, by what its files contain."""

from __future__ import annotations

from collections.abc import Callable

from data.importing.cityscapes import cityscapes_files
from data.importing.coco import coco_files
from data.importing.labelme import labelme_files
from data.importing.listing import Listing
from data.importing.masks import mask_files
from data.importing.voc import voc_files
from data.importing.yolo import yolo_files
from layers.problems import Problem, ProblemError, printable

# format -> the files of it in a listing
FORMATS: dict[str, Callable[[Listing], list[str]]] = {
    "coco": coco_files,
    "yolo": yolo_files,
    "labelme": labelme_files,
    "masks": mask_files,
    "voc": voc_files,
    "cityscapes": cityscapes_files,
}
KNOWN = "COCO JSON, YOLO segmentation, labelme, images with masks, Pascal VOC masks, Cityscapes"


def recognise(listing: Listing, file: str = "") -> str:
    """The one format of FORMATS that a source holds. ProblemError for none, and for several.

    file: the name of a JSON or YAML file that was given alone; what lies beside it is no answer."""
    found = {name: files for name, of in FORMATS.items() if (files := of(listing))}
    where = f"folder {listing.root}"
    if file:
        where = f"file {listing.root / file}"
        # a YAML file of annotations says where the texts of YOLO are
        found = {
            name: files
            for name, files in found.items()
            if (file in files if file.lower().endswith(".json") else name == "yolo")
        }
    if len(found) == 1:
        return next(iter(found))
    if found:
        cases = [f"{name} ({printable(files[0], 120)})" for name, files in found.items()]
        fix = f"choose one by --format {'|'.join(found)}, or give a folder that holds one"
        raise ProblemError(Problem(f"holds several formats: {', '.join(cases)}", where, fix))
    boxes = listing.ending(".xml")
    if boxes:
        what = f"holds XML annotations alone ({printable(boxes[0], 120)}), which are boxes"
        raise ProblemError(Problem(what, where, "export outlines or masks as well"))
    raise ProblemError(
        Problem("holds no annotations of a known format", where, f"export as one of: {KNOWN}")
    )
