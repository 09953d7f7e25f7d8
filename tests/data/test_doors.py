"""One reading of annotations and results: what one door refuses, none lets in."""

import copy
import json
import math

import pytest
from pycocotools import mask as coco_mask

from data.doctor.check import check_dataset
from data.schema import DataConfig
from data.table import read_table
from layers.problems import DataWarning
from tests.data.sets import SQUARE, annotation, config, image_entry, write_set
from yolact.bound import mask_bound
from yolact.engine.evaluate import evaluate_files
from yolact.engine.metrics import coco_metrics
from yolact.study.statistics.finished import load_results

NAN, INF = float("nan"), float("inf")
RLE = coco_mask.merge(coco_mask.frPyObjects([SQUARE], 48, 64))["counts"].decode()


def rle(counts, size=(48, 64)) -> dict:
    return {"segmentation": {"size": list(size), "counts": counts}}


def section(root, **content) -> DataConfig:
    write_set(root, **content)
    half = {"images": "images", "annotations": "annotations.json"}
    names = {f"{split}_{key}": name for split in ("train", "val") for key, name in half.items()}
    return DataConfig(root=str(root), class_names=("thing",), **names)


def verdicts(data: DataConfig) -> dict[str, str]:
    """What every reader of annotations says: the error, or ''."""
    path = f"{data.root}/annotations.json"

    def of(call) -> str:
        try:
            call()
        except ValueError as error:
            return str(error)
        return ""

    errors = [str(f) for f in check_dataset(data, fast=True) if f.level == "error"]
    return {
        "training": of(lambda: read_table(path, data.class_names)),
        "doctor": "; ".join(errors),
        "boxes": of(lambda: coco_metrics(path, [], "bbox")),
        "masks": of(lambda: coco_metrics(path, [], "segm")),
    }


FLAWS = [
    ({"image_id": [1]}, "belongs to image [1]"),
    ({"image_id": {"$oid": "5f"}}, "belongs to image {"),
    ({"image_id": True}, "belongs to image True"),
    ({"image_id": "1"}, "there is 1, of another type"),
    ({"category_id": [1]}, "has category id [1]"),
    ({"category_id": None}, "has category id None"),
    ({"bbox": [1, 2, True, 4]}, "has the box"),
    ({"bbox": "1 2 3 4"}, "has the box"),
    ({"bbox": [1, 2, INF, 4]}, "NaN or infinity"),
    ({"bbox": [10**400, 2, 3, 4]}, "far outside"),
    ({"bbox": [1, 2, 3, 1e30]}, "far outside"),
    ({"bbox": [30, 20, -5, 4]}, "negative size"),
    ({"iscrowd": "0"}, "has iscrowd '0'"),
    ({"iscrowd": 2}, "has iscrowd 2"),
    ({"iscrowd": NAN}, "has iscrowd nan"),
    ({"area": "400"}, "has the area '400'"),
    ({"area": INF}, "has the area inf"),
    ({"area": -1}, "has the area -1"),
    ({"area": 10**400}, "has the area 1000"),
    ({"segmentation": SQUARE}, "flat list of coordinates"),
    ({"segmentation": "text"}, "has no segmentation"),
    ({"segmentation": [[1, 2, 3, 4, True, 6]]}, "not a number"),
    ({"segmentation": [[1, 2, "3", 4, 5, 6]]}, "not a number"),
    ({"segmentation": [[NAN, 2, 3, 4, 5, 6]]}, "NaN or infinity"),
    ({"segmentation": [[1, NAN, 10**400, 4, 5, 6]]}, "has a polygon from"),
    ({"segmentation": [[1, 2, 1e30, 4, 5, 6]]}, "has a polygon from"),
    ({"segmentation": [[0, 0, 700, 47] * 40000]}, "thousands of times"),
    (rle(RLE[:-4]), "RLE whose runs cover"),
    (rle(RLE[:-1] + "P"), "RLE with malformed counts"),
    (rle(RLE + "é"), "RLE with malformed counts"),
    (rle(str(RLE.encode())), "RLE with malformed counts"),
    (rle("PPPPPPPPPP0"), "RLE with malformed counts"),
    (rle(RLE, (64, 48)), "height and width swapped"),
    (rle(RLE, (24, 32)), "has an RLE of size [24, 32]"),
    (rle(RLE, (0, 64)), "has an RLE of size [0, 64]"),
    (rle(RLE, (2**63, 64)), "has an RLE of size"),
    ({"segmentation": {"size": 5, "counts": RLE}}, "has an RLE of size 5"),
    (rle(["3072", "0"]), "no list of whole numbers"),
    (rle([3000, None, 72]), "no list of whole numbers"),
    (rle([3073, -1]), "RLE with malformed counts"),
    (rle([]), "RLE whose runs cover 0 pixels"),
    (rle({"a": 1}), "RLE with malformed counts"),
]


