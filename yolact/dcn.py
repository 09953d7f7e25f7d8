"""Modulated deformable 3x3 convolution (DCNv2) with interchangeable backends that share one set of
parameters.

Zhu et al., "Deformable ConvNets v2" (2019): y(p) = sum_k w_k * m_k(p) * x(p + p_k + d_k(p)),
bilinear, zero outside the map. The offset convolution gives 27 channels: 18 offsets, read as (y, x)
pairs for each of the 9 taps, and 9 masks before the sigmoid. With G deformable groups, each
consecutive 1/G of the input channels has its own: 18 G offsets, group by group, then 9 G masks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BACKENDS = ("auto", "torchvision", "grid_sample", "mmcv")
TAPS = 9


class DeformConv2d(nn.Module):
    """3x3 deformable convolution with padding 1 and a bias; `groups` are deformable groups, which
    share the offsets within each.

    Offsets start at zero and masks at sigmoid(0) = 0.5. The sampling runs in float32 (or float64),
    whatever the autocast type: half precision cannot hold a sub-pixel position, and torchvision's
    CPU kernel has no half type. Under autocast to bf16, grid_sample's columns and the weights are
    multiplied in bf16, as every other convolution's are. The input's type is returned.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        groups: int = 1,
        backend: str = "auto",
    ):
        super().__init__()
        if in_channels % groups:
            raise ValueError(
                f"model.dcn_groups={groups} does not divide the {in_channels} channels of a "
                "deformable convolution: use 1"
            )
        if backend not in BACKENDS:
            raise ValueError(f"dcn_backend={backend!r} is not one of {', '.join(BACKENDS)}")
        if backend == "mmcv":
            # a missing library is reported when the model is built, not in the first forward
            _mmcv_operator()
        self.stride = stride
        self.groups = groups
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(
            in_channels, 3 * TAPS * groups, 3, stride=stride, padding=1
        )
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv_offset_mask.weight)
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,O,h,w) in the type of x."""
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        operator = _operator(self.backend, x.device)
        product = torch.bfloat16 if operator is _grid_sample and _to_bf16(x) else compute
        with torch.autocast(x.device.type, enabled=False):
            conv = self.conv_offset_mask
            assert conv.bias is not None
            offset_mask = F.conv2d(
                x.to(compute),
                conv.weight.to(compute),
                conv.bias.to(compute),
                conv.stride,
                conv.padding,
            )
            offset = offset_mask[:, : 2 * TAPS * self.groups]  # (B,18G,h,w)
            mask = offset_mask[:, 2 * TAPS * self.groups :].sigmoid()  # (B,9G,h,w)
            out = operator(
                x.to(compute),
                offset,
                mask,
                self.weight.to(product),
                self.bias.to(product),
                self.stride,
            )
        return out.to(x.dtype)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return (
            f"{in_channels}, {out_channels}, stride={self.stride}, groups={self.groups}, "
            f"backend={self.backend}"
        )


def _to_bf16(x: Tensor) -> bool:
    """Whether autocast multiplies x in bf16; it leaves float64 alone."""
    kind = x.device.type
    return (
        x.dtype != torch.float64
        and torch.is_autocast_enabled(kind)
        and torch.get_autocast_dtype(kind) == torch.bfloat16
    )


def _operator(backend: str, device: torch.device):
    if backend == "auto":
        backend = "torchvision" if device.type == "cuda" else "grid_sample"
    return _OPERATORS[backend]


def _torchvision(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    return torchvision.ops.deform_conv2d(
        x, offset, weight, bias, stride=stride, padding=1, mask=mask
    )


def _mmcv(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    operator = _mmcv_operator()
    return operator(
        x.contiguous(),
        offset.contiguous(),
        mask.contiguous(),
        weight.contiguous(),
        bias,
        stride,
        1,
        1,
        1,
        mask.shape[1] // TAPS,
    )


def _mmcv_operator():
    try:
        from mmcv.ops import modulated_deform_conv2d
    except ImportError as error:
        raise ValueError(
            f"model.dcn_backend=mmcv needs mmcv with its compiled operators ({error}): install it, "
            "or use model.dcn_backend=auto, which gives the same numbers"
        ) from error
    return modulated_deform_conv2d


def _grid_sample(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    grid = _sampling_grid(offset, (x.shape[-2], x.shape[-1]), stride)
    return _SampledConv.apply(x.contiguous(), grid, mask.contiguous(), weight, bias)


def _sampling_grid(offset: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(B,18G,h,w) offsets -> (B,G,9h,w,2) positions in grid_sample's coordinates (x, y), edges of
    the map at -1 and 1.

    align_corners=False is used although positions are pixel centres: its scale 2 / size is finite
    on maps of one pixel.
    """
    batch, _, h, w = offset.shape
    tap = torch.arange(TAPS, dtype=offset.dtype, device=offset.device)
    tap_y, tap_x = torch.div(tap, 3, rounding_mode="floor") - 1, tap % 3 - 1
    rows = torch.arange(h, dtype=offset.dtype, device=offset.device) * stride
    columns = torch.arange(w, dtype=offset.dtype, device=offset.device) * stride
    offset = offset.unflatten(1, (-1, TAPS, 2))  # (B,G,9,2,h,w)
    y = offset[:, :, :, 0] + (tap_y[:, None, None] + rows[:, None] + 0.5)
    x = offset[:, :, :, 1] + (tap_x[:, None, None] + columns + 0.5)
    return torch.stack((x * (2 / size[1]) - 1, y * (2 / size[0]) - 1), -1).view(
        batch, -1, TAPS * h, w, 2
    )


