"""data/config.py: the named configs hold the published values, and derive states differences."""

import inspect

import pytest

from data.config import CONFIGS, DATASETS, NOTES, derive
from data.doctor.check import check_dataset
from data.resolve import config_hash, load_config, published_tables
from data.settings import SECTIONS
from data.survey import TABLES

PUBLISHED = [
    "yolact_base",
    "yolact_im400",
    "yolact_im700",
    "yolact_resnet50",
    "yolact_darknet53",
    "yolact_resnet50_pascal",
    "yolact_plus_base",
    "yolact_plus_resnet50",
]


def load(name, *overrides):
    return load_config(name, overrides, check_names=False)


@pytest.fixture
def own_configs():
    before = [(table, dict(table)) for table in (CONFIGS, NOTES)]
    yield CONFIGS
    for table, content in before:
        table.clear()
        table.update(content)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipe(name):
    config = load(name)
    train = config.train
    pascal = name.endswith("pascal")
    assert (train.optimizer, train.lr, train.momentum, train.weight_decay, train.batch_size) == (
        "sgd",
        1e-3,
        0.9,
        5e-4,
        8,
    )
    assert (train.warmup_iterations, train.warmup_lr, train.schedule, train.lr_gamma) == (
        500,
        1e-4,
        "steps",
        0.1,
    )
    assert train.iterations == (120_000 if pascal else 800_000)
    assert train.lr_steps == ((60_000, 100_000) if pascal else (280_000, 600_000, 700_000, 750_000))
    assert train.autoscale
    assert config.num_classes == (20 if pascal else 80)
    assert (
        config.loss.mask,
        config.loss.mask_weight,
        config.loss.box_weight,
        config.loss.class_weight,
    ) == ("bce", 6.125, 1.5, 1.0)
    assert config.loss.masks_to_train == (300 if name == "yolact_im700" else 100)
    assert config.model.square_anchors == (
        name
        in ("yolact_base", "yolact_im400", "yolact_im700", "yolact_resnet50", "yolact_darknet53")
    )
    assert config.model.anchor_ratios == (1, 0.5, 2)
    assert config.model.mask_iou_net == ("plus" in name)


@pytest.mark.parametrize(
    "name, size, sides",
    [
        ("yolact_base", 550, (24, 48, 96, 192, 384)),
        ("yolact_im400", 400, (17, 34, 69, 139, 279)),
        ("yolact_im700", 700, (30, 61, 122, 244, 488)),
        ("yolact_resnet50_pascal", 550, (32, 64, 128, 256, 512)),
    ],
)
def test_published_anchor_sides(name, size, sides):
    model = load(name).model
    assert model.max_size == size
    assert model.anchor_scales == tuple((side,) for side in sides)


@pytest.mark.parametrize(
    "name, layers, interval",
    [("yolact_plus_base", (0, 4, 23, 3), 3), ("yolact_plus_resnet50", (0, 4, 6, 3), 1)],
)
def test_plus_models(name, layers, interval):
    model = load(name).model
    assert (model.dcn_layers, model.dcn_interval, model.anchors_per_location) == (
        layers,
        interval,
        9,
    )
    # 24 * 2**(0, 1/3, 2/3)
    assert model.anchor_scales[0] == pytest.approx((24, 30.2381, 38.0976), abs=1e-4)
    assert model.anchor_scales[4] == pytest.approx((384, 483.8097, 609.5620), abs=1e-4)


