"""The digests of code: they follow what computes, and nothing else."""

import json

import pytest
import torch

from yolact import provenance
from yolact.engine.log import environment, write_run_files
from yolact.engine.rundir import RunDir
from yolact.provenance import (
    changed_parts,
    code_digest,
    code_only,
    code_parts,
    plugin_digests,
)
from yolact.testing import tiny

FILES = (
    "layers/losses/a.py",
    "yolact/engine/b.py",
    "yolact/study/s.py",
    "data/c.py",
    "data/config.py",
    "data/doctor/__init__.py",
    "data/doctor/d.py",
    "data/set/d.py",
    "scripts/e.py",
    "layers/note.txt",
)
COMPUTES = ("layers/losses/a.py", "yolact/engine/b.py", "data/c.py")


def digest(root):
    for cached in (code_digest, code_parts, provenance._modules):
        cached.cache_clear()
    return code_digest(root), code_parts(root)


def test_it_follows_what_trains_and_nothing_else(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    first, parts = digest(tmp_path)
    for name in set(FILES) - set(COMPUTES):
        (tmp_path / name).write_text("x = 2\n")
    assert digest(tmp_path) == (first, parts)
    found = {first}
    for name in COMPUTES:
        (tmp_path / name).write_text("x = 2\n")
        found.add(digest(tmp_path)[0])
    assert changed_parts(parts, digest(tmp_path)[1]) == "data, layers/losses, yolact/engine"
    (tmp_path / "data/c.py").rename(tmp_path / "data/f.py")
    assert len({*found, digest(tmp_path)[0]}) == 5


TEXT = b"X = '''\n# of a string\n\n'''\n"
PLAIN = b"import a\n" + TEXT + b"def f(a):\n    return a  # kept\n"
WRITTEN = (
    b'"""What it is.\n\n# no comment\n"""\nimport a\n# a comment\n\n'
    + TEXT
    + b'\n\ndef f(a):\n    """What it does."""\n\n    return a  # kept\n'
)


def test_words_about_code_do_not_count():
    assert code_only(WRITTEN) == code_only(PLAIN)
    for old, new in ((b"# of a string", b"# of the string"), (b"return a", b"return -a")):
        assert code_only(WRITTEN.replace(old, new)) != code_only(PLAIN)
    assert code_only(b"def f(:") == b"def f(:"


@pytest.mark.parametrize("change", ["loss.py", "helper.py", "pack/deep.py"])
def test_a_plugin_counts_with_what_it_imports_from_beside_it(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss.py").write_text("import math\nfrom helper import k\nimport pack.deep\n")
    (tmp_path / "helper.py").write_text("k = 2\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("")
    (tmp_path / "pack/deep.py").write_text("k = 2\n")
    first = plugin_digests(["loss.py"])
    file = tmp_path / change
    file.write_text("# a comment\n" + file.read_text())
    assert plugin_digests(["loss.py"]) == first
    file.write_text(file.read_text() + "k = 3\n")
    assert plugin_digests(["loss.py"]) != first


def test_plugins_that_are_modules_or_missing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_pack_of_losses").mkdir()
    (tmp_path / "my_pack_of_losses/__init__.py").write_text("from . import one\n")
    (tmp_path / "my_pack_of_losses/one.py").write_text("k = 2\n")
    first = plugin_digests(["my_pack_of_losses", "gone.py", "no_such_module.x"])
    assert first["gone.py"] == first["no_such_module.x"] == "missing"
    (tmp_path / "my_pack_of_losses/one.py").write_text("k = 3\n")
    assert plugin_digests(["my_pack_of_losses"])["my_pack_of_losses"] != first["my_pack_of_losses"]


def test_a_run_records_them_and_says_what_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss.py").write_text("k = 2\n")
    cfg, cpu = tiny.config(loss={"plugins": ["loss.py"]}), torch.device("cpu")
    env = environment(cfg, cpu, 1)
    assert env["code"] == code_digest() and env["parts"]["layers/losses"]
    assert env["plugins"] == plugin_digests(["loss.py"])
    assert "plugins" not in environment(tiny.config(), cpu, 1)
    run = RunDir(tmp_path / "run").make()
    assert write_run_files(run, cfg, cpu, 1, None) == write_run_files(run, cfg, cpu, 1, 1) == []
    (tmp_path / "loss.py").write_text("k = 3\n")
    path = run.path / "env.json"
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "code": "0", "parts": {**first["parts"], "data": "0"}}))
    code, plugin = write_run_files(run, cfg, cpu, 1, 2)
    assert "the code has changed since this run began, in data:" in code
    assert plugin == "note: loss.plugins=loss.py has changed since this run began"
    path.write_text("{")
    assert write_run_files(run, cfg, cpu, 1, 3) == []
