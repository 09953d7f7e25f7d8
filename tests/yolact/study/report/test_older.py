"""A report of records that an older version wrote: it is made, and its tabs say what they lack."""

from dataclasses import replace

from yolact.engine.records import read_records, write_records
from yolact.study.report.assemble import OLDER, draw
from yolact.study.report.data import collect
from yolact.study.report.images.tab import ImagesTab
from yolact.study.report.page.content import page
from yolact.study.report.tables import tables

NEW = ("matched", "any_iou", "any_match", "box", "own_match", "other_iou", "other_match")


def test_older_records_are_reported_and_what_they_lack_is_said(study):
    for path in study.glob("*/seed*/results/records.npz"):
        records = read_records(path)
        found = {shape: replace(one, **dict.fromkeys(NEW)) for shape, one in records.found.items()}
        write_records(path, replace(records, found=found))
    report = collect(study)
    drawings = {one.key: one for one in draw(report)}
    assert drawings["errors"].caption.endswith(OLDER) and drawings["errors"].figure is not None
    assert drawings["gains"].figure is None and "older version" in drawings["gains"].caption
    assert "one class" in drawings["by_class"].caption
    assert "--boundary" in drawings["boundary"].caption
    images = ImagesTab(report, 5)
    html = page(report, tables(report), list(drawings.values()), images)
    assert not images.pictures[0] and "<b>No pictures</b>" in html
    assert images.pairs and images.chance is not None  # which images change is known all the same