@pytest.mark.parametrize("size", [550, 700])
def test_mayolact_recipe(size):
    config = load(f"mayolact_{size}")
    model, loss, train = config.model, config.loss, config.train
    assert (model.max_size, model.backbone) == (size, "resnet50")
    assert (model.dcn_layers, model.dcn_interval, model.dcn_groups) == ((0, 4, 23, 3), 1, 4)
    assert (
        model.fpn_upsample == "carafe"
        and model.anchors_per_location == 2
        and model.anchor_offset == 0.5
    )
    assert model.anchor_scales == tuple(
        pytest.approx((4 * stride, 4 * 2**0.5 * stride)) for stride in (8, 16, 32, 64, 128)
    )
    assert (loss.mask, loss.box, loss.classification, loss.self_balance) == (
        "bce",
        "smooth_l1",
        "ohem",
        False,
    )
    assert (
        loss.box_weight,
        loss.mask_weight,
        loss.semantic_weight,
        config.eval.score_threshold,
    ) == (1.5, 8, 1, 0.05)
    assert (
        train.lr,
        train.batch_size,
        train.momentum,
        train.weight_decay,
        train.clip_grad_norm,
    ) == (8e-3, 32, 0.9, 5e-4, 35)
    assert (train.warmup_iterations, train.warmup_lr, train.schedule, train.autoscale) == (
        500,
        8e-4,
        "cosine",
        False,
    )
    assert train.iterations == round(55 * 117_266 / 32)
    assert config.assign.name == "atss(k=9, iou='maiou')"


@pytest.mark.parametrize("size", [550, 700])
def test_gmayolact_is_mayolact_with_rank_and_sort(size):
    config, base = load(f"gmayolact_{size}"), load(f"mayolact_{size}")
    assert config.assign.name == "atss(k=9, iou='gmaiou')"
    assert (config.model, config.train, config.eval, config.augment) == (
        base.model,
        base.train,
        base.eval,
        base.augment,
    )
    changed = {
        key for key, value in config.loss.model_dump().items() if value != getattr(base.loss, key)
    }
    assert changed == {"classification", "box", "mask", "self_balance", "box_weight", "mask_weight"}
    assert (
        "not from the paper: lr, warmup_lr, semantic_weight, anchor_scales, score_threshold"
        in NOTES[config.name]
    )


def test_darknet_divides_pixels_by_255():
    model = load("yolact_darknet53").model
    assert (model.backbone, model.pixel_mean, model.pixel_std) == (
        "darknet53",
        (0, 0, 0),
        (255, 255, 255),
    )


@pytest.mark.parametrize("name", ["yolact_plus_base_cigarettes", "yolact_plus_resnet50_cigarettes"])
def test_survey_schedule(name):
    config = load(name)
    assert (
        config.model.max_size,
        config.train.lr,
        config.train.iterations,
        config.train.batch_size,
    ) == (512, 1e-4, 4000, 8)
    assert config.data.class_names == ("cig_butt",)
    assert min(config.train.lr_steps) > config.train.iterations


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - set(PUBLISHED)))
def test_other_configs_name_themselves(name):
    assert load(name).name == name


@pytest.mark.parametrize(
    "name", [name for name in CONFIGS if "small" in name or "tiny" in name or name == "quickstart"]
)
def test_small_models_need_no_download_and_no_big_machine(name):
    model = load(name).model
    assert model.pretrained == "none" and model.max_size == 256 and model.norm == "group"
    if "plus" in name or name == "quickstart":
        assert model.mask_iou_net and any(model.dcn_layers)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_is_a_valid_section(name):
    data = load("yolact_small", f"dataset={name}").data
    assert data.name == name
    assert all((data.train_images, data.train_annotations, data.val_images, data.val_annotations))


def test_the_tables_of_a_data_set_are_told_but_are_no_setting(monkeypatch):
    assert published_tables("cigarettes") == published_tables("cigarettes_standin") == TABLES
    assert published_tables("coco2017") == "COCO"
    assert published_tables("nuclei") == published_tables("a set of my own") == ""
    monkeypatch.setitem(DATASETS, "mine", {**DATASETS["nuclei"], "published": "Table 3"})
    config = load("yolact_small", "dataset=mine")
    assert published_tables(config.data.name) == "Table 3"
    assert config_hash(config) == config_hash(
        load("yolact_small", "dataset=nuclei", "data.name=mine")
    )
    assert check_dataset(DATASETS["mine"], fast=True)  # not there: found, and the entry is read


