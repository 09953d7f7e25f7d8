"""The tables of a report: verdicts, batch sizes, losses alone and in sums, AP by IoU, and what
stands beside AP. Cells are values; write.py prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layers.losses.expr import Term, parse
from yolact.engine.records import AREAS
from yolact.study.report.cells import (
    Cell,
    Measured,
    Number,
    Probability,
    Verdict,
    is_number,
)
from yolact.study.report.data import ArmReport, Report, seeds_of, shape_of
from yolact.study.report.estimates import Estimate
from yolact.study.report.published import (
    ALL,
    BATCH,
    NOTE,
    SOME,
    Published,
    baseline,
    plain_name,
    reference_loss,
    table_one,
)
from yolact.study.report.published_coco import NAMES, published_models
from yolact.study.report.published_coco import NOTE as COCO_NOTE
from yolact.study.statistics.beside import mean_quality
from yolact.study.statistics.comparison import Interval, about_the_start, baseline_label
from yolact.study.statistics.inference import VARIANCE_RULE
from yolact.study.statistics.shared import shared_iou
from yolact.study.statistics.verdict import LEAST_SEEDS

# what stands beside AP: {key of quality_of(): (title, decimals)}
BESIDE = {
    "olrp": ("oLRP", 2),
    "olrp_localisation": ("localisation", 2),
    "olrp_false_positives": ("false positives", 2),
    "olrp_false_negatives": ("false negatives", 2),
    "calibration_error": ("calibration error", 3),
    "score_minus_iou": ("score − IoU", 3),
    "boundary_ap": ("boundary AP", 2),
}
NONE_GIVEN = Number(None)
OTHERS = (
    "Results files of others are evaluated as the arms are, on the same images; ± half of the 95 % "
    "interval over images. One result each: without seeds there is no verdict. Figures as printed "
    "may be of another split, size or schedule."
)


@dataclass(frozen=True)
class Row:
    """cells: values, one a column. kind: 'baseline', 'published' below the arm that it belongs to,
    'beside' of a row of others that stands by itself, or ''; remark: on the first
    cell; arm: the number of the arm that it is about, where the page asks."""

    cells: Sequence[Cell]
    kind: str = ""
    remark: str = ""
    arm: int | None = None


@dataclass(frozen=True)
class Table:
    """key: its name in LaTeX; notes: sentences below it."""

    key: str
    title: str
    header: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @property
    def worded(self) -> bool:
        """Whether its last column is words."""
        return any(isinstance(row.cells[-1], Verdict) for row in self.rows)


def tables(report: Report) -> list[Table]:
    """Those that the study has arms for."""
    found: list[Table | None] = [
        verdicts(report),
        *([batch_sizes(report), single_losses(report), combinations(report)] * report.trained),
        readme(report),
        others(report),
        beside_ap(report),
        shared_instances(report),
        coco_models(report),
        beside_others(report),
    ]
    return [table for table in found if table is not None]


def verdicts(report: Report) -> Table:
    """One line an arm: AP, difference, p and verdict, with the plain paired t and, from six seeds,
    the sign-flip p as checks."""
    flips = any(
        arm.comparison is not None and arm.comparison.sign_flip is not None for arm in report.arms
    )
    rows = []
    for arm in report.arms:
        found = arm.comparison
        cells = [arm.label, ap(arm, report.metric), seeds_of(arm, report.study), difference(arm)]
        if found is None:
            rows.append(Row([*cells, *[None] * (4 + flips), verdict(arm)], "baseline"))
            continue
        p = Probability(found.p_holm if len(found.seeds) >= LEAST_SEEDS else None)
        spread = [Number(found.seed_sd), Number(found.image_sd)]
        checks = [Probability(found.paired_t), *[Probability(found.sign_flip)] * flips]
        rows.append(Row([*cells, p, *checks, *spread, verdict(arm)]))
    header = [
        "arm",
        metric_title(report.metric),
        "n",
        f"difference to {report.baseline}",
        "p (Holm)",
        "paired t p",
        *["sign-flip p"] * flips,
        "sd, seeds",
        "sd, images",
        "verdict",
    ]
    notes = [
        "Means over n seeds ± half of the 95 % interval over seeds and images. Margin of "
        f"equivalence: {report.study.margin:g} AP. p is adjusted for the number of arms, the "
        "intervals are not; sd: of the difference to the baseline, over seeds and from the "
        f"images. {100 * dropped(report):.1f} % of the classes drop out of a resample of the "
        "images on average, having no ground truth in it.",
        f"Variance rule: {VARIANCE_RULE}. The plain paired t{' and the sign-flip p' * flips}, on "
        "these images and not adjusted, are checks and decide nothing.",
    ]
    if start := about_the_start(arm.comparison for arm in report.arms if arm.comparison):
        notes.append(f"{start[0].upper()}{start[1:]}.")
    return Table("verdicts", "Verdicts", header, rows, notes)


def batch_sizes(report: Report) -> Table | None:
    """Arms of different batch sizes."""
    if len({arm.config.train.batch_size for arm in report.arms}) < 2:
        return None
    rows: list[Row] = []
    for arm in sorted(report.arms, key=lambda arm: arm.config.train.batch_size):
        train = arm.config.train
        rows.append(
            _row(
                report,
                arm,
                [
                    arm.label,
                    train.batch_size,
                    Number(train.lr, None),
                    train.iterations,
                    train.iterations * train.batch_size,
                ],
                (0, *BATCH),
            )
        )
        rows += [
            _published_row(
                report,
                theirs,
                [f"published: {theirs.title}", train.batch_size, *[NONE_GIVEN] * 3],
                (0, *BATCH),
            )
            for theirs in table_one(arm.config)
        ]
    rule = {
        "constant": "not scaled",
        "linear": "scaled with the batch size",
        "sqrt": "scaled with its root",
    }[report.study.lr_rule]
    header = [
        "arm",
        "batch size",
        "lr",
        "iterations",
        "images seen",
        "AP",
        *(f"AP{t}" for t in BATCH),
        *_verdict(report),
    ]
    notes = [
        f"At equal {report.study.equal}; learning rate {rule}.",
        *_published_note(rows, "Table I"),
    ]
    return Table("batch", "Batch sizes", header, rows, notes)


def single_losses(report: Report) -> Table | None:
    """Arms with one mask loss each."""
    return _losses(
        report,
        "single",
        "Single mask losses",
        [arm for arm in report.arms if len(terms(arm)) == 1],
    )


def combinations(report: Report) -> Table | None:
    """Arms with a sum of mask losses, below the baseline."""
    mixed = [arm for arm in report.arms if len(terms(arm)) > 1]
    if not mixed or not _differ_in_loss(report):
        return None
    arms, rows = mixed if report.base in mixed else [report.base, *mixed], []
    for arm in arms:
        reference, *added = by_role(arm, report.base)
        weights: list[Cell] = [
            ", ".join(f"{term.coefficient:g}" for term in added) if added else NONE_GIVEN,
            Number(reference.coefficient, None),
        ]
        rows.append(_row(report, arm, [arm.label, *weights, *speeds(report, arm)], (0, *SOME)))
        if arm.published:
            theirs = weights if added else [NONE_GIVEN, NONE_GIVEN]
            rows.append(
                _published_row(
                    report,
                    arm.published,
                    [f"published: {arm.published.title}", *theirs, *_their_speed(report, arm)],
                    (0, *SOME),
                )
            )
    speed = ["FPS"] * networks_differ(report)
    header = ["loss", "α", "β", *speed, "all", *(f"AP{t}" for t in SOME), *_verdict(report)]
    notes = [
        "α L1 + β L2: β weights the baseline's loss, or where that takes no part the term of "
        "weight 1; α weights what is added to it, in whatever order the loss is written.",
        *_published_note(rows, "Table III"),
    ]
    return Table("hybrid", "Sums of mask losses", header, rows, notes)


def readme(report: Report) -> Table | None:
    """Every arm in the layout of the survey's README: all, AP50 ... AP95."""
    return _losses(report, "thresholds", "All arms, AP by IoU threshold", report.arms, always=True)


