"""The Images tab: which images each arm changes, what of it chance gives, and the pictures with the
verdict on every instance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tqdm import tqdm

from yolact.cli import note, one_line
from yolact.engine.records import Records
from yolact.study.report.cells import Number, Probability
from yolact.study.report.data import ArmReport, Report, shape_of
from yolact.study.report.images.masks import has_masks, masks_of_run
from yolact.study.report.images.outlines import outline
from yolact.study.report.images.truth import ImageSource, ValidationSet
from yolact.study.report.page.render import data_uri
from yolact.study.report.tables import Row, Table, metric_title
from yolact.study.statistics import FinishedRun
from yolact.study.statistics.errors import UNCOUNTED, judge_detections
from yolact.study.statistics.family import SIGN_FLIP_FROM
from yolact.study.statistics.images import TO_LOOK_AT, ImageChanges, image_changes

LISTED = 5  # of each side of a pair, where no pictures are there
IMAGES = 40  # most improved, and as many most worsened, of a pair; half as many others
PICTURES, OUTLINES = 4_000_000, 3_700_000  # bytes of the page


@dataclass(frozen=True)
class Pair:
    """An arm (by its number) against the baseline at the seeds that both have."""

    number: int
    arm: ArmReport
    seeds: Sequence[int]
    changes: ImageChanges

    def chosen(self, count: int) -> list[int]:
        """Images, as rows of the records: the `count` most improved, as many most worsened, and
        half as many of the others, drawn once for all time."""
        mean = self.changes.mean
        order = np.argsort(-mean, kind="stable")
        best = [image for image in order[:count].tolist() if mean[image] > 0]
        worst = [image for image in order[::-1][:count].tolist() if mean[image] < 0]
        rest = [i for i in range(len(mean)) if i not in {*best, *worst}]
        some = np.random.default_rng(0).permutation(rest)[: -(-count // 2)]
        return [*best, *worst, *map(int, some)]


@dataclass(frozen=True)
class ImagesTab:
    """What the page says and shows of images. count: of the most improved of a pair, and of the
    most worsened."""

    report: Report
    count: int

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each arm with the baseline, where they have a seed in common."""
        base, shape = self.report.base, shape_of(self.report.metric)
        found = []
        arms = list(enumerate(self.report.arms))
        for number, arm in tqdm(arms, desc="images", unit="arm", leave=False, disable=None):
            seeds = sorted(set(arm.runs) & set(base.runs))
            if arm is not base and seeds:
                ours, theirs = ([one.runs[s] for s in seeds] for one in (arm, base))
                changes = image_changes(ours, theirs, shape, self.report.metric)
                found.append(Pair(number, arm, seeds, changes))
        return found

    @cached_property
    def first(self) -> FinishedRun:
        return self.report.runs[0][2]

    @cached_property
    def pictures(self) -> tuple[dict[str, Any], str]:
        """(what the script draws, why there is nothing to draw); one of the two is empty."""
        if not self.pairs:
            return {}, "there are no two arms with a seed in common"
        if self.report.truth is not None and self.report.truth.images is None:
            return {}, "where the images are is not known: --image_folder=FOLDER says it"
        lacking = [run for run in self._runs if not has_masks(run)]
        if lacking:
            return {}, (
                f"{len(lacking)} of {len(self._runs)} runs have no masks of their last validation "
                "any more: they were kept by an older version, or without them (report: "
                "{keep_detections: true} in the study's file keeps them)"
            )
        if any(run.records().found["mask"].matched is None for run in self._runs[:1]):
            return {}, "the records are of an older version, which do not say what was matched"
        try:
            return self._drawn(), ""
        except (ValueError, OSError) as error:
            note(f"no pictures in the Images tab: {one_line(error)}")
            return {}, one_line(error)

    @property
    def chance(self) -> Table | None:
        """How many images change to one side at every seed, and how many do by chance."""
        if not self.pairs:
            return None
        rows = [
            Row(
                [
                    pair.arm.label,
                    len(pair.seeds),
                    pair.changes.better,
                    pair.changes.worse,
                    Number(pair.changes.by_chance, 1),
                    Probability(pair.changes.p),
                    Number(pair.changes.correlation),
                ]
            )
            for pair in self.pairs
        ]
        images, seeds = len(self.pairs[0].changes.mean), max(len(one.seeds) for one in self.pairs)
        fewest = min(len(one.seeds) for one in self.pairs)
        header = ["arm", "seeds", "better", "worse", "by chance", "p", "correlation"]
        notes = [
            f"Of {images} images, those that change to one side at every seed, against "
            f"{self.report.baseline}. By chance: how many do under sign flips of the seeds, one "
            "flip a seed and all images together, on average; p: the share of flips with as many "
            f"or more, at least {2.0 ** (1 - seeds):.2g} with {seeds} seeds. Correlation: over the "
            "resampled images, of the mean change with the difference of "
            f"{metric_title(self.report.metric)}.",
            *([TO_LOOK_AT] if fewest < SIGN_FLIP_FROM else []),
        ]
        return Table("chance", "Images that change at every seed", header, rows, notes)

    @property
    def table(self) -> Table:
        """The images that each arm changes most, where they cannot be shown."""
        ids = self.first.records().image_ids
        rows = [
            Row(
                [
                    pair.arm.label,
                    str(ids[image]),
                    Number(float(pair.changes.mean[image]), 3, True),
                    int(pair.changes.agree[image]),
                    len(pair.seeds),
                ]
            )
            for pair in self.pairs
            for image in pair.chosen(LISTED)
            if abs(pair.changes.mean[image]) > 0
        ]
        header = ["arm", "image", "change", "seeds that agree", "seeds"]
        return Table("changes", "The images that change most", header, rows)

    @property
    def _runs(self) -> list[FinishedRun]:
        return [run for _, _, run in self.report.runs]

    @property
    def _source(self) -> ImageSource:
        return self.report.truth or ValidationSet(self.first)

    def _drawn(self) -> dict[str, Any]:
        """As many images as fit: fewer than asked for where the outlines are too many for a
        page."""
        count, records, source = self.count, self.first.records(), self._source
        while True:
            chosen = sorted({image for pair in self.pairs for image in pair.chosen(count)})
            images = self._outlines(records, source, chosen)
            share = len(json.dumps(list(images.values()), separators=(",", ":"))) / OUTLINES
            if share <= 1 or count <= 1:  # pictures are read where the rest fits
                made, sizes = source.pictures(records, chosen, PICTURES * 3 // 4)
                share = sum(map(len, made.values())) / (PICTURES * 3 // 4)
                if share <= 1 or count <= 1:
                    break
            count = max(1, int(count * 0.95 / share))
        if count < self.count:
            note(f"Images tab: {count} images a list instead of {self.count}, to stay below 10 MB")
        for image, one in images.items():
            one |= {"size": sizes[image], "picture": data_uri(made[image], "jpeg")}
        pairs = [
            {
                "arm": pair.number,
                "seeds": list(pair.seeds),
                "list": [
                    [image, float(pair.changes.mean[image]), int(pair.changes.agree[image])]
                    for image in pair.chosen(count)
                ],
            }
            for pair in self.pairs
        ]
        return {"classes": records.class_names, "images": images, "pairs": pairs}

    def _outlines(
        self, records: Records, source: ImageSource, chosen: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        """{image: its instances, and what each run found}."""
        found: dict[int, dict[str, Any]] = {
            image: {"id": records.image_ids[image], "truth": [], "runs": {}} for image in chosen
        }
        places: dict[int, int] = {}  # row of Truth: its number on its image
        for row, mask in sorted(source.masks(records, chosen).items()):
            if records.truth.ignored[0, row]:
                continue
            instances = found[int(records.truth.image[row])]["truth"]
            places[row] = len(instances)
            label, area = int(records.truth.label[row]), float(records.truth.area[row])
            instances.append({"label": label, "area": area, "path": outline(mask)})
        runs = enumerate(self._runs)
        for number, run in tqdm(runs, desc="outlines", unit="run", leave=False, disable=None):
            for image, seen in instances_of(run, run.records(), set(chosen), places).items():
                found[image]["runs"][number] = seen
        return found


def instances_of(
    run: FinishedRun, records: Records, images: set[int], places: Mapping[int, int]
) -> dict[int, dict[str, Any]]:
    """{image: {found, missed}} of a run: each kept detection with score, IoU and verdict, and the
    instances, by their number on the image, that none is matched to."""
    masks, judged = masks_of_run(run, records), judge_detections(records, "mask")
    found = records.found["mask"]
    assert found.matched is not None
    seen: dict[int, dict[str, Any]] = {image: {"found": [], "missed": []} for image in images}
    for row in _rows(np.flatnonzero(judged.kind != UNCOUNTED), found.image, images):
        iou = found.iou[0, row] if found.matched[0, row] >= 0 else found.best_iou[row]
        seen[int(found.image[row])]["found"].append(
            {
                "label": int(found.label[row]),
                "score": float(found.score[row]),
                "iou": float(iou),
                "kind": str(judged.kind[row]),
                "of": places.get(int(found.matched[0, row]), -1),
                "path": outline(masks[row]) if row in masks else "",
            }
        )
    taken = set(found.matched[0, judged.kind != UNCOUNTED].tolist())
    for row, place in places.items():
        image = int(records.truth.image[row])
        if row not in taken and image in seen:
            seen[image]["missed"].append(place)
    return seen


def _rows(rows: np.ndarray, image: np.ndarray, images: set[int]) -> Iterable[int]:
    return (int(row) for row in rows if int(image[row]) in images)
