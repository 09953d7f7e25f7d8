import pytest
import torch

from layers import extras
from layers.extras import extra, get_extra, make_extras


@pytest.fixture(autouse=True)
def own_extras(monkeypatch):
    """Each test registers into a copy."""
    monkeypatch.setattr(extras, "_extras", dict(extras._extras))


def area(masks):
    return masks.sum((1, 2))


def test_an_extra_is_made_of_masks_in_its_type():
    extra("area", "pixels", dtype=torch.int32)(area)
    made = make_extras(["area"], torch.ones(3, 2, 5, dtype=torch.bool))
    assert made["area"].tolist() == [10, 10, 10] and made["area"].dtype == torch.int32
    assert make_extras([], torch.ones(3, 2, 5)) == {}


def test_a_cell_that_runs_twice_replaces_its_extra_and_another_function_is_refused():
    def define(factor):
        @extra("area")
        def area_of(masks):
            return factor * masks.sum((1, 2))

    define(1), define(2)
    assert get_extra("area").of(torch.ones(1, 2, 2)).item() == 8
    with pytest.raises(ValueError, match="area_of"):
        extra("area")(area)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="did you mean distance"):
        import layers.losses.registry  # noqa: F401  registers it

        get_extra("distances")
    with pytest.raises(ValueError, match="parameter"):
        extra("an area")
    extra("area")(lambda masks: masks.sum())
    with pytest.raises(ValueError, match="3 entries"):
        get_extra("area").of(torch.ones(3, 2, 2))
