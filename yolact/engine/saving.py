"""The checkpoints of a training: written whole, and named where it ends."""

from __future__ import annotations

from data.schema import Config
from data.workers import deaths_held
from yolact.checkpoint import save_checkpoint
from yolact.engine import distributed
from yolact.engine.rundir import RunDir
from yolact.engine.state import TrainState, to_checkpoint
from yolact.run_files import CHECKPOINTS, INTERRUPT, LAST


class Saver:
    """Writes the checkpoints of one run. saved_step: what is newer is not in a file of this run."""

    def __init__(self, run: RunDir, cfg: Config, state: TrainState):
        self.run, self.cfg, self.state = run, cfg, state
        self.saved_step = state.step if self._goes_on() else 0

    def save(self, name: str, meter: dict, *, alone: bool = False) -> None:
        """A whole checkpoint, written by rank 0; every rank must call it, since each adds its
        random state, unless rank 0 is left `alone`. meter: its state."""
        self.state.meter = meter
        content = to_checkpoint(self.state, self.cfg, alone=alone)
        if distributed.is_main():
            self.write(name, content)
            if name == LAST:
                (self.run.path / INTERRUPT).unlink(missing_ok=True)  # older than this one
            if name in CHECKPOINTS:
                self.saved_step = self.state.step

    def write(self, name: str, content: dict) -> None:
        """A file of the run, whole or not at all."""
        with deaths_held():
            save_checkpoint(self.run.path / name, content)

    def how_to_go_on(self, ended: str) -> str:
        """`ended`, what is saved, and the flag that goes on from there."""
        if not self._goes_on():
            return f"{ended}; nothing was saved yet: start again with --run_dir={self.run.path}"
        return (
            f"{ended} and is saved up to step {self.saved_step}; go on with "
            f"--resume={self.run.path}"
        )

    def _goes_on(self) -> bool:
        """Whether the run has a checkpoint to go on from."""
        return any((self.run.path / name).exists() for name in CHECKPOINTS)
