"""What training does to pictures with their masks: both stay together, and depend on the seed,
epoch and index alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data.compose import Content, draw_chosen, pasted, rotated, tightened, upside_down
from data.draws import draw_augmentation
from data.loader import build_dataset, train_loader
from data.resolve import ConfigError, load_config
from data.schema import AugmentConfig
from tests.yolact.engine.oracle import COLOURS, config, write_set

SIDE = 48
STILL = (
    "augment.photometric=false",
    "augment.zoom_out=false",
    "augment.iou_crop=false",
    "augment.flip=false",
)
EACH = {
    "vertical_flip": ("augment.vertical_flip=true",),
    "rotation": ("augment.rotation=180",),
    "scale_jitter": ("augment.scale_jitter=[0.5,2]",),
    "copy_paste": ("augment.copy_paste=1",),
}
EACH["all"] = tuple(change for changes in EACH.values() for change in changes)
GREY = np.array([128, 128, 128], np.uint8)


def content(seed=0, count=3):
    """Noise with masks that are blocks of it."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for mask in masks:
        y, x = rng.integers(0, SIDE - 12, 2)
        mask[y : y + rng.integers(4, 12), x : x + rng.integers(4, 12)] = True
    made = Content(
        torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)),
        torch.zeros(count, 4),
        masks,
        torch.arange(count),
        torch.zeros(count, dtype=torch.bool),
    )
    return tightened(made, 0)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_are_those_of_torch(quarters):
    before = content()
    after = rotated(before, 90 * quarters, 1.0, GREY, 0)
    assert torch.equal(after.image, before.image.rot90(-quarters, (1, 2)))
    assert torch.equal(after.masks, before.masks.rot90(-quarters, (1, 2)))


@given(degrees=st.floats(-180, 180), aspect=st.floats(0.4, 2.5))
@settings(max_examples=25, deadline=None)
def test_a_turn_is_that_of_the_picture_before_it_was_squeezed(degrees, aspect):
    """A circle there, about the middle, is an ellipse here, and stays as it is."""
    y, x = torch.meshgrid(*[torch.arange(96) - 47.5] * 2, indexing="ij")
    across, down = 30 * min(1, 1 / aspect), 30 * min(1, aspect)
    ellipse = ((x / across) ** 2 + (y / down) ** 2 <= 1)[None]
    image = torch.where(ellipse, 200, 50).to(torch.uint8).expand(3, -1, -1)
    none = torch.zeros(1, dtype=torch.bool)
    made = Content(image, torch.zeros(1, 4), ellipse, torch.zeros(1, dtype=torch.int64), none)
    turned = rotated(made, degrees, aspect, GREY, 0)
    overlap = (turned.masks & ellipse).sum() / (turned.masks | ellipse).sum()
    assert overlap > 0.95


def test_corners_that_come_into_view_are_filled():
    turned = rotated(content(), 45, 1.0, np.array([7, 8, 9], np.uint8), 0)
    assert turned.image[:, 0, 0].tolist() == [7, 8, 9]


def test_upside_down_twice_is_the_same():
    before = content()
    once = upside_down(before)
    assert same(upside_down(once), before) and same(tightened(once, 0), once)


def test_what_is_pasted_hides_what_lies_below():
    below, above = content(0), content(1)
    chosen = torch.tensor([True, False, True])
    after = pasted(below, above, chosen, 1)
    cover = above.masks[chosen].any(0)
    assert torch.equal(after.image[:, cover], above.image[:, cover])
    assert torch.equal(after.image[:, ~cover], below.image[:, ~cover])
    assert torch.equal(after.masks[-2:], above.masks[chosen])
    assert not (after.masks[:-2] & cover).any() and same(tightened(after, 1), after)
    everything = Content(**{**vars(above), "masks": torch.ones_like(above.masks)})
    assert len(pasted(below, everything, chosen, 1).boxes) == 2  # nothing is left below


def test_crowds_are_not_pasted_and_one_object_is_at_least():
    crowd = torch.tensor([True, False, True, False])
    drawn = torch.stack([draw_chosen(crowd) for _ in range(200)])
    assert not drawn[:, crowd].any() and drawn[:, ~crowd].any(1).all()
    # both free ones: a quarter; one of them: half, and a quarter that had none
    assert 0.15 < drawn[:, ~crowd].all(1).float().mean() < 0.35
    assert not draw_chosen(torch.tensor([True])).any()


def test_scales_are_uniform_and_the_picture_stays_in_view_or_fills_it():
    torch.manual_seed(0)
    augment = AugmentConfig(scale_jitter=(0.5, 2.0), photometric=False)
    scales = []
    for _ in range(400):
        view = draw_augmentation(augment, 200, 300, torch.zeros(0, 4)).viewport
        scales.append(200 / view.height)
        for start, length, whole in (
            (view.top, view.height, 200),
            (view.left, view.width, 300),
        ):
            inside = start >= 0 and start + length <= whole
            around = start <= 0 and start + length >= whole
            assert inside or around
        assert view.width / view.height == pytest.approx(1.5, abs=0.02)
    quartiles = np.quantile(scales, [0, 0.25, 0.5, 0.75, 1])
    assert quartiles == pytest.approx([0.5, 0.875, 1.25, 1.625, 2.0], abs=0.12)


