"""One optimiser step: syncs, accumulation, non-finite losses, batch norm."""

import pytest
import torch

from tests.sync_counter import counted_syncs
from yolact.engine.state import build_state, freeze_batchnorm
from yolact.engine.step import TrainStep, Updater, read
from yolact.testing import tiny

CPU = torch.device("cpu")


def updater(cfg) -> Updater:
    state, _ = build_state(cfg, CPU, None)
    return Updater(state, cfg, CPU)


def snapshot(state) -> dict:
    return {name: value.clone() for name, value in state.model.state_dict().items()}


def worst(a: dict, b: dict) -> float:
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def test_the_counter_counts():
    x = torch.arange(4.0)
    with counted_syncs() as calls:
        (
            x.sum().item(),
            x.tolist(),
            x[x > 1],
            x.nonzero(),
            bool(x[0] > 0),
            x.cpu(),
            x.repeat_interleave(torch.tensor([1, 0, 2, 1])),
        )
        quiet = len(calls)
        _ = torch.where(x > 1, x, 0), x[torch.tensor([0, 1])], x * 2
    assert quiet >= 7 and len(calls) == quiet


MASK_OPTIONS = (
    "bce(weight=learned, balance='equal') + mse(match='grad', sampling=hardest(0.2)) + "
    "focal(sampling=points(20)) + dice"
)


@pytest.mark.parametrize(
    "mask, options",
    [
        ("bce + 0.5*mse", {}),
        (
            "bce + 0.5*mse",
            {
                "optimizer": "adamw",
                "clip_grad_norm": 1.0,
                "on_nonfinite": "skip",
                "freeze_bn": "never",
            },
        ),
        ("bce + 0.5*mse", {"ema_decay": 0.9, "freeze_bn": "never"}),
        (MASK_OPTIONS, {"gradients_every": 1}),
    ],
)
def test_a_whole_step_waits_once(mask, options):
    cfg = tiny.config(loss={"mask": mask}, **options)
    update = updater(cfg)
    batches = [tiny.batch(cfg, update.state.criterion, [2, 0, 3, 1], seed) for seed in range(2)]
    update([batches[0]])
    with counted_syncs() as calls:
        update([batches[1]])
    assert len(calls) <= 1, calls


def test_rescoring_adds_no_wait():
    cfg = tiny.config(model={"max_size": 256, "mask_iou_net": True})
    update = updater(cfg)
    batch = tiny.batch(cfg, update.state.criterion, [2, 0])
    with counted_syncs() as calls:
        record = update([batch])
    assert len(calls) <= 1 and "mask_iou" in record.losses


@pytest.mark.parametrize("few_masks", [False, True])
def test_accumulation_equals_the_whole_batch(few_masks):
    """4 micro-batches of unequal ground truth against one batch of 4, also where only a subset of
    positives has a mask loss."""
    loss = {"mask": "bce + 0.5*mse", "masks_to_train": 3 if few_masks else 100}
    results = []
    for parts in (1, 4):
        cfg = tiny.config(loss=loss, accumulate=parts)
        update = updater(cfg)
        records = [
            update(tiny.split(tiny.batch(cfg, update.state.criterion, [5, 0, 1, 2], seed), parts))
            for seed in range(3)
        ]
        results.append((snapshot(update.state), read(records)))
    start = snapshot(updater(tiny.config(loss=loss)).state)
    assert worst(start, results[0][0]) > 1e-4
    assert worst(results[0][0], results[1][0]) < 1e-6
    for one, four in zip(results[0][1], results[1][1], strict=True):
        assert four.losses == pytest.approx(one.losses, rel=1e-5, abs=1e-6)
        assert four.terms == pytest.approx(one.terms, rel=1e-5, abs=1e-6)


