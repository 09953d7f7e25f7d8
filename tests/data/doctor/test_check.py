import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.doctor.check import check_dataset
from data.doctor.findings import listing
from data.resolve import load_config
from data.schema import DataConfig
from tests.data.sets import COCO, NUCLEI, annotation, config, image_entry, real_data, write_set
from yolact.commands.check_data import program
from yolact.engine.train import train

ROOT = Path(__file__).parents[3]


def two_splits(root, *, class_names=("thing",), val=None, **train) -> DataConfig:
    write_set(root / "train", **train)
    write_set(root / "val", **(val or {"images": [image_entry(1, "v.png", 60, 60)]}))
    rng = np.random.default_rng(1)
    if val is None:
        cv2.imwrite(
            str(root / "val/images/v.png"), rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)
        )
    return DataConfig(
        root=str(root),
        train_images="train/images",
        train_annotations="train/annotations.json",
        val_images="val/images",
        val_annotations="val/annotations.json",
        class_names=class_names,
    )


def findings(data, level=None, **options):
    return [f for f in check_dataset(data, **options) if level in (None, f.level)]


def only(data, level, **options) -> str:
    found = findings(data, level, **options)
    assert len(found) == 1, found
    assert found[0].problem.fix
    return str(found[0])


@pytest.mark.parametrize("folder", [COCO, NUCLEI])
def test_real_sets_have_no_error(folder):
    assert not findings(config(real_data(folder)), "error")
    assert not findings(config(real_data(folder)), "error", fast=True)


def test_a_sound_set_has_only_notes(tmp_path):
    assert {f.level for f in findings(config(two_splits(tmp_path), size=128))} <= {
        "note",
        "warning",
    }
    assert not findings(two_splits(tmp_path), "warning", fast=True)


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"category": 3},
            ["annotation 7 has category id 3, which is not listed under categories"],
        ),
        ({"image": 9}, ["annotation 7 belongs to image 9, which is not listed under images"]),
        ({"image": "1"}, ["there is 1, of another type"]),
        ({"bbox": [1, 1, -3, 4]}, ["annotation 7", "negative size"]),
        ({"segmentation": [[1, 2, 3, 4]]}, ["annotation 7", "2 points"]),
        ({"bbox": [200, 200, 5, 5]}, ["1 boxes wholly outside", "annotations 7"]),
    ],
)
def test_bad_annotations_are_named(tmp_path, changes, words):
    text = only(
        two_splits(tmp_path, annotations=[annotation(1), annotation(7, **changes)]),
        "error",
        fast=True,
    )
    assert all(word in text for word in words), text


def test_many_mistakes_of_a_kind_are_one_finding_and_all_kinds_are_found(tmp_path):
    bad = [annotation(10 + i, segmentation=[[1, 2, 3, 4]]) for i in range(5)] + [
        annotation(20, category=8),
        annotation(1),
    ]
    found = findings(two_splits(tmp_path, annotations=[annotation(1), *bad]), "error", fast=True)
    path = tmp_path / "train/annotations.json"
    assert {f.problem.where: f.problem.what[:32] for f in found} == {
        f"{path}: annotation 10": "has a polygon of 2 points (and 4",
        f"{path}: annotation 20": "has category id 8, which is not ",
    }
    assert any("and 4 more of this kind, annotation 11" in f.problem.statement for f in found)


def test_images_missing_repeated_and_unlisted(tmp_path):
    data = two_splits(
        tmp_path,
        images=[
            image_entry(1, "a.png"),
            image_entry(2, "b.png"),
            image_entry(2, "c.png"),
            image_entry(4, "a.png"),
        ],
    )
    (tmp_path / "train/images/b.png").unlink()
    text = " | ".join(map(str, findings(data, "error", fast=True)))
    assert (
        "'b.png' and 'c.png' share the id 2" in text
        and "1 files that are listed more than once (a.png)" in text
    )
    assert "lists 2 images, and 1 of them are not in" in text and "(b.png)" in text


def test_classes_that_disagree_and_classes_without_instances(tmp_path):
    assert "did you mean things?" in only(
        two_splits(
            tmp_path, class_names=("things",), val={"categories": [{"id": 1, "name": "things"}]}
        ),
        "error",
        fast=True,
    )
    two = [{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}]
    val = {"categories": two, "images": [image_entry(1, "v.png")]}
    data = two_splits(tmp_path, class_names=("thing", "other"), categories=two, val=val)
    assert "has no instance of 1 classes (other), which cannot be learned" in only(
        data, "warning", fast=True
    )


def test_files_that_cannot_be_read(tmp_path):
    data = two_splits(tmp_path)
    (tmp_path / "train/annotations.json").write_text("{")
    (tmp_path / "val/annotations.json").unlink()
    text = " | ".join(map(str, findings(data, "error", fast=True)))
    assert "not valid JSON" in text and "does not exist" in text
    assert "has no images folder" in str(findings(DataConfig(), "error")[0])


