"""Pictures: what is drawn where, in which colour, at which size."""

import numpy as np
import pytest
import torch

from layers.targets import Targets
from yolact.draw import (
    caption,
    colour,
    display_lincomb,
    display_prototypes,
    draw_detections,
    draw_targets,
    gallery,
    side_by_side,
)
from yolact.outputs import Detections

CLASSES = ("cat", "chien", "шляпа")


def grey(height=200, width=300):
    return np.full((height, width, 3), 128, np.uint8)


def detections(boxes, *, labels=None, scores=None, mask_scores=None, size=(200, 300)):
    d = len(boxes)
    masks = torch.zeros(d, *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    scores = torch.tensor(scores or [0.9] * d)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels or [0] * d, dtype=torch.int64),
        scores,
        scores if mask_scores is None else torch.tensor(mask_scores),
        masks,
    )


def at(image, x, y):
    return tuple(int(v) for v in image[y, x])


def blend(rgb, alpha):
    return tuple(round(128 * (1 - alpha) + c * alpha) for c in rgb)


def test_fill_is_blended_inside_the_mask_only_and_the_input_is_left_alone():
    image, found = grey(), detections([(50, 60, 150, 160)], labels=[1])
    drawn = draw_detections(image, found, CLASSES, labels=False, boxes=False, alpha=0.5)
    assert np.allclose(at(drawn, 100, 110), blend(colour(1), 0.5), atol=1)
    # the outline is solid, but for antialiasing
    assert np.allclose(at(drawn, 50, 110), colour(1), atol=15)
    untouched = drawn.copy()
    untouched[58:162, 48:152] = 128
    assert (untouched == 128).all() and (image == 128).all()


def test_colours_tell_classes_apart_or_instances_of_one_class():
    found = detections([(10, 50, 60, 100), (100, 50, 150, 100)], labels=[0, 0])
    several = draw_detections(grey(), found, CLASSES, labels=False)
    assert at(several, 30, 80) == at(several, 120, 80)
    one = draw_detections(grey(), found, ("butt",), labels=False)
    assert at(one, 30, 80) != at(one, 120, 80)


def test_no_two_of_many_colours_are_alike():
    assert len({colour(i) for i in range(300)}) >= 290
    first = np.array([colour(i) for i in range(16)], dtype=int)
    distances = np.abs(first[:, None] - first[None]).sum(-1) + 1000 * np.eye(16, dtype=int)
    assert distances.min() >= 60


def test_the_best_mask_score_is_on_top_and_thresholds_choose_by_it():
    boxes = [(50, 50, 150, 150), (50, 50, 150, 150)]
    found = detections(boxes, labels=[0, 1], scores=[0.9, 0.5], mask_scores=[0.2, 0.6])
    drawn = draw_detections(grey(), found, CLASSES, labels=False, alpha=1.0)
    assert at(drawn, 100, 100) == colour(1)
    kept = draw_detections(grey(), found, CLASSES, labels=False, score_threshold=0.3)
    assert (kept == draw_detections(grey(), found, CLASSES, labels=False, top_k=1)).all()
    assert (draw_detections(grey(), found, CLASSES, score_threshold=0.7) == grey()).all()


def test_masks_boxes_labels_and_scores_can_be_left_out():
    found = detections([(50, 60, 150, 160)])
    assert (
        draw_detections(grey(), found, CLASSES, masks=False, boxes=False, labels=False) == 128
    ).all()
    box = draw_detections(grey(), found, CLASSES, masks=False, labels=False)
    assert at(box, 50, 100) == colour(0) and at(box, 100, 110) == (128, 128, 128)
    named, scored = (
        draw_detections(grey(), found, CLASSES, masks=False, boxes=False, scores=s)
        for s in (False, True)
    )
    assert 0 < (named != 128).sum() < (scored != 128).sum()


@pytest.mark.parametrize("size", [(64, 48), (256, 256), (2160, 3840)])
def test_text_follows_the_size_of_the_picture(size):
    h, w = size
    box = (w // 4, h // 2, 3 * w // 4, 7 * h // 8)
    drawn = draw_detections(
        grey(h, w), detections([box], size=size), CLASSES, masks=False, boxes=False
    )
    rows = np.flatnonzero((drawn != 128).any((1, 2)))
    height = rows[-1] - rows[0] + 1
    assert max(11, 0.02 * (h * w) ** 0.5) <= height <= max(18, 0.05 * (h * w) ** 0.5)
    label = drawn[rows[0] : rows[-1] + 1]
    shades = len(np.unique(label[(label != 128).any(2)].reshape(-1, 3), axis=0))
    assert shades > 8  # antialiased: more than ink and paper


def test_letters_beyond_ascii_are_drawn():
    """A font without them would draw one and the same box for each."""
    found = detections([(50, 60, 150, 160)])
    pictures = [
        draw_detections(grey(), found, (name, "b"), scores=False) for name in ("шля", "пая", "éßä")
    ]
    assert len({p.tobytes() for p in pictures}) == 3


def test_labels_stay_inside_the_picture_and_off_each_other():
    boxes = [
        (0, 0, 40, 30),
        (260, 0, 300, 30),
        (0, 170, 40, 200),
        (260, 170, 300, 200),
        (100, 80, 180, 150),
        (102, 80, 182, 150),
    ]
    found = detections(boxes, labels=[0, 1, 2, 0, 1, 2], scores=[0.9, 0.8, 0.7, 0.6, 0.55, 0.5])
    drawn = draw_detections(grey(), found, CLASSES, masks=False, boxes=False)
    plain = draw_detections(
        grey(),
        detections([(100, 80, 180, 150)], labels=[1], scores=[0.55]),
        CLASSES,
        masks=False,
        boxes=False,
    )
    label = (plain != 128).any(2)
    # the better of the two in one place is not covered by the other
    assert (drawn[label] == plain[label]).all()


def test_crowded_pictures_of_one_class_carry_scores_only():
    boxes = [(20 * i, 100, 20 * i + 14, 114) for i in range(12)]
    many = draw_detections(grey(), detections(boxes), ("nucleus",), masks=False, boxes=False)
    alone = draw_detections(grey(), detections(boxes[:1]), ("nucleus",), masks=False, boxes=False)
    assert (
        (many != 128).any((0, 2))[:20].any()
        and (many[:, :60] != alone[:, :60]).any()
        and (alone != 128).any((0, 2)).sum() > 60
    )
    no_scores = draw_detections(
        grey(), detections(boxes), ("nucleus",), masks=False, boxes=False, scores=False
    )
    assert (no_scores == 128).all()


def test_nothing_to_draw():
    empty = detections([])
    assert (draw_detections(grey(), empty, CLASSES) == 128).all()
    none = Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        *(torch.zeros(s, dtype=torch.bool) for s in (0, (0, 32, 32))),
    )
    assert (draw_targets(grey(), none, CLASSES) == 128).all()
    hidden = detections([(10, 10, 10, 20)])  # a mask without pixels
    draw_detections(grey(), hidden, CLASSES)  # an empty mask has no outline


