"""How many instances there are to learn from, or to measure AP by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.doctor.findings import Findings
from data.doctor.split import Split
from data.rules import is_crowd, size_of
from data.segmentation import encoded, pixels_of
from layers.problems import few, shown

SAMPLED = 2_000  # masks that the fast check looks at
LOW_SHARE = 0.5
_FIXES = {
    "crowds (iscrowd=1)": "set iscrowd to 0 where an annotation is one object; crowds are regions "
    "that teach nothing (--write OUT.json --clear_crowd sets it everywhere)",
    "without a pixel in their mask": "redraw the masks; coordinates are pixels",
    "with a box too small for the input": "correct the boxes, or raise model.max_size",
}


@dataclass(frozen=True)
class Limits:
    """What training asks of a box: its sides, in pixels of an input of size x size."""

    size: int
    least_side: float

    def passes(self, annotation: dict[str, Any], image: dict[str, Any]) -> bool:
        """Whether the box is wide and high enough, inside the image and without augmentation."""
        x, y, w, h = annotation["bbox"]
        width, height = image["width"], image["height"]
        across = (min(x + w, width) - max(x, 0)) * self.size / width
        down = (min(y + h, height) - max(y, 0)) * self.size / height
        return min(across, down) >= self.least_side and min(across, down) > 0


def check_usable(split: Split, limits: Limits, found: Findings, *, fast: bool) -> None:
    """An error where no instance can be used, a warning where few can. fast: says of which masks
    there is no pixel; the whole check says it of every mask."""
    own = [a for a in split.annotations if not is_crowd(a)]
    fitting = [a for a in own if limits.passes(a, split.images[a["image_id"]])]
    empty, looked = _without_pixel(split, fitting)
    share = len(empty) / looked if looked else 0.0
    usable = round(len(fitting) * (1 - share))
    lost = {
        "crowds (iscrowd=1)": len(split.annotations) - len(own),
        "with a box too small for the input": len(own) - len(fitting),
        "without a pixel in their mask": len(fitting) - usable,
        "without area in their box": len(split.zero_area),
        "that cannot be read": split.unusable,
    }
    total = len(split.annotations) + len(split.zero_area) + split.unusable
    told = ", ".join(f"{count} {why}" for why, count in lost.items() if count)
    purpose = "learn from" if split.name == "train" else "measure AP by"
    fix = _FIXES.get(max(lost, key=lambda why: lost[why]), "correct the annotations")
    if split.images and not usable:
        why = f"its {total} annotations are {told}" if total else "it has no annotation"
        found.error(
            f"holds no instance to {purpose}: {why}",
            split.path,
            fix if total else f"correct data.{split.name}_annotations",
        )
    elif total and usable < LOW_SHARE * total:
        found.warning(
            f"holds {usable} instances to {purpose}, of {total} annotations: the others are {told}",
            split.path,
            fix,
        )
    elif empty and fast:
        sample = "" if looked == len(fitting) else f" among {looked} that were looked at"
        names = few([shown(annotation.get("id")) for annotation in empty])
        found.warning(
            f"has {len(empty)} masks that cover no pixel{sample} (annotations {names})",
            split.path,
            "remove or redraw them",
        )


def _without_pixel(
    split: Split, annotations: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """(those whose masks cover no pixel, how many were looked at): SAMPLED of them, spread evenly,
    and all where none of these has a pixel."""
    chosen = annotations[:: max(1, -(-len(annotations) // SAMPLED))]
    empty = [annotation for annotation in chosen if not _has_pixel(split, annotation)]
    if len(empty) == len(chosen) < len(annotations):
        chosen = annotations
        empty = [annotation for annotation in chosen if not _has_pixel(split, annotation)]
    return empty, len(chosen)


def _has_pixel(split: Split, annotation: dict[str, Any]) -> bool:
    size = size_of(split.images[annotation["image_id"]])
    assert size is not None, "a split's images state their size"
    return pixels_of(encoded(annotation["segmentation"], *size)) > 0
