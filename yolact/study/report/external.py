"""Rows of others beside a study's arms: COCO results files under the study's own evaluation, and
figures as they were printed. They have no seeds, so no verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.contents import read_bytes
from data.results import read_results
from yolact import cli
from yolact.engine.records import Records, read_records, records_of_results, write_records
from yolact.study.folder.layout import records_of_external
from yolact.study.plan import Study
from yolact.study.report.estimates import Estimate, mean_over_seeds
from yolact.study.report.images.truth import ValidationSet
from yolact.study.sections import ExternalRow
from yolact.study.statistics import FinishedRun, load_run


@dataclass(frozen=True)
class ExternalResult:
    """One row. estimates: {metric: AP}, evaluated here with intervals over the images, or as
    printed without; source: where it is from; lacking: why there are no figures, or nothing."""

    label: str
    source: str
    estimates: Mapping[str, Estimate]
    printed: bool
    lacking: str = ""


def external_results(study: Study, folder: Path, run: FinishedRun) -> list[ExternalResult]:
    """The external rows of a study, evaluated as `run` was. Records of results files stay in the
    study's folder, so that they are evaluated once, and are there where the files are not."""
    return [_result(label, row, folder, run) for label, row in study.external.items()]


def _result(label: str, row: ExternalRow, folder: Path, run: FinishedRun) -> ExternalResult:
    if row.figures:
        nan = float("nan")
        figures = {name: Estimate(value, nan, 0, 100) for name, value in row.figures.items()}
        return ExternalResult(label, row.source, figures, printed=True)
    source = row.source or Path(row.results).name
    try:
        found = load_run(_records_file(label, row, folder, run))
        if found.truth_digest != run.truth_digest:
            raise ValueError("its records are of another validation set: give the file again")
    except (ValueError, OSError) as error:
        cli.note(f"external: {label}: {cli.one_line(error)}")
        lacking = f"not evaluated: {cli.one_line(error)}"
        return ExternalResult(label, source, {}, False, lacking)
    values = {metric: mean_over_seeds([found], metric) for metric in found.resampled.point}
    return ExternalResult(label, source, values, printed=False)


def _records_file(label: str, row: ExternalRow, folder: Path, run: FinishedRun) -> Path:
    """The file of records, written anew where the results or the ground truth are others."""
    path = records_of_external(folder, label)
    if path.is_file() and not Path(row.results).is_file():
        return path
    digest = hashlib.sha256(read_bytes(row.results, "results file")).hexdigest()
    kept = _kept(path)
    if kept and kept.note.get("digest") == digest and kept.truth_digest == run.truth_digest:
        return path
    write_records(path, _evaluated(row.results, digest, run))
    return path


def _kept(path: Path) -> Records | None:
    """The records in a file; None where there are none, or they are cut off."""
    try:
        return read_records(path)
    except ValueError:
        return None


def _evaluated(file: str, digest: str, run: FinishedRun) -> Records:
    """The records of a results file on the images, classes and ground truth of a run. ValueError
    where they cannot be had."""
    own, truth = run.records(), ValidationSet(run).ground_truth
    images, classes = set(own.image_ids), set(own.category_ids)
    content = {
        "images": [one for one in truth["images"] if one["id"] in images],
        "categories": [one for one in truth["categories"] if one["id"] in classes],
        "annotations": [one for one in truth["annotations"] if one["image_id"] in images],
    }
    every = {one["id"] for one in truth["images"]}
    # results on images of the set that the runs were not scored on are left out, others refused
    results = [
        one
        for one in read_results(file)
        if one.get("image_id") not in every or one["image_id"] in images
    ]
    note = {"results": Path(file).name, "digest": digest}
    records = records_of_results(content, results, run.max_dets, note=note)
    if records.truth_digest != run.truth_digest:
        raise ValueError("the annotations are others than those that the runs were scored on")
    return records
