"""Unpacking archives inside one folder, and checking what came out."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data.annotations import read_sound
from data.images import IMAGE_SUFFIXES
from layers.problems import few


def unpack(archive: str | Path, folder: str | Path) -> int:
    """Extracts a .zip or .tar(.gz, .bz2, .xz) into `folder`; returns the number of files.

    ValueError, before anything is written, for an archive that is damaged or has a member that is a
    link, a device, absolute, or reaches out of the folder.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise ValueError(
            f"archive {archive} does not exist: download it first (--help says where from)"
        )
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return _extract(
                    archive,
                    folder,
                    [(i.filename, i.is_dir(), _zip_kind(i), i) for i in opened.infolist()],
                    opened.open,
                )
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                return _extract(
                    archive,
                    folder,
                    [
                        (
                            m.name,
                            m.isdir(),
                            "" if m.isfile() or m.isdir() else "a link or device",
                            m,
                        )
                        for m in opened.getmembers()
                    ],
                    opened.extractfile,
                )
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a full disk or a folder that cannot be written: says so itself
        raise ValueError(f"archive {archive} is damaged ({error}): download it again") from None
    raise ValueError(
        f"{archive} is neither a zip nor a tar file: download it again, it may be an error page"
    )


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return "a link or device" if kind not in (0, stat.S_IFREG, stat.S_IFDIR) else ""


def _extract(archive: Path, folder: Path, members: list[tuple], open_member) -> int:
    root = folder.resolve()
    targets = []
    for name, is_folder, odd, member in members:
        pure = PurePosixPath(name.replace("\\", "/"))
        if odd or pure.is_absolute() or ".." in pure.parts or ":" in (pure.parts[:1] or ("",))[0]:
            fault = f"is {odd}" if odd else "points outside the folder"
            raise ValueError(
                f"archive {archive}: member {name!r} {fault}: nothing was unpacked; use the "
                "original archive"
            )
        target = root / pure
        # through a link that is already in the folder
        if root not in (target.resolve(), *target.resolve().parents):
            raise ValueError(
                f"archive {archive}: member {name!r} would be written outside {root}, through a "
                "link there: remove the link"
            )
        if not is_folder:
            targets.append((target, member))
    for target, member in tqdm(targets, desc=archive.name, unit=" files", disable=None):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_member(member) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink)
    return len(targets)


def image_files(folder: Path) -> Iterator[Path]:
    """The images directly in a folder."""
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)


def verify_split(
    images: Path, annotations: Path, *, expected_images: int = 0, expected_instances: int = 0
) -> str:
    """A line that says what a split holds. ValueError where files are missing, empty, or fewer than
    expected (0 = unknown)."""
    sound = read_sound(annotations)
    if not images.is_dir():
        raise ValueError(f"image folder {images} does not exist: unpack the images there")
    present = {path.name: path for path in image_files(images)}
    names = [entry["file_name"] for entry in sound.images.values()]
    missing = [name for name in names if Path(name).name not in present]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images of {annotations} are not in {images} "
            f"({few(missing)}): unpack the image archive again"
        )
    empty = [name for name in names if present[Path(name).name].stat().st_size == 0]
    if empty:
        raise ValueError(
            f"{len(empty)} images in {images} have 0 bytes ({few(empty)}): unpack the image "
            "archive again"
        )
    for what, count, expected in (
        ("images", len(names), expected_images),
        ("instances", sound.total, expected_instances),
    ):
        if expected and count != expected:
            raise ValueError(
                f"{annotations} has {count} {what}, the published file has {expected}: download it "
                "again"
            )
    return (
        f"{annotations}: {len(names)} images, {sound.total} instances, "
        f"{len(sound.categories)} categories"
    )
