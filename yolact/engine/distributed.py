"""One process or many: joining the group that torchrun describes, and the few collectives that
training needs.

Every function also works without a process group, where it is a group of one. Tensors travel over
NCCL on CUDA and over gloo on CPU; control messages (stop requests, names, waiting for rank 0's
validation) always travel over gloo, so that they neither wait for a device nor run into NCCL's
watchdog while rank 0 evaluates for half an hour.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

# other ranks wait this long for rank 0: validation on a large set takes more than gloo's 30 minutes
PATIENCE = timedelta(days=1)
# ... and this long within a step, where all do the same
STEP_PATIENCE = timedelta(minutes=10)
LOOKS = 1e-4, 0.02  # seconds between two looks whether the others have answered, at first and later
DEVICES = ("cuda", "xpu", "mps", "cpu")  # types, the first that is there is the default
_control: dist.ProcessGroup | None = None
_quiet = False
# of gloo and NCCL, for a process that is gone
_GONE = ("Connection closed", "Connection reset", "Broken pipe", "Connection refused", "Timed out")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one process that writes files and prints."""
    return rank() == 0


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of this process: the one asked for, else the first of DEVICES that is there. Of
    CUDA without a number, the device of the local rank.

    A CUDA device becomes the current one, on which PyTorch puts what names no device. Raises
    ValueError where the device does not exist.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    try:
        chosen = (
            torch.device(device)
            if device is not None
            else torch.device(next(filter(_is_there, DEVICES)))
        )
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in DEVICES:
        raise ValueError(
            f"there is no device {str(device)!r}: use --device=cpu, cuda, cuda:N, xpu or mps"
        )
    if chosen.type != "cuda":
        if not _is_there(chosen.type):
            raise ValueError(
                f"device {chosen} was asked for, but this torch sees no {chosen.type}: use "
                "--device=cpu"
            )
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


def _is_there(kind: str) -> bool:
    """Whether torch sees a device of one of DEVICES."""
    if kind == "mps":
        return torch.backends.mps.is_available()
    module = getattr(torch, kind)
    return kind == "cpu" or module.is_available()


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the process group of torchrun for as long as the block lasts; does nothing outside
    torchrun or inside a group.

    An error that ends the block on several ranks is told by the first: the others leave by
    SystemExit(2). ValueError where another process is gone.
    """
    global _control
    launched = (
        "WORLD_SIZE" in os.environ and "RANK" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    )
    joined = launched and not dist.is_initialized()
    if joined:
        if device.type == "cuda":
            dist.init_process_group("nccl", device_id=device, timeout=STEP_PATIENCE)
        else:
            dist.init_process_group("gloo", timeout=STEP_PATIENCE)
    if dist.is_initialized():
        # every rank is a member, so none gets the number that stands for "not in it"
        _control = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        told = lost_process(error) or error
        if joined and isinstance(told, (ValueError, OSError)) and not _first_to_speak():
            raise SystemExit(2) from error
        if told is error:
            raise
        raise told from error
    finally:
        _control = None
        if joined:
            dist.destroy_process_group()


def lost_process(error: BaseException) -> ValueError | None:
    """What to say where `error` is a collective's that another process has left; else None."""
    if world_size() > 1 and isinstance(error, RuntimeError):
        if any(words in str(error) for words in _GONE):
            return ValueError(
                "another process of this training has ended or no longer answers: its own message, "
                "or the system's log, says why"
            )
    return None


def _first_to_speak() -> bool:
    """True on the first rank that asks. Where the ranks' store is gone, nobody else can tell."""
    try:
        return dist.distributed_c10d._get_default_store().add("yolact_spoken", 1) == 1
    except (RuntimeError, ValueError):
        return True


def _wait(work: Any, *, quietly: bool = False) -> None:
    """Waits for a collective over gloo, in short sleeps: a wait inside the collective would let no
    signal through. quietly: idle_note() says nothing of it."""
    global _quiet
    pause, longest = LOOKS
    _quiet = quietly
    try:
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, longest)
        work.wait()
    finally:
        _quiet = False


def idle_note() -> str:
    """What to say where this process does nothing for long; '' where that is as it should be."""
    if world_size() == 1 or _quiet:
        return ""
    return (
        f"process {rank()} of this training does nothing: it waits for another one, which is "
        "slower or stopped, or for its data"
    )


def most(value: int, *, quietly: bool = False) -> int:
    """The highest `value` of any rank, on every rank. quietly: it may take long."""
    if world_size() == 1:
        return value
    held = torch.tensor([value])
    work = dist.all_reduce(held, dist.ReduceOp.MAX, group=_control, async_op=True)
    _wait(work, quietly=quietly)
    return int(held)


def share(value, *, quietly: bool = False):
    """Rank 0's `value` (anything that pickles) on every rank. quietly: it may take long."""
    if world_size() == 1:
        return value
    data = pickle.dumps(value) if is_main() else b""
    held = torch.zeros(most(len(data), quietly=quietly), dtype=torch.uint8)
    if is_main():
        held.numpy()[:] = np.frombuffer(data, np.uint8)
    _wait(dist.broadcast(held, src=0, group=_control, async_op=True))
    return pickle.loads(held.numpy().tobytes())


def gather(value) -> list:
    """The `value` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    data = pickle.dumps(value)
    own = torch.zeros(most(len(data)), dtype=torch.uint8)  # pickles end where they say
    own.numpy()[: len(data)] = np.frombuffer(data, np.uint8)
    held = [torch.empty_like(own) for _ in range(world_size())]
    _wait(dist.all_gather(held, own, group=_control, async_op=True))
    return [pickle.loads(each.numpy().tobytes()) for each in held]


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
    return _reduced(value, dist.ReduceOp.MAX)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum over the ranks, in place, without waiting for the device."""
    return _reduced(value, dist.ReduceOp.SUM)


def _reduced(value: Tensor, by: Any) -> Tensor:
    if world_size() > 1:
        work = dist.all_reduce(value, op=by, async_op=True)
        if value.device.type == "cpu":
            _wait(work)
        else:  # the device waits, and this process goes on
            work.wait()
    return value
