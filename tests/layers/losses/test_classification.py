"""Class losses; OHEM cross-entropy is also compared in tests/reference_cases/loss.py and
test_criterion.py."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from layers.losses.classification import CLASS_LOSSES, build_class_loss
from tests.layers.losses.inputs import CLASSES, make_criterion, make_predictions, make_targets

IMAGES, ANCHORS = 3, 40


def inputs(scale=1.0, dtype=torch.float64):
    """(logits, rows, labels, background, counted): some anchors positive, some ignored, the rest
    background."""
    generator = torch.Generator().manual_seed(0)
    logits = (
        (scale * torch.randn(IMAGES, ANCHORS, CLASSES, generator=generator, dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
    )
    rows = torch.tensor([2, 7, 41, 85, 119])
    labels = torch.tensor([0, 4, 2, 2, 1])
    background = torch.rand(IMAGES * ANCHORS, generator=generator) > 0.2
    background[rows] = False
    counted = background.clone()
    counted[rows] = True
    return logits, rows, labels, background.view(IMAGES, ANCHORS), counted


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
def test_focal_equals_torchvision(alpha, gamma):
    logits, rows, labels, background, counted = inputs(3.0)
    value = build_class_loss(f"focal(alpha={alpha}, gamma={gamma})")(
        logits, rows, labels, background
    )
    target = torch.zeros(IMAGES * ANCHORS, CLASSES, dtype=logits.dtype)
    target[rows, labels] = 1
    every = sigmoid_focal_loss(
        logits.flatten(0, 1), target, alpha=-1 if alpha is None else alpha, gamma=gamma
    )
    expected = every[counted].sum()
    torch.testing.assert_close(value, expected)
    ours, theirs = (
        torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (value, expected)
    )
    torch.testing.assert_close(ours, theirs)
    assert not ours.flatten(0, 1)[~counted].any()  # ignored anchors


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("scale", [100, 1e4, 1e6])
def test_focal_is_finite_at_extreme_logits(scale, gamma):
    logits, rows, labels, background, _ = inputs(scale, torch.float32)
    value = build_class_loss(f"focal(gamma={gamma})")(logits, rows, labels, background)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and gradient.isfinite().all()


def test_focal_without_positives_counts_the_negatives():
    logits, _, _, background, _ = inputs()
    none = torch.zeros(0, dtype=torch.int64)
    value = build_class_loss("focal")(logits, none, none, background)
    expected = sigmoid_focal_loss(logits, torch.zeros_like(logits))[background].sum()
    torch.testing.assert_close(value, expected)


def test_the_criterion_divides_it_by_the_positives_and_leaves_ignored_anchors_out():
    criterion, _ = make_criterion(classification=build_class_loss("focal"), class_weight=2.0)
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(4, seed=1, crowds=1)]
    predictions.class_logits = predictions.class_logits[..., 1:]
    index = criterion.assign(predictions.anchors, predictions.level_sizes, targets).gt_index
    assert (index == -2).any()
    target = torch.zeros(2, index.shape[1], CLASSES)
    for b, image in enumerate(targets):
        for a in (index[b] >= 0).nonzero()[:, 0].tolist():
            target[b, a, image.labels[index[b, a]]] = 1
    expected = (
        sigmoid_focal_loss(predictions.class_logits, target)[index != -2].sum() / (index >= 0).sum()
    )
    torch.testing.assert_close(criterion(predictions, targets)["class"], 2 * expected)


def test_each_loss_says_which_head_it_reads():
    assert {name: build_class_loss(name).sigmoid for name in CLASS_LOSSES.names()} == {
        "focal": True,
        "ohem": False,
        "quality_focal": True,
        "rank_sort": True,
    }
    assert build_class_loss("ohem").needs == ("negatives",)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("focl", r"no class loss is called 'focl'; did you mean focal\?"),
        ("focal(gama=2)", "no parameter 'gama'; did you mean gamma"),
        ("ohem(negatives=3)", "no parameter 'negatives'; known: none"),
        ("focal(gamma=-1)", r"outside \[0, inf\)"),
        ("focal(alpha=1)", r"outside \(0, 1\): alpha=None weights both by 1"),
        ("focal(2)", "given by name"),
        ("ohem + focal", "expected"),
    ],
)
def test_mistakes_are_named(expression, message):
    with pytest.raises(ValueError, match=message):
        build_class_loss(expression)


def test_canonical_expressions():
    assert build_class_loss("focal(gamma=2, alpha=0.25)").expression == "focal"
    assert build_class_loss("focal(gamma=1, alpha=None)").expression == "focal(alpha=None, gamma=1)"


def test_class_weights_are_torchs_and_of_positives_alone():
    weights = [0.5 + label for label in range(CLASSES)]
    logits, rows, labels, background, _ = inputs()
    softmax = torch.cat([torch.zeros_like(logits[..., :1]), logits], 2)
    value = build_class_loss("ohem", weights)(
        softmax, rows, labels, background, negatives=[4, 4, 4]
    )
    plain = build_class_loss("ohem")(softmax, rows, labels, background, negatives=[4, 4, 4])
    factors = torch.tensor([1.0, *weights], dtype=logits.dtype)
    chosen = softmax.flatten(0, 1)[rows]
    whole, ones = (
        torch.nn.functional.cross_entropy(chosen, labels + 1, weight=w, reduction="sum")
        for w in (factors, None)
    )
    torch.testing.assert_close(value - plain, whole - ones)


def test_class_weights_of_focal():
    weights = [1.0 + label for label in range(CLASSES)]
    logits, rows, labels, background, _ = inputs()
    value = build_class_loss("focal", weights)(logits, rows, labels, background)
    target = torch.zeros(IMAGES * ANCHORS, CLASSES, dtype=logits.dtype)
    target[rows, labels] = 1
    every = sigmoid_focal_loss(logits.flatten(0, 1), target)
    more = (every[rows, labels] * torch.tensor(weights)[labels]).sum() - every[rows, labels].sum()
    plain = build_class_loss("focal")(logits, rows, labels, background)
    torch.testing.assert_close(value - plain, more.to(value.dtype))


@pytest.mark.parametrize("name", ["rank_sort", "quality_focal"])
def test_losses_that_take_no_class_weights_say_so(name):
    with pytest.raises(ValueError, match=f"{name} takes none: .*loss.classification to focal or"):
        build_class_loss(name, [1.0] * CLASSES)
