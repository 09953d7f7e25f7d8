"""What scripts/bench.py times: each section returns its figures as a dict."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from unittest import mock

import torch

from data.cigarettes.generate import generate
from data.loader import Batch, train_loader
from data.resolve import load_config
from data.schema import Config
from data.transforms import normalize
from layers.extras import EXTRAS
from layers.losses.checks.contract import variants
from layers.losses.criterion import Criterion
from layers.losses.rank_sort import rank_sort_loss
from layers.losses.registry import names
from layers.targets import Targets
from yolact import build_model, postprocess
from yolact.benchmarks.assign import assigner_times, milliseconds
from yolact.benchmarks.batches import forward_by_batch
from yolact.benchmarks.flops import convolution_peak, gflop
from yolact.benchmarks.inputs import ground_truth, images
from yolact.benchmarks.pictures import sample_times
from yolact.benchmarks.statistics import resample_seconds
from yolact.benchmarks.timing import peak_memory_mb, time_calls
from yolact.build import build_criterion
from yolact.engine.benchmark import benchmark
from yolact.engine.datasets import training_set
from yolact.engine.evaluate import evaluate
from yolact.engine.optim import build_optimizer
from yolact.engine.precision import AUTOCAST, autocast, choose, wait_for
from yolact.engine.step import TrainStep
from yolact.postprocess import detect
from yolact.testing.recipe import make_state

LEAVES = ("box_deltas", "class_logits", "mask_coeffs", "prototypes", "semantic_logits")


def run_section(args) -> dict:
    """{"times": seconds of each call, "peak_mb", "threads"} and for some sections "detail": {stage:
    figure}."""
    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Bench(
        load_config(args.config, [*args.set, "model.pretrained=none"]),
        torch.device(args.device),
        args.precision,
        args.seconds,
    )
    result = getattr(bench, args.worker)()
    peak = (
        torch.cuda.max_memory_allocated() / 1e6 if bench.device.type == "cuda" else peak_memory_mb()
    )
    return {**result, "peak_mb": peak, "threads": torch.get_num_threads()}


class Bench:
    def __init__(self, cfg, device: torch.device, precision: str, seconds: float):
        self.cfg, self.device, self.seconds, self.precision = cfg, device, seconds, precision
        self.autocast = autocast(device, precision)
        # half types in NHWC, as prediction and a training that takes `auto` run them
        nhwc = choose(device, precision).channels_last
        self.layout = torch.channels_last if nhwc else torch.contiguous_format

    def model(self, training: bool):
        model = build_model(self.cfg)
        # as in the original: weights that give it and us the same detections
        if self.cfg.model.norm == "none":
            state = make_state(
                {key: tuple(value.shape) for key, value in model.state_dict().items()}, 0
            )
            model.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
        model.to(self.device).to(memory_format=self.layout).train(training)
        model.freeze_batchnorm(True)
        return model

    def inputs(self, count: int):
        size = self.cfg.model.max_size
        truths = ground_truth(count, size, objects=8, classes=self.cfg.num_classes)
        targets = [
            Targets(
                torch.from_numpy(t["boxes"]),
                torch.from_numpy(t["labels"]),
                torch.zeros(8, dtype=torch.bool),
                torch.from_numpy(t["masks"]).bool(),
            )
            for t in truths
        ]
        x = torch.from_numpy(images(count, size))
        return x.to(self.device, memory_format=self.layout), [t.to(self.device) for t in targets]

    def timed(self, work) -> dict:
        def call():
            with self.autocast:
                work()
            wait_for(self.device)

        return {"times": time_calls(call, self.seconds)}

    @torch.no_grad()
    def forward(self) -> dict:
        """With the class scores, which the original computes there too."""
        model, (x, _) = self.model(training=False), self.inputs(1)
        result = self.timed(lambda: model(x).class_scores())
        with self.autocast:
            work = gflop(model, self.cfg.model.max_size)
        peak = self._peak()
        share = 100 * work / min(result["times"]) / peak
        return {**result, "detail": {"GFLOP": work, "% of peak": share, "peak GFLOP/s": peak}}

    def batches(self) -> dict:
        rows = forward_by_batch(
            self.model(training=False), self.precision, self.seconds, self._peak()
        )
        return {"times": [rows["batch 1"]["eager ms"] / 1e3], "rows": rows}

    def _peak(self) -> float:
        half = AUTOCAST[self.precision]
        return convolution_peak(
            self.device, half or torch.float32, self.seconds / 4, channels_last=half is not None
        )

    @torch.no_grad()
    def detect(self) -> dict:
        model, (x, _) = self.model(training=False), self.inputs(1)
        predictions = model(x)
        scores = predictions.class_scores().float()

        def work():
            return detect(
                predictions,
                [(480, 640)],
                mask_iou_net=model.mask_iou_net,
                masks=self.cfg.eval.masks,
            )

        # they count in forward
        with mock.patch.object(postprocess, "_class_scores", lambda _, image: scores[image]):
            return {**self.timed(work), "detail": {"detections": len(work()[0])}}

    def criterion(self) -> dict:
        model, (x, targets) = self.model(training=True), self.inputs(2)
        criterion = build_criterion(self.cfg, model).to(self.device)
        predictions = self._leaves(model, x)

        def work():
            # 0 measures gradients
            sum(
                criterion(predictions, [_without_reduced(t) for t in targets], step=1).values()
            ).backward()
            for name in LEAVES:
                getattr(predictions, name).grad = None

        return self.timed(work)

    def _leaves(self, model, x):
        """Predictions that end in leaves, for the criterion alone."""
        with torch.no_grad(), self.autocast:
            predictions = model(x)
        for name in LEAVES:
            setattr(predictions, name, getattr(predictions, name).detach().requires_grad_())
        return predictions

    def losses(self) -> dict:
        """Forward and backward of the whole criterion on two images, whose masks and extras come
        ready from the loader; every loss in turn with bce, so that a drift falls on both. The
        fastest calls are compared."""
        model, (x, targets) = self.model(training=True), self.inputs(2)
        predictions = self._leaves(model, x)
        sizes = [
            tuple(predictions.prototypes.shape[1:3]),
            tuple(predictions.semantic_logits.shape[-2:]),
        ]
        extras = [(name, sizes[0]) for name in EXTRAS.names()]
        targets = [
            t.to("cpu").reduce(sizes, keep_full=True, extras=extras).to(self.device)
            for t in targets
        ]

        def call(criterion) -> float:
            start = time.perf_counter()
            sum(criterion(predictions, targets, step=1).values()).backward()
            wait_for(self.device)
            return time.perf_counter() - start

        def build(expression: str):
            loss = self.cfg.loss.model_copy(update={"mask": expression})
            return build_criterion(self.cfg.model_copy(update={"loss": loss}), model).to(
                self.device
            )

        plain, relative = build("bce"), {}
        for expression in dict.fromkeys(text for name in names() for text in variants(name)):
            criterion = build(expression)
            pairs: list[tuple[float, float]] = []
            end = time.perf_counter() + self.seconds / 2
            while len(pairs) < 5 or time.perf_counter() < end:
                pairs.append((call(plain), call(criterion)))
            fastest = [min(times) for times in zip(*pairs[1:], strict=True)]
            relative[expression] = fastest[1] / fastest[0]
        return {
            "times": [fastest[0]],
            "relative": dict(sorted(relative.items(), key=lambda item: item[1])),
        }

    def rank_sort(self) -> dict:
        runs = {}
        for count in (20_000, 1_600_000):
            generator = torch.Generator().manual_seed(0)
            logits = torch.randn(count, generator=generator).to(self.device).requires_grad_()
            targets = (
                torch.zeros(count)
                .index_fill_(0, torch.randperm(count, generator=generator)[:200], 0.5)
                .to(self.device)
            )
            runs[count] = self.timed(
                lambda logits=logits, targets=targets: torch.autograd.grad(
                    torch.stack(rank_sort_loss(logits, targets, positives=200)).sum(), logits
                )
            )
        return {**runs[20_000], "detail": {"1.6M": 1e3 * median(runs[1_600_000]["times"])}}

    def step(self) -> dict:
        return self.timed(self._step())

    def _step(self) -> Callable[[], None]:
        """A training step of two images."""
        model, (x, targets) = self.model(training=True), self.inputs(2)
        train_step = TrainStep(
            model, build_criterion(self.cfg, model).to(self.device), precision=self.precision
        )
        optimizer = torch.optim.SGD(
            [p for p in train_step.parameters() if p.requires_grad],
            lr=1e-6,
            momentum=0.9,
            weight_decay=5e-4,
        )

        def work():
            optimizer.zero_grad()
            sum(train_step(x, [_without_reduced(t) for t in targets], step=1).values()).backward()
            optimizer.step()

        return work

    def assign(self) -> dict:
        """Anchor assignment of one image by every assigner, and what GmaIoU-ATSS costs beside
        IoU-ATSS and in a step of two images."""
        anchors, level_sizes = self.model(training=True).anchors_for(self.cfg.model.max_size)
        rows = assigner_times(
            anchors, level_sizes, self.cfg.model.max_size, self.device, self.seconds
        )
        one_step = self._step()
        with self.autocast:
            step = min(milliseconds(one_step, self.device) for _ in range(3))
        plain, masked = rows["atss(iou='iou')"], rows["atss(iou='gmaiou')"]
        ratios = {f"gmaiou/iou at {key.split()[-1]}": masked[key] / plain[key] for key in plain}
        return {
            "times": [masked["ms at 8"] / 1e3],
            "rows": rows,
            "detail": {**ratios, "% of a step": 200 * masked["ms at 8"] / step},
        }

    def train(self) -> dict:
        """A real step at the config's batch size on a generated set; per stage the median
        milliseconds."""
        with self._generated(train=4 * self.cfg.train.batch_size, val=1) as cfg:
            model = self.model(training=True)
            criterion = build_criterion(cfg, model).to(self.device)
            optimizer = build_optimizer(model.parameters(), cfg.train)
            batches = _training_batches(cfg, criterion)
            stages: dict[str, list[float]] = {
                name: [] for name in ("data", "forward", "criterion", "backward", "optimiser")
            }
            end = None
            while end is None or time.perf_counter() < end or len(stages["data"]) < 5:
                clock = Stages(stages, self.device)
                batch = next(batches).to(self.device)
                x = normalize(batch.images, cfg.model.pixel_mean, cfg.model.pixel_std)
                x = x.contiguous(memory_format=self.layout)
                clock.lap("data")
                with self.autocast:
                    predictions = model(x)
                    clock.lap("forward")
                    loss = sum(criterion(predictions, batch.targets).values())
                    clock.lap("criterion")
                loss.backward()
                clock.lap("backward")
                optimizer.step(), optimizer.zero_grad()
                clock.lap("optimiser")
                end = end or time.perf_counter() + self.seconds
            steps = [sum(row) for row in list(zip(*stages.values()))[2:]]
            return {
                "times": steps,
                "detail": {
                    **{name: 1e3 * median(laps[2:]) for name, laps in stages.items()},
                    "images/s": cfg.train.batch_size / median(steps),
                },
            }

    def inference(self) -> dict:
        report = benchmark(
            self.model(training=False),
            self.cfg,
            device=self.device,
            precision=self.precision,
            progress=False,
            iterations=max(3, int(2 * self.seconds)),
            warmup=2,
        )
        return {"times": [report.median_ms["total"] / 1e3], "detail": report.median_ms}

    def loader(self) -> dict:
        with self._generated(train=64, val=1) as cfg:
            criterion = build_criterion(cfg, build_model(cfg))
            batches = _training_batches(cfg, criterion)
            times = time_calls(
                lambda: next(batches), self.seconds, warmup=2 * max(cfg.train.num_workers, 1) + 1
            )
            rate = cfg.train.batch_size * len(times) / sum(times)
        with tempfile.TemporaryDirectory() as folder:
            rows = sample_times(cfg, Path(folder), criterion.mask_sizes, self.seconds)
        return {
            "times": times,
            "rows": rows,
            "detail": {"workers": cfg.train.num_workers, "images/s": rate},
        }

    def evaluate(self) -> dict:
        count = 32
        with self._generated(train=1, val=count) as cfg:
            model = self.model(training=False)
            start = time.perf_counter()
            evaluate(model, cfg, device=self.device, precision=self.precision, progress=False)
            seconds = time.perf_counter() - start
            return {"times": [seconds], "detail": {"images/s": count / seconds}}

    def statistics(self) -> dict:
        taken = resample_seconds(self.seconds)
        return {"times": [taken["200 x 1"]], "detail": taken}

    def _generated(self, train: int, val: int):
        return _GeneratedSet(self.cfg, train, val)


class Stages:
    """Adds the time since the last lap to a named list, synchronising first on CUDA."""

    def __init__(self, stages: dict[str, list[float]], device: torch.device):
        self.stages, self.device, self.last = stages, device, time.perf_counter()

    def lap(self, name: str) -> None:
        wait_for(self.device)
        now = time.perf_counter()
        self.stages[name].append(now - self.last)
        self.last = now


class _GeneratedSet:
    """The config, pointed at a small generated Cigarettes stand-in that exists inside the
    with-block."""

    def __init__(self, cfg, train: int, val: int):
        self.cfg, self.train, self.val = cfg, train, val

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name) / "set"
        generate(root, train=self.train, val=self.val, size=512, progress=False)
        data = self.cfg.data.model_copy(
            update={
                "root": str(root),
                "train_images": "train/images",
                "train_annotations": "train/coco_annotations.json",
                "val_images": "val/images",
                "val_annotations": "val/coco_annotations.json",
                "label_map": {1: 0},
            }
        )
        return self.cfg.model_copy(update={"data": data})

    def __exit__(self, *_):
        self.folder.cleanup()


def _training_batches(cfg: Config, criterion: Criterion) -> Iterator[Batch]:
    """Batches of the config's training set, as the first step of a training gets them."""
    dataset = training_set(cfg, None, criterion)
    workers = cfg.train.num_workers
    return iter(train_loader(cfg, dataset, start_step=0, rank=0, world_size=1, num_workers=workers))


def _without_reduced(targets: Targets) -> Targets:
    """A copy that has to shrink its masks again: the original's criterion does that work too."""
    return Targets(targets.boxes, targets.labels, targets.crowd, targets.masks)