def test_gradient_shares_add_up_over_micro_batches():
    found = []
    for parts in (1, 4):
        cfg = tiny.config(loss={"mask": "bce + 0.5*mse"}, accumulate=parts, gradients_every=2)
        update = updater(cfg)
        found.append(
            read(
                [
                    update(
                        tiny.split(
                            tiny.batch(cfg, update.state.criterion, [5, 0, 1, 2], seed), parts
                        )
                    )
                    for seed in range(3)
                ]
            )
        )
    for step, (one, four) in enumerate(zip(*found, strict=True)):
        measured = {name: value for name, value in one.terms.items() if "/share" in name}
        assert bool(measured) == (step != 1)
        assert {name: four.terms[name] for name in measured} == pytest.approx(measured, rel=1e-4)
        if measured:
            assert measured["bce/share"] + measured["mse/share"] == pytest.approx(1)


def test_no_ground_truth_at_all_is_a_step_of_zeros():
    cfg = tiny.config(weight_decay=0)
    update = updater(cfg)
    before = snapshot(update.state)
    found = read([update([tiny.batch(cfg, update.state.criterion, [0, 0])])])[0]
    assert (
        not found.problem
        and found.losses["box"] == found.losses["class"] == found.losses["mask"] == 0
    )
    assert all(
        torch.isfinite(v).all() for v in snapshot(update.state).values() if v.is_floating_point()
    )
    # the semantic head alone learns from empty images
    assert worst(before, snapshot(update.state)) < 1


def poison(batch):
    """A batch whose second image is not finite. Real images are bytes; this stands for whatever
    overflows in the network."""
    images = batch.images.float()
    images[1, 0, 0, 0] = float("inf")
    return tiny.FakeBatch(images, batch.targets, batch.image_ids)


