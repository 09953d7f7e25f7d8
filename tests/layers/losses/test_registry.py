import os
import sys
from typing import Literal

import pytest
import torch

from layers.losses import plugins, registry
from layers.losses.box import BOX_LOSSES
from layers.losses.classification import CLASS_LOSSES
from layers.losses.mask import build_mask_loss
from layers.losses.options import _CHOICES, LEARNED, SHAPES
from layers.losses.plugins import load_plugins
from layers.losses.registry import (
    Bound,
    Param,
    ParameterError,
    get,
    names,
    pixel_loss,
    region_loss,
)

check_params = registry.MASK_LOSSES.check


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Each test registers into a copy."""
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    monkeypatch.setattr(plugins, "_loaded_files", {})


def test_built_in_losses_are_there_on_import():
    assert {"bce", "mse", "huber"} <= set(names())
    assert names() == sorted(names())
    assert "bce" in names("pixel") and "bce" not in names("region")


def test_a_record_holds_what_the_signature_says():
    @region_loss(
        "shape",
        "a summary",
        bounds={"smooth": Bound("[0, inf)")},
        needs=("distance",),
        signed=True,
        source="a paper, eq. 1",
    )
    def shape(
        logits,
        target,
        weight,
        *,
        distance,
        smooth=1.0,
        rounds=3,
        strict=True,
        mode: Literal["sum", "max"] = "sum",
        limit: float | None = None,
    ):
        return logits.sum((1, 2))

    info = get("shape")
    assert (info.name, info.kind, info.summary, info.needs, info.signed, info.source) == (
        "shape",
        "region",
        "a summary",
        ("distance",),
        True,
        "a paper, eq. 1",
    )
    assert info.params == (
        Param("smooth", float, 1.0, bound=Bound("[0, inf)")),
        Param("rounds", int, 3),
        Param("strict", bool, True),
        Param("mode", str, "sum", choices=("sum", "max")),
        Param("limit", float, None, optional=True),
    )
    assert info.signature == "shape(smooth=1.0, rounds=3, strict=True, mode='sum', limit=None)"
    assert check_params(info, {"smooth": 2, "limit": 1}) == {
        "smooth": 2.0,
        "rounds": 3,
        "strict": True,
        "mode": "sum",
        "limit": 1.0,
    }
    assert type(check_params(info, {"smooth": 2})["smooth"]) is float
    for wrong in (
        {"smooth": -1},
        {"smooth": True},
        {"smooth": None},
        {"smooth": "1"},
        {"rounds": 1.5},
        {"rounds": True},
        {"strict": 1},
        {"mode": "mean"},
        {"limit": "a"},
        {"distance": 1.0},
    ):
        with pytest.raises(ParameterError) as caught:
            check_params(info, wrong)
        assert caught.value.parameter in wrong


@pytest.mark.parametrize(
    "interval, inside, outside",
    [
        ("(0, 1)", [0.5], [0, 1]),
        ("[0, 1]", [0, 1], [-0.1, 1.1]),
        ("(0, 1]", [1], [0]),
        ("[0, inf)", [0, 1e30], [-1e-9]),
    ],
)
def test_bounds(interval, inside, outside):
    bound = Bound(interval)
    assert all(x in bound for x in inside) and not any(x in bound for x in outside)


@pytest.mark.parametrize("interval", ["0, 1", "(1, 0)", "(0, 1", "(a, b)"])
def test_a_wrong_interval_is_refused(interval):
    with pytest.raises(ValueError):
        Bound(interval)


def test_names_are_suggested():
    with pytest.raises(ValueError, match="did you mean huber"):
        get("hubber")
    with pytest.raises(ValueError, match="did you mean bce"):
        get("BCE")
    with pytest.raises(ParameterError, match="did you mean delta"):
        check_params(get("huber"), {"detla": 0.5})
    with pytest.raises(ParameterError, match="did you mean region"):
        check_params(get("bce"), {"regoin": "image"})


def test_huber_refuses_delta_that_makes_it_mse():
    for delta in (1, 1.0, 1.3):
        with pytest.raises(ValueError, match="exactly MSE/2"):
            check_params(get("huber"), {"delta": delta})
    with pytest.raises(ValueError):
        check_params(get("huber"), {"delta": 0})


def test_taken_names_are_refused():
    with pytest.raises(ValueError, match="taken by layers.losses.terms.pixel.bce"):

        @pixel_loss("bce", "another")
        def another(logits, target):
            return logits


@pytest.mark.parametrize("decorator", [pixel_loss, region_loss])
@pytest.mark.parametrize("called", [False, True])
def test_a_plain_decorator_takes_name_and_summary_from_the_function(decorator, called):
    weight = ", weight" if decorator is region_loss else ""
    scope = {}
    exec(f"def own(logits, target{weight}, *, k=2.0):\n '''First line.\n\n Second.'''", scope)
    function = (decorator() if called else decorator)(scope["own"])
    assert function is scope["own"]
    info = get("own")
    assert (info.name, info.summary, info.function) == ("own", "First line", function)
    assert info.kind == ("region" if weight else "pixel") and info.defaults == {"k": 2.0}


@pytest.mark.parametrize("decorator", [pixel_loss, pixel_loss(source="a paper")])
def test_a_plain_decorator_wants_a_docstring(decorator):
    def own(logits, target):
        return logits

    with pytest.raises(ValueError, match="mask loss 'own' has no summary: write a docstring"):
        decorator(own)
    assert "own" not in names()


def test_a_plain_decorator_wants_a_name():
    with pytest.raises(ValueError, match="no mask loss can be called '<lambda>'"):
        pixel_loss(lambda logits, target: logits)


def test_a_notebook_cell_that_runs_twice_replaces_its_loss():
    cell = """
