"""eval.py on a checkpoint: what it reads, runs and overwrites."""

import json

import pytest

import yolact.engine.load
from tests.yolact.engine.oracle import config, write_set
from yolact import cli
from yolact.build import build_model
from yolact.checkpoint import save_checkpoint
from yolact.commands import eval as eval_program

SQUARES = [[(16, 32, 80, 0)], [(8, 8, 64, 1), (160, 40, 48, 0)], [(100, 100, 120, 0)]]
TINY = [
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.max_size=96",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=8",
    "eval.max_dets=5",
    "eval.score_threshold=0",
]


@pytest.fixture
def weights(tmp_path):
    """A checkpoint whose config names a loss plugin that is not there."""
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2], category_ids=[1, 2])
    cfg = config(tmp_path, *TINY, base="yolact_small")
    values = cfg.model_dump()
    values["loss"] |= {"plugins": [str(tmp_path / "plugin.py")], "mask": "own_loss"}
    model = build_model(cfg).state_dict()
    save_checkpoint(
        tmp_path / "model.pth", {"format": 1, "model": model, "ema": model, "config": values}
    )
    return tmp_path / "model.pth"


def run(weights, *words):
    return cli.run(
        eval_program.main,
        eval_program.parser().parse(
            [f"--trained_model={weights}", "--cuda=False", "--no_bar", *words]
        ),
    )


def test_a_loss_is_neither_needed_nor_run_and_the_checkpoint_is_read_once(
    weights, monkeypatch, capsys
):
    read, calls = yolact.engine.load.read_checkpoint, []
    monkeypatch.setattr(
        yolact.engine.load, "read_checkpoint", lambda path: calls.append(path) or read(path)
    )
    assert run(weights) == 0
    assert calls == [weights] and f"{weights}: loaded" in capsys.readouterr().out
    marker = weights.with_name("was_run")
    weights.with_name("plugin.py").write_text(f"open({str(marker)!r}, 'w')")
    assert run(weights) == 0 and not marker.exists()


def test_a_model_of_another_architecture_is_named_by_its_file(weights, capsys):
    assert run(weights, "model.fpn_channels=24") == 2
    assert f"error: {weights} does not fit the model" in capsys.readouterr().err


def test_results_under_other_names_leave_earlier_ones_alone_and_score_what_was_evaluated(
    weights, capsys
):
    earlier = weights.with_name("bbox_detections.json")
    earlier.write_text("earlier")
    files = [
        f"--bbox_det_file={weights.with_name('boxes.json')}",
        f"--mask_det_file={weights.with_name('masks.json')}",
    ]

    def table():
        return [line for line in capsys.readouterr().out.splitlines() if "|" in line or "+" in line]

    assert run(weights, "--output_coco_json", "--max_images=2", *files) == 0
    assert earlier.read_text() == "earlier"
    expected = table()
    assert expected and run(weights, "--resume", *files) == 0
    assert table() == expected


def test_masks_of_one_checkpoint_in_either_form(weights):
    files = {name: weights.with_name(f"{name}.json") for name in ("boxes", "published", "subpixel")}
    for form in ("published", "subpixel"):
        words = [f"--bbox_det_file={files['boxes']}", f"--mask_det_file={files[form]}"]
        assert run(weights, f"eval.masks={form}", "--output_coco_json", *words) == 0
    published, subpixel = (json.loads(files[name].read_text()) for name in list(files)[1:])
    scores = [[found["score"] for found in each] for each in (published, subpixel)]
    assert scores[0] == scores[1] and published != subpixel


def test_an_unknown_form_of_masks_is_refused(weights, capsys):
    assert run(weights, "eval.masks=fine") == 2
    message = capsys.readouterr().err
    assert "eval.masks" in message and "subpixel" in message and message.count("\n") == 1


def test_times_of_a_runs_last_weights_are_kept_for_reports(weights, tmp_path):
    place = tmp_path / "run" / "weights"
    for folder in (place, place.parent / "results"):
        folder.mkdir(parents=True)
    for name in ("last.pth", "best.pth"):
        (place / name).write_bytes(weights.read_bytes())
    kept = place.parent / "results" / "benchmark.json"
    assert run(place / "best.pth", "--benchmark") == 0 and not kept.exists()
    assert run(place / "last.pth", "--benchmark", "--max_images=1") == 0 and not kept.exists()
    assert run(place / "last.pth", "--benchmark") == 0
    found = json.loads(kept.read_text())
    assert (
        found["fps"] == pytest.approx(1000 / found["median_ms"]["total"])
        and found["p95_ms"]["total"] >= found["median_ms"]["total"]
    )


def test_a_set_without_ground_truth_writes_detections_for_its_server(weights, capsys):
    """A list of images, as COCO's image_info files are: the results are those of the same images
    with annotations, and AP is refused in one line."""
    place = weights.parent
    names = [place / f"{name}.json" for name in ("b1", "m1", "b2", "m2")]
    assert run(weights, "--output_coco_json", *files(*names[:2])) == 0
    path = next(p for p in place.rglob("*.json") if '"annotations"' in p.read_text())
    content = json.loads(path.read_text())
    del content["annotations"]
    listed = path.with_name("image_info.json")
    listed.write_text(json.dumps(content))
    alone = f"data.val_annotations={listed.relative_to(place)}"
    assert run(weights, alone) == 2
    assert "has no list of annotations" in capsys.readouterr().err
    assert run(weights, alone, "data.val_truth=false", *files(*names[2:])) == 0
    said = capsys.readouterr().out
    assert "detections on 3 images" in said and "no AP" in said and "mask |" not in said
    for ours, known in zip(names[2:], names[:2], strict=True):
        assert json.loads(ours.read_text()) == json.loads(known.read_text()) != []
    for flag in ("--resume", "--run_coco_eval"):
        assert run(weights, alone, "data.val_truth=false", flag, *files(*names[2:])) == 2
        assert "there is no AP" in capsys.readouterr().err
        assert run(weights, flag, *files(*names[:2])) == 0
        assert "mask |" in capsys.readouterr().out
    assert run(weights, "--gt_ann_file=x.json") == 2


def files(boxes, masks):
    return f"--bbox_det_file={boxes}", f"--mask_det_file={masks}"