@pytest.mark.parametrize("freeze_bn", ["always", "never"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stop_freezes_everything_from_the_bad_step_on(freeze_bn, optimizer):
    cfg = tiny.config(freeze_bn=freeze_bn, optimizer=optimizer, on_nonfinite="stop")
    update = updater(cfg)
    good = [tiny.batch(cfg, update.state.criterion, [1, 2, 1, 1], seed) for seed in range(3)]
    records = [update([good[0]])]
    before = snapshot(update.state)
    records += [update([poison(good[1])]), update([good[2]])]
    after = snapshot(update.state)
    assert all(torch.equal(before[k], after[k]) for k in before if before[k].is_floating_point())
    found = read(records)
    assert [bool(step.problem) for step in found] == [False, True, False] and [
        step.skipped for step in found
    ] == [False, True, True]
    assert (
        "image1-1" in found[1].problem and "mask" in found[1].problem and "nan" in found[1].problem
    )


@pytest.mark.parametrize("freeze_bn", ["always", "never"])
def test_skip_leaves_out_the_bad_step_and_goes_on(freeze_bn):
    def run(poisoned):
        cfg = tiny.config(
            freeze_bn=freeze_bn, on_nonfinite="skip", warmup_iterations=0, lr_steps=()
        )
        update = updater(cfg)
        good = [tiny.batch(cfg, update.state.criterion, [1, 2, 1, 1], seed) for seed in range(2)]
        records = [update([good[0]])]
        if poisoned:
            records.append(update([poison(good[1])]))
        records.append(update([good[1]]))
        return snapshot(update.state), read(records)

    with_bad, steps = run(True)
    without, _ = run(False)
    assert [step.skipped for step in steps] == [False, True, False]
    assert all(
        torch.equal(with_bad[k], without[k]) for k in without if without[k].is_floating_point()
    )


def test_a_finite_loss_with_a_gradient_that_is_not_is_bad_too():
    cfg = tiny.config(on_nonfinite="skip")
    update = updater(cfg)
    weight = update.state.model.semantic_seg_conv.weight
    weight.register_hook(lambda grad: grad * float("nan"))
    before = snapshot(update.state)
    found = read([update([tiny.batch(cfg, update.state.criterion, [1, 1])])])[0]
    assert "the losses are finite but the gradient is not" in found.problem
    assert worst(before, snapshot(update.state)) == 0


def test_clipping_bounds_the_update():
    moved = {}
    for clip in (0.0, 1e-3):
        cfg = tiny.config(
            clip_grad_norm=clip, weight_decay=0, momentum=0, lr=1.0, warmup_iterations=0
        )
        update = updater(cfg)
        before = snapshot(update.state)
        update([tiny.batch(cfg, update.state.criterion, [1, 2])])
        after = snapshot(update.state)
        moved[clip] = (
            sum(
                (after[k] - before[k]).square().sum().item()
                for k in after
                if after[k].is_floating_point()
            )
            ** 0.5
        )
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3) and moved[0.0] > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_is_close_to_float32(precision):
    losses = {}
    for chosen in ("float32", precision):
        cfg = tiny.config(precision=chosen)
        update = updater(cfg)
        losses[chosen] = read([update([tiny.batch(cfg, update.state.criterion, [1, 2])])])[0]
    assert losses[precision].losses == pytest.approx(losses["float32"].losses, rel=0.05)


def test_fp16_overflow_is_not_bad_but_skipped_and_lowers_the_scale():
    cfg = tiny.config(precision="fp16")
    update = updater(cfg)
    update.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = snapshot(update.state)
    found = read([update([tiny.batch(cfg, update.state.criterion, [1, 2])])])[0]
    assert found.skipped and not found.problem
    assert worst(before, snapshot(update.state)) == 0 and update.state.scaler.get_scale() == 2.0**59


def test_channels_last_computes_the_same():
    """16 channels wide: with 8, oneDNN's backward of a strided 1x1 convolution in NHWC writes past
    its memory (torch 2.15)."""
    results = []
    for channels_last in (False, True):
        cfg = tiny.config(model={"backbone_width": 16}, channels_last=channels_last)
        update = updater(cfg)
        for seed in range(2):
            update([tiny.batch(cfg, update.state.criterion, [1, 2], seed)])
        results.append(snapshot(update.state))
    assert update.state.model.proto_net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert worst(*results) < 1e-5


@pytest.mark.parametrize(
    "choice, pretrained, batch_size, accumulate, frozen, warns",
    [
        ("auto", True, 5, 1, True, False),
        ("auto", True, 6, 1, False, False),
        ("auto", True, 12, 3, True, False),
        ("auto", False, 4, 1, False, False),
        ("auto", False, 3, 1, False, True),
        ("always", False, 8, 1, True, False),
        ("never", True, 2, 1, False, True),
    ],
)
def test_when_batch_norm_is_frozen(choice, pretrained, batch_size, accumulate, frozen, warns):
    notes = []
    cfg = tiny.config(freeze_bn=choice, batch_size=batch_size, accumulate=accumulate)
    assert freeze_batchnorm(cfg, pretrained, notes) is frozen
    assert any(note.startswith("warning") for note in notes) is warns


def test_train_step_is_model_then_criterion():
    cfg = tiny.config()
    model, criterion = tiny.model_and_criterion(cfg)
    batch = tiny.batch(cfg, criterion, [2, 1])
    images = batch.images.float() / 64 - 2
    found = TrainStep(model, criterion)(images, batch.targets)
    expected = criterion(model(images), batch.targets)
    assert found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) for k in found
    )
    names = dict(TrainStep(model, criterion).named_parameters())
    assert len(names) == len(list(model.parameters())) + len(list(criterion.parameters()))


def test_every_step_moves_the_average():
    """Validation reads it, so a step that forgot it would go unnoticed in the losses."""
    update = updater(tiny.config(ema_decay=0.5))
    state = update.state
    expected = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    for n in range(3):
        update([tiny.batch(update.cfg, state.criterion, [2, 1], seed=n)])
        decay = min(0.5, (1 + n) / (10 + n))
        for name, p in state.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
    assert state.ema.updates == 3 and state.best_model is state.ema.module
    for name, averaged in state.ema.module.named_parameters():
        torch.testing.assert_close(averaged.detach(), expected[name], rtol=1e-5, atol=1e-7)


def test_each_step_draws_another_subset_and_the_same_step_the_same():
    update = updater(tiny.config())
    draws = []
    for step in (0, 1, 0):
        update.state.step = step
        (keys,) = update._subset_orders(50, [2])
        draws.append((keys, update._generator(0).initial_seed()))
    assert not torch.equal(draws[0][0], draws[1][0]) and draws[0][1] != draws[1][1]
    assert torch.equal(draws[0][0], draws[2][0]) and draws[0][1] == draws[2][1]