from layers.losses.registry import pixel_loss

@pixel_loss
def own(logits, target):
    "A loss of one's own."
    return (logits.sigmoid() - target).abs() * FACTOR
"""
    inputs = torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.tensor([[0.0, 0, 1, 1]])
    for factor in (1, 3):
        exec(cell, {"__name__": "__main__", "FACTOR": factor})
        assert build_mask_loss("own")(*inputs).item() == 0.5 * factor
    with pytest.raises(ValueError, match="'own' of elsewhere.own: .* taken by __main__.own"):
        exec(cell, {"__name__": "elsewhere"})


@pytest.mark.parametrize(
    "given",
    [
        {"signed_when": {"delta": 1}},
        {"pooled_when": {"delta": 1}},
        {"whole_when": {"delta": 1}},
        {"spans": ("delta",)},
    ],
)
def test_parameters_that_a_record_speaks_of_must_be_there(given):
    with pytest.raises(ValueError, match=f"mask loss 'own' names delta in {next(iter(given))}"):
        pixel_loss("own", "mine", **given)(lambda logits, target: logits)
    assert "own" not in names()


def test_words_are_those_that_weight_and_sampling_know():
    assert set(registry.WORDS) == {*SHAPES, LEARNED, *_CHOICES}


@pytest.mark.parametrize(
    "name", [*registry.RESERVED, *registry.WORDS, "None", "True", "lambda", "in"]
)
def test_reserved_names_are_refused(name):
    with pytest.raises(ValueError, match=f"no mask loss can be called '{name}': .*choose another"):
        pixel_loss(name, "x")(lambda logits, target: logits)
    assert name not in names()


@pytest.mark.parametrize("name", registry.RESERVED)
def test_reserved_parameters_are_refused(name):
    scope = {}
    exec(f"def f(logits, target, *, {name}=1.0): return logits", scope)
    with pytest.raises(ValueError, match=name):
        pixel_loss("mine", "x")(scope["f"])
    assert "mine" not in names()


@pytest.mark.parametrize(
    "source",
    [
        "def f(logits): ...",
        "def f(target, logits): ...",
        "def f(logits, target, delta=1.0): ...",
        "def f(logits, target, *rest): ...",
        "def f(logits, target, **rest): ...",
        "def f(logits, target, *, delta): ...",
        "def f(logits, target, *, delta=(1, 2)): ...",
        "def f(logits, target, *, delta=None): ...",
        "def f(logits, target, *, other=1.0): ...",  # bounds name delta
        "def f(logits, target, *, delta=3.0): ...",  # outside its own bounds
    ],
)
def test_signatures_that_expressions_cannot_call_are_refused(source):
    scope = {}
    exec(source, scope)
    with pytest.raises(ValueError, match="mine"):
        pixel_loss(
            "mine",
            "x",
            bounds={"delta": Bound("(0, 2)")} if "delta" in source or "other" in source else None,
        )(scope["f"])
    assert "mine" not in names()


PLUGIN = """
from layers.losses.registry import pixel_loss

@pixel_loss("linear", "absolute error of probabilities")
def linear(logits, target, *, power: float = 1.0):
    return (logits.sigmoid() - target).abs() ** power
