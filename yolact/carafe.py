"""CARAFE: upsampling by kernels that are predicted from the content (Wang et al., ICCV 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SCALE = 2
BAND_ELEMENTS = 1 << 24  # gathered at a time, at least one row of a batch: 64 MB


class Carafe(nn.Module):
    """(B,C,H,W) -> (B,C,2H,2W): every output pixel is a weighted mean of the k x k input pixels
    around the one that it lies in.

    The weights, one softmax over k*k for each output pixel and shared by all channels, come from a
    1x1 convolution to `compressed` channels and an encoder_kernel x encoder_kernel convolution to 4
    k*k. Pixels outside the map count as zero, with their weight. torch.export takes it at a fixed
    height and width. Modules are named as in mmcv's CARAFEPack. The encoder should start near zero,
    at equal weights (see yolact.build.initialize). plain: by operators that every runtime has, as
    yolact.export needs them.
    """

    plain = False

    def __init__(
        self, channels: int, *, kernel: int = 5, encoder_kernel: int = 3, compressed: int = 64
    ):
        super().__init__()
        assert kernel % 2 == 1 and encoder_kernel % 2 == 1, (kernel, encoder_kernel)
        self.channel_compressor = nn.Conv2d(channels, compressed, 1)
        self.content_encoder = nn.Conv2d(
            compressed, SCALE**2 * kernel**2, encoder_kernel, padding=encoder_kernel // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.content_encoder(self.channel_compressor(x))
        return reassemble_plainly(x, kernels) if self.plain else reassemble(x, kernels)


def reassemble(x: Tensor, kernels: Tensor) -> Tensor:
    """x (B,C,H,W) and kernels (B,4*k*k,H,W) before the softmax -> (B,C,2H,2W) in the type of x,
    summed in float32 at least.

    Channel 4*t + 2*i + j of kernels weighs tap t (row by row) for output pixel (2h+i, 2w+j), as
    after a pixel shuffle.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        weights = kernels.to(compute).unflatten(1, (-1, SCALE**2)).softmax(1)  # (B,kk,4,H,W)
        # (B,H,W,4,C)
        out = _WeightedWindows.apply(
            x.to(compute).permute(0, 2, 3, 1), weights.permute(0, 3, 4, 2, 1)
        )
    return F.pixel_shuffle(out.permute(0, 4, 3, 1, 2).flatten(1, 2), SCALE).to(x.dtype)


def reassemble_plainly(x: Tensor, kernels: Tensor) -> Tensor:
    """reassemble() for graphs: without bands, so that all windows are there at once, k*k times the
    map."""
    weights = kernels.unflatten(1, (-1, SCALE**2)).softmax(1)  # (B,kk,4,H,W)
    taps, kernel = weights.shape[1], round(weights.shape[1] ** 0.5)
    pick = torch.eye(taps, dtype=x.dtype, device=x.device).view(taps, 1, kernel, kernel)
    windows = F.conv2d(x.flatten(0, 1)[:, None], pick, padding=kernel // 2)  # (BC,kk,H,W)
    windows = windows.unflatten(0, x.shape[:2]).permute(0, 3, 4, 1, 2)  # (B,H,W,C,kk)
    out = windows @ weights.permute(0, 3, 4, 1, 2)  # (B,H,W,C,4)
    return F.pixel_shuffle(out.permute(0, 3, 4, 1, 2).flatten(1, 2), SCALE)


class _WeightedWindows(torch.autograd.Function):
    """x (B,H,W,C) and weights (B,H,W,4,kk) -> (B,H,W,4,C): four weighted sums over the k x k pixels
    around each one.

    The gathered windows are k*k times as large as the map, so that only a band of rows has them at
    any moment and the backward gathers them again. With plain autograd, tap by tap, the backward
    takes more than three times as long.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        padded = _pad(x, weights)
        return torch.cat(
            [
                weights[:, band] @ _windows(padded, band, weights)
                for band in _bands(x, _kernel(weights))
            ],
            1,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        x, weights = ctx.saved_tensors
        padded = _pad(x, weights)
        grad_padded, grad_weights = torch.zeros_like(padded), torch.empty_like(weights)
        kernel, width = _kernel(weights), x.shape[2]
        for band in _bands(x, kernel):
            grad = grad_out[:, band]  # (B,rows,W,4,C)
            grad_weights[:, band] = grad @ _windows(padded, band, weights).transpose(-1, -2)
            grad_windows = weights[:, band].transpose(-1, -2) @ grad  # (B,rows,W,kk,C)
            for tap in range(kernel**2):
                row, column = divmod(tap, kernel)
                grad_padded[:, band.start + row : band.stop + row, column : column + width] += (
                    grad_windows[..., tap, :]
                )
        edge = kernel // 2
        return grad_padded[:, edge : -edge or None, edge : -edge or None], grad_weights


def _kernel(weights: Tensor) -> int:
    return round(weights.shape[-1] ** 0.5)


def _pad(x: Tensor, weights: Tensor) -> Tensor:
    """(B,H,W,C) -> (B,H+k-1,W+k-1,C)."""
    return F.pad(x, (0, 0, *[_kernel(weights) // 2] * 4))


def _bands(x: Tensor, kernel: int) -> list[slice]:
    batch, height, width, channels = x.shape
    rows = max(1, BAND_ELEMENTS // (batch * width * channels * kernel**2))
    return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]


def _windows(padded: Tensor, band: slice, weights: Tensor) -> Tensor:
    """(B,rows,W,kk,C): the pixels around each pixel of the band."""
    kernel = _kernel(weights)
    # (B,rows,W,C,k,k), a view
    windows = (
        padded[:, band.start : band.stop + kernel - 1].unfold(1, kernel, 1).unfold(2, kernel, 1)
    )
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3, 4)
