"""Every figure of a report's tables, worked out here from the records by the formulas of
docs/reference/statistics.md, and looked for in each way of printing."""

import re
from functools import cache

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from tests.yolact.study.report.small_study import HYBRID, SKILLS, place, read_csv_text
from yolact.engine.records import read_records
from yolact.study.report import curves, figures
from yolact.study.report.cells import Measured, Number, Probability, Seeds, Verdict, plain
from yolact.study.report.data import collect
from yolact.study.report.estimates import Estimate
from yolact.study.report.page.render import table_html
from yolact.study.report.tables import Row, Table, tables
from yolact.study.report.write import comparison_csv, latex, markdown
from yolact.study.statistics.ap import metric_names, weighted_ap
from yolact.study.statistics.inference import VARIANCE_RULE
from yolact.study.statistics.quality import calibration, olrp
from yolact.study.statistics.resample import RESAMPLES, image_weights

SEEDS = range(3)


class Expected:
    """The numbers of the finished study, from the records of its nine runs."""

    def __init__(self, folder):
        self.records = {
            (arm, seed): read_records(place(folder, arm, seed) / "results" / "records.npz")
            for arm in SKILLS
            for seed in SEEDS
        }
        ids = next(iter(self.records.values())).image_ids
        weights = np.vstack([np.ones((1, len(ids)), int), image_weights(ids, RESAMPLES)])
        self.aps = {
            key: dict(zip(metric_names("mask"), 100 * weighted_ap(found, "mask", weights).values.T))
            for key, found in self.records.items()
        }

    def values(self, arm, metric="mask_ap", base=None):
        """(1 + RESAMPLES, seeds): the images as they are first."""
        found = np.stack([self.aps[arm, seed][metric] for seed in SEEDS], -1)
        return found if base is None else found - self.values(base, metric)

    def measured(self, arm, metric="mask_ap", base=None):
        """(mean, half width, s2, I)"""
        values = self.values(arm, metric, base)
        covariance = np.cov(values[1:][~np.isnan(values[1:]).any(1)].T)
        s2, image = values[0].var(ddof=1), max(0, covariance[~np.eye(3, dtype=bool)].mean())
        width = brentq(lambda w: both_tails(w, s2, image) - 0.05, 1e-9, 500)
        return values[0].mean(), width, s2, image

    @property
    def p(self):
        """{arm: p adjusted by Holm} of the two arms beside the baseline."""
        found = {}
        for arm in ("dice", HYBRID):
            d, _, s2, image = self.measured(arm, base="bce")
            found[arm] = both_tails(abs(d), s2, image)
        low, high = sorted(found, key=found.get)
        return {low: min(1, 2 * found[low]), high: min(1, max(2 * found[low], found[high]))}


def both_tails(distance, s2, image):
    """P(|sqrt(s2/3) T_2 + sqrt(I) Z| > distance), at 200 midpoints of chi2."""
    chi2 = stats.chi2.ppf((np.arange(200) + 0.5) / 200, 2)
    return float(np.mean(2 * stats.norm.sf(distance / np.sqrt(s2 / 3 * 2 / chi2 + image))))


@cache
def expected_of(folder):
    return Expected(folder)


@pytest.fixture
def expected(finished):
    return expected_of(finished)


@pytest.fixture(scope="module")
def report(finished):
    return collect(finished)


def table_of(report, key):
    return next(table for table in tables(report) if table.key == key)


def probability(p):
    return "<.0001" if p < 1e-4 else f"{p:.4f}"


def verdict_rows(expected):
    """[(label, AP and half width, difference and half width, p, p of the paired t, sd over seeds,
    sd from images)] in the order of the study's file; the baseline has the first two."""
    rows = []
    for arm in SKILLS:
        mean, half, *_ = expected.measured(arm)
        cells = [arm, (f"{mean:.2f}", f"{half:.2f}")]
        if arm != "bce":
            d, gap, s2, image = expected.measured(arm, base="bce")
            cells += [(f"{d:+.2f}", f"{gap:.2f}"), probability(expected.p[arm])]
            cells += [probability(2 * stats.t.sf(abs(d) / np.sqrt(s2 / 3), 2))]
            cells += [f"{np.sqrt(s2):.2f}", f"{np.sqrt(image):.2f}"]
        rows.append(cells)
    assert [row[0] for row in rows] == ["bce", "dice", HYBRID]
    assert all(row[1][0] != row[1][1] for row in rows)
    return rows