def others(report: Report) -> Table | None:
    """AP by size and of the other shape: differences with intervals, and no verdict."""
    shape = shape_of(report.metric)
    names = [
        *(f"{shape}_ap_{size}" for size in AREAS[1:]),
        "mask_ap" if shape == "box" else "box_ap",
        f"{shape}_ap",
    ]
    names = [
        name
        for name in names
        if name != report.metric
        and name in report.base.estimates
        and is_number(report.base.estimates[name].mean)
    ]
    if not names:
        return None
    rows = []
    for arm in report.arms:
        if arm.comparison is None:
            rows.append(Row([arm.label, *(ap(arm, name) for name in names)], "baseline"))
        else:
            gaps = [arm.comparison.others.get(name) for name in names]
            rows.append(Row([arm.label, *map(_gap, gaps)]))
    return Table(
        "others",
        "Other metrics",
        ["arm", *map(metric_title, names)],
        rows,
        [
            f"{report.baseline}: means ± half of their 95 % interval; the other arms: differences "
            "to it ± half of theirs. No verdicts: of several metrics, one easily stands out by "
            "chance."
        ],
    )


def beside_ap(report: Report) -> Table | None:
    """oLRP with its parts, and calibration; means over seeds."""
    shape = shape_of(report.metric)
    found = {arm.label: mean_quality(arm.runs.values(), shape) for arm in report.arms}
    names = [name for name in BESIDE if any(name in values for values in found.values())]
    if not names:
        return None
    rows = [
        Row(
            [label, *(Number(values.get(name), BESIDE[name][1]) for name in names)],
            "baseline" if label == report.baseline else "",
        )
        for label, values in found.items()
    ]
    return Table(
        "beside",
        "Beside AP: errors and calibration",
        ["arm", *(BESIDE[name][0] for name in names)],
        rows,
        [
            f"Of {shape} detections, means over seeds. oLRP (lower is better) and its parts at the "
            "best score threshold, in percent; calibration error: mean distance of score and IoU "
            "in ten bins; score − IoU above 0: overconfident."
        ],
    )


