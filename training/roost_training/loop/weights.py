"""The encoder that a run begins with: drawn from its seed, or an earlier run's."""

import torch

from roost import artifact
from roost.errors import BadSettings
from roost_training import encoders
from roost_training.encoders import Encoder
from roost_training.loop.settings import TrainSettings


def identify(settings: TrainSettings) -> TrainSettings:
    """The settings with the sha256 of the weights that `init` names, where it names some.

    Raises:
        BadArtifact: It is no finished run, or its files have changed.
        BadSettings: Its encoder or its image size is another, or its weights are not those of `init_sha256`.
    """
    if settings.init is None:
        return settings
    manifest = artifact.read(settings.init, verify=[encoders.WEIGHTS])
    theirs, ours = (manifest.encoder, manifest.input.size), (settings.encoder, settings.image_size)
    if theirs != ours:
        raise BadSettings(
            f"{settings.init} has the encoder {theirs[0]} for {theirs[1]} pixels, and this run trains {ours[0]} for "
            f"{ours[1]}. Take the same encoder and image_size, or another init.",
            init=settings.init,
        )
    found = manifest.files[encoders.WEIGHTS].sha256
    if settings.init_sha256 not in (None, found):
        raise BadSettings(
            f"The weights in {settings.init} have the sha256 {found}, not {settings.init_sha256}. "
            "Bring back the ones that were meant, or leave init_sha256 out.",
            init=settings.init,
            found=found,
        )
    return settings.model_copy(update={"init_sha256": found})


def untrained(settings: TrainSettings) -> tuple[Encoder, int]:
    """The encoder with the weights that the seed draws, and the length of its features."""
    torch.manual_seed(settings.seed)
    return encoders.build(settings.encoder, image_size=settings.image_size)


def first(settings: TrainSettings) -> tuple[Encoder, int]:
    """The encoder that training begins with, and the length of its features."""
    encoder, feature_dim = untrained(settings)
    if settings.init is not None:
        earlier = encoders.restore(settings.init, artifact.read(settings.init, verify=[]))
        encoder.load_state_dict(earlier.encoder.state_dict())
        torch.manual_seed(settings.seed)
    return encoder, feature_dim
