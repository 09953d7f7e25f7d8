"""How closely an exported file agrees with the model in torch: tensors, detections, AP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.coco import CocoDataset
from data.loader import build_dataset
from layers.boxes import pairwise_iou
from layers.masks import image_windows
from yolact.cli import note, one_line
from yolact.engine.evaluate import coco_ground_truth, coco_results
from yolact.engine.metrics import IouType, coco_metrics
from yolact.engine.predict import Predictor
from yolact.export.graphs import Detector, Network
from yolact.outputs import Detections, Predictions
from yolact.rle import MaskRuns

SAME = 0.9  # box IoU from which two detections of one class are taken as the same
Run = Callable[[Tensor], Sequence[np.ndarray]]


@dataclass
class Parity:
    """Differences between torch and a runtime, over some images.

    tensors    output of the network -> (largest difference, largest value in torch)
    found      detections of torch, of the runtime, and pairs of both
    boxes      largest difference of a pair, in pixels of the input; scores, mask_scores likewise
    pixels     mask pixels of pairs in which they differ, of all pixels that either has set
    least_iou  of the masks of a pair, at the input's size
    ap         'mask' and 'box' -> AP of torch and of the runtime, from masks at the input's size
               that are brought to the image by one resize; empty without ground truth
    """

    runtime: str
    images: str
    tensors: dict[str, tuple[float, float]] = field(default_factory=dict)
    found: list[int] = field(default_factory=lambda: [0, 0, 0])
    boxes: float = 0.0
    scores: float = 0.0
    mask_scores: float = 0.0
    pixels: list[int] = field(default_factory=lambda: [0, 0])
    least_iou: float = 1.0
    ap: dict[str, tuple[float, float]] = field(default_factory=dict)

    def table(self) -> str:
        """A line for each comparison."""
        torch_found, found, pairs = self.found
        rows = [("compared with torch", f"{self.runtime}, {self.images}")]
        rows += [
            (
                f"tensor {name}",
                f"differs by at most {worst:.2g}; its largest value: {largest:.3g}",
            )
            for name, (worst, largest) in self.tensors.items()
        ]
        rows += [
            ("detections", f"{torch_found} in torch, {found} here, {pairs} of them the same"),
            ("boxes", f"differ by at most {self.boxes:.2g} pixels of the input"),
            ("scores", f"differ by at most {self.scores:.2g}"),
            ("mask scores", f"differ by at most {self.mask_scores:.2g}"),
            (
                "masks",
                f"{self.pixels[0]} of {self.pixels[1]} pixels differ, least IoU "
                f"{self.least_iou:.5f}",
            ),
        ]
        rows += [
            (f"{kind} AP", f"{100 * one:.2f} in torch, {100 * other:.2f} here")
            for kind, (one, other) in self.ap.items()
        ]
        return "\n".join(f"{name:<24}{text}" for name, text in rows)

    def compare(self, one: Detections, other: Detections) -> None:
        """Adds what differs between an image's detections in torch and in the runtime."""
        taken = same_detections(one, other)
        self.found = [a + b for a, b in zip(self.found, (len(one), len(other), len(taken)))]
        for i, j in taken:
            self.boxes = max(self.boxes, float((one.boxes[i] - other.boxes[j]).abs().max()))
            self.scores = max(self.scores, float((one.scores[i] - other.scores[j]).abs()))
            change = float((one.mask_scores[i] - other.mask_scores[j]).abs())
            self.mask_scores = max(self.mask_scores, change)
            first, second = one.runs.mask(i), other.runs.mask(j)
            union, differ = int((first | second).sum()), int((first ^ second).sum())
            self.pixels = [self.pixels[0] + differ, self.pixels[1] + union]
            self.least_iou = min(self.least_iou, 1 - differ / max(1, union))


def same_detections(one: Detections, other: Detections) -> list[tuple[int, int]]:
    """Numbers of detections of one class whose boxes overlap by SAME or more: the best first, each
    taken once. Equal scores may come in another order elsewhere, so that ranks do not tell."""
    if not len(one) or not len(other):
        return []
    iou = pairwise_iou(one.boxes, other.boxes)
    iou = torch.where(one.labels[:, None] == other.labels, iou, 0.0)
    # of several with one box, those of the nearest score
    iou -= 1e-3 * (one.scores[:, None] - other.scores).abs()
    found = []
    for _ in range(min(iou.shape)):
        i, j = divmod(int(iou.argmax()), iou.shape[1])
        if iou[i, j] < SAME:
            break
        found.append((i, j))
        iou[i], iou[:, j] = -1, -1
    return found


def check(
    predictor: Predictor, graph: Network | Detector, run: Run, runtime: str, *, images: int = 20
) -> Parity:
    """Compares run(images (1,3,S,S)), which returns the outputs of `graph` in another runtime, with
    the model of the predictor, on its validation images or, without them, on noise."""
    pictures, dataset = _pictures(predictor, images)
    parity = Parity(runtime, f"{len(pictures)} images" if dataset else f"{len(pictures)} of noise")
    side = predictor.cfg.model.max_size
    results: dict[str, tuple[list, list]] = {"box": ([], []), "mask": ([], [])}
    for number, picture in enumerate(pictures):
        batch = predictor.preprocess([picture])
        predictions = predictor.forward(batch)
        arrays = [torch.from_numpy(np.array(array)) for array in run(batch)]
        one = _detected(predictor, predictions)
        if isinstance(graph, Network):
            theirs = _predictions(arrays, predictions)
            _compare_tensors(parity, predictions, theirs)
            other = _detected(predictor, theirs)
        else:
            other = cut(arrays)
        parity.compare(one, other)
        if dataset is not None:
            for place, found in enumerate((one, other)):
                whole = at_size(found, side, picture.shape[:2])
                ids = dataset.image_ids[number], dataset.category_of_label
                for kind, entries in zip(("box", "mask"), coco_results(whole, *ids)):
                    results[kind][place].extend(entries)
    if dataset is not None and dataset.annotation_file is not None:
        parity.ap = _ap(predictor, dataset, len(pictures), results)
    return parity


