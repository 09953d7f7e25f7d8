"""The page in a real browser: sort, filter, arms, deep links, what a dot says, dark, narrow; names
that would be code are text; nothing is requested."""

import json
import re
import shutil

import pytest

from tests.yolact.study.made_runs import make_study
from tests.yolact.study.report.browser import opened, shown
from tests.yolact.study.report.small_study import STUDY, evaluated, run_report, shapes
from yolact.study.compare import compare_folder
from yolact.study.report.palette import COLOURS
from yolact.testing import tiny

EVIL = '"><img src=x onerror=alert(1)>'
SCRIPT = "<script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser():
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def page_file(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    study = shutil.copytree(finished, folder / finished.name)
    assert run_report(study, "--out", str(folder / "out")) == 0
    return folder / "out" / "report.html"


def cells_of(page, table, part="tbody"):
    """The texts of a table's cells as they are seen, row by row."""
    read = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    return page.eval_on_selector_all(f"#{table} {part} tr", read)


def column(page, table, number):
    return [row[number].split("\n")[0] for row in cells_of(page, table)]


def test_the_numbers_are_those_of_compare(browser, page_file):
    """What the page embeds, and what its cells show, against the comparison itself."""
    records = compare_folder(page_file.parents[1] / "small_study").comparisons
    comparisons = {record.arm: record for record in records}
    with shown(browser, page_file) as page:
        data = json.loads(page.inner_text("#data"))
        (head,) = cells_of(page, "verdicts", "thead")
        cells = {row[0]: dict(zip(head, row)) for row in cells_of(page, "verdicts")}
        said = page.inner_text("#answer")
    embedded = {arm["label"]: arm for arm in data["arms"]}
    assert set(embedded) == {"bce", *comparisons} == set(cells)
    for label, found in comparisons.items():
        own, row = embedded[label], cells[label]
        interval = found.interval
        ends = (interval.difference, interval.low, interval.high, found.p_holm)
        keys = ("difference", "difference_low", "difference_high", "p_holm")
        assert [own[key] for key in keys] == pytest.approx(ends, rel=1e-5)
        assert own["verdict"] == found.label and found.sentence in said
        value, half = row["difference to bce"].split("\n")
        assert (value, half) == (f"{interval.difference:+.2f}", f"±{interval.half:.2f}")
        assert re.sub("^[▲▼■○] ", "", row["verdict"]) == found.label
        assert float(row["p (Holm)"].replace("<", "")) == pytest.approx(found.p_holm, abs=1e-4)
    assert len(data["runs"]) == 9


def test_tables_and_runs_are_those_of_compare_too(browser, page_file):
    found = compare_folder(page_file.parents[1] / "small_study")
    with shown(browser, page_file, "#tables-tab") as page:
        data = json.loads(page.inner_text("#data"))
        tables = {}
        for key in ("thresholds", "others"):
            (head,) = cells_of(page, key, "thead")
            tables[key] = {row[0]: dict(zip(head, row)) for row in cells_of(page, key)}
    for label, runs in found.arms.items():
        for name in ("mask_ap", "mask_ap50", "mask_ap75", "mask_ap95"):
            mean = sum(run.resampled.point[name] for run in runs.values()) / len(runs)
            cell = tables["thresholds"][label][name.replace("mask_ap", "AP") if name[7:] else "all"]
            assert cell.split("\n")[0] == f"{mean:.2f}"
        for seed, run in runs.items():
            number = list(found.arms).index(label)
            (own,) = (one for one in data["runs"] if (one["arm"], one["seed"]) == (number, seed))
            expected = {name: run.resampled.point[name] for name in own["metrics"]}
            assert len(expected) > 3 and own["metrics"] == pytest.approx(expected, rel=1e-5)
    for record in found.comparisons:
        for name in ("box_ap", "mask_ap_small"):
            cell = tables["others"][record.arm][name.replace("_", " ").replace("ap", "AP")]
            assert cell.split("\n")[0] == f"{record.others[name].difference:+.2f}"


def test_a_click_sorts_and_the_address_keeps_it(browser, page_file):
    with shown(browser, page_file, "#tables-tab") as page:
        before = column(page, "thresholds", 1)
        page.click("#thresholds thead th:nth-child(2) button")
        numbers = [float(text) for text in column(page, "thresholds", 1)]
        assert numbers == sorted(numbers, reverse=True) and sorted(map(str, before)) != []
        page.click("#thresholds thead th:nth-child(2) button")
        assert [float(text) for text in column(page, "thresholds", 1)] == sorted(numbers)
        assert page.get_attribute("#thresholds thead th:nth-child(2)", "aria-sort") == "ascending"
        address = page.evaluate("location.hash")
    with shown(browser, page_file, address) as page:
        assert [float(text) for text in column(page, "thresholds", 1)] == sorted(numbers)
        assert page.is_visible("#thresholds") and not page.is_visible("#verdicts")


def test_rows_and_arms_are_filtered_everywhere(browser, page_file):
    with shown(browser, page_file) as page:
        page.fill("#filter", "DIC")
        rows = page.locator("#verdicts tbody tr:visible")
        assert [row.split()[0] for row in rows.all_inner_texts()] == ["bce", "dice"]
        page.fill("#filter", "")
        mark = page.locator('#forest [data-arm="1"]').last  # its words: a line has no height
        assert mark.is_visible()
        page.click("#arms summary")
        page.uncheck('#arms input[value="1"]')
        assert not mark.is_visible()
        assert page.locator("#verdicts tbody tr:visible").count() == 2
        address = page.evaluate("location.hash")
    with shown(browser, page_file, address) as page:
        assert page.locator("#verdicts tbody tr:visible").count() == 2
        page.click('#tabs a[href="#errors-tab"]')
        bands = page.locator("#ap_by_iou [data-arm]")
        hidden = [band.get_attribute("data-arm") for band in bands.all() if not band.is_visible()]
        assert set(hidden) == {"1"}


def test_a_link_opens_its_place(browser, page_file):
    with shown(browser, page_file, "#reliability") as page:
        assert page.is_visible("#reliability") and not page.is_visible("#forest")
        assert page.inner_text("#tabs a[aria-current]") == "Errors"
        page.click('#tabs a[href="#training-tab"]')
        assert page.is_visible("#curves") and page.evaluate("location.hash") == "#training-tab"
        page.go_back()
        assert page.is_visible("#reliability")


def test_a_dot_tells_its_run(browser, page_file):
    with shown(browser, page_file, "#seeds") as page:
        page.hover('#seeds [data-arm="1"][data-seed="2"]')
        said = page.inner_text("#tip")
        assert said.startswith("dice, seed 2") and "--run dice/seed2-" in said
        run = next(r for r in json.loads(page.inner_text("#data"))["runs"] if r["name"] in said)
        assert f"mask_ap {run['metrics']['mask_ap']:.2f}" in said
        assert page.locator("#tip svg polyline").count() == 2
        page.keyboard.press("Escape")
        assert not page.is_visible("#tip")


@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_narrow(browser, page_file, width, dark):
    with shown(browser, page_file, width=width, dark=dark) as page:
        paper = COLOURS["paper"][dark]
        rgb = f"rgb({int(paper[1:3], 16)}, {int(paper[3:5], 16)}, {int(paper[5:], 16)})"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == rgb
        for tab in page.locator("#tabs a").all():
            tab.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != rgb


def test_the_first_column_stays(browser, page_file):
    with shown(browser, page_file, "#thresholds", width=500) as page:
        page.evaluate("document.querySelector('#thresholds .scroll').scrollLeft = 300")
        box = page.locator("#thresholds tbody th").first.bounding_box()
        assert 0 <= box["x"] < 40


def test_names_that_would_be_code_are_text(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = ["bce", {"label": EVIL, "loss.mask": "dice"}, {"label": "$x^2$", "loss.mask": "mse"}]
    content = {**STUDY, "description": SCRIPT, "arms": arms, "seeds": 3}
    skills = {"bce": 0, EVIL: -1, "$x^2$": 0}
    folder = make_study(tmp_path / "runs", content, skills, images=10)
    assert run_report(folder) == 0
    with shown(browser, folder / "report" / "report.html") as page:
        assert SCRIPT in page.inner_text("header") and EVIL in page.inner_text("#verdicts")
        assert "$x^2$" in page.inner_text("#forest")
        page.hover('#seeds [data-arm="1"][data-seed="0"]')
        for tab in page.locator("#tabs a").all():
            tab.click()
        assert page.locator('img[src="x"]').count() == 0


@pytest.fixture(scope="module")
def with_pictures(tmp_path_factory):
    """A study whose runs are evaluations of what was drawn beside the ground truth, so that records
    and masks are of one evaluation."""
    root = tmp_path_factory.mktemp("pictures")
    tiny.write_dataset(root, train=1, val=8)
    data = shapes(root)
    content = {**STUDY, "arms": ["bce", "dice"], "settings": data}
    folder = make_study(root / "runs", content, {"bce": 0, "dice": -1}, images=8, pictures=True)
    truth = json.loads((root / "val.json").read_text())
    for run in folder.glob("*/seed*"):
        evaluated(run, truth)
    assert run_report(folder, "--images", "3") == 0
    return folder / "report" / "report.html"


def test_an_image_opens_with_its_verdicts(browser, with_pictures):
    with shown(browser, with_pictures, "#images-tab") as page:
        data = json.loads(page.inner_text("#data"))
        pair = data["images"]["pairs"][0]
        tiles = page.locator("#sheet .tile")
        assert tiles.count() == len(pair["list"])
        changes = [change for _, change, _ in pair["list"]]
        assert f"{abs(max(changes)):.3f}" in tiles.first.inner_text()
        tiles.first.click()
        panels = page.locator("#viewer svg.photo")
        assert panels.count() == 3 and "3 seeds" in tiles.first.inner_text()
        number = tiles.first.get_attribute("data-image")
        image = data["images"]["images"][number]
        run = next(i for i, r in enumerate(data["runs"]) if (r["arm"], r["seed"]) == (1, 0))
        seen = image["runs"][str(run)]
        buttons = page.locator("#viewer ul").last.locator("button")
        assert buttons.count() == len(seen["found"]) + len(seen["missed"])
        for one, text in zip(seen["found"], buttons.all_inner_texts()):
            assert f"{one['kind']}, IoU {one['iou']:.2f}" in text
        whole = panels.first.get_attribute("viewBox")
        page.locator("#viewer ul").first.locator("button").first.click()
        assert panels.first.get_attribute("viewBox") != whole
        address = page.evaluate("location.hash")
    with shown(browser, with_pictures, address, width=500, dark=True) as page:
        assert page.locator("#viewer svg.photo").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 500
        page.select_option("#images-kind", "missed")
        kept = page.locator("#sheet .tile").count()
        images = [data["images"]["images"][str(i)] for i, _, _ in pair["list"]]
        missing = [image for image in images if any(r["missed"] for r in image["runs"].values())]
        assert kept == len(missing)


def test_images_are_filtered_and_ordered(browser, with_pictures):
    with shown(browser, with_pictures, "#images-tab") as page:
        images = json.loads(page.inner_text("#data"))["images"]
        pair = images["pairs"][0]
        shown_now = lambda: [  # noqa: E731
            int(one.get_attribute("data-image")) for one in page.locator("#sheet .tile").all()
        ]
        area = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e9)}

        def wanted(has):
            return {i for i, _, _ in pair["list"] if has(images["images"][str(i)])}

        for number in range(len(images["classes"])):
            page.select_option("#images-class", str(number))
            has = lambda one: any(t["label"] == number for t in one["truth"])  # noqa: E731, B023
            assert set(shown_now()) == wanted(has)
        page.select_option("#images-class", "")
        for size, (low, high) in area.items():
            page.select_option("#images-size", size)
            has = lambda one: any(low <= t["area"] < high for t in one["truth"])  # noqa: E731, B023
            assert set(shown_now()) == wanted(has)
        page.select_option("#images-size", "")
        for count in range(5):
            page.select_option("#images-count", str(count))
            has = lambda one: min(4, len(one["truth"])) == count  # noqa: E731, B023
            assert set(shown_now()) == wanted(has)
        page.select_option("#images-count", "")
        changes = {image: change for image, change, _ in pair["list"]}
        for order, down in (("worse", False), ("better", True)):
            page.select_option("#images-order", order)
            values = [changes[image] for image in shown_now()]
            assert values == sorted(values, reverse=down) and len(values) == len(pair["list"])


def test_kept_masks_make_the_same_pictures(with_pictures, tmp_path, monkeypatch):
    """The compact file has every mask that is shown, run for run."""
    monkeypatch.chdir(tmp_path)
    folder = with_pictures.parents[1]
    kept = tmp_path / "studies" / folder.name
    assert run_report(folder, "--keep", str(kept), "--images", "3") == 0
    assert run_report(kept, "--out", "again", "--images", "3") == 0
    old, new = (
        json.loads(re.search(r'id="data">(.*?)</script>', file.read_text())[1])["images"]
        for file in (with_pictures, tmp_path / "again" / "report.html")
    )
    assert old == new and len(old["images"]) > 2
