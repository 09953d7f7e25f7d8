"""DarkNet-53, the backbone of YOLOv3 (Redmon and Farhadi 2018), under the names of the official
YOLACT checkpoints."""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = (1, 2, 8, 8, 4)


class DarkNetBlock(nn.Module):
    """1x1 convolution to half the channels, 3x3 back to all of them, and a residual sum without a
    further activation."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = _conv_layer(channels, channels // 2, kernel_size=1)
        self.conv2 = _conv_layer(channels // 2, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + x


class DarkNet53(nn.Module):
    """Backbone of five stride-2 stages; returns the last three, C3, C4 and C5 (strides 8, 16,
    32)."""

    channels = (256, 512, 1024)

    def __init__(self):
        super().__init__()
        self._preconv = _conv_layer(3, 32, kernel_size=3, padding=1)
        self.layers = nn.ModuleList()
        for stage, count in enumerate(BLOCKS):
            channels = 64 << stage
            halving = _conv_layer(channels // 2, channels, kernel_size=3, padding=1, stride=2)
            self.layers.append(
                nn.Sequential(halving, *(DarkNetBlock(channels) for _ in range(count)))
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,3,S,S) -> [C3, C4, C5]."""
        x = self._preconv(x)
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs[2:]


def _conv_layer(in_channels: int, out_channels: int, **options) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, bias=False, **options),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1, inplace=True),
    )
