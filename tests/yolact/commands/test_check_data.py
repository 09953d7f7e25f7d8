"""The last word of check_data: what masks of the config's kind can reach."""

import json

import cv2
import numpy as np
import pytest

from tests.data.sets import NUCLEI, annotation, real_data, write_set
from yolact.commands.check_data import program

FOLDERS = [
    f"data.{key}={getattr(real_data(NUCLEI), key)}"
    for key in ("root", "train_images", "train_annotations", "val_images", "val_annotations")
]


PUBLISHED = ("loss.mask_target=binary", "loss.mask_stride=4", "eval.masks=published")


def told(capsys, *words):
    code = program([*words])
    out = capsys.readouterr().out
    return code, [line for line in out.splitlines() if "mask AP" in line or "max_size" in line]


def test_a_low_bound_is_a_warning_with_the_fix(capsys):
    code, lines = told(capsys, "yolact_small_nuclei", *FOLDERS, *PUBLISHED)
    found = next(i for i, line in enumerate(lines) if "mask AP" in line)
    assert code == 0 and lines[found].startswith("warning")
    # test_bound.py has the numbers of these 118 nuclei from other programs
    assert "reach mask AP 39.4 (AP90 0.0, AP95 0.0) with binary targets of 64 px" in lines[found]
    assert "; 81.2 with coverage targets of 64 px" in lines[found]
    assert "(config yolact_small_nuclei, 118 of 118 instances)" in lines[found]
    fix = "fix: set loss.mask_target=coverage and eval.masks=subpixel, or raise model.max_size"
    assert lines[found + 1].strip() == fix


def big_squares(root, **changes):
    """Two squares of whole cells, whose bound is 100."""
    ring = [16, 16, 48, 16, 48, 48, 16, 48]
    two = [
        annotation(key, segmentation=[ring], bbox=[16, 16, 32, 32], area=1024, **changes)
        for key in (1, 2)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}]
    return write_set(root, images=images, annotations=two)


def test_a_high_bound_is_a_note(tmp_path, capsys):
    images, path = big_squares(tmp_path)
    words = ["--annotations", str(path), "--images", str(images), "--config", "quickstart"]
    code, lines = told(capsys, *words)
    (line,) = (line for line in lines if "mask AP" in line)
    assert code == 0 and line.startswith("note") and "reach mask AP 100.0" in line
    assert "2 of 2 instances" in line
    assert told(capsys, *words, "--fast") == (0, [])


@pytest.mark.parametrize("changes", [{"iscrowd": 1}, {"segmentation": []}])
def test_a_set_without_masks_is_told_in_a_line(tmp_path, capsys, changes):
    images, path = big_squares(tmp_path)
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        one |= changes
    path.write_text(json.dumps(content))
    _, lines = told(capsys, "--annotations", str(path), "--images", str(images))
    assert f"note     {path} has no mask that can be used, so that mask AP has no bound" in lines


def test_views_are_drawn_as_training_sees_them(tmp_path, capsys):
    file = tmp_path / "views.png"
    words = ["yolact_small_nuclei", *FOLDERS, "--fast", "--views", str(file)]
    assert program(words) == 0 and str(file) in capsys.readouterr().out
    plain = cv2.imread(str(file))
    assert plain.shape[0] > 3 * 256 and plain.shape[1] > 5 * 256  # three images, five views
    still = ("photometric", "zoom_out", "iou_crop", "flip")
    assert program([*words, *(f"augment.{name}=false" for name in still)]) == 0
    views = cv2.imread(str(file))
    width = views.shape[1] // 5
    first, second = (views[:250, n * width + 12 : n * width + 240] for n in (2, 3))
    assert np.abs(first.astype(int) - second).mean() < 12 < np.abs(plain.astype(int) - views).mean()
