"""Two processes with half the batch each against one with the whole."""

import multiprocessing
import os
import socket
import time

import pytest
import torch

from yolact.engine import distributed
from yolact.engine.state import build_state
from yolact.engine.step import Updater, read
from yolact.engine.train import train
from yolact.testing import tiny

CPU = torch.device("cpu")
CASES = {
    "rescoring": dict(
        model={"max_size": 256, "mask_iou_net": True}, loss={"mask": "bce + 0.5*mse"}
    ),
    "accumulate": dict(loss={"masks_to_train": 3}, accumulate=2),
    "focal_ciou": dict(loss={"box": "ciou", "classification": "focal"}),
    "adamw_clipped": dict(optimizer="adamw", clip_grad_norm=1.0),
}
# in the second step rank 1 has no ground truth, in the third nobody
COUNTS = ([3, 1, 2, 1], [2, 4, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two_processes(job, *arguments):
    """job(rank, *arguments) in two forked processes that form a group, as torchrun would start
    them."""
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_enter, args=(rank, port, job, arguments)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def _enter(rank, port, job, arguments):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    job(rank, *arguments)


def run_steps(cfg, rank, world):
    """Steps on this rank's half of every batch -> losses of every step, and the weights."""
    state, _ = build_state(cfg, CPU, None)
    update = Updater(state, cfg, CPU)
    steps = []
    for seed, counts in enumerate(COUNTS):
        whole = tiny.batch(cfg, state.criterion, counts, seed)
        share = tiny.split(whole, world)[rank]
        steps += read([update(tiny.split(share, cfg.train.accumulate))])
    return [(step.losses, step.terms, step.grad_norm) for step in steps], state.model.state_dict()


def _steps_job(rank, cfg, folder):
    with distributed.process_group(CPU):
        torch.save(run_steps(cfg, rank, 2), folder / f"{rank}.pt")


@pytest.mark.parametrize("case", CASES)
def test_two_halves_are_one_whole(case, tmp_path):
    cfg = tiny.config(**CASES[case])
    alone_losses, alone = run_steps(
        cfg.model_copy(update={"train": cfg.train.model_copy(update={"accumulate": 1})}), 0, 1
    )
    in_two_processes(_steps_job, cfg, tmp_path)
    for rank in range(2):
        losses, weights = torch.load(tmp_path / f"{rank}.pt")
        for (found, terms, norm), (expected, expected_terms, expected_norm) in zip(
            losses, alone_losses, strict=True
        ):
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert terms == pytest.approx(expected_terms, rel=1e-6, abs=1e-6)
            assert norm == pytest.approx(expected_norm, rel=1e-5)
        # AdamW divides a gradient by its own size at first: where that is near 0, rounding decides,
        # times the rate of 1e-3
        limit = 1e-5 if cfg.train.optimizer == "adamw" else 1e-6
        assert (
            max((weights[k].double() - alone[k].double()).abs().max().item() for k in alone) < limit
        )
    if case == "rescoring":
        assert alone_losses[0][0]["mask_iou"] > 0


def _bad_job(rank, cfg, folder):
    with distributed.process_group(CPU):
        state, _ = build_state(cfg, CPU, None)
        update = Updater(state, cfg, CPU)
        before = {k: v.clone() for k, v in state.model.state_dict().items()}
        share = tiny.split(tiny.batch(cfg, state.criterion, [1, 1, 1, 1]), 2)[rank]
        images = share.images.float()
        if rank == 1:
            images[0, 0, 0, 0] = float("inf")
        found = read([update([tiny.FakeBatch(images, share.targets, share.image_ids)])])[0]
        same = all(
            torch.equal(before[k], v)
            for k, v in state.model.state_dict().items()
            if v.is_floating_point()
        )
        torch.save((found.problem, same), folder / f"{rank}.pt")


def test_a_bad_step_of_one_rank_is_skipped_and_named_on_all(tmp_path):
    in_two_processes(_bad_job, tiny.config(on_nonfinite="skip"), tmp_path)
    for rank in range(2):
        problem, same = torch.load(tmp_path / f"{rank}.pt")
        assert "image0-2" in problem and "image0-0" not in problem and same


def _train_job(rank, cfg, folder):
    train(cfg, device="cpu", run_dir=folder / "two")


def test_training_by_two_processes_equals_training_by_one(tmp_path):
    """The whole program: loader, validation, checkpoints. Only rank 0 writes."""
    cfg = tiny.config(
        tiny.write_dataset(tmp_path / "data"), validate_every=3, iterations=5, ema_decay=0.9
    )
    in_two_processes(_train_job, cfg, tmp_path)
    train(cfg, device="cpu", run_dir=tmp_path / "one")
    one, two = (torch.load(tmp_path / name / "weights" / "last.pth") for name in ("one", "two"))
    assert one["step"] == two["step"] == 5 and one["training"]["validated"] == 5
    for part in ("model", "ema"):
        assert (
            max(
                (one[part][k].double() - two[part][k].double()).abs().max().item()
                for k in one[part]
            )
            < 1e-6
        )
    lines = [
        (tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")
    ]
    assert len(lines[0]) == len(lines[1]) == 5


def test_a_batch_that_does_not_split_is_refused(tmp_path):
    cfg = tiny.config(tmp_path, batch_size=4, accumulate=4)
    from yolact.engine import train as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 2)
        with pytest.raises(
            ValueError,
            match="batch_size=4 cannot be split over 2 devices x 4 micro-batches: use a multiple "
            "of 8",
        ):
            module.check_split(cfg)


def test_pick_device_refuses_what_is_not_there():
    assert distributed.pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="use --device=cpu"):
        distributed.pick_device(f"cuda:{torch.cuda.device_count() + 3}")
    for name in ("gpu", "meta"):
        with pytest.raises(
            ValueError, match=f"no device '{name}': use --device=cpu, cuda, cuda:N, xpu or mps"
        ):
            distributed.pick_device(name)


def test_the_picked_cuda_device_is_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert [str(distributed.pick_device(name)) for name in (None, "cuda", "cuda:1")] == [
        "cuda:2",
        "cuda:2",
        "cuda:1",
    ]
    assert current == [2, 2, 1]


def _weights_job(rank, cfg, folder):
    def load(model, cfg):
        if rank == 0:
            time.sleep(0.3)  # a download
            (folder / "weights").touch()
        assert (folder / "weights").exists()
        (folder / f"loaded{rank}").touch()
        return True

    with pytest.MonkeyPatch.context() as patch, distributed.process_group(CPU):
        patch.setattr("yolact.engine.state.load_pretrained_backbone", load)
        assert build_state(cfg, CPU, None)[0].pretrained


def test_pretrained_weights_are_fetched_by_one_process_and_loaded_by_all(tmp_path):
    in_two_processes(_weights_job, tiny.config(), tmp_path)
    assert (tmp_path / "loaded0").exists() and (tmp_path / "loaded1").exists()
