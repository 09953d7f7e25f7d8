"""The finished runs of a study: which folder counts for which arm and seed, and why another does
not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.schema import Config
from yolact.run_files import CONFIG, RECORDS, run_of_records
from yolact.study.arms import (
    arms_of,
    at_seed,
    baseline_of,
    combos,
    config_differences,
    config_of,
    identity,
)
from yolact.study.folder.kept import archive_of, kept_arms, kept_runs, kept_study
from yolact.study.folder.layout import (
    ANY_SEED,
    CHOSEN,
    INIT_FOLDER,
    RUNS,
    STUDY,
    seed_of,
)
from yolact.study.folder.reading import read_chosen, read_config
from yolact.study.plan import Study, load_study
from yolact.study.statistics.finished import FinishedRun, load_run
from yolact.study.statistics.resample import RESAMPLES

LENGTH = ("train.iterations", "train.lr_steps")
NO_ARM = f"belongs to no arm and seed of {STUDY}"
# its hash changes with every setting that is added to the schema
_START = re.compile(rf"^({INIT_FOLDER}/seed\d+)-\w+")


@dataclass(frozen=True)
class StudyRuns:
    """The runs of a study: {label of arm: {seed: run}} in the order of its file.

    unfinished  {label: {seed: why}}
    strays      {folder: why it is left out}
    departures  {run: {"data" or "length": in what it is not as the study says}} of runs that are in
                all the same
    """

    folder: Path
    study: Study
    baseline: str
    arms: dict[str, dict[int, FinishedRun]]
    unfinished: dict[str, dict[int, str]]
    strays: dict[Path, str]
    departures: dict[str, dict[str, str]]


def load_runs(folder: str | Path, *, resamples: int = RESAMPLES) -> StudyRuns:
    """The runs of the study in a folder with study.yaml, with those that are kept.
    Unfinished ones are listed, not refused.

    So are runs whose config is not what the study resolves for their arm and seed: a folder's name
    does not say what is in it. One that departs in data or length alone counts where there is no
    better one, for the check of all runs (conditions.py) to refuse.
    """
    folder = Path(folder)
    study = load_study(folder)
    arms = arms_of(study)
    kept = kept_study(study.name)
    tuned = _tuned(folder / CHOSEN) or _tuned(kept / CHOSEN)
    found = StudyRuns(folder, study, baseline_of(study, arms).label, {}, {}, {}, {})
    # slow once, then cached
    for arm in tqdm(arms, desc="resampling", unit="arm", leave=False, disable=None):
        found.arms[arm.label], found.unfinished[arm.label] = {}, {}
        places: dict[int, list[Path]] = {}
        own = [*sorted((folder / arm.slug).glob(ANY_SEED)), *kept_runs(folder, arm.slug)]
        elsewhere = [] if kept.resolve() == folder.resolve() else kept_runs(kept, arm.slug)
        for place in (*own, *elsewhere):
            seed = seed_of(place)
            places.setdefault(-1 if seed is None else seed, []).append(place)
        settings = [tuned[arm.label]] if arm.label in tuned else combos(arm.tune)
        planned = [config_of(study, arm, study.seeds[0], extra=chosen) for chosen in settings]
        for seed in (*study.seeds, *study.added_seeds):
            wanted = [at_seed(study, arm, config, seed) for config in planned]
            _one_of(places.pop(seed, []), arm.label, seed, wanted, found, resamples)
        found.strays.update(
            (place, NO_ARM) for others in places.values() for place in others if place in own
        )
    found.strays.update((place, NO_ARM) for place in _of_no_arm(folder, {a.slug for a in arms}))
    return found


def _of_no_arm(folder: Path, slugs: set[str]) -> list[Path]:
    """Folders and archives of runs below a study's folder that are of none of its arms."""
    plain = [
        place
        for root in (folder, folder / RUNS)
        for place in sorted(root.glob(f"*/{ANY_SEED}"))
        if place.is_dir()
        and place.parent.name not in slugs
        and not place.parent.name.startswith("_")
    ]
    archives = [archive_of(folder, arm) for arm in kept_arms(folder) if arm not in slugs]
    return [*plain, *(path for path in archives if path.is_file())]


def _one_of(
    places: list[Path],
    label: str,
    seed: int,
    wanted: Sequence[Config],
    found: StudyRuns,
    resamples: int,
) -> None:
    """Puts the finished run among the folders of one arm and seed where it belongs, and the others
    where they do."""
    finished: list[tuple[FinishedRun, dict[str, str]]] = []
    others: dict[Path, str] = {}
    why = "not begun"
    for place in places:
        try:
            departs = _departures(place, wanted)
            if set(departs) <= {"data", "length"}:
                finished.append((load_run(place, resamples=resamples), departs))
            else:
                others[place] = _other(departs)
        except ValueError as error:
            evaluated = (place / RECORDS).is_file()
            why = str(error) if evaluated else f"unfinished (no {RECORDS})"
    best = [(run, departs) for run, departs in finished if not departs] or finished
    # as text, for a metric that is nan equals nothing
    if len({(run.truth_digest, str(run.resampled.point)) for run, _ in best}) > 1:
        raise ValueError(
            f"{label}: seed {seed} has {len(best)} finished runs "
            f"({', '.join(str(run.path) for run, _ in best)}): which one counts must not depend on "
            "their results, so move the others elsewhere"
        )
    if not best:
        found.unfinished[label][seed] = next(iter(others.values()), why)
        return
    found.arms[label][seed], departs = best[0]
    if departs:
        found.departures[f"{label} seed {seed}"] = departs
    else:
        others |= {run_of_records(run.path): _other(odd) for run, odd in finished if odd}
    found.strays.update(others)


def _other(departs: dict[str, str]) -> str:
    return f"its config is another than the study's: {', '.join(departs.values())}"


def _departures(place: Path, wanted: Sequence[Config]) -> dict[str, str]:
    """{"data", "length" or "settings": in what a run's config is not the nearest of `wanted`}.
    Where the data lie may differ, and how a run was evaluated its records say. Empty for a folder
    that has nothing in it yet; ValueError for a run without config."""
    if not (place / CONFIG).is_file():
        if (place / RECORDS).is_file():
            raise ValueError(f"it has no {CONFIG}, so what was trained is not known")
        return {}
    config = _comparable(read_config(place))
    found = []
    for one in wanted:
        kinds: dict[str, list[str]] = {}
        for key, (mine, planned) in config_differences(config, _comparable(one)).items():
            if key != "data.root" and not key.startswith("eval."):
                kind = (
                    "data" if key.startswith("data.") else "length" if key in LENGTH else "settings"
                )
                kinds.setdefault(kind, []).append(f"{key} is {mine} instead of {planned}")
        found.append(kinds)
    nearest = min(found, key=lambda kinds: sum(map(len, kinds.values())))
    return {kind: ", ".join(words) for kind, words in nearest.items()}


def _comparable(config: Config) -> Config:
    config = identity(config)
    return config.model_copy(
        update={
            "train": config.train.model_copy(
                update={"init_from": _START.sub(r"\1", config.train.init_from)}
            )
        }
    )


def _tuned(path: Path) -> dict[str, dict[str, Any]]:
    """{label: the settings that tuning chose}, as sweep.py wrote them; empty where nothing is tuned
    yet."""
    try:
        return read_chosen(path)["chosen"]
    except OSError:
        return {}
