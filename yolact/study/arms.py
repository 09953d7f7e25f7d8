"""From a study to its arms and runs: labels, folders, resolved configs, and what is refused.
Imports no torch but in check_losses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import sqrt
from pathlib import Path
from typing import Any

from data.resolve import (
    AUTOSCALE_BATCH,
    ConfigError,
    check_names_of,
    config_hash,
    load_config,
    parse_value,
)
from data.schema import Config, EvalConfig, TrainConfig
from data.yaml_text import write_yaml
from layers.losses.expr import format_terms, parse, parse_call, unordered
from layers.names import unknown_name
from layers.problems import is_line
from yolact.run_files import LAST
from yolact.study.folder.layout import ASIDE, INIT_FOLDER, run_folder
from yolact.study.plan import Study
from yolact.study.sections import SEED_STRIDE, ArmEntry, InitRun
from yolact.study.shorthand import comparable

LONGEST_SLUG, ANNOTATIONS = 60, ("train_annotations", "val_annotations")


@dataclass(frozen=True)
class Arm:
    """label: how tables name it; slug: its folder; changes: {setting: value} that make it, with
    'base' where it has one of its own; number: its place among the arms."""

    label: str
    slug: str
    changes: dict[str, Any]
    tune: dict[str, list]
    number: int = 0

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class PlannedRun:
    """One training. seed: as the study counts it, train.seed where arms are paired; folder: its
    path below runs/; config: what it trains, equal hashes the same; tried: what a tuning trial
    sets; shares: the run whose weights it evaluates, where the two differ in eval.* alone."""

    arm: Arm
    seed: int
    config: Config
    folder: Path
    tried: str = ""
    shares: PlannedRun | None = None

    @property
    def label(self) -> str:
        """How a table names its row."""
        return f"{self.arm}: {self.tried}" if self.tried else self.arm.label

    @property
    def name(self) -> str:
        """How the command line names it: <arm's folder>/seed<k>-<hash8>."""
        return "/".join(self.folder.parts[1:])


def arms_of(study: Study) -> list[Arm]:
    """The arms in the order of the file, exclusions applied. ConfigError for two equal arms, a
    wrong baseline, an idle exclusion."""
    entries = [(entry, changes) for entry in study.arms for changes in _points(entry)]
    kept = [
        (entry, changes)
        for entry, changes in entries
        if not any(_matches(changes, unwanted) for unwanted in study.exclude)
    ]
    for unwanted in study.exclude:
        if not any(_matches(changes, unwanted) for _, changes in entries):
            raise ConfigError(f"{study.name}: exclude: no arm has {_words(unwanted)}")
    if not kept:
        raise ConfigError(f"{study.name}: exclude: leaves no arm")
    arms: dict[str, Arm] = {}
    slugs: dict[str, str] = {}
    for entry, changes in kept:
        label = entry.label or change_label(changes)
        if not is_line(label):
            raise ConfigError(
                f"{study.name}: the label {label!r} holds a line break or another control "
                "character, which tears tables: give the arm another label:"
            )
        if label in arms:
            raise ConfigError(
                f"{study.name}: two arms are called {label!r}: remove one, or give one of them "
                "another label:"
            )
        slug = _slug(label)
        if slug.lower() in slugs:  # differ in what a folder name cannot hold
            slug = f"{slug}-{_digest(label)}"
        slugs[slug.lower()] = label
        arms[label] = Arm(
            label, slug, changes, entry.tune or (study.tune.grid if study.tune else {}), len(arms)
        )
    baseline_of(study, list(arms.values()))
    _check_trials(study, list(arms.values()))
    _check_configs(study, list(arms.values()))
    return list(arms.values())


def baseline_of(study: Study, arms: Iterable[Arm]) -> Arm:
    """The arm that the others are compared with. ConfigError if none has that label."""
    found = {arm.label: arm for arm in arms}
    for label in (study.baseline, change_label({"loss.mask": study.baseline})):
        if label in found:
            return found[label]
    raise ConfigError(f"{study.name}: baseline: {unknown_name('arm', study.baseline, found)}")


def change_label(changes: Mapping[str, Any]) -> str:
    """bce + 0.5*mse, batch_size=16: what an arm changes, a loss or assigner in its canonical form
    and without its key."""
    parts = [
        text
        if key in ("loss.mask", "assign.name", "base", "dataset")
        else f"{key.rsplit('.', 1)[-1]}={text}"
        for key, text in ((key, _canonical(key, value)) for key, value in changes.items())
    ]
    return ", ".join(parts) or "base"


