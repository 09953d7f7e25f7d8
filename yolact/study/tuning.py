"""Equal tuning: every arm tries the same number of settings on images cut from the training set,
before a reported seed is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.annotations import read_sound
from data.resolve import ConfigError
from data.schema import Config
from yolact.files import write_whole
from yolact.study.arms import (
    Arm,
    PlannedRun,
    change_label,
    combos,
    config_of,
    hash8,
)
from yolact.study.folder.layout import SEARCH_FOLDER, TUNE_FOLDER, run_folder
from yolact.study.plan import Study
from yolact.study.sections import Search


@dataclass(frozen=True)
class Trial:
    """One training of a tuning: settings, and the run that tries them."""

    settings: dict[str, Any]
    run: PlannedRun


def trials_of(study: Study, arms: Iterable[Arm], root: str | Path = "runs") -> list[Trial]:
    """Every arm's trials, on the tune split that write_splits() makes. Empty for a study without
    tuning."""
    if study.tune is None:
        return []
    trials = []
    for seed in study.tune.seeds:
        for arm in arms:
            for settings in combos(arm.tune):
                config = on_split(
                    study,
                    config_of(
                        study, arm, seed, extra=settings, root=root, budget=study.tune.budget
                    ),
                    root,
                    study.tune.share,
                    TUNE_FOLDER,
                )
                folder = Path(study.name) / TUNE_FOLDER / arm.slug / run_folder(seed, hash8(config))
                trials.append(
                    Trial(settings, PlannedRun(arm, seed, config, folder, change_label(settings)))
                )
    return trials


def best_settings(
    trials: Sequence[Trial], values: Mapping[Path, float | None]
) -> dict[str, dict[str, Any]]:
    """{label of an arm: the settings whose mean value over the seeds is highest}; of equals the
    first of the grid.

    values: {folder of a trial's run: its final metric}; a metric that is undefined is the worst."""
    chosen = {}
    for arm in dict.fromkeys(trial.run.arm.label for trial in trials):
        sums: dict[str, float] = {}
        settings: dict[str, dict[str, Any]] = {}
        for trial in (trial for trial in trials if trial.run.arm.label == arm):
            key, value = json.dumps(trial.settings), values[trial.run.folder]
            settings[key] = trial.settings
            sums[key] = sums.get(key, 0.0) + (-1.0 if value is None else value)
        chosen[arm] = settings[max(sums, key=sums.__getitem__)]
    return chosen


# ----------------------------------------------------------------------------------- the tune split


def on_split(study: Study, config: Config, root: str | Path, share: float, folder: str) -> Config:
    """The config with its training set cut in two: what is left to train on, and the tune split in
    place of the validation set."""
    train, tune = (path.as_posix() for path in tune_split(study, config, root, share, folder))
    data = config.data.model_copy(
        update={
            "train_annotations": train,
            "val_annotations": tune,
            "val_images": config.data.train_images,
        }
    )
    return config.model_copy(update={"data": data})


def tune_split(
    study: Study, config: Config, root: str | Path, share: float, folder: str
) -> tuple[Path, Path]:
    """(the rest, the tune split) as annotation files under the study's folder; one pair for each
    training set among the arms."""
    source = f"{config.data.root} {config.data.train_annotations} {share}"
    place = (
        Path(root).resolve()
        / study.name
        / folder
        / f"split-{hashlib.sha256(source.encode()).hexdigest()[:6]}"
    )
    return place / "train.json", place / "tune.json"


def write_splits(
    study: Study, configs: Iterable[Config], root: str | Path, part: Any, folder: str
) -> None:
    """Writes the split of every training set among `configs` (of the arms, not of trials), where it
    is not there yet.

    part: study.tune or study.search. Which images are held out depends on their ids alone, so it is
    the same everywhere.
    """
    for config in configs:
        train, tune = tune_split(study, config, root, part.share, folder)
        if train.exists() and tune.exists():
            continue
        source = Path(config.data.root) / config.data.train_annotations
        sound = read_sound(source, more_categories=config.data.label_map or ())
        annotated = {annotation["image_id"] for annotation in sound.annotations}
        held = {key for key in sound.images if is_held_out(key, part.share)}
        for name, ids in (
            ("tune split", held),
            ("rest of the training set", sound.images.keys() - held),
        ):
            if not ids & annotated:
                raise ConfigError(
                    f"{study.name}: share={part.share:g} of {source} leaves no annotated image in "
                    f"the {name}: choose another"
                )
        train.parent.mkdir(parents=True, exist_ok=True)
        for path, keep in (
            (tune, held.__contains__),
            (train, lambda key, held=held: key not in held),
        ):
            write_whole(
                path,
                json.dumps(
                    {
                        "categories": sound.categories,
                        "images": [image for key, image in sound.images.items() if keep(key)],
                        "annotations": [a for a in sound.annotations if keep(a["image_id"])],
                    }
                ),
            )


def is_held_out(image_id: int | str, share: float) -> bool:
    """Whether an image belongs to the tune split: its id's hash, as a fraction of all hashes, is
    below `share`."""
    digest = hashlib.sha256(f"tune {image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


# ------------------------------------------------------------------------------------------- search


def search_run(study: Study, values: Mapping[str, Any], root: str | Path = "runs") -> Trial:
    """The trial of a search whose placeholders and settings have these values."""
    search = study.search
    assert search is not None
    settings = fill(search, values)
    arm = Arm(
        ", ".join(f"{key}={value}" for key, value in settings.items()), SEARCH_FOLDER, settings, {}
    )
    config = on_split(
        study,
        config_of(study, arm, search.seed, root=root, budget=search.budget),
        root,
        search.share,
        SEARCH_FOLDER,
    )
    return Trial(
        settings,
        PlannedRun(
            arm,
            search.seed,
            config,
            Path(study.name) / SEARCH_FOLDER / run_folder(search.seed, hash8(config)),
        ),
    )


def fill(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """{setting: value} with every placeholder replaced; numbers are rounded to 4 digits, so that a
    found loss can be written down."""

    def text(value: Any) -> Any:
        return float(f"{value:.4g}") if isinstance(value, float) else value

    given = {name: text(value) for name, value in values.items()}
    settings = {
        key: value.format(**given) if isinstance(value, str) else value
        for key, value in search.settings.items()
    }
    return {
        **settings,
        **{name: value for name, value in given.items() if name not in search.placeholders},
    }