def test_the_verdicts_in_every_way_of_printing(report, expected):
    """What stands beside ± is half of the interval's width, and each row has its own arm's
    numbers."""
    table = table_of(report, "verdicts")
    base, dice, hybrid = verdict_rows(expected)
    labels = [arm.comparison.label for arm in report.arms if arm.comparison]
    assert labels[0] == "worse"

    def joined(cells, sign):
        return [cell if isinstance(cell, str) else sign.join(cell) for cell in cells]

    texts = [[plain(cell) for cell in row.cells] for row in table.rows]
    head, *others = (joined(row, " ± ") for row in (base, dice, hybrid))
    assert texts[0] == [*head, "3", "", "", "", "", "", "baseline"]
    assert texts[1:] == [
        [label, ap, "3", gap, p, t, seeds, images, verdict]
        for (label, ap, gap, p, t, seeds, images), verdict in zip(others, labels)
    ]

    lines = markdown([table]).splitlines()[4:7]
    name = HYBRID.replace("*", r"\*")
    assert lines[0] == f"| **bce** | {head[1]} | 3 |  |  |  |  |  | baseline |"
    for line, label, (_, ap, *rest), verdict in zip(lines[1:], ("dice", name), others, labels):
        shown = [label, ap, "3", *rest, verdict]
        assert line == f"| {' | '.join(shown)} |".replace("<.", "&lt;.")

    lines = latex([table]).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("bce & "))
    head, tex, _ = (joined(row, r" $\pm$ ") for row in (base, dice, hybrid))
    assert lines[start] == rf"bce & {head[1]} & 3 &  &  &  &  &  & baseline \\ \midrule"
    expected_line = rf"dice & {tex[1]} & 3 & {tex[2]} & {' & '.join(tex[3:])} & worse \\"
    assert lines[start + 1] == expected_line.replace("<", r"\textless{}")

    page = re.sub(' (data-sort|scope)="[^"]*"', "", table_html(table))
    (value, half), (gap, gap_half) = dice[1], dice[2]
    p = dice[3].replace("<", "&lt;")
    assert (
        f'<tr class=""><th>dice</th><td>{value}<small>±{half}</small></td><td>3</td>'
        f"<td>{gap}<small>±{gap_half}</small></td><td>{p}</td><td>{dice[4]}</td>"
        f"<td>{dice[5]}</td><td>{dice[6]}</td>"
        '<td><span class="verdict worse">worse</span></td></tr>'
    ) in page
    assert (
        f'<tr class="baseline"><th>bce</th><td>{base[1][0]}<small>±{base[1][1]}</small></td>'
        "<td>3</td><td></td><td></td><td></td><td></td><td></td><td>baseline</td></tr>"
    ) in page


def test_intervals_in_the_csv_file_are_those_of_the_records(report, expected):
    rows = read_csv_text(comparison_csv(report))
    assert [row["arm"] for row in rows] == list(SKILLS)
    for row in rows:
        for metric in ("mask_ap", "mask_ap50", "mask_ap75", "mask_ap_small"):
            mean, half, *_ = expected.measured(row["arm"], metric)
            found = [float(row[key]) for key in (metric, f"{metric}_low", f"{metric}_high")]
            assert found == pytest.approx([mean, mean - half, mean + half], abs=1e-4)
    for row in rows[1:]:
        d, half, s2, image = expected.measured(row["arm"], base="bce")
        assert [float(row[key]) for key in ("difference", "low", "high")] == pytest.approx(
            [d, d - half, d + half], abs=1e-4
        )
        assert [float(row[key]) for key in ("seed_sd", "image_sd")] == pytest.approx(
            [s2**0.5, image**0.5], abs=1e-4
        )
        assert float(row["p"]) == pytest.approx(both_tails(abs(d), s2, image), abs=1e-5)
        assert float(row["p_holm"]) == pytest.approx(expected.p[row["arm"]], abs=1e-5)
        assert float(row["paired_t_p"]) == pytest.approx(both_tails(abs(d), s2, 0.0), abs=2e-3)
        assert row["variance_rule"] == VARIANCE_RULE
        d, half, *_ = expected.measured(row["arm"], "mask_ap75", base="bce")
        found = [float(row[f"d_mask_ap75{end}"]) for end in ("", "_low", "_high")]
        assert found == pytest.approx([d, d - half, d + half], abs=1e-4)
        # one tail beyond the margin of 1.5, which may lie on the other side of the difference
        d, _, s2, image = gap(expected, row["arm"])
        tail = both_tails(abs(1.5 - abs(d)), s2, image) / 2
        assert float(row["p_equivalent"]) == pytest.approx(
            tail if abs(d) < 1.5 else 1 - tail, abs=1e-5
        )


