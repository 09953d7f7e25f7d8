import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.coco import CocoDataset
from data.schema import AugmentConfig, Config, ModelConfig
from data.transforms import (
    Patch,
    TrainTransform,
    Viewport,
    eval_transform,
    inside,
    normalize,
    render_masks,
    train_transform,
)
from tests.data.sets import COCO, NUCLEI, config, real_data

STILL = dict(photometric=False, zoom_out=False, iou_crop=False, flip=False)


def make(size=96, **augment) -> TrainTransform:
    return train_transform(
        Config(name="test", model=ModelConfig(max_size=size), augment=AugmentConfig(**augment))
    )


def patch_of(mask: np.ndarray) -> Patch:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return Patch(mask[:0, :0], 0, 0)
    return Patch(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], rows[0], columns[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rendering_through_the_viewport_equals_moving_whole_masks(data):
    """pad, crop, flip and resize of the whole mask by torchvision, with flips anywhere, and no
    padding after a crop."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
    mask[top : top + rng.integers(3, 20), left : left + rng.integers(3, 20)] = 1
    view, whole = Viewport.of(height, width), tv_tensors.Mask(torch.from_numpy(mask)[None])
    steps = data.draw(st.lists(st.sampled_from(["pad", "flip"]), max_size=3))
    steps += data.draw(st.lists(st.sampled_from(["crop", "flip"]), max_size=3))
    for step in steps:
        h, w = whole.shape[-2:]
        if step == "pad":
            arguments = [int(v) for v in rng.integers(0, 9, 4)]
            whole, view = v2.functional.pad(whole, arguments), v2.functional.pad(view, arguments)
        elif step == "crop":
            box = (
                int(rng.integers(0, h // 2 + 1)),
                int(rng.integers(0, w // 2 + 1)),
                max(1, h // 2),
                max(1, w // 2),
            )
            whole, view = v2.functional.crop(whole, *box), v2.functional.crop(view, *box)
        else:
            whole, view = v2.functional.horizontal_flip(whole), v2.functional.horizontal_flip(view)
    size = (data.draw(st.integers(5, 50)), data.draw(st.integers(5, 50)))
    exact = F.interpolate(
        whole.as_subclass(torch.Tensor)[None].double(), size, mode="bilinear", align_corners=False
    )[0, 0]
    ours = render_masks([patch_of(mask)], view.as_subclass(torch.Tensor), size)[0]
    sure = (exact - 0.5).abs() > 1e-5  # at exactly one half, rounding decides
    assert torch.equal(ours[sure], (exact > 0.5)[sure])


def test_one_half_counts_as_foreground():
    mask = np.zeros((4, 4), np.uint8)
    # every 2 x 2 block at the left is a quarter full, and half full in the next case
    mask[1:3, 1] = 1
    assert not render_masks([Patch(mask, 0, 0)], torch.tensor([0, 0, 4, 4, 0]), (2, 2)).any()
    mask[0] = [1, 1, 0, 0]
    assert render_masks([Patch(mask, 0, 0)], torch.tensor([0, 0, 4, 4, 0]), (2, 2))[0].tolist() == [
        [True, False],
        [False, False],
    ]


@pytest.mark.parametrize("folder", [COCO, NUCLEI])
def test_masks_follow_their_boxes_through_the_whole_augmentation(folder):
    """Where a mask is drawn, its moved box is, too; over many draws with every random part on."""
    cfg = config(real_data(folder), size=160)
    data = CocoDataset(
        folder / "images",
        folder / "annotations/instances_train.json",
        cfg.data.class_names,
        transform=train_transform(cfg),
    )
    seen = 0
    for epoch in range(4):
        for index in range(len(data)):
            sample = data[epoch, index]
            assert (
                sample.image.shape == (3, 160, 160)
                and sample.image.dtype == torch.uint8
                and sample.image.is_contiguous()
            )
            boxes = sample.targets.boxes * 160
            assert ((boxes >= 0) & (boxes <= 160)).all() and (
                boxes[:, 2:] - boxes[:, :2] >= 1
            ).all()
            for box, mask in zip(
                boxes[~sample.targets.crowd],
                sample.targets.masks[~sample.targets.crowd],
                strict=True,
            ):
                rows, columns = torch.nonzero(mask, as_tuple=True)
                # a box drawn a little apart from its mask is in COCO itself; it may be enlarged by
                # the crop
                if len(rows):
                    assert columns.min() >= box[0] - 14 and columns.max() <= box[2] + 14
                    assert rows.min() >= box[1] - 14 and rows.max() <= box[3] + 14
                    seen += 1
    assert seen > 60


def test_the_image_moves_with_the_masks():
    """A white square on black: after any augmentation of geometry, the bright pixels are the
    mask."""
    image = np.zeros((70, 100, 3), np.uint8)
    image[20:50, 30:80] = 255
    boxes, mask = torch.tensor([[30.0, 20, 80, 50]]), (image[..., 0] > 0).astype(np.uint8)
    transform, moved = make(photometric=False), 0
    transform.zoom_out.fill, transform.zoom_out._fill = 0, v2.RandomZoomOut(0)._fill
    for seed in range(30):
        torch.manual_seed(seed)
        view = transform(image, boxes)
        if not len(view.kept):
            continue
        drawn = render_masks([patch_of(mask)], view.viewport, view.size)[0]
        assert ((view.image[0] >= 128) != drawn).float().mean() < 0.01
        moved += 1
    assert moved >= 20


def test_each_part_can_be_switched_off_and_the_rest_is_one_resize():
    transform = make(**STILL)
    assert [transform.photometric, transform.zoom_out, transform.iou_crop, transform.flip] == [
        None
    ] * 4
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    view = transform(image, torch.tensor([[8.0, 5, 40, 25]]))
    assert torch.allclose(
        view.boxes, torch.tensor([[9.6, 9.6, 48, 48]]), atol=1e-4
    ) and view.viewport.tolist() == [0, 0, 50, 80, 0]


def test_antialias_is_a_choice():
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    none = torch.zeros(0, 4)
    plain, smooth = (
        make(**STILL)(image, none).image.float(),
        make(antialias=True, **STILL)(image, none).image.float(),
    )
    assert smooth.std() < 0.5 * plain.std()


def test_zoom_out_canvas_is_the_mean_colour():
    transform = make(**{**STILL, "zoom_out": True})
    torch.manual_seed(1)
    for _ in range(20):
        view = transform(np.zeros((40, 40, 3), np.uint8), torch.zeros(0, 4))
        if view.viewport[2] > 60:
            break
    colours = {tuple(c.tolist()) for c in view.image.flatten(1).T}
    assert (124, 117, 104) in colours and (0, 0, 0) in colours


def test_thin_boxes_go_with_everything_that_belongs_to_them():
    boxes, kept = inside(
        torch.tensor([[0.0, 0, 50, 50], [5, 5, 5.5, 90], [-20, -20, -1, -1], [90, 90, 130, 130]]),
        100,
        100,
        1.0,
    )
    assert kept.tolist() == [0, 3] and boxes[1].tolist() == [90, 90, 100, 100]
    assert inside(torch.tensor([[5.0, 5, 5.5, 90], [5, 5, 5, 9]]), 100, 100, 0.0)[1].tolist() == [0]


def test_images_without_boxes_pass():
    for seed in range(10):
        torch.manual_seed(seed)
        view = make()(np.zeros((60, 60, 3), np.uint8), torch.zeros(0, 4))
        assert view.image.shape == (3, 96, 96) and view.boxes.shape == (0, 4)


def test_evaluation_keeps_float_pixels_and_every_box():
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    transform = eval_transform(config(real_data(COCO), size=64))
    pixels = transform(image)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(),
        (64, 64),
        mode="bilinear",
        align_corners=False,
    )[0]
    assert pixels.dtype == torch.float32 and torch.equal(pixels, expected)
    view = transform.view(image, torch.tensor([[0.0, 0, 0.1, 0.1], [40, 20, 60, 40]]))
    assert view.kept.tolist() == [0, 1] and view.boxes.max() == 64


def test_evaluation_antialiases_where_training_does():
    """A dark column in four, shrunk four times: without antialiasing, only the two columns in the
    middle are seen."""
    stripes = np.full((256, 256, 3), 200, np.uint8)
    stripes[:, 3::4] = 0
    plain = config(real_data(COCO), size=64)
    smooth = plain.model_copy(
        update={"augment": plain.augment.model_copy(update={"antialias": True})}
    )
    assert (eval_transform(plain)(stripes) == 200).all()
    pixels = eval_transform(smooth)(stripes)
    assert (pixels[:, :, 2:-2] - 150).abs().max() < 15
    assert torch.allclose(
        pixels,
        train_transform(smooth).resize(torch.from_numpy(stripes).permute(2, 0, 1)).float(),
        atol=1,
    )


def test_normalize_takes_bytes_and_floats_and_may_be_trained_on():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    expected = (images.float() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        first = normalize(images, mean, std)
    assert torch.equal(first, expected) and torch.equal(
        normalize(images.float(), mean, std), expected
    )
    weight = torch.ones(1, requires_grad=True)
    (normalize(images, mean, std) * weight).sum().backward()
