"""Files of weights: read whole or refused, written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layers.problems import shown
from yolact.safetensors_file import read_safetensors

FORMAT = 1  # of our own checkpoints
# what a file begins with that is something else, and what it is
FOREIGN = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the weights: run git lfs pull there",
    b"<!doctype html": "is a web page, not weights: download the file itself",
    b"<html": "is a web page, not weights: download the file itself",
    b"<?xml": "is a page of a web server, not weights: download the file itself",
}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary in a .pth file, on the CPU. Only tensors and plain data are read: nothing in
    the file is executed.

    Raises ValueError, naming the file and what to do, where it is missing, a folder, empty,
    truncated, damaged (its checksums tell), of a newer version, holds code, or is something else.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"checkpoint {path} does not exist: check the path")
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, not a checkpoint: name a file in it{_suggest_files(path)}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"checkpoint {path} is empty (0 bytes): copy or download it again")
    _check_content(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            # about pickles: what is wrong with a file is said below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or ("Unsupported" in str(error) and _is_pickle(path)):
            raise ValueError(
                f"checkpoint {path} holds code or objects besides tensors and plain data "
                f"({_refused(error)}), and is not loaded since reading it could run that code: "
                "save only its state_dict"
            ) from error
        raise ValueError(
            f"{path} is truncated or not a PyTorch checkpoint: copy or download it again"
        ) from error
    except Exception as error:  # damaged pickles raise every kind
        # a truncated file's errno says nothing about it
        raise _damaged(path, "" if isinstance(error, OSError) else _first_line(error)) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a checkpoint: save the model's "
            "state_dict"
        )
    written = content.get("format", FORMAT)
    if type(written) is not int or written != FORMAT:
        raise ValueError(
            f"checkpoint {path} has the format {shown(written)}, and this version reads {FORMAT}: "
            "it is damaged, or of a newer version of this project, which you would have to install"
        )
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """A file of `yolact export --format safetensors`, as one of our checkpoints."""
    try:
        state, about = read_safetensors(path)
        config = json.loads(about.get("config", "null"))
    except Exception as error:  # as of read_checkpoint
        raise _damaged(path, _first_line(error)) from error
    state = {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}
    return {"format": FORMAT, "model": state, **({"config": config} if config else {})}


def _check_content(path: Path) -> None:
    """ValueError for a file that is known to be something else, and for a zip archive of which
    some bytes have changed: torch.load does not look at its checksums."""
    try:
        with path.open("rb") as file:
            begin = file.read(64).lstrip().lower()
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    for words, what in FOREIGN.items():
        if begin.startswith(words):
            raise ValueError(f"{path} {what}")
    if not zipfile.is_zipfile(path):
        return  # an older file of PyTorch, without checksums
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
            # torch.serialization.set_crc32_options(False) leaves them all out
            wrong = archive.testzip() if any(item.CRC for item in items) else None
    except Exception as error:  # as above
        raise _damaged(path, _first_line(error)) from error
    if wrong is not None:
        raise _damaged(path, f"the checksum of {wrong} is another")


def _damaged(path: Path, detail: str) -> ValueError:
    shown_detail = f" ({detail})" if detail else ""
    return ValueError(
        f"checkpoint {path} is truncated or damaged{shown_detail}: copy or download it again"
    )


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` whole or not at all: to a temporary file in the same folder, flushed to disk,
    then renamed over `path`.

    Raises OSError, naming the file, where it cannot be written; a checkpoint that was there before
    is left untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        # temporary files are private; a checkpoint is an ordinary file
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        kept = "; the checkpoint that was there before is unchanged" if path.exists() else ""
        raise OSError(
            f"checkpoint {path} could not be written ({_first_line(error)}){kept}: "
            "free disk space or choose a folder that you may write to"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _refused(error: BaseException) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {found[1]}" if found else "unsupported content"


def _suggest_files(folder: Path) -> str:
    files = sorted(folder.glob("*.pth"))
    return f", such as {files[0]}" if files else ""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the file's own data is safe by now
    finally:
        os.close(descriptor)