def test_two_corner_boxes_and_polygons_outside_are_recognised(tmp_path):
    outside = [70, 10, 90, 10, 90, 30]
    data = two_splits(
        tmp_path,
        annotations=[
            annotation(1, bbox=[40, 30, 60, 45], segmentation=[[40, 30, 60, 30, 60, 45]]),
            annotation(2, segmentation=[outside, [10, 10, 30, 10, 30, 30]]),
        ],
    )
    text = " | ".join(map(str, findings(data, "warning", fast=True)))
    assert "as two corners" in text and "write bbox as [x, y, width, height]" in text
    assert "1 annotations with a polygon wholly outside the image (annotations 2)" in text


# ---------------------------------------------------------------------------------------- slow part


def test_swapped_sizes_broken_files_and_boxes_apart_from_masks(tmp_path):
    data = two_splits(
        tmp_path,
        images=[image_entry(1, "a.png"), image_entry(2, "b.png")],
        annotations=[annotation(1, bbox=[10, 10, 40, 20]), annotation(2, image=2)],
    )
    cv2.imwrite(str(tmp_path / "train/images/a.png"), np.zeros((64, 48, 3), np.uint8))
    (tmp_path / "train/images/b.png").write_bytes(b"")
    assert not findings(data, "error", fast=True)
    text = " | ".join(map(str, findings(data)))
    assert "width and height swapped for 1 images (a.png is 48x64, the JSON says 64x48)" in text
    assert (
        "b.png is empty" in text
        and "1 boxes (50.0%) that disagree with their masks (annotation 1" in text
    )


def test_copies_and_leaks_are_found_by_content(tmp_path):
    data = two_splits(tmp_path, images=[image_entry(1, "a.png"), image_entry(2, "b.png")])
    (tmp_path / "train/images/b.png").write_bytes((tmp_path / "train/images/a.png").read_bytes())
    assert any(
        "exist more than once, byte for byte (a.png = b.png)" in f.problem.statement
        for f in findings(data, "warning")
    )
    (tmp_path / "val/images/v.png").write_bytes((tmp_path / "train/images/a.png").read_bytes())
    (tmp_path / "val/annotations.json").write_text(
        json.dumps(
            {
                "images": [image_entry(1, "v.png")],
                "annotations": [annotation(1)],
                "categories": [{"id": 1, "name": "thing"}],
            }
        )
    )
    assert "train split are in the val split under another name (a.png = v.png)" in only(
        data, "error"
    )


def test_a_shared_file_is_a_leak_but_does_not_stop_training(tmp_path):
    data = two_splits(tmp_path)
    same = data.model_copy(
        update={"val_images": data.train_images, "val_annotations": data.train_annotations}
    )
    assert any(
        "train and in the val split (a.png)" in f.problem.statement
        for f in findings(same, "warning")
    )
    other = tmp_path / "train/other.json"
    other.write_text((tmp_path / "train/annotations.json").read_text())
    leaking = same.model_copy(update={"val_annotations": "train/other.json"})
    assert findings(leaking, "error") and not findings(leaking, "error", fast=True)


def test_anchor_coverage_follows_the_anchors(tmp_path):
    images = [image_entry(1, "a.png", 128, 128)]
    square = [20, 20, 44, 20, 44, 44, 20, 44]
    data = two_splits(
        tmp_path,
        images=images,
        annotations=[annotation(1, bbox=[20, 20, 24, 24], segmentation=[square])],
    )
    fitting, far = (
        config(data, size=128).model_copy(
            update={
                "model": config(data, size=128).model.model_copy(
                    update={"anchor_scales": tuple((s * 2.0**i,) for i in range(5))}
                )
            }
        )
        for s in (24, 96)
    )
    assert any(
        f.level == "note"
        and f.problem.statement.startswith("the train split has 100.0% of 1 ground truths")
        for f in findings(fitting)
    )
    assert any(
        f.level == "warning"
        and f.problem.statement.startswith("the train split has 0.0%")
        and "anchor_scales" in f.problem.fix
        for f in findings(far)
    )