def runs_of(
    study: Study,
    arms: Iterable[Arm],
    *,
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
    root: str | Path = "runs",
) -> list[PlannedRun]:
    """The reported runs, seed by seed so that every arm advances together. A run that differs from
    an earlier one in eval.* alone shares its training. chosen: {label: tuned settings}. root: of
    all runs."""
    first = study.seeds[0]
    configs = [
        (arm, config_of(study, arm, first, extra=(chosen or {}).get(arm.label, {}), root=root))
        for arm in arms
    ]
    runs: list[PlannedRun] = []
    trained: dict[str, PlannedRun] = {}
    for seed in (*study.seeds, *study.added_seeds):
        for arm, one in configs:
            config = at_seed(study, arm, one, seed)
            folder = Path(study.name) / arm.slug / run_folder(seed, hash8(config))
            run = PlannedRun(arm, seed, config, folder)
            training = config_hash(identity(config.model_copy(update={"eval": EvalConfig()})))
            earlier = trained.setdefault(training, run)
            runs.append(run if earlier is run else replace(run, shares=earlier))
    return runs


def config_of(
    study: Study,
    arm: Arm,
    seed: int,
    *,
    extra: Mapping[str, Any] | None = None,
    root: str | Path = "runs",
    budget: int | None = None,
) -> Config:
    """The config of one run. extra: settings on top of the arm's own; budget: in place of the
    study's.

    Iterations and learning rate follow the study's budget, equal and lr_rule; a learning rate of
    the arm itself stays as it is.
    """
    changes = {**arm.changes, **(extra or {})}
    base = changes.pop("base", study.base)
    reference = _load(study.base, study.settings, study.name)
    schedule = _schedule(study, base, reference, changes)
    iterations = budget or study.budget
    if study.equal == "images":
        batch = _batch(
            changes, reference if base == study.base else _load(base, study.settings, study.name)
        )
        iterations = max(1, round(iterations * reference.train.batch_size / batch))
    start = {"train.init_from": init_checkpoint(study, seed, root)} if study.init_from else {}
    fixed = {
        "name": f"{study.name}/{arm.slug}",
        "train.seed": seed,
        "train.iterations": iterations,
        "train.autoscale": False,
    }
    settings = {**_study_settings(study), **schedule, **start, **changes, **fixed}
    return at_seed(study, arm, _load(base, settings, f"{study.name}: {arm.label}"), seed)


def at_seed(study: Study, arm: Arm, config: Config, seed: int) -> Config:
    """The config of a run of the arm, for another seed. Arms that are not paired train with seeds
    of their own; where every seed has a start, all arms share that."""
    own = seed if study.paired else seed + SEED_STRIDE * arm.number
    start = config.train.init_from
    if study.start_per_seed:
        root, is_ours, _ = start.rpartition(f"{study.name}/{INIT_FOLDER}/")
        start = init_checkpoint(study, seed, root) if is_ours else start
    return _changed(config, "train", seed=own, init_from=start)


def hash8(config: Config) -> str:
    """8 hex digits of the config, whatever the folder that its study is in."""
    return config_hash(identity(config))[:8]


def identity(config: Config) -> Config:
    """The config without what differs between two places of one study: its name, the folder
    that holds the runs, and where their numbers are shown too."""

    def below(path: str) -> str:
        for folder in ASIDE:
            _, found, rest = path.partition(f"/{folder}/")
            if found:
                return f"{folder}/{rest}"
        return path

    files = {key: below(getattr(config.data, key)) for key in ANNOTATIONS}
    start = _changed(
        config,
        "train",
        init_from=below(config.train.init_from),
        trackers=TrainConfig.model_fields["trackers"].default,
    )
    return _changed(start, "data", **files).model_copy(update={"name": "-"})


# ------------------------------------------------------------------------------------------- starts


def init_run(study: Study, seed: int) -> PlannedRun | None:
    """The training that makes the checkpoint from which runs of this seed start: the same for all
    seeds unless init_from is per_seed. None where init_from is a file or empty."""
    init = study.init_from
    if not isinstance(init, InitRun):
        return None
    own = seed if init.per_seed else init.seed
    fixed = {
        "name": f"{study.name}/{INIT_FOLDER}",
        "train.seed": own,
        "train.iterations": init.iterations,
        "train.autoscale": False,
    }
    config = _load(
        init.base or study.base,
        {**_study_settings(study), **init.settings, **fixed},
        f"{study.name}: init_from",
    )
    arm = Arm(INIT_FOLDER, INIT_FOLDER, dict(init.settings), {})
    return PlannedRun(
        arm, own, config, Path(study.name) / INIT_FOLDER / run_folder(own, hash8(config))
    )


