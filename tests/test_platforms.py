"""What other platforms lack: fcntl, resource and SIGCHLD on Windows, a safe fork on macOS."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import data.loader
import data.locking
from data.locking import let_go, lock
from data.workers import deaths_held
from yolact.locking import RunLock
from yolact.testing import tiny

ROOT = Path(__file__).parents[1]
WITHOUT = """
import importlib, os, pkgutil, signal, sys
import cv2, matplotlib.pyplot, numpy, pycocotools.mask, scipy.ndimage, torch, torchvision, tqdm
import torch.utils.data, torch.utils.tensorboard
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("SIGCHLD", "SIGKILL", "SIGCONT", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGHUP"):
    delattr(signal, name)
for name in ("uname", "getuid", "sched_getaffinity", "setpgid", "fork"):
    delattr(os, name)
import layers, data, yolact
failed = []
for package in (layers, data, yolact):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                if error.name not in {OPTIONAL}:
                    failed.append(f"{found.name}: {error}")
            except Exception as error:
                failed.append(f"{found.name}: {error!r}")
sys.exit("\\n".join(failed) or 0)
"""
OPTIONAL = {"onnx", "onnxruntime", "openvino", "optuna", "submitit", "mmcv", "faster_coco_eval"}


def test_every_module_is_imported_without_what_windows_lacks():
    code = WITHOUT.replace("{OPTIONAL}", repr(OPTIONAL))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_deaths_of_workers_are_not_awaited_where_no_signal_tells_them(monkeypatch):
    import signal

    monkeypatch.delattr(signal, "SIGCHLD")
    ran, handlers = False, {number: signal.getsignal(number) for number in signal.valid_signals()}
    with deaths_held():
        ran = True
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert ran


@pytest.fixture
def no_fcntl(monkeypatch):
    pytest.importorskip("filelock")
    monkeypatch.setattr(data.locking, "fcntl", None)


def _opened(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def test_without_fcntl_a_lock_is_held_once_and_let_go(no_fcntl, tmp_path):
    path = tmp_path / "a.lock"
    first, second = _opened(path), _opened(path)
    assert lock(first, path) and not lock(second, path)
    let_go(first)
    assert lock(second, path, wait=True)
    let_go(second)
    assert not data.locking._held


def test_without_fcntl_a_run_is_trained_once(no_fcntl, tmp_path):
    code = (
        "import sys, data.locking; from pathlib import Path; from yolact.locking import RunLock\n"
        "data.locking.fcntl = None\n"
        "try: RunLock().take(Path(sys.argv[1]))\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with RunLock() as held:
        held.take(tmp_path / "run")
        other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert other.returncode == 1
        assert f"being trained by another process (process {os.getpid()} on" in other.stderr
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_loaders_read_in_spawned_processes_too(monkeypatch, tmp_path):
    """As on macOS and Windows."""
    assert data.loader.START == ("fork" if sys.platform == "linux" else "spawn")
    folder = tiny.write_dataset(tmp_path)
    cfg = tiny.config(folder)
    dataset = data.loader.build_dataset(cfg, "val")
    expected = [batch.images for batch in data.loader.eval_loader(cfg, dataset, num_workers=0)]
    monkeypatch.setattr(data.loader, "START", "spawn")
    found = [batch.images for batch in data.loader.eval_loader(cfg, dataset, num_workers=1)]
    assert len(found) == len(expected)
    assert all((a == b).all() for a, b in zip(found, expected))
    assert not multiprocessing.active_children()