def test_the_script_reports_and_exits_with_0_1_or_2(tmp_path):
    images, path = write_set(tmp_path)

    def call(*arguments):
        command = [sys.executable, str(ROOT / "scripts/check_data.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    code, out, _ = call("--annotations", str(path), "--images", str(images), "--fast")
    assert code == 0 and out.endswith("0 errors, 0 warnings, 0 notes\n")
    (images / "a.png").unlink()
    code, out, _ = call("--annotations", str(path), "--images", str(images), "--fast")
    assert code == 1 and "ERROR" in out and "fix: copy them there" in out
    code, out, err = call("nuclie")
    assert (code, out) == (2, "") and err.strip().startswith(
        "error: no data set or config is called 'nuclie'; did you mean nuclei"
    )


# Every mark that sentences are made of, in a folder's name
AWKWARD = "screws v1. final: new ± 2; has 3"


def awkward_set(root) -> DataConfig:
    """A set in a folder of an awkward name, with a mistake for each way of finding one."""
    bad = [
        annotation(7, segmentation=[[1, 2, 3, 4]]),
        annotation(8, segmentation=[[1, 2, 3, 4]]),
        annotation(9, category=5),
    ]
    images = [image_entry(1, "a.png"), image_entry(2, "gone.png")]
    data = two_splits(
        root / AWKWARD,
        class_names=("things",),
        images=images,
        annotations=[annotation(1), *bad],
        val={"images": [image_entry(1, "v.png")], "annotations": [annotation(1, bbox=[1, 2])]},
    )
    (root / AWKWARD / "train/images/gone.png").unlink()
    (root / AWKWARD / "val/images/v.png").write_bytes(b"")
    return data


def test_a_folder_with_every_mark_of_a_sentence_is_named_whole(tmp_path):
    data = awkward_set(tmp_path)
    found = findings(data)
    folders = [Path(data.root) / data.train_images, Path(data.root) / data.val_images]
    files = [Path(data.root) / data.train_annotations, Path(data.root) / data.val_annotations]
    for finding in found:
        problem = finding.problem
        assert any(str(path) in problem.where for path in (*files, *folders)) or (
            AWKWARD not in str(problem)  # the anchors' finding names its split
        ), problem
        assert AWKWARD not in problem.fix
    assert {"copy or download it again", "number the annotations"} & {f.problem.fix for f in found}
    shown = listing(found).splitlines()
    assert len(shown) == 1 + len(found) + sum(bool(f.problem.fix) for f in found)
    for line in shown:
        assert line.count(AWKWARD) == line.count("screws")


def test_the_program_names_an_awkward_folder_whole(tmp_path, capsys):
    data = awkward_set(tmp_path)
    folder = Path(data.root) / "train"
    arguments = ["--annotations", str(folder / "annotations.json")]
    assert program([*arguments, "--images", str(folder / "images"), "--fast"]) == 1
    out = capsys.readouterr().out
    assert f"ERROR    {folder}/annotations.json lists 2 images, and 1 of them are not in " in out
    assert f"not in {folder}/images (gone.png)\n         fix: copy them there" in out
    (folder / "annotations.json").write_text("{")
    assert program([*arguments, "--images", str(folder / "images"), "--fast"]) == 2
    assert f"annotation file {folder}/annotations.json is not valid" in capsys.readouterr().err


def test_training_names_an_awkward_folder_whole(tmp_path):
    cfg = load_config(
        "quickstart", ["train.num_workers=0", "train.iterations=1", "train.lr_steps=[]"]
    ).model_copy(update={"data": awkward_set(tmp_path)})
    with pytest.raises(ValueError) as caught:
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert str(caught.value).count(AWKWARD) == str(caught.value).count("screws") > 1
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_a_data_set_and_a_config_means_both(tmp_path, monkeypatch, capsys):
    """The anchors are then the config's own, at its input size."""
    from data import config as user
    from yolact.commands import check_data

    data = two_splits(tmp_path)
    entry = data.model_dump(exclude={"name", "label_map", "keep_empty"})
    monkeypatch.setitem(user.DATASETS, "screws", entry)
    monkeypatch.setitem(user.CONFIGS, "screws", {**user.CONFIGS["quickstart"], "name": "screws"})
    assert check_data.program(["screws"]) == 0
    shown = capsys.readouterr()
    assert "at 256 px input" in shown.out and "config screws" in shown.out and not shown.err
    monkeypatch.delitem(user.CONFIGS, "screws")
    assert check_data.program(["screws"]) == 0
    shown = capsys.readouterr()
    assert "at 550 px input" in shown.out
    assert (
        shown.err
        == "note: anchors and masks are those of config yolact_base: --config names another\n"
    )


def test_control_characters_of_files_do_not_reach_the_terminal(tmp_path, capsys):
    names = ["a\x1b[2J.png", "b\n.png", "c\u202e.png"]
    images = [image_entry(i, name) for i, name in enumerate(names)]
    categories = [{"id": 1, "name": "thing\n\x1b]0;x\x07"}, {"id": 2, "name": "x" * 90_000}]
    _, path = write_set(
        tmp_path,
        images=images,
        annotations=[annotation("\x07", 0)],
        categories=categories,
        draw=False,
    )
    arguments = ["--annotations", str(path), "--images", str(tmp_path / "images"), "--fast"]
    assert program(arguments) == 1
    out = capsys.readouterr().out
    assert all(line.isprintable() and len(line) < 2000 for line in out.splitlines())
    assert "\\x1b[2J.png" in out and "a name with a line break" in out


def test_more_flaws_than_are_left_out_name_the_cure(tmp_path):
    """One of 200 is left out; three are an error, which names what mends them."""
    whole = [annotation(k, bbox=[10 + k / 100, 10, 20, 20]) for k in range(200)]
    data = two_splits(tmp_path / "few", annotations=[*whole[1:], annotation(0, bbox=None)])
    (left_out,) = [f for f in findings(data, fast=True) if "left out" in f.problem.what]
    assert left_out.level == "warning" and "--write" not in str(left_out)
    broken = [annotation(k, bbox=None) for k in range(3)]
    data = two_splits(tmp_path / "many", annotations=[*whole[3:], *broken])
    assert "--write OUT.json makes a mended copy" in only(data, "error", fast=True)
