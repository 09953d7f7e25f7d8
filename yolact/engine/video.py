"""Detections of a video, drawn into another or into a window."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from contextlib import closing
from itertools import count, takewhile
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor
from tqdm import tqdm

from yolact.draw import draw_detections
from yolact.engine.ahead import Behind, read_ahead
from yolact.engine.found import FoundFiles
from yolact.engine.predict import Predictor
from yolact.engine.tracks import Tracks
from yolact.outputs import Detections

VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


def predict_video(
    predictor: Predictor,
    source: str | Path | int,
    output: str | Path | None = None,
    *,
    score_threshold: float = 0.15,
    top_k: int = 15,
    batch_size: int = 1,
    skip: int = 0,
    track: bool = False,
    show_fps: bool = False,
    progress: bool = True,
    files: FoundFiles | None = None,
    draw: bool = True,
    **drawing,
) -> int:
    """Draw the detections of a video into another, or into a window where output is None; returns
    the number of frames. draw=False does neither.

    source is a file, a stream's address, or a camera's number. files gets the detections of each
    frame too, under the name SOURCE#FRAME, and what it leaves is drawn. `skip` frames are left out
    behind each one looked at; the drawn video then has fewer a second. Several frames make one
    forward pass with batch_size > 1. track gives detections track_ids, see Tracks. Ctrl-C (and q in
    the window) ends the video there and keeps what is written.
    ValueError names a source or a codec that cannot be opened.
    """
    window = _Window() if draw and output is None else None
    capture = _open_video(source)
    drawing |= {"score_threshold": score_threshold, "top_k": top_k}
    fps, total = _pace(capture, skip)
    sink = window or (_VideoFile(Path(str(output)), fps) if draw else _Nowhere())
    name = Path(str(source))
    follow = Tracks(fps, score_threshold) if track else _as_found

    def keep(number: int, frame: np.ndarray, found: Detections, rate: float) -> None:
        found = follow(found)
        if files is not None:
            place = 1 + (number - 1) * (1 + skip)  # among the frames of the source, from 1
            stem = f"{name.stem}_{place:06d}"
            found = files.add(f"{name.name}#{place}", frame, found, stem=stem)
        if draw:
            drawn = draw_detections(frame, found, predictor.cfg.data.class_names, **drawing)
            if show_fps:
                _write_fps(drawn, rate)
            sink.write(drawn)

    frames, started = 0, time.perf_counter()
    try:
        with (
            tqdm(total=total if total > 0 else None, unit="frame", disable=not progress) as bar,
            closing(_read(capture, predictor, batch_size, skip)) as batches,
            Behind() as behind,
        ):
            for batch, inputs in batches:
                for frame, found in zip(batch, predictor.batch(batch, inputs)):
                    frames += 1
                    rate = frames / (time.perf_counter() - started)
                    if window is None:
                        behind(keep, frames, frame, found, rate)
                    else:  # a screen belongs to the main thread
                        keep(frames, frame, found, rate)
                bar.update(len(batch))
                if sink.closed:
                    break
    except KeyboardInterrupt:
        print(f"stopped after {frames} frames", file=sys.stderr)
    except BaseException:
        sink.discard()
        raise
    finally:
        capture.release()
    if not frames:
        sink.discard()
        raise ValueError(
            f"{source}: no frame can be read from this video: it may be cut off, or its codec is "
            "unknown to OpenCV"
        )
    sink.finish()
    return frames


def _pace(capture: cv2.VideoCapture, skip: int) -> tuple[float, int]:
    """Frames a second that are looked at, and how many in all; 0 or less = unknown."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    total = -(-int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // (1 + skip))
    return (fps if 1 <= fps <= 240 else 30.0) / (1 + skip), total


def _as_found(found: Detections) -> Detections:
    return found


