"""Training on two machines: two network namespaces, which share nothing but files and a cable."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from data.resolve import dump_yaml
from yolact.testing.tiny import config, write_dataset

ROOT = Path(__file__).parents[3]
ADDRESS = "10.213.77.{}"
PATIENCE = 400  # seconds for what takes a few on an idle machine


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes():
    """Names of two namespaces and of the link in each; skipped where they are not allowed."""
    names = [f"yolact{os.getpid()}{letter}" for letter in "ab"]
    links = [f"yl{os.getpid() % 10**6}{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for number, (name, link) in enumerate(zip(names, links, strict=True), 1):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"{ADDRESS.format(number)}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, links, strict=True))
    except FileNotFoundError:
        pytest.skip("there is no program ip (package iproute2)")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    finally:
        for name in names:  # their links go with them
            lose(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def lose(name):
    """Kills every process of a node: those that torchrun starts have sessions of their own."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for pid in map(int, listed.stdout.split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start(nodes, rank, port, words):
    """torchrun on one node."""
    name, link = nodes[rank]
    launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    launcher += [f"--node_rank={rank}", f"--master_addr={ADDRESS.format(1)}"]
    launcher += [f"--master_port={port}", "-m", "yolact", "train", *map(str, words)]
    return subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, *launcher],
        cwd=ROOT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": link, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(there, processes):
    end = time.monotonic() + PATIENCE
    while not there():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, ended[0].communicate()[0][-2000:]
        assert time.monotonic() < end
        time.sleep(0.1)


def step_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["step"]


def test_a_lost_node_ends_the_training_in_a_line_and_both_go_on_from_the_checkpoint(
    tmp_path, nodes
):
    cfg = config(write_dataset(tmp_path), iterations=5000, save_every=4)
    (tmp_path / "cfg.yaml").write_text(dump_yaml(cfg))
    run, port = tmp_path / "run", 29500
    words = ["--device=cpu", f"--config={tmp_path / 'cfg.yaml'}", f"--run_dir={run}"]
    both = [start(nodes, rank, port, words) for rank in range(2)]
    last = run / "weights" / "last.pth"
    wait_for(last.exists, both)
    lose(nodes[1][0])
    said = both[0].communicate(timeout=PATIENCE)[0]
    both[1].communicate()
    assert both[0].returncode != 0
    assert "another process of this training has ended or no longer answers" in said
    assert f"--resume={run}" in said  # torchrun adds a traceback of its own
    reached = max(map(step_of, (run / "weights").glob("*.pth")))
    end = reached + 2
    again = ["--device=cpu", f"--resume={run}", f"train.iterations={end}"]
    both = [start(nodes, rank, port + 1, again) for rank in range(2)]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert step_of(last) == end
    env = json.loads((run / "env.json").read_text())
    assert env["world_size"] == 2 and env["resumed"][0]["step"] == reached
