"""Training, from a config to a run folder. The loop is Trainer.run; what it calls is below it, in
the order it happens."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.schema import Config
from data.workers import deaths_held, explain_worker_failure
from layers.losses.criterion import Criterion
from yolact.cli import one_line, say
from yolact.engine import distributed
from yolact.engine.assignment import prototype_mask_note
from yolact.engine.batches import step_batches
from yolact.engine.datasets import DataSet, finds_ap
from yolact.engine.ending import end_training
from yolact.engine.evaluate import EvalResult, evaluate
from yolact.engine.features import feature_cache
from yolact.engine.idle import IdleSteps
from yolact.engine.length import settled_length
from yolact.engine.log import Meter, RunLog, write_run_files
from yolact.engine.pictures import prediction_pictures
from yolact.engine.run import Run
from yolact.engine.rundir import RunDir
from yolact.engine.saving import Saver
from yolact.engine.start import (
    Sets,
    check_data,
    check_split,
    find_start,
    lacks_evaluation,
    open_run,
    open_sets,
    print_summary,
    settled,
)
from yolact.engine.state import (
    TrainState,
    build_state,
    random_state_kept,
    weights_only,
)
from yolact.engine.step import StepRecord, TrainStep, Updater, read
from yolact.engine.stopping import (
    Interrupted,
    StopNow,
    StopRequest,
    Together,
    as_mistake,
)
from yolact.finite import diverged_weights
from yolact.locking import RunLock
from yolact.model import Yolact
from yolact.run_files import BEST, INTERRUPT, LAST, kept_checkpoint

__all__ = ["Interrupted", "TrainStep", "Trainer", "train"]


def train(
    cfg: Config,
    *,
    model: Yolact | None = None,
    criterion: Criterion | None = None,
    train_set: DataSet | None = None,
    val_set: DataSet | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_validation: Callable[[int, dict[str, Any]], None] | None = None,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | torch.device | None = None,
    runs_root: str | Path = "runs",
) -> Run:
    """Trains, and returns the run: its folder is runs_root/<cfg.name>/<n>, or `run_dir`.

        run = yolact.train(yolact.load_config("quickstart", ["train.iterations=200"]))

    model      what to train, with the weights that it has; None = as cfg says, pretrained too
    criterion  its loss; None = as cfg says
    train_set  anything with len() and items, see DataSet; None = the training set of cfg.data
    val_set    likewise. AP needs a COCO annotation file: without one a run has no AP. With a
               train_set and no val_set there is no validation
    on_step    called with (step, losses) at every logged step: means since the last one. It waits
               for nothing that logging does not wait for
    on_validation
               called with (step, metrics) after every validation that found an AP; metrics are
               those of the line in metrics.jsonl, {"bbox": {"ap", ...}, "segm": {"ap", ...}, ...}
    resume     a run's folder, one of its checkpoints, or 'latest' for the newest run of cfg.name
               under runs_root
    device     None = a GPU where there is one

    What is given in place of the config's is named under "given" in the run's env.json, since
    config.yaml does not describe it.

    A finished run without results/records.npz is evaluated again by resume, one without gallery.jpg
    gets it, and nothing else is done.

    On one machine with the same settings a resumed run repeats, on the CPU bit for bit, what the
    uninterrupted one would have done.

    Under torchrun every process calls this. Raises ValueError for what the user can mend (data,
    settings, checkpoints, a non-finite loss under on_nonfinite=stop), OSError where files cannot be
    written, and Interrupted (a SystemExit) after a signal, once saved.
    """
    device = distributed.pick_device(device)
    with RunLock() as lock, distributed.process_group(device):
        check_split(cfg)
        found = distributed.first_run_by_main(
            lambda: find_start(cfg, resume, runs_root, run_dir, lock)
        )
        checkpoint_path, checkpoint = found or (None, None)
        cfg, notes = settled(cfg, device, checkpoint)
        if train_set is None and val_set is None:
            notes += distributed.first_run_by_main(lambda: check_data(cfg))
        cfg, notes, length = settled_length(
            cfg,
            notes,
            device,
            checkpoint,
            model=model,
            criterion=criterion,
            train_set=train_set,
            val_set=val_set,
        )
        state, loaded = build_state(cfg, device, checkpoint, model=model, criterion=criterion)
        step = state.step
        sets = open_sets(cfg, state, train_set, val_set)
        run, told = distributed.first_run_by_main(
            lambda: open_run(cfg, run_dir, checkpoint_path, step, Path(runs_root), lock)
        )
        if distributed.first_run_by_main(lambda: lacks_evaluation(run, cfg, step, sets)):
            state.validated = min(state.validated, step - 1)
        if distributed.is_main():
            given = {
                "model": model,
                "criterion": criterion,
                "train_set": train_set,
                "val_set": val_set,
            }
            notes += write_run_files(
                run,
                cfg,
                device,
                distributed.world_size(),
                step if checkpoint else None,
                given=[name for name, value in given.items() if value is not None],
                length=length,
            )
            notes += prototype_mask_note(
                state.criterion, *state.model.anchors_for(cfg.model.max_size), sets.train
            )
            print_summary(cfg, run, state, device, sets, [*notes, *told, *loaded, *sets.notes()])
        with StopRequest() as stop:
            Trainer(cfg, state, run, device, sets, stop, on_step, on_validation).run()
        return Run(run.path)


class Trainer:
    """The loop and what it needs. All ranks run it; only rank 0 has a log and writes."""

    def __init__(
        self,
        cfg: Config,
        state: TrainState,
        run: RunDir,
        device: torch.device,
        sets: Sets,
        stop: StopRequest,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
        on_validation: Callable[[int, dict[str, Any]], None] | None = None,
    ):
        self.cfg, self.state, self.run_dir, self.device = cfg, state, run, device
        self.sets, self.stop, self.on_step = sets, stop, on_step
        self.meter = Meter(state.meter)
        self.idle = IdleSteps(cfg.train.iterations - state.step)
        self.files = Saver(run, cfg, state)
        stop.advise(f"go on with --resume={run.path}")
        self.records: list[StepRecord] = []
        features = feature_cache(cfg, state.model, sets.train, run.path)
        self.update = Updater(state, cfg, device, features)
        self.batches = step_batches(cfg, sets.train, device, start_step=state.step)
        self.first_step = state.step
        self.log = None
        if distributed.is_main():
            self.log = RunLog(
                run,
                cfg,
                step=state.step,
                validated=state.validated,
                epoch_images=len(sets.train),
                device=device,
                on_validation=on_validation,
            )

    def run(self) -> None:
        """Trains to the end, or until a signal, which is answered by a checkpoint and Interrupted.
        An error is answered by a checkpoint too, where the state is whole, and then raised."""
        try:
            self._train()
        except Exception as error:
            ended = self._ended(error)
            if ended is error:
                raise
            raise ended from error
        finally:
            with deaths_held(report=False):
                self.batches.close()
            if self.log is not None:
                self.log.close()

    def _train(self) -> None:
        try:
            stopping = self._steps()
        # PyTorch reports a dead loader process wherever the main process happens to be
        except RuntimeError as error:
            if explain_worker_failure(error) is None or not self.stop.explains(error):
                raise
            stopping = True
        if stopping:
            self._interrupted()
        else:
            trained = self.state.step > self.first_step
            end_training(self.cfg, self.state, self.run_dir, self.sets, self.device, trained)

    def _steps(self) -> bool:
        """The loop. It reads the losses, and so waits for the device, only where something is due.
        True if it was asked to stop."""
        plan, state = self.cfg.train, self.state
        finished = self._look_back()  # a signal or a kill came in its way
        while state.step < plan.iterations and finished and not state.is_stale(plan.patience):
            batches = self._next_batches()
            if batches is None:
                return True
            with deaths_held():
                self.records.append(self.update(batches))
                if any(
                    map(
                        self._due,
                        (plan.log_every, plan.save_every, plan.validate_every, plan.keep_every),
                    )
                ):
                    self._read_losses()
                if self._due(plan.log_every):
                    self._log_line()
            if self._due(plan.validate_every) or self._due(plan.save_every):
                self._save(LAST)  # before validating: whatever may go wrong there costs no training
            finished = self._look_back()
        return not finished

    def _look_back(self) -> bool:
        """What is due after this step and not done yet: a validation, and the checkpoint that is
        kept for good. False if a signal broke it off."""
        plan, state = self.cfg.train, self.state
        if self._due(plan.validate_every) and state.validated < state.step and not self._validate():
            return False
        kept = kept_checkpoint(state.step)
        if plan.keep_every and self._due(plan.keep_every):
            if not distributed.share((self.run_dir.path / kept).exists()):
                self._save(kept)
        return True

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        step = self.state.step
        return step > 0 and (step == self.cfg.train.iterations or (every > 0 and step % every == 0))

    def _next_batches(self) -> list | None:
        """The next step's micro-batches; None where a rank was asked to stop."""
        batches, problem = None, None
        try:
            with self.stop.at_once():
                batches = next(self.batches)
        except StopNow:
            pass
        except Exception as error:  # a queue of a killed process breaks in many ways
            if not self.stop.explains(error):
                if distributed.world_size() == 1 or as_mistake(error) is None:
                    raise
                problem = as_mistake(error)
        return None if self.stop.agreed(problem) else batches

    def _read_losses(self) -> None:
        """Moves the losses since the last read to the meter. At a step that was not finite, says
        that it was skipped, or goes back before it and raises Together."""
        steps = read(self.records)
        records, self.records = self.records, []
        for record, step in zip(records, steps, strict=True):
            if step.problem and self.cfg.train.on_nonfinite == "stop":
                self.update.rewind(record)
            diverged = diverged_weights(self.state.model) if step.problem else ""
            if diverged:  # no later step can be finite
                raise Together(f"step {step.step}: {diverged}. Start from other weights")
            if step.problem and self.cfg.train.on_nonfinite == "stop":
                raise Together(
                    f"step {step.step}: {step.problem}. The weights were left as they were before "
                    "it. Look at these images, lower train.lr, or set train.clip_grad_norm=10 or "
                    "train.on_nonfinite=skip"
                )
            self.meter.add(step)
            idle = self.idle.warning(step)
            if idle and self.log is not None:
                print(idle, flush=True)
            if step.problem and self.log is not None:
                say(f"warning: step {step.step} skipped: {step.problem}")

    def _log_line(self) -> None:
        means = self.meter.take()
        if self.log is not None:
            # the schedule has moved on to the next step already
            self.log.train_line(
                self.state.step,
                means,
                float(
                    self.state.scheduler.base_lrs[0]
                    * self.state.scheduler.lr_lambdas[0](self.state.step - 1)
                ),
                self.state.criterion.mask_loss.changing_weights(self.state.step),
            )
            if self.on_step is not None:
                self.on_step(self.state.step, dict(means["losses"]))

    def _validate(self) -> bool:
        """By rank 0: AP on the validation set, best.pth where the mask AP is the best so far,
        pictures; then last.pth, which notes that it is done. After the last step also per-image
        records. False if a signal broke it off; a resumed run makes up for it."""
        state, started, finished = self.state, time.perf_counter(), True
        last = state.step == self.cfg.train.iterations or state.is_stale(
            self.cfg.train.patience, more=1
        )
        if self.log is not None:
            try:
                with self.stop.at_once(), random_state_kept():
                    result, pictures = self._look(last)
            except StopNow:
                finished = False
            except Exception as error:
                if not self.stop.explains(error):
                    raise
                finished = False
            else:
                self._record(result, pictures, time.perf_counter() - started)
            self.log.restart_clock(state.step)
        state.train_mode()
        finished = distributed.share(finished, quietly=True)
        if finished:
            state.validated, state.stale = state.step, distributed.share(state.stale)
            self._save(LAST)
        return finished

    def _look(self, last: bool) -> tuple[EvalResult | None, dict[str, np.ndarray]]:
        """The metrics of a validation, None where the set has no annotation file, and pictures."""
        sets, model, result = self.sets, self.state.best_model, None
        if finds_ap(sets.val):
            result = evaluate(
                model,
                self.cfg,
                dataset=sets.val,
                device=self.device,
                precision=self.cfg.validation_precision,
                max_images=self.cfg.train.validate_images,
                results_dir=self.run_dir.results,
                records_file=self.run_dir.records if last else None,
                note={"step": self.state.step, "weights": Path(LAST).name},
                progress=sys.stderr.isatty(),
            )
        if sets.pictures is None:
            return result, {}
        return result, prediction_pictures(model, self.cfg, sets.pictures, self.device)

    def _record(
        self, result: EvalResult | None, pictures: dict[str, np.ndarray], seconds: float
    ) -> None:
        assert self.log is not None, "only the process that logs validates"
        if result is not None:
            self._record_ap(result, seconds, self.log)
        self.log.pictures(self.state.step, pictures)

    def _record_ap(self, result: EvalResult, seconds: float, log: RunLog) -> None:
        state = self.state
        ap = result.mask_ap
        best = ap > state.best_ap  # never where it is undefined
        state.stale = 0 if best else state.stale + 1
        shown = f"{100 * ap:.2f}{' (best so far)' if best else ''}"
        if math.isnan(ap):
            shown = "undefined: the validation images hold no instance that counts"
        print(f"validation at step {state.step}: mask AP {shown}", flush=True)
        print(result.threshold_table(), flush=True)  # the rest is in metrics.jsonl
        if best:
            state.best_ap = ap
            self.files.write(BEST, weights_only(state.best_model, state, self.cfg))
        log.validation(state.step, result.to_dict(), best=best, seconds=seconds)

    def _save(self, name: str, *, alone: bool = False) -> None:
        self.files.save(name, self.meter.state(), alone=alone)

    def _ended(self, error: Exception) -> Exception:
        """What `error`, which ended the training, is to the user: in one line, with what is saved
        and how to go on. `error` itself, where it is none of theirs."""
        alone = distributed.world_size() > 1 and not isinstance(error, Together)
        with deaths_held(report=False):
            self.batches.close()
            try:
                saved = self._save_what_is_whole(alone)
            except Together as earlier:
                error, saved = earlier, self._save_what_is_whole(alone)
        explained = as_mistake(error)
        if explained is not None:
            text = (
                f"{one_line(explained)}; {saved}" if self.log is not None else one_line(explained)
            )
            return (OSError if isinstance(explained, OSError) else ValueError)(text)
        if self.log is not None:
            say(saved, error=True)
        return error

    def _save_what_is_whole(self, alone: bool) -> str:
        """Saves a state that is newer than its file, and says how to go on. Together where it
        first finds a step that was not finite."""
        if alone:  # other ranks do not answer
            bad = next((r for r in self.records if self.update.stopped > 0 and r.bad > 0), None)
            if bad is not None:
                self.update.rewind(bad)
            self.records = []
        elif self.update.whole:
            self._read_losses()
        step, why = self.state.step, ""
        if not self.update.whole:
            why = f"step {step + 1} had changed a part of the weights"
        elif diverged_weights(self.state.model):
            why = "the weights are not finite, and are not saved"
        elif step > self.files.saved_step:
            try:
                self._save(INTERRUPT, alone=alone)
            except (OSError, RuntimeError) as error:
                why = one_line(error)
        return self.files.how_to_go_on(
            f"training ended at step {step}" + (f" ({why})" if why else "")
        )

    def _interrupted(self) -> None:
        with deaths_held(report=False):
            self.batches.close()
            self._read_losses()
            self._save(INTERRUPT)
        if self.log is not None:
            say(
                f"interrupted at step {self.state.step}, saved in "
                f"{self.run_dir.path / INTERRUPT}; go on with --resume={self.run_dir.path}"
            )
        raise Interrupted(max(distributed.gather(self.stop.signum)))