def init_checkpoint(study: Study, seed: int, root: str | Path = "runs") -> str:
    """What train.init_from is in the runs of a seed."""
    run = init_run(study, seed)
    return str(study.init_from) if run is None else checkpoint_of(run, root)


def checkpoint_of(run: PlannedRun, root: str | Path = "runs") -> str:
    """The path of a run's last weights, as the config of one that starts from them names it."""
    return (Path(root) / run.folder / LAST).as_posix()


# ----------------------------------------------------------------------------------------- refusals


def check_losses(study: Study, arms: list[Arm]) -> list[str]:
    """Checks names and parameters of losses and assigners, and refuses arms that are equal once
    defaults are left out. Refuses arms that differ only in the form of one loss too, unless
    allow_copies. Returns notes on losses that agree but in rare places. Imports torch."""
    from layers.losses.checks.compare import copies

    groups: dict[str, dict[str, tuple[Arm, Config]]] = {}
    seen: dict[str, Arm] = {}
    for arm in arms:
        config = _at_one_seed(study, arm)
        check_names_of(config)  # refuses unknown names, parameters, plugins
        config = _canonical_config(config)
        _refuse_equal(study, seen, arm, config)
        blank = _changed(config, "loss", mask="-", mask_weight=0.0)
        groups.setdefault(config_hash(identity(blank)), {})[config.loss.mask] = (arm, config)
    notes = []
    for group in groups.values():
        loss = next(iter(group.values()))[1].loss
        soft = loss.mask_target == "coverage"
        for found in copies(group, plugins=loss.plugins, soft=soft):
            first, second = group[found.first][0], group[found.second][0]
            if found.except_at:
                notes.append(f"{first} and {second} are nearly one loss: {found}")
            elif not study.allow_copies:
                raise ConfigError(
                    f"{study.name}: the arms {first} and {second} are one loss: {found}. Remove "
                    "one, or set allow_copies: true for an A/A test"
                )
            else:
                notes.append(f"one loss in two arms, as allow_copies says: {found}")
    return notes


def _canonical_config(config: Config) -> Config:
    """The config with its loss and its assigner written without defaults."""
    from layers.assign import build_assigner
    from layers.losses.mask import build_mask_loss

    mask = build_mask_loss(config.loss.mask, config.loss.plugins).expression
    assigner = build_assigner(config.assign.name).expression
    return _changed(_changed(config, "loss", mask=mask), "assign", name=assigner)


def config_differences(first: Config, second: Config) -> dict[str, tuple[Any, Any]]:
    """{setting: (of the first, of the second)} where two configs differ, but for their names."""
    one, two = (config.model_dump(exclude={"name"}) for config in (first, second))
    return {
        f"{section}.{key}": (value, two[section][key])
        for section, fields in one.items()
        for key, value in fields.items()
        if value != two[section][key]
    }


def _check_configs(study: Study, arms: list[Arm]) -> None:
    """Refuses two arms that train the same, as far as can be told without torch, and a data set
    that nothing can be measured on."""
    seen: dict[str, Arm] = {}
    for arm, config in ((arm, _at_one_seed(study, arm)) for arm in arms):
        if not config.data.val_truth:
            raise ConfigError(
                f"{study.name}: {config.data.name} has no ground truth to measure AP on "
                "(data.val_truth=false): give the study a data set that has, such as coco2017"
            )
        assigner = _canonical("assign.name", config.assign.name)
        _refuse_equal(study, seen, arm, _changed(config, "assign", name=assigner))


def _refuse_equal(study: Study, seen: dict[str, Arm], arm: Arm, config: Config) -> None:
    """ConfigError where an arm of `seen` {hash: arm} trains the same, in whatever order its loss is
    written."""
    mask = " + ".join(unordered(parse(config.loss.mask)))
    other = seen.setdefault(hash8(_changed(config, "loss", mask=mask)), arm)
    if other is not arm:
        raise ConfigError(
            f"{study.name}: the arms {other.label!r} and {arm.label!r} resolve to the same config: "
            "remove one of them"
        )


def _changed(config: Config, section: str, **settings: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=settings)})


