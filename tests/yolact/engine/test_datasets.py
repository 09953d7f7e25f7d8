"""Training on a model, a criterion and data sets of the user's own."""

import json

import pytest
import torch

import yolact
from yolact.engine.datasets import DataSet, OwnItems
from yolact.testing import tiny

SIDE = tiny.MODEL["max_size"]


def disc(index, side=SIDE):
    """One bright disc on grey, its place and size by index."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x, y, r = 20 + 3 * (index % 8), 30 - 2 * (index % 5), 8 + index % 4
    mask = ((columns - x) ** 2 + (rows - y) ** 2 <= r * r)[None]
    image = torch.full((3, side, side), 90, dtype=torch.uint8)
    image[:, mask[0]] = 220
    box = torch.tensor([[x - r, y - r, x + r + 1, y + r + 1]]) / side
    targets = yolact.Targets(box, torch.tensor([index % 2]), torch.tensor([False]), mask)
    return yolact.Sample(image, targets, f"disc {index}", (side, side), index)


@pytest.fixture
def discs():
    return [disc(i) for i in range(8)]


def test_a_list_of_samples_trains_and_learns(discs, tmp_path):
    seen = []
    run = yolact.train(
        tiny.config(iterations=30, log_every=10, optimizer="adamw", lr=3e-3, freeze_bn="never"),
        train_set=discs,
        val_set=discs[:3],
        on_step=lambda step, losses: seen.append((step, sum(losses.values()))),
        run_dir=tmp_path / "run",
        device="cpu",
    )
    assert [step for step, _ in seen] == [10, 20, 30] and seen[-1][1] < 0.7 * seen[0][1]
    assert [line["loss"] for line in run.metrics] == pytest.approx([loss for _, loss in seen])
    assert run.best_ap is None and run.best == tmp_path / "run/weights/last.pth"
    assert len(list((run / "pictures").iterdir())) == 3


def test_without_annotation_file_or_validation_a_run_says_so(discs, tmp_path, capsys):
    cfg = tiny.config(iterations=2)
    yolact.train(cfg, train_set=discs, val_set=discs, run_dir=tmp_path / "a", device="cpu")
    assert "has no ground truth (no annotation_file" in capsys.readouterr().out
    yolact.train(cfg, train_set=discs, run_dir=tmp_path / "b", device="cpu")
    out = capsys.readouterr().out
    assert "no validation" in out and "8 training and 0 validation images" in out


def test_own_items_of_the_configs_files_give_the_same_run(tmp_path):
    """The config's sets, handed over as objects, and as objects that only have len() and items."""
    from data.loader import build_dataset

    cfg = tiny.config(tiny.write_dataset(tmp_path / "data"), iterations=4, augment=True)

    class Wrapped:
        def __init__(self, split):
            self.inner = build_dataset(cfg, split, needs_full_masks=True)
            self.annotation_file = self.inner.annotation_file
            self.category_of_label = self.inner.category_of_label

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, index):
            return self.at(0, index)

        def at(self, epoch, index):
            sample = self.inner[epoch, index]
            sample.image = sample.image.round().to(torch.uint8)
            return sample

    plain = yolact.train(cfg, run_dir=tmp_path / "plain", device="cpu")
    losses = [line["losses"] for line in plain.metrics if line["kind"] == "train"]
    for name, sets in {
        "objects": [build_dataset(cfg, split) for split in ("train", "val")],
        "wrapped": [Wrapped("train"), Wrapped("val")],
    }.items():
        run = yolact.train(
            cfg, train_set=sets[0], val_set=sets[1], run_dir=tmp_path / name, device="cpu"
        )
        assert [line["losses"] for line in run.metrics if line["kind"] == "train"] == losses
        assert run.best_ap == pytest.approx(plain.best_ap, abs=0.02)
        assert run.best.name == "best.pth"


def test_a_given_model_and_criterion_are_trained(discs, tmp_path):
    cfg = tiny.config(iterations=2, lr=1e-9, lr_steps=(), warmup_iterations=0)
    model = yolact.build_model(cfg)
    criterion = yolact.build_criterion(tiny.config(loss={"mask": "dice"}), model)
    with torch.no_grad():
        model.backbone.conv1.weight.mul_(2)
    started = model.backbone.conv1.weight.clone()
    run = yolact.train(
        cfg, model=model, criterion=criterion, train_set=discs, run_dir=tmp_path, device="cpu"
    )
    assert run.metrics[0]["terms"].keys() >= {"dice"}
    saved = torch.load(run.best, weights_only=True)["model"]["backbone.conv1.weight"]
    assert torch.allclose(saved, started, rtol=1e-4) and not torch.allclose(saved, started / 2)
    assert run.config == cfg


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: (s.image, s.targets), "is a tuple: return a yolact.Sample"),
        (lambda s: disc(0, SIDE // 2), "resize it to"),
        (lambda s: setattr(s.targets, "masks", None) or s, "has no masks of 64 x 64"),
    ],
)
def test_a_wrong_item_is_named(tmp_path, change, message):
    items = [change(disc(0))]
    assert isinstance(items, DataSet)
    with pytest.raises(ValueError, match=message):
        yolact.train(
            tiny.config(iterations=1, batch_size=1),
            train_set=items,
            run_dir=tmp_path,
            device="cpu",
        )


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the given train set is empty"):
        yolact.train(tiny.config(), train_set=[], run_dir=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_pictures_show_the_item(discs):
    items = OwnItems(discs, SIDE, mask_sizes=[], needs_full_masks=True, extras=[])
    assert (torch.from_numpy(items.load_image(3)).permute(2, 0, 1) == discs[3].image).all()


def test_a_run_skips_a_line_that_a_kill_left_unfinished(tmp_path):
    lines = [json.dumps({"kind": "validation", "step": 1, "segm": {"ap": 0.25}}), '{"kind": "tr']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    run = yolact.Run(tmp_path)
    assert len(run.metrics) == 1 and run.best_ap == 0.25
