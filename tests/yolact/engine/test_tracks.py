"""Ids in videos: two discs that cross, one of them unseen for a frame."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

import yolact.draw
from tests.yolact.engine.oracle import COLOURS, Oracle, config, write_set
from yolact.draw import draw_detections
from yolact.engine.found import FoundFiles, Wanted
from yolact.engine.predict import Predictor
from yolact.engine.tracks import Tracks
from yolact.engine.video import predict_video
from yolact.outputs import Detections

FRAMES, UNSEEN = 20, 12  # frames from 1


@pytest.fixture
def crossing(tmp_path):
    """A folder with v.avi: a red disc goes right, a green one left, and hides part of it midway; in
    frame UNSEEN there is no red one."""
    pytest.importorskip("trackers")
    writer = cv2.VideoWriter(
        str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (256, 256)
    )
    for i in range(FRAMES):
        frame = np.full((256, 256, 3), 128, np.uint8)
        if i + 1 != UNSEEN:
            cv2.circle(frame, (40 + 9 * i, 100), 30, COLOURS[0][::-1], -1)
        cv2.circle(frame, (40 + 9 * (FRAMES - 1 - i), 140), 30, COLOURS[1][::-1], -1)
        writer.write(frame)
    writer.release()
    return tmp_path


def predict(folder, **options):
    write_set(folder, [[(8, 8, 64, 1)]], image_ids=["a"], category_ids=[1, 2])
    predictor = Predictor(Oracle(), config(folder))
    wanted = Wanted(json=folder / "f.json", csv=folder / "f.csv", track=True)
    with FoundFiles(wanted, predictor.cfg) as files:
        files.add("still.png", np.zeros((256, 256, 3), np.uint8), nothing())
        for name in ("v.avi", "w.avi"):
            if (folder / name).exists():
                predict_video(
                    predictor,
                    folder / name,
                    folder / "out" / name,
                    track=True,
                    files=files,
                    progress=False,
                    **options,
                )
    return files, json.loads((folder / "f.json").read_text())


def nothing():
    none = torch.zeros(0)
    masks = torch.zeros(0, 256, 256, dtype=torch.bool)
    return Detections(torch.zeros(0, 4), none.long(), none, none, masks)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_two_discs_cross_and_keep_their_ids(crossing, batch_size):
    files, entries = predict(crossing, batch_size=batch_size)
    seen = {
        name: {
            int(entry["file_name"].partition("#")[2]): entry["track_id"]
            for entry in entries
            if entry["category_name"] == name and entry["mask_score"] > 0.5
        }
        for name in ("red", "green")
    }
    weak = {entry["track_id"] for entry in entries if entry["mask_score"] < 0.1}
    assert weak == {None}  # both classes, at every box
    assert len(seen["green"]) == FRAMES and seen["red"].keys() == seen["green"].keys() - {UNSEEN}
    for ids in seen.values():
        assert ids.pop(1) is None  # an id is given when an instance is seen again
    (red,), (green,) = set(seen["red"].values()), set(seen["green"].values())
    assert {red, green} == {1, 2}
    assert files.told() == f"{2 * FRAMES - 1} drawn of {len(entries)}: score >= 0.15, top 15; " + (
        "2 tracks"
    )
    with (crossing / "f.csv").open(newline="") as file:
        rows = {row["file_name"]: row["track_ids"] for row in csv.DictReader(file)}
    assert rows["still.png"] == rows["v.avi#1"] == "" and rows[f"v.avi#{UNSEEN}"] == str(green)
    assert sorted(rows[f"v.avi#{FRAMES}"].split()) == ["1", "2"]


def test_each_video_begins_anew_and_skipped_frames_are_fine(crossing):
    (crossing / "w.avi").write_bytes((crossing / "v.avi").read_bytes())
    files, entries = predict(crossing, skip=1)
    assert {entry["track_id"] for entry in entries} == {None, 1, 2}
    assert files.told().endswith("; 4 tracks")


def test_weak_detections_continue_a_track_and_begin_none():
    pytest.importorskip("trackers")
    tracks = Tracks(30, 0.5)
    ids = []
    for scores in ([0.9, 0.3], [0.9, 0.3], [0.2, 0.3]):
        boxes = torch.tensor([[10.0, 10, 50, 50], [100.0, 100, 150, 150]])
        score = torch.tensor(scores)
        labels, masks = torch.zeros(2).long(), torch.zeros(2, 200, 200, dtype=torch.bool)
        found = tracks(Detections(boxes, labels, score, score, masks))
        ids.append(found.track_ids.tolist())
    assert ids == [[0, 0], [1, 0], [1, 0]]
    assert found.select(torch.tensor([1, 0])).track_ids.tolist() == [0, 1]
    assert found.to_supervision().tracker_id.tolist() == [1, 0]


def test_two_classes_of_one_box_keep_an_id_each():
    pytest.importorskip("trackers")
    tracks, ids = Tracks(30, 0.5), []
    boxes, masks = torch.tensor([[10.0, 10, 50, 50]] * 2), torch.zeros(2, 60, 60, dtype=torch.bool)
    for order in ([0, 1], [0, 1], [1, 0], [0, 1], [1, 0]):
        labels, scores = torch.tensor(order), torch.tensor([0.9, 0.8])
        found = tracks(Detections(boxes, labels, scores, scores, masks))
        ids.append([found.track_ids[order.index(label)].item() for label in (0, 1)])
    assert ids == [[0, 0], *[[1, 2]] * 4]


def test_labels_and_colours_are_those_of_tracks(monkeypatch):
    texts, tile = [], yolact.draw._label_tile

    def kept(text, size, background):
        texts.append((text, background))
        return tile(text, size, background)

    monkeypatch.setattr(yolact.draw, "_label_tile", kept)
    boxes = torch.tensor([[10.0, 10, 90, 90], [100.0, 100, 190, 190]])
    masks = torch.zeros(2, 200, 200, dtype=torch.bool)
    scores = torch.tensor([0.9, 0.8])
    found = Detections(boxes, torch.zeros(2).long(), scores, scores, masks)
    found.track_ids = torch.tensor([7, 0])
    picture = np.zeros((200, 200, 3), np.uint8)
    draw_detections(picture, found, ["screw"])
    assert texts == [
        ("#7 screw 0.90", yolact.draw.colour(6)),
        ("screw 0.80", yolact.draw.colour(1)),
    ]
    draw_detections(picture, found, ["screw"], labels=False)
    assert len(texts) == 2
