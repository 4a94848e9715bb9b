"""An encoder with what surrounds it in service, and its weights on disk."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from roost.artifact import Manifest, check_file, replace_bytes
from roost.errors import BadArtifact
from roost_training.encoders.build import build

WEIGHTS = "encoder.safetensors"
WHITENING = "whitening."


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
    content = serialise({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    replace_bytes(folder / WEIGHTS, content)


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