def gap(expected, arm):
    return expected.measured(arm, base="bce")


@pytest.mark.parametrize(
    "key, arms, first", [("single", ["bce", "dice"], 1), ("thresholds", list(SKILLS), 1)]
)
def test_each_threshold_has_its_own_ap_and_half_width(report, expected, key, arms, first):
    table = table_of(report, key)
    assert table.header[first : first + 3] == ["all", "AP50", "AP55"]
    assert [row.cells[0] for row in table.rows] == arms
    for row, arm in zip(table.rows, arms):
        for title, cell in zip(table.header[first:-3], row.cells[first:-3]):
            metric = "mask_ap" if title == "all" else f"mask_{title.lower()}"
            mean, half, *_ = expected.measured(arm, metric)
            cut = mean - half < 0 or mean + half > 100  # AP has no such values
            ends = f"[{max(mean - half, 0):.2f}, {min(mean + half, 100):.2f}]"
            spread = ends if cut else f"± {half:.2f}"
            assert plain(cell) == f"{mean:.2f} {spread}", (arm, title)
        d = "" if arm == "bce" else "{:+.2f} ± {:.2f}".format(*gap(expected, arm)[:2])
        assert plain(row.cells[-2]) == d


def test_other_metrics_and_what_stands_beside_ap(report, expected):
    base, dice, _ = table_of(report, "others").rows
    for name, of_base, of_dice in zip(("small", "medium", "large"), base.cells[1:], dice.cells[1:]):
        mean, half, *_ = expected.measured("bce", f"mask_ap_{name}")
        assert plain(of_base) == f"{mean:.2f} ± {half:.2f}"
        d, half, *_ = expected.measured("dice", f"mask_ap_{name}", base="bce")
        assert plain(of_dice) == f"{d:+.2f} ± {half:.2f}"
    for row in table_of(report, "beside").rows:
        found = [expected.records[row.cells[0], seed] for seed in SEEDS]
        errors = np.mean(
            [
                [e.olrp, e.localisation, e.false_positive, e.false_negative]
                for e in (olrp(records, "mask") for records in found)
            ],
            0,
        )
        scores = np.mean([[c.error, c.bias] for c in map(calibration, found)], 0)
        assert [plain(cell) for cell in row.cells[1:]] == [
            *(f"{100 * error:.2f}" for error in errors),
            *(f"{score:.3f}" for score in scores),
        ]


# -------------------------------------------------------------------------------------- printing

CELLS = {  # cell: (text, LaTeX, HTML)
    "text": ("a_b < c", "a_b < c", r"a\_b \textless{} c", "a_b &lt; c"),
    "count": (12, "12", "12", "12"),
    "nothing": (None, "", "", ""),
    "number": (Number(1.005), "1.00", "1.00", "1.00"),
    "signed": (Number(0.004, 3, True), "+0.004", "+0.004", "+0.004"),
    "short": (Number(0.00025, None), "0.00025", "0.00025", "0.00025"),
    "no number": (Number(float("nan")), "–", "--", "–"),
    "mean": (Measured(28.1, 0.4), "28.10 ± 0.40", r"28.10 $\pm$ 0.40", "28.10<small>±0.40</small>"),
    "difference": (
        Measured(0.6, 1.2, 1, True),
        "+0.6 ± 1.2",
        r"+0.6 $\pm$ 1.2",
        "+0.6<small>±1.2</small>",
    ),
    "beyond 100": (
        Measured(99.5, 2, least=0, most=100),
        "99.50 [97.50, 100.00]",
        "99.50 {[}97.50, 100.00{]}",
        "99.50<small>[97.50, 100.00]</small>",
    ),
    "below 0": (
        Measured(0.5, 2, least=0, most=100),
        "0.50 [0.00, 2.50]",
        "0.50 {[}0.00, 2.50{]}",
        "0.50<small>[0.00, 2.50]</small>",
    ),
    "no mean": (Measured(float("nan"), 1.0), "–", "--", "–"),
    "p": (Probability(0.04567), "0.0457", "0.0457", "0.0457"),
    "tiny p": (Probability(1e-5), "<.0001", r"\textless{}.0001", "&lt;.0001"),
    "no p": (Probability(None), "–", "--", "–"),
    "seeds": (Seeds(3, 3), "3", "3", "3"),
    "fewer seeds": (Seeds(2, 3), "2 of 3", "2 of 3", "2 of 3"),
    "verdict": (
        Verdict("worse, exploratory", "worse"),
        "worse, exploratory",
        "worse, exploratory",
        '<span class="verdict worse">worse, exploratory</span>',
    ),
    "baseline": (Verdict("baseline"), "baseline", "baseline", "baseline"),
}


