"""scripts/losses.py: what it prints, its exit codes, and one line for a mistake."""

import pytest

from layers.losses import registry
from layers.losses.mask import build_mask_loss
from layers.losses.plugins import load_plugins
from yolact.analysis.losses import plot as plot_losses
from yolact.commands import losses

PLUGIN = """
from layers.losses.registry import pixel_loss, region_loss

@pixel_loss("tripled", "three times the squared error", soft="proper")
def tripled(logits, target, *, k=3.0, fast: bool = False):
    return k * (logits.sigmoid() - target) ** 2

@region_loss("unweighted", "forgets the weight")
def unweighted(logits, target, weight):
    return (logits.sigmoid() - target).square().mean((1, 2))

@region_loss("raising", "raises")
def raising(logits, target, weight):
    raise RuntimeError("no such thing")
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture
def call(capsys):
    def call(*words):
        code = losses.program([*words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_list_names_every_loss_and_its_source(call, plugin):
    code, out, _ = call("list", "--plugins", plugin)
    assert code == 0
    assert all(name in out for name in registry.names())
    assert line_of(out, "dice(").split()[2:5] == ["region", "not", "proper*"]
    assert line_of(out, "unweighted").split()[1:3] == ["region", "unstated"]
    assert "tripled(k=3.0, fast=False)" in out and "Focal Loss for Dense Object Detection" in out


def test_a_name_is_checked_with_its_switches_and_copies_are_found(call):
    code, out, _ = call("check", "survey_huber", "dice")
    assert code == 0
    assert line_of(out, "dice(denominator='squares')").split()[1] == "sound"
    assert line_of(out, "COPY") == "COPY   survey_huber = 0.5 * mse"
    assert "3 checked, all sound" in out


def test_costs_are_relative_to_bce(call):
    _, out, _ = call("check", "bce")
    time, memory = (float(cell.removesuffix("x")) for cell in line_of(out, "bce").split()[3:5])
    assert 0.3 < time < 3 and memory == 1


def test_a_plugin_is_checked_as_the_built_in_ones(call, plugin):
    code, out, _ = call("check", "tripled", "unweighted", "raising", "--plugins", plugin)
    assert code == 1
    assert line_of(out, "tripled(fast=True)").split()[1] == "sound"
    assert "COPY   tripled = 3 * mse" in out and "COPY   tripled = tripled(fast=True)" in out
    assert "FAILS  unweighted: depends on logits outside the box (check: weight zero)" in out
    assert line_of(out, "raising").split()[1:6] == ["FAILS", "1", "unstated", "-", "-"]
    assert "soft   unweighted is given targets cut at 0.5" in out
    assert "FAILS  raising: raises RuntimeError: no such thing (check: shape)" in out
    assert "2 of 4 fail" in out


def test_a_loss_that_declares_that_it_pools_instances_is_sound(call):
    code, out, _ = call("check", "survey_dice")
    assert code == 0
    assert "survey_dice(unsummed=True)" in out and "FAILS" not in out


def test_what_does_not_apply_and_what_to_know_are_said(call):
    code, out, _ = call(
        "check", "bce(sampling=points(40))", "weighted_bce", "mse(weight=ramp(0, 1))"
    )
    assert code == 0 and line_of(out, "bce(sampling").endswith("permutation, alone, flips")
    assert (
        line_of(out, "weighted_bce").endswith(" -")
        and "note   weighted_bce reads the whole target" in out
    )


@pytest.mark.parametrize("command", [["compare", "bce"], ["plot"]])
def test_a_loss_that_raises_is_one_line(command, call, plugin, tmp_path):
    code, _, err = call(
        *command, "raising", "--plugins", plugin, "--out", str(tmp_path / "page.png")
    )
    assert code == 2 and len(err.splitlines()) == 1
    assert err.startswith(
        "error: the term raising raises RuntimeError: no such thing: mend the loss"
    )


def test_nothing_asked_shows_the_commands(capsys):
    with pytest.raises(SystemExit, match="2"):
        losses.program([])
    assert "losses.py compare" in capsys.readouterr().err


def test_all_means_every_name(plugin):
    load_plugins([plugin])
    expressions = losses.expressions_of(["all"])
    assert {text.split("(")[0] for text in expressions} == set(registry.names())
    assert "raising" in expressions and "lovasz(kind='softmax')" in expressions


def test_compare(call):
    assert call("compare", "survey_huber(delta=2)", "mse")[:2] == (
        1,
        "survey_huber(delta=2) = 0.5 * mse\n",
    )
    code, out, _ = call("compare", "bce", "mse")
    assert code == 0 and "different losses" in out


def test_plot_draws_pixel_region_distance_and_signed_losses(call, tmp_path):
    out = tmp_path / "new" / "page.png"
    code, text, _ = call(
        "plot",
        "bce",
        "dice",
        "hausdorff",
        "boundary(constant=False)",
        "bce + dice",
        "--out",
        str(out),
    )
    assert code == 0 and text == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_without_the_pictures_says_so_and_weighs_schedules_fully(call, tmp_path, monkeypatch):
    monkeypatch.setattr(plot_losses, "REAL", tmp_path / "absent.json")
    seen = []
    monkeypatch.setattr(
        plot_losses, "mask_rows", lambda rows, mask, losses, styles: seen.extend(losses)
    )
    code, _, err = call("plot", "0.5*mse(weight=ramp(0, 2))", "--out", str(tmp_path / "page.png"))
    assert code == 0 and "note: " in err and "absent.json is not there" in err
    assert seen[0].weights(0) == [1]


def test_plot_draws_gradients_of_two_objects_and_a_disc():
    masks = {"disc": plot_losses.disc(), **plot_losses.real_masks()}
    assert len(masks) == 3 and all(100 < mask.sum() < 1000 for mask in masks.values())
    mask = masks["disc"]
    values, norms = plot_losses.of_masks(build_mask_loss("bce"), mask, [mask, ~mask])
    assert values[0] < 1e-3 and values[1] == pytest.approx(plot_losses.SURE, rel=1e-3)
    # sigmoid(-2) and sigmoid(2) a pixel
    assert norms == pytest.approx([0.1192 / plot_losses.SIZE, 0.8808 / plot_losses.SIZE], rel=1e-3)


@pytest.mark.parametrize(
    "words, fix",
    [
        (["check", "bec"], "did you mean bce?"),
        (["check", "BCE"], "did you mean bce?"),
        (["check", "ciou"], "is a box loss (loss.box=ciou)"),
        (["check", "survey/dice"], "is a config"),
        (["plot", "rank_sort(delta=1)"], "is a class loss"),
        (["check", "bce +"], "(character 6 of"),
        (["check", "bce + huber(delta=3)"], "(character 13 of"),
        (["compare", "bce"], "two expressions"),
        (["compare", "bce", "msee"], "did you mean mse?"),
        (["plot"], "expressions"),
        (["plot", "dicee"], "did you mean dice"),
        (["chek", "bce"], "did you mean check?"),
        (["list", "bce"], "nothing else"),
        (["check", "bce", "--plugins", "absent.py"], "absent.py"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(words, fix, call):
    code, _, err = call(*words)
    assert code == 2
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and fix in err


def test_an_unknown_flag_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        losses.program(["list", "--foo"])
    assert len(capsys.readouterr().err.splitlines()) == 1
