"""The check of a data set.

The fast part reads the annotation files, lists the image folders and looks at a sample of the
masks; it runs before every training. The rest reads every image and every mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from data.doctor.annotations import check_shared_files, read_split
from data.doctor.findings import Finding, Findings, Progress
from data.doctor.folder import check_folder
from data.doctor.split import Split
from data.doctor.usable import Limits
from data.schema import AugmentConfig, Config, DataConfig, ModelConfig

SPLITS = ("train", "val")


def check_dataset(
    source: Config | DataConfig | Mapping[str, Any],
    *,
    fast: bool = False,
    splits: tuple[str, ...] = SPLITS,
    progress: Callable[[str], Progress] | None = None,
) -> list[Finding]:
    """Everything that looks wrong in a data set, errors first.

    source: a config, its data section, or an entry of DATASETS (anchors are then those of
    yolact_base). fast: annotation files and folder listings only. progress: called with the name of
    each long stage; what it returns is called with (done, total).
    """
    model, augment = ModelConfig(square_anchors=True), AugmentConfig()  # yolact_base
    if isinstance(source, Config):
        data, model, augment = source.data, source.model, source.augment
    else:
        data = source if isinstance(source, DataConfig) else _section(source)
    found = Findings()
    limits = Limits(model.max_size, augment.min_box_side)
    read: list[Split] = []
    usable: list[Findings] = []
    for name in splits:
        split = Split.of(data, name)
        if split is None:
            found.error(
                f"the {name} split has no images folder or no annotation file",
                fix=f"set data.{name}_images and data.{name}_annotations",
            )
            continue
        told = read_split(split, data, limits, fast=fast)
        found.take(told.first)
        if told.then is not None and told.usable is not None:
            check_folder(split, found)
            found.take(told.then)
            read.append(split)
            usable.append(told.usable)
    if len(read) == 2:
        check_shared_files(read[0], read[1], found, fast=fast)
    for findings in usable:
        found.take(findings)
    if not fast:
        # torch, OpenCV and pycocotools are needed from here on
        from data.doctor.anchors import check_coverage
        from data.doctor.images import check_pixels

        check_pixels(read, found, progress or (lambda stage: lambda done, total: None))
        for split in read:
            check_coverage(split, model, found)
    return list(found)


def _section(entry: Mapping[str, Any]) -> DataConfig:
    return DataConfig(**{key: value for key, value in entry.items() if key != "published"})
