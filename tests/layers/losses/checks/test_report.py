import pytest

from layers.losses import registry
from layers.losses.checks.report import check_loss
from layers.losses.registry import get, pixel_loss


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))


def test_a_function_is_checked_with_its_switches():
    report = check_loss(get("dice").function)
    assert [row.expression for row in report.rows] == ["dice", "dice(denominator='squares')"]
    assert report.sound and str(report).endswith("2 sound")


def test_an_expression_is_checked_as_it_is():
    (row,) = check_loss("1*bce + 0.5*weighted_bce(region='box')").rows
    assert row.expression == "bce + 0.5*weighted_bce" and row.sound
    assert "reads the whole target" in row.lines[0]


def test_a_broken_loss_prints_what_is_wrong(own_registry):
    @pixel_loss("upside_down", "rewards errors")
    def upside_down(logits, target):
        return -(logits.sigmoid() - target).square()

    report = check_loss(upside_down)
    assert not report.sound and "sign" in sum(report.rows[0].failures.values(), [])
    assert "FAILS  upside_down: is negative" in str(report)
    assert str(report).endswith("1 of 1 fail")


def test_what_losses_do_with_soft_targets_is_shown(own_registry):
    (row,) = check_loss("bce + focal + dice").rows
    assert row.soft == "proper, binary only, not proper"
    assert [line for line in row.lines if line.startswith("soft")] == [
        "soft   dice is least at p = 1 for regions of every share from 0.1 to 0.9"
    ]

    @pixel_loss("raising", "raises")
    def raising(logits, target):
        raise RuntimeError("broken")

    (row,) = check_loss("raising").rows
    assert row.soft == "unstated" and row.soft_notes == ()


def test_a_function_that_is_no_loss_is_told_how_to_become_one():
    with pytest.raises(ValueError, match="no registered loss.*@pixel_loss"):
        check_loss(len)
