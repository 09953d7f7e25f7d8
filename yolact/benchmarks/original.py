"""One timing of scripts/bench.py on a checkout of the original YOLACT code: run by bench.py
--against, in a process of its own.

The checkout must run on the installed torch; it is used through its public classes only (Yolact,
Detect, MultiBoxLoss, postprocess).
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from yolact.benchmarks import inputs
from yolact.benchmarks.timing import peak_memory_mb, time_calls
from yolact.testing.recipe import make_state

ROOT = Path(__file__).resolve().parents[2]


def program() -> int:
    """Times one section of the original code; the result is one line of JSON on stdout."""
    parser = argparse.ArgumentParser()
    for name in ("checkout", "section", "config", "seconds", "threads"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    # from here on yolact, layers and data are its own; what was imported of ours stays at hand
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("yolact", "layers", "data")
    ]:
        del sys.modules[name]
    sys.path[:] = [args.checkout, *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]

    import torch

    torch.set_num_threads(int(args.threads))
    theirs = import_module("data.config")
    cfg = theirs.cfg
    theirs.set_cfg(f"{args.config}_config")
    cfg.mask_proto_debug = False

    work = {"forward": forward, "detect": detection, "criterion": criterion, "step": step}[
        args.section
    ](torch, cfg)
    print(json.dumps({"times": time_calls(work, float(args.seconds)), "peak_mb": peak_memory_mb()}))
    return 0


def network(torch, cfg):
    net = import_module("yolact").Yolact()
    state = make_state({key: tuple(value.shape) for key, value in net.state_dict().items()}, 0)
    net.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    net.detect.use_fast_nms, net.detect.use_cross_class_nms = True, False
    return net


def pictures(torch, cfg, count):
    return torch.from_numpy(inputs.images(count, cfg.max_size))


def forward(torch, cfg):
    net, x = network(torch, cfg), pictures(torch, cfg, 1)
    net.eval()  # returns nothing in this code
    net.detect = lambda predictions, _: predictions
    return lambda: _without_grad(torch, net, x)


def detection(torch, cfg):
    postprocess = import_module("layers.output_utils").postprocess

    net, x = network(torch, cfg), pictures(torch, cfg, 1)
    net.eval()  # returns nothing in this code
    detector, net.detect = net.detect, lambda predictions, _: predictions
    with torch.no_grad():
        predictions = net(x)

    def work():
        with torch.no_grad():
            found = detector(dict(predictions), net)
            cfg.mask_proto_debug = False
            postprocess(found, 640, 480)

    return work


def criterion(torch, cfg):
    net, loss_of = network(torch, cfg), _loss(cfg)
    net.train(), net.freeze_bn()
    truths = _truths(torch, cfg)
    with torch.no_grad():
        predictions = net(pictures(torch, cfg, 2))
    leaves = {
        key: value.detach().requires_grad_(key != "priors") for key, value in predictions.items()
    }

    def work():
        losses = loss_of(net, dict(leaves), *truths)
        sum(losses.values()).backward()
        for leaf in leaves.values():
            leaf.grad = None

    return work


def step(torch, cfg):
    net, loss_of, x, truths = (
        network(torch, cfg),
        _loss(cfg),
        pictures(torch, cfg, 2),
        _truths(torch, cfg),
    )
    net.train(), net.freeze_bn()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def work():
        optimizer.zero_grad()
        losses = loss_of(net, net(x), *truths)
        sum(losses.values()).backward()
        optimizer.step()

    return work


def _loss(cfg):
    return import_module("layers.modules").MultiBoxLoss(
        cfg.num_classes,
        cfg.positive_iou_threshold,
        cfg.negative_iou_threshold,
        cfg.ohem_negpos_ratio,
    )


def _truths(torch, cfg):

    truths = inputs.ground_truth(2, cfg.max_size, objects=8, classes=cfg.num_classes - 1)
    targets = [
        torch.cat([torch.from_numpy(t["boxes"]), torch.from_numpy(t["labels"]).float()[:, None]], 1)
        for t in truths
    ]
    return targets, [torch.from_numpy(t["masks"]).float() for t in truths], [0, 0]


def _without_grad(torch, net, x):
    with torch.no_grad():
        return net(x)
