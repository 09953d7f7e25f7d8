import importlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.coco import CocoDataset
from data.prepare.archives import unpack, verify_split
from data.prepare.cigarettes import prepare_cigarettes
from data.prepare.coco import prepare_coco
from data.prepare.nuclei import prepare_nuclei
from data.prepare.sbd import FILES, prepare_sbd
from tests.data.sets import annotation, image_entry, write_set


def script(name):
    return importlib.import_module(f"yolact.commands.{name}")


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)
    return path


def zip_of(path, folder=None, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")) if folder else []:
            archive.write(file, file.relative_to(folder))
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# ---------------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize(
    "name, kind, content",
    [
        ("../evil.txt", tarfile.REGTYPE, b"x"),
        ("/tmp/evil.txt", tarfile.REGTYPE, b"x"),
        ("a/../../evil.txt", tarfile.REGTYPE, b"x"),
        ("link", tarfile.SYMTYPE, "/etc"),
        ("hard", tarfile.LNKTYPE, "good.txt"),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_malicious_tar_writes_nothing(tmp_path, name, kind, content):
    archive = tar_of(
        tmp_path / "a.tgz", ("good.txt", tarfile.REGTYPE, b"good"), (name, kind, content)
    )
    with pytest.raises(ValueError, match=rf"a\.tgz: member '{name}' .*nothing was unpacked"):
        unpack(archive, tmp_path / "out" / "deep")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tgz"]


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_a_malicious_zip_writes_nothing(tmp_path, name):
    archive = zip_of(tmp_path / "a.zip", **{"good.txt": "good", name: "x"})
    with pytest.raises(ValueError, match="points outside the folder: nothing was unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_inside_a_zip_and_a_link_in_the_folder_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(ValueError, match="is a link or device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="through a link there"):
        unpack(zip_of(tmp_path / "b.zip", **{"sub/x.txt": "x"}), tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_missing_damaged_and_foreign_archives_are_named(tmp_path):
    with pytest.raises(ValueError, match="a.zip does not exist: download it first"):
        unpack(tmp_path / "a.zip", tmp_path)
    (tmp_path / "page.zip").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="neither a zip nor a tar"):
        unpack(tmp_path / "page.zip", tmp_path)
    whole = tar_of(
        tmp_path / "whole.tgz", ("big", tarfile.REGTYPE, np.random.default_rng(0).bytes(50_000))
    ).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[:30_000])
    with pytest.raises(ValueError, match="cut.tgz is damaged .*download it again"):
        unpack(tmp_path / "cut.tgz", tmp_path / "out")


def test_verification_counts_files_and_sizes(tmp_path):
    images, path = write_set(tmp_path, images=[image_entry(1, "a.png"), image_entry(2, "b.png")])
    assert verify_split(images, path).endswith("2 images, 1 instances, 1 categories")
    with pytest.raises(ValueError, match="has 2 images, the published file has 3"):
        verify_split(images, path, expected_images=3)
    (images / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 images in .* have 0 bytes \(b.png\)"):
        verify_split(images, path)
    (images / "b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images of .* are not in .* \(b.png\)"):
        verify_split(images, path)


# ------------------------------------------------------------------------------------------ scripts


def test_coco_is_unpacked_and_its_counts_are_compared(tmp_path, capsys):
    source = tmp_path / "source"
    for split in ("train", "val"):
        images, path = write_set(source / split, images=[image_entry(1, f"{split}.png")])
        zip_of(
            tmp_path / f"{split}2017.zip",
            **{f"{split}2017/{split}.png": (images / f"{split}.png").read_bytes()},
        )
    zip_of(
        tmp_path / "annotations_trainval2017.zip",
        **{
            f"annotations/instances_{s}2017.json": (source / s / "annotations.json").read_bytes()
            for s in ("train", "val")
        },
    )
    arguments = [f"--archives={tmp_path}", f"--root={tmp_path / 'coco'}"]
    assert script("prepare_coco").program([*arguments, "--any_size"]) == 0
    assert "1 images, 1 instances" in capsys.readouterr().out
    assert script("prepare_coco").program(arguments) == 2
    assert "has 1 images, the published file has 118287" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the published file has 118287"):
        prepare_coco(tmp_path / "coco")


def test_cigarettes_are_found_inside_their_wrapping_folder(tmp_path):
    for split in ("train", "val"):
        images, path = write_set(
            tmp_path / "source/cig_butts" / split,
            images=[image_entry(0, "00000000.png")],
            annotations=[annotation(0, image=0)],
            categories=[{"id": 1, "name": "cig_butt"}],
        )
        path.rename(path.with_name("coco_annotations.json"))
    archive = zip_of(tmp_path / "cig_butts.zip", tmp_path / "source")
    program = script("prepare_cigarettes").program
    assert program([f"--archive={archive}", f"--root={tmp_path / 'butts'}"]) == 0
    assert sorted(p.name for p in (tmp_path / "butts").iterdir()) == ["train", "val"]
    with pytest.raises(ValueError, match="is already there: remove it first"):
        prepare_cigarettes(tmp_path / "butts", archive)
    with pytest.raises(ValueError, match="side by side: is it cig_butts.zip"):
        prepare_cigarettes(tmp_path / "other", zip_of(tmp_path / "b.zip", **{"x.txt": "x"}))


def test_sbd_takes_both_parts_and_says_what_is_missing(tmp_path):
    with pytest.raises(
        ValueError, match="lacks pascal_sbd_train.json, pascal_sbd_val.json: .*MATLAB"
    ):
        prepare_sbd(tmp_path / "sbd")
    images, path = write_set(tmp_path / "source", images=[image_entry(1, "a.png")])
    (tmp_path / "json").mkdir()
    for name in FILES:
        (tmp_path / "json" / name).write_bytes(path.read_bytes())
    archive = tar_of(
        tmp_path / "benchmark.tgz",
        ("benchmark_RELEASE/dataset/img/a.png", tarfile.REGTYPE, (images / "a.png").read_bytes()),
    )
    arguments = [f"--images={archive}", f"--annotations={tmp_path / 'json'}"]
    assert script("prepare_sbd").program([*arguments, f"--root={tmp_path / 'sbd'}"]) == 0
    assert sorted(p.name for p in (tmp_path / "sbd").iterdir()) == [
        "img",
        "pascal_sbd_train.json",
        "pascal_sbd_val.json",
    ]


def stage1(root: Path, count=5) -> dict[str, int]:
    """A made-up stage1_train; returns the number of nuclei of each image."""
    rng, nuclei = np.random.default_rng(0), {}
    for i in range(count):
        for part in ("images", "masks"):
            (root / f"id{i}" / part).mkdir(parents=True)
        cv2.imwrite(
            str(root / f"id{i}/images/id{i}.png"), rng.integers(0, 255, (40, 50, 4), dtype=np.uint8)
        )
        nuclei[f"id{i}.png"] = i + 1
        for k in range(i + 1):
            mask = np.zeros((40, 50), np.uint8)
            mask[5 * k : 5 * k + 4, 3 : 3 + 2 * (k + 2)] = 255
            cv2.imwrite(str(root / f"id{i}/masks/{k}.png"), mask)
        cv2.imwrite(str(root / f"id{i}/masks/empty.png"), np.zeros((40, 50), np.uint8))
    return nuclei


def test_nuclei_are_converted_with_a_seeded_split(tmp_path):
    nuclei = stage1(tmp_path / "source/stage1_train")
    program = script("prepare_nuclei").program
    archive = zip_of(tmp_path / "stage1_train.zip", tmp_path / "source")

    def converted(root, seed):
        words = [f"--source={archive}", f"--root={root}", "--val_share=0.4", f"--seed={seed}"]
        assert program(words) == 0
        return {
            s: json.loads((root / f"annotations/instances_{s}.json").read_text())
            for s in ("train", "val")
        }

    content = converted(tmp_path / "a", 0)
    assert len(content["val"]["images"]) == 2 and len(content["train"]["images"]) == 3
    assert converted(tmp_path / "b", 0) == content != converted(tmp_path / "c", 3)
    for split in ("train", "val"):
        data = CocoDataset(
            tmp_path / "a/images", tmp_path / f"a/annotations/instances_{split}.json", ("nucleus",)
        )
        for index in range(len(data)):
            masks = data[index].targets.masks
            assert len(masks) == nuclei[data.path(index).name]
            assert sorted(masks.sum((1, 2)).tolist()) == [
                4 * 2 * (k + 2) for k in range(len(masks))
            ]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["annotations", "images"]
    with pytest.raises(ValueError, match="holds 0 folders with images/ and masks/"):
        prepare_nuclei(tmp_path / "d", tmp_path / "a/images")
