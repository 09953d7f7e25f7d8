"""data/resolve.py: layers, overrides, messages, autoscale, and text that gives the same config
back."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import CONFIGS, DATASETS
from data.resolve import (
    ADDED,
    ConfigError,
    config_hash,
    dump_yaml,
    list_configs,
    list_datasets,
    load_config,
)
from data.schema import Config
from data.settings import type_of
from data.yaml_text import read_yaml, write_yaml
from layers.losses import registry
from tests.data.sets import annotation, image_entry, write_set
from tests.pin_configs import pinned

ROOT = Path(__file__).parents[2]


def load(source, *overrides):
    return load_config(source, overrides, check_names=False)


def refused(source, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(source, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------ sources


def test_lists():
    assert "yolact_base" in list_configs() and "coco2017" in list_datasets()


def test_name_with_and_without_config():
    assert load("yolact_base_config") == load("yolact_base")


def test_file_with_base(tmp_path):
    config = load(written(tmp_path, "base: yolact_small\nloss:\n  mask: mse\ntrain.lr: 2e-3\n"))
    assert (config.name, config.loss.mask, config.train.lr) == ("mine", "mse", 2e-3)
    assert config.model == load("yolact_small").model


def test_run_folder_and_its_config(tmp_path):
    config = load("yolact_plus_tiny", "train.lr=3e-4", "name=elsewhere")
    written(tmp_path, dump_yaml(config), "config.yaml")
    assert load(tmp_path) == load(tmp_path / "config.yaml") == config


def test_mapping():
    config = load("yolact_small", "train.seed=3")
    assert load(config.model_dump()) == load(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", pinned())
def test_presets_are_the_pinned_ones(name):
    """A config of one's own needs no pin; a preset that is changed on purpose is pinned anew."""
    assert config_hash(load(name)) == pinned()[name], "python -m tests.pin_configs pins it anew"
    assert load_config(load(name).model_dump(), check_names=False) == load(name)


def test_no_settings_are_printed_into_configs():
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "base:" in text and len(text.splitlines()) <= 60, (
            f"{path}: name a base, and what differs"
        )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_loss_examples_load_with_names_checked(path):
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    "text, expected",
    [
        ("base: yolact_smal", "no config is called 'yolact_smal'; did you mean yolact_small"),
        ("base: yolact_small\ntrain: {lrr: 1}", "unknown key train.lrr; did you mean train.lr"),
        ("base: yolact_small\ntrian: {lr: 1}", "unknown key trian; did you mean"),
        ("base: yolact_small\ntrain: 5", "train: is a section of settings, got 5"),
        (
            "base: yolact_small\ntrain: {lr: 1}\ntrain: {lr: 2}",
            "line 3, column 1: the key 'train' appears twice",
        ),
        ("base: yolact_small\ntrain: {lr: 1}\ntrain.lr: 2", "train.lr is set twice"),
        ("base: yolact_small\ntrain: {lr: -1}", "train.lr=-1: must be > 0"),
        ("base: [", "line 1"),
        (
            "base: yolact_small\nname: !!python/object/apply:os.system [echo]",
            "could not determine a constructor",
        ),
        ("", "is empty (0 bytes)"),
        ("# nothing", "found nothing"),
        ("name: a\0b", "not readable as YAML: unacceptable character #x0000"),
        ("- 1", "found list"),
        ("train: {lr: 1}", "without `base: NAME`"),
    ],
)
def test_bad_file(tmp_path, text, expected):
    message = refused(written(tmp_path, text))
    assert expected in message and "mine.yaml" in message


@pytest.mark.parametrize(
    "source, expected",
    [
        ("yolact_bse", "did you mean yolact_base"),
        ("nothing_like_it", "--list configs"),
        ("missing.yaml", "no such config file"),
        (ROOT / "tests", "folder without a config.yaml"),
    ],
)
def test_bad_source(source, expected):
    assert expected in refused(source)


