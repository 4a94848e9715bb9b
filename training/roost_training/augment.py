"""Random views of a batch of images on their device, with parameters of each image's own.

The changes and their order are SimCLR's: crop and resize, flip, colour jitter, greyscale, blur (Chen, Kornblith,
Norouzi, Hinton, ICML 2020, https://arxiv.org/abs/2002.05709, appendix A), then BYOL's solarisation. One departure: the
four parts of the colour jitter come in a random order that a whole call shares, not in one for each image.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from roost_training import colour, resample

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[PositiveFloat, PositiveFloat]

CROP_ATTEMPTS = 10
CHUNK_PIXELS = 128 * 32 * 32
"""On a CPU so many pixels are changed at a time, so that the planes of a chunk stay in its cache."""


class Recipe(BaseModel):
    """How views are made; the defaults are SimCLR's for photographs, with jitter strength 1.

    Strengths s of brightness, contrast and saturation draw factors from max(0, 1 - s) .. 1 + s, as torchvision does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop_scale: Range = (0.08, 1.0)
    """Area of the crop as a share of the image, uniform."""
    crop_ratio: Range = (3 / 4, 4 / 3)
    """Width over height of the crop, log-uniform."""
    horizontal_flip: Probability = 0.5
    vertical_flip: Probability = 0.0
    quarter_turn: Probability = 0.0
    """Chance of a turn by 0, 90, 180 or 270 degrees, each as likely: for images without an upright."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn by up to this, either way. This and the next two fill with the image's border."""
    shear_degrees: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Slant by up to this, either way."""
    translation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Shift by up to this share of the crop, along both axes, either way."""
    jitter: Probability = 0.8
    """Chance of the next four together."""
    brightness: NonNegativeFloat = 0.8
    contrast: NonNegativeFloat = 0.8
    saturation: NonNegativeFloat = 0.8
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """In turns of the colour circle, either way."""
    grey: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation in pixels of the view, uniform."""
    solarise: Probability = 0.0
    solarise_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Channels that reach it are inverted, of 0..1."""

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Recipe":
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low} down to {high}; give the smaller number first")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale reaches {self.crop_scale[1]}; a crop has at most the image's area, 1")
        return self


@dataclass(frozen=True)
class Parameters:
    """What to do to each of n images, on the CPU."""

    box: Tensor
    """The crop: top, left, height, width in source pixels, float32 of shape (n, 4)."""
    flip: Tensor
    """Mirror the crop's rows (upside down), columns: bool of shape (n, 2)."""
    transpose: Tensor
    """Swap rows and columns after flipping, bool of shape (n,)."""
    affine: Tensor
    """Rotation and slant in degrees, shift down and right in shares of the crop: float32 of shape (n, 4)."""
    jitter: Tensor
    """Whether `factors` count, bool of shape (n,)."""
    factors: Tensor
    """Brightness, contrast and saturation (1 changes nothing), hue in turns (0 does), float32 of shape (n, 4)."""
    order: tuple[int, ...]
    """In which the four are done, for all images alike."""
    grey: Tensor
    """bool of shape (n,)."""
    sigma: Tensor
    """Of the blur in pixels, float32 of shape (n,); 0 leaves the image sharp."""
    threshold: Tensor
    """Of the solarisation, float32 of shape (n,); infinite leaves the image as it is."""

    def __len__(self) -> int:
        return len(self.grey)

    def at(self, indices: Tensor) -> "Parameters":
        """The parameters of some of the images, in the order of `indices`."""
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "order"}
        return replace(self, **{name: column[indices] for name, column in columns.items()})


