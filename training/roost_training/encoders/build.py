"""An encoder from its name; a pure function, so that export rebuilds from the manifest what training built."""

from collections.abc import Callable
from functools import partial

from roost import plugins
from roost.errors import BadSettings
from roost_training.encoders import resnet, vit
from roost_training.encoders.alexnet import AlexNet
from roost_training.encoders.encoder import Encoder

MIN_IMAGE_SIZE = 8


def names() -> list[str]:
    """The encoders that `build` knows, sorted."""
    return sorted(_builders(MIN_IMAGE_SIZE))


def check(name: str) -> None:
    """Raise UnknownPlugin, with the nearest name, where no encoder has that name."""
    plugins.check(name, names(), kind="encoder")


def build(name: str, *, image_size: int) -> tuple[Encoder, int]:
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
    encoder = _builders(image_size)[name]()
    return encoder, encoder.dim


def _builders(image_size: int) -> dict[str, Callable[[], Encoder]]:
    builders: dict[str, Callable[[], Encoder]] = {
        "alexnet": partial(AlexNet, image_size=image_size),
        "resnet10w32": resnet.SmallResNet,
    }
    builders |= {name: partial(resnet.ResNet, name, image_size=image_size) for name in resnet.LAYERS}
    builders |= {name: partial(vit.ViT, name, image_size=image_size) for name in vit.SHAPES}
    return builders
