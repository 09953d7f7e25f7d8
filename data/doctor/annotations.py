"""Rules for an annotation file and the folder of its images; no image is opened."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from data.annotations import MENDS, MOST_LEFT_OUT, SoundContent, read_coco, sort_content
from data.cache import Kept, Store, file_state
from data.doctor.findings import Findings
from data.doctor.positions import check_positions
from data.doctor.split import Split
from data.doctor.usable import Limits, check_usable
from data.rules import Id, category_labels, category_name, is_id
from data.schema import DataConfig
from data.table import packed, table_store
from layers.problems import Problem, ProblemError, few, shown


@dataclass
class Told:
    """What the annotation file of a split alone shows: before the image folder is looked at, after
    it, and on what can be used; all but the first None where the file cannot be read."""

    first: Findings
    then: Findings | None = None
    usable: Findings | None = None


def read_split(split: Split, data: DataConfig, limits: Limits, *, fast: bool) -> Told:
    """Fills a split with the sound images and usable annotations of its file. fast: file names
    alone, where the findings were kept; what is read of a large file is then kept, see
    data/cache.py."""
    more = data.label_map or ()
    keeps = fast and data.cache and split.truth
    store = findings_store(split, data, limits) if keeps else None
    if store is None:
        return _read(split, data, limits, fast=fast)

    def read() -> Kept:
        # gone when this ends
        whole = Split(split.name, split.images_dir, split.path, truth=split.truth)
        told = _read(whole, data, limits, fast=True, table=table_store(split.path, more))
        found = [part and part.to_lists() for part in (told.first, told.then, told.usable)]
        names = [image["file_name"] for image in whole.images.values()]
        return Kept({"found": found, "names": names, "sound": _is_sound(told)})

    facts = store.fetch(read, worth=lambda kept: kept.facts["sound"]).facts
    split.images = {number: {"file_name": name} for number, name in enumerate(facts["names"])}
    first, *others = (None if part is None else Findings.of_lists(part) for part in facts["found"])
    return Told(first or Findings(), *others)


def findings_store(split: Split, data: DataConfig, limits: Limits) -> Store | None:
    """Where the findings on a split's annotation file are kept; None of a small file."""
    labels = None if data.label_map is None else [*map(repr, data.label_map.items())]
    settings = [data.class_names, labels, data.keep_empty, limits.size, limits.least_side]
    return Store.of(split.path, ["findings", split.name, str(split.path), settings])


def _is_sound(told: Told) -> bool:
    parts = told.first, told.then, told.usable
    return not any(part is None or part.errors for part in parts)


def _read(
    split: Split, data: DataConfig, limits: Limits, *, fast: bool, table: Store | None = None
) -> Told:
    """read_split() of the file itself. table: where its arrays are kept, if it has no errors."""
    told = Told(Findings())
    state = None if table is None else file_state(split.path)
    try:
        content = read_coco(split.path, truth=split.truth)
    except ProblemError as error:
        told.first.add("error", *error.problems)
        return told
    sound = sort_content(content, more_categories=data.label_map or ())
    split.take(sound)
    _tell_flaws(split, sound, told.first)
    _check_files(split, told.first)
    _check_ids(split, content["annotations"], told.first)
    told.then, told.usable = Findings(), Findings()
    if not split.truth:
        return told
    _check_zero_area(split, told.then)
    check_positions(split, told.then)
    _check_empty(split, content["annotations"], data, told.then)
    _check_classes(split, data, told.then)
    check_usable(split, limits, told.usable, fast=fast)
    if table is not None and state is not None and _is_sound(told):
        table.save(packed(sound), state)
    return told


def check_shared_files(train: Split, val: Split, found: Findings, *, fast: bool) -> None:
    """Leaks that show by name: the same file in both splits. (Copies under other names are found by
    content.)

    They do not keep a training from starting: a set is overfitted on purpose to try a model out.
    """
    own, other = map(_real_paths, (train, val))
    both = [os.path.basename(path) for path in sorted(own & other)]
    if both:
        tell = found.warning if fast or train.path == val.path else found.error
        tell(
            f"{len(both)} images are in the train and in the val split "
            f"({few(both)}), so that validation measures memory",
            fix="remove them from one of the two",
        )


def _real_paths(split: Split) -> set[str]:
    """os.path.realpath of every image; folders are resolved once."""
    folders: dict[str, str] = {}
    found = set()
    for image in split.images.values():
        folder, name = os.path.split(os.path.join(split.images_dir, image["file_name"]))
        path = os.path.join(folder, name)
        if name in ("", ".", "..") or os.path.islink(path):
            found.add(os.path.realpath(path))
        else:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            found.add(os.path.join(folders[folder], name))
    return found


# ------------------------------------------------------------------------------------------ entries