def draw(n: int, recipe: Recipe, *, height: int, width: int, generator: torch.Generator) -> Parameters:
    """Draw the parameters of n views; the same ones for the same seed, whatever the device of the images.

    Args:
        n: Views, one for each image.
        recipe: What to draw from.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        generator: Of the CPU; it is moved on.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def spread(strengths: Tensor) -> Tensor:
        return (uniform(n, len(strengths)) * 2 - 1) * strengths

    box = _draw_boxes(uniform(n, CROP_ATTEMPTS, 4), recipe, height=height, width=width)
    flip = uniform(n, 2) < torch.tensor([recipe.vertical_flip, recipe.horizontal_flip])
    chosen, quarter = uniform(n) < recipe.quarter_turn, (uniform(n) * 4).long()
    quarter = torch.where(chosen, quarter, 0)
    # A quarter turn is a flip of the rows and a transposition, a half turn flips both.
    flip = flip ^ torch.stack([(quarter == 1) | (quarter == 2), (quarter == 2) | (quarter == 3)], dim=1)
    degrees = (recipe.rotation_degrees, recipe.shear_degrees, recipe.translation, recipe.translation)
    strengths = torch.tensor([recipe.brightness, recipe.contrast, recipe.saturation])
    low = (1 - strengths).clamp_min(0)
    factors = low + uniform(n, 3) * (1 + strengths - low)
    sigma = recipe.blur_sigma[0] + uniform(n) * (recipe.blur_sigma[1] - recipe.blur_sigma[0])
    return Parameters(
        box=box,
        flip=flip,
        transpose=quarter % 2 == 1,
        affine=spread(torch.tensor(degrees)),
        jitter=uniform(n) < recipe.jitter,
        factors=torch.cat([factors, spread(torch.tensor([recipe.hue]))], dim=1),
        order=tuple(torch.randperm(len(colour.CHANGES), generator=generator).tolist()),
        grey=uniform(n) < recipe.grey,
        sigma=torch.where(uniform(n) < recipe.blur, sigma, 0),
        threshold=torch.where(uniform(n) < recipe.solarise, recipe.solarise_threshold, math.inf),
    )


def apply(pixels: Tensor, parameters: Parameters, *, size: int) -> Tensor:
    """Make one view of each image.

    Args:
        pixels: uint8 of shape (n, height, width, 3) or (n, 3, height, width), on any device.
        parameters: Drawn for these n images and their height and width.
        size: Side of the views, in pixels.

    Returns:
        float32 in 0..1 of shape (n, 3, size, size), in channels-last memory, on the device of the pixels.

    Raises:
        ValueError: Pixels that are not uint8, of another shape, or of another number than the parameters.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or 3 not in (pixels.shape[1], pixels.shape[3]):
        raise ValueError(f"pixels are {pixels.dtype} of shape {tuple(pixels.shape)}, not uint8 (n, height, width, 3)")
    if len(pixels) != len(parameters):
        raise ValueError(f"{len(pixels)} images, but parameters for {len(parameters)}")
    channels_last = pixels if pixels.shape[3] == 3 else pixels.permute(0, 2, 3, 1)
    height, width = channels_last.shape[1:3]
    if (parameters.box[:, :2] + parameters.box[:, 2:] > torch.tensor([height, width])).any():
        raise ValueError(f"images of {height} x {width} pixels, but parameters with crops that reach beyond")
    chunk = CHUNK_PIXELS // (size * size) if pixels.device.type == "cpu" else len(pixels)
    views = torch.empty((len(pixels), size, size, 3), device=pixels.device)
    for chosen in _grouped(parameters).split(max(chunk, 1)):
        part, rows = parameters.at(chosen), chosen.to(pixels.device)
        planes = channels_last.index_select(0, rows).permute(3, 0, 1, 2)
        planes = _resample(planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255), part, size=size)
        _recolour(planes, part)
        planes.clamp_(0, 1)  # rounding leaves a few 1e-7 beyond
        views.index_copy_(0, rows, planes.permute(1, 2, 3, 0).contiguous())
    return views.permute(0, 3, 1, 2)


def augment(pixels: Tensor, recipe: Recipe, *, size: int, generator: torch.Generator) -> Tensor:
    """Draw parameters for a batch and apply them: `draw`, then `apply`."""
    height, width = pixels.shape[1:3] if pixels.shape[3] == 3 else pixels.shape[2:]
    return apply(pixels, draw(len(pixels), recipe, height=height, width=width, generator=generator), size=size)