def test_nuclei_keep_more_detections():
    config = load("yolact_small_nuclei")
    assert (config.eval.max_dets, config.eval.top_k, config.ohem_min_negatives) == (300, 600, 16)


def test_derive_states_the_differences(own_configs):
    derive("yolact_plus_small", name="mine", **{"loss.mask": "bce + 0.5*mse", "train.lr": 2e-3})
    mine, base = load("mine"), load("yolact_plus_small")
    assert (mine.name, mine.loss.mask, mine.train.lr) == ("mine", "bce + 0.5*mse", 2e-3)
    assert mine.model == base.model and mine.data == base.data


def test_derive_with_another_data_set_drops_what_described_the_first(own_configs):
    derive("yolact_small", name="first", **{"data.keep_empty": True, "data.class_names": ["a"]})
    derive("first", name="second", dataset="nuclei")
    assert load("first").data.class_names == ("a",)
    assert load("second").data.class_names == ("nucleus",)


def test_a_note_belongs_to_one_config(own_configs):
    derive("yolact_small", name="noted", note="for a test")
    derive("noted", name="plain")
    assert NOTES["noted"] == "for a test" and "plain" not in NOTES
    assert load("noted").model == load("plain").model


def test_derive_from_an_unknown_base_suggests(own_configs):
    with pytest.raises(ValueError, match="did you mean yolact_small"):
        derive("yolact_smal", name="mine")


def test_derive_refuses_to_hide_another_config(own_configs):
    derive("yolact_small", name="mine")
    derive("yolact_small", name="mine")  # a notebook cell run twice
    with pytest.raises(ValueError, match="already another config called 'mine'"):
        derive("yolact_small", name="mine", **{"train.lr": 1.0})


def test_derive_takes_sections_and_dotted_keys(own_configs):
    nested = derive(
        "yolact_plus_small",
        name="nested",
        dataset="nuclei",
        data=dict(label_map=None),
        loss=dict(mask="bce + dice", box="giou"),
        train=dict(iterations=5000),
        **{"eval.nms": "traditional", "data.keep_empty": False},
    )
    dotted = derive(
        "yolact_plus_small",
        name="dotted",
        **{
            "dataset": "nuclei",
            "data.label_map": None,
            "loss.mask": "bce + dice",
            "loss.box": "giou",
            "train.iterations": 5000,
            "eval.nms": "traditional",
            "data.keep_empty": False,
        },
    )
    assert {**nested, "name": ""} == {**dotted, "name": ""}
    config = load("nested")
    assert (config.loss.mask, config.loss.box) == ("bce + dice", "giou")
    assert (config.train.iterations, config.eval.nms) == (5000, "traditional")
    assert (config.data.class_names, config.data.keep_empty) == (("nucleus",), False)
    again = derive(nested, name="again", train=dict(iterations=6000))  # what derive returned
    assert again == {**nested, "name": "again", "train.iterations": 6000}


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(loss=dict(maks="bce")), "unknown key loss.maks; did you mean loss.mask"),
        ({"loss.maks": "bce"}, "unknown key loss.maks; did you mean loss.mask"),
        (dict(trian=dict(lr=1)), "unknown key trian; did you mean"),
        (dict(loss="bce"), "loss: is a section of settings, got 'bce'"),
        (dict(loss=dict(mask="bce"), **{"loss.mask": "mse"}), "loss.mask is set twice"),
        (dict(loss=dict(mask="bce"), **{"loss.mask": "bce"}), "loss.mask is set twice"),
    ],
)
def test_derive_tells_a_wrong_change_at_once(own_configs, changes, words):
    before = dict(CONFIGS)
    with pytest.raises(ValueError, match=words) as caught:
        derive("yolact_small", name="mine", **changes)
    assert "derive(..., name='mine')" in str(caught.value) and before == CONFIGS


def test_the_sections_of_derive_and_load_config_are_those_of_the_schema():
    for function in (derive, load_config):
        keywords = {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        assert keywords - {"name", "note", "check_names"} == {*SECTIONS, "dataset"}
