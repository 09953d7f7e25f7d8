"""Pins the presets: python -m tests.pin_configs writes {config name: hash} of data/config.py
anew."""

from __future__ import annotations

import json
from pathlib import Path

from data.resolve import config_hash, list_configs, load_config

GOLDEN = Path(__file__).parent / "golden" / "configs.json"


def pinned() -> dict[str, str]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


if __name__ == "__main__":
    found = {name: config_hash(load_config(name)) for name in list_configs()}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
