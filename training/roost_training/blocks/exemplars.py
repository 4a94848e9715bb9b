"""Seed patches of images, and the changes under which a patch stays the same to Exemplar-CNN.

Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, TPAMI 2016, https://arxiv.org/abs/1406.6909, section 2. Images
are float32 planes in 0..1 of shape (3, n, height, width), as in `views.colour`; boxes are the centre, as x and y, and
half of the side of a square, in coordinates that run from -1 to 1 over the image: float32 of shape (n, 3). All that is
random is drawn from torch's global generator.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from roost_training.views import colour, resample

SCALE = (0.7, 1.4)
TRANSLATION = 0.2
"""By up to this share of the patch's side, either way."""
HUE = 0.1
"""In turns, either way."""
CONTRAST = (0.5, 2.0)
"""Of each principal component of the colours."""
POWER, FACTOR, SHIFT = (0.25, 4.0), (0.7, 1.4), 0.1
"""Of saturation and of value."""
CANDIDATES = 16
"""Squares of an image among which its seed is drawn."""


def draw_seeds(planes: Tensor, *, smallest: float) -> Tensor:
    """A square in each image, the likelier the stronger its gradients.

    Args:
        planes: The images.
        smallest: Least side, as a share of the image's; sides are log-uniform from it to the whole.

    Returns:
        The squares' boxes.
    """
    n, size = planes.shape[1], planes.shape[3]
    half = smallest ** torch.rand(n, CANDIDATES)
    centre = (torch.rand(2, n, CANDIDATES) * 2 - 1) * (1 - half)
    left, top = ((centre - half + 1) / 2 * size).round().long().clamp(0, size - 1)
    right, bottom = ((centre + half + 1) / 2 * size).round().long().clamp(1, size)
    sums = functional.pad(_energy(planes).cumsum(1).cumsum(2), (1, 0, 1, 0)).flatten(1)

    def upto(row: Tensor, column: Tensor) -> Tensor:
        return sums.gather(1, row * (size + 1) + column)

    energy = upto(bottom, right) - upto(top, right) - upto(bottom, left) + upto(top, left)
    density = energy / ((right - left) * (bottom - top)).clamp_min(1)
    chosen = torch.multinomial(density.clamp_min(1e-9), 1)  # a flat image has no gradients: any square will do
    return torch.cat([part.gather(1, chosen) for part in (*centre, half)], dim=1)


def cut(planes: Tensor, boxes: Tensor, *, size: int, rotation_degrees: float) -> Tensor:
    """Cut squares out of images, each moved, scaled and turned by chance; beyond an image its border goes on.

    Args:
        planes: The images.
        boxes: One square in each.
        size: Side of the patches, in pixels.
        rotation_degrees: Turn by up to this, either way.

    Returns:
        Patches, shape (3, n, size, size).
    """
    n, device = len(boxes), boxes.device
    half = boxes[:, 2]
    angle = _uniform(n, -rotation_degrees, rotation_degrees, device=device).deg2rad()
    # An object that looks larger is one that is seen through a smaller square.
    reach = half / _log_uniform(n, *SCALE, device=device)
    cos, sin = angle.cos() * reach, angle.sin() * reach
    move = 2 * TRANSLATION * half[:, None] * _uniform(2 * n, -1, 1, device=device).view(n, 2)
    turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    theta = torch.cat([turn, (boxes[:, :2] + move)[:, :, None]], dim=2)
    supersample = min(math.ceil(planes.shape[3] / size / SCALE[0]), resample.MAX_SUPERSAMPLE)
    return resample.warp(planes, theta, size=size, supersample=supersample)


def recolour(planes: Tensor, *, mean: Tensor, components: Tensor) -> Tensor:
    """Change each image's contrast, saturation, value and hue by chance.

    Args:
        planes: The images.
        mean: Of all colours, shape (3,).
        components: Principal components of all colours, one a column, shape (3, 3).

    Returns:
        Images of the same shape.
    """
    n, device = planes.shape[1], planes.device
    strengths = _log_uniform(3 * n, *CONTRAST, device=device).view(n, 3)
    mix = components @ (strengths[:, :, None] * components.T)
    centred = planes - mean[:, None, None, None]
    changed = (torch.einsum("ncd,dnhw->cnhw", mix, centred) + mean[:, None, None, None]).clamp_(0, 1)
    changed = _change_saturation_and_value(changed)
    colour.hue(changed, _uniform(n, -HUE, HUE, device=device))
    return changed.clamp_(0, 1)


def _change_saturation_and_value(planes: Tensor) -> Tensor:
    """Raise either to a power, multiply it and add to it; at equal hue a channel is v (1 - s t) for a fixed t."""
    n, device = planes.shape[1], planes.device
    value, least = planes.amax(0), planes.amin(0)
    chroma = value - least
    t = (value - planes) / chroma.clamp_min(colour.TINY)
    saturation = chroma / value.clamp_min(colour.TINY)

    def change(x: Tensor) -> Tensor:
        power = _log_uniform(n, *POWER, device=device)[:, None, None]
        factor = _uniform(n, *FACTOR, device=device)[:, None, None]
        shift = _uniform(n, -SHIFT, SHIFT, device=device)[:, None, None]
        return (x.clamp_min(colour.TINY) ** power * factor + shift).clamp(0, 1)

    # What is grey has no hue for a saturation to show.
    saturation = torch.where(chroma > 0, change(saturation), 0)
    return change(value) * (1 - saturation * t)


def _energy(planes: Tensor) -> Tensor:
    """Squared gradient of the grey values, shape (n, height, width)."""
    grey = colour.luma(planes)
    down = functional.pad(grey.diff(dim=1), (0, 0, 0, 1))
    right = functional.pad(grey.diff(dim=2), (0, 1))
    return down.square() + right.square()


def _uniform(n: int, low: float, high: float, *, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(n, device=device)


def _log_uniform(n: int, low: float, high: float, *, device: torch.device) -> Tensor:
    return _uniform(n, math.log(low), math.log(high), device=device).exp()