# ---------------------------------------------------------------- whole samples


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six pictures of squares, red and green, whose colours tell where they are."""
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(6):
        places = rng.permutation(9)[: rng.integers(1, 5)]
        squares.append(
            [
                (int(84 * (p % 3)), int(84 * (p // 3)), int(4 * rng.integers(6, 20)), int(p % 2))
                for p in places
            ]
        )
    folder = tmp_path_factory.mktemp("squares")
    write_set(folder, squares, image_ids=list(range(6)), category_ids=[1, 2])
    return folder


def configured(root, *changes):
    train = ["data.train_images=images", "data.train_annotations=annotations.json"]
    small = ["model.max_size=128", "model.mask_iou_net=false", "train.batch_size=4", *STILL, *train]
    return config(root, *small, *changes)


def dataset(root, *changes):
    return build_dataset(configured(root, *changes), "train", needs_full_masks=True)


@pytest.mark.parametrize("name", EACH)
def test_masks_lie_where_the_colours_are(root, name):
    """Inside a mask is the colour of its class, outside of all masks is none of the colours, and
    boxes are those of the masks."""
    made = dataset(root, *EACH[name])
    seen = 0
    for epoch in range(6):
        for index in range(len(made)):
            sample = made[epoch, index]
            image, targets = sample.image.float(), sample.targets
            whole = F.max_pool2d(targets.masks.any(0)[None].float(), 7, 1, 3)[0] > 0
            for colour in COLOURS:
                far = (image - torch.tensor(colour)[:, None, None]).abs().amax(0)
                assert not (far[~whole] < 40).any()
                assert not sample.targets.crowd.any()
            for mask, label, box in zip(targets.masks, targets.labels, targets.boxes):
                # without its edge, where colours mix, and without that of the picture
                core = 1 - F.max_pool2d(F.pad(1 - mask[None].float(), [2] * 4, value=1.0), 5, 1)[0]
                wanted = torch.tensor(COLOURS[label])[:, None, None]
                far = (image - wanted).abs().amax(0)
                assert not (far[core > 0] > 40).any()
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert torch.allclose(box * 128, torch.tensor(tight).float(), atol=1.01)
                seen += 1
    assert seen > 60


@pytest.mark.parametrize("name", EACH)
def test_an_option_does_something_and_the_same_again(root, name):
    made, still = dataset(root, *EACH[name]), dataset(root)
    key = next(
        (epoch, index)
        for epoch in range(4)
        for index in range(6)
        if not torch.equal(made[epoch, index].image, still[epoch, index].image)
    )
    first = made[key]
    torch.rand(5)  # what others draw is no matter
    again = dataset(root, *EACH[name])[key]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.targets.masks, again.targets.masks)
    assert torch.equal(first.targets.boxes, again.targets.boxes)


def test_workers_and_a_later_start_give_the_same_batches(root):
    cfg = configured(root, *EACH["all"], "train.repeat_threshold=0.9")
    made = build_dataset(cfg, "train", mask_sizes=[(32, 32)])

    def batches(start, count, workers):
        loader = iter(train_loader(cfg, made, start_step=start, num_workers=workers))
        found = [next(loader) for _ in range(count)]
        getattr(loader, "close", lambda: None)()
        return found

    whole, late, parallel = batches(0, 4, 0), batches(2, 2, 0), batches(0, 4, 2)
    for one, other in [*zip(whole[2:], late), *zip(whole, parallel)]:
        assert torch.equal(one.images, other.images) and one.image_ids == other.image_ids
        assert torch.equal(one.instances.boxes, other.instances.boxes)
        for size, masks in one.instances.reduced.items():
            assert torch.equal(masks, other.instances.reduced[size])


@pytest.mark.parametrize(
    "change, part",
    [
        ("augment.scale_jitter=[2,1]", "the least scale comes first"),
        ("augment.scale_jitter=[0,1]", "augment.scale_jitter"),
        ("augment.rotation=200", "augment.rotation=200"),
        ("augment.copy_paste=2", "augment.copy_paste=2"),
        ("train.repeat_threshold=-1", "train.repeat_threshold=-1"),
        ("loss.class_weights={persn: 2}", "did you mean person"),
        ("loss.class_weights={person: 0}", "loss.class_weights"),
    ],
)
def test_senseless_settings_are_refused_in_a_line(change, part):
    with pytest.raises(ConfigError) as told:
        load_config("yolact_plus_tiny", [change], check_names=False)
    assert part in str(told.value) and "\n" not in str(told.value)
