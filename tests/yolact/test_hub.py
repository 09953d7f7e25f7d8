"""Official weights by name, out of a fake cache: the live hub is never asked."""

import hashlib
import importlib
import json
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from data.resolve import load_config
from yolact import hub
from yolact.build import build_model
from yolact.commands.predict import program
from yolact.engine import state
from yolact.engine.load import find_weights
from yolact.engine.state import build_state
from yolact.files import write_whole
from yolact.hub import OFFICIAL, hub_weights, record_file

NAME = "yolact_resnet50"
CPU = torch.device("cpu")


class Hub:
    """Stands for huggingface_hub: `files` are those of the hub, `cache` those fetched."""

    def __init__(self, folder):
        self.folder, self.files, self.cache, self.asked = folder, {}, {}, []

    def hf_hub_download(self, repo_id, filename, *, local_files_only=False):
        key = f"{repo_id}/{filename}"
        if key in self.cache:
            return str(self.cache[key])
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        self.asked.append(key)
        if key not in self.files:
            raise ConnectionError("[Errno -2] Name or service not known\nsecond line")
        path = self.folder / filename
        path.write_bytes(self.files[key])
        self.cache[key] = path
        return str(path)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = Hub(tmp_path)
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = made.hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def key_of(name):
    return f"{OFFICIAL[name].repository}/{OFFICIAL[name].file}"


def test_every_name_is_a_config_and_its_file_says_so():
    for name, known in OFFICIAL.items():
        assert load_config(name, check_names=False).name == name
        assert known.file.startswith(f"{name}_54") and "_" not in known.repository


def test_it_is_fetched_once_recorded_and_checked_after(fake):
    fake.files[key_of(NAME)] = b"weights"
    path = hub_weights(f"hub:{NAME}")
    assert path.read_bytes() == b"weights" and fake.asked == [key_of(NAME)]
    recorded = json.loads(record_file().read_text())
    assert recorded == {key_of(NAME): hashlib.sha256(b"weights").hexdigest()}
    assert hub_weights(f"hub:{NAME}") == path and len(fake.asked) == 1
    path.write_bytes(b"others")
    with pytest.raises(ValueError, match="was expected .recorded in .*: delete the file") as told:
        hub_weights(f"hub:{NAME}")
    assert "\n" not in str(told.value)
    record_file().write_text("{")
    with pytest.raises(ValueError, match="hub.json is damaged"):
        hub_weights(f"hub:{NAME}")


def test_names_that_are_fetched_at_once_are_all_recorded(fake, monkeypatch):
    """Each reads, adds its line and writes: another's would be lost without a lock."""

    def slow(*args):
        time.sleep(0.05)
        write_whole(*args)

    monkeypatch.setattr(hub, "write_whole", slow)
    for name in OFFICIAL:
        fake.files[key_of(name)] = name.encode()
    with ThreadPoolExecutor(len(OFFICIAL)) as pool:
        assert len(set(pool.map(hub_weights, [f"hub:{name}" for name in OFFICIAL]))) == 6
    recorded = json.loads(record_file().read_text())
    assert recorded == {key_of(n): hashlib.sha256(n.encode()).hexdigest() for n in OFFICIAL}


def test_other_processes_of_a_training_ask_after_the_first(fake, monkeypatch):
    asked = []
    monkeypatch.setattr(state, "hub_weights", lambda text: asked.append("own") or Path(text))
    monkeypatch.setattr(
        state.distributed, "first_run_by_main", lambda _: asked.append("first") or Path("theirs")
    )
    monkeypatch.setattr(state.distributed, "is_main", lambda: False)
    assert state._fetched("hub:a") == "hub:a" and asked == ["first", "own"]
    monkeypatch.setattr(state.distributed, "is_main", lambda: True)
    assert state._fetched("hub:a") == "theirs" and asked[2:] == ["first"]


def test_a_published_checksum_is_kept_to(fake, monkeypatch):
    fake.files[key_of(NAME)] = b"weights"
    one = hub.HubFile(OFFICIAL[NAME].repository, OFFICIAL[NAME].file, "0" * 64)
    monkeypatch.setitem(OFFICIAL, NAME, one)
    with pytest.raises(ValueError, match="000000000000... was expected: delete"):
        hub_weights(f"hub:{NAME}")
    assert not record_file().exists()


def test_offline_says_what_to_do(fake, capsys):
    (fake.folder / "photo.jpg").write_bytes(b"")
    assert program([f"hub:{NAME}", str(fake.folder / "photo.jpg")]) == 2
    message = capsys.readouterr().err
    assert "Name or service not known" in message and message.count("\n") == 1
    assert OFFICIAL[NAME].file in message and "name its path" in message


def test_a_wrong_name_and_a_missing_package(fake, monkeypatch):
    with pytest.raises(ValueError, match="did you mean yolact_resnet50"):
        hub_weights("hub:yolact_resnet5")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install .*\[hub\]"):
        hub_weights(f"hub:{NAME}")


def test_a_model_and_a_training_start_from_it(fake, tmp_path):
    small = ["model.max_size=64", "train.num_workers=0", "train.autoscale=false"]
    cfg = load_config(NAME, [*small, "train.seed=7"], check_names=False)
    torch.save(build_model(cfg).state_dict(), tmp_path / "made.pth")
    fake.files[key_of(NAME)] = (tmp_path / "made.pth").read_bytes()
    (tmp_path / "made.pth").unlink()
    assert find_weights(f"hub:{NAME}") == Path(fake.cache[key_of(NAME)])
    start = [f"train.init_from=hub:{NAME}", "data.class_names=[screw]", "model.pretrained=none"]
    made, notes = build_state(load_config(NAME, [*small, *start], check_names=False), CPU, None)
    assert any("hub:yolact_resnet50: loaded" in line for line in notes), notes
    theirs = torch.load(fake.cache[key_of(NAME)], weights_only=True)
    assert torch.equal(
        made.model.state_dict()["fpn.lat_layers.0.weight"], theirs["fpn.lat_layers.0.weight"]
    )


def test_the_real_package_reads_its_cache_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    constants = importlib.import_module("huggingface_hub.constants")
    known = OFFICIAL[NAME]
    folder = tmp_path / f"models--{known.repository.replace('/', '--')}"
    revision = "a" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "snapshots" / revision / known.file).write_bytes(b"weights")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert hub_weights(f"hub:{NAME}").read_bytes() == b"weights"
    with pytest.raises(ValueError, match="not in the cache"):
        hub_weights("hub:yolact_base")
