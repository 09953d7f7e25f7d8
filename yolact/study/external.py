"""External results files of a study, looked at before the first run is trained: a bad one is a line
at planning, not after a week. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.annotations import read_coco
from data.doctor.split import Split
from data.resolve import ConfigError
from data.results import read_results
from layers.problems import ProblemError, shown
from yolact.study.arms import Arm, baseline_of, config_of
from yolact.study.folder.layout import records_of_external
from yolact.study.plan import Study


def check_external(study: Study, arms: Sequence[Arm], folder: Path) -> None:
    """ConfigError for a label that an arm has, and for a file that is missing, is no list of COCO
    detections of the primary metric's shape, or is of other images or classes than the study's
    validation set, where that is there. A file whose records the study's folder has may be gone:
    reports take those."""
    for label in study.external:
        if label in {arm.label for arm in arms}:
            raise ConfigError(f"{study.name}: external: {label!r} is an arm: give it another label")
    files = {
        label: row.results
        for label, row in study.external.items()
        if row.results
        and (Path(row.results).is_file() or not records_of_external(folder, label).is_file())
    }
    if not files:
        return
    known = _known(study, arms)
    field = "bbox" if study.primary.startswith("box") else "segmentation"
    for label, file in files.items():
        try:
            check_results(read_results(file), field, known)
        except ProblemError as error:
            raise ConfigError(f"{study.name}: external: {label}: {error}") from None
        except ValueError as error:
            raise ConfigError(f"{study.name}: external: {label}: {file}: {error}") from None


def check_results(results: list[dict[str, Any]], field: str, known: dict[str, set]) -> None:
    """ValueError where one of the results lacks what evaluation needs, or names an image or class
    that is not known. known: {image_id, category_id: ids}; empty where they are not known."""
    for number, entry in enumerate(results):
        for key in ("image_id", "category_id", "score", field):
            if key not in entry:
                raise ValueError(f"detection {number} has no {key}: give COCO detection results")
        for key, ids in known.items():
            if entry[key] not in ids:
                raise ValueError(
                    f"detection {number} has {key} {shown(entry[key])}, which the validation set "
                    "lacks: give results on the study's own set"
                )


def _known(study: Study, arms: Sequence[Arm]) -> dict[str, set]:
    """Ids of the images and classes of the validation set; empty where its file is not there."""
    config = config_of(study, baseline_of(study, arms), study.seeds[0])
    split = Split.of(config.data, "val")
    if split is None or not split.path.is_file():
        return {}
    content = read_coco(split.path)
    # with a label map, results carry ids that the file need not have
    classes = {} if config.data.label_map else {"category_id": content["categories"]}
    lists = {"image_id": content["images"], **classes}
    return {key: {one.get("id") for one in entries} for key, entries in lists.items()}
