"""How good a run's weights are, in one phrase: for model cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yolact.engine.run import Run
from yolact.run_files import METRICS, RECORDS, run_of_weights
from yolact.study.statistics.resample import cached_resample

AP = "mask_ap"  # of yolact.study.statistics.ap.metric_names


def weights_quality(weights: Path, step: int | None) -> str:
    """Mask and box AP of weights of training step `step` on their run's validation images, in
    points; of the last step with a 95 % interval over the images (percentiles of resamples)."""
    run = run_of_weights(weights)
    if step is None:
        return "not known: the weights do not say of which training step they are"
    if run is None or not (run / METRICS).is_file():
        return "not known: the weights lie in no run's folder"
    lines = [line for line in Run(run).metrics if line["kind"] == "validation"]
    found = next((line for line in reversed(lines) if line["step"] == step), None)
    if found is None or found["segm"]["ap"] is None:
        return f"not known: the run has no AP of step {step}"
    aps = f"box AP {100 * found['bbox']['ap']:.2f}, at step {step}"
    mask = f"mask AP {100 * found['segm']['ap']:.2f}"
    if not (run / RECORDS).is_file():
        return f"{mask}, {aps}"
    records, resampled = cached_resample(run / RECORDS)
    if records.note.get("step") != step:
        return f"{mask}, {aps}"
    draws = resampled.draws[AP]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return f"{mask} ({low:.2f} to {high:.2f}, 95 % over {len(records.image_ids)} images), {aps}"
