"""Colour changes of a batch in place, each image by its own factor.

Images are float32 planes in 0..1 of shape (3, n, height, width); factors have shape (n,). The formulas are those of
`torchvision.transforms.v2.functional` on float images.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""ITU-R BT.601, in torchvision's digits."""
TINY = 1e-12


def luma(planes: Tensor) -> Tensor:
    """Grey values, shape (n, height, width)."""
    red, green, blue = planes
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def brightness(planes: Tensor, factor: Tensor) -> None:
    """Multiply by `factor`."""
    planes.mul_(factor[:, None, None]).clamp_(0, 1)


def contrast(planes: Tensor, factor: Tensor) -> None:
    """Move away from each image's mean grey value by `factor`."""
    mean = luma(planes).mean((1, 2)).mul_(1 - factor)
    planes.mul_(factor[:, None, None]).add_(mean[:, None, None]).clamp_(0, 1)


def saturation(planes: Tensor, factor: Tensor) -> None:
    """Move away from each pixel's grey value by `factor`."""
    grey = luma(planes).mul_((1 - factor)[:, None, None])
    planes.mul_(factor[:, None, None]).add_(grey).clamp_(0, 1)


def hue(planes: Tensor, turns: Tensor) -> None:
    """Turn the hue of HSV by `turns`, in whole turns, keeping saturation and value.

    It equals the way through HSV and back, in fewer steps. With m the least channel and c the chroma, the hue lies
    1 + (green + blue - red - m) / c sixths of a turn from red, on the side of green or blue, whichever is larger.
    Turning keeps m and c, and each channel is m + c times a trapezium of the new hue.
    """
    red, green, blue = planes
    least = torch.minimum(red, green).minimum(blue)
    chroma = torch.maximum(red, green)
    chroma = torch.maximum(chroma, blue, out=chroma).sub_(least)
    angle = (green + blue).sub_(red).sub_(least)
    angle = torch.addcdiv(angle.new_tensor(1 / 6), angle, chroma.clamp_min(TINY), value=1 / 6, out=angle)
    angle = torch.copysign(angle, green - blue, out=angle)
    angle.add_((turns + 1)[:, None, None]).frac_()
    low, high = least - chroma, least.add_(chroma, alpha=2)
    for plane, centre, base, slope in ((red, 1 / 2, low, 6), (green, 1 / 3, high, -6), (blue, 2 / 3, high, -6)):
        torch.sub(angle, centre, out=plane).abs_().clamp_(1 / 6, 1 / 3)
        torch.addcmul(base, chroma, plane, value=slope, out=plane)


def solarise(planes: Tensor, threshold: Tensor) -> None:
    """Invert the channels that reach `threshold`."""
    torch.where(planes >= threshold[:, None, None], 1 - planes, planes, out=planes)


CHANGES = (brightness, contrast, saturation, hue)
"""In the order in which `Parameters.factors` and `Parameters.order` count them."""
NEUTRAL = (1.0, 1.0, 1.0, 0.0)
"""The factor of each that changes nothing."""
