"""One optimiser step: forward, criterion, backward, and an update that a bad step cannot reach.

Nothing here waits for the device. Whether a step was finite is decided on the device and handed to
the fused optimiser as a tensor, which then leaves the weights as they are; the host learns of it
when it next reads the losses, and knows the step, the term and the images because it kept them.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.schema import Config
from data.transforms import normalize
from layers.losses.gradients import shares
from yolact.engine import distributed
from yolact.engine.features import FeatureCache
from yolact.engine.precision import autocast
from yolact.engine.state import TrainState


class TrainStep(nn.Module):
    """(images, targets) -> losses: everything that is trained, in one module for
    DistributedDataParallel to wrap.

    Reducing inside the criterion keeps the ranks together; since its normalisers are global and
    every rank's loss touches every parameter, the wrapper needs no search for unused ones.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        *,
        precision: str = "float32",
        features: FeatureCache | None = None,
    ):
        super().__init__()
        self.model = model
        self.features = features
        self.criterion = criterion
        self.precision = precision

    def forward(
        self, images: Tensor, targets: list, *, indices: list[int] | None = None, **options
    ) -> dict[str, Tensor]:
        """images (B,3,S,S) normalised; indices: theirs in the training set, for cached features;
        options go to the criterion. The plain sum of the losses is what to minimise."""
        with autocast(images.device, self.precision):
            if self.features is None or indices is None:
                predictions = self.model(images)
            else:
                predictions = self.model(images, self.features(images, indices))
        return self.criterion(predictions, targets, **options)


@dataclass
class StepRecord:
    """What one step leaves behind: tensors still on the device, and the names needed should it turn
    out bad.

    losses, terms   0-d each, this rank's share of the global loss (the shares of all ranks add up
                    to it)
    gradients       (4,) each, Criterion.last_gradients, in the steps that measure them; they add up
                    likewise
    skipped         0-d, 1 where the weights were left as they were
    before          what the forward pass changed, as it was before the step
    bad             0-d, 1 where the loss or gradient was not finite (an fp16 overflow of the scaled
                    gradient is not bad: the scale falls and training goes on, so it is no sign of
                    divergence)
    """

    step: int
    image_ids: list
    losses: dict[str, Tensor]
    terms: dict[str, Tensor]
    gradients: dict[str, Tensor]
    grad_norm: Tensor
    skipped: Tensor
    bad: Tensor
    before: Before


@dataclass(frozen=True)
class Before:
    """What a forward pass changes besides its results: a step that fails in it puts this back.

    statistics  of batch norm where it is trained, end to end; None where they are kept elsewhere
    batches     its counters
    criterion   the criterion's state
    """

    statistics: Tensor | None
    batches: Tensor | None
    criterion: dict[str, Any]


