"""A mended copy of a COCO-format file: what the file and its pictures tell is put right, what
cannot be used is left out, and everything that was done is noted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.annotations import LISTS, read_lists
from data.doctor.folder import Folder
from data.mend.boxes import mend_boxes
from data.mend.ids import EntryIds, counted
from data.mend.images import Size, Sizes, stand_ins, with_files
from data.mend.masks import Item, Wishes, fit, mend_mask
from data.mend.notes import Notes
from data.rules import category_name, is_id
from layers.problems import Problem, ProblemError, is_line, shown


@dataclass
class Mended:
    """The content of the copy, and what was done to it."""

    content: dict[str, Any]
    notes: Notes


def mend(
    path: str | Path,
    images_dir: str | Path,
    wishes: Wishes,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Mended:
    """Mends the annotation file `path` of the images in a folder; the file stays as it is.

    progress is called with (done, total) annotations. ProblemError where the file holds no lists of
    COCO, or where no annotation of it can be used.
    """
    content, notes = read_lists(path), Notes()
    entries = {key: _objects(content[key], key, notes) for key in LISTS}
    folder = Folder(Path(images_dir))
    images = with_files(entries["images"], folder, drop_missing=wishes.drop_missing, notes=notes)
    categories, category_ids = _categories(entries["categories"], notes)
    image_ids = EntryIds([image.get("id") for image in images], stand_ins(images, notes))
    items, lost = _referred(entries["annotations"], image_ids, category_ids, notes)
    sizes = _sizes(images, items, image_ids, folder, wishes, notes)
    usable = []
    for done, item in enumerate(items, 1):
        progress(done, len(items))
        size = sizes.get(item.image)
        if size is not None and mend_mask(item, size, wishes, notes):
            usable.append(item)
        else:
            lost.add(item.image)
    mend_boxes(usable, notes)
    usable = _once(usable, notes)
    if entries["annotations"] and not usable:
        what = f"has no annotation that can be used or mended ({'; '.join(notes.lines())})"
        fix = "give --scale where coordinates are no pixels, or export or annotate again"
        raise ProblemError(Problem(what, str(path), fix))
    annotations = _numbered(usable, notes)
    kept = _kept_images(images, image_ids, sizes, lost - {item.image for item in usable}, notes)
    _tell_ids("image", [(images[place].get("id"), image_ids[place]) for place in image_ids], notes)
    pairs = [
        (entries["categories"][place].get("id"), category_ids[place]) for place in category_ids
    ]
    _tell_ids("category", pairs, notes)
    whole = {"images": kept, "annotations": annotations, "categories": categories}
    return Mended({**content, **whole}, notes)


def _objects(entries: list[Any], key: str, notes: Notes) -> list[dict[str, Any]]:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            notes.left_out(f"entries of {key} that are no objects", f"number {number}")
    return [dict(entry) for entry in entries if isinstance(entry, dict)]


# ------------------------------------------------------------------------------------- references


def _categories(
    entries: Sequence[Mapping[str, Any]], notes: Notes
) -> tuple[list[dict[str, Any]], EntryIds]:
    """The categories that stay, with their new ids, and the ids of all."""
    first: dict[str, int] = {}
    names, places = [], []
    for position, entry in enumerate(entries):
        name = category_name(entry) or ""
        if not name.strip():
            name = str(entry["id"]) if is_id(entry.get("id")) else f"category {position + 1}"
            notes.done("categories without a name named by their id", name)
        elif not is_line(name):
            name = " ".join("".join(c if is_line(c) else " " for c in name).split())
            notes.done("control characters taken out of category names", name)
        elif name != entry["name"]:
            notes.done("category names written as text", name)
        names.append(name)
        places.append(first.setdefault(name, position))
        if places[-1] != position:
            notes.done("categories of the same name merged", name)
    ids = EntryIds([entry.get("id") for entry in entries], places)
    return [{**entries[at], "id": ids[at], "name": names[at]} for at in ids], ids


def _referred(
    annotations: Sequence[dict[str, Any]], image_ids: EntryIds, category_ids: EntryIds, notes: Notes
) -> tuple[list[Item], set[int]]:
    """The annotations whose image and category are listed, with the ids of both as the entries have
    them; and the images that others may belong to."""
    items = []
    lost = image_ids.unfit
    for number, annotation in enumerate(annotations):
        key = annotation.get("id")
        name = f"annotation {f'number {number}' if key is None else shown(key)}"
        meant = {
            "image_id": image_ids.positions(annotation.get("image_id")),
            "category_id": category_ids.positions(annotation.get("category_id")),
        }
        unclear = [key for key, places in meant.items() if len(places) != 1]
        if unclear:
            why = "several entries have" if meant[unclear[0]] else "no entry has"
            notes.left_out(f"annotations whose {unclear[0]} {why}", name)
            lost |= meant["image_id"]
            continue
        (image,), (category,) = meant.values()
        for field, new in (("image_id", image_ids[image]), ("category_id", category_ids[category])):
            old = annotation[field]
            if type(old) is not type(new) or old != new:
                notes.done(f"{field} written as its entry has it", name)
                annotation[field] = new
        items.append(Item(annotation, name, image))
    return items, lost


def _tell_ids(what: str, pairs: Sequence[tuple[Any, Any]], notes: Notes) -> None:
    for old, new in pairs:
        if type(old) is not type(new) or old != new:
            notes.done(f"{what} ids numbered or brought to one type", f"{shown(old)} -> {new!r}")


# ------------------------------------------------------------------------------------------ images


def _sizes(
    images: Sequence[dict[str, Any]],
    items: Sequence[Item],
    image_ids: EntryIds,
    folder: Folder,
    wishes: Wishes,
    notes: Notes,
) -> dict[int, Size]:
    """(height, width) of each image that stays, by its position."""
    of_image: dict[int, list[Item]] = {}
    for item in items:
        of_image.setdefault(item.image, []).append(item)
    found = {}
    for place in image_ids:
        name = images[place]["file_name"]
        sizes = Sizes.of(images[place], folder.path / name, read=wishes.read_sizes)
        group = of_image.get(place, ())
        size = sizes.chosen(lambda size: fit(group, size, pixels=wishes.scale is None))  # noqa: B023
        if size is None:
            notes.left_out("images of unknown size", name)
            continue
        if size != sizes.stated:
            was = "none" if sizes.stated is None else f"{sizes.stated[1]}x{sizes.stated[0]}"
            case = f"{name}: {was} -> {size[1]}x{size[0]}"
            notes.done("image sizes written as files and annotations have them", case)
        found[place] = size
    return found


def _kept_images(
    images: Sequence[dict[str, Any]],
    image_ids: EntryIds,
    sizes: Mapping[int, Size],
    lost: set[int],
    notes: Notes,
) -> list[dict[str, Any]]:
    """The entries of the copy: without those of which no annotation is left though they had some,
    since they would show their objects as background."""
    kept = []
    for place in image_ids:
        if place not in sizes:
            continue
        if place in lost:
            name = images[place]["file_name"]
            notes.left_out("images of which no annotation can be used", name)
            continue
        height, width = sizes[place]
        kept.append({**images[place], "id": image_ids[place], "width": width, "height": height})
    return kept


# ------------------------------------------------------------------------------------- annotations


def _once(items: Sequence[Item], notes: Notes) -> list[Item]:
    """The items without those that repeat another: the same image, class, box and mask."""
    seen: set[str] = set()
    kept = []
    for item in items:
        same = ("image_id", "category_id", "iscrowd", "bbox", "segmentation")
        key = json.dumps([item.annotation.get(field) for field in same])
        if key in seen:
            notes.left_out("repeated annotations", item.name)
        else:
            kept.append(item)
            seen.add(key)
    return kept


def _numbered(items: Sequence[Item], notes: Notes) -> list[dict[str, Any]]:
    old = [item.annotation.get("id") for item in items]
    new = counted(old)
    for before, after in zip(old, new):
        if type(before) is not type(after) or before != after:
            notes.done("annotation ids numbered", f"{shown(before)} -> {after}")
    return [{**item.annotation, "id": key} for item, key in zip(items, new)]
