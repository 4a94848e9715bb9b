"""Encoders: an image in, a feature vector out.

`build` is a pure function of a name and an image size, so that export rebuilds from the manifest what training built.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import VisionTransformer

from roost import plugins
from roost.artifact import Manifest, check_file
from roost.errors import BadArtifact, BadSettings

WEIGHTS = "encoder.safetensors"
WHITENING = "whitening."
MIN_IMAGE_SIZE = 8
SMALL_IMAGE_SIZE = 64
"""Up to this many pixels a torchvision resnet gets the stem of SimCLR's appendix B.9."""

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VITS = {  # (patch, layers, heads, width); tiny and small are those of DeiT, https://arxiv.org/abs/2012.12877, table 1
    "vit_ti_16": (16, 12, 3, 192),
    "vit_s_16": (16, 12, 6, 384),
    "vit_b_16": (16, 12, 12, 768),
    "vit_b_32": (32, 12, 12, 768),
    "vit_l_16": (16, 24, 16, 1024),
    "vit_l_32": (32, 24, 16, 1024),
    "vit_h_14": (14, 32, 16, 1280),
}


def names() -> list[str]:
    """The encoders that `build` knows, sorted."""
    return sorted(_builders())


def check(name: str) -> None:
    """Raise UnknownPlugin, with the nearest name, where no encoder has that name."""
    plugins.check(name, names(), kind="encoder")


def build(name: str, *, image_size: int) -> tuple[nn.Module, int]:
    """Make an untrained encoder without a classification head.

    Args:
        name: One of `names()`.
        image_size: Side of the square that it will see, in pixels; >= 8.

    Returns:
        A module from float32 (batch, 3, image_size, image_size) to (batch, dim), and dim.

    Raises:
        UnknownPlugin: No encoder has that name.
        BadSettings: The images are too small.
    """
    check(name)
    if image_size < MIN_IMAGE_SIZE:
        raise BadSettings(
            f"An image size of {image_size} pixels is too small. Take {MIN_IMAGE_SIZE} or more.", image_size=image_size
        )
    return _builders()[name](image_size)


class Embedder(nn.Module):
    """An encoder with what surrounds it in service: normalisation before; whitening and unit length after.

    Args:
        encoder: Maps normalised images (batch, 3, size, size) to features (batch, dim).
        mean: Subtracted per channel, on pixels scaled to 0..1.
        std: Divided by, after the mean.
        whitening: A linear map of the features that `whitening.fit` made; none where None.
    """

    mean: Tensor
    std: Tensor
    whitening: nn.Linear | None

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        whitening: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.whitening = whitening
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed uint8 pixels (batch, size, size, 3) as unit-length float32 (batch, dim)."""
        features = self.features(pixels)
        return nn.functional.normalize(features if self.whitening is None else self.whitening(features), dim=1)

    def features(self, pixels: Tensor) -> Tensor:
        """The encoder's own float32 features (batch, feature_dim) of uint8 pixels (batch, size, size, 3)."""
        return self.encoder(self.normalise(pixels)).float()

    def normalise(self, pixels: Tensor) -> Tensor:
        """What the encoder sees of uint8 pixels (batch, size, size, 3): float32 (batch, 3, size, size)."""
        images = pixels.to(torch.float32).permute(0, 3, 1, 2) / 255  # TensorRT transposes floats only
        return (images - self.mean) / self.std


def save(folder: Path, embedder: Embedder) -> None:
    """Write an artifact's weights: the encoder's, and the whitening's under `whitening.`."""
    weights = embedder.encoder.state_dict()
    if embedder.whitening is not None:
        weights |= embedder.whitening.state_dict(prefix=WHITENING)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)


def restore(folder: Path, manifest: Manifest) -> Embedder:
    """Rebuild a trained encoder from its artifact, frozen and in evaluation mode.

    Raises:
        BadArtifact: The weights are missing or altered, or are not those of the manifest's encoder.
    """
    path = check_file(folder, manifest, WEIGHTS)
    encoder, feature_dim = build(manifest.encoder, image_size=manifest.input.size)
    weights = load_file(path)
    linear = {name.removeprefix(WHITENING): weights.pop(name) for name in list(weights) if name.startswith(WHITENING)}
    whitening = nn.Linear(feature_dim, manifest.dim) if linear else None
    try:
        encoder.load_state_dict(weights)
        if whitening is not None:
            whitening.load_state_dict(linear)
    except RuntimeError as error:
        raise BadArtifact(f"{path} has no weights of {manifest.encoder}. Train it again.", path=path) from error
    return (
        Embedder(encoder, mean=manifest.input.mean, std=manifest.input.std, whitening=whitening)
        .eval()
        .requires_grad_(requires_grad=False)
    )


def _builders() -> dict[str, Callable[[int], tuple[nn.Module, int]]]:
    builders: dict[str, Callable[[int], tuple[nn.Module, int]]] = {"resnet10w32": _resnet10w32}
    builders |= {name: partial(_resnet, name) for name in RESNETS}
    builders |= {name: partial(_vit, *shape) for name, shape in VITS.items()}
    return builders


def _resnet(name: str, image_size: int) -> tuple[nn.Module, int]:
    encoder = getattr(torchvision.models, name)(weights=None)
    dim = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if image_size <= SMALL_IMAGE_SIZE:
        encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
        encoder.maxpool = nn.Identity()
    return encoder, dim


def _resnet10w32(_image_size: int) -> tuple[nn.Module, int]:
    """Four basic blocks of 32 to 256 channels behind a 3x3 stem of stride 2: 1.2 million parameters, for CPUs."""
    widths = (32, 64, 128, 256)
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        BasicBlock(widths[0], widths[0]),
    ]
    for before, width in itertools.pairwise(widths):
        shortcut = nn.Sequential(
            nn.Conv2d(before, width, kernel_size=1, stride=2, bias=False),
            nn.BatchNorm2d(width),
        )
        layers.append(BasicBlock(before, width, stride=2, downsample=shortcut))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def _vit(patch: int, layers: int, heads: int, width: int, image_size: int) -> tuple[nn.Module, int]:
    """A ViT whose patches are the name's where they fit, and smaller where images are: at least 8 a side."""
    largest = max(1, min(patch, image_size // 8))
    encoder = VisionTransformer(
        image_size=image_size,
        patch_size=next(side for side in range(largest, 0, -1) if image_size % side == 0),
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=4 * width,
    )
    encoder.heads = nn.Sequential()
    return encoder, width