class Updater:
    """Runs optimiser steps on a TrainState. Call it with the micro-batches of one step.

    Splitting a batch into micro-batches or over ranks changes no number beyond rounding, except
    that batch norm, where it is trained, takes its statistics from one micro-batch of one rank.
    """

    def __init__(
        self,
        state: TrainState,
        cfg: Config,
        device: torch.device,
        features: FeatureCache | None = None,
    ):
        self.state, self.cfg, self.device = state, cfg, device
        step = TrainStep(
            state.model, state.criterion, precision=cfg.train.precision, features=features
        )
        self.parallel = (
            DistributedDataParallel(step, gradient_as_bucket_view=True)
            if distributed.world_size() > 1
            else None
        )
        self.step = step if self.parallel is None else self.parallel
        # stays 1 after a bad step under on_nonfinite=stop
        self.stopped = torch.zeros((), device=device)
        trained = [
            m
            for m in state.model.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        ]
        self.statistics = [
            b for m in trained for b in (m.running_mean, m.running_var) if b is not None
        ]
        self.counters = [
            m.num_batches_tracked for m in trained if m.num_batches_tracked is not None
        ]
        self.whole = True  # no step is between its first change of a weight and its last

    def __call__(self, batches: list) -> StepRecord:
        """One step on this rank's micro-batches (data.loader.Batch). An error before the weights
        change leaves the state as it was; `whole` says whether it is."""
        ids = [image_id for batch in batches for image_id in batch.image_ids]
        before = self._snapshot()
        try:
            batches = [batch.to(self.device) for batch in batches]
            self.state.optimizer.zero_grad(set_to_none=True)
            losses, terms, gradients = self._backward(batches)
            self.state.scaler.unscale_(self.state.optimizer)
            norm, bad, skipped = self._inspect(losses)
        except BaseException:
            self._put_back(before)
            raise
        self.whole = False
        self._change_weights(skipped, before)
        self.whole = True
        kept = replace(before, statistics=None)  # those of a skipped step are back already
        return StepRecord(self.state.step, ids, losses, terms, gradients, norm, skipped, bad, kept)

    def rewind(self, record: StepRecord) -> None:
        """Takes the state back to before a step that was skipped, as all after it were."""
        state = self.state
        self._put_back(record.before)
        if state.ema is not None:
            state.ema.updates -= state.step - record.step + 1
            state.ema.copy_buffers(state.model)
        state.step = record.step - 1

    def _snapshot(self) -> Before:
        return Before(
            torch.cat(self.statistics) if self.statistics else None,
            torch.stack(self.counters) if self.counters else None,
            {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in self.state.criterion.state_dict().items()
            },
        )

    def _put_back(self, before: Before) -> None:
        if before.statistics is not None:
            self._write_statistics(before.statistics)
        if before.batches is not None:
            torch._foreach_copy_(self.counters, list(before.batches))
        if before.criterion:
            self.state.criterion.load_state_dict(before.criterion)

    def _write_statistics(self, joined: Tensor) -> None:
        torch._foreach_copy_(self.statistics, joined.split([len(s) for s in self.statistics]))

    def _change_weights(self, skipped: Tensor, before: Before) -> None:
        state, optimizer = self.state, self.state.optimizer
        # the fused kernels read it on the device
        optimizer.found_inf = skipped  # type: ignore[attr-defined]  # torch sets it likewise
        optimizer.step()
        state.scaler.update()
        if before.statistics is not None:
            # no sum of products: 0 * NaN is NaN
            self._write_statistics(
                torch.where(skipped > 0, before.statistics, torch.cat(self.statistics))
            )
        if state.ema is not None:
            ends = self.cfg.train.on_nonfinite == "stop"
            state.ema.update(state.model, unless=self.stopped if ends else None)
        state.scheduler.step()
        state.step += 1

    def _backward(
        self, batches: list
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of the global loss, summed over the micro-batches; returns the detached losses,
        mask terms and gradient norms."""
        criterion, cfg = self.state.criterion, self.cfg
        anchors, level_sizes = self.state.model.anchors_for(cfg.model.max_size, self.device)
        assignments = [criterion.assign(anchors, level_sizes, batch.targets) for batch in batches]
        # counted over every micro-batch and rank before the first loss
        normalizers = criterion.normalizers(assignments)
        orders = self._subset_orders(len(anchors), [len(batch.targets) for batch in batches])
        losses: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        for i, (batch, assignment, order) in enumerate(
            zip(batches, assignments, orders, strict=True)
        ):
            last = i == len(batches) - 1
            # ranks add up their gradients once, with the last micro-batch
            waits = nullcontext() if last or self.parallel is None else self.parallel.no_sync()
            with waits:
                found = self.step(
                    self._prepare(batch.images),
                    batch.targets,
                    indices=batch.indices,
                    step=self.state.step,
                    assignment=assignment,
                    normalizers=normalizers,
                    subset_order=order,
                    generator=self._generator(i),
                )
                # DistributedDataParallel averages over ranks, and the loss is a sum over them:
                # hence the world size
                self.state.scaler.scale(sum(found.values()) * distributed.world_size()).backward()
            _add(losses, found)
            _add(terms, criterion.last_terms)
            _add(gradients, criterion.last_gradients)
        return losses, terms, gradients

    def _inspect(self, losses: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(gradient norm before clipping, bad, skipped), each 0-d on the device and the same on
        every rank. Clips the gradients."""
        train = self.cfg.train
        parameters = [
            p
            for group in self.state.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = torch.nn.utils.clip_grad_norm_(parameters, train.clip_grad_norm or float("inf"))
        overflow = (~torch.isfinite(norm)).float()
        bad = (~torch.isfinite(torch.as_tensor(sum(losses.values())))).float()
        if train.precision != "fp16":
            bad = torch.maximum(bad, overflow)
        bad = distributed.max_over_ranks(bad)
        if train.on_nonfinite == "stop":
            self.stopped = torch.maximum(self.stopped, bad)
        return norm, bad, torch.maximum(torch.maximum(bad, overflow), self.stopped)

    def _prepare(self, images: Tensor) -> Tensor:
        model = self.cfg.model
        images = normalize(images, model.pixel_mean, model.pixel_std)
        return (
            images.contiguous(memory_format=torch.channels_last)
            if self.cfg.train.channels_last
            else images
        )

    def _subset_orders(self, anchors: int, sizes: list[int]) -> tuple[Tensor, ...]:
        """(b,A) keys for each micro-batch, which choose the positives that get a mask loss where an
        image has too many.

        They are a function of (seed, step), so there is no state to save. Every rank draws the keys
        of the whole batch and takes its own, so the choice for an image depends neither on how the
        batch is split over ranks nor on micro-batches. They are drawn in every step, since only the
        device knows by now which images have too many.
        """
        generator = torch.Generator(self.device).manual_seed(self._seed("subset"))
        share = sum(sizes)
        keys = torch.rand(
            (share * distributed.world_size(), anchors), device=self.device, generator=generator
        )
        return keys[distributed.rank() * share :][:share].split(sizes)

    def _generator(self, micro_batch: int) -> torch.Generator:
        """For pixels that a mask term samples: a function of seed, step, rank and micro-batch, so
        these draws depend on the split."""
        return torch.Generator(self.device).manual_seed(
            self._seed(f"points {distributed.rank()} {micro_batch}")
        )

    def _seed(self, stream: str) -> int:
        digest = hashlib.blake2b(
            f"{self.cfg.train.seed} {self.state.step} {stream}".encode(), digest_size=7
        ).digest()
        return int.from_bytes(digest, "big")


def _add(total: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        total[name] = total[name] + value.detach() if name in total else value.detach()


@dataclass
class ReadStep:
    """A StepRecord on the host, its losses and terms summed over the ranks, with the shares of the
    gradient (gradients.shares) among the terms where they were measured. `problem` says what was
    not finite, or is empty; skipped without one: fp16's loss scale overflowed."""

    step: int
    losses: dict[str, float]
    terms: dict[str, float]
    grad_norm: float
    skipped: bool
    problem: str


def read(records: list[StepRecord]) -> list[ReadStep]:
    """The steps' numbers by one copy from the device. Every rank must call this at the same
    steps."""
    if not records:
        return []
    names = [*records[0].losses, *records[0].terms]
    local = [
        torch.stack(
            [
                *(v.float() for v in (*r.losses.values(), *r.terms.values())),
                r.grad_norm.float(),
                r.skipped,
                r.bad,
            ]
        )
        for r in records
    ]  # (names + 3,) each
    gradients = [v.float() for r in records for v in r.gradients.values()]  # (4,) each
    flat = torch.cat(local + gradients)
    summed, flat = torch.stack([distributed.sum_over_ranks(flat.clone()), flat]).cpu().tolist()
    width = len(names) + 3
    rows = [flat[i * width :][:width] for i in range(len(records))]
    problems = _problems(records, names, rows)
    split, norms = len(records[0].losses), iter(summed[len(records) * width :])
    found = []
    for i, (record, own) in enumerate(zip(records, rows, strict=True)):
        total = summed[i * width :][:width]
        losses = dict(zip(names[:split], total[:split], strict=True))
        terms = dict(zip(names[split:], total[split:-3], strict=True))
        terms |= shares({label: [next(norms) for _ in range(4)] for label in record.gradients})
        found.append(
            ReadStep(
                record.step, losses, terms, own[-3], own[-2] > 0, problems.get(record.step, "")
            )
        )
    return found


def _problems(
    records: list[StepRecord], names: list[str], rows: list[list[float]]
) -> dict[int, str]:
    """{step: which terms were not finite, on which images} of the bad steps, gathered over the
    ranks."""
    bad = [(record, row) for record, row in zip(records, rows, strict=True) if row[-1] > 0]
    if not bad:  # the flag is the same on every rank
        return {}
    own = {}
    for record, row in bad:
        broken = [
            f"{name} = {value}"
            for name, value in zip(names, row[:-3], strict=True)
            if not math.isfinite(value)
        ]
        own[record.step] = f"{', '.join(broken)} on image ids {record.image_ids}" if broken else ""
    everywhere = distributed.gather(own)
    clean = {
        record.step: "the losses are finite but the gradient is not, on image ids "
        f"{record.image_ids}"
        for record, _ in bad
    }
    return {
        step: "; ".join(found for rank in everywhere if (found := rank[step])) or clean[step]
        for step in own
    }
