"""Registries: what may be registered, what replaces what, and how all four answer a mistake."""

import pickle
from typing import Literal

import pytest

from layers.assign import ASSIGNERS, MaxIoU, build_assigner, register_assigner
from layers.losses.box import BOX_LOSSES, box_loss, build_box_loss
from layers.losses.classification import CLASS_LOSSES, build_class_loss
from layers.losses.expr import ExpressionError, parse_call
from layers.losses.mask import build_mask_loss
from layers.losses.registry import MASK_LOSSES
from layers.names import did_you_mean, unknown_name
from layers.records import Bound, Chosen, Param, ParameterError, Record, Registry

BUILD = {
    "mask loss": (MASK_LOSSES, build_mask_loss),
    "box loss": (BOX_LOSSES, build_box_loss),
    "class loss": (CLASS_LOSSES, build_class_loss),
    "assigner": (ASSIGNERS, build_assigner),
}


@pytest.fixture
def toys():
    return Registry("toy", Record, options=("weight",), words=("ramp",))


def of_module(module, text="A toy."):
    """A function as a module of this name would define it."""

    def toy(a, b, *, k: float = 1.0):
        return k * a * b

    toy.__module__, toy.__doc__ = module, text
    return toy


def test_a_record_is_read_from_the_function(toys):
    function = toys.register(
        of_module("one", "A toy.\n\nMore about it."),
        ("a", "b"),
        kind="wooden",
        bounds={"k": Bound("(0, 9)")},
        source="a paper",
    )
    (record,) = toys.records()
    assert record == Record(
        "toy",
        "wooden",
        "A toy",
        function,
        (Param("k", float, 1.0, bound=Bound("(0, 9)")),),
        source="a paper",
    )
    assert record.signature == "toy(k=1.0)" and record.module == "one"
    assert function.__doc__ == "A toy.\n\nMore about it.\n\nSource: a paper"
    assert toys.names("wooden") == ["toy"] and toys.names("tin") == []


def test_the_same_module_and_name_replace(toys):
    first, second = of_module("__main__"), of_module("__main__", "A better toy.")
    for function in (first, second):
        toys.register(function, ("a", "b"))
    assert toys.get("toy").function is second and toys.names() == ["toy"]


def test_another_place_is_refused_and_both_are_named(toys):
    first = toys.register(of_module("one"), ("a", "b"))
    with pytest.raises(ValueError, match="of two.*toy: .*taken by one.*toy: choose another"):
        toys.register(of_module("two"), ("a", "b"))
    assert toys.get("toy").function is first


def test_the_file_of_a_place_is_named():
    place = BOX_LOSSES.get("giou").place
    assert place.startswith("layers.losses.box.giou (") and place.endswith("box.py)")


@pytest.mark.parametrize("name", ["weight", "ramp", "lambda", "two words", ""])
def test_names_that_mean_something_else_are_refused(toys, name):
    with pytest.raises(ValueError, match="choose another"):
        toys.register(of_module("one"), ("a", "b"), name=name)
    assert toys.names() == []


def test_a_class_takes_its_parameters_and_nothing_else(toys):
    class Machine:
        """A machine."""

        def __init__(self, *, speed: int = 3, mode: Literal["up", "down"] = "up"):
            self.speed, self.mode = speed, mode

    toys.register(Machine, (), name="machine")
    assert toys.get("machine").params == (
        Param("speed", int, 3),
        Param("mode", str, "up", choices=("up", "down")),
    )
    made = toys.read("machine(mode='down')")()
    assert (made.speed, made.mode) == (3, "down")


def test_what_was_chosen_is_called_with_all_parameters(toys):
    toys.register(of_module("one"), ("a", "b"))
    chosen = toys.read("toy(k=3)")
    assert chosen(2, 5) == 30 and chosen.params == {"k": 3.0}
    assert chosen.expression == "toy(k=3)" and toys.read("toy(k=1)").expression == "toy"


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (build_box_loss, "smooth_l1(beta=0.5)"),
        (build_class_loss, "focal(gamma=1)"),
        (build_assigner, "max_iou(positive=0.6)"),
    ],
)
def test_what_was_parsed_or_chosen_is_not_read_again(build, text, monkeypatch):
    registry = next(registry for registry, own in BUILD.values() if own is build)
    call, chosen = parse_call(text), registry.read(text)
    assert isinstance(chosen, Chosen) and pickle.loads(pickle.dumps(chosen)) == chosen
    monkeypatch.setattr("layers.records.parse_call", None)
    assert build(call).expression == build(chosen).expression == text


@pytest.mark.parametrize("what", BUILD)
def test_all_registries_answer_alike(what):
    registry, build = BUILD[what]
    assert registry.what == what
    name = next(record.name for record in registry.records() if len(record.params) > 0)
    known = registry.get(name).params[0].name
    for text, line, position in (
        (f"{name}x", f"no {what} is called '{name}x'; did you mean {name}", 0),
        (
            f"{name}({known}x=1)",
            f"{what} '{name}' has no parameter '{known}x'; did you mean {known}",
            len(name) + 1,
        ),
    ):
        with pytest.raises(ExpressionError) as caught:
            build(text)
        assert str(caught.value).startswith(line) and caught.value.position == position
    with pytest.raises(ParameterError):
        registry.check(registry.get(name), {known: object})


def test_where_nothing_is_close_all_are_listed():
    with pytest.raises(ValueError, match="no box loss is called 'qqq'; known: ciou, diou, giou, "):
        BOX_LOSSES.get("qqq")
    with pytest.raises(ParameterError, match="'giou' has no parameter 'eps'; known: none"):
        BOX_LOSSES.check(BOX_LOSSES.get("giou"), {"eps": 1})


def test_case_does_not_matter_for_what_is_near():
    assert did_you_mean("BCE", ["bce", "dice"]) == "; did you mean bce?"
    assert did_you_mean("thing", ["Things", "other"]) == "; did you mean Things?"
    assert did_you_mean("qqq", ["bce"]) == "" and did_you_mean("qqq", [], most=2) == "; known: none"
    assert did_you_mean("qqq", ["b", "a"], most=2) == "; known: b, a"
    assert did_you_mean("qqq", ["b", "a", "c"], most=2) == ""
    assert unknown_name("arm", "qqq", map(str, range(13))) == "no arm is called 'qqq'"
    assert unknown_name("arm", "q", ["b", "a"]) == "no arm is called 'q'; known: a, b"


def test_a_built_in_box_loss_is_not_replaced_from_elsewhere():
    with pytest.raises(ValueError, match="box loss 'giou' .* taken by layers.losses.box.giou"):

        @box_loss("giou", "corners", "another")
        def giou(predicted, wanted):
            return predicted


def test_an_assigner_in_a_notebook_cell_that_runs_twice(monkeypatch):
    monkeypatch.setattr(ASSIGNERS, "by_name", dict(ASSIGNERS.by_name))
    for threshold in (0.5, 0.9):

        @register_assigner("strict")
        class Strict(MaxIoU):
            """MaxIoU of one threshold."""

            def __init__(self, *, positive: float = threshold):
                super().__init__(positive=positive)

    assert build_assigner("strict").positive == 0.9
    assert ASSIGNERS.get("strict").summary == "MaxIoU of one threshold"