def _pictures(predictor: Predictor, count: int) -> tuple[list[np.ndarray], CocoDataset | None]:
    try:
        dataset = build_dataset(predictor.cfg, "val", mask_sizes=[], needs_full_masks=False)
        return [dataset.load_image(i) for i in range(min(count, len(dataset)))], dataset
    except (ValueError, OSError) as error:
        note(f"compared on noise, not on validation images: {one_line(error)}")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (min(count, 4), 12, 16, 3), np.uint8)
    return [np.kron(image, np.ones((20, 20, 1), np.uint8)) for image in coarse], None


def _detected(predictor: Predictor, predictions: Predictions) -> Detections:
    side = predictor.cfg.model.max_size
    return predictor.detect(predictions, [(side, side)])[0].to("cpu")


def _predictions(arrays: list[Tensor], like: Predictions) -> Predictions:
    deltas, logits, coefficients, prototypes, anchors = arrays
    sizes, sigmoid = like.level_sizes, like.sigmoid
    return Predictions(deltas, logits, coefficients, prototypes, anchors, None, sizes, sigmoid)


def _compare_tensors(parity: Parity, one: Predictions, other: Predictions) -> None:
    for name in Network.outputs:
        first, second = getattr(one, name), getattr(other, name)
        worst, largest = parity.tensors.get(name, (0.0, 0.0))
        change = float((first - second).abs().max())
        parity.tensors[name] = max(worst, change), max(largest, float(first.abs().max()))


def cut(arrays: Sequence[Tensor]) -> Detections:
    """The outputs of a Detector for one image, without what is padded."""
    boxes, scores, mask_scores, labels, _, masks, count = (array[0] for array in arrays)
    n = int(count)
    runs = masks[:n].bool()
    return Detections(boxes[:n], labels[:n], scores[:n], mask_scores[:n], runs)


def at_size(found: Detections, side: int, size: tuple[int, int]) -> Detections:
    """Detections at the input's size, brought to an image of (h,w): masks bilinearly, > 0.5."""
    height, width = size
    windows = image_windows(found.masks.float(), size)
    scale = found.boxes.new_tensor([width / side, height / side] * 2)
    return Detections(
        found.boxes * scale,
        found.labels,
        found.scores,
        found.mask_scores,
        MaskRuns.collect(windows, size),
    )


def _ap(
    predictor: Predictor, dataset: CocoDataset, count: int, results: dict[str, tuple[list, list]]
) -> dict[str, tuple[float, float]]:
    truth = coco_ground_truth(dataset, predictor.cfg)
    found = {}
    kinds: tuple[tuple[str, IouType], ...] = (("mask", "segm"), ("box", "bbox"))
    for kind, iou_type in kinds:
        one, other = (
            coco_metrics(
                truth,
                entries,
                iou_type,
                predictor.cfg.eval.max_dets,
                image_ids=dataset.image_ids[:count],
                category_ids=set(dataset.category_of_label.values()),
            ).ap
            for entries in results[kind]
        )
        if one is not None and other is not None and not math.isnan(one + other):
            found[kind] = one, other
    return found


def onnx_run(path: Path) -> tuple[Run, str]:
    """What runs an ONNX file, and its name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = f"onnxruntime {onnxruntime.__version__}"
    return lambda images: session.run(None, {"images": images.cpu().numpy()}), name


def openvino_run(path: Path) -> tuple[Run, str]:
    """What runs a file of OpenVINO on the CPU in float32, and its name."""
    import openvino

    # bf16 is OpenVINO's own choice on processors that have it
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    name = f"openvino {openvino.__version__.split('-')[0]}"
    return lambda images: list(model({"images": images.cpu().numpy()}).values()), name


def repeated(run: Run, outputs: Sequence[str], batch: int) -> Run:
    """What runs a file for `batch` images at a time, for one: the image is repeated, and what is
    found on the first is taken. ValueError names an output where the others differ from it."""

    def one(images: Tensor) -> list[np.ndarray]:
        values = run(images.expand(batch, -1, -1, -1).contiguous())
        found = []
        for name, value in zip(outputs, values, strict=True):
            alone = name == "anchors"  # which all images share
            if not alone and not all(
                np.allclose(value[0], other, atol=1e-3) for other in value[1:]
            ):
                raise ValueError(
                    f"the exported file gives {batch} copies of one image different values of "
                    f"{name!r}, so the runtime splits the batch wrongly: export without --batch"
                )
            found.append(value if alone else value[:1])
        return found

    return one


def torch_run(path: Path) -> tuple[Run, str]:
    """What runs a file of torch.export, and its name."""
    module = torch.export.load(path).module()

    def run(images: Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            return [value.numpy() for value in module(images.cpu())]

    return run, f"torch.export of {torch.__version__}"
