"""Residual networks: torchvision's, with a smaller stem for small images, and one for CPUs."""

import itertools

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from roost_training.encoders.convolution import EverySecondConv2d, SmallMapConv2d
from roost_training.encoders.encoder import Convolutional, Encoder

SMALL_IMAGE_SIZE = 64
"""Up to this many pixels a torchvision resnet gets the stem of SimCLR's appendix B.9."""

LAYERS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
WIDTHS = (32, 64, 128, 256)


class ResNet(TorchvisionResNet, Encoder):
    """torchvision's ResNet without its classifier; the weights have torchvision's names."""

    def __init__(self, name: str, *, image_size: int) -> None:
        super().__init__(*LAYERS[name])
        self.dim = self.fc.in_features  # pyright: ignore[reportAttributeAccessIssue]
        self.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        if image_size <= SMALL_IMAGE_SIZE:
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]

    def maps(self, images: Tensor) -> Tensor:
        """The last stage's features, (batch, dim, rows, columns)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class SmallResNet(Convolutional):
    """Four basic blocks of 32 to 256 channels behind a 3x3 stem of stride 2: 1.2 million parameters, for CPUs."""

    dim = WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, WIDTHS[0], kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(inplace=True),
            BasicBlock(WIDTHS[0], WIDTHS[0]),
        ]
        for before, width in itertools.pairwise(WIDTHS):
            shortcut = nn.Sequential(
                EverySecondConv2d(before, width),
                nn.BatchNorm2d(width),
            )
            block = BasicBlock(before, width, stride=2, downsample=shortcut)
            block.conv2 = SmallMapConv2d(block.conv2)
            layers.append(block)
        self.layers = nn.Sequential(*layers)

    def maps(self, images: Tensor) -> Tensor:
        """The last block's features, (batch, 256, rows, columns)."""
        return self.layers(images)
