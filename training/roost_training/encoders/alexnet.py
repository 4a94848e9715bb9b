"""AlexNet's five convolutions, the trunk on which pretext tasks were first compared.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, https://arxiv.org/abs/1404.5997;
with the batch norms that DeepCluster and RotNet added.
"""

from torch import Tensor, nn

from roost_training.encoders.encoder import Convolutional

SMALL_IMAGE_SIZE = 64
"""Up to this many pixels the stem is one of stride 1 with a 3x3 kernel, and the pools halve."""


class AlexNet(Convolutional):
    """Convolutions of 64, 192, 384, 256 and 256 channels, each with a batch norm."""

    dim = 256

    def __init__(self, *, image_size: int) -> None:
        super().__init__()
        small = image_size <= SMALL_IMAGE_SIZE
        pool = (lambda: nn.MaxPool2d(2)) if small else (lambda: nn.MaxPool2d(3, stride=2))
        self.features = nn.Sequential(
            *(_convolution(3, 64, kernel=3) if small else _convolution(3, 64, kernel=11, stride=4, padding=2)),
            pool(),
            *_convolution(64, 192, kernel=3 if small else 5),
            pool(),
            *_convolution(192, 384, kernel=3),
            *_convolution(384, 256, kernel=3),
            *_convolution(256, 256, kernel=3),
        )

    def maps(self, images: Tensor) -> Tensor:
        """The fifth convolution's features, (batch, 256, rows, columns)."""
        return self.features(images)


def _convolution(
    before: int, after: int, *, kernel: int, stride: int = 1, padding: int | None = None
) -> list[nn.Module]:
    padding = kernel // 2 if padding is None else padding
    return [
        nn.Conv2d(before, after, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]
