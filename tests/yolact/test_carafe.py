"""CARAFE against its definition, pixel by pixel; in the pyramid; exported."""

import pytest
import torch
import torch.nn.functional as F

from data.schema import Config
from yolact import build_model, carafe
from yolact.carafe import Carafe, reassemble
from yolact.fpn import FPN


def by_definition(x, kernels, k):
    """Equations 1 to 4 of the paper in loops: x (C,H,W), kernels (4*k*k,H,W) before pixel shuffle
    and softmax -> (C,2H,2W)."""
    channels, height, width = x.shape
    kernels = F.pixel_shuffle(kernels[None], 2)[0].softmax(0)  # (kk,2H,2W)
    out = torch.zeros(channels, 2 * height, 2 * width, dtype=x.dtype)
    for row in range(2 * height):
        for column in range(2 * width):
            for n in range(-(k // 2), k // 2 + 1):
                for m in range(-(k // 2), k // 2 + 1):
                    i, j = row // 2 + n, column // 2 + m
                    if 0 <= i < height and 0 <= j < width:
                        out[:, row, column] += (
                            kernels[(n + k // 2) * k + m + k // 2, row, column] * x[:, i, j]
                        )
    return out


def inputs(shape, k=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    batch, _, height, width = shape
    return (
        torch.randn(shape, generator=generator, dtype=dtype),
        2 * torch.randn(batch, 4 * k * k, height, width, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize(
    ("shape", "k"),
    [((2, 3, 6, 5), 5), ((1, 2, 1, 1), 5), ((1, 1, 9, 2), 5), ((1, 2, 4, 3), 3), ((1, 2, 3, 3), 1)],
)
@pytest.mark.parametrize("gathered", [1, carafe.BAND_ELEMENTS])
def test_equals_the_definition(shape, k, gathered, monkeypatch):
    monkeypatch.setattr(carafe, "BAND_ELEMENTS", gathered)  # 1: a row at a time
    x, kernels = inputs(shape, k)
    expected = torch.stack(
        [by_definition(image, kernel, k) for image, kernel in zip(x, kernels, strict=True)]
    )
    torch.testing.assert_close(reassemble(x, kernels), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("shape", "k"), [((1, 2, 3, 2), 5), ((2, 1, 5, 1), 3), ((1, 1, 1, 2), 1)])
@pytest.mark.parametrize("gathered", [1, carafe.BAND_ELEMENTS])
def test_gradients_equal_finite_differences(shape, k, gathered, monkeypatch):
    monkeypatch.setattr(carafe, "BAND_ELEMENTS", gathered)
    x, kernels = (t.requires_grad_() for t in inputs(shape, k))
    assert torch.autograd.gradcheck(reassemble, (x, kernels))


def test_a_constant_stays_inside_and_fades_at_the_border():
    _, kernels = inputs((1, 1, 9, 9))
    out = reassemble(torch.ones(1, 1, 9, 9, dtype=torch.float64), kernels)[0, 0]
    assert (
        torch.allclose(out[4:-4, 4:-4], torch.ones(10, 10, dtype=torch.float64))
        and out[0].max() < 1
    )


def test_the_module_predicts_its_kernels_from_the_content():
    layer = Carafe(6, compressed=4)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "channel_compressor.weight": (4, 6, 1, 1),
        "channel_compressor.bias": (4,),
        "content_encoder.weight": (100, 4, 3, 3),
        "content_encoder.bias": (100,),
    }
    assert Carafe(256).channel_compressor.out_channels == 64
    x = torch.randn(2, 6, 5, 7)
    compressed = F.conv2d(x, layer.channel_compressor.weight, layer.channel_compressor.bias)
    kernels = F.conv2d(
        compressed, layer.content_encoder.weight, layer.content_encoder.bias, padding=1
    )
    torch.testing.assert_close(layer(x), reassemble(x, kernels))
    layer(x).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_no_gathered_neighbourhoods_are_kept():
    x, kernels = (t.requires_grad_() for t in inputs((1, 64, 12, 12), dtype=torch.float32))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = reassemble(x, kernels)
    assert out.grad_fn is not None
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // 4 for t in saved}
    assert sum(storages.values()) <= x.numel() + 3 * kernels.numel()  # 25 times x otherwise


def test_what_is_gathered_at_a_time_is_bounded(monkeypatch):
    gathered, windows = [], carafe._windows
    monkeypatch.setattr(carafe, "BAND_ELEMENTS", 50_000)
    monkeypatch.setattr(
        carafe, "_windows", lambda *some: gathered.append(windows(*some)) or gathered[-1]
    )
    # 25 * 18,432 elements in all
    x, kernels = (t.requires_grad_() for t in inputs((2, 16, 24, 24), dtype=torch.float32))
    reassemble(x, kernels).sum().backward()
    assert len(gathered) == 24 and max(t.numel() for t in gathered) <= 50_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    x, kernels = (t.to(dtype) for t in inputs((2, 3, 6, 5), dtype=torch.float32))
    expected = reassemble(x.double(), kernels.double())
    out = reassemble(x, kernels)
    assert out.dtype == dtype and float((out.double() - expected).abs().max()) <= torch.finfo(
        dtype
    ).eps * float(expected.abs().max())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            reassemble(x.float(), kernels.float()), expected.float(), atol=1e-5, rtol=0
        )


def test_pyramid_cuts_to_the_next_level():
    torch.manual_seed(0)
    pyramid = FPN((4, 8, 16), 8, upsample="carafe")
    features = [torch.randn(1, c, s, s) for c, s in ((4, 9), (8, 5), (16, 3))]
    p3, p4, p5, *_ = pyramid(features)
    top, middle, bottom = (
        lateral(feature)
        for lateral, feature in zip(pyramid.lat_layers, reversed(features), strict=True)
    )
    middle = middle + pyramid.upsample_layers[0](top)[..., :5, :5]
    bottom = bottom + pyramid.upsample_layers[1](middle)[..., :9, :9]
    for found, merged, smooth in zip(
        (p5, p4, p3), (top, middle, bottom), pyramid.pred_layers, strict=True
    ):
        torch.testing.assert_close(found, smooth(merged).relu())


def small(upsample):
    return build_model(
        Config(
            name="test",
            model={
                "max_size": 96,
                "backbone": "resnet10",
                "backbone_width": 8,
                "fpn_channels": 16,
                "proto_channels": 16,
                "head_channels": 16,
                "prototypes": 4,
                "fpn_upsample": upsample,
            },
        )
    )


def test_config_chooses_it_and_leaves_all_else():
    plain, carafe = small("bilinear").state_dict(), small("carafe").state_dict()
    added = {key for key in carafe if key not in plain}
    assert len(added) == 8 and all(key.startswith("fpn.upsample_layers.") for key in added)
    assert all(torch.equal(carafe[key], value) for key, value in plain.items())
    encoder = carafe["fpn.upsample_layers.1.content_encoder.weight"]
    assert encoder.std().item() == pytest.approx(1e-3, rel=0.05)  # at first, a mean over 5x5


def test_a_model_with_it_is_exported():
    model = small("carafe").eval()
    x = torch.randn(1, 3, 96, 96)

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            out = self.model(images)
            return out.box_deltas, out.class_logits, out.mask_coeffs, out.prototypes

    with torch.no_grad():
        expected = Outputs()(x)
        program = torch.export.export(Outputs(), (x,))
    for found, wanted in zip(program.module()(x), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