# ---------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    "text, section, field, value",
    [
        ("train.lr=1e-4", "train", "lr", 1e-4),
        ("train.lr=5", "train", "lr", 5.0),
        ("train.seed=010", "train", "seed", 10),
        ("train.iterations=1_000", "train", "iterations", 1000),
        ("train.lr_steps=[10, 20]", "train", "lr_steps", (10, 20)),
        ("train.compile=true", "train", "compile", True),
        ("train.init_from=1e-4", "train", "init_from", "1e-4"),
        ("data.class_names=[no, 'on', 1:30]", "data", "class_names", ("no", "on", "1:30")),
        ("data.label_map={3: 0, a: 0}", "data", "label_map", {3: 0, "a": 0}),
        ("data.label_map=none", "data", "label_map", None),
        (
            "loss.mask=bce + 0.5*mse(region='image')",
            "loss",
            "mask",
            "bce + 0.5*mse(region='image')",
        ),
        ("loss.mask='mse'", "loss", "mask", "mse"),
        ("model.pretrained=none", "model", "pretrained", "none"),
        ("loss.ohem_min_negatives=none", "loss", "ohem_min_negatives", None),
        (
            "model.anchor_scales=[[1],[2],[3],[4],[5]]",
            "model",
            "anchor_scales",
            ((1,), (2,), (3,), (4,), (5,)),
        ),
    ],
)
def test_override(text, section, field, value):
    found = getattr(getattr(load("yolact_small", "data.class_names=[a]", text), section), field)
    same = isinstance if isinstance(value, str) else lambda a, kind: type(a) is kind
    assert found == value and same(found, type(value))


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["train.lr=-1"], "train.lr=-1: must be > 0"),
        (["train.lr=fast"], "train.lr=fast: must be a number"),
        (["train.lr=true"], "train.lr=true: this setting is not a switch"),
        (["train.batch_size=1.5"], "train.batch_size=1.5: must be a whole number"),
        (["train.compile=maybe"], "train.compile=maybe: must be true or false"),
        (["train.lrr=1"], "unknown key train.lrr; did you mean train.lr"),
        (["lr=1"], "did you mean train.lr?"),
        (["loss.lr=1"], "did you mean"),
        (["zzz=1"], "sections model, data"),
        (["train=1"], "train is a section"),
        (["train.lr"], "not key=value"),
        (["train.lr_steps=[1"], "train.lr_steps=[1: line 1"),
        (["train.lr_steps=1000,2000"], "must be a list, [a, b]"),
        (["model.backbone=resnet51"], "did you mean resnet50"),
        (["model.max_size=240", "model.mask_iou_net=true"], "use max_size >= 249"),
        (["data.class_names=cig_butt"], "8 one-letter classes"),
        (["dataset=cigarete"], "did you mean cigarettes"),
        (["loss.mask=bce +"], "loss.mask=bce +: "),
        (["loss.mask=__import__('os').system('x')"], "loss.mask="),
        (["assign.name=max_iou(0.5"], "assign.name=max_iou(0.5: "),
    ],
)
def test_bad_override(overrides, expected):
    assert expected in refused("yolact_small", *overrides)


def test_keywords_say_what_overrides_say():
    texts = load("quickstart", "train.iterations=100", "loss.mask=dice", "dataset=nuclei")
    assert texts == load_config(
        "quickstart",
        check_names=False,
        dataset="nuclei",
        loss=dict(mask="dice"),
        **{"train.iterations": 100},
    )
    assert load_config("quickstart", check_names=False, data=dict(label_map={3: 0})).data.label_map
    scaled = load_config("yolact_base", train=dict(batch_size=16, lr=5e-4), check_names=False)
    assert (scaled.train.lr, scaled.train.iterations) == (5e-4, 400_000)