def _at_one_seed(study: Study, arm: Arm) -> Config:
    """The arm's config at the first seed, also where arms are not paired."""
    return config_of(study.model_copy(update={"paired": True}), arm, study.seeds[0])


def _check_trials(study: Study, arms: list[Arm]) -> None:
    counts = {arm.label: len(list(combos(arm.tune))) for arm in arms}
    if study.tune and len(set(counts.values())) > 1:
        raise ConfigError(
            f"{study.name}: every arm needs the same number of tuning trials, got "
            f"{', '.join(f'{label}: {count}' for label, count in counts.items())}"
        )
    for first, second in combinations(arms, 2):
        both = set(first.tune) & (set(first.changes) | set(second.changes))
        if study.tune and both:
            raise ConfigError(
                f"{study.name}: {min(both)} is tuned, so it cannot be what arms differ in"
            )


# ------------------------------------------------------------------------------------------ details


def combos(grid: Mapping[str, list]) -> Iterable[dict[str, Any]]:
    """Every combination of a grid, {key: value}; one empty combination for an empty grid."""
    return (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))


def _points(entry: ArmEntry) -> list[dict[str, Any]]:
    if entry.zip:
        points = [
            dict(zip(entry.zip, values, strict=True))
            for values in zip(*entry.zip.values(), strict=True)
        ]
    else:
        points = list(combos(entry.grid))
    return [{**entry.settings, **point} for point in points]


def _study_settings(study: Study) -> dict[str, Any]:
    """A step that is not finite is skipped and counted, unless the study says otherwise: a diverged
    run must reach its last iteration."""
    return {"train.on_nonfinite": "skip", **study.settings}


def _batch(changes: Mapping[str, Any], reference: Config) -> int:
    batch = changes.get("train.batch_size")
    # load_config refuses what is neither
    return batch if isinstance(batch, int) and batch > 0 else reference.train.batch_size


def _schedule(
    study: Study, base: str, reference: Config, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The base's learning rate and its steps, by the study's rules for another batch size.

    An arm with a base of its own has that base's rate, which belongs to batch 8 where it autoscales
    and else to its own batch size. The warm-up stays as it is, as with autoscale.
    """
    train, belongs_to = reference.train, reference.train.batch_size
    own = reference
    if base != study.base:
        own = _load(base, study.settings, study.name)
        train = _load(base, {**study.settings, "train.autoscale": False}, study.name).train
        belongs_to = own.train.batch_size if train == own.train else AUTOSCALE_BATCH
    factor = _batch(changes, own) / belongs_to
    rate = {"constant": 1.0, "linear": factor, "sqrt": sqrt(factor)}[study.lr_rule]
    length = reference.train.batch_size / _batch(changes, own) if study.equal == "images" else 1.0
    return {
        "train.lr": train.lr * rate,
        "train.lr_steps": sorted({max(1, round(step * length)) for step in train.lr_steps}),
    }


def _load(base: str, settings: Mapping[str, Any], where: str) -> Config:
    try:
        values = {key: _value(key, value) for key, value in settings.items()}
        return comparable(load_config(base, check_names=False, **values))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(key: str, value: Any) -> Any:
    """A setting as the schema takes it: a number that is written as a word is read here, once."""
    return parse_value(key, value, f"{key}={value}") if isinstance(value, str) else value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return " ".join(write_yaml([value]).split())[1:-1]  # on one line


def _canonical(key: str, value: Any) -> str:
    text = _text(value)
    try:
        if key == "loss.mask":
            return format_terms(parse(text))
        if key == "assign.name":
            return str(parse_call(text))
    except ValueError:
        pass  # load_config says what is wrong with it
    return text


def _matches(changes: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(key in changes and _same(key, changes[key], value) for key, value in wanted.items())


def _same(key: str, first: Any, second: Any) -> bool:
    if key == "loss.mask":
        try:
            return unordered(parse(first)) == unordered(parse(second))
        except ValueError:
            return first == second
    return first == second


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_text(value)}" for key, value in settings.items())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _slug(label: str) -> str:
    """A folder name that reads like the label: bce+0.5xmse-region=image."""
    text = label.replace("*", "x").replace("'", "").replace('"', "")
    text = re.sub(r" *([+,=]) *", r"\1", text).replace(" ", "_")
    text = re.sub(r"[^A-Za-z0-9.+=_-]+", "-", text).strip("-._") or "arm"
    return text if len(text) <= LONGEST_SLUG else f"{text[: LONGEST_SLUG - 7]}-{_digest(label)}"
