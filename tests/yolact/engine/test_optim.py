"""Optimiser, schedule and moving average."""

import math

import pytest
import torch
from torch import nn

from data.schema import TrainConfig
from yolact.engine.optim import (
    Ema,
    build_optimizer,
    build_scheduler,
    load_optimizer,
    lr_factor,
    set_step,
)

BASE = dict(lr=1e-3, iterations=1000, lr_steps=(300, 600), warmup_iterations=100, warmup_lr=1e-4)


def rates(train, steps):
    factor = lr_factor(train)
    return [train.lr * factor(step) for step in steps]


def test_warmup_then_steps():
    found = rates(TrainConfig(**BASE), [0, 50, 100, 299, 300, 599, 600, 999])
    assert found == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_warmup_then_cosine():
    found = rates(TrainConfig(**BASE, schedule="cosine"), [0, 100, 550, 1000])
    assert found == pytest.approx([1e-4, 1e-3, 5e-4, 0], abs=1e-12)


def test_a_drop_inside_the_warmup_lowers_what_the_rate_rises_to():
    cfg = TrainConfig(**{**BASE, "warmup_lr": 5e-5, "lr_steps": (50, 600)})
    # from 5e-5 to 1e-3, and from step 50 on to 1e-4
    expected = [5e-5 + 0.4 * 95e-5, 5e-5 + 0.5 * 5e-5, 5e-5 + 0.8 * 5e-5, 1e-4, 1e-4]
    assert rates(cfg, [40, 50, 80, 100, 599]) == pytest.approx(expected)


def test_no_warmup():
    assert rates(TrainConfig(**{**BASE, "warmup_iterations": 0}), [0]) == [1e-3]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_first_steps_follow_the_textbook(name):
    """Two steps on one weight, by hand."""
    p = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    optimizer = build_optimizer(
        [p], TrainConfig(optimizer=name, lr=0.1, momentum=0.9, weight_decay=0.01)
    )
    w, m, v = 2.0, 0.0, 0.0
    for t, g in enumerate((1.0, -3.0), 1):
        p.grad = torch.tensor([[g]], dtype=torch.float64)
        optimizer.step()
        if name == "sgd":
            m = 0.9 * m + g + 0.01 * w
            w -= 0.1 * m
        else:
            w -= 0.1 * 0.01 * w
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert p.item() == pytest.approx(w, abs=1e-9)


def test_adamw_decays_matrices_only():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = build_optimizer(
        model.parameters(), TrainConfig(optimizer="adamw", weight_decay=0.1)
    )
    decayed = {
        p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    assert decayed == {model[0].weight}


def test_frozen_parameters_are_left_out():
    model = nn.Conv2d(3, 4, 3)
    model.bias.requires_grad_(False)
    assert build_optimizer(model.parameters(), TrainConfig()).param_groups[0]["params"] == [
        model.weight
    ]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("first", [True, False])
def test_found_inf_leaves_weights_and_moments(name, first):
    """A skipped step changes nothing, be it the first; the next step is then what it would have
    been without it."""

    def run(skip):
        p = nn.Parameter(torch.arange(6.0).view(2, 3))
        optimizer = build_optimizer([p], TrainConfig(optimizer=name, lr=0.1))
        for bad in ([] if first else [0.0]) + ([1.0] if skip else []) + [0.0, 0.0]:
            p.grad = torch.full_like(p, float("nan")) if bad else torch.ones_like(p)
            optimizer.found_inf = torch.tensor(bad)
            optimizer.step()
        return p.detach()

    assert torch.equal(run(True), run(False)) and torch.isfinite(run(True)).all()


def test_resumed_schedule_and_optimizer_continue_exactly():
    train = TrainConfig(**BASE, optimizer="adamw")

    def make():
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = build_optimizer(model.parameters(), train)
        return model, optimizer, build_scheduler(optimizer, train)

    def advance(model, optimizer, scheduler, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
            scheduler.step()

    whole, half, rest = make(), make(), make()
    advance(*whole, 40)
    advance(*half, 20)
    rest[0].load_state_dict(half[0].state_dict())
    load_optimizer(rest[1], half[1].state_dict())
    set_step(rest[2], 20)
    assert rest[1].param_groups[0]["lr"] == half[1].param_groups[0]["lr"]
    advance(*rest, 20)
    assert all(
        torch.equal(a, b) for a, b in zip(whole[0].parameters(), rest[0].parameters(), strict=True)
    )


def test_load_optimizer_keeps_the_new_rate_and_refuses_other_parameters():
    model = nn.Linear(4, 4)
    saved = build_optimizer(model.parameters(), TrainConfig(lr=1e-3)).state_dict()
    optimizer = build_optimizer(model.parameters(), TrainConfig(lr=5e-2))
    load_optimizer(optimizer, saved)
    assert optimizer.param_groups[0]["lr"] == 5e-2
    with pytest.raises(ValueError, match="another set of parameters.*init_from"):
        load_optimizer(build_optimizer(nn.Linear(5, 4).parameters(), TrainConfig()), saved)
    with pytest.raises(ValueError, match="another set of parameters.*init_from"):
        load_optimizer(build_optimizer(model.parameters(), TrainConfig(optimizer="adamw")), saved)


def test_load_optimizer_adopts_the_memory_format():
    plain, nhwc = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(nhwc.parameters(), TrainConfig())
    load_optimizer(optimizer, build_optimizer(plain.parameters(), TrainConfig()).state_dict())
    assert optimizer.state[nhwc.weight]["momentum_buffer"].stride() == nhwc.weight.stride()


def test_ema_follows_its_formula_and_copies_buffers():
    model = nn.BatchNorm1d(1).double()
    ema = Ema(model, decay=0.5)
    expected = 1.0
    for n, value in enumerate((2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(value)
            model.num_batches_tracked += 1
        ema.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert ema.module.weight.item() == pytest.approx(expected, abs=1e-9)
        assert ema.module.running_mean.item() == value
    assert (
        int(ema.module.num_batches_tracked) == int(model.num_batches_tracked)
        and ema.updates == 10
        and min(0.5, 10 / 19) == 0.5
    )


def test_ema_restores_exactly():
    model = nn.Linear(3, 3)
    one, two = Ema(model, 0.9), Ema(model, 0.9)

    def drift(ema, steps):
        for step in steps:
            with torch.no_grad():
                model.weight.fill_(step)
            ema.update(model)

    drift(one, range(3))
    two.restore(one.module.state_dict(), one.updates)
    drift(one, range(3, 6))
    drift(two, range(3, 6))
    assert torch.equal(one.module.weight, two.module.weight)
