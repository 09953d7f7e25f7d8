import pytest
import torch

from layers.extras import EXTRAS, extra, make_extras


@pytest.fixture(autouse=True)
def own_extras(monkeypatch):
    """Each test registers into a copy."""
    monkeypatch.setattr(EXTRAS, "by_name", dict(EXTRAS.by_name))


def area(masks):
    return masks.sum((1, 2))


def test_an_extra_is_made_of_masks_in_its_type():
    extra("area", "pixels", dtype=torch.int32)(area)
    made = make_extras(["area"], torch.ones(3, 2, 5, dtype=torch.bool))
    assert made["area"].tolist() == [10, 10, 10] and made["area"].dtype == torch.int32
    assert make_extras([], torch.ones(3, 2, 5)) == {}


def test_a_cell_that_runs_twice_replaces_its_extra_and_another_place_is_refused():
    def define(factor):
        @extra("area")
        def area_of(masks):
            return factor * masks.sum((1, 2))

    define(1), define(2)
    assert EXTRAS.get("area").of(torch.ones(1, 2, 2)).item() == 8

    def elsewhere(masks):
        return masks

    elsewhere.__module__ = "elsewhere"
    with pytest.raises(ValueError, match="extra 'area' of elsewhere.* taken by .*area_of"):
        extra("area")(elsewhere)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="did you mean distance"):
        import layers.losses.registry  # noqa: F401  registers it

        EXTRAS.get("distances")
    with pytest.raises(ValueError, match="no extra can be called 'an area'"):
        extra("an area")(area)
    extra("area")(lambda masks: masks.sum())
    with pytest.raises(ValueError, match="3 entries"):
        EXTRAS.get("area").of(torch.ones(3, 2, 2))
