"""Writing mended copies of annotation files: whole or not at all, and never over an input."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from data.mend.masks import Wishes
from data.mend.whole import mend
from yolact.cli import say
from yolact.files import write_whole


def write_mended(files: Mapping[Path, tuple[Path, Path]], wishes: Wishes) -> None:
    """Writes a mended copy of each annotation file, and prints what was done.

    files: annotation file -> (image folder, where the copy goes). Nothing is written where a copy
    would replace an input (ValueError), or where a file cannot be mended (ProblemError).
    """
    for _, out in files.values():
        for source in files:
            if out.exists() and os.path.samefile(out, source) or out.resolve() == source.resolve():
                raise ValueError(f"--write {out} would replace the input {source}: choose another")
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"--write {out}: give a file in a folder that exists")
    mended = {path: mend(path, images, wishes) for path, (images, _) in files.items()}
    for path, (_, out) in files.items():
        write_whole(out, json.dumps(mended[path].content))
        say(f"{out} is the mended copy of {path}")
        for line in mended[path].notes.lines() or ["nothing had to be done"]:
            say(f"  {line}")
