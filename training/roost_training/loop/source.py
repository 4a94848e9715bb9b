"""What a run learns from and what it is scored on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from roost import artifact
from roost.errors import BadData
from roost_training.images import data, pixel_cache
from roost_training.images.data import Images
from roost_training.loop.settings import TrainSettings

MIN_IMAGES = 8
MAX_BANK = 20_000
"""Images whose embeddings vote in the kNN score."""
STATISTICS_IMAGES = 2_000


@dataclass(frozen=True)
class Source:
    """The images of a run."""

    train: Images
    """What is learnt from, at the size that views are cut from."""
    plain: Images
    """The same images at the encoder's size, as a served image is decoded."""
    held_out: Images
    """What is scored on, at the encoder's size."""
    unseen: Images
    """The same images at the size that views are cut from."""
    mean: artifact.Channel
    """Of the training pixels scaled to 0..1."""
    std: artifact.Channel

    @property
    def labelled(self) -> bool:
        """Whether a kNN score is possible."""
        return self.train.labels is not None and self.held_out.labels is not None

    @property
    def bank(self) -> Images:
        """The training images that scores are measured with: at most 20,000, evenly spread."""
        return self.plain.subset(_spread(len(self.plain), MAX_BANK))

    @property
    def fingerprint(self) -> str:
        """Of all images in their order, which batches follow: those to train on and those held out."""
        return pixel_cache.digest([*self.train.sha256, "held out", *self.held_out.sha256])

    def describe(self) -> str:
        """One sentence for a person, with what was left out and why."""
        classes = f" in {len(self.train.classes)} classes" if self.labelled else ""
        text = f"{len(self.train)} images to train on and {len(self.held_out)} held out{classes}."
        skipped = dict(self.train.skipped) | dict(self.held_out.skipped)
        if self.train.duplicates:
            text += f" {self.train.duplicates} have the same bytes as another."
        if skipped:
            name, reason = next(iter(skipped.items()))
            text += f" Files left out: {len(skipped)}; the first, {name}: {reason}"
        return text


def read(settings: TrainSettings, *, progress: Callable[[int, int], None] | None = None) -> Source:
    """Decode a run's images, or find them decoded, and split them.

    Args:
        settings: Of the run.
        progress: Called with the files done and the files in all.

    Raises:
        BadData: A folder that cannot be trained on or scored with.
    """
    train, held_out = _pair(settings, side=settings.image_size, progress=progress)
    if len(train) < MIN_IMAGES:
        raise BadData(
            f"{settings.data} leaves {len(train)} images to train on; at least {MIN_IMAGES} are needed, and hundreds "
            "are better.",
            path=settings.data,
            images=len(train),
        )
    plain, unseen = train, held_out
    if settings.view_source != settings.image_size:
        train, unseen = _pair(settings, side=settings.view_source, progress=progress)
    mean, std = _statistics(plain)
    return Source(train=train, plain=plain, held_out=held_out, unseen=unseen, mean=mean, std=std)


def _pair(settings: TrainSettings, *, side: int, progress: Callable[[int, int], None] | None) -> tuple[Images, Images]:
    images = data.load(settings.data, side=side, cache=settings.cache, progress=progress)
    if settings.val is None:
        return data.split(images, fraction=settings.val_fraction, seed=settings.seed)
    return images, _with_classes_of(images, data.load(settings.val, side=side, cache=settings.cache, progress=progress))


def _with_classes_of(train: Images, held_out: Images) -> Images:
    """The held-out images with labels that count as the training images' do."""
    if train.labels is None or held_out.labels is None:
        return held_out
    unknown = sorted(set(held_out.classes) - set(train.classes))
    if unknown:
        raise BadData(
            f"The validation folder has the class {unknown[0]!r}, which the training folder lacks. "
            "Give both the same subfolders.",
            classes=", ".join(unknown),
        )
    renumber = np.array([train.classes.index(name) for name in held_out.classes])
    return replace(held_out, labels=renumber[held_out.labels], classes=train.classes)


def _statistics(images: Images) -> tuple[artifact.Channel, artifact.Channel]:
    sample = images.gather(_spread(len(images), STATISTICS_IMAGES)) / 255.0
    mean, std = sample.mean(axis=(0, 1, 2)), sample.std(axis=(0, 1, 2)).clip(min=1 / 255)
    return tuple(mean.round(4).tolist()), tuple(std.round(4).tolist())


def _spread(n: int, most: int) -> np.ndarray:
    """At most `most` of n indices, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)