def _draw_boxes(random: Tensor, recipe: Recipe, *, height: int, width: int) -> Tensor:
    """RandomResizedCrop.get_params of torchvision for a batch: the first of ten attempts that fits, else the centre."""
    low, high = recipe.crop_scale
    area = height * width * (low + random[..., 0] * (high - low))
    narrow, wide = math.log(recipe.crop_ratio[0]), math.log(recipe.crop_ratio[1])
    ratio = torch.exp(narrow + random[..., 1] * (wide - narrow))
    w = (area * ratio).sqrt().round()
    h = (area / ratio).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    boxes = torch.stack(
        [(random[..., 2] * (height - h + 1)).floor(), (random[..., 3] * (width - w + 1)).floor(), h, w], dim=-1
    )
    first = boxes[torch.arange(len(boxes)), fits.int().argmax(1)]
    shape = width / height
    clamped = min(max(shape, recipe.crop_ratio[0]), recipe.crop_ratio[1])
    h, w = (round(width / clamped), width) if shape < clamped else (height, round(height * clamped))
    centre = torch.tensor([(height - h) // 2, (width - w) // 2, h, w], dtype=torch.float32)
    return torch.where(fits.any(1)[:, None], first, centre)


def _grouped(parameters: Parameters) -> Tensor:
    """An order in which the jittered images are a prefix and the blurred ones a slice, so that none need copying."""
    blurred = (parameters.sigma > 0).int()
    return torch.where(parameters.jitter, blurred, 3 - blurred).argsort(stable=True)


def _resample(planes: Tensor, parameters: Parameters, *, size: int) -> Tensor:
    """Crop, resize, flip, turn and slant in one resampling: (3, n, height, width) to (3, n, size, size)."""
    height, width = planes.shape[2:]
    top, left, h, w = parameters.box.to(planes.device).T
    flip_rows, flip_columns = parameters.flip.to(planes.device).T
    if parameters.affine.any():
        shrink = (parameters.box[:, 2:] / size).max().item()
        supersample = min(math.ceil(shrink), resample.MAX_SUPERSAMPLE)
        views = resample.warp(
            planes, _theta(parameters, height, width).to(planes.device), size=size, supersample=supersample
        )
    else:
        rows = resample.axis_weights(start=top, length=h, flip=flip_rows, source=height, size=size)
        columns = resample.axis_weights(start=left, length=w, flip=flip_columns, source=width, size=size)
        views = resample.separable(planes, rows, columns)
    turned = parameters.transpose.nonzero()[:, 0].to(planes.device)
    if len(turned):
        views[:, turned] = views[:, turned].mT
    return views


def _recolour(planes: Tensor, parameters: Parameters) -> None:
    """Jitter, grey, blur and solarise in place."""
    device = planes.device
    jittered = planes[:, : int(parameters.jitter.sum())]
    factors = parameters.factors[parameters.jitter]
    for change in parameters.order:
        if (factors[:, change] != colour.NEUTRAL[change]).any():
            colour.CHANGES[change](jittered, factors[:, change].to(device))
    grey = parameters.grey.nonzero()[:, 0].to(device)
    if len(grey):
        planes[:, grey] = colour.luma(planes[:, grey])
    blurred = parameters.sigma.nonzero()[:, 0]
    if len(blurred):
        slice_ = planes[:, blurred[0] : blurred[-1] + 1]
        weights = resample.blur_weights(parameters.sigma[blurred].to(device), planes.shape[-1])
        slice_.copy_(resample.separable(slice_, weights, weights))
    solarised = (parameters.threshold <= 1).nonzero()[:, 0].to(device)
    if len(solarised):
        some = planes[:, solarised]
        colour.solarise(some, parameters.threshold.to(device)[solarised])
        planes[:, solarised] = some


def _theta(parameters: Parameters, height: int, width: int) -> Tensor:
    """Maps of a view's coordinates to the image's, both -1..1 as (x, y): float32 of shape (n, 2, 3)."""
    top, left, h, w = parameters.box.T
    rotation, shear, down, right = parameters.affine.T
    angle, slant = rotation.deg2rad(), shear.deg2rad().tan()
    mirror = 1 - 2 * parameters.flip.float()
    # Half the crop, in pixels, is what a view's coordinate of 1 is away from its centre.
    x, y = mirror[:, 1] * w / 2, mirror[:, 0] * h / 2
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos * x, (cos * slant - sin) * y, sin * x, (sin * slant + cos) * y], dim=1).view(-1, 2, 2)
    shift = torch.stack([-right * w, -down * h], dim=1)
    turn = torch.stack([cos, cos * slant - sin, sin, sin * slant + cos], dim=1).view(-1, 2, 2)
    centre = torch.stack([left + w / 2, top + h / 2], dim=1) + (turn @ shift[:, :, None])[:, :, 0]
    half = torch.tensor([width, height]) / 2
    return torch.cat([matrix / half[:, None], (centre / half - 1)[:, :, None]], dim=2)