@pytest.mark.parametrize("changes, words", FLAWS, ids=range(len(FLAWS)))
def test_every_door_refuses_the_same_annotation(tmp_path, changes, words):
    wrong = {**annotation(7), **changes}
    for door, said in verdicts(section(tmp_path, annotations=[annotation(1), wrong])).items():
        assert words in said and "annotation 7" in said, (door, said)


@pytest.mark.parametrize("changes, words", FLAWS[::5], ids=range(len(FLAWS[::5])))
def test_every_door_leaves_out_one_annotation_of_many(tmp_path, changes, words):
    sound = [annotation(i) for i in range(8, 180)]
    data = section(tmp_path, annotations=[*sound, {**annotation(7), **changes}])
    path = f"{data.root}/annotations.json"
    with pytest.warns(DataWarning, match="left out 1 of 173 annotations.*annotation 7 "):
        assert len(read_table(path, ("thing",)).boxes) == 172
    with pytest.warns(DataWarning, match="annotation 7"):
        assert coco_metrics(path, [], "segm").ap == 0
    told = [f for f in check_dataset(data, fast=True) if words in str(f)]
    assert [f.level for f in told] == ["warning"] * 2
    assert "1 of 173 annotations are left out" in str(told[0])
    assert mask_bound(path, config(data)).total == 172


def test_an_image_whose_annotations_are_all_left_out_is_no_background(tmp_path):
    images = [image_entry(1, "a.png"), image_entry(2, "b.png"), image_entry(3, "empty.png")]
    wrong = annotation(7, image=2, bbox=[1])
    sound = [annotation(i) for i in range(8, 180)]
    _, path = write_set(tmp_path, images=images, annotations=[wrong, *sound])
    with pytest.warns(DataWarning):
        assert read_table(path, ("thing",), keep_empty=True).image_ids == [1, 3]
    # a detection there is neither right nor wrong
    found = [
        {"image_id": a["image_id"], "category_id": 1, "score": 0.5, "bbox": a["bbox"]}
        for a in [*sound, annotation(0, image=2)]
    ]
    found[-1]["score"] = 0.9
    with pytest.warns(DataWarning):
        assert coco_metrics(path, found, "bbox", 200).ap == pytest.approx(1)


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"images": [image_entry(height=2**63)]}, "and height 9223372036854775808"),
        ({"images": [image_entry(width=2**31)]}, "has width 2147483648"),
        ({"images": [image_entry(width=2**15, height=2**15)]}, "has width 32768"),
        ({"images": [image_entry(width=True)]}, "has width True"),
        ({"images": [image_entry(width="64")]}, "has width '64'"),
        ({"images": [image_entry(width=NAN)]}, "has width nan"),
        ({"images": [image_entry(key=[1])]}, "has the id [1]"),
        ({"images": [image_entry(key="\ud800")]}, "has the id '\\ud800'"),
        ({"images": [image_entry(name=71)]}, "has the file_name 71"),
        ({"images": [image_entry(name="a\0.png")]}, "has the file_name 'a\\x00.png'"),
        ({"images": [image_entry(), image_entry(name="b.png")]}, "share the id 1"),
        ({"categories": [{"id": 1, "name": ["a"]}]}, "has the id 1 and the name ['a']"),
        ({"categories": [{"id": {}, "name": "a"}]}, "has the id {} and the name 'a'"),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, "share the id 1"),
    ],
)
def test_every_door_refuses_the_same_image_or_category(tmp_path, entries, words):
    for door, said in verdicts(section(tmp_path, draw=False, **entries)).items():
        assert words in said, (door, said)