@pytest.mark.parametrize(
    "overrides, keywords, expected",
    [
        ([], dict(train=dict(iteratoins=1)), "train.iteratoins; did you mean train.iterations"),
        ([], dict(train=dict(lr=-1)), "^train.lr=-1: must be > 0"),
        ([], dict(train=dict(lr=True)), "train.lr=true: this setting is not a switch"),
        ([], dict(model=dict(backbone="resnet51")), "must be one of resnet10, .* mean resnet50"),
        ([], dict(train=dict(lr=1), **{"train.lr": 1}), "train.lr is set twice"),
        (["train.lr=2"], dict(train=dict(lr=1)), "train.lr is given as a keyword too"),
    ],
)
def test_bad_keywords(overrides, keywords, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config("yolact_small", overrides, check_names=False, **keywords)


def test_max_size_alone_changes_nothing_else():
    changed, base = load("yolact_base", "model.max_size=230"), load("yolact_base")
    assert changed == base.model_copy(
        update={"model": base.model.model_copy(update={"max_size": 230})}
    )


@pytest.mark.parametrize(
    "override", ["dataset=nuclei", "dataset=nuclei_dataset", "data.name=nuclei"]
)
def test_data_set_replaces_the_whole_section(override):
    data = load("yolact_base", "data.class_names=[cell]", override).data
    assert data.root == DATASETS["nuclei"]["root"] and data.keep_empty
    assert data.class_names == ("cell",)  # set beside it, in whichever order


def test_own_data_set_name_is_a_label(tmp_path):
    data = load("yolact_base", "data.name=mine", "data.root=elsewhere").data
    assert (data.name, data.root, len(data.class_names)) == ("mine", "elsewhere", 80)


def test_data_set_by_name_in_a_file(tmp_path):
    path = written(tmp_path, "base: yolact_base\ndata: {name: nuclei, keep_empty: false}\n")
    data = load(path).data
    assert (data.class_names, data.keep_empty) == (("nucleus",), False)


# ------------------------------------------------------------------------------------- names, torch


@pytest.mark.parametrize(
    "override, expected",
    [
        ("loss.mask=bec", "did you mean"),
        ("loss.mask=huber(delta=1)", "delta"),
        ("loss.mask=huber(detla=0.5)", "delta"),
        ("assign.name=max_iuo", "max_iou"),
        ("loss.plugins=[not_there.py]", "not_there.py"),
        (
            "loss.box=guio",
            r"^loss.box=guio: no box loss is called 'guio'; did you mean giou\? \(column 1\)$",
        ),
        ("loss.box=smooth_l1(beta=-1)", "beta=-1.0 is outside"),
        ("loss.classification=focall", "no class loss is called .*did you mean focal"),
        (
            "loss.classification=focal(gama=2)",
            r"no parameter 'gama'; did you mean gamma\? \(column 7\)$",
        ),
    ],
)
def test_names_are_checked(override, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config("yolact_small", [override])


@pytest.mark.parametrize(
    "override", ["loss.box=giou +", "loss.classification=focal(2)", "loss.box=''"]
)
def test_syntax_is_checked_without_names(override):
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        load_config("yolact_small", [override], check_names=False)


def test_without_names_no_torch():
    code = (
        "import sys; from data.resolve import load_config; load_config('yolact_base', "
        "['loss.mask=bec'], check_names=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---------------------------------------------------------------------------------------- autoscale


def test_autoscale_is_the_published_rule():
    train = load("yolact_base", "train.batch_size=16").train
    assert (train.lr, train.iterations, train.lr_steps) == (
        2e-3,
        400_000,
        (140_000, 300_000, 350_000, 375_000),
    )
    assert not train.autoscale
    train = load("yolact_base", "train.batch_size=5").train
    assert (train.lr, train.iterations) == (pytest.approx(6.25e-4), 1_280_000)


def test_autoscale_leaves_command_line_values():
    train = load("yolact_base", "train.batch_size=16", "train.lr=5e-4", "train.lr_steps=[7]").train
    assert (train.lr, train.iterations, train.lr_steps) == (5e-4, 400_000, (7,))


def test_autoscale_off():
    train = load("yolact_base", "train.batch_size=16", "train.autoscale=false").train
    assert (train.lr, train.iterations) == (1e-3, 800_000)
    assert load("yolact_small", "train.batch_size=16").train.lr == 1e-3


def test_autoscale_once(tmp_path):
    scaled = load("yolact_base", "train.batch_size=32")
    again = load(written(tmp_path, dump_yaml(scaled)), "train.batch_size=64")
    assert (again.train.lr, again.train.iterations) == (scaled.train.lr, scaled.train.iterations)


def test_autoscale_in_a_file_leaves_what_stands_beside_the_batch_size(tmp_path):
    train = load(written(tmp_path, "base: yolact_base\ntrain: {batch_size: 16, lr: 3e-3}")).train
    assert (train.lr, train.iterations) == (3e-3, 400_000)
    train = load(
        written(tmp_path, "base: yolact_base\ntrain: {lr: 3e-3}"), "train.batch_size=16"
    ).train
    assert train.lr == 6e-3


# ------------------------------------------------------------------------------------------- epochs


def on_images(tmp_path, count, *, empty=0):
    """Overrides that name a set of `count` annotated images and `empty` others."""
    images = [image_entry(key, f"{key}.png") for key in range(count + empty)]
    annotations = [annotation(key, key) for key in range(count)]
    write_set(tmp_path, images=images, annotations=annotations, draw=False)
    return ["data.train_annotations=annotations.json", f"data.root={tmp_path}"]


def test_epochs_are_turned_into_iterations_and_the_schedule_follows(tmp_path):
    data = on_images(tmp_path, 21, empty=5)
    train = load("yolact_base", *data, "train.epochs=40").train
    assert train.epochs is None and train.iterations == 105  # 40 x 21 / 8
    assert train.lr_steps == (37, 79, 92, 98)  # their shares of 800,000
    assert train.warmup_iterations == 10
    assert load("yolact_base", *data, "train.epochs=0.1").train.iterations == 1
    more = load("yolact_base", *data, "train.epochs=40", "data.keep_empty=true").train
    assert more.iterations == 130
    long = load("yolact_small", *data, "train.epochs=4000").train
    assert (long.iterations, long.warmup_iterations) == (10_500, 500)


def test_autoscale_leaves_the_length_of_epochs(tmp_path):
    data = on_images(tmp_path, 20)
    train = load("yolact_base", *data, "train.epochs=40", "train.batch_size=16").train
    assert (train.lr, train.iterations, train.lr_steps) == (2e-3, 50, (18, 38, 44, 47))
    path = written(tmp_path, "base: yolact_base\ntrain: {epochs: 40, lr_steps: [60]}", "own.yaml")
    half = load(path, *data, "train.batch_size=16").train
    assert (half.iterations, half.lr_steps) == (50, (30,))  # 60 of 100 as before
    again = load(written(tmp_path, dump_yaml(load("yolact_base", *data, "train.epochs=40"))))
    assert again.train.iterations == 100 and again.train.lr_steps == (35, 75, 88, 94)


def test_what_is_given_beside_epochs_stays(tmp_path):
    data = on_images(tmp_path, 20)
    words = [*data, "train.epochs=40", "train.lr_steps=[60]", "train.warmup_iterations=50"]
    train = load("yolact_base", *words).train
    assert (train.iterations, train.lr_steps, train.warmup_iterations) == (100, (60,), 50)
    path = written(tmp_path, "base: yolact_base\ntrain: {epochs: 40, lr_steps: [60]}")
    train = load(path, *data).train
    assert (train.iterations, train.lr_steps, train.warmup_iterations) == (100, (60,), 10)


def test_iterations_of_the_command_line_replace_epochs_of_a_file(tmp_path):
    data = on_images(tmp_path, 20)
    path = written(tmp_path, "base: yolact_base\ntrain.epochs: 40")
    assert load(path, *data).train.iterations == 100
    train = load(path, *data, "train.iterations=7").train
    assert (train.iterations, train.epochs) == (7, None)
    assert train.lr_steps == load("yolact_base").train.lr_steps
    for source, words in (
        (path, ["train.epochs=3", "train.iterations=7"]),
        (written(tmp_path, "base: yolact_base\ntrain: {epochs: 4, iterations: 7}"), []),
    ):
        with pytest.raises(ConfigError, match="both given: give one of them"):
            load(source, *data, *words)
    assert load("yolact_base", "train.epochs=none", "train.iterations=7").train.iterations == 7


def test_epochs_wait_where_no_image_can_be_counted(tmp_path):
    assert load("yolact_base", "train.epochs=40").train.epochs == 40
    broken = on_images(tmp_path, 2)
    (tmp_path / "annotations.json").write_text("{")
    assert load("yolact_base", *broken, "train.epochs=40").train.epochs == 40


# ----------------------------------------------------------------------------------- there and back

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
) | st.sampled_from(
    [
        "1e-4",
        "no",
        "null",
        "~",
        "010",
        "1:30",
        "2017-01-01",
        "0x1F",
        "true",
        "=",
        "- a",
        "{b",
        "#c",
        "1_0",
        ".5",
        "'",
        '"q"',
        "a: b",
    ]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    preset=st.sampled_from(sorted(CONFIGS)),
    batch=st.integers(1, 200),
    lr=st.none() | st.floats(1e-12, 1e3),
    names=st.lists(TEXT.filter(str.strip), min_size=1, max_size=4, unique=True),
    root=TEXT,
    ids=st.none() | st.dictionaries(st.integers() | TEXT, st.just(0), max_size=3),
)
def test_dump_gives_the_same_config_back(tmp_path, preset, batch, lr, names, root, ids):
    config = load(
        preset, f"train.batch_size={batch}", *([] if lr is None else [f"train.lr={lr!r}"])
    )
    data = config.data.model_copy(
        update={"class_names": tuple(names), "root": root, "label_map": ids}
    )
    config = Config.model_validate(config.model_copy(update={"data": data}).model_dump())
    back = load(written(tmp_path, dump_yaml(config)))
    assert back == config
    assert config_hash(back) == config_hash(config)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_yaml_gives_plain_data_back(value):
    assert read_yaml(write_yaml(value)) == value


def test_dump_is_plain_yaml_to_others():
    import yaml

    config = load("yolact_plus_resnet50", "train.lr=1e-5", "data.class_names=[no, '1e-4', '010']")
    assert Config.model_validate(yaml.safe_load(dump_yaml(config))) == config


def test_hash_ignores_the_name_only():
    base = load("yolact_small")
    assert config_hash(base) == config_hash(load("yolact_small", "name=other"))
    assert config_hash(base) != config_hash(load("yolact_small", "train.seed=1"))
    assert config_hash(base) != config_hash(load("yolact_small", "data.label_map={1: 0}"))
    assert len(config_hash(base)) == 12


@pytest.mark.parametrize("key", ADDED)
def test_a_newer_setting_changes_the_hash_only_where_it_is_not_its_default(key):
    section, field = key.split(".")
    base = load("yolact_resnet50")
    one = getattr(base, section)
    default = type(one).model_fields[field].default
    choices = (False, True) if type_of(key) is bool else get_args(type_of(key))
    choices = {
        "eval.precision": ("float32", "bf16"),
        "train.epochs": (1.0, 2.0),
        "train.max_minutes": (1.0, 2.0),
        "train.patience": (1, 2),
        "augment.copy_paste": (0.5,),
        "augment.rotation": (10.0,),
        "augment.scale_jitter": ((0.5, 2.0),),
        "loss.class_weights": ({"cat": 2.0},),
        "train.repeat_threshold": (0.1,),
        "train.trackers": (("mlflow",),),
    }.get(key, choices)
    values = [default, *(v for v in choices if v != default)]
    assert len(values) > 1
    hashes = [
        config_hash(base.model_copy(update={section: one.model_copy(update={field: value})}))
        for value in values
    ]
    assert len(set(hashes)) == len(values) and hashes[0] == pinned()["yolact_resnet50"]


@pytest.mark.parametrize(
    "body, message",
    [
        ("logits.mean((1, 2))", r"must return a tensor of shape \(4, 16, 16\)"),
        ("logits > 0", "floating-point"),
        ("logits.double()", "dtype"),
        ("target - logits.sigmoid()", "is negative .* not declared signed"),
        ("logits.sigmoid().log() * float('nan')", "not finite"),
        ("undefined_name", "NameError: name 'undefined_name'"),
    ],
)
def test_a_plugin_loss_is_tried_before_any_data_is_read(tmp_path, monkeypatch, body, message):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    plugin = tmp_path / "own.py"
    plugin.write_text(
        "from layers.losses.registry import pixel_loss\n\n"
        f"@pixel_loss('own', 'mine')\ndef own(logits, target):\n    return {body}\n"
    )
    with pytest.raises(
        ConfigError, match=f"loss.mask=bce [+] 2[*]own: the term own .*{message}.*losses.py check"
    ):
        load_config("quickstart", [f"loss.plugins={plugin}", "loss.mask=bce + 2*own"])


def test_coverage_is_refused_to_a_loss_that_does_not_state_what_it_does_with_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    (tmp_path / "own.py").write_text(
        "from layers.losses.registry import pixel_loss\n\n"
        "@pixel_loss('own', '')\ndef own(logits, target):\n"
        "    return (logits.sigmoid() - target).square()\n"
    )
    settings = [f"loss.plugins={tmp_path / 'own.py'}", "loss.mask=bce + own"]
    load_config("quickstart", [*settings, "loss.mask_target=binary"])
    with pytest.raises(ConfigError, match="the term own does not state .*soft='proper'"):
        load_config("quickstart", settings)


def test_a_weight_that_is_0_in_the_whole_training_is_refused():
    mask = "loss.mask=bce + dice(weight=ramp(0, 1, start=100000))"
    with pytest.raises(
        ConfigError,
        match="the term dice has weight=ramp.0, 1, start=100000., which is 0 in all 1100 steps",
    ):
        load_config("quickstart", ["train.iterations=1100", mask])
    assert load_config(
        "quickstart", ["train.iterations=100002", mask]
    ).loss.mask == mask.removeprefix("loss.mask=")


@pytest.mark.parametrize(
    "text, message",
    [
        ("raise RuntimeError('no luck')", "^loss.plugins=.*own.py: RuntimeError: no luck"),
        ("import not_installed_anywhere", "own.py.*not_installed_anywhere"),
        (
            "from layers.losses.registry import pixel_loss\n@pixel_loss('bce', '')\ndef "
            "bce(logits, target): return logits",
            "bce.*taken",
        ),
        (
            "from layers.losses.registry import pixel_loss\n@pixel_loss('own', '')\ndef "
            "own(logits, target, *, weight=1.0): return logits",
            "weight: every term has an option of that name",
        ),
    ],
)
def test_a_plugin_that_fails_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [f"loss.plugins={tmp_path / 'own.py'}", "loss.mask=own"])


EXPRESSIONS = {
    "loss.mask": "bce + 0.5*mse(weight=ramp(0, 1))",
    "loss.box": "giou",
    "loss.classification": "focal(gamma=1)",
    "assign.name": "atss(k=7)",
}


def test_an_expression_is_parsed_once_from_the_config_to_the_criterion(monkeypatch):
    from layers.losses import expr, mask
    from yolact.build import build_criterion, build_model

    parsed, read = [], []
    tree, read_terms = expr._tree, mask.read_terms
    monkeypatch.setattr(expr, "_tree", lambda text: parsed.append(text) or tree(text))
    monkeypatch.setattr(
        mask, "read_terms", lambda given: read.append(str(given)) or read_terms(given)
    )
    tiny = [
        "model.mask_iou_net=false",
        "model.backbone=resnet10",
        "model.backbone_width=8",
        "model.max_size=64",
    ]
    values = [f"{key}={text}" for key, text in EXPRESSIONS.items()]
    config = load_config("quickstart", [*tiny, *values])
    criterion = build_criterion(config, build_model(config))
    assert sorted(parsed) == sorted(EXPRESSIONS.values())
    # where the config is checked, and where the criterion is made
    assert read.count(EXPRESSIONS["loss.mask"]) == 2
    assert criterion.mask_loss.expression == EXPRESSIONS["loss.mask"]


def test_a_parsed_expression_is_text_to_everybody_else():
    config = load_config("quickstart", [f"{key}={text}" for key, text in EXPRESSIONS.items()])
    dumped = config.model_dump()
    for key, text in EXPRESSIONS.items():
        section, field = key.split(".")
        assert getattr(getattr(config, section), field) == text
        assert type(dumped[section][field]) is str and dumped[section][field] == text
    plain = config.model_copy(
        update={"loss": config.loss.model_copy(update={"mask": str(config.loss.mask)})}
    )
    assert plain == config and config_hash(plain) == config_hash(config)
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_mistake_in_an_expression_is_placed_without_torch():
    with pytest.raises(ConfigError, match=r"loss.mask=bce \+: .*column 6"):
        load_config("quickstart", ["loss.mask=bce +"], check_names=False)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("model.max_size=1000000000000000000000000000000", "must be <= 8192"),
        ("model.backbone_width=1000000000", "must be <= 1024"),
        (f"model.anchor_ratios={[1] * 10_000}", "must hold at most 256 values"),
        ("model.anchor_scales=[[1e300], [1], [1], [1], [1]]", "must be <= 1e+06"),
        ("model.pixel_mean=[.nan, 0, 0]", r"pixel_mean[0]=nan: must be a finite number"),
        ("model.pixel_std=[1e-300, 1, 1]", "must be >= 1e-06"),
        ("augment.zoom_out_max=.inf", "must be a finite number"),
        (f"train.iterations=1{'0' * 400}", "must be <= 1e+12"),
        ("train.num_workers=1000000000", "must be <= 1024"),
        ("train.seed=9223372036854775808", "must be <= 9.22337e+18"),
    ],
)
def test_no_setting_is_without_bounds(override, why):
    with pytest.raises(ConfigError, match=re.escape(why)) as told:
        load_config("quickstart", [override], check_names=False)
    assert len(str(told.value)) < 200


