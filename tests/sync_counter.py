"""Counts, on the CPU, the calls that would make the host wait for a CUDA device."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layers.assigners import base

WAITING_OPS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "equal",
    "is_nonzero",
    "repeat_interleave.Tensor",
    "bincount",
}
WAITING_METHODS = ("tolist", "numpy", "cpu", "__array__")


class _Mode(TorchDispatchMode):
    def __init__(self, calls: list[str]):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        boolean_index = name.startswith(("index.Tensor", "index_put")) and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        sized = name == "repeat_interleave.Tensor" and (kwargs or {}).get("output_size") is not None
        if (
            name.split(".")[0] in WAITING_OPS or name in WAITING_OPS or boolean_index
        ) and not sized:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_syncs():
    """Yields a list that grows by a name at every waiting call inside the block, backward passes
    included. Assigners take the form that a device takes."""
    calls: list[str] = []
    patches: list = [mock.patch.object(base, "HOSTS", ())]
    for method in WAITING_METHODS:
        original = getattr(torch.Tensor, method)

        def counted(self, *args, _original=original, _name=method, **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)

        patches.append(mock.patch.object(torch.Tensor, method, counted))
    with _Mode(calls):
        for patch in patches:
            patch.start()
        try:
            yield calls
        finally:
            for patch in patches:
                patch.stop()
