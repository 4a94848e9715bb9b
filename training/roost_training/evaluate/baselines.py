"""What an encoder has to beat: the pixels themselves, their principal components, and itself before training."""

import torch
from torch import nn

from roost import artifact
from roost_training import encoders
from roost_training.encoders import Embedder, whitening
from roost_training.evaluate.embedding import features
from roost_training.images.data import Images

THUMBNAIL = 32
PRINCIPAL = 64


def raw_pixels(*, mean: artifact.Channel, std: artifact.Channel, side: int) -> Embedder:
    """The pixels of images of `side` pixels, normalised as for an encoder, and averaged to at most 32 a side."""
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(min(side, THUMBNAIL)), nn.Flatten())
    return Embedder(plain, mean=mean, std=std).eval()


def principal_components(images: Images, *, mean: artifact.Channel, std: artifact.Channel) -> Embedder:
    """The first 64 principal components of `raw_pixels`, as they are: whitening would raise noise.

    Args:
        images: That the components are found among; with fewer than 64, so many components.
        mean: Of the normalisation.
        std: Likewise.
    """
    embedder = raw_pixels(mean=mean, std=std, side=images.side)
    pixels = features(embedder, images)
    linear = whitening.fit(pixels, dim=min(PRINCIPAL, *pixels.shape))
    lengths = linear.weight.norm(dim=1)
    linear.load_state_dict({"weight": linear.weight / lengths[:, None], "bias": linear.bias / lengths})
    embedder.encoder = nn.Sequential(embedder.encoder, linear)
    return embedder


def untrained(name: str, *, mean: artifact.Channel, std: artifact.Channel, side: int, seed: int) -> Embedder:
    """An encoder with the weights that a run with this seed begins with; without whitening."""
    torch.manual_seed(seed)
    encoder, _ = encoders.build(name, image_size=side)
    return Embedder(encoder, mean=mean, std=std).eval().requires_grad_(requires_grad=False)
