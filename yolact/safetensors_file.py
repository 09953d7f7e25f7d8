"""Reads safetensors files without the package of that name: the weights that ship are one.

The format: a length of 8 bytes, little-endian; so many bytes of JSON, {name: {"dtype", "shape",
"data_offsets"}} and "__metadata__"; the values of all tensors without gaps.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a file. ValueError where it is not whole."""
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= len(content) - 8:
        raise ValueError("its header is longer than the file")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no list of tensors")
    about = header.pop("__metadata__", {})
    values = bytearray(content[8 + length :])
    tensors = {str(name): _tensor(str(name), entry, values) for name, entry in header.items()}
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if held != len(values):
        raise ValueError(f"its tensors take {held} bytes, and it holds {len(values)}")
    return tensors, about


def _tensor(name: str, entry: Any, values: bytearray) -> Tensor:
    dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = math.prod(shape)
    if not 0 <= start <= end <= len(values) or end - start != count * dtype.itemsize:
        raise ValueError(f"the place of {name} does not fit its shape")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(values, dtype=torch.uint8, count=end - start, offset=start)
    return flat.clone().view(dtype).reshape(shape)