def shared_instances(report: Report) -> Table | None:
    """Mask IoU of the instances that an arm and the baseline both find."""
    if shape_of(report.metric) != "mask":
        return None
    arms = {arm.label: arm.runs for arm in report.arms}
    found = {
        arm.label: shared
        for arm in report.arms
        if arm.comparison and (shared := shared_iou(arm.comparison, arms)) is not None
    }
    if not found:
        return None
    rows = [
        Row(
            [
                label,
                Number(shared.instances, 0),
                Number(shared.baseline_iou),
                Number(shared.iou),
                Measured(shared.interval.difference, shared.interval.half, signed=True),
            ]
        )
        for label, shared in found.items()
    ]
    return Table(
        "shared",
        "Mask IoU of the instances that both find",
        ["arm", "instances", f"IoU of {report.baseline}", "IoU", "difference"],
        rows,
        [
            "An instance is found where a detection of any score is matched to it at IoU .50. "
            "Means over seeds, in percent, ± half of the 95 % interval over seeds and images. "
            "What detection misses takes no part. No verdicts."
        ],
    )


def coco_models(report: Report) -> Table | None:
    """On COCO: the arms, and below them every published model."""
    found = published_models(report.base.config.data.name) if report.trained else []
    if not found or shape_of(report.metric) != "mask":
        return None
    rows = [
        Row(
            [arm.label, fps(arm), *(ap(arm, f"mask_{name}") for name in NAMES), None, Verdict("")],
            "baseline" if arm.comparison is None else "",
        )
        for arm in report.arms
    ]
    rows += [
        Row(
            [
                f"published: {row.title}, {row.backbone}",
                Number(row.fps, 1),
                *(Number(row.values.get(f"mask_{name}"), 1) for name in NAMES),
                Number(row.box_ap, 1),
                Verdict(row.split),
            ],
            "beside",
            row.source,
        )
        for row in found
    ]
    titles = [metric_title(name).replace("ap", "AP") for name in NAMES]
    header = ["model", "FPS", *titles, "box AP", "images"]
    return Table("coco", "Beside published models", header, rows, [COCO_NOTE])


def beside_others(report: Report) -> Table | None:
    """The arms, and below them the study's external rows."""
    if not report.external:
        return None
    shape = shape_of(report.metric)
    names = [*(f"{shape}_{name}" for name in NAMES), "mask_ap" if shape == "box" else "box_ap"]
    rows = [
        Row(
            [arm.label, *(ap(arm, name) for name in names), Verdict("this study")],
            "baseline" if arm.comparison is None else "",
        )
        for arm in report.arms
    ]
    rows += [
        Row([row.label, *(_ap(row.estimates, name) for name in names), Verdict(words)], "beside")
        for row in report.external
        for words in [f"{row.source}, {row.lacking or 'as printed' * row.printed}".strip(", ")]
    ]
    header = ["model", *map(metric_title, names), "source"]
    return Table("external", "Beside results of others", header, rows, [OTHERS])


# --------------------------------------------------------------------------------------------- rows


def _losses(
    report: Report, key: str, title: str, arms: Sequence[ArmReport], *, always: bool = False
) -> Table | None:
    if not always and (not arms or not _differ_in_loss(report)):
        return None
    rows = []
    for arm in arms:
        rows.append(_row(report, arm, [arm.label, *speeds(report, arm)], (0, *ALL)))
        if arm.published and _differ_in_loss(report):
            rows.append(
                _published_row(
                    report,
                    arm.published,
                    [f"published: {arm.published.title}", *_their_speed(report, arm)],
                    (0, *ALL),
                )
            )
    notes = [
        f"{shape_of(report.metric).capitalize()} AP, means over n seeds ± half of the 95 % "
        "interval."
    ]
    if networks_differ(report):  # one network has one speed: what differs is noise
        notes.append(
            "FPS: no run was timed (eval.py --trained_model=RUN/weights/last.pth --benchmark)."
            if all(arm.fps is None for arm in arms)
            else "FPS: median ± distance to the rate that 95 % of the images reach, one image at "
            "a time."
        )
    header = [
        "loss" if _differ_in_loss(report) else "arm",
        *["FPS"] * networks_differ(report),
        "all",
        *(f"AP{t}" for t in ALL),
        *_verdict(report),
    ]
    return Table(
        key,
        title,
        header,
        rows,
        [*notes, *_published_note(rows, "the README's table" if always else "Table II")],
    )