def test_numbers_are_class_names_as_text(tmp_path):
    content = {"categories": [{"id": 1, "name": 18}]}
    path = f"{section(tmp_path, **content).root}/annotations.json"
    assert read_table(path, ("18",)).category_of_label == {0: 1}
    with pytest.raises(ValueError, match=r'set data.class_names=\["18"\]'):
        read_table(path, ("thing",))


# ------------------------------------------------------------------------------------------ results


def detection(**changes) -> dict:
    mask = {"size": [48, 64], "counts": RLE}
    box = [10, 10, 20, 20]
    return {
        "image_id": 1,
        "category_id": 1,
        "score": 0.9,
        "bbox": box,
        "segmentation": mask,
        **changes,
    }


RESULT_FLAWS = [
    ("bbox", {"bbox": [NAN, 1, 2, 3]}, "NaN or infinity"),
    ("bbox", {"bbox": [1, 1, INF, 3]}, "NaN or infinity"),
    ("bbox", {"bbox": [1, 1, -2, 3]}, "negative size"),
    ("bbox", {"bbox": [1, 1, "2", 3]}, "has the box"),
    ("bbox", {"bbox": None}, "has the box None"),
    ("bbox", {"score": NAN}, "cannot be ranked"),
    ("bbox", {"score": "0.5"}, "cannot be ranked"),
    ("bbox", {"score": 10**400}, "cannot be ranked"),
    ("bbox", {"image_id": [1]}, "has image_id [1]"),
    ("bbox", {"category_id": {}}, "has category_id {}"),
    ("segm", rle(RLE[:-4]), "RLE whose runs cover"),
    ("segm", rle(str(RLE.encode())), "RLE with malformed counts"),
    ("segm", rle(RLE, (24, 32)), "has an RLE of size [24, 32]"),
    ("segm", rle(RLE, (64, 48)), "height and width swapped"),
    ("segm", rle(RLE, (2**63, 64)), "has an RLE of size"),
    ("segm", {"segmentation": [SQUARE]}, "no RLE"),
    ("segm", {"segmentation": None}, "no RLE"),
]


@pytest.mark.parametrize("kind, changes, words", RESULT_FLAWS, ids=range(len(RESULT_FLAWS)))
def test_every_door_refuses_the_same_result(tmp_path, kind, changes, words):
    data = section(tmp_path / "set")
    path, truth = tmp_path / "found.json", f"{data.root}/annotations.json"
    path.write_text(json.dumps([detection(), detection(**changes)]))
    said = {}
    for door, call in (
        ("compare", lambda: load_results(path, truth, resamples=2)),
        ("evaluation", lambda: evaluate_files(config(data), path, path)),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        said[door] = str(caught.value)
    assert all(words in text and "detection 1" in text for text in said.values()), said


def test_sound_results_pass_with_counts_of_either_kind(tmp_path):
    data = section(tmp_path / "set")
    truth = json.loads((tmp_path / "set/annotations.json").read_text())
    runs = [10 + 48 * 10, 20]
    runs += [28, 20] * 19
    runs.append(48 * 64 - sum(runs))
    before = copy.deepcopy(truth)
    for segmentation in ({"size": [48, 64], "counts": RLE}, {"size": [48, 64], "counts": runs}):
        metrics = coco_metrics(truth, [detection(segmentation=segmentation)], "segm")
        assert metrics.ap == pytest.approx(1) and math.isnan(metrics.ap_large)
    assert truth == before
    assert read_table(f"{data.root}/annotations.json", ("thing",)).labels.tolist() == [0]
