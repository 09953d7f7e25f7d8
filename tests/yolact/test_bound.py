"""The bound of the mask representation: numbers that another program found, a slow one beside it,
and what must hold whatever the numbers are."""

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

import yolact
from data.loader import build_dataset
from data.resolve import load_config
from tests.data.sets import COCO, annotation, image_entry, real_data
from yolact.analysis.bounds import draw_bounds
from yolact.bound import THRESHOLDS, MaskBound, Rule, mask_bounds

REFERENCE = Path(__file__).parents[1] / "reference" / "mask_bounds"
VAL = COCO / "annotations/instances_val.json"
WAYS = [
    ("binary", "published"),
    ("binary", "subpixel"),
    ("coverage", "published"),
    ("coverage", "subpixel"),
    ("input", "published"),
]


def config(size, *changes):
    return load_config("yolact_base", [f"model.max_size={size}", *changes])


@pytest.mark.parametrize("size", [256, 550])
def test_the_numbers_of_another_program(size):
    told = json.loads((REFERENCE / "bounds.json").read_text())
    wanted = [row for row in told if row["input"] == size and row["target"] != "input"]
    rules = [Rule(row["target"], 4, row["masks"], size) for row in wanted]
    found = mask_bounds(REFERENCE / "nuclei.json", rules, limit=400)
    assert len(wanted) == 3
    for row, bound in zip(wanted, found):
        assert bound.instances == 400
        for key in ("AP", *(f"AP{t}" for t in THRESHOLDS)):
            assert bound[key] == pytest.approx(row[key], abs=0.002), (key, row)
        assert bound["mean_iou"] == pytest.approx(row["mean_iou"], abs=1e-4)


# -------------------------------------------------------------- a slow one, by matrices in float64


def weights(source, target, kernel, reach):
    """(target, source): how much each source pixel counts in each output pixel; centres half a
    pixel from the corners, the border repeated."""
    found = np.zeros((target, source))
    for row in range(target):
        at = (row + 0.5) * source / target - 0.5
        for near in range(math.floor(at) - reach, math.floor(at) + reach + 2):
            found[row, min(max(near, 0), source - 1)] += kernel(at - near)
    return found


@cache
def bilinear(source, target):
    return weights(source, target, lambda x: max(0.0, 1 - abs(x)), 0)


