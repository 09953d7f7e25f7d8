"""What masks of the arms' kinds can reach on the validation set: found where the annotations are,
kept in the study's folder, so that a report without the data set shows it too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.annotations import read_coco
from data.doctor.split import Split
from data.schema import Config
from yolact.bound import Rule, mask_bounds
from yolact.cli import note, one_line
from yolact.files import write_whole
from yolact.study.folder.layout import BOUNDS
from yolact.study.folder.reading import read_object
from yolact.study.statistics import FinishedRun

Bounds = Mapping[Rule, Mapping[str, Any]]  # MaskBound.to_dict() by rule


def bounds_of(folder: Path | None, configs: Iterable[Config], run: FinishedRun) -> Bounds:
    """The bounds of the configs' rules on the validation set of a run of the study in `folder`,
    those that are known. What is new goes to the study's bounds.json; where the annotations are not
    there, or are others, a note says so. Without a folder nothing is read or kept."""
    wanted = {Rule.of(config) for config in configs}
    known = _read(folder, run) if folder else {}
    missing = sorted(wanted - known.keys(), key=repr)
    if missing:
        try:
            known |= _find(run, missing)
            if folder:
                content = {"truth": run.truth_digest, "bounds": list(known.values())}
                write_whole(folder / BOUNDS, json.dumps(content, indent=1) + "\n")
        except (ValueError, OSError) as error:
            note(f"no bound beside AP against IoU: {one_line(error)}")
    return {rule: bound for rule, bound in known.items() if rule in wanted}


def _read(folder: Path, run: FinishedRun) -> dict[Rule, dict[str, Any]]:
    """What the study's folder keeps, if it is of the ground truth that the runs were scored on."""
    content = read_object(folder / BOUNDS)
    if content.get("truth") != run.truth_digest:
        return {}
    return {
        Rule(one["target"], one["stride"], one["masks"], one["input"]): one
        for one in content["bounds"]
    }


def _find(run: FinishedRun, rules: list[Rule]) -> dict[Rule, dict[str, Any]]:
    """ValueError where the annotations are not there, or lack an image that the run was scored
    on."""
    name = run.note.get("split", "val")
    split = Split.of(run.config.data, name)
    if split is None:
        raise ValueError(f"the config names no {name} annotations")
    content = read_coco(split.path)
    there = {image.get("id") for image in content["images"]}
    lacking = [image for image in run.records().image_ids if image not in there]
    if lacking:
        raise ValueError(
            f"{split.path} lacks {len(lacking)} images that the runs were scored on, such as "
            f"{lacking[0]!r}"
        )
    return {bound.rule: bound.to_dict() for bound in mask_bounds(content, rules)}