def _row(report: Report, arm: ArmReport, first: Sequence[Cell], thresholds: Sequence[int]) -> Row:
    """first cells, AP (threshold 0: the mean over all), then n, difference and verdict."""
    shape = shape_of(report.metric)
    values = [ap(arm, f"{shape}_ap{t or ''}") for t in thresholds]
    return Row(
        [*first, *values, seeds_of(arm, report.study), difference(arm), verdict(arm)],
        "baseline" if arm.comparison is None else "",
    )


def _published_row(
    report: Report, row: Published, first: Sequence[Cell], thresholds: Sequence[int]
) -> Row:
    values = [Number(row.by_threshold.get(t) if t else row.ap) for t in thresholds]
    against = (
        row.ap != baseline().ap
        and row.shape == "mask"
        and report.base.published == baseline()
        and report.metric == "mask_ap"
    )
    gap = Number(row.ap - baseline().ap, signed=True) if against else None
    return Row(
        [*first, *values, 1, gap, Verdict("one run, no interval")],
        "published",
        f"computed: {row.computed}",
    )


def _published_note(rows: Sequence[Row], what: str) -> list[str]:
    """what: the survey's own table."""
    if not any(row.kind == "published" for row in rows):
        return []
    return [f"Reproduces {what} of the survey of mask losses. {NOTE}"]


def _verdict(report: Report) -> tuple[str, str, str]:
    """The last three columns; the difference is of the primary metric, whatever the columns before
    show."""
    usual = report.metric in ("mask_ap", "box_ap")
    return "n", "difference" if usual else f"difference of {metric_title(report.metric)}", "verdict"


def _differ_in_loss(report: Report) -> bool:
    return len({arm.config.loss.mask for arm in report.arms}) > 1


def terms(arm: ArmReport) -> tuple[Term, ...]:
    return parse(arm.config.loss.mask)


def by_role(arm: ArmReport, base: ArmReport) -> list[Term]:
    """The terms of an arm's loss: the one that beta weights, then those that alpha does. The
    written order says nothing, as 0.5*mse + bce is bce + 0.5*mse. Beta's is the survey's where it
    has the combination, else the baseline's loss, else the term of weight 1."""
    alone = terms(base)
    wanted = (
        reference_loss(arm.published)
        if arm.published
        else plain_name(alone[0])
        if len(alone) == 1
        else ""
    )
    return sorted(
        terms(arm),
        key=lambda term: (
            plain_name(term) != wanted,
            term.coefficient != 1,
            -term.coefficient,
            str(term),
        ),
    )


# -------------------------------------------------------------------------------------------- cells


def dropped(report: Report) -> float:
    """The share of classes that drop out of a resample; of the set, so the same for every run on
    it."""
    return max(run.resampled.dropped for _, _, run in report.runs)


def verdict(arm: ArmReport) -> Verdict:
    """The verdict on an arm; of the baseline, that it is one."""
    if arm.comparison is None:
        return Verdict(baseline_label(arm.runs.values()))
    return Verdict(arm.comparison.label, arm.comparison.verdict)


def ap(arm: ArmReport, metric: str) -> Cell:
    return _ap(arm.estimates, metric)


def _ap(estimates: Mapping[str, Estimate], metric: str) -> Cell:
    found = estimates.get(metric)
    if found is None:
        return NONE_GIVEN
    if not is_number(found.half):
        return Number(found.mean)
    return Measured(found.mean, found.half, least=found.least, most=found.most)


def metric_title(metric: str) -> str:
    """mask_ap_small -> mask AP small"""
    return metric.replace("_", " ").replace(" ap", " AP")


def difference(arm: ArmReport) -> Cell:
    return None if arm.comparison is None else _gap(arm.comparison.interval)


def _gap(found: Interval | None) -> Cell:
    return NONE_GIVEN if found is None else Measured(found.difference, found.half, signed=True)


def networks_differ(report: Report) -> bool:
    """Whether arms compute something else in inference: only then is speed a result."""
    networks = [(arm.config.model, arm.config.eval) for arm in report.arms]
    return any(network != networks[0] for network in networks)


def speeds(report: Report, arm: ArmReport) -> list[Cell]:
    """The cell of FPS, where networks differ."""
    if not networks_differ(report):
        return []
    return [fps(arm)]


def fps(arm: ArmReport) -> Cell:
    return NONE_GIVEN if arm.fps is None else Measured(arm.fps.mean, arm.fps.half, 1)


def _their_speed(report: Report, arm: ArmReport) -> list[Cell]:
    assert arm.published is not None
    return [Number(arm.published.fps)] * networks_differ(report)
