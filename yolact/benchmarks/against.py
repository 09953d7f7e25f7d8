"""What bench.py --against knows by name, without torch."""

from __future__ import annotations

from importlib.util import find_spec

# name: (packages, the section of ours that does the same)
RUNTIMES = {
    "onnxruntime": (("onnx", "onnxscript", "onnxruntime"), "forward"),
    "openvino": (("onnx", "onnxscript", "openvino"), "forward"),
    "torchvision": (("torchvision",), "inference"),
}


def lacks(name: str) -> str:
    """Why a runtime cannot be timed here; empty where it can."""
    absent = [package for package in RUNTIMES[name][0] if find_spec(package) is None]
    return f"not installed: pip install {' '.join(absent)}" if absent else ""
