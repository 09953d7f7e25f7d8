"""The wheel, as a user gets it: built, unpacked into an empty folder, and run from another one,
with nothing of this checkout in reach."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("yolact", "layers", "data")
SMALL = [
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=8",
    "train.iterations=3",
    "train.batch_size=2",
    "train.num_workers=0",
    "train.autoscale=false",
]

pytestmark = pytest.mark.skipif(
    find_spec("setuptools") is None or find_spec("pip") is None,
    reason="no wheel can be built: pip or setuptools is missing",
)


def pip(*words):
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools leaves build/ and *.egg-info beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ROOMS:
        shutil.copytree(
            ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / "source" / "data" / "a_data_set" / "images").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip(
        "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder,
        folder / "source",
    )  # fmt: skip
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs yolact from an empty folder; its modules come from the unpacked wheel alone."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    pip("install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def run(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder, run.site = empty, site
    return run


def test_it_holds_every_module_and_no_data_set(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if (path.parent / "__init__.py").exists()
    }
    packaged = {name for name in names if ".dist-info/" not in name}
    templates = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "yolact/study/report/page/templates").iterdir()
    }
    shipped = "yolact/shipped/start.safetensors"
    others = {f"{room}/py.typed" for room in ROOMS} | templates | {shipped}
    assert sources <= packaged and packaged - sources == others
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "yolact = yolact.__main__:console" in zipfile.ZipFile(wheel).read(entry).decode()


def test_training_starts_from_the_weights_that_ship(run):
    run("-c", "from yolact.starting import SHIPPED, load_initial\n"
        "from data.resolve import load_config\nfrom yolact.build import build_model\n"
        "cfg = load_config('yolact_plus_micro')\n"
        "assert load_initial(build_model(cfg), 'start').loaded and SHIPPED.is_file()")  # fmt: skip


def test_quickstart_runs_from_an_empty_folder(run):
    assert run("-c", "import yolact; print(yolact.__file__)").startswith(str(run.site))
    assert "quickstart" in run("-m", "yolact", "--help")
    out = run(
        "-m", "yolact", "quickstart", "--train_images=4", "--val_images=2",
        *SMALL,
    )  # fmt: skip
    assert "3/3" in out
    made = {path.name for path in (run.folder / "runs" / "quickstart" / "1").iterdir()}
    assert {"curves.png", "gallery.jpg", "metrics.jsonl", "weights"} <= made
    assert {path.name for path in run.folder.iterdir()} == {"runs"}
    assert " mask |" in run(
        "-m", "yolact", "eval", "--trained_model=runs/quickstart/1", "--no_bar", "--cuda=False"
    )
