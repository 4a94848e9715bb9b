"""CIELAB, in which distances are about what eyes see: lightness L, 0 to 100, and the colour axes a and b.

From and to sRGB under the D65 white, with the constants of scikit-image.
"""

import torch
from torch import Tensor

XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
CUBE = 33
"""Shades of each channel that `colour_bins` looks at."""


def from_rgb(images: Tensor) -> Tensor:
    """Lab of sRGB images in 0..1, both float32 of shape (n, 3, height, width)."""
    linear = torch.where(images > 0.04045, ((images.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)
    x, y, z = _root(_mix(linear, _whitened(images)).clamp_min(0)).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def to_rgb(images: Tensor) -> Tensor:
    """Colours beyond sRGB are clipped; otherwise what undoes `from_rgb`, with its shapes."""
    lightness, a, b = images.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], dim=1).clamp_min(0)
    xyz = torch.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787)
    linear = _mix(xyz, _whitened(images).inverse()).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)


def colour_bins(step: float) -> Tensor:
    """The points of a grid over a and b that some sRGB colour is nearest to.

    Args:
        step: Of the grid. At 10 there are 259 points; Zhang, Isola and Efros count 313 with a wider gamut.

    Returns:
        float32 of shape (bins, 2).
    """
    shades = torch.linspace(0, 1, CUBE)
    cube = torch.cartesian_prod(shades, shades, shades).T[None, :, :, None]
    return (from_rgb(cube)[0, 1:, :, 0].T / step).round().unique(dim=0) * step


def _mix(images: Tensor, matrix: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):  # bf16 has fewer shades than a picture
        return torch.einsum("ij,njhw->nihw", matrix, images)


def _whitened(images: Tensor) -> Tensor:
    """The matrix from linear RGB to XYZ in which white is (1, 1, 1)."""
    return images.new_tensor(XYZ_FROM_RGB) / images.new_tensor(WHITE)[:, None]


def _root(xyz: Tensor) -> Tensor:
    return torch.where(xyz > 0.008856, xyz.clamp_min(0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
