"""The data set doctor: what is wrong with a COCO-format set, and the fix of each mistake.

The fast part reads the annotation files and lists the image folders; it runs before every training.
The rest reads every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.annotations import Id, category_labels, instance_problem, other_type, read_json
from data.schema import Config, DataConfig, ModelConfig

SPLITS = ("train", "val")
SHOWN = 3  # examples in a message
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Finding:
    """level: 'error' stops training, 'warning' costs accuracy, 'note' is worth knowing. message
    says what and where; fix, what to do."""

    level: Literal["error", "warning", "note"]
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}" if self.fix else self.message


@dataclass
class Split:
    """One split as read: its sound images by id, and its usable annotations (those without a
    finding of level error)."""

    name: str
    images_dir: Path
    path: Path
    images: dict[Id, dict] = field(default_factory=dict)
    annotations: list[dict] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)  # file names that the image folder lacks

    def file(self, image: dict) -> Path:
        return self.images_dir / image["file_name"]


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
    if isinstance(source, Config):
        data, model = source.data, source.model
    else:
        data = source if isinstance(source, DataConfig) else DataConfig(**source)
        model = ModelConfig(square_anchors=True)  # yolact_base
    found: list[Finding] = []
    read: list[Split] = []
    for name in splits:
        split = _read_split(data, name, found)
        if split is not None:
            read.append(split)
    if len(read) == 2:
        _check_shared_files(*read, found, fast)
    if not fast:
        # torch, OpenCV and pycocotools are needed from here on
        from data.doctor.images import check_pixels

        found += check_pixels(read, model, progress or (lambda stage: lambda done, total: None))
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def examples(items: list[Any]) -> str:
    """The first few of many, for a message."""
    return ", ".join(map(str, items[:SHOWN])) + (", ..." if len(items) > SHOWN else "")


def _read_split(data: DataConfig, name: str, found: list[Finding]) -> Split | None:
    images, annotations = getattr(data, f"{name}_images"), getattr(data, f"{name}_annotations")
    if not images or not annotations:
        found.append(
            Finding(
                "error",
                f"the {name} split has no images folder or no annotation file",
                f"set data.{name}_images and data.{name}_annotations",
            )
        )
        return None
    split = Split(name, Path(data.root) / images, Path(data.root) / annotations)
    try:
        content = read_json(split.path)
    except ValueError as error:
        found.append(_from_text("error", str(error)))
        return None
    split.categories = content["categories"]
    _check_images(split, content["images"], found)
    _check_folder(split, found)
    _check_annotations(split, content["annotations"], data, found)
    _check_classes(split, data, found)
    return split


def _from_text(level: Literal["error", "warning"], text: str) -> Finding:
    message, _, fix = text.partition(": ") if text.count(": ") == 1 else (text, "", "")
    return Finding(level, message, fix)


def _check_images(split: Split, images: list[dict], found: list[Finding]) -> None:
    if not images:
        found.append(
            Finding(
                "error",
                f"{split.path} lists no images: the {split.name} split is empty",
                f"correct data.{split.name}_annotations",
            )
        )
    incomplete, repeated, unsized = [], [], []
    for number, image in enumerate(images):
        if any(key not in image for key in ("id", "file_name", "width", "height")):
            incomplete.append(image.get("file_name", image.get("id", f"number {number}")))
        elif not all(
            isinstance(image[s], (int, float)) and image[s] > 0 and image[s] % 1 == 0
            for s in ("width", "height")
        ):
            unsized.append(image["file_name"])
        elif image["id"] in split.images:
            repeated.append(image["id"])
        else:
            split.images[image["id"]] = image
    for items, what, fix in (
        (incomplete, "images without id, file_name, width or height", "add what is missing"),
        (
            unsized,
            "images whose width or height is not a positive whole number",
            "write the pixel size of the file",
        ),
        (
            repeated,
            "image ids used more than once",
            "give each image its own id, and point its annotations to it",
        ),
    ):
        if items:
            found.append(
                Finding("error", f"{split.path}: {len(items)} {what} ({examples(items)})", fix)
            )
    names = [
        name
        for name, count in Counter(i["file_name"] for i in split.images.values()).items()
        if count > 1
    ]
    if names:
        found.append(
            Finding(
                "error",
                f"{split.path}: {len(names)} files are listed more than once ({examples(names)})",
                "keep one entry a file, and give it the annotations of the others",
            )
        )


def _check_folder(split: Split, found: list[Finding]) -> None:
    if not split.images_dir.is_dir():
        found.append(
            Finding(
                "error",
                f"image folder {split.images_dir} does not exist",
                f"correct data.{split.name}_images",
            )
        )
        split.missing = {image["file_name"] for image in split.images.values()}
        return
    listed = {image["file_name"] for image in split.images.values()}
    present: dict[Path, set[str]] = {}
    for name in listed:  # one listing per folder, instead of one question per file
        folder = split.images_dir / Path(name).parent
        if folder not in present:
            present[folder] = (
                {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
            )
        if Path(name).name not in present[folder]:
            split.missing.add(name)
    if split.missing:
        missing = sorted(split.missing)
        found.append(
            Finding(
                "error",
                f"{len(missing)} of {len(listed)} images of {split.path} are not in "
                f"{split.images_dir} ({examples(missing)})",
                "copy them there, or remove their entries",
            )
        )


def _check_annotations(
    split: Split, annotations: list[dict], data: DataConfig, found: list[Finding]
) -> None:
    known = {c.get("id") for c in split.categories} | set(data.label_map or ())
    problems: dict[str, list[Any]] = {}
    orphans, strangers, zero_area, seen, repeated = [], [], [], set(), []
    for annotation in annotations:
        key, image = annotation.get("id"), split.images.get(annotation.get("image_id"))
        if key in seen:
            repeated.append(key)
        seen.add(key)
        if image is None:
            orphans.append(annotation)
        elif annotation.get("category_id") not in known:
            strangers.append(annotation)
        elif problem := instance_problem(annotation, image["height"], image["width"]):
            # "has a polygon", "has the box", "has no segmentation:", "has an RLE"
            kind = " ".join(problem.split()[:3])
            problems.setdefault(kind, []).append(f"annotation {key!r} {problem}")
        elif not (annotation["bbox"][2] and annotation["bbox"][3]):
            zero_area.append(key)
        else:
            split.annotations.append(annotation)
    for items, known_ids, key, section in (
        (orphans, split.images, "image_id", "images"),
        (strangers, known, "category_id", "categories"),
    ):
        if items:
            shown = [
                f"annotation {a.get('id')!r} has {key} "
                f"{a.get(key)!r}{other_type(a.get(key), known_ids)}"
                for a in items
            ]
            found.append(
                Finding(
                    "error",
                    f"{split.path}: {len(items)} annotations refer to {section} that are not "
                    f"listed ({examples(shown)})",
                    f"correct {key}, or add what is missing under {section}",
                )
            )
    for items in problems.values():
        text, _, fix = items[0].rpartition(": ")
        more = (
            f" (and {len(items) - 1} more of this kind, "
            f"{examples([i.split(' has ')[0] for i in items[1:]])})"
            if len(items) > 1
            else ""
        )
        found.append(Finding("error", f"{split.path}: {text}{more}", fix))
    if repeated:
        found.append(
            Finding(
                "error",
                f"{split.path}: {len(repeated)} annotation ids are used more than once "
                f"({examples(repeated)})",
                "number the annotations",
            )
        )
    if zero_area:
        found.append(
            Finding(
                "warning",
                f"{split.path}: {len(zero_area)} annotations have a box without width or height "
                f"(ids {examples(zero_area)}) and are left out",
                "remove or correct them",
            )
        )
    _check_positions(split, found)
    annotated = {a["image_id"] for a in split.annotations}
    empty = len(split.images) - len(annotated)
    if empty:
        use = (
            "are negatives"
            if data.keep_empty
            else "are not trained on (data.keep_empty=true makes them negatives)"
        )
        found.append(
            Finding(
                "note",
                f"{split.path}: {empty} of {len(split.images)} images have no annotation"
                + (f"; they {use}" if split.name == "train" else ""),
            )
        )
    if split.images and not split.annotations:
        found.append(
            Finding(
                "error",
                f"{split.path} holds no usable annotation",
                f"correct data.{split.name}_annotations",
            )
        )


def _check_positions(split: Split, found: list[Finding]) -> None:
    boxes_out, boxes_over, polygons_out, corners = [], [], [], 0
    for a in split.annotations:
        image, (x, y, w, h) = split.images[a["image_id"]], a["bbox"]
        width, height = image["width"], image["height"]
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            boxes_out.append(a["id"])
        elif x < -2 or y < -2 or x + w > width + 2 or y + h > height + 2:
            boxes_over.append(a["id"])
            corners += w > x and h > y and w <= width + 2 and h <= height + 2
        if isinstance(a["segmentation"], list) and any(
            max(p[0::2]) <= 0
            or min(p[0::2]) >= width
            or max(p[1::2]) <= 0
            or min(p[1::2]) >= height
            for p in a["segmentation"]
        ):
            polygons_out.append(a["id"])
    swapped = " (were width and height of the images swapped?)"
    if boxes_out:
        found.append(
            Finding(
                "error",
                f"{split.path}: {len(boxes_out)} boxes lie wholly outside their image "
                f"(annotations {examples(boxes_out)}){swapped}",
                "correct or remove them",
            )
        )
    if boxes_over:
        two_corners = corners > len(boxes_over) / 2
        looks = (
            f"; {corners} of them would be inside as two corners, [x1, y1, x2, y2]"
            if two_corners
            else swapped
        )
        found.append(
            Finding(
                "warning",
                f"{split.path}: {len(boxes_over)} boxes reach out of their image "
                f"(annotations {examples(boxes_over)}){looks}",
                "write bbox as [x, y, width, height]" if two_corners else "clip or correct them",
            )
        )
    if polygons_out:
        found.append(
            Finding(
                "warning",
                f"{split.path}: {len(polygons_out)} annotations have a polygon wholly outside the "
                f"image (annotations {examples(polygons_out)}){swapped}",
                "remove or correct these polygons",
            )
        )


def _check_classes(split: Split, data: DataConfig, found: list[Finding]) -> None:
    used = Counter(a["category_id"] for a in split.annotations)
    try:
        labels = category_labels(
            split.categories, data.class_names, data.label_map, set(used), split.path
        )
    except ValueError as error:
        message, _, fix = str(error).partition(". ")
        found.append(Finding("error", message, fix))
        return
    spare = [c["name"] for c in split.categories if c["id"] not in labels]
    if spare:
        found.append(
            Finding(
                "note",
                f"{split.path}: {len(spare)} categories without annotations are not among the "
                f"classes ({examples(spare)})",
            )
        )
    counts = Counter({label: 0 for label in range(len(data.class_names))})
    for category, count in used.items():
        counts[labels[category]] += count
    absent = [data.class_names[label] for label, count in counts.items() if not count]
    if absent and used:
        level, effect = (
            ("warning", "cannot be learned")
            if split.name == "train"
            else ("note", "do not count in the AP")
        )
        found.append(
            Finding(
                level,
                f"{split.path}: {len(absent)} classes have no instance ({examples(absent)}) and "
                f"{effect}",
                "add images of them, or remove the classes" if split.name == "train" else "",
            )
        )


def _check_shared_files(train: Split, val: Split, found: list[Finding], fast: bool) -> None:
    """Leaks that show by name: the same file in both splits. (Copies under other names are found by
    content.)

    They do not keep a training from starting: a set is overfitted on purpose to try a model out.
    """
    both = sorted(
        {train.file(i).resolve() for i in train.images.values()}
        & {val.file(i).resolve() for i in val.images.values()}
    )
    if both:
        found.append(
            Finding(
                "warning" if fast or train.path == val.path else "error",
                f"{len(both)} images are in the train and in the val split "
                f"({examples([p.name for p in both])}), so that validation measures memory",
                "remove them from one of the two",
            )
        )
