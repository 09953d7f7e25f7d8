"""What the pages name exists: links, pictures, paths and programs."""

import pydoc
import re
from pathlib import Path

import pytest

from data.resolve import list_configs
from yolact.commands import COMMANDS

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
# What the reader makes or fetches: data sets, runs, and files that the page tells them to write.
IMPORTED = {f"sets/{name}/config.yaml" for name in ("screws", "labelme", "yolo")}
MADE_HERE = ("data/cig_butts", "data/screws", "docs/api/")


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
    for program in re.findall(r"python ((?:\w+/)*\w+\.py)", text(page)):
        assert (ROOT / program).is_file(), f"python {program}: no such program"
    for command in re.findall(r"(?:^|`)yolact ([a-z][\w-]*)", text(page), re.MULTILINE):
        assert command in COMMANDS, f"yolact {command}: no such command"


@EVERY_PAGE
def test_configs_that_are_named_exist(page):
    named = re.findall(r"--config[= ]([\w/.,]+)", text(page))
    for config in (name for group in named for name in group.split(",")):
        assert config in {*list_configs(), "screws", "NAME", *IMPORTED}, (
            f"--config {config}: no such config"
        )


def test_the_readme_runs_the_quickstart_and_then_the_tests():
    """The two blocks marked bash, which are run word for word elsewhere."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert "pip install -e ." in blocks[0] and "scripts/quickstart.py" in blocks[0]
    assert "pip install -e" in blocks[1] and "pytest -q -n 2" in blocks[1]


@EVERY_PAGE
def test_names_of_the_code_that_are_named_exist(page):
    for dotted in set(re.findall(r"`(?:help\()?((?:yolact|layers)(?:\.\w+)+)", text(page))):
        if not dotted.endswith(".py"):
            assert pydoc.locate(dotted), f"{dotted}: no such name"


@pytest.mark.parametrize("page", ["README.md", "docs/guide/own_data.md"])
def test_a_data_set_of_your_own_is_added_as_the_page_says(page, monkeypatch):
    from data import config

    monkeypatch.setattr(config, "DATASETS", dict(config.DATASETS))
    monkeypatch.setattr(config, "CONFIGS", dict(config.CONFIGS))
    blocks = re.findall(r"^```python\n(.*?)^```", text(ROOT / page), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "DATASETS" in block]
    exec(block, vars(config))
    made = config.CONFIGS["screws"]
    assert made["train.iterations"] == 5000 and "screws" in config.DATASETS
