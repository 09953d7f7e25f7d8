"""What a training leaves at its end: why it ended early, where it did, and the gallery."""

from __future__ import annotations

import copy

import torch

from data.schema import Config
from yolact.checkpoint import load_weights
from yolact.cli import one_line, say
from yolact.draw import gallery
from yolact.engine import distributed
from yolact.engine.pictures import prediction_pictures
from yolact.engine.rundir import RunDir
from yolact.engine.start import Sets
from yolact.engine.state import TrainState
from yolact.engine.stopping import as_mistake
from yolact.files import write_image
from yolact.run_files import BEST, GALLERY_PICTURE

GALLERY_IMAGES, GALLERY_COLUMNS = 12, 3
LONGEST = 1200  # pixels of a pair's longer side


def end_training(
    cfg: Config,
    state: TrainState,
    run: RunDir,
    sets: Sets,
    device: torch.device,
    trained: bool = True,
) -> None:
    """By rank 0: tells of an early end, and draws the gallery; without a step `trained`, only where
    there is none. Where it cannot be drawn, a warning: the training is whole without it."""
    if not distributed.is_main():
        return
    tell_early_end(cfg, state, run)
    if not trained and (run.path / GALLERY_PICTURE).exists():
        return
    try:
        draw_gallery(cfg, state, run, sets, device)
    except Exception as error:
        if as_mistake(error) is None:
            raise
        say(f"warning: no {GALLERY_PICTURE}: {one_line(error)}", error=True)


def draw_gallery(
    cfg: Config, state: TrainState, run: RunDir, sets: Sets, device: torch.device
) -> None:
    """Writes gallery.jpg: validation images spread evenly over the set, what the best weights find
    left, ground truth right. None where there are no such images, or the model has diverged."""
    if sets.pictures is None or not len(sets.pictures):
        return
    model = copy.deepcopy(state.best_model)
    if (run.path / BEST).is_file():
        load_weights(model, run.path / BEST)
    pictures = prediction_pictures(
        model, cfg, sets.pictures, device, count=GALLERY_IMAGES, longest=LONGEST
    )
    if pictures:
        file = run.path / GALLERY_PICTURE
        write_image(file, gallery(list(pictures.values()), columns=GALLERY_COLUMNS))
        say(f"what it finds, beside ground truth: {file}")


def tell_early_end(cfg: Config, state: TrainState, run: RunDir) -> None:
    """Says why a training ended before its last step, where it did."""
    plan = cfg.train
    if state.step < plan.iterations:
        say(
            f"ended at step {state.step} of {plan.iterations}: no better mask AP in {state.stale} "
            f"validations (train.patience={plan.patience}); a higher train.patience with "
            f"--resume={run.path} goes on"
        )
