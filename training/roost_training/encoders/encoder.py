"""What every encoder is: images in, a feature vector or a map of features out."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Maps normalised images (batch, 3, size, size) to features (batch, dim)."""

    dim: int
    """Length of a feature vector."""

    def maps(self, images: Tensor) -> Tensor:
        """The features where they lie, before they are pooled: (batch, dim, rows, columns)."""
        raise NotImplementedError


class Convolutional(Encoder):
    """An encoder whose features are the mean of its map; it takes images of any size."""

    def forward(self, images: Tensor) -> Tensor:
        """Features (batch, dim) of images (batch, 3, height, width)."""
        return self.maps(images).mean((2, 3))
