"""A study on SLURM. What is submitted is tested with a made-up cluster; a real one of one node is
started, by root, where Debian's slurm-wlm and munge are installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.resolve import dump_yaml
from tests.yolact.study.train.stubbed import wait_for
from yolact.engine.train import train
from yolact.study.arms import arms_of, runs_of
from yolact.study.folder.reading import read_metrics
from yolact.study.plan import load_study
from yolact.study.train import slurm as sweep_slurm
from yolact.study.train.stages import plan_of
from yolact.study.train.status import table
from yolact.testing import tiny

ROOT = Path(__file__).parents[4]
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
    absent = [
        name
        for name in PROGRAMS
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
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
    config.write_text(
        CONFIG.format(
            host=host, folder=folder, cpus=os.cpu_count(), ports=(free_port(), free_port())
        )
    )
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    monkeypatch.setenv("SLURM_CONF", str(config))
    munge = {
        "key-file": key,
        "socket": folder / "munge.socket",
        "pid-file": folder / "munged.pid",
        "log-file": folder / "munged.log",
        "seed-file": folder / "munge.seed",
    }
    subprocess.run(
        ["munged", "--force", *(f"--{name}={value}" for name, value in munge.items())], check=True
    )
    try:
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd"], check=True)
        wait_for(lambda: "idle" in query("sinfo", "--noheader", "--format=%t"), every=0.2)
        yield folder
    finally:
        for job in query("squeue", "--noheader", "--format=%A").split():
            subprocess.run(["scancel", job])
        wait_for(lambda: not query("squeue", "--noheader"), 60, every=0.2)
        for name in ("slurmd", "slurmctld", "munged"):
            pid_file = folder / f"{name}.pid"
            if pid_file.exists() and pid_file.read_text().strip():
                os.kill(int(pid_file.read_text()), 15)
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


def query(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout


class Cluster:
    """submitit, squeue and scancel, as far as a submission uses them. jobs: {id: (its run, its
    parameters)}"""

    def __init__(self):
        self.jobs, self.live, self.cancelled = {}, set(), []
        self.core = SimpleNamespace(utils=SimpleNamespace(FailedJobError=RuntimeError))

    def SlurmExecutor(self, folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        parameters = {}

        def submit(job):
            number = str(100 + len(self.jobs))
            self.jobs[number] = (job.command[0], dict(parameters))
            self.live.add(number)
            return SimpleNamespace(job_id=number)

        return SimpleNamespace(
            update_parameters=lambda **given: parameters.update(given),
            submit=submit,
            batch=nullcontext,
        )

    def run(self, words, **_):
        if words[0] == "scancel":
            self.cancelled += words[1:]
            self.live -= set(words[1:])
        return SimpleNamespace(stdout="".join(f"{job}_N/A {job} PENDING\n" for job in self.live))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """(the cluster, a study of two runs with a shared start)"""
    made = Cluster()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", made)
    monkeypatch.setattr(sweep_slurm.subprocess, "run", made.run)
    Path("s.yaml").write_text(
        "base: quickstart\narms: [bce, dice]\nbaseline: bce\nseeds: 1\nbudget: 6\ninit_from: "
        "{iterations: 3}\n"
    )
    return made, load_study("s.yaml")


def send(study):
    said = []
    assert (
        sweep_slurm.submit(
            plan_of(study, Path("runs")), lambda run: [run.name], "partition=gpu", said.append
        )
        == 0
    )
    return said


def test_runs_wait_for_the_start_and_end_with_it(fake):
    cluster, study = fake
    send(study)
    (start, alone), *rest = cluster.jobs.values()
    assert (
        start.startswith("_init/")
        and "dependency" not in alone
        and [name.split("/")[0] for name, _ in rest] == ["bce", "dice"]
    )
    assert all(
        p["dependency"] == "afterok:100"
        and p["additional_parameters"] == {"kill_on_invalid_dep": "yes"}
        for _, p in rest
    )
    assert (
        send(study) == ["nothing to submit: every run is done or in the queue"]
        and not cluster.cancelled
    )


def test_a_lost_start_is_submitted_again_with_all_that_wait_for_it(fake):
    cluster, study = fake
    send(study)
    cluster.live.discard("100")
    assert send(study)[0].startswith("cancelled    2 jobs that waited for _init/seed0-")
    assert sorted(cluster.cancelled) == ["101", "102"] and cluster.live == {"103", "104", "105"}
    assert cluster.jobs["103"][0] == cluster.jobs["100"][0]
    assert {cluster.jobs[job][1]["dependency"] for job in ("104", "105")} == {"afterok:103"}
    cluster.live.discard("104")
    assert len(send(study)) == 2 and cluster.jobs["106"] == cluster.jobs["104"], (
        "one that was lost by itself goes alone"
    )
    assert len(cluster.cancelled) == 2


def test_what_shares_a_training_waits_for_it(fake):
    cluster, _ = fake
    text = Path("s.yaml").read_text()
    Path("s.yaml").write_text(
        text.replace("dice", "{label: fine, loss.mask: bce, eval.masks: published}, dice")
    )
    study = load_study("s.yaml")
    send(study)
    names = [(name.split("/")[0], p.get("dependency")) for name, p in cluster.jobs.values()]
    first = [("_init", None), ("bce", "afterok:100"), ("dice", "afterok:100")]
    assert names == [*first, ("fine", "afterok:101")]
    assert cluster.jobs["103"][1]["additional_parameters"] == {"kill_on_invalid_dep": "yes"}
    assert send(study) == ["nothing to submit: every run is done or in the queue"]
    cluster.live.discard("101")
    assert send(study)[0].startswith("cancelled    1 jobs that waited for bce/seed0-")
    assert cluster.cancelled == ["103"] and cluster.jobs["105"][1]["dependency"] == "afterok:104"


def test_runs_wait_for_the_start_of_their_seed(fake):
    cluster, study = fake
    init = study.init_from.model_copy(update={"per_seed": True})
    study = study.model_copy(update={"seeds": (0, 1), "init_from": init})
    send(study)
    assert [(name[:10], p.get("dependency")) for name, p in cluster.jobs.values()] == [
        ("_init/seed", None),
        ("bce/seed0-", "afterok:100"),
        ("dice/seed0", "afterok:100"),
        ("_init/seed", None),
        ("bce/seed1-", "afterok:103"),
        ("dice/seed1", "afterok:103"),
    ]
    assert send(study) == ["nothing to submit: every run is done or in the queue"]
    cluster.live.discard("103")
    assert send(study)[0].startswith("cancelled    2 jobs that waited for _init/seed1-")
    assert sorted(cluster.cancelled) == ["104", "105"], "what waits for another start stays"
    assert {cluster.jobs[job][1]["dependency"] for job in ("107", "108")} == {"afterok:106"}


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_study_on_slurm_survives_a_requeue_and_equals_a_local_one(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = tiny.write_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(dump_yaml(tiny.config(data, save_every=10, log_every=1)))
    (tmp_path / "s.yaml").write_text(
        "base: base.yaml\narms: [bce, dice]\nbaseline: bce\nseeds: 2\nbudget: 150\n"
    )
    study = load_study("s.yaml")
    runs, root = runs_of(study, arms_of(study)), Path("runs")
    words = [
        sys.executable,
        str(ROOT / "scripts" / "sweep.py"),
        "s.yaml",
        "--device=cpu",
        "--slurm",
        "--sbatch",
        "cpus_per_task=1 time=30",
    ]
    sent = subprocess.run(words, capture_output=True, text=True)
    assert sent.stdout.count("submitted   ") == 4, sent.stderr
    again = subprocess.run(words, capture_output=True, text=True)
    assert "nothing to submit" in again.stdout, "what is in the queue is not sent twice"

    job = sent.stdout.split(f"submitted    {runs[0].name} as job ")[1].split()[0]
    wait_for(lambda: (root / runs[0].folder / "weights" / "last.pth").exists(), 300, every=0.2)
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_for(lambda: not query("squeue", "--noheader"), 300, every=0.2)

    log = (root / runs[0].folder / "log.txt").read_text()
    assert log.count("$ ") == 2 and "--resume" in log, (
        "the requeued job went on where the killed one had saved"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            train(run.config, run_dir=Path("local") / run.folder, device="cpu")
    finally:
        torch.set_num_threads(threads)
    assert table(root, runs, "mask_ap") == table(
        Path("local"), runs, "mask_ap"
    ) and "4 done" in table(root, runs, "mask_ap")
    for run in runs:
        losses = [
            [record.get("loss") for record in read_metrics(place / run.folder)]
            for place in (root, Path("local"))
        ]
        assert losses[0] == losses[1] and len(losses[0]) == 151
