"""Values and gradients of the Rank & Sort loss; the numbers lie beside `root`, in
assigners_losses/3_ranksort.

Stored gradients are those of the sum of both losses: the published backward pass gives no other. At
delta = 0 that code mixes in float32, so values are compared with the stored ones of the written-out
formula, and gradients to float32's precision.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from layers.losses.rank_sort import rank_sort_loss
from yolact.testing.reference_cases import Case


def cases(root: Path) -> list[Case]:
    folder = Path(root).parent / "assigners_losses" / "3_ranksort"
    if not (folder / "ranksort.json").exists() or not (folder / "ranksort.npz").exists():
        return []
    found = []
    for name in _expected(folder):
        case, _, delta = name.rpartition("/delta")
        found.append(
            Case(f"rank & sort {name}: values", partial(_values_error, folder, case, delta), 1e-12)
        )
        tolerance = 3e-8 if float(delta) == 0 else 1e-12
        found.append(
            Case(
                f"rank & sort {name}: gradients",
                partial(_gradients_error, folder, case, delta),
                tolerance,
            )
        )
    return found


@cache
def _expected(folder: Path) -> dict:
    return json.loads((folder / "ranksort.json").read_text())


@cache
def _arrays(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "ranksort.npz"))


def _run(folder: Path, case: str, delta: str):
    logits = torch.from_numpy(_arrays(folder)[f"{case}/logits"]).double().requires_grad_()
    return logits, rank_sort_loss(
        logits, torch.from_numpy(_arrays(folder)[f"{case}/targets"]), delta=float(delta)
    )


def _values_error(folder: Path, case: str, delta: str) -> float:
    _, (ranking, sorting) = _run(folder, case, delta)
    expected = _expected(folder)[f"{case}/delta{delta}"]["independent"]
    return max(
        abs(float(ranking.detach()) - expected["ranking_loss"]),
        abs(float(sorting.detach()) - expected["sorting_loss"]),
    )


def _gradients_error(folder: Path, case: str, delta: str) -> float:
    logits, (ranking, sorting) = _run(folder, case, delta)
    (ours,) = torch.autograd.grad(ranking + sorting, logits)
    return float(np.abs(ours.numpy() - _arrays(folder)[f"{case}/delta{delta}/grad"]).max())