def _open_video(source: str | Path | int) -> cv2.VideoCapture:
    camera = isinstance(source, int) or str(source).isdecimal()
    stream = "://" in str(source)
    if not camera and not stream and not Path(str(source)).exists():
        raise ValueError(
            f"{source}: this video does not exist: check the path, or give a camera's number"
        )
    capture = cv2.VideoCapture(int(str(source)) if camera else str(source))
    if not capture.isOpened():
        capture.release()
        raise ValueError(
            f"camera {source} cannot be opened: check that it is connected and not in use"
            if camera
            else f"{source}: this video cannot be opened: the file is damaged, or OpenCV lacks its "
            "codec; convert it, for example with ffmpeg -i IN -c:v mjpeg OUT.avi"
            if not stream
            else f"{source}: OpenCV opens no stream there: check the address, and that the camera "
            "or server answers"
        )
    return capture


def _read(
    capture: cv2.VideoCapture, predictor: Predictor, size: int, skip: int = 0
) -> Generator[tuple[list[np.ndarray], list[Tensor]], None, None]:
    """Up to `size` RGB frames and their inputs, which a thread reads one batch ahead; `skip` frames
    are left out behind each. The first frame that does not come ends it: no more is asked for,
    since a dead stream answers late."""
    ended = False

    def next_batch(_: int) -> tuple[list[np.ndarray], list[Tensor]]:
        nonlocal ended
        frames: list[np.ndarray] = []
        while len(frames) < size and not ended:
            read, frame = capture.read()
            ended = not read or not all(capture.grab() for _ in range(skip))
            if read:
                frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return frames, [predictor.input(frame) for frame in frames]

    with closing(read_ahead(next_batch, count(), threads=1, ahead=1)) as batches:
        yield from takewhile(lambda batch: bool(batch[0]), batches)


def _write_fps(frame: np.ndarray, fps: float) -> None:
    scale = max(0.5, frame.shape[0] / 900)
    # an outline, so that it reads on any ground
    for ink, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            frame,
            f"{fps:.1f} frames/s",
            (round(12 * scale), round(30 * scale)),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            ink,
            max(1, round(width * scale)),
            cv2.LINE_AA,
        )


class _VideoFile:
    """Frames into a file that appears under its name when it is whole."""

    closed = False

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in VIDEO_CODECS:
            raise ValueError(
                f"{path}: cannot write a video of type {path.suffix or '(none)'!r}: use one of "
                f"{', '.join(VIDEO_CODECS)}"
            )
        self.path, self.fps = path, fps
        self.writer: cv2.VideoWriter | None = None
        self.partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, frame: np.ndarray) -> None:
        if self.writer is None:
            codec = VIDEO_CODECS[self.path.suffix.lower()]
            self.writer = cv2.VideoWriter(
                str(self.partial),
                cv2.VideoWriter.fourcc(*codec),
                self.fps,
                (frame.shape[1], frame.shape[0]),
            )
            if not self.writer.isOpened():
                raise ValueError(
                    f"{self.path}: OpenCV cannot write a video there with the codec {codec}: check "
                    "that the folder is writable, or write an .avi (MJPG)"
                )
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def finish(self) -> None:
        assert self.writer is not None, "a video of no frame is discarded"
        self.writer.release()
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        if self.writer is not None:
            self.writer.release()
        self.partial.unlink(missing_ok=True)


class _Nowhere:
    """Where frames are not drawn."""

    closed = False

    def write(self, frame: np.ndarray) -> None:
        pass

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass


class _Window:
    """Frames on the screen; q closes it. ValueError at once where there is no screen."""

    closed = False
    title = "yolact (q quits)"

    def __init__(self) -> None:
        # without a display, OpenCV's Qt ends the process
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise ValueError(
                "there is no display for a window: give an output file, --video=IN:OUT.mp4"
            )
        try:
            cv2.namedWindow(self.title)
        except cv2.error:
            raise ValueError(
                "this OpenCV cannot open a window: give an output file, or install opencv-python "
                "instead of opencv-python-headless"
            ) from None

    def write(self, frame: np.ndarray) -> None:
        cv2.imshow(self.title, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.closed = cv2.waitKey(1) & 0xFF == ord("q")

    def finish(self) -> None:
        cv2.destroyAllWindows()

    def discard(self) -> None:
        pass
