import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.coco import CocoDataset
from data.colours import Colours
from data.draws import Viewport
from data.images import read_reduced
from data.schema import AugmentConfig, Config, ModelConfig
from data.transforms import (
    EvalTransform,
    Patch,
    TrainTransform,
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
    """pad, crop, flip and resize of the whole mask by torchvision."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
    mask[top : top + rng.integers(3, 20), left : left + rng.integers(3, 20)] = 1
    view, whole = Viewport(0, 0, height, width), tv_tensors.Mask(torch.from_numpy(mask)[None])
    if data.draw(st.booleans()):
        before, above, after, below = (int(v) for v in rng.integers(0, 9, 4))
        whole = v2.functional.pad(whole, [before, above, after, below])
        view = view.cut(-above, -before, *whole.shape[-2:])
    if data.draw(st.booleans()):
        h, w = (max(1, side // 2) for side in whole.shape[-2:])
        box = (int(rng.integers(0, h + 1)), int(rng.integers(0, w + 1)), h, w)
        whole, view = v2.functional.crop(whole, *box), view.cut(*box)
    if data.draw(st.booleans()):
        whole, view = v2.functional.horizontal_flip(whole), view._replace(mirrored=True)
    size = (data.draw(st.integers(5, 50)), data.draw(st.integers(5, 50)))
    exact = F.interpolate(
        whole.as_subclass(torch.Tensor)[None].double(), size, mode="bilinear", align_corners=False
    )[0, 0]
    ours = render_masks([patch_of(mask)], view, size)[0]
    sure = (exact - 0.5).abs() > 1e-5  # at exactly one half, rounding decides
    assert torch.equal(ours[sure], (exact > 0.5)[sure])


class Chain:
    """The published order, step by step on whole pictures by torchvision's own transforms."""

    def __init__(self, cfg):
        augment, size = cfg.augment, cfg.model.max_size
        steps = {
            "photometric": v2.RandomPhotometricDistort(),
            "zoom_out": v2.RandomZoomOut([124, 117, 104], side_range=(1.0, augment.zoom_out_max)),
            "iou_crop": v2.RandomIoUCrop(),
            "flip": v2.RandomHorizontalFlip(),
        }
        self.steps = [step for name, step in steps.items() if getattr(augment, name)]
        self.resize = v2.Resize((size, size), antialias=augment.antialias)

    def __call__(self, image, boxes):
        height, width = image.shape[:2]
        sample = (
            tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        )
        for step in self.steps:
            if len(boxes) or not isinstance(step, v2.RandomIoUCrop):
                sample = step(*sample)
        pixels, moved = self.resize(*sample)
        size = pixels.shape[-1]
        return pixels, *inside(moved.as_subclass(torch.Tensor), size, size, 1.0)


def picture(rng, height, width, boxes) -> tuple[np.ndarray, torch.Tensor]:
    """Blots of colour with noise, a part of it grey, and boxes XYXY in pixels."""
    blots = rng.integers(0, 256, (1 + height // 8, 1 + width // 8, 3), dtype=np.uint8)
    image = cv2.resize(blots, (width, height)).astype(int) + rng.integers(-9, 9, (height, width, 3))
    image[: height // 4] = image[: height // 4, :, :1]
    corners = np.sort(rng.uniform(0, 1, (boxes, 2, 2)), 1) * [width, height]
    return (
        image.clip(0, 255).astype(np.uint8),
        torch.from_numpy(corners.reshape(boxes, 4).astype(np.float32)),
    )


@pytest.mark.parametrize(
    "augment", [{}, {"antialias": True}, {"photometric": False}, {"zoom_out": False}], ids=str
)
@pytest.mark.parametrize("shape", [(37, 300), (170, 141), (420, 500)])
def test_a_picture_has_the_bits_that_torchvision_gives_step_by_step(augment, shape):
    """And the generator goes on from the same number."""
    rng = np.random.default_rng(shape)
    transform = make(**augment)
    chain = Chain(Config(name="t", model=ModelConfig(max_size=96), augment=transform.augment))
    for seed in range(12):
        image, boxes = picture(rng, *shape, seed % 5)
        torch.manual_seed(seed)
        expected, moved, kept = chain(image, boxes)
        after = torch.rand(1)
        torch.manual_seed(seed)
        view = transform(image, boxes)
        assert torch.equal(view.image, expected) and view.image.is_contiguous()
        assert torch.equal(view.boxes, moved) and torch.equal(view.kept, kept)
        assert torch.equal(torch.rand(1), after)


def test_a_reduced_picture_gives_the_view_of_the_whole_one(tmp_path):
    """Edges of the view lie on the grid of the reduced picture, inside the view that was drawn;
    pixels and masks agree, and differ little from those of the whole picture."""
    image = np.zeros((803, 1210, 3), np.uint8)
    image[200:500, 300:801] = 255
    mask = patch_of((image[..., 0] > 0).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "a.jpg"), image)
    boxes, times_seen = torch.tensor([[300.0, 200, 801, 500]]), set()
    transform = make(photometric=False, antialias=True, reduced_decode=True)
    transform.fill[:] = 0
    for seed in range(40):
        torch.manual_seed(seed)
        drawn = transform.draw(803, 1210, boxes)
        wanted = transform.reduction(drawn)
        read, times = read_reduced(tmp_path / "a.jpg", (803, 1210), wanted)
        assert times == wanted and read.shape[:2] == (-(-803 // times), -(-1210 // times))
        view, whole = transform.render(read, drawn, times), transform.render(image, drawn)
        inner, outer = view.viewport, whole.viewport
        assert not any(edge % times for edge in inner[:4]) and inner.mirrored == outer.mirrored
        for start, length in ((0, 2), (1, 3)):
            assert 0 <= inner[start] - outer[start] < times
            end = inner[start] + inner[length] - outer[start] - outer[length]
            assert -times < end <= 0 and inner[length] // times >= 96
        if len(whole.kept):
            assert (view.boxes - whole.boxes).abs().max() <= 1.2
        drawn_mask = render_masks([mask], view.viewport, view.size)[0]
        assert ((view.image[0] >= 128) != drawn_mask).float().mean() < 0.012
        assert (view.image.float() - whole.image.float()).abs().mean() < 5
        times_seen.add(times)
    assert times_seen == {2, 4, 8}


@pytest.mark.parametrize("turn", [-0.05, -0.013, 0.0, 0.031, 0.05])
def test_the_hue_of_every_kind_of_colour_turns_as_torchvision_turns_it(turn):
    levels = torch.tensor([0, 1, 2, 85, 127, 128, 170, 200, 253, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 11, 121)
    out = torch.empty_like(colours)
    Colours(None, None, None, turn, True, None).apply(colours, None, out)
    assert torch.equal(out, v2.functional.adjust_hue(colours, turn))


def test_colours_at_network_size_leave_the_geometry_alone():
    """The same draws, the same boxes; a picture of one colour has the same pixels, as it has the
    same mean grey."""
    plain, late = make(zoom_out=False), make(zoom_out=False, photometric_at="network")
    image = np.full((200, 300, 3), (40, 170, 90), np.uint8)
    boxes, changed = torch.tensor([[30.0, 20, 180, 150], [200, 60, 280, 190]]), 0
    for seed in range(12):
        views = []
        for transform in (plain, late):
            torch.manual_seed(seed)
            views.append(transform(image, boxes))
        assert torch.equal(views[0].boxes, views[1].boxes)
        assert views[0].viewport == views[1].viewport
        assert (views[0].image.int() - views[1].image.int()).abs().max() <= 1
        changed += (views[1].image[:, 0, 0] != torch.tensor([40, 170, 90])).any()
    assert changed >= 6


def test_a_large_picture_is_distorted_where_it_is_read_only(monkeypatch):
    seen = []
    apply = Colours.apply
    monkeypatch.setattr(
        Colours, "apply", lambda self, pixels, *a: (seen.append(pixels), apply(self, pixels, *a))
    )
    image, boxes = picture(np.random.default_rng(0), 900, 1200, 2)
    for where, most in (("image", 4 * 96 * 96), ("network", 96 * 96)):
        seen.clear()
        torch.manual_seed(0)
        make(photometric_at=where, zoom_out=False, iou_crop=False)(image, boxes)
        assert [pixels.shape[1] * pixels.shape[2] <= most for pixels in seen] == [True]


def test_one_half_counts_as_foreground():
    mask = np.zeros((4, 4), np.uint8)
    # every 2 x 2 block at the left is a quarter full, and half full in the next case
    mask[1:3, 1] = 1
    assert not render_masks([Patch(mask, 0, 0)], Viewport(0, 0, 4, 4), (2, 2)).any()
    mask[0] = [1, 1, 0, 0]
    assert render_masks([Patch(mask, 0, 0)], Viewport(0, 0, 4, 4), (2, 2))[0].tolist() == [
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
    transform.fill[:] = 0
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
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    view = transform(image, torch.tensor([[8.0, 5, 40, 25]]))
    assert torch.allclose(
        view.boxes, torch.tensor([[9.6, 9.6, 48, 48]]), atol=1e-4
    ) and view.viewport == (0, 0, 50, 80, False)


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


@pytest.mark.parametrize("antialias", [False, True])
def test_large_pictures_are_resized_a_channel_at_a_time(monkeypatch, antialias):
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    transform = EvalTransform(32, antialias)
    whole, seen = transform(image), []
    monkeypatch.setattr("data.transforms.FLOATS_AT_ONCE", 4 * 90 * 70)
    resized = EvalTransform._resized
    monkeypatch.setattr(
        EvalTransform, "_resized", lambda s, x: seen.append(len(x)) or resized(s, x)
    )
    assert torch.allclose(transform(image), whole, atol=1e-4) and seen == [1, 1, 1]


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
        make(antialias=True, size=64, **STILL)(stripes, torch.zeros(0, 4)).image.float(),
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