def _tell_flaws(split: Split, sound: SoundContent, found: Findings) -> None:
    """A finding a kind: errors, but for annotations that are few enough to be left out."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for flaw in sound.flaws:
        kinds.setdefault((flaw.section, flaw.kind), []).append(flaw.problem)
    few_enough = len(sound.left_out) <= MOST_LEFT_OUT * sound.total
    for (section, kind), alike in kinds.items():
        tolerable = section == "annotations" and few_enough
        problem = _joined(alike)
        if tolerable:
            out = f"{len(alike)} of {sound.total} annotations are left out"
            problem = replace(problem, what=f"{problem.what}; {out}")
        elif kind == "outline" and len(alike) > sound.total / 2:
            problem = _boxes_only(len(alike), sound.total)
        else:
            problem = replace(problem, fix=f"{problem.fix} ({MENDS})")
        found.add("warning" if tolerable else "error", problem.at(str(split.path)))


def _joined(alike: list[Problem]) -> Problem:
    """One problem that stands for all of its kind."""
    first, *others = alike
    if not others:
        return first
    more = f"{len(others)} more of this kind, {few([problem.where for problem in others])}"
    return replace(first, what=f"{first.what} (and {more})")


def _boxes_only(count: int, total: int) -> Problem:
    return Problem(
        f"has boxes without masks: {count} of {total} annotations have no segmentation",
        fix="annotate outlines, or let a tool make masks of the boxes; boxes alone teach no masks, "
        "and without annotations (data.keep_empty) the objects would be learned as background",
    )


def _check_files(split: Split, found: Findings) -> None:
    if not split.images:
        found.error(
            f"lists no usable image, so the {split.name} split is empty",
            split.path,
            f"correct data.{split.name}_annotations",
        )
    counts = Counter(image["file_name"] for image in split.images.values())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        found.error(
            f"has {len(twice)} files that are listed more than once ({few(twice)})",
            split.path,
            "keep one entry a file, and give it the annotations of the others",
        )


def _check_ids(split: Split, annotations: list[dict[str, Any]], found: Findings) -> None:
    """Ids of annotations have no effect here; other tools refuse such files."""
    ids = [annotation.get("id") for annotation in annotations]
    odd = sum(not is_id(key) for key in ids)
    counts = Counter(key for key in ids if is_id(key))
    repeated = [key for key, count in counts.items() if count > 1]
    for count, what in (
        (len(repeated), f"annotation ids that are used more than once ({few(repeated)})"),
        (odd, "annotations without an id that is a number or text"),
    ):
        if count:
            found.warning(
                f"has {count} {what}; it has no effect here, other tools stop at it",
                split.path,
                "number the annotations",
            )


# -------------------------------------------------------------------------------------- annotations


def _check_zero_area(split: Split, found: Findings) -> None:
    if split.zero_area:
        names = [shown(annotation.get("id")) for annotation in split.zero_area]
        found.warning(
            f"has {len(names)} annotations whose box has no width or no height (ids {few(names)}), "
            "and they are left out",
            split.path,
            "remove or correct them",
        )


def _check_empty(
    split: Split, annotations: list[dict[str, Any]], data: DataConfig, found: Findings
) -> None:
    annotated = {a.get("image_id") for a in annotations if is_id(a.get("image_id"))}
    empty = len(split.images.keys() - annotated)
    if empty:
        use = (
            "are negatives"
            if data.keep_empty
            else "are not trained on (data.keep_empty=true makes them negatives)"
        )
        found.note(
            f"has {empty} images without annotations, of {len(split.images)}"
            + (f"; they {use}" if split.name == "train" else ""),
            split.path,
        )


# ------------------------------------------------------------------------------------------ classes


def _check_classes(split: Split, data: DataConfig, found: Findings) -> None:
    used = Counter(a["category_id"] for a in split.annotations)
    try:
        labels = category_labels(
            split.categories, data.class_names, data.label_map, set(used), split.path
        )
    except ProblemError as error:
        found.add("error", *error.problems)
        return
    spare = [category_name(c) for c in split.categories if c["id"] not in labels]
    if spare:
        found.note(
            f"has {len(spare)} categories without annotations that are not among the classes "
            f"({few(spare)})",
            split.path,
        )
    absent = _absent_classes(data.class_names, labels, used)
    if absent and used:
        what = f"has no instance of {len(absent)} classes ({few(absent)}), which "
        if split.name == "train":
            fix = "add images of them, or remove the classes"
            found.warning(f"{what}cannot be learned", split.path, fix)
        else:
            found.note(f"{what}do not count in the AP", split.path)


def _absent_classes(
    class_names: tuple[str, ...], labels: dict[Id, int], used: Counter[Id]
) -> list[str]:
    present = {labels[category] for category, count in used.items() if count}
    return [name for label, name in enumerate(class_names) if label not in present]