def test_anchors_of_a_cell_are_bounded_together():
    scales = [[*range(1, 21)]] * 5
    with pytest.raises(ConfigError, match="make 400 anchors at every cell: 256 are the most"):
        load_config(
            "quickstart",
            [f"model.anchor_scales={scales}", f"model.anchor_ratios={[*range(1, 21)]}"],
            check_names=False,
        )


def bomb(levels, width=9):
    """A text in which every line names the one before `width` times."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_aliases_cannot_write_more_than_a_config_holds():
    assert read_yaml("a: &a {b: [1, 2]}\nc: *a") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    assert read_yaml(bomb(4))["a2"] == [[["x"]] * 9] * 9
    assert len(bomb(10)) < 1000
    with pytest.raises(ValueError, match="more than 100000 values"):
        read_yaml(bomb(10))
    with pytest.raises(ValueError, match="alias .* inside of what it names"):
        read_yaml("a: &a [1, *a]")
    assert read_yaml("") is None


def test_a_file_that_is_no_config_is_named_as_what_it_is(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ConfigError, match="is a Git LFS pointer.*: run git lfs pull"):
        load_config(path)
    path.write_text("<!DOCTYPE html><html>")
    with pytest.raises(ConfigError, match="is a web page"):
        load_config(path)
    path.write_bytes(b"base: \xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"is not text \(byte 6\)"):
        load_config(path)
