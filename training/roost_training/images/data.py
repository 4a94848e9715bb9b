"""A folder of images, decoded once into a memory-mapped file, and the batches that are drawn from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from roost import folder
from roost.errors import BadData
from roost.preprocess import DEFAULT_LIMITS, Limits
from roost_training.images import pixel_cache

MAX_HELD_OUT = 2_000


@dataclass(frozen=True)
class Images:
    """Images of one size, with their classes where the folders name them.

    The pixels stay on disk: take batches with `gather`, and the set may be larger than memory.
    """

    store: np.ndarray
    """uint8 memory map of shape (rows, side, side, 3)."""
    rows: np.ndarray
    """int64 of shape (n,): the row of `store` that holds each image."""
    labels: np.ndarray | None
    """int64 of shape (n,), indices into `classes`; None where the folders name no classes."""
    classes: list[str]
    paths: list[str]
    """Relative to the folder, with forward slashes."""
    sha256: list[str]
    """Of each file's bytes."""
    skipped: list[tuple[str, str]]
    """Path and reason of each file that is not among the images."""
    held_out: frozenset[str] = frozenset()
    """Paths of the folder's images that `split` took from these."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """Height and width, in pixels."""
        return self.store.shape[1]

    @property
    def pixels(self) -> np.ndarray:
        """All pixels, uint8 of shape (n, side, side, 3): the memory map itself, or for a `subset` a copy in memory."""
        whole = len(self.rows) == len(self.store) and np.array_equal(self.rows, np.arange(len(self.store)))
        return self.store if whole else self.gather(np.arange(len(self)))

    @property
    def duplicates(self) -> int:
        """Images whose file has the same bytes as an earlier one; they are kept."""
        return len(self.sha256) - len(set(self.sha256))

    @property
    def fingerprint(self) -> str:
        """sha256 over the sorted sha256 of the files: the same images have the same, in whatever folders."""
        return pixel_cache.digest(sorted(self.sha256))

    def gather(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Copy images into memory, reading the file from front to back.

        Args:
            indices: Which images, shape (k,), in any order.

        Returns:
            uint8 of shape (k, side, side, 3), in the order asked for.
        """
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        order = np.argsort(rows, kind="stable")
        pixels = np.empty((len(rows), *self.store.shape[1:]), dtype=np.uint8)
        pixels[order] = self.store[rows[order]]
        return pixels

    def subset(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The images at `indices`, in that order, over the same file; `classes` and `skipped` stay."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            rows=self.rows[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            paths=[self.paths[i] for i in chosen],
            sha256=[self.sha256[i] for i in chosen],
        )


def load(
    path: Path,
    *,
    side: int,
    cache: Path,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Find a folder's images and decode each once.

    The pixels are kept in `cache`, and a second run over unchanged files opens them without decoding. A file that
    was added or changed is decoded alone; a run that was killed goes on where it stopped.

    Args:
        path: A folder of images, at any depth. Where every image lies in one of at least two subfolders, the
            first level's names are the classes.
        side: Height and width to keep, in pixels.
        cache: A folder for the decoded pixels, made where missing. Several sets may share it.
        limits: Images beyond these are skipped.
        progress: Called with the files done and the files in all.

    Raises:
        BadData: The folder is missing or no folder, or has fewer than two readable images.
    """
    files = folder.find(path)
    decoded = pixel_cache.decode_once(path, files, side=side, cache=cache, limits=limits, progress=progress)
    if len(decoded.paths) < 2:
        raise BadData(_too_few(path, decoded), path=path, images=len(decoded.paths))
    classes, labels = folder.classes(decoded.paths)
    return Images(
        store=decoded.pixels,
        rows=np.arange(len(decoded.paths)),
        labels=labels,
        classes=classes,
        paths=decoded.paths,
        sha256=decoded.sha256,
        skipped=decoded.skipped,
    )


def split(images: Images, *, fraction: float, seed: int) -> tuple[Images, Images]:
    """Hold some images out, the same ones for the same seed.

    Args:
        images: At least two.
        fraction: Share to hold out, between 0 and 1; of each class where there are classes. At least one image
            and at most 2,000 are held out.
        seed: Any integer >= 0.

    Returns:
        The images to train on, and those held out, each in the order of the folder.

    Raises:
        BadData: The fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise BadData(f"The held-out fraction is {fraction}. Choose one between 0 and 1.", fraction=fraction)
    share = min(fraction, MAX_HELD_OUT / len(images))
    generator = np.random.default_rng(seed)
    groups = [np.arange(len(images))]
    if images.labels is not None:
        groups = [np.flatnonzero(images.labels == label) for label in range(len(images.classes))]
    held_out = np.concatenate([generator.permutation(group)[: int(share * len(group))] for group in groups])
    if not len(held_out):
        held_out = generator.permutation(len(images))[:1]
    kept = np.setdiff1d(np.arange(len(images)), held_out)
    taken = images.subset(np.sort(held_out))
    return replace(images.subset(kept), held_out=frozenset(taken.paths)), taken


def epoch_indices(
    pool: int | np.ndarray, *, batch: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[np.ndarray]:
    """The batches of one rank in one epoch; a pure function, so that a run resumes at any of them.

    Args:
        pool: The number of images, each of which comes once; or the places of those that come, shape (n,).
        batch: Images in a batch of one rank. What does not fill a batch on every rank is left out of this epoch.
        seed: Of the run, >= 0.
        epoch: Each has its own order, >= 0.
        rank: Which process, from 0.
        world: How many processes; no image is in two of them in the same epoch.

    Returns:
        Arrays of shape (batch,), int64.

    Raises:
        BadData: Too few images for one full batch on every rank.
    """
    n = pool if isinstance(pool, int) else len(pool)
    steps = n // (batch * world)
    if not steps:
        raise BadData(
            f"{n} images do not fill one batch of {batch} on {world} process(es). "
            f"Set a batch of at most {n // world}, or bring more images.",
            images=n,
            batch=batch,
            world=world,
        )
    order = np.random.default_rng([seed, epoch]).permutation(pool)[: steps * batch * world]
    return list(order.reshape(steps, world, batch)[:, rank])


def _too_few(path: Path, decoded: pixel_cache.Decoded) -> str:
    if not decoded.skipped:
        return f"{path} has one image only. Training needs at least two, and learns from hundreds or more."
    name, reason = decoded.skipped[0]
    return (
        f"{path} has {len(decoded.paths)} readable image(s); {len(decoded.skipped)} could not be used. "
        f"The first, {name}: {reason}"
    )
