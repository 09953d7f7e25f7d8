"""The survey's rows: each preset computes the stored number that it replays, and its corrected form
has none of the replayed faults."""

from pathlib import Path

import pytest
import torch

from data.config import CONFIGS, NOTES
from data.loader import build_dataset
from data.resolve import load_config
from layers.losses.checks.compare import same_up_to_factor
from layers.losses.mask import build_mask_loss
from tests.data.sets import annotation, image_entry, write_set
from yolact import build_model
from yolact.commands import train as train_program
from yolact.engine.rundir import new_run
from yolact.testing.reference_cases.loss import TOLERANCE, Setting, load_fixture, values_error

REFERENCE = Path(__file__).parents[1] / "reference" / "yolact"
PRESETS = sorted(name for name in CONFIGS if name.startswith("survey/"))
CORRECTED = [name for name in PRESETS if name.endswith("_corrected")]
SHIPPED = {
    "bce": "yolact_plus_cig_butts",
    "bce_batch2": "yolact_plus_cig_butts",
    "bce_batch16": "yolact_plus_cig_butts",
    "bce_lr_1e-3": "yolact_plus_cig_butts",
    "dice": "yolact_plus_dice_loss_cig_butts",
    "huber": "yolact_plus_huber_loss_cig_butts",
    "huber_delta1_3": "yolact_plus_huber_loss_cig_butts_1_3_delta",
    "huber_delta1_5": "yolact_plus_huber_loss_cig_butts_1_5_delta",
    "log_cosh_dice": "yolact_plus_log_cosh_dice_loss_cig_butts",
    "log_cosh_bce": "yolact_plus_log_cosh_bce_loss_cig_butts",
    "mse_as_committed": "yolact_plus_mse_loss_cig_butts",
    "huber_bce": "yolact_plus_huber_bce_loss_cig_butts",
    "huber_mse": "yolact_plus_mse_huber_loss_cig_butts",
    "bce_mse": "yolact_plus_mse_bce_loss_cig_butts",
}
# Preset and stored case. "shrunkbox" has ground truth outside the box, "many" more positives than
# masks_to_train.
REPLAYS = [
    *((name, f"shipped/{case}") for name, case in SHIPPED.items()),
    ("mse", "single_mse"),
    ("huber_delta2", "single_huber_d2"),
    ("huber_delta3", "single_huber_d3"),
    *(
        (f"{alpha}{pre}_{post}", f"double_{pre}_pre_{post}_post_a{alpha}")
        for pre, post in (("mse", "bce"), ("mse", "huber"), ("huber", "bce"))
        for alpha in (2, 3, 0.5)
    ),
    *((name, f"single_{name}_shrunkbox") for name in ("bce", "mse", "dice", "log_cosh_dice")),
    ("huber", "single_huber_d1_shrunkbox"),
    ("huber_delta3", "single_huber_d3_shrunkbox"),
    ("dice", "single_dice_many"),
    ("0.5mse_bce", "double_mse_pre_bce_post_a0.5_plus_many"),
]
TINY = [
    "model.max_size=256",
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.pretrained=none",
    "model.dcn_layers=[0,0,0,0]",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=8",
]


def fixture_of(case: str) -> str:
    return next(
        (f"plus_{ending}" for ending in ("shrunkbox", "many") if case.endswith(ending)), "plus"
    )


@pytest.mark.parametrize("name, case", REPLAYS, ids=lambda value: value)
def test_replay_computes_the_stored_number(name, case):
    cfg = load_config(f"survey/{name}")
    setting = Setting(
        "survey",
        case,
        fixture_of(case),
        cfg.loss.mask,
        cfg.loss.masks_to_train,
        cfg.loss.mask_iou_min_area,
    )
    assert values_error(REFERENCE / "loss", setting) <= TOLERANCE


