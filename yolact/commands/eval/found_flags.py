"""Flags of the programs that predict: which files of what is found are wanted. Imports no torch."""

from __future__ import annotations

import argparse
import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolact.engine.found import Wanted

SCORE, TOP_K = 0.15, 15
FILES = ("json", "masks", "crops", "csv")


def add_found_flags(flags: argparse.ArgumentParser, *score_names: str) -> None:
    """Makes a parser take them. score_names: other names of --score."""
    flags.add_argument(
        "--json", type=Path, metavar="FILE", help="every detection as a COCO result with its names"
    )
    flags.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="a PNG of 16 bits a picture: 0 = ground, n = n-th by score, higher score on top",
    )
    flags.add_argument(
        "--crops", type=Path, metavar="DIR", help="a PNG a detection, its ground transparent"
    )
    flags.add_argument(
        "--csv", type=Path, metavar="FILE", help="a row a picture: count, and area in pixels"
    )
    flags.add_argument(
        *score_names,
        "--score",
        type=_score,
        help=f"all but --json take detections from this mask score on (default {SCORE})",
    )
    flags.add_argument(
        "--top_k", type=int, help=f"pictures show at most this many detections (default {TOP_K})"
    )
    flags.add_argument("--classes", metavar="A,B", help="only detections of these classes")
    flags.add_argument(
        "--track",
        action="store_true",
        help="of videos: instances keep a number from frame to frame (extra [track])",
    )


def _score(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise argparse.ArgumentTypeError("nan is no score")
    return number


def wanted(arguments: Namespace, score: float | None) -> Wanted:
    """What the flags ask for; score: of the flag, None where it is not given."""
    from yolact.engine.found import Wanted

    classes = (arguments.classes or "").split(",")
    return Wanted(
        json=arguments.json,
        masks=arguments.masks,
        crops=arguments.crops,
        csv=arguments.csv,
        score=SCORE if score is None else score,
        top_k=TOP_K if arguments.top_k is None else arguments.top_k,
        track=arguments.track,
        classes=tuple(dict.fromkeys(name.strip() for name in classes if name.strip())),
    )


def check_track(arguments: Namespace, *, video: bool) -> None:
    """ValueError where --track has no video, or not its package."""
    if not arguments.track:
        return
    if not video:
        raise ValueError("--track follows instances through videos: give one, or leave --track out")
    from yolact.engine.tracks import tracking_package

    tracking_package()
