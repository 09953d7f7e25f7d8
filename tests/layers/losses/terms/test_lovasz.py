import pytest
import torch

from layers.losses.terms.lovasz import lovasz


def random_instances(n=3, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(n, size, size, generator=generator) > 0.6).double()


def jaccard_loss(wrong, member):
    """1 - IoU of the pixels `member` with what is left of them when the pixels `wrong` are
    misjudged."""
    predicted = member ^ wrong
    union = (predicted | member).sum()
    return 1 - float((predicted & member).sum() / union) if union else 0.0


def by_definition(errors, member):
    """The Lovász extension: errors in falling order, each times the growth of the Jaccard loss of
    the set of pixels up to it."""
    wrong, before, total = torch.zeros_like(member), 0.0, 0.0
    for pixel in errors.argsort(descending=True):
        wrong[pixel] = True
        after = jaccard_loss(wrong, member)
        total += float(errors[pixel]) * (after - before)
        before = after
    return total


def test_hinge_by_definition():
    logits, target = random_instances()
    value = lovasz(logits, target, torch.ones_like(target))
    for row in range(3):
        errors = (1 - logits[row] * (2 * target[row] - 1)).relu().flatten()
        assert value[row].item() == pytest.approx(by_definition(errors, target[row].flatten() > 0))


@pytest.mark.parametrize("objects", ["some", "none", "all"])
def test_softmax_by_definition(objects):
    logits, target = random_instances()
    target = {"some": target, "none": torch.zeros_like(target), "all": torch.ones_like(target)}[
        objects
    ]
    value = lovasz(logits, target, torch.ones_like(target), kind="softmax")
    for row in range(3):
        errors = (logits[row].sigmoid() - target[row]).abs().flatten()
        classes = [c for c in (target[row].flatten() > 0, target[row].flatten() == 0) if c.any()]
        assert value[row].item() == pytest.approx(
            sum(by_definition(errors, c) for c in classes) / len(classes)
        )


def test_of_sure_predictions_it_is_the_jaccard_loss():
    _, target = random_instances()
    _, predicted = random_instances(seed=1)
    value = lovasz(1000 * (2 * predicted - 1), target, torch.ones_like(target), kind="softmax")
    for row in range(3):
        wrong = (predicted[row] != target[row]).flatten()
        expected = sum(jaccard_loss(wrong, target[row].flatten() == c) for c in (0, 1)) / 2
        assert value[row].item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
def test_weight_zero_is_the_same_as_no_pixel(kind):
    logits, target = random_instances(size=8)
    weight = torch.zeros_like(target)
    weight[:, 2:6, 1:7] = 1
    inner = (slice(None), slice(2, 6), slice(1, 7))
    torch.testing.assert_close(
        lovasz(logits, target, weight, kind=kind),
        lovasz(logits[inner], target[inner], weight[inner], kind=kind),
    )
    assert (lovasz(logits, target, torch.zeros_like(weight), kind=kind) == 0).all()
    # the pixels of weight 0 may come first in the order, where intersection and union are still
    # empty
    empty = torch.zeros_like(target)
    torch.testing.assert_close(
        lovasz(logits, empty, weight, kind=kind),
        lovasz(logits[inner], empty[inner], weight[inner], kind=kind),
    )


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
def test_ties_do_not_change_the_value(kind):
    logits, target = (
        torch.zeros(1, 4, 4, dtype=torch.float64),
        torch.zeros(1, 4, 4, dtype=torch.float64),
    )
    target[0, :2] = 1
    values = {
        lovasz(logits, t, torch.ones_like(t), kind=kind).item()
        for t in (target, target.flip(1), target.transpose(1, 2))
    }
    assert max(values) - min(values) < 1e-12
    # equal errors times the Jaccard loss of everything wrong
    assert max(values) == pytest.approx(1 if kind == "hinge" else 0.5)
