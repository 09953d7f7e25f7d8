"""The example sets are imported as they stand."""

import json
from pathlib import Path

import pytest

from data.resolve import load_config
from yolact.commands.import_data import program

SETS = Path(__file__).parents[2] / "examples" / "sets"


@pytest.mark.parametrize(
    "name, said, images, objects",
    [
        ("nuclei_labelme", "split by lot (seed 0", (22, 6), (651, 102)),
        ("nuclei_yolo", "split of the source kept", (22, 6), (606, 236)),
    ],
)
def test_an_example_set_is_imported_whole(name, said, images, objects, tmp_path, capsys):
    out = tmp_path / name
    assert program([str(SETS / name), "--out", str(out), "--fast"]) == 0
    told = capsys.readouterr().out
    assert said in told and "left out" not in told
    cfg = load_config(str(out / "config.yaml"), check_names=False)
    assert cfg.data.class_names == ("nucleus",) and cfg.train.init_from == "start"
    for split, pictures, outlines in zip(("train", "val"), images, objects):
        content = json.loads((out / f"annotations/{split}.json").read_text())
        assert len(content["images"]) == pictures
        assert len(content["annotations"]) == outlines
        assert {category["name"] for category in content["categories"]} == {"nucleus"}


def test_the_example_sets_are_small_and_share_no_image():
    pictures = [
        {path.name for path in (SETS / n).rglob("*.jpg")} for n in ("nuclei_labelme", "nuclei_yolo")
    ]
    assert [len(names) for names in pictures] == [28, 28] and not pictures[0] & pictures[1]
    assert sum(path.stat().st_size for path in SETS.rglob("*") if path.is_file()) < 1_000_000