def test_every_preset_replays_a_stored_case_or_corrects_one_that_does():
    assert {f"survey/{name}" for name, _ in REPLAYS} == set(PRESETS) - set(CORRECTED)
    for name in CORRECTED:
        assert name.removesuffix("_corrected").replace("bce_batch8", "bce") in PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_explained_in_one_line_and_in_the_docs(name):
    assert 10 < len(NOTES[name]) <= 105 and "\n" not in NOTES[name]
    assert f"`{name}`" in (Path(__file__).parents[2] / "docs/reference/survey.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(CORRECTED)))
def test_replay_keeps_what_the_published_code_did(name):
    cfg = load_config(name)
    assert cfg.num_classes == 8 and not cfg.train.shuffle
    parts = build_mask_loss(cfg.loss.mask).parts
    assert (parts[0].region, parts[0].outside, parts[0].rescale) == ("box", "charge", True)
    assert all(
        (part.region, part.outside, part.rescale) == ("image", "ignore", False)
        for part in parts[1:]
    )


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_form_differs_in_loss_classes_and_order_alone(name):
    cfg, replay = (
        load_config(name),
        load_config(name.removesuffix("_corrected").replace("bce_batch8", "bce")),
    )
    assert (
        cfg.data == load_config("yolact_plus_base_cigarettes").data
        and cfg.num_classes == 1
        and cfg.train.shuffle
    )
    assert cfg.model == replay.model and cfg.augment == replay.augment
    assert cfg.loss.model_copy(update={"mask": replay.loss.mask}) == replay.loss
    loss = build_mask_loss(cfg.loss.mask)
    assert not any("survey" in part.info.name for part in loss.parts)
    assert all(
        (part.region, part.outside, part.rescale) == ("box", "ignore", True) for part in loss.parts
    )
    assert [part.coefficient for part in loss.parts] == [
        part.coefficient for part in build_mask_loss(replay.loss.mask).parts
    ]
    if "bce_batch" in name:  # the batch size alone differs
        assert (cfg.train.lr, cfg.train.iterations) == (1e-4, 4000)
    elif name != "survey/bce_corrected":
        assert cfg.train == replay.train.model_copy(update={"shuffle": True})


@pytest.mark.parametrize(
    "name, batch, lr, iterations",
    [
        ("bce", 8, 1e-4, 4000),
        ("bce_batch2", 2, 2.5e-5, 16000),
        ("bce_batch16", 16, 2e-4, 2000),
        ("bce_lr_1e-3", 8, 1e-3, 4000),
        ("0.5mse_bce", 16, 2e-4, 2000),
        ("bce_corrected", 16, 2e-4, 2000),
        ("bce_batch2_corrected", 2, 1e-4, 4000),
        ("bce_batch8_corrected", 8, 1e-4, 4000),
        ("bce_batch16_corrected", 16, 1e-4, 4000),
    ],
)
def test_schedules(name, batch, lr, iterations):
    train = load_config(f"survey/{name}").train
    assert (train.batch_size, train.lr, train.iterations) == (batch, pytest.approx(lr), iterations)
    assert min(train.lr_steps) > train.iterations


@pytest.mark.parametrize(
    "a, b, factor",
    [
        ("0.5mse_bce", "huber_bce", 1),
        ("2huber_bce", "bce_mse", 1),
        ("mse", "huber", 2),
        ("huber_delta3", "huber_delta1_3", 1),
        ("mse_as_committed", "bce", 1),
        ("0.5mse_bce", "bce", None),
        ("dice", "dice_corrected", None),
    ],
)
def test_rows_that_are_one_loss_as_the_docs_say(a, b, factor):
    found = same_up_to_factor(*(load_config(f"survey/{name}").loss.mask for name in (a, b)))
    assert found == (factor if factor is None else pytest.approx(factor))


def test_nine_outputs_of_which_the_first_class_alone_occurs(tmp_path):
    files = [
        f"data.root={tmp_path}",
        "data.train_images=images",
        "data.train_annotations=annotations.json",
    ]
    cfg = load_config("survey/dice", [*TINY, *files])
    model = build_model(cfg).eval()
    with torch.no_grad():
        predictions = model(torch.zeros(1, 3, 256, 256))
    assert predictions.class_logits.shape[-1] == 9 and model.mask_iou_net is not None
    # of the published code's criterion
    assert load_fixture(REFERENCE / "loss" / "loss_in_plus.npz")[0].class_logits.shape[-1] == 9
    write_set(
        tmp_path,
        images=[image_entry(i, f"{i}.png") for i in range(3)],
        annotations=[annotation(i, i) for i in range(3)],
        categories=[{"id": 1, "name": "cig_butt"}],
    )
    data = build_dataset(cfg, "train")
    assert data.category_of_label == {0: 1} and all(data.table.labels == 0)


def test_preset_runs_in_its_folder(tmp_path):
    name = load_config("survey/0.5mse_bce").name
    assert new_run(tmp_path, name).path == tmp_path / "survey" / "0.5mse_bce" / "1"


def shown(capsys, *words: str) -> list[str]:
    train_program.main(train_program.parser().parse(words))
    return capsys.readouterr().out.splitlines()


def test_configs_are_listed_by_folder_with_their_notes(capsys):
    lines = shown(capsys, "--list", "configs")
    begin = lines.index("survey/")
    assert (
        "yolact_resnet50                    resnet50, 550 px                 coco2017             "
        "bce" in lines[: lines.index("")]
    )
    assert f"survey/dice                        {NOTES['survey/dice']}" in lines[begin:]
    first = lines[: lines.index("")]  # those of no folder
    assert lines[begin - 1] == "" and first == sorted(first) and max(map(len, lines)) <= 140


def test_print_config_tells_the_note_where_it_is_still_true(capsys):
    assert shown(capsys, "--config=survey/dice", "--print_config")[:2] == [
        f"# {NOTES['survey/dice']}",
        "name: survey/dice",
    ]
    assert (
        shown(capsys, "--config=survey/dice", "loss.mask=mse", "--print_config")[0]
        == "name: survey/dice"
    )
