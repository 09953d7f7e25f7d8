"""The quickstart's own part: its command line, and which pictures it trains on."""

import json

import pytest

from data.cigarettes.generate import generate
from yolact.commands import quickstart


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(quickstart, "SIZE", 96)
    monkeypatch.setattr(quickstart, "MAX_INSTANCES", 2)


def test_pictures_are_used_again_only_if_they_are_its_own(small, tmp_path, capsys):
    made = generate(
        tmp_path / "set", train=6, val=3, size=96, max_instances=2, workers=1, progress=False
    )
    quickstart.check_pictures(made, {"train": 6, "val": 3})
    file = made / "val" / "coco_annotations.json"
    content = json.loads(file.read_text())
    for wrong in (
        {"images": content["images"][1:]},
        {"images": [{**image, "width": 128} for image in content["images"]]},
    ):
        file.write_text(json.dumps(content | wrong))
        with pytest.raises(
            ValueError, match="holds other pictures than the quickstart's .*delete that folder"
        ):
            quickstart.check_pictures(made, {"train": 6, "val": 3})
    one = generate(
        tmp_path / "one", train=6, val=3, size=96, max_instances=1, workers=1, progress=False
    )
    assert quickstart.program(["--train_images=6", "--val_images=3", f"data.root={one}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {one} holds other pictures") and message.count("\n") == 1
