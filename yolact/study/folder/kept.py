"""Finished runs that are kept without weights, so that a study can grow after runs/ is gone.

A kept study is studies/<study>: study.yaml, tune.json, report/, and runs/<arm>.zip for each arm,
which holds the folders of its runs. Plain folders runs/<arm>/<run> are read too. Studies are
looked for in the working directory, then beside the package; also under docs/, where they once lay.

An archive is unpacked run by run into runs/.kept of the working directory, when a run is first
asked for. Nothing is written beside the archive.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from yolact.files import writing
from yolact.study.folder.layout import ANY_SEED, RUNS, UNPACKED

BESIDE = Path(__file__).resolve().parents[3]
PLACES = (Path("studies"), Path("docs") / "studies")
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: equal runs make equal bytes
STAMP = ".kept"  # in an unpacked run: the digest of what was unpacked
# an archive: what it was when it was read, and its runs
_READ: dict[Path, tuple[tuple[int, int], dict[str, list[zipfile.ZipInfo]]]] = {}


def kept_studies() -> dict[str, Path]:
    """{study: its folder} of all kept studies; one in the working directory hides another."""
    found: dict[str, Path] = {}
    for place in (*PLACES, *(BESIDE / place for place in PLACES)):
        for folder in sorted(path for path in place.glob("*") if path.is_dir()):
            found.setdefault(folder.name, folder)
    return found


def kept_study(study: str) -> Path:
    """The folder in which a study is kept, or would be."""
    return kept_studies().get(study, PLACES[0] / study)


def kept_arms(folder: Path) -> list[str]:
    """The arms (their folders' names) that have runs below runs/ of a study's folder."""
    archives = [path.stem for path in folder.glob(f"{RUNS}/*.zip")]
    plain = [path.parent.name for path in folder.glob(f"{RUNS}/*/{ANY_SEED}")]
    return sorted({*archives, *plain})


def kept_runs(folder: Path, arm: str, name: str = ANY_SEED) -> list[Path]:
    """The folders of an arm's runs below runs/ of a study's folder: plain ones, and those of the
    arm's archive, unpacked. name: a pattern that the run's folder has."""
    plain = sorted((folder / RUNS / arm).glob(name))
    return [*plain, *runs_in(archive_of(folder, arm), name)]


def archive_of(folder: Path, arm: str) -> Path:
    """Where the runs of an arm of a kept study are."""
    return folder / RUNS / f"{arm}.zip"


def is_archive(path: Path) -> bool:
    """Whether this is an archive of kept runs, runs/<arm>.zip."""
    return path.suffix == ".zip" and path.is_file()


def kept_anywhere(name: str) -> Iterator[Path]:
    """Kept runs of any study whose folder has a name like this pattern."""
    for folder in kept_studies().values():
        for arm in kept_arms(folder):
            yield from kept_runs(folder, arm, name)


def names_in(archive: Path) -> list[str]:
    """The names of the runs in an archive, in its order; empty where there is none."""
    return list(_index(archive))


def runs_in(archive: Path, name: str = ANY_SEED) -> list[Path]:
    """The folders of the runs in an archive, unpacked where they are not yet.

    ValueError for a file that is no archive of runs.
    """
    chosen = {run: files for run, files in _index(archive).items() if fnmatchcase(run, name)}
    return [_unpacked(archive, run, files) for run, files in sorted(chosen.items())]


def write_archive(target: Path, old: Path, runs: Mapping[str, Path]) -> None:
    """Writes the runs of the archive `old`, as they are, and then those in the folders `runs`
    {name: folder} into the file `target`.

    Files are stored, not compressed: what is appended leaves the bytes before it as they were, so
    version control stores the difference alone.
    """
    with writing(target), zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        if old.is_file():
            with zipfile.ZipFile(old) as before:
                for item in before.infolist():
                    new.writestr(item, before.read(item))
        for run, folder in runs.items():
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                item = zipfile.ZipInfo(f"{run}/{path.relative_to(folder).as_posix()}", EPOCH)
                item.external_attr = 0o644 << 16
                new.writestr(item, path.read_bytes())


def _index(archive: Path) -> dict[str, list[zipfile.ZipInfo]]:
    """{run: its files} of an archive; read again once it has changed."""
    path = archive.absolute()
    try:
        found = path.stat()
    except OSError:
        return {}
    stamp = (found.st_mtime_ns, found.st_size)
    if path not in _READ or _READ[path][0] != stamp:
        runs: dict[str, list[zipfile.ZipInfo]] = {}
        try:
            with zipfile.ZipFile(path) as content:
                for item in content.infolist():
                    run, _, rest = item.filename.partition("/")
                    if rest and not item.is_dir():
                        runs.setdefault(run, []).append(item)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{archive} is no archive of kept runs ({error}): restore it, or delete it to "
                "train its runs again"
            ) from None
        _READ[path] = stamp, runs
    return _READ[path][1]


def _unpacked(archive: Path, run: str, files: list[zipfile.ZipInfo]) -> Path:
    """The run's folder below runs/.kept, written whole: another process may do the same."""
    study = archive.resolve().parents[1]
    place = hashlib.sha256(str(study).encode()).hexdigest()[:6]
    target = Path(RUNS) / UNPACKED / f"{study.name}-{place}" / archive.stem / run
    listed = sorted((item.filename, item.CRC, item.file_size) for item in files)
    digest = hashlib.sha256(str(listed).encode()).hexdigest()
    if _stamp(target) == digest:
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as scratch:
            with zipfile.ZipFile(archive) as content:
                content.extractall(scratch, files)
            made = Path(scratch) / run
            (made / STAMP).write_text(digest, encoding="utf-8")
            if target.exists():  # of an archive that was here before
                shutil.move(target, Path(scratch) / f"{run}.old")
            try:
                os.rename(made, target)
            except OSError:
                if _stamp(target) != digest:
                    raise
    return target


def _stamp(folder: Path) -> str | None:
    try:
        return (folder / STAMP).read_text(encoding="utf-8")
    except OSError:
        return None
