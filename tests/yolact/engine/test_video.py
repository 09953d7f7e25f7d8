"""Prediction on videos: what is drawn, what is refused, what an end leaves behind."""

import sys

import cv2
import numpy as np
import pytest

from tests.yolact.engine.oracle import COLOURS, Oracle, config, write_set
from yolact.engine.predict import Predictor
from yolact.engine.video import _read, predict_video


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path, [[(8, 8, 64, 1)]], image_ids=["a"], category_ids=[1, 2])
    return tmp_path


@pytest.fixture
def oracle(folder):
    return Predictor(Oracle(), config(folder))


def video(path, frames, codec="MJPG", size=(256, 256)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, size)
    for i in range(frames):
        frame = np.full((size[1], size[0], 3), 128, np.uint8)
        frame[40:140, 20 + 8 * i : 120 + 8 * i] = COLOURS[0][::-1]
        writer.write(frame)
    writer.release()
    return path


def read_video(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        frames.append(frame[1][..., ::-1])
    return frames


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_a_video(folder, oracle, suffix, batch_size):
    source = video(folder / "in.avi", 5)
    assert (
        predict_video(
            oracle, source, folder / "out" / f"drawn{suffix}", batch_size=batch_size, progress=False
        )
        == 5
    )
    frames, plain = read_video(folder / "out" / f"drawn{suffix}"), read_video(source)
    assert len(frames) == 5 and frames[0].shape == plain[0].shape
    for i, (frame, before) in enumerate(zip(frames, plain)):
        # the outline differs by 22 to 30, codecs by up to 5, so 15 whatever OpenCV brings
        changed = np.abs(frame.astype(int) - before).max(2) > 15
        # the outline runs along the square of this very frame
        assert changed[90, 18 + 8 * i : 24 + 8 * i].any() and not changed[200:].any()
    assert [p.name for p in (folder / "out").iterdir()] == [f"drawn{suffix}"]


def test_frames_per_second_are_written_on_request(folder, oracle):
    source = video(folder / "in.avi", 2)
    predict_video(oracle, source, folder / "a.avi", progress=False)
    predict_video(oracle, source, folder / "b.avi", show_fps=True, progress=False)
    a, b = (read_video(folder / f"{name}.avi")[0].astype(int) for name in "ab")
    difference = np.abs(a - b).max(2) > 60
    assert difference[:30].any() and not difference[60:].any()


def test_a_video_that_cannot_be_opened_is_named(folder, oracle):
    with pytest.raises(ValueError, match=r"none\.mp4: this video does not exist"):
        predict_video(oracle, folder / "none.mp4", folder / "out.mp4")
    (folder / "bad.mp4").write_bytes(b"not a video" * 50)
    with pytest.raises(ValueError, match=r"bad\.mp4: this video cannot be opened.*codec"):
        predict_video(oracle, folder / "bad.mp4", folder / "out.mp4")
    with pytest.raises(ValueError, match="^nothing://nowhere: OpenCV opens no stream there"):
        predict_video(oracle, "nothing://nowhere", folder / "out.mp4")
    with pytest.raises(ValueError, match="camera 87 cannot be opened"):
        predict_video(oracle, "87", folder / "out.mp4")
    source = video(folder / "in.avi", 2)
    with pytest.raises(ValueError, match=r"out\.gif: cannot write a video"):
        predict_video(oracle, source, folder / "out.gif", progress=False)
    assert not list(folder.glob("out*"))


def test_a_video_that_fails_midway_leaves_no_half_file_and_an_interrupt_a_whole_one(
    folder, oracle, monkeypatch
):
    source, calls = video(folder / "in.avi", 5), []

    def third_time(error):
        calls.clear()
        batch = Predictor.batch

        def stop(self, images, inputs):
            calls.append(1)
            if len(calls) == 3:
                raise error
            return batch(self, images, inputs)

        return stop

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "batch", third_time(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            predict_video(oracle, source, folder / "out.avi", progress=False)
    assert not list(folder.glob("*out*"))
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "batch", third_time(KeyboardInterrupt()))
        assert predict_video(oracle, source, folder / "out.avi", progress=False) == 2
    assert len(read_video(folder / "out.avi")) == 2


def test_without_an_output_a_window_is_needed(folder, oracle, monkeypatch):
    def no_window(*_):
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", no_window)
    monkeypatch.setattr(Predictor, "batch", None)  # found out before any
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(ValueError, match="cannot open a window: give an output file"):
        predict_video(oracle, video(folder / "in.avi", 2), progress=False)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ValueError, match="no display for a window: give an output file"):
        predict_video(oracle, folder / "in.avi", progress=False)


def test_frames_are_skipped_and_keep_their_numbers(folder, oracle):
    class Kept(list):
        def add(self, name, image, found, stem=""):
            self.append((name, image))
            return found

    source, kept = video(folder / "in.avi", 7), Kept()
    count = predict_video(
        oracle, source, folder / "out.avi", skip=2, files=kept, progress=False, batch_size=2
    )
    assert count == 3 and [name for name, _ in kept] == ["in.avi#1", "in.avi#4", "in.avi#7"]
    frames = read_video(source)
    for (_, image), frame in zip(kept, frames[::3]):
        assert np.abs(image.astype(int) - frame).max() <= 3
    capture = cv2.VideoCapture(str(folder / "out.avi"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10 / 3, abs=0.1)
    capture.release()


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("missed", [3, 4, 5])
def test_a_missed_frame_ends_a_stream_wherever_in_a_batch(oracle, skip, missed):
    """A dead stream may let each further question wait for half a minute."""

    class Stream:
        asked = 0

        def grab(self):
            self.asked += 1
            return self.asked < missed

        def read(self):
            return self.grab(), np.zeros((8, 8, 3), np.uint8)

    stream = Stream()
    frames = [frame for batch, _ in _read(stream, oracle, 2, skip) for frame in batch]
    assert stream.asked == missed and len(frames) == (missed // 2 if skip else missed - 1)