@cache
def bicubic(source, target, a=-0.75):
    """Keys 1981, with a of torch and OpenCV."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    return weights(source, target, kernel, 1)


@cache
def means(source, target):
    found = np.zeros((target, source))
    for row in range(target):
        start, stop = row * source // target, -(-(row + 1) * source // target)
        found[row, start:stop] = 1 / (stop - start)
    return found


def resized(mask, matrix, height, width):
    return matrix(mask.shape[0], height) @ mask @ matrix(mask.shape[1], width).T


def slow_ious(content, size, target, masks):
    """IoU of every mask of a COCO dictionary that is no crowd, ordered by the ids as text."""
    images = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    side, found = 2 * math.ceil(size / 8), []
    for one in sorted(content["annotations"], key=lambda one: str(one["id"])):
        height, width = images[one["image_id"]]
        if one["iscrowd"]:
            continue
        rings = coco_mask.frPyObjects(one["segmentation"], height, width)
        truth = coco_mask.decode(coco_mask.merge(rings)).astype(float)
        seen = (resized(truth, bilinear, size, size) >= 0.5 - 1e-6).astype(float)
        if target == "binary":
            seen = (resized(seen, bilinear, side, side) > 0.5 + 1e-6).astype(float)
        elif target == "coverage":
            seen = resized(seen, means, side, side)
        enlarge = bilinear if masks == "published" else bicubic
        back = resized(seen, enlarge, height, width) > 0.5 + 1e-6
        found.append((back & (truth > 0)).sum() / (back | (truth > 0)).sum())
    return np.array(found)


@pytest.mark.parametrize("target, masks", WAYS)
def test_a_slow_way_finds_the_same(target, masks):
    content = json.loads(VAL.read_text())
    for size in (100, 130):  # 26 and 34 prototypes, neither a quarter of the input
        bound = yolact.mask_bound(content, config(size), target=target, masks=masks)
        slow = slow_ious(content, size, target, masks)
        assert bound.instances == len(slow) == 37
        apart = np.abs(bound.ious - slow)
        # float32 decides where a pixel is one half to the last digit
        assert (apart < 1e-4).mean() > 0.85 and apart.mean() < 0.005


# ------------------------------------------------------------------------------------- properties


def square(side, x, y, key=1, **changes):
    """A square of so many pixels, its corner at (x, y)."""
    ring = [x, y, x + side, y, x + side, y + side, x, y + side]
    box = [x, y, side, side]
    return annotation(key, **{"segmentation": [ring], "bbox": box, "area": side**2, **changes})


def content(*annotations, side=64):
    return {
        "images": [image_entry(width=side, height=side)],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "thing"}],
    }


@pytest.mark.parametrize("target, masks", WAYS)
@pytest.mark.parametrize("stride", [4, 2, 1])
def test_nothing_is_lost_of_squares_that_are_made_of_whole_cells(target, masks, stride):
    """Of 64 x 64 pixels and as many of the input, cells are 4 x 4."""
    found = yolact.mask_bound(
        content(square(32, 16, 16), square(16, 4, 44, 2)),
        config(64),
        target=target,
        masks=masks,
        stride=stride,
    )
    assert all(found[f"AP{t}"] == 1 for t in THRESHOLDS) and found["AP"] == 1
    # an enlarged map rounds corners off: one pixel each, two where it is bicubic and cells are few
    assert found["mean_iou"] == 1 if target == "input" else found["mean_iou"] >= 1 - 4 / 16**2


def test_coverage_keeps_what_a_binary_map_rounds_away():
    """A square whose sides lie in the middle of cells, and one below a cell."""
    shifted, small = content(square(30, 17, 17)), content(square(3, 17, 17))
    binary, coverage = (
        yolact.mask_bound(shifted, config(64), target=target, masks="subpixel")["mean_iou"]
        for target in ("binary", "coverage")
    )
    assert binary == pytest.approx((30 / 32) ** 2, abs=0.01) and coverage > 0.98
    assert yolact.mask_bound(small, config(64), target="coverage")["AP50"] in (0, 1)
    fine = yolact.mask_bound(shifted, config(512), target="binary")["mean_iou"]
    assert fine > binary  # more input pixels, more prototypes


def test_finer_strides_are_bounded_by_coverage():
    for stride in (2, 1):
        for target in ("binary", "coverage"):
            found = yolact.mask_bound(VAL, config(128), target=target, stride=stride, limit=9)
            assert dict(found) == dict(
                yolact.mask_bound(VAL, config(128), target="coverage", limit=9)
            )


def test_an_iou_that_float32_rounds_below_the_threshold_is_below_it():
    ious = np.array([0.9, 0.7, 0.5, 1], np.float32)
    bound = MaskBound(Rule("binary", 4, "published", 64), ious, np.ones(4), 4)
    assert (bound["AP50"], bound["AP70"], bound["AP75"], bound["AP90"]) == (1, 0.5, 0.5, 0.25)
    assert bound["AP"] == pytest.approx(np.mean([bound[f"AP{t}"] for t in THRESHOLDS]))


def test_a_config_says_the_rule_and_arguments_change_it():
    cfg = config(64, "eval.masks=subpixel")
    assert Rule.of(cfg) == Rule("binary", 4, "subpixel", 64)
    assert Rule.of(cfg, target="coverage", stride=2, masks="published") == Rule(
        "coverage", 2, "published", 64
    )
    loss = SimpleNamespace(mask_target="coverage", mask_stride=1)
    assert Rule.of(SimpleNamespace(loss=loss, eval=cfg.eval, model=cfg.model)) == Rule(
        "coverage", 1, "subpixel", 64
    )


# ------------------------------------------------------------------------------ what is looked at


def test_the_first_by_their_ids_as_text_without_crowds_and_what_is_unusable():
    given = content(
        square(32, 16, 16, 2),
        square(30, 17, 17, 10),
        square(30, 17, 17, 1, iscrowd=1),
        square(30, 17, 17, 100, segmentation=[[1, 2]]),
        square(30, 17, 17, 101, image_id=7),
        annotation(102, segmentation=[[5, 5, 5.1, 5, 5.1, 5.1]]),  # covers no pixel
    )
    both = yolact.mask_bound(given, config(64))
    assert (both.instances, both.total) == (2, 3)
    first = yolact.mask_bound(given, config(64), limit=1)
    assert (first.instances, first["mean_iou"] < 1) == (1, True)  # "10" before "2"
    assert yolact.mask_bound(given, config(64), limit=None).instances == 2


def test_sizes_are_coco_s_and_both_ends_count():
    given = content(
        square(8, 16, 16, 1, area=900),
        square(32, 16, 16, 2, area=1024),
        square(32, 16, 16, 3, area=None),
        square(64, 0, 0, 4, area=9300),
    )
    bound = yolact.mask_bound(given, config(64))
    parts = {name: bound.of_size(name).instances for name in ("small", "medium", "large")}
    assert parts == {"small": 3, "medium": 2, "large": 1}
    plain = json.loads(json.dumps(bound.to_dict()))
    assert plain["AP"] == bound["AP"] and plain["sizes"]["small"]["instances"] == 3
    assert (plain["input"], plain["prototypes"], plain["target"]) == (64, 16, "binary")
    alone = yolact.mask_bound(content(square(32, 16, 16)), config(64))
    assert alone.to_dict()["sizes"]["large"] is None
    with pytest.raises(ValueError, match="did you mean small"):
        bound.of_size("smal")


def test_a_data_set_a_file_and_its_content_say_the_same():
    cfg = config(128).model_copy(update={"data": real_data(COCO)})
    sources = (build_dataset(cfg, "val"), VAL, str(VAL), json.loads(VAL.read_text()))
    found = [dict(yolact.mask_bound(source, cfg, limit=5)) for source in sources]
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"target": "binari"}, "no target is called 'binari'; did you mean binary"),
        ({"masks": "published "}, "masks"),
        ({"stride": 8}, "stride=8 is not one of 4, 2, 1"),
    ],
)
def test_unknown_rules_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        yolact.mask_bound(VAL, config(64), **given)


def test_sets_without_masks_are_refused(tmp_path):
    for given in (content(), content(square(9, 1, 1, segmentation=[])), {"images": []}):
        with pytest.raises(ValueError, match="has no instance with a mask|no list of"):
            path = tmp_path / "a.json"
            path.write_text(json.dumps(given))
            yolact.mask_bound(path, config(64))


def test_the_figure_has_a_panel_a_set_and_says_its_numbers(tmp_path):
    cfg = config(64).model_copy(update={"data": real_data(COCO)})
    drawn = draw_bounds({"one": cfg, "two": cfg}, tmp_path / "new" / "bounds.png", limit=5)
    picture = cv2.imread(str(tmp_path / "new" / "bounds.png"))
    assert picture.shape[1] > picture.shape[0] and picture.std() > 10
    assert list(drawn) == ["one", "two"]
    first = drawn["one"][0]
    assert first == yolact.mask_bound(VAL, cfg, limit=5) and first.rule == Rule.of(cfg)
    assert [bound["AP"] for bound in drawn["one"]] == sorted(bound["AP"] for bound in drawn["one"])