def _plain(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """_grid_sample() for graphs: one sampling and one product for the whole batch, by operators
    that every runtime has. It keeps all columns, which are 9 times as large as the map."""
    grid = _sampling_grid(offset, (x.shape[-2], x.shape[-1]), stride)
    batch, groups = grid.shape[:2]
    h, w = mask.shape[-2:]
    sampled = F.grid_sample(
        x.unflatten(1, (groups, -1)).flatten(0, 1), grid.flatten(0, 1), align_corners=False
    )  # (BG,C/G,9h,w)
    columns = sampled.view(batch, groups, -1, TAPS, h * w) * mask.view(batch, groups, 1, TAPS, -1)
    out = weight.flatten(1) @ columns.view(batch, -1, h * w) + bias[:, None]
    return out.view(batch, -1, h, w)


def _onnx(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """ONNX's DeformConv, while torch.onnx.export looks."""
    return torch.onnx.ops.symbolic(
        "DeformConv",
        (x, weight, offset, bias, mask),
        {
            "kernel_shape": [3, 3],
            "pads": [1, 1, 1, 1],
            "strides": [stride, stride],
            "offset_group": mask.shape[1] // TAPS,
        },
        dtype=x.dtype,
        shape=(x.shape[0], weight.shape[0], *mask.shape[-2:]),
        version=19,
    )


_OPERATORS = {
    "torchvision": _torchvision,
    "grid_sample": _grid_sample,
    "mmcv": _mmcv,
    "plain": _plain,  # these two by yolact.export alone
    "onnx": _onnx,
}


class _SampledConv(torch.autograd.Function):
    """Bilinear sampling, modulation and one matrix product, image by image; the product is in the
    type of the weights.

    The sampled columns are 9 times as large as the map, so nothing of that size is kept: the
    backward samples again, which costs a tenth of its time and leaves one image's columns alive at
    any moment.
    """

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, grid, mask, weight)
        batch, _, h, w = mask.shape
        groups = grid.shape[1]
        matrix = weight.flatten(1)  # (O,9C)
        out = matrix.new_empty(batch, matrix.shape[0], h * w)
        for image in range(batch):
            # (G,C/G,9hw)
            columns = _sample(x[image], grid[image]).mul_(mask[image].view(groups, 1, -1))
            columns = columns.view(matrix.shape[1], h * w).to(matrix.dtype)
            # not by out=, which torch 2.5 cannot compile
            out[image] = torch.addmm(bias[:, None], matrix, columns)
        return out.view(batch, -1, h, w)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        x, grid, mask, weight = ctx.saved_tensors
        batch, _, h, w = mask.shape
        matrix = weight.flatten(1)  # (O,9C)
        grad_out = grad_out.flatten(2)  # (B,O,hw)
        grad_x, grad_grid, grad_mask = (
            torch.empty_like(x),
            torch.empty_like(grid),
            torch.empty_like(mask),
        )
        grad_matrix = torch.zeros_like(matrix)
        for image in range(batch):
            sampled = _sample(x[image], grid[image])  # (G,C/G,9hw)
            modulation = mask[image].view(grid.shape[1], 1, -1)
            grad_columns = torch.mm(matrix.t(), grad_out[image]).to(x.dtype).view_as(sampled)
            columns = sampled * modulation
            product = columns.view(matrix.shape[1], h * w).to(matrix.dtype)
            grad_matrix.addmm_(grad_out[image], product.t())
            torch.sum(
                torch.mul(grad_columns, sampled, out=columns),
                1,
                keepdim=True,
                out=grad_mask[image].view_as(modulation),
            )
            grad_x[image], grad_grid[image] = _sample_backward(
                grad_columns.mul_(modulation), x[image], grid[image]
            )
        return grad_x, grad_grid, grad_mask, grad_matrix.view_as(weight), grad_out.sum((0, 2))


def _batched(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """(C,H,W) and grid (G,9h,w,2) as a batch of T G groups of channels and their grids.

    grid_sample's CPU kernel works on one image in one thread: more groups than the deformable ones
    keep all threads busy.
    """
    groups, split = grid.shape[0], 1
    # a compiled graph cannot ask for the number of threads
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        threads = torch.get_num_threads()
        split = math.gcd(x.shape[0] // groups, threads // math.gcd(groups, threads))
    return x.unflatten(0, (groups * split, -1)), grid[:, None].expand(
        -1, split, -1, -1, -1
    ).flatten(0, 1)


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    """(C,H,W), (G,9h,w,2) -> (G,C/G,9hw)."""
    return F.grid_sample(*_batched(x, grid), align_corners=False).view(
        grid.shape[0], x.shape[0] // grid.shape[0], -1
    )


def _sample_backward(grad: Tensor, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of _sample: (G,C/G,9hw) -> (C,H,W) and (G,9h,w,2)."""
    x_batch, grid_batch = _batched(x, grid)
    grad = grad.view(x_batch.shape[0], -1, *grid.shape[1:3])
    # bilinear, zeros
    grad_x, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
        grad, x_batch, grid_batch, 0, 0, False, [True, True]
    )
    return grad_x.flatten(0, 1), grad_grid.unflatten(0, (grid.shape[0], -1)).sum(1)