"""


def test_a_plugin_file_adds_a_loss(tmp_path):
    path = tmp_path / "my_losses.py"
    path.write_text(PLUGIN)
    for _ in range(2):  # loading it again is harmless
        loss = build_mask_loss("bce + 0.5*linear(power=2)", plugins=[str(path)])
    assert loss.expression == "bce + 0.5*linear(power=2)"
    logits, target = torch.randn(2, 4, 4), torch.ones(2, 4, 4)
    boxes = torch.tensor([[0.0, 0, 1, 1]]).expand(2, 4)
    values = loss.terms(logits, target, boxes)
    torch.testing.assert_close(
        values["linear(power=2)"], ((logits.sigmoid() - target) ** 2).mean((1, 2))
    )


def test_a_plugin_file_that_has_changed_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "my_losses.py"
    inputs = torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.tensor([[0.0, 0, 1, 1]])
    for power, value in ((1, 0.5), (2, 0.25)):  # files of one length and one time
        path.write_text(PLUGIN.replace("= 1.0", f"= {power}.0"))
        os.utime(path, (1e9, 1e9))
        assert build_mask_loss("linear", plugins=[str(path)])(*inputs).item() == value
    kept = get("linear")
    path.write_text(PLUGIN + "\n1/0\n")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        load_plugins([str(path)])
    assert get("linear") is kept


def test_two_plugins_with_one_loss_are_refused_by_both_names(tmp_path):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(PLUGIN)
    load_plugins([str(tmp_path / "one.py")])
    with pytest.raises(ValueError, match=r"two.py: mask loss 'linear' of .*two.py\).*one.py\)"):
        load_plugins([str(tmp_path / "two.py")])


def test_a_failing_plugin_leaves_nothing_in_any_registry(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(
        "from layers.losses.box import box_loss\n\n@box_loss('l1', 'offsets', 'plain')\n"
        "def l1(predicted, wanted):\n    return (predicted - wanted).abs()\n\n1/0\n"
    )
    before = BOX_LOSSES.names()
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        load_plugins([str(path)])
    assert BOX_LOSSES.names() == before


def test_a_plugin_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "loss_plugin_for_test.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["loss_plugin_for_test"])
    assert "linear" in names("pixel")


@pytest.mark.parametrize(
    "content, message",
    [
        (PLUGIN + "\n1/0\n", r"ZeroDivisionError: division by zero \(line 8\): correct the file"),
        (PLUGIN.replace('"linear"', '"bce"'), "taken"),
        ("def broken(:\n", "SyntaxError in line 1 .*: correct that line"),
        (
            PLUGIN + "import sys\nsys.exit(3)\n",
            r"calls sys.exit \(line 8\): a plugin is imported, so let it define losses",
        ),
        (
            "import not_installed_anywhere",
            r"imports not_installed_anywhere, which is not installed \(line 1\): install it",
        ),
    ],
)
def test_a_failing_plugin_is_named_and_leaves_nothing(tmp_path, content, message):
    path = tmp_path / "broken.py"
    path.write_text(content)
    before = names()
    with pytest.raises(ValueError, match=message) as caught:
        load_plugins([str(path)])
    assert str(caught.value).startswith(f"loss.plugins={path}: ")
    assert names() == before
    path.write_text(PLUGIN)  # corrected
    load_plugins([str(path)])
    assert "linear" in names()


@pytest.mark.parametrize("plugin", ["nowhere/losses.py", "no_such_module_at_all"])
def test_a_missing_plugin_is_named(plugin):
    with pytest.raises(ValueError, match=plugin):
        load_plugins([plugin])


def test_a_path_without_its_ending_is_explained(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    for plugin in ("mine", f"{tmp_path}/mine"):
        with pytest.raises(ValueError, match=f"ends in .py; did you mean {plugin}.py"):
            load_plugins([plugin])


@pytest.mark.parametrize(
    "info",
    [*registry.MASK_LOSSES.records(), *BOX_LOSSES.records(), *CLASS_LOSSES.records()],
    ids=lambda info: info.name,
)
def test_formula_and_source_are_in_the_docstring(info):
    text = info.function.__doc__
    assert (
        info.source
        and text.endswith(f"\n\nSource: {info.source}")
        and len(text.partition("Source:")[0].strip()) > 5
    )


@pytest.mark.parametrize("name", names())
def test_every_loss_keeps_its_promises(name):
    info = get(name)
    assert info.summary and "\n" not in info.summary
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 7, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(3, 6, 7) > 0.5).double()
    extras = {need: torch.randn(3, 6, 7, dtype=torch.float64) for need in info.needs}
    weight = () if info.kind == "pixel" else (torch.ones_like(target),)
    value = info.function(logits, target, *weight, **info.defaults, **extras)
    assert value.shape == (logits.shape if info.kind == "pixel" else logits.shape[:1])
    assert torch.isfinite(value).all()
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    if not info.signed:
        assert (value >= 0).all()
        perfect = info.function((target * 2 - 1) * 40, target, *weight, **info.defaults, **extras)
        assert perfect.abs().max() < 1e-6
    assert torch.autograd.gradcheck(
        lambda x: info.function(x, target, *weight, **info.defaults, **extras), logits
    )
