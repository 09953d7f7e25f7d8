"""What the pages name exists: links, pictures, paths and programs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "studies").rglob("*.md"),
        ROOT / "tests/reference/README.md",
    ]
    if (ROOT / "docs/api") not in page.parents or page.name == "README.md"
)
EVERY_PAGE = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(
    r"(?<![\w/.<-])((?:yolact|layers|data|scripts|configs|docs|tests|studies)/[\w./-]*[\w/])"
    r"(?![\w<{*/])"
)
PROGRAM = re.compile(r"python (?:-m )?((?:scripts/)?[a-z_]+\.py|[a-z_.]+)")
# What the reader makes or fetches: data sets, runs, and files that the page tells them to write.
MADE_HERE = ("data/cig_butts", "data/screws", "data/coco", "data/nuclei", "data/sbd", "docs/api/")


def text(page):
    return page.read_text(encoding="utf-8")


def heading_anchors(page):
    """The anchors that headings of a page get, as common renderers make them."""
    return {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text(page).splitlines()
        if line.startswith("#")
    }


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for link in LINK.findall(text(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in heading_anchors(target), f"{link}: no such heading"


@EVERY_PAGE
def test_paths_that_are_named_exist(page):
    named = set(NAMED.findall(LINK.sub("", text(page))))
    missing = {
        name for name in named if not name.startswith(MADE_HERE) and not (ROOT / name).exists()
    }
    assert not missing


@EVERY_PAGE
def test_programs_that_are_named_exist(page):
    for program in PROGRAM.findall(text(page)):
        path = program if program.endswith(".py") else None
        assert path is None or (ROOT / path).is_file(), f"python {program}: no such program"
