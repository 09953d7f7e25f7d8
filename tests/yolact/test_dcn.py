"""Deformable convolution: known cases, then agreement of the backends in values and gradients."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode

from yolact import dcn
from yolact.dcn import DeformConv2d, _operator


def make_layer(
    in_channels=6,
    out_channels=5,
    *,
    stride=1,
    groups=1,
    backend="grid_sample",
    offset_scale=0.5,
    dtype=torch.float32,
):
    generator = torch.Generator().manual_seed(0)
    layer = DeformConv2d(in_channels, out_channels, stride=stride, groups=groups, backend=backend)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        layer.conv_offset_mask.weight.mul_(offset_scale)
    return layer.to(dtype)


@pytest.mark.parametrize("backend", ["torchvision", "grid_sample"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_new_layer_is_a_plain_convolution_at_half_strength(backend, stride):
    layer = DeformConv2d(4, 3, stride=stride, backend=backend)
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(
        layer(x), 0.5 * F.conv2d(x, layer.weight, stride=stride, padding=1), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("backend", ["torchvision", "grid_sample"])
def test_offsets_are_y_then_x_and_outside_is_zero(backend):
    layer = DeformConv2d(1, 1, backend=backend)
    with torch.no_grad():
        layer.weight.zero_()[0, 0, 1, 1] = 2  # 2 * sigmoid(0) = 1: the centre tap, moved
        layer.conv_offset_mask.bias[8] = 1.0  # y of tap 4
        layer.conv_offset_mask.bias[9] = 0.5  # x of tap 4
    x = torch.arange(12.0).view(1, 1, 3, 4)
    below = F.pad(x[0, 0], (0, 1, 0, 1))[1:]  # one row down; zeros beyond the map
    expected = (below[:, :-1] + below[:, 1:]) / 2
    torch.testing.assert_close(layer(x)[0, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 6, 9, 11), 1),
        ((1, 6, 1, 5), 1),
        ((3, 6, 4, 1), 1),
        ((2, 6, 9, 11), 2),
        ((2, 12, 7, 5), 4),
        ((1, 4, 5, 5), 4),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_backends_agree_in_values_and_gradients(stride, shape, groups, threads, monkeypatch):
    # which decides how grid_sample's channels are split
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    results = {}
    for backend in ("torchvision", "grid_sample"):
        layer = make_layer(shape[1], stride=stride, groups=groups, backend=backend)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = layer(x)
        (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        results[backend] = [out.detach(), x.grad, *(p.grad for p in layer.parameters())]
    for ours, theirs in zip(results["grid_sample"], results["torchvision"], strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((ours - theirs).abs().max()) / scale < 2e-5


@pytest.mark.parametrize("backend", ["torchvision", "grid_sample"])
def test_each_group_of_channels_has_its_own_offsets(backend):
    """Two groups are two layers, on half the input channels each."""
    layer = make_layer(6, 5, groups=2, backend=backend)
    x = torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(4))
    offset_mask = layer.conv_offset_mask(x)
    operator = _operator(backend, x.device)
    halves = [
        operator(
            x[:, 3 * g : 3 * g + 3],
            offset_mask[:, 18 * g : 18 * g + 18],
            offset_mask[:, 36 + 9 * g : 45 + 9 * g].sigmoid(),
            layer.weight[:, 3 * g : 3 * g + 3],
            layer.bias / 2,
            1,
        )
        for g in range(2)
    ]
    torch.testing.assert_close(layer(x), halves[0] + halves[1], atol=1e-5, rtol=1e-5)


def test_one_group_has_the_official_shapes_and_more_have_more_offsets():
    assert DeformConv2d(8, 4).conv_offset_mask.weight.shape == (27, 8, 3, 3)
    assert DeformConv2d(8, 4, groups=4).conv_offset_mask.weight.shape == (108, 8, 3, 3)
    with pytest.raises(ValueError, match="dcn_groups=4 does not divide the 6 channels"):
        DeformConv2d(6, 4, groups=4)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_equal_finite_differences(groups):
    layer = make_layer(2, 3, groups=groups, dtype=torch.float64)
    x = torch.randn(
        1,
        2,
        3,
        4,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(3),
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(layer, (x,), atol=1e-6)


ROUNDING = 1e-5  # of float32 sums of 54 products in another order, on any processor


def test_channels_last_input_and_any_thread_count_give_the_same():
    layer = make_layer(6, 4)
    x = torch.randn(2, 6, 8, 8)
    expected = layer(x).detach()
    torch.testing.assert_close(
        layer(x.to(memory_format=torch.channels_last)), expected, atol=ROUNDING, rtol=0
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(layer(x), expected, atol=ROUNDING, rtol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", ["torchvision", "grid_sample"])
def test_bf16_autocast_samples_in_float32_and_returns_the_input_type(backend):
    layer = make_layer(backend=backend)
    x = torch.randn(1, 6, 8, 8)
    expected = layer(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x.bfloat16())
        assert layer(x).dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert float((half.detach().float() - expected).abs().max()) < 0.05 * float(
        expected.abs().max()
    )
    half.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


class Products(TorchDispatchMode):
    """Types of what matrix products multiply, and of what is sampled."""

    def __init__(self):
        super().__init__()
        self.multiplied, self.sampled = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("addmm", "addmm_", "mm"):
            self.multiplied |= {args[-1].dtype, args[-2].dtype}
        if name.startswith("grid_sampler"):
            self.sampled |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
def test_autocast_sets_the_type_of_the_product_and_not_of_the_sampling(product):
    layer = make_layer(backend="grid_sample")
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    with Products() as seen:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=product == torch.bfloat16):
            out = layer(x)
        out.sum().backward()
    assert seen.multiplied == {product}
    assert seen.sampled == {torch.float32}


def test_autocast_leaves_float64_alone():
    layer = make_layer(backend="grid_sample", dtype=torch.float64)
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert torch.equal(out, layer(x))


def test_gradients_of_the_product_in_bf16_are_those_of_float32_but_for_rounding():
    layer = make_layer(backend="grid_sample")
    x = torch.randn(4, 6, 8, 8, requires_grad=True)
    grads = {}
    for bf16 in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            out = layer(x)
        grads[bf16] = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])
    for exact, rounded in zip(grads[False], grads[True], strict=True):
        assert rounded.dtype == exact.dtype
        assert float((rounded - exact).norm() / exact.norm()) < 0.02


def test_half_precision_module_runs_on_the_cpu():
    layer = make_layer(dtype=torch.bfloat16)
    assert layer(torch.randn(1, 6, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_backward_keeps_no_columns():
    layer = make_layer(8, 8)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        layer(torch.randn(1, 8, 16, 16))
    assert max(saved) <= 2 * 9 * 16 * 16  # the grid; the columns would be 8 * 9 * 16 * 16


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="dcn_backend='dcnv5' is not one of auto, torchvision"):
        DeformConv2d(4, 4, backend="dcnv5")


def test_mmcv_missing_is_said_when_the_model_is_built():
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="needs mmcv .* model.dcn_backend=auto"):
            DeformConv2d(4, 4, backend="mmcv")
    else:
        pytest.skip("mmcv is installed")


def test_mmcv_is_given_its_arguments_in_order(monkeypatch):
    def modulated_deform_conv2d(
        input, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
    ):
        assert (groups, deform_groups) == (1, 2) and mask.shape[1] == 9 * deform_groups
        return torchvision.ops.deform_conv2d(
            input, offset, weight, bias, stride, padding, dilation, mask
        )

    monkeypatch.setattr(dcn, "_mmcv_operator", lambda: modulated_deform_conv2d)
    x = torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        make_layer(groups=2, stride=2, backend="mmcv")(x),
        make_layer(groups=2, stride=2)(x),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_mmcv_agrees(groups):
    pytest.importorskip(
        "mmcv.ops", reason="mmcv with compiled operators is not installed", exc_type=ImportError
    )
    results = {}
    for backend in ("mmcv", "grid_sample"):
        layer = make_layer(stride=2, groups=groups, backend=backend)
        x = torch.randn(2, 6, 9, 11, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = layer(x)
        out.square().sum().backward()
        results[backend] = [out.detach(), x.grad, *(p.grad for p in layer.parameters())]
    for ours, theirs in zip(results["grid_sample"], results["mmcv"], strict=True):
        assert float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max())) < 2e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["auto", "grid_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_equals_cpu(backend, dtype):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    layer = make_layer()
    x = torch.randn(2, 6, 9, 11)
    expected = layer(x).detach()
    layer.backend = backend
    layer.cuda()
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        out = layer(x.cuda())
    tolerance = 2e-5 if dtype == torch.float32 else 0.05 * float(expected.detach().abs().max())
    assert out.dtype == torch.float32 and float((out.cpu() - expected).abs().max()) < tolerance
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
