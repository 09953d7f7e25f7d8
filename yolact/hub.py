"""Weights by one word: hub:NAME is an official file of YOLACT, fetched from the hub of Hugging Face
once and then read from its cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from data.cache import alone_in, sha256_of, users_folder
from layers.names import unknown_name
from yolact.files import write_whole

PREFIX = "hub:"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, and its SHA-256, UNKNOWN where none was published: the first download
    is then recorded, and every later use compared with it."""

    repository: str
    file: str
    sha256: str = UNKNOWN


# as the README of YOLACT links them since 2025
OFFICIAL = {
    name: HubFile(f"dbolya/{name.replace('_', '-')}", f"{name}_54_800000.pth")
    for name in (
        "yolact_base",
        "yolact_im700",
        "yolact_resnet50",
        "yolact_darknet53",
        "yolact_plus_base",
        "yolact_plus_resnet50",
    )
}


def is_hub(text: str | Path) -> bool:
    """Whether the text names weights on the hub."""
    return str(text).startswith(PREFIX)


def hub_weights(text: str) -> Path:
    """The file that hub:NAME means, fetched where the cache of huggingface_hub does not hold it.

    ValueError, with what to do, for an unknown name, without the package, where it cannot be
    fetched, and where its content is not the one that is known.
    """
    name = text.removeprefix(PREFIX)
    if name not in OFFICIAL:
        raise ValueError(f"{text}: {unknown_name('model of the hub', name, OFFICIAL)}")
    known = OFFICIAL[name]
    path = _fetched(text, known)
    _check(text, known, path)
    return path


def _fetched(text: str, known: HubFile) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError(
            f"{text} needs the package huggingface_hub ({error}): pip install "
            '"yolact-loss-lab[hub]"'
        ) from error
    try:
        return Path(hf_hub_download(known.repository, known.file, local_files_only=True))
    except Exception:  # not in the cache, in the words of any version
        pass
    try:
        return Path(hf_hub_download(known.repository, known.file))
    except Exception as error:  # of the network, of the hub, of the disk: each version has its own
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ValueError(
            f"{text} is not in the cache, and {known.file} could not be fetched from the "
            f"repository {known.repository} ({reason}): try again where the hub can be reached, or "
            "copy that file here and name its path"
        ) from error


def _check(text: str, known: HubFile, path: Path) -> None:
    """Compares the content with the SHA-256 that is known, or was recorded first."""
    found, record = sha256_of(path), record_file()
    published = known.sha256 != UNKNOWN
    key = f"{known.repository}/{known.file}"
    expected = known.sha256 if published else _first(record, key, found)
    if found != expected:
        where = "" if published else f" (recorded in {record} at the first download)"
        raise ValueError(
            f"{text}: {path} has the SHA-256 {found[:12]}..., and {expected[:12]}... was expected"
            f"{where}: delete the file to fetch it again"
            + (f", or its line in {record} if the new one is meant" if where else "")
        )


def record_file() -> Path:
    """Where checksums of first downloads are kept."""
    return users_folder() / "hub.json"


def _first(record: Path, key: str, found: str) -> str:
    """What was recorded first under the key, which may be `found`, now."""
    recorded = _recorded(record)
    if key in recorded:
        return recorded[key]
    record.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(record.parent):
        recorded = _recorded(record)  # others may have added theirs
        first = recorded.setdefault(key, found)
        write_whole(record, json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    return first


def _recorded(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it") from None
    return content if isinstance(content, dict) else {}
