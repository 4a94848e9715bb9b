"""What may be done to an image to make a view of it, and the drawing of it at random."""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from roost_training.views import colour
from roost_training.views.threads import one_thread

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[PositiveFloat, PositiveFloat]

CROP_ATTEMPTS = 10


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
    brightness: NonNegativeFloat = 0.4  # half of SimCLR's for ImageNet, and MoCo v2's
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """In turns of the colour circle, either way."""
    grey: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation in pixels of the view, uniform."""
    solarise: Probability = 0.0
    solarise_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Channels that reach it are inverted, of 0..1."""

    def true_colours(self) -> "Recipe":
        """The same crops and turns, and no other change: for methods that must give the pixels back."""
        return self.model_copy(update={"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarise": 0.0})

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
class View:
    """One augmented copy of an image: how it is made, and its side in pixels."""

    recipe: Recipe
    size: int


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


@one_thread()
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