def test_targets_are_drawn_at_the_size_of_the_picture_with_grey_crowds():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[0, 4:20, 4:20] = True
    masks[1, 24:36, 24:36] = True
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]])
    targets = Targets(boxes, torch.tensor([1, 0]), torch.tensor([False, True]), masks)
    drawn = draw_targets(grey(400, 200), targets, CLASSES, alpha=0.5)
    assert np.allclose(at(drawn, 60, 120), blend(colour(1), 0.5), atol=1)
    assert at(drawn, 150, 300)[0] == at(drawn, 150, 300)[1] == at(drawn, 150, 300)[2] != 128
    reduced = targets.reduce([(20, 20)], keep_full=False)
    small = draw_targets(grey(400, 200), reduced, CLASSES, alpha=0.5)
    assert np.allclose(at(small, 60, 120), blend(colour(1), 0.5), atol=1)
    boxes_only = draw_targets(
        grey(400, 200), Targets(boxes, targets.labels, targets.crowd), CLASSES
    )
    assert at(boxes_only, 60, 120) == (128, 128, 128) and at(boxes_only, 20, 120) == colour(1)


def test_pictures_beside_each_other():
    pair = side_by_side(grey(100, 150), np.zeros((100, 80, 3), np.uint8))
    assert pair.shape[0] > 100 and pair.shape[1] >= 150 + 80 + 4
    assert (pair[-100:, :150] == 128).all() and (pair[-100:, -80:] == 0).all()
    titled = caption(
        grey(100, 150), "a caption much longer than the picture is wide, by a good deal"
    )
    assert titled.shape[1] == 150 and (titled[-100:] == 128).all() and (titled[:-100] < 100).any()


def test_gallery_fits_every_picture_into_a_cell_of_white():
    sheet = gallery(
        [grey(100, 200), grey(200, 100), grey(10, 20)], columns=2, cell=(80, 80), gap=10
    )
    assert sheet.shape == (190, 190, 3)
    # wide: bars above
    assert at(sheet, 50, 50) == (128, 128, 128) and at(sheet, 50, 12) == (255, 255, 255)
    # high: bars beside
    assert at(sheet, 140, 50) == (128, 128, 128) and at(sheet, 103, 50) == (255, 255, 255)
    assert at(sheet, 50, 140) == (128, 128, 128) and at(sheet, 140, 140) == (255, 255, 255)
    assert (
        gallery([grey()] * 9, cell=(30, 30)).shape[0]
        == gallery([grey()] * 9, cell=(30, 30)).shape[1]
    )
    assert gallery([grey()] * 2, captions=["one", "two"]).shape[0] > gallery([grey()] * 2).shape[0]
    with pytest.raises(ValueError, match="at least one image"):
        gallery([])


def test_prototypes_each_fill_their_own_scale():
    prototypes = torch.zeros(20, 20, 3)
    prototypes[:, :10, 0] = 100
    prototypes[:10, :, 1] = 0.01
    sheet = display_prototypes(prototypes, cell=60, columns=3)
    assert sheet.shape[1] == 3 * 66 + 6
    bright, dark = at(sheet, 16, sheet.shape[0] - 20), at(sheet, 56, sheet.shape[0] - 20)
    assert sum(bright) > 400 > sum(dark)
    assert at(sheet, 66 + 36, sheet.shape[0] - 56) == bright


def test_lincomb_shows_signed_terms_the_sum_and_the_cropped_mask():
    prototypes = torch.zeros(32, 32, 3)
    prototypes[8:24, 8:24, 0] = 4
    prototypes[:, :, 1] = 1
    coeffs = torch.tensor([2.0, -3.0, 0.0])
    image = grey(64, 64)
    sheet = display_lincomb(
        prototypes, coeffs, torch.tensor([0.25, 0.25, 0.75, 0.75]), image=image, terms=2, cell=64
    )
    bar = sheet.shape[0] // 2 - 6 - 64 + 3  # caption height of a row
    first, second = at(sheet, 6 + 32, 6 + bar + 32), at(sheet, 6 + 70 + 32, 6 + bar + 32)
    assert first[0] > first[2] and second[2] > second[0]  # red adds, blue takes away
    assert sheet.shape[1] == 4 * 70 + 6
    # second row: cropped, then the mask on the picture
    last = sheet[-6 - 64 : -6, 6 + 70 : 6 + 70 + 64]
    assert at(last, 32, 32) != (128, 128, 128) and at(last, 4, 4) == (128, 128, 128)
