"""Networks for small images, as papers on growing use them; timm and torchvision have those for large ones."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm around a residual connection; a 1x1 convolution where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class SmallImageResNet(nn.Module):
    """A residual network in stages of `width`, 2 x `width`, 4 x `width` channels and so on.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2; shortcuts that
    change sizes are 1x1 convolutions.
    """

    def __init__(
        self, blocks: int = 3, width: int = 16, num_classes: int = 10, in_chans: int = 3, stages: int = 3
    ) -> None:
        super().__init__()
        self.stages = stages
        self.conv1 = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for number in range(stages):
            outputs = width * 2**number
            layer = []
            for place in range(blocks):
                layer.append(Block(channels, outputs, 2 if number and not place else 1))
                channels = outputs
            self.add_module(f"layer{number + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for number in range(self.stages):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def resnet8(width: int = 16, num_classes: int = 10, in_chans: int = 3) -> SmallImageResNet:
    """Three residual blocks, for images such as scikit-learn's 8x8 digits."""
    return SmallImageResNet(1, width, num_classes, in_chans)


def resnet20(width: int = 16, num_classes: int = 10, in_chans: int = 3, blocks: int = 3) -> SmallImageResNet:
    """Nine residual blocks: the ResNet-20 of CIFAR-10.

    >>> sum(parameter.numel() for parameter in resnet20().parameters())
    272474
    """
    return SmallImageResNet(blocks, width, num_classes, in_chans)


def resnet18(width: int = 64, num_classes: int = 10, in_chans: int = 3, blocks: int = 2) -> SmallImageResNet:
    """The ResNet-18 that is usual for images of 32x32 pixels: four stages, the first at full resolution.

    >>> sum(parameter.numel() for parameter in resnet18().parameters())
    11173962
    """
    return SmallImageResNet(blocks, width, num_classes, in_chans, stages=4)
