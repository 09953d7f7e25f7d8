import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from layers.assigners import base
from layers.boxes import encode
from layers.losses.box import BOX_LOSSES, build_box_loss
from layers.losses.classification import CLASS_LOSSES, build_class_loss
from layers.losses.criterion import Criterion, Normalizers
from layers.losses.registry import names
from layers.masks import box_window, signed_distance_map
from tests.layers.losses.inputs import (
    CLASSES,
    FIELDS,
    MASK_SIZES,
    gradients,
    make_criterion,
    make_predictions,
    make_targets,
    select,
)
from yolact.build import build_criterion, build_model
from yolact.testing import tiny

KEYS = {"box", "class", "mask", "semantic", "mask_iou"}

DISTANCE = ("distance", MASK_SIZES[0])
LARGE = {"max_size": 256}  # prototypes that a mask-IoU network can read


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(
            a[key], b[key], msg=lambda text, key=key: f"{key}: {text}", **tolerance
        )


def plain_losses(criterion, net, predictions, targets, order=None):
    """The same losses written as loops over images and instances."""
    p, b_, s = predictions, len(targets), {key: 0.0 for key in KEYS}
    assignment = criterion.assign(p.anchors, p.level_sizes, targets)
    total = max(int((assignment.gt_index >= 0).sum()), 1)
    for b, (index, target) in enumerate(zip(assignment.gt_index, targets, strict=True)):
        positive = [a for a in range(len(index)) if index[a] >= 0]
        for a in positive:
            s["box"] += F.smooth_l1_loss(
                p.box_deltas[b, a], encode(target.boxes[index[a]], p.anchors[a]), reduction="sum"
            )
            s["class"] += F.cross_entropy(p.class_logits[b, a], target.labels[index[a]] + 1)
        costs = [
            F.cross_entropy(p.class_logits[b, a], torch.tensor(0))
            for a in range(len(index))
            if index[a] == -1
        ]
        wanted = min(max(3 * len(positive), criterion.ohem_min_negatives), len(index) - 1)
        s["class"] += sum(sorted(costs, key=lambda cost: cost.item(), reverse=True)[:wanted])
        sampled = (
            positive
            if order is None
            else sorted(positive, key=lambda a, b=b: order[b, a])[: criterion.masks_to_train]
        )
        for a in sampled:
            truth, box = target.mask_at(*MASK_SIZES[0])[index[a]].float(), target.boxes[index[a]]
            logits = p.prototypes[b] @ p.mask_coeffs[b, a]
            keep = box_window(box[None], MASK_SIZES[0])[0]
            area = (box[2] - box[0]) * 16 * (box[3] - box[1]) * 16
            loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            s["mask"] += (loss * keep).sum() / area * len(positive) / len(sampled)
            if truth.sum() > criterion.mask_iou.min_area:
                soft = logits.sigmoid() * keep
                iou = ((soft > 0.5) & (truth > 0)).sum() / ((soft > 0.5) | (truth > 0)).sum()
                s["mask_iou"] += F.smooth_l1_loss(
                    net(soft[None, None])[0, target.labels[index[a]]], iou
                )
        semantic = torch.zeros(CLASSES, *MASK_SIZES[1])
        for label, crowd, mask in zip(
            target.labels, target.crowd, target.mask_at(*MASK_SIZES[1]), strict=True
        ):
            if not crowd:
                semantic[label] = semantic[label].maximum(mask.float())
        s["semantic"] += (
            F.binary_cross_entropy_with_logits(p.semantic_logits[b], semantic, reduction="sum")
            / semantic[0].numel()
        )
    return {
        key: torch.as_tensor(criterion.weights[key] * value / (b_ if key == "semantic" else total))
        for key, value in s.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"masks_to_train": 3},
        {"ohem_min_negatives": 16, "masks_to_train": 1},
        {"mask_weight": 2.0, "box_weight": 0.5, "class_weight": 3.0},
        {"semantic_weight": 4.0, "mask_iou_weight": 1.0},
    ],
)
def test_agrees_with_loops_over_images_and_instances(options):
    criterion, net = make_criterion(**options)
    predictions = make_predictions(4)
    targets = [
        make_targets(3),
        make_targets(4, seed=1, crowds=1),
        make_targets(0),
        make_targets(6, seed=2),
    ]
    order = torch.rand(4, len(predictions.anchors), generator=torch.Generator().manual_seed(3))
    losses = criterion(predictions, targets, subset_order=order)
    expected = plain_losses(criterion, net, predictions, targets, order)
    assert_same(losses, expected)
    for ours, theirs in zip(
        gradients(losses, predictions, net), gradients(expected, predictions, net), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


class Waits(TorchDispatchMode):
    """Names the operations that would make the host wait for a device. Tensor.tolist dispatches
    nothing on a CPU: a patch counts it."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "_unique2",
        "unique_consecutive",
        "unique_dim",
    )

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.WAITING or (
            name in ("index", "index_put", "index_put_", "_index_put_impl_")
            and any(
                index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
            )
        ):
            self.seen.append(name)
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def count_waits(monkeypatch, call):
    waits, tolist = Waits(), Tensor.tolist
    with monkeypatch.context() as patch:
        patch.setattr(base, "HOSTS", ())  # assigners take the form that a device takes
        patch.setattr(Tensor, "tolist", lambda self: waits.seen.append("tolist") or tolist(self))
        patch.setattr(Tensor, "numpy", lambda self, *_, **__: pytest.fail("numpy() waits"))
        patch.setattr(Tensor, "cpu", lambda self, *_, **__: pytest.fail("cpu() waits"))
        with waits:
            call()
    return waits.seen


def test_the_counter_sees_what_waits(monkeypatch):
    x = torch.rand(4)
    waiting = [
        lambda: x.sum().item(),
        lambda: bool(x[0] > 0),
        lambda: float(x[0]),
        lambda: int(x[0]),
        lambda: x.tolist(),
        lambda: x.nonzero(),
        lambda: x[x > 0.5],
        lambda: x.clone().__setitem__(x > -1, torch.rand(4)),
        lambda: x.masked_select(x > 0),
        lambda: torch.equal(x, x),
        lambda: x.unique(),
    ]
    for call in waiting:
        assert count_waits(monkeypatch, call)
    assert not count_waits(monkeypatch, lambda: x[torch.tensor([1, 2])].sum() + x.argmax())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"masks_to_train": 2, "ohem_min_negatives": 4},
        *({"box": build_box_loss(info.name)} for info in BOX_LOSSES.records()),
        *({"classification": build_class_loss(info.name)} for info in CLASS_LOSSES.records()),
    ],
)
def test_at_most_one_wait_for_the_device(monkeypatch, options):
    # subpixel_bce counts the cells that a boundary cuts, which waits once more, as it says
    without = [name for name in names() if name != "subpixel_bce"]
    terms = [f"{name}(outside='charge') + {name}(region='image')" for name in without]
    criterion, _ = make_criterion(" + ".join(terms), **options)
    predictions = make_predictions(3)
    assert criterion.extras == [DISTANCE]
    targets = [
        t.reduce(MASK_SIZES, keep_full=False, extras=criterion.extras)
        for t in (make_targets(3), make_targets(0), make_targets(5, crowds=2))
    ]
    seen = count_waits(
        monkeypatch, lambda: sum(criterion(predictions, targets).values()).backward()
    )
    assert seen == ["tolist"]


@pytest.mark.parametrize("least", [0, 16])
@pytest.mark.parametrize(
    "targets", [[make_targets(0), make_targets(0)], [make_targets(2, crowds=2), make_targets(0)]]
)
def test_without_positives_every_gradient_is_there_and_finite(targets, least):
    criterion, net = make_criterion("bce + mse(region='image')", ohem_min_negatives=least)
    predictions = make_predictions(2)
    losses = criterion(predictions, targets)
    assert losses.keys() == KEYS
    assert all(torch.isfinite(value) and value.dim() == 0 for value in losses.values())
    assert all(losses[key] == 0 for key in ("box", "mask", "mask_iou"))
    every = gradients(losses, predictions, net)
    found = dict(zip(FIELDS, every[:5], strict=True))
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in every)
    assert all((found[key] == 0).all() for key in ("box_deltas", "mask_coeffs", "prototypes"))
    assert all((gradient == 0).all() for gradient in every[5:])  # the mask-IoU network
    assert (losses["class"] > 0) == (least > 0)
    # an empty image's hardest anchors
    assert bool(found["class_logits"].abs().sum(2).count_nonzero(1).eq(least).all())


@pytest.mark.parametrize("assigner", ["max_iou", "atss", "atss(iou='gmaiou')"])
def test_a_box_without_area_gets_no_anchor(assigner):
    criterion, _ = make_criterion(assigner=assigner)
    predictions, targets = make_predictions(1), make_targets(3)
    targets.boxes[1, 2] = targets.boxes[1, 0]
    index = criterion.assign(predictions.anchors, predictions.level_sizes, [targets]).gt_index
    assert not (index == 1).any() and (index == 0).any()
    assert all(value.isfinite() for value in criterion(predictions, [targets]).values())


def test_an_empty_image_adds_only_its_hardest_anchors():
    targets = [make_targets(4), make_targets(0)]
    predictions = make_predictions(2)
    alone, _ = make_criterion()
    first = alone(select(predictions, slice(0, 1)), targets[:1])
    both = alone(predictions, targets)
    assert_same(
        {k: both[k] for k in KEYS - {"semantic"}}, {k: first[k] for k in KEYS - {"semantic"}}
    )

    least = 6
    criterion, _ = make_criterion(ohem_min_negatives=least)
    positives = (
        criterion.assign(predictions.anchors, predictions.level_sizes, targets).gt_index >= 0
    ).sum()
    assert 3 * positives > least  # so that the other image is as before
    hardness = -F.log_softmax(predictions.class_logits[1], -1)[:, 0]
    hardest = hardness.sort(descending=True).values[:least]
    torch.testing.assert_close(
        criterion(predictions, targets)["class"], first["class"] + hardest.sum() / positives
    )


def test_order_of_images_does_not_matter():
    criterion, _ = make_criterion("bce + 0.5*mse", ohem_min_negatives=8)
    predictions, targets = (
        make_predictions(3),
        [make_targets(3), make_targets(0), make_targets(5, seed=2, crowds=1)],
    )
    reference = criterion(predictions, targets)
    for permutation in itertools.permutations(range(3)):
        losses = criterion(
            select(predictions, list(permutation)), [targets[i] for i in permutation]
        )
        assert_same(losses, reference)


def test_order_of_ground_truths_does_not_matter():
    criterion, _ = make_criterion()
    predictions, target = make_predictions(1), make_targets(6, crowds=1)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = type(target)(
        target.boxes[order], target.labels[order], target.crowd[order], target.masks[order]
    )
    assert_same(criterion(predictions, [target]), criterion(predictions, [shuffled]))


def test_the_same_seed_draws_the_same_subset():
    criterion, _ = make_criterion(masks_to_train=2)
    predictions, targets = make_predictions(2), [make_targets(5), make_targets(6, seed=1)]

    def mask_loss(seed):
        return criterion(predictions, targets, generator=torch.Generator().manual_seed(seed))[
            "mask"
        ].item()

    assert mask_loss(1) == mask_loss(1)
    assert len({mask_loss(seed) for seed in range(8)}) > 1


def test_drawing_leaves_the_global_generator_alone():
    criterion, _ = make_criterion(masks_to_train=2)
    predictions, targets = make_predictions(1), [make_targets(5)]
    state = torch.get_rng_state()
    criterion(predictions, targets, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


def test_subsets_are_right_on_average():
    predictions, targets = make_predictions(1), [make_targets(5)]
    whole, _ = make_criterion(mask_iou=False)
    part, _ = make_criterion(mask_iou=False, masks_to_train=4)
    generator = torch.Generator().manual_seed(0)
    mean = torch.stack(
        [part(predictions, targets, generator=generator)["mask"].detach() for _ in range(300)]
    ).mean()
    torch.testing.assert_close(
        mean, whole(predictions, targets)["mask"].detach(), rtol=0.05, atol=0
    )


def test_rescale_false_counts_the_subset_as_it_is():
    predictions, targets = make_predictions(1), [make_targets(5)]
    rescaled, _ = make_criterion("bce", masks_to_train=2)
    plain, _ = make_criterion("bce(rescale=False)", masks_to_train=2)
    positives = int(
        (plain.assign(predictions.anchors, predictions.level_sizes, targets).gt_index >= 0).sum()
    )
    order = torch.rand(1, len(predictions.anchors))
    ratio = (
        rescaled(predictions, targets, subset_order=order)["mask"]
        / plain(predictions, targets, subset_order=order)["mask"]
    )
    assert ratio.item() == pytest.approx(positives / 2)


def test_last_terms_add_up_to_the_mask_loss():
    criterion, _ = make_criterion("bce + 0.5*mse(region='image', weight=ramp(0, 1, end=10))")
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(4, seed=1)]
    loss = criterion(predictions, targets, step=5)["mask"]
    terms = criterion.last_terms
    assert list(terms) == [
        "bce",
        "bce/weighted",
        "mse(region='image')",
        "mse(region='image')/weighted",
    ]
    assert not any(value.requires_grad for value in terms.values())
    torch.testing.assert_close(
        terms["bce/weighted"] + terms["mse(region='image')/weighted"], loss.detach()
    )
    torch.testing.assert_close(
        terms["mse(region='image')/weighted"], 6.125 * 0.25 * terms["mse(region='image')"]
    )


def test_micro_batches_with_shared_normalizers_add_up_to_the_batch():
    criterion, net = make_criterion("bce + mse", ohem_min_negatives=4)
    predictions, targets = (
        make_predictions(4),
        [make_targets(3), make_targets(0), make_targets(5, seed=2), make_targets(2, seed=3)],
    )
    whole = criterion(predictions, targets)
    parts = [(select(predictions, slice(i, i + 1)), targets[i : i + 1]) for i in range(4)]
    assignments = [criterion.assign(p.anchors, p.level_sizes, t) for p, t in parts]
    normalizers = criterion.normalizers(assignments)
    assert normalizers.images == 4
    pieces = [
        criterion(p, t, assignment=a, normalizers=normalizers)
        for (p, t), a in zip(parts, assignments, strict=True)
    ]
    summed = {key: sum(piece[key] for piece in pieces) for key in KEYS}
    assert_same(summed, whole)
    for ours, theirs in zip(
        gradients(summed, predictions, net), gradients(whole, predictions, net), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_normalizers_divide():
    criterion, _ = make_criterion()
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(4, seed=1)]
    one = criterion(predictions, targets, normalizers=Normalizers(torch.tensor(1.0), 1.0))
    ten = criterion(predictions, targets, normalizers=Normalizers(torch.tensor(10.0), 5.0))
    for key in KEYS:
        assert (one[key] / ten[key]).item() == pytest.approx(5 if key == "semantic" else 10)


def test_optional_outputs():
    criterion, _ = make_criterion(mask_iou=False)
    predictions, targets = make_predictions(1), [make_targets(3)]
    predictions.semantic_logits = None
    assert criterion(predictions, targets).keys() == {"box", "class", "mask"}


def test_half_precision_predictions_and_autocast():
    criterion, _ = make_criterion()
    predictions, targets = (
        make_predictions(2, dtype=torch.bfloat16),
        [make_targets(3), make_targets(0)],
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(predictions, targets)
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())
    exact = select(predictions, slice(None))
    for field in ("box_deltas", "class_logits", "mask_coeffs", "prototypes", "semantic_logits"):
        setattr(exact, field, getattr(exact, field).float())
    assert_same(losses, criterion(exact, targets))


def test_the_network_is_borrowed():
    criterion, net = make_criterion()
    assert list(criterion.parameters()) == [] and not criterion.state_dict()
    assert (
        criterion.mask_sizes == MASK_SIZES
        and criterion.needs_full_masks is False
        and criterion.extras == []
    )


def test_masks_at_a_size_that_targets_do_not_carry_are_refused():
    criterion, _ = make_criterion()
    with pytest.raises(ValueError, match="16x16"):
        criterion(make_predictions(1), [make_targets(2).reduce([(8, 8)], keep_full=False)])


def test_a_mask_loss_whose_needs_nobody_meets_is_refused(monkeypatch):
    from layers.losses import registry

    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))

    @registry.pixel_loss("far", "needs a map that targets do not have", needs=("unheard_of",))
    def far(logits, target, *, unheard_of):
        return logits * unheard_of

    with pytest.raises(ValueError, match="unheard_of"):
        make_criterion("far")


def test_distances_follow_their_ground_truth():
    """Every sampled positive gets the map of the instance it is matched with, carried by the
    targets or computed when asked for."""
    criterion, _ = make_criterion("boundary(region='image')", mask_iou=False)
    predictions, targets = (
        make_predictions(3),
        [make_targets(3), make_targets(0), make_targets(5, seed=1, crowds=2)],
    )
    assignment = criterion.assign(predictions.anchors, predictions.level_sizes, targets)
    expected, positives = 0.0, 0
    for b, (index, target) in enumerate(zip(assignment.gt_index, targets, strict=True)):
        for a in (index >= 0).nonzero()[:, 0]:
            mask = target.mask_at(*MASK_SIZES[0])[index[a]]
            distance = signed_distance_map(mask[None])[0]
            p = (predictions.prototypes[b] @ predictions.mask_coeffs[b, a]).sigmoid()
            expected += 6.125 * (distance * (p - mask.float())).mean()
            positives += 1
    carried = [t.reduce(MASK_SIZES, keep_full=False, extras=criterion.extras) for t in targets]
    assert all(set(t.extras) == {DISTANCE} for t in carried)
    for given in (targets, carried, [t.to("cpu") for t in carried]):
        torch.testing.assert_close(criterion(predictions, given)["mask"], expected / positives)


def test_distances_are_not_computed_from_masks_on_a_device():
    target = make_targets(2).to("meta")
    with pytest.raises(ValueError, match="no distance at 16x16.*reduce"):
        target.extra_at("distance", 16, 16)


def test_a_notebook_trains_with_a_model_and_an_expression():
    cfg = tiny.config(model={"mask_iou_net": False})
    model = build_model(cfg)
    criterion = Criterion(model, mask="bce + dice")
    batch = tiny.batch(cfg, criterion, [2, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(3):
        losses = criterion(model(batch.images / 255), batch.targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append(sum(losses.values()).item())
    assert totals[2] < totals[0] and set(criterion.last_terms) >= {"bce", "dice"}


@pytest.mark.parametrize("classification", ["ohem", "focal"])
def test_what_the_model_says_is_what_the_config_says(classification):
    """The same shapes, losses and values as with build_criterion, where the config has defaults."""
    cfg = tiny.config(loss={"classification": classification}, model={"mask_iou_net": True} | LARGE)
    model = build_model(cfg)
    ours, theirs = Criterion(model), build_criterion(cfg, model)
    assert (ours.mask_sizes, ours.image_size) == (theirs.mask_sizes, theirs.image_size)
    assert ours.class_loss.sigmoid == (classification == "focal")
    batch = tiny.batch(cfg, ours, [2])
    predictions = model(batch.images.float())
    assert_same(ours(predictions, batch.targets), theirs(predictions, batch.targets))


def test_a_class_loss_that_does_not_fit_the_model_is_refused():
    with pytest.raises(ValueError, match="sigmoid.*softmax"):
        Criterion(build_model(tiny.config()), classification="focal")
