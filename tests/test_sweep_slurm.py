"""A study on SLURM: a cluster of one node is started here, by root, where Debian's slurm-wlm and munge are installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from data.arms import expand, runs_of
from data.resolve import dump_yaml
from data.study import load_study
from scripts.sweep_state import read_metrics
from scripts.sweep_table import table
from tests.engine import tiny
from yolact.engine.train import train

ROOT = Path(__file__).parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=3
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)"
    if os.getuid() != 0:
        return "starting slurmctld, slurmd and munged takes root"
    try:
        import submitit  # noqa: F401
    except ImportError:
        return "submitit is not installed (the extra `slurm`)"
    return ""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """SLURM with one node, this machine; its daemons are ended by their own pid files."""
    folder = Path("/tmp") / f"slurm-{os.getpid()}"  # a socket's path must be short
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    config.write_text(CONFIG.format(host=host, folder=folder, cpus=os.cpu_count(), ports=(free_port(), free_port())))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    monkeypatch.setenv("SLURM_CONF", str(config))
    munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid", "log-file": folder / "munged.log",
             "seed-file": folder / "munge.seed"}
    subprocess.run(["munged", "--force", *(f"--{name}={value}" for name, value in munge.items())], check=True)
    try:
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd"], check=True)
        wait_for(lambda: "idle" in query("sinfo", "--noheader", "--format=%t"))
        yield folder
    finally:
        for job in query("squeue", "--noheader", "--format=%A").split():
            subprocess.run(["scancel", job])
        wait_for(lambda: not query("squeue", "--noheader"), 60)
        for name in ("slurmd", "slurmctld", "munged"):
            pid_file = folder / f"{name}.pid"
            if pid_file.exists() and pid_file.read_text().strip():
                os.kill(int(pid_file.read_text()), 15)
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


def query(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_study_on_slurm_survives_a_requeue_and_equals_a_local_one(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = tiny.write_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(dump_yaml(tiny.config(data, save_every=10, log_every=1)))
    (tmp_path / "s.yaml").write_text("base: base.yaml\narms: [bce, dice]\nbaseline: bce\nseeds: 2\nbudget: 150\n")
    study = load_study("s.yaml")
    runs, root = runs_of(study, expand(study)), Path("runs")
    words = [sys.executable, str(ROOT / "scripts" / "sweep.py"), "s.yaml", "--device=cpu", "--slurm", "--sbatch", "cpus_per_task=1 time=30"]
    sent = subprocess.run(words, capture_output=True, text=True)
    assert sent.stdout.count("submitted   ") == 4, sent.stderr
    again = subprocess.run(words, capture_output=True, text=True)
    assert "nothing to submit" in again.stdout, "what is in the queue is not sent twice"

    job = sent.stdout.split(f"submitted    {runs[0].name} as job ")[1].split()[0]
    wait_for(lambda: (root / runs[0].folder / "weights" / "last.pth").exists())
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_for(lambda: not query("squeue", "--noheader"))

    log = (root / runs[0].folder / "log.txt").read_text()
    assert log.count("$ ") == 2 and "--resume" in log, "the requeued job went on where the killed one had saved"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            train(run.config, run_dir=Path("local") / run.folder, device="cpu")
    finally:
        torch.set_num_threads(threads)
    assert table(root, runs, "mask_ap") == table(Path("local"), runs, "mask_ap") and "4 done" in table(root, runs, "mask_ap")
    for run in runs:
        losses = [[record.get("loss") for record in read_metrics(place / run.folder)] for place in (root, Path("local"))]
        assert losses[0] == losses[1] and len(losses[0]) == 151
