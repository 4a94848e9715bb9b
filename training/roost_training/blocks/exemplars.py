"""Seed patches of images, and the changes under which a patch stays the same to Exemplar-CNN.

Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, TPAMI 2016, https://arxiv.org/abs/1406.6909, section 2. Images
are float32 planes in 0..1 of shape (3, n, height, width), as in `views.colour`; boxes are the centre, as x and y, and
half of the side of a square, in coordinates that run from -1 to 1 over the image: float32 of shape (n, 3). All that is
random is drawn from torch's global generator.
"""

import math
from dataclasses import dataclass

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
LEAST_CHROMA = 1 / 255
"""What differs less between its channels is grey: it has no hue for a saturation to show."""
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


@dataclass(frozen=True)
class Changes:
    """What is done to each of n patches, float32."""

    angle: Tensor
    """Of a turn, in radians, shape (n,)."""
    scale: Tensor
    """How much larger things look, shape (n,)."""
    move: Tensor
    """Right and down, in sides of the patch, shape (n, 2)."""
    contrast: Tensor
    """Factors of the three principal components of the colours, shape (n, 3)."""
    saturation: Tensor
    """A power that it is raised to, then a factor, then what is added: shape (n, 3)."""
    value: Tensor
    """Likewise."""
    hue: Tensor
    """In turns, shape (n,)."""


def draw_changes(n: int, *, rotation_degrees: float, colour_strength: float, device: torch.device) -> Changes:
    """Draw what is done to patches.

    Args:
        n: How many there are.
        rotation_degrees: Patches are turned by up to this, either way.
        colour_strength: What the colours' changes are multiplied by, powers and factors in their exponents: 1 for the
            paper's, 0 for none.
        device: Where the numbers are put.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((n, *shape), device=device)

    def log_uniform(low: float, high: float, *shape: int) -> Tensor:
        return uniform(math.log(low), math.log(high), *shape).exp()

    def curve() -> Tensor:
        strengths = [log_uniform(*POWER) ** colour_strength, uniform(*FACTOR) ** colour_strength]
        return torch.stack([*strengths, uniform(-SHIFT, SHIFT) * colour_strength], dim=1)

    return Changes(
        angle=uniform(-rotation_degrees, rotation_degrees).deg2rad(),
        scale=log_uniform(*SCALE),
        move=uniform(-TRANSLATION, TRANSLATION, 2),
        contrast=log_uniform(*CONTRAST, 3) ** colour_strength,
        saturation=curve(),
        value=curve(),
        hue=uniform(-HUE, HUE) * colour_strength,
    )


def cut(planes: Tensor, boxes: Tensor, changes: Changes, *, size: int) -> Tensor:
    """Cut squares out of images, moved, scaled and turned; beyond an image its border goes on.

    Args:
        planes: The images.
        boxes: One square in each.
        changes: What is done to each.
        size: Side of the patches, in pixels.

    Returns:
        Patches, shape (3, n, size, size).
    """
    half = boxes[:, 2]
    reach = half / changes.scale  # what looks larger is seen through a smaller square
    cos, sin = changes.angle.cos() * reach, changes.angle.sin() * reach
    turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    centre = boxes[:, :2] + changes.move * 2 * half[:, None]
    supersample = min(math.ceil(planes.shape[3] / size / SCALE[0]), resample.MAX_SUPERSAMPLE)
    return resample.warp(planes, torch.cat([turn, centre[:, :, None]], dim=2), size=size, supersample=supersample)


def recolour(planes: Tensor, changes: Changes, *, mean: Tensor, components: Tensor) -> Tensor:
    """Change images' contrast, saturation, value and hue.

    Args:
        planes: The images.
        changes: What is done to each.
        mean: Of all colours, shape (3,).
        components: Principal components of all colours, one a column, shape (3, 3).

    Returns:
        Images of the same shape.
    """
    mix = components @ (changes.contrast[:, :, None] * components.T)
    mean = mean[:, None, None, None]
    changed = (torch.einsum("ncd,dnhw->cnhw", mix, planes - mean) + mean).clamp_(0, 1)
    value, least = changed.amax(0), changed.amin(0)
    chroma = value - least
    # Turned into value and saturation and back, a channel is value * (1 - saturation * t): t holds the hue.
    t = (value - changed) / chroma.clamp_min(colour.TINY)
    saturation = _curve(chroma / value.clamp_min(colour.TINY), changes.saturation)
    saturation = torch.where(chroma < LEAST_CHROMA, 0, saturation)
    changed = _curve(value, changes.value) * (1 - saturation * t)
    colour.hue(changed, changes.hue)
    return changed.clamp_(0, 1)


def _curve(x: Tensor, strengths: Tensor) -> Tensor:
    power, factor, shift = strengths.T[:, :, None, None]
    return (x.clamp_min(colour.TINY) ** power * factor + shift).clamp(0, 1)


def _energy(planes: Tensor) -> Tensor:
    """Squared gradient of the grey values, shape (n, height, width)."""
    grey = colour.luma(planes)
    down = functional.pad(grey.diff(dim=1), (0, 0, 0, 1))
    right = functional.pad(grey.diff(dim=2), (0, 1))
    return down.square() + right.square()