@pytest.mark.parametrize("cell, text, tex, page", CELLS.values(), ids=CELLS)
def test_a_cell_in_every_way_of_printing(cell, text, tex, page):
    table = Table("key", "Title", ["arm", "value"], [Row(["x", cell])])
    shown = text.replace("_", r"\_").replace("<", "&lt;")
    shown = shown.replace("[", r"\[").replace("]", r"\]")
    assert plain(cell) == text
    assert f"| x | {shown} |" in markdown([table])
    assert rf"x & {tex} \\" in latex([table])
    assert re.search(f'<td data-sort="[^"]*">{re.escape(page)}</td></tr>', table_html(table))


def test_a_label_that_looks_like_a_value_is_text():
    """A cell is never read again: a label with ± in it stays whole."""
    row = Row(["loss ± 1", "a ± b", Verdict("5 ± 1")], remark="computed: x: y")
    page = table_html(Table("key", "Title", ["arm", "note", "verdict"], [row]))
    page = re.sub(' (data-sort|scope)="[^"]*"', "", page)
    assert "<th>loss ± 1<small>computed: x: y</small></th><td>a ± b</td><td>5 ± 1</td>" in page


# --------------------------------------------------------------------------------------- figures


def test_the_thick_line_is_the_90_percent_interval(report, expected):
    _, _, s2, image = gap(expected, "dice")
    width = brentq(lambda w: both_tails(w, s2, image) - 0.1, 1e-9, 500)
    assert figures._narrow(report.arms[1].comparison) == pytest.approx(width, abs=1e-4)


def test_a_band_reaches_half_a_width_to_either_side():
    axes = figures.plt.figure().add_subplot()
    figures._band(axes, np.arange(2), [Estimate(10, 2), Estimate(10, 2)], "red", "-", "")
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (8, 12)
    figures.plt.close(axes.figure)


def test_the_gain_is_the_difference_at_the_same_seed_and_step():
    """Seed 0 gains 2 and 4, seed 1 loses 1 and gains 2; seed 2 is not the baseline's, and seed 3
    was validated at other steps."""
    steps = np.array([100.0, 200.0])

    def lines(*by_seed):
        return {seed: {"ap": (at, np.array(ap))} for seed, at, ap in by_seed}

    base = lines((0, steps, [10.0, 20.0]), (1, steps, [11.0, 22.0]), (3, steps, [9.0, 9.0]))
    arm = lines(
        (0, steps, [12.0, 24.0]),
        (1, steps, [10.0, 24.0]),
        (2, steps, [90.0, 90.0]),
        (3, steps / 2, [90.0, 90.0]),
    )
    at, mean, low, high = curves._gain(arm, base)["gain"]
    assert at.tolist() == [100, 200] and mean.tolist() == [0.5, 3]
    assert low.tolist() == [-1, 2] and high.tolist() == [2, 4]
    assert curves._gain(arm, {}) == {} == curves._gain({5: {}}, base)


def test_a_mean_ends_where_the_first_seed_ends():
    """Seed 1 has come to step 200: beyond it, seed 0 alone is no mean over seeds."""
    long = np.array([100.0, 200.0, 300.0]), np.array([4.0, 2.0, 1.0])
    short = np.array([100.0, 200.0]), np.array([2.0, 4.0])
    for seeds in ({0: {"mask": long}, 1: {"mask": short}}, {1: {"mask": short}, 0: {"mask": long}}):
        steps, mean, low, high = curves._over_seeds(seeds)["mask"]
        assert steps.tolist() == [100, 200] and mean.tolist() == [3, 3]
        assert low.tolist() == [2, 2] and high.tolist() == [4, 4]
