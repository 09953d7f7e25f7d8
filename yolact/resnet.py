"""ResNet backbones (He et al. 2016) with deformable 3x3 convolutions where YOLACT++ puts them.

A stage's stride sits in the 3x3 convolution of its first bottleneck, as in torchvision.
Names follow the official checkpoints: layers.<stage>.<block>.
"""

from __future__ import annotations

from torch import Tensor, nn

from yolact.dcn import DeformConv2d


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the second is the one that may be deformable."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        deformable: bool = False,
        dcn_groups: int = 1,
        dcn_backend: str = "auto",
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, 1, deformable, dcn_groups, dcn_backend)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += identity
        return self.relu(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, maybe deformable) and 1x1 convolution to four times the width."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        deformable: bool = False,
        dcn_groups: int = 1,
        dcn_backend: str = "auto",
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, stride, deformable, dcn_groups, dcn_backend)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += identity
        return self.relu(x)


LAYOUTS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet14": (Bottleneck, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """Backbone that returns C3, C4 and C5 (strides 8, 16, 32).

    dcn_layers[s] = n makes the last n blocks of stage s deformable, of those only every
    dcn_interval-th counted from the stage's first block: (0, 4, 23, 3) with interval 3 is YOLACT++
    on ResNet-101.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int = 64,
        dcn_layers: tuple[int, ...] = (0, 0, 0, 0),
        dcn_interval: int = 1,
        dcn_groups: int = 1,
        dcn_backend: str = "auto",
    ):
        super().__init__()
        block, counts = LAYOUTS[name]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layers = nn.ModuleList()
        channels = width
        for stage, count in enumerate(counts):
            blocks = []
            for index in range(count):
                deformable = index + dcn_layers[stage] >= count and index % dcn_interval == 0
                blocks.append(
                    block(
                        channels,
                        width << stage,
                        stride=2 if stage > 0 and index == 0 else 1,
                        deformable=deformable,
                        dcn_groups=dcn_groups,
                        dcn_backend=dcn_backend,
                    )
                )
                channels = (width << stage) * block.expansion
            self.layers.append(nn.Sequential(*blocks))
        c3, c4, c5 = ((width << stage) * block.expansion for stage in (1, 2, 3))
        self.channels = (c3, c4, c5)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,3,S,S) -> [C3, C4, C5]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs[1:]


def _conv3x3(
    width: int, stride: int, deformable: bool, dcn_groups: int, dcn_backend: str
) -> nn.Module:
    if deformable:
        return DeformConv2d(width, width, stride=stride, groups=dcn_groups, backend=dcn_backend)
    return nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )
