"""What a study will do, before it does it: arms, what differs and what is equal, and what it
costs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.messages import brief
from data.schema import Config
from layers.losses.expr import parse
from yolact.study.arms import (
    Arm,
    PlannedRun,
    baseline_of,
    config_differences,
    init_checkpoint,
    init_run,
)
from yolact.study.plan import Study

if TYPE_CHECKING:
    from yolact.engine.timing import Steps
    from yolact.study.train.local import Slot

TIMED_STEPS, WARM_UP, TIMED_IMAGES = 4, 2, 8
START = 5.0  # seconds until a training has imported and read what it needs, a guess
# settings of the training section that change no step's and no validation's time
_FREE = {"iterations", "epochs", "autoscale", "lr", "momentum", "weight_decay", "schedule"}
_FREE |= {"lr_steps", "lr_gamma", "warmup_iterations", "warmup_lr", "seed", "shuffle", "init_from"}
_FREE |= {"on_nonfinite", "log_every", "validate_every", "save_every", "keep_every"}
FOLLOWS_BATCH = {"train.batch_size", "train.lr", "train.iterations", "train.lr_steps"}
LR_RULES = {
    "constant": "the base's, whatever the batch size",
    "linear": "the base's times b / its batch size",
    "sqrt": "the base's times the root of b / its batch size",
}


def describe_study(
    study: Study, arms: Sequence[Arm], runs: Sequence[PlannedRun], root: Path
) -> str:
    """The study in words: what is compared, how, and what every arm has in common."""
    seeds = [*study.seeds, *study.added_seeds]
    baseline = baseline_of(study, arms)
    start, given = _start_words(study, root), _given(study)
    lines = [
        f"study      {study.name}: {len(arms)} arms x {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}), base {study.base}"
    ]
    lines += [f"question   {' '.join(study.description.split())}"] if study.description else []
    lines += [
        f"verdict    {study.primary} of the last iteration's weights (their average with "
        f"train.ema_decay) against {baseline.label}, margin {study.margin:g}, looked at "
        f"{study.looked_at}{given}",
        f"equal      initial weights ({start}), order of the images, augmentation and the keys "
        "that choose positives: by seed"
        if study.paired
        else "equal      nothing but "
        f"{f'the start ({start})' if study.init_from else 'the data set'}: each arm trains "
        "with seeds of its own (paired: false)",
        f"length     equal {study.equal}: {study.budget} iterations"
        + (" at the base's batch size" if study.equal == "images" else ""),
        f"lr rule    {study.lr_rule}: {LR_RULES[study.lr_rule]}, "
        "unless an arm sets train.lr itself",
    ]
    if study.tune:
        lines.append(
            f"tuning     every arm alike, on {study.tune.share:.0%} of the training images: "
            f"{', '.join(study.tune.grid)}, seeds {', '.join(map(str, study.tune.seeds))}, which "
            "are not reported"
        )
    lines.append("settings that differ from the baseline's, and all of them:")
    configs = {run.arm.label: run.config for run in reversed(runs)}  # of the first seed
    shared = {run.arm.label: f" (trained as {run.shares.arm})" for run in runs if run.shares}
    width = max(len(arm.label) for arm in arms)
    for arm in arms:
        train = configs[arm.label].train
        given = f"batch {train.batch_size}, {train.iterations} iterations, lr {train.lr:g}"
        lines.append(
            f"  {arm.label:{width}}  "
            f"{given}{' (baseline)' if arm == baseline else what_differs(configs, baseline, arm)}"
            f"{shared.get(arm.label, '')}"
        )
    return "\n".join(lines)


def _start_words(study: Study, root: Path) -> str:
    """Where the runs start from."""
    first = init_run(study, study.seeds[0])
    if first is None:
        return str(study.init_from) or "drawn by parameter name"
    if study.start_per_seed:
        return f"one for each seed, {root / first.folder.parent}/seed<k>-*, trained first"
    return f"{init_checkpoint(study, first.seed, root)}, trained first"


def _given(study: Study) -> str:
    return ", given this start" if study.one_start else ""


def list_runs(runs: Sequence[PlannedRun]) -> str:
    """The runs by folder, as --run names them."""
    folders: dict[str, list[str]] = {}
    for run in runs:
        place, _, name = run.name.rpartition("/")
        folders.setdefault(f"{place}/", []).append(name)
    width = max(map(len, folders))
    lines = [
        textwrap.fill(
            " ".join(found),
            140,
            initial_indent=f"  {place:{width}} ",
            subsequent_indent=" " * (width + 3),
        )
        for place, found in folders.items()
    ]
    return "\n".join(["runs (--dry_run --run FOLDER/NAME shows the whole config of one):", *lines])


def what_differs(configs: dict[str, Config], baseline: Arm, arm: Arm) -> str:
    found = {
        key: new
        for key, (_, new) in config_differences(configs[baseline.label], configs[arm.label]).items()
    }
    shown = [
        f"{key}={brief(_plain(value))}"
        for key, value in found.items()
        if key not in FOLLOWS_BATCH - {"train.batch_size"} or key in arm.changes
    ]
    rest = sorted(
        key.removeprefix("train.")
        for key in found
        if key in FOLLOWS_BATCH - set(arm.changes) - {"train.batch_size"}
    )
    return f": {', '.join(shown)}" + (f" (and so {', '.join(rest)})" if rest else "")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def power_of(study: Study, arms: Sequence[Arm], sd: float, floor: float) -> str:
    """What the plan can find. sd: of the difference to the baseline over seeds, and floor: the
    half-width that the images alone leave, both in points of the primary metric, as a report of a
    similar study prints them."""
    from yolact.study.statistics.power import plan_power

    found = plan_power(
        study.looks or len(study.seeds),
        arms=len(arms) - 1,
        seed_sd=sd,
        floor=floor,
        margin=study.margin,
    )
    given = _given(study)
    return f"power      for a seed sd of {sd:g} and a floor of {floor:g}{given}: {found}"


# --------------------------------------------------------------------------------------------- cost


def estimate_cost(
    study: Study,
    runs: Sequence[PlannedRun],
    *,
    slots: Sequence[Slot],
    gain: float | None = None,
    trials: int = 0,
    starts: Sequence[PlannedRun] = (),
) -> str:
    """Times a few steps and a few validation images, once for all arms of one cost_key(), and
    multiplies. gain: how many times as fast as one alone the slots are together; None = as many as
    they have devices. trials: tuning runs of the whole study; starts: what runs and trials start
    from, alike but for their seed."""
    times: dict[str, tuple[float, float]] = {}
    device = slots[0].device

    def timed(config: Config) -> tuple[float, float]:
        key = cost_key(config)
        if key not in times:
            times[key] = time_run(config, device)
        return times[key]

    seconds: dict[str, float] = {}
    lines = []
    width = max(len(run.arm.label) for run in runs)
    for run in runs:
        if run.arm.label in seconds:
            continue
        (step, validation), validations = timed(run.config), validations_of(run.config)
        steps = f"{1000 * step:7.0f} ms a step, "
        if run.shares is not None:
            step, validations, steps = 0.0, 1, f"{f'of {run.shares.arm}':>15}, "
        seconds[run.arm.label] = (
            START + step * run.config.train.iterations + validation * validations
        )
        lines.append(
            f"  {run.arm.label:{width}}  {steps}{validation:5.0f} s a "
            f"validation x {validations}: {_duration(seconds[run.arm.label])} a run"
        )
    total = sum(seconds[run.arm.label] for run in runs)
    parts = [f"{len(runs)} runs"]
    if starts:
        config = starts[0].config
        (step, validation), validations = timed(config), validations_of(config)
        one = START + step * config.train.iterations + validation * validations
        total += one * len(starts)
        parts.append(
            f"{len(starts)} starts of {_duration(one)}"
            if study.start_per_seed
            else "the shared start"
        )
    if trials and study.tune is not None:
        share = (study.tune.budget or study.budget) / study.budget
        total += share * trials * sum(seconds.values()) / len(seconds)
        parts.append(f"{trials} tuning trials")
    speed, shared = _together(slots, gain)
    lines.append(
        f"about {_duration(total / speed)} for {', '.join(parts)}, {len(slots)} at a time on "
        f"{device}{shared} (from {TIMED_STEPS} steps and {TIMED_IMAGES} validation images of an "
        f"untrained model: more detections take longer; {len(times)} timed, arms of equal cost "
        "share one)"
    )
    return "\n".join(lines)


def _together(slots: Sequence[Slot], gain: float | None) -> tuple[float, str]:
    """(how many times as fast as one alone slots are, what of it to say)."""
    devices = len({slot.device for slot in slots})
    if gain is not None:
        return gain, f", measured {gain:.2f} times as fast as one" if len(slots) > 1 else ""
    if len(slots) == devices:
        return devices, ""
    return devices, ", which share it: counted as one after another (--jobs auto measures on a CPU)"


def cost_key(config: Config) -> str:
    """Equal for configs whose steps and validations take the same time: they differ in numbers
    that are multiplied, in lengths and in seeds. Other numbers of a loss than fractions may count
    what it does, and stay."""
    content = config.model_dump(mode="json", exclude={"name": True, "train": _FREE})
    content["model"]["pretrained"] = ""
    for section, keys in (("loss", content["loss"]), ("train", ("clip_grad_norm", "ema_decay"))):
        for key in keys:
            content[section][key] = _unmeasured(content[section][key])
    content["loss"]["mask"] = [
        [term.name, {key: _unmeasured(value) for key, value in sorted(term.params.items())}]
        for term in parse(config.loss.mask)
    ]
    return json.dumps(content, sort_keys=True, default=str)


def _unmeasured(value: Any) -> Any:
    """A fraction without its size: whether it is 0 decides what is computed."""
    return bool(value) if isinstance(value, float) else value


def validations_of(config: Config) -> int:
    """How often a run is validated."""
    train = config.train
    count = train.iterations // train.validate_every if train.validate_every else 0
    return count + (train.validate_every == 0 or train.iterations % train.validate_every > 0)


def time_run(config: Config, device: str) -> tuple[float, float]:
    """(seconds a step, seconds a validation) of a run, measured on the real data."""
    import torch

    from data.loader import build_dataset
    from yolact.engine.timing import step_seconds, validation_seconds

    with training_steps(config, device) as step:
        found, _ = step_seconds(step, untimed=WARM_UP, enough=lambda timed, _: timed >= TIMED_STEPS)
    images = build_dataset(config, "val", mask_sizes=[], needs_full_masks=False)
    target = torch.device(device)
    return found, validation_seconds(step.state.best_model, config, images, target, TIMED_IMAGES)


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 60:.1f} minutes"
        if seconds < 5400
        else str(timedelta(minutes=round(seconds / 60)))[:-3] + " hours"
    )


@contextmanager
def training_steps(config: Config, device: str) -> Iterator[Steps]:
    """Steps of a run. The weights that it starts from may not be there yet, and take no part in
    what is timed."""
    import torch

    from yolact.engine.datasets import training_set
    from yolact.engine.state import build_state
    from yolact.engine.timing import steps_of

    train = config.train.model_copy(update={"init_from": ""})
    model = config.model.model_copy(update={"pretrained": "none"})
    config = config.model_copy(update={"train": train, "model": model})
    state, _ = build_state(config, torch.device(device), None)
    data = training_set(config, None, state.criterion)
    with steps_of(state, config, data, torch.device(device)) as steps:
        yield steps
