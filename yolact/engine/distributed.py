"""One process or many: joining the group that torchrun describes, and the few collectives that
training needs.

Every function also works without a process group, where it is a group of one. Tensors travel over
NCCL on CUDA and over gloo on CPU; control messages (stop requests, names, waiting for rank 0's
validation) always travel over gloo, so that they neither wait for a device nor run into NCCL's
watchdog while rank 0 evaluates for half an hour.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

# other ranks wait this long for rank 0: validation on a large set takes more than gloo's 30 minutes
PATIENCE = timedelta(days=1)
_control: dist.ProcessGroup | None = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one process that writes files and prints."""
    return rank() == 0


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of this process: the one asked for, else the CUDA device of its local rank, else
    the CPU.

    A CUDA device becomes the current one, on which PyTorch puts what names no device. Raises
    ValueError where the device does not exist.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    try:
        chosen = (
            torch.device(device)
            if device is not None
            else torch.device("cuda" if torch.cuda.is_available() else "cpu")
        )
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"there is no device {str(device)!r}: use --device=cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return chosen
    index = local if chosen.index is None else chosen.index
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ValueError(
            f"device cuda:{index} was asked for, but {torch.cuda.device_count()} CUDA devices are "
            "visible here: use --device=cpu, or start no more processes (--nproc_per_node) than "
            "there are devices"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the process group of torchrun for as long as the block lasts; does nothing outside
    torchrun or inside a group."""
    global _control
    launched = (
        "WORLD_SIZE" in os.environ and "RANK" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    )
    joined = launched and not dist.is_initialized()
    if joined:
        if device.type == "cuda":
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
    if dist.is_initialized():
        # every rank is a member, so none gets the number that stands for "not in it"
        _control = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield
    finally:
        _control = None
        if joined:
            dist.destroy_process_group()


def barrier() -> None:
    """Waits on the host until every rank is here, however long rank 0 takes."""
    if world_size() > 1:
        dist.barrier(group=_control)


def share(value):
    """Rank 0's `value` (anything that pickles) on every rank."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, group=_control)
    return held[0]


def gather(value) -> list:
    """The `value` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    held = [None] * world_size()
    dist.all_gather_object(held, value, group=_control)
    return held


def first_run_by_main(action):
    """action() on rank 0 alone, its result on every rank; an error on rank 0 is raised on every
    rank, so that none waits forever."""
    result, error = None, None
    if is_main():
        try:
            result = action()
        except (ValueError, OSError) as caught:
            error = caught
    result, error = share((result, error))
    if error is not None:
        raise error
    return result


def max_over_ranks(value: Tensor) -> Tensor:
    """Elementwise maximum over the ranks, in place, without waiting for the device."""
    if world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum over the ranks, in place, without waiting for the device."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value
