"""The run folder: settings, metrics, checkpoint and, when training is done, the artifact."""

import errno
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from roost import artifact
from roost.errors import BadSettings, DiskFull
from roost_training import encoders
from roost_training.encoders import Embedder
from roost_training.images.data import Images
from roost_training.loop import golden, pictures
from roost_training.loop.settings import TrainSettings
from roost_training.loop.source import Source

SETTINGS = "settings.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint"
OWN = (
    METRICS,
    TENSORBOARD,
    CHECKPOINT,
    pictures.FOLDER,
    artifact.MANIFEST,
    encoders.WEIGHTS,
    artifact.GOLDEN,
)
"""What a run writes beside its settings, and all that `overwrite` removes."""


def check(settings: TrainSettings) -> None:
    """Refuse a run folder that may not be written into; nothing is written yet.

    Raises:
        BadSettings: The folder is not empty and neither `resume` nor `overwrite` is set, or is no run's.
    """
    folder = settings.out
    if folder.exists() and not folder.is_dir():
        raise BadSettings(f"{folder} is a file. Give a folder for the run.", out=folder)
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if present and SETTINGS not in present:
        raise BadSettings(f"{folder} has files of something else. Give a new folder for the run.", out=folder)
    if present and not (settings.resume or settings.overwrite):
        raise BadSettings(
            f"{folder} has a run already. Go on with it by --resume, or start over by --overwrite.", out=folder
        )


def prepare(settings: TrainSettings) -> None:
    """Make the run folder ready, and write the settings into it; a resumed run keeps those that it has.

    Raises:
        DiskFull: There is no space for it; a folder that was not there is not there afterwards.
        BadSettings: It cannot be written for another reason.
    """
    folder = settings.out
    new = not folder.exists()
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            resumes = settings.resume and any((folder / CHECKPOINT).glob("*.ckpt"))
            if not resumes:  # the settings first, and replaced at once: by them a run's folder is known as one
                artifact.replace_bytes(folder / SETTINGS, (settings.model_dump_json(indent=2) + "\n").encode())
            if settings.overwrite:
                for name in OWN:
                    path = folder / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            (folder / CHECKPOINT).mkdir(exist_ok=True)
    except (DiskFull, BadSettings):
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell of writes into the run folder that fail.

    Raises:
        DiskFull: No space is left.
        BadSettings: The folder cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"{folder} cannot be written: {error.strerror}. Free some space, and run the same command with "
                "--resume to go on from the last checkpoint.",
                out=folder,
            ) from error
        raise BadSettings(f"{folder} cannot be written: {error.strerror}. Give another --out.", out=folder) from error


class Metrics:
    """metrics.jsonl and TensorBoard events, one record a line.

    Args:
        folder: The run's.
        size: Bytes of metrics.jsonl to keep: what was written after a checkpoint is written again from there.
        step: From which TensorBoard's events are dropped likewise.
    """

    def __init__(self, folder: Path, *, size: int = 0, step: int = 0) -> None:
        self._folder = folder
        with writing(folder):
            path = folder / METRICS
            path.touch()
            self._stream = path.open("r+b", buffering=0)  # nothing is left to write when a full disk ends the run
            self._stream.truncate(size)
            self._stream.seek(0, 2)
            self._board = SummaryWriter(folder / TENSORBOARD, purge_step=step)

    def write(self, kind: str, record: Mapping[str, float]) -> None:
        """Append a record of a kind, `step` or `epoch`; what is not finite is null in JSON.

        Raises:
            DiskFull: There is no space for it.
        """
        line = {key: value if math.isfinite(value) else None for key, value in record.items()}
        left = (json.dumps({"kind": kind, **line}) + "\n").encode()
        with writing(self._folder):
            while left:
                left = left[self._stream.write(left) :]
            for key, value in record.items():
                if key not in ("epoch", "step"):
                    self._board.add_scalar(f"{kind}/{key}", value, record["step"])

    def flush(self) -> int:
        """Write out what is buffered; returns the bytes of metrics.jsonl."""
        with writing(self._folder):
            self._board.flush()
        return self._stream.tell()

    def close(self) -> None:
        """Write out what is buffered and close both."""
        self._stream.close()
        with suppress(OSError):  # a write that failed was told of when it did
            self._board.close()


def manifest(settings: TrainSettings, images: Source, *, quality: dict[str, float], dim: int) -> artifact.Manifest:
    """What a finished run says about its encoder."""
    size = settings.image_size
    return artifact.Manifest(
        name=settings.name or _name_of(settings.out),
        method=settings.method,
        encoder=settings.encoder,
        input=artifact.Input(size=size, resize=size, mean=images.mean, std=images.std),
        dim=dim,
        data=artifact.Data(
            fingerprint=images.train.fingerprint, images=len(images.train), classes=len(images.train.classes)
        ),
        quality=quality,
    )


def write_artifact(
    folder: Path, manifest: artifact.Manifest, *, embedder: Embedder, golden_from: Images
) -> artifact.Manifest:
    """Write the encoder's weights and golden images into the run folder, and the manifest last."""
    encoders.save(folder, embedder)
    golden.write(folder, embedder, golden_from)
    return artifact.write(folder, manifest, files=[encoders.WEIGHTS, artifact.GOLDEN])


def _name_of(folder: Path) -> str:
    """A folder's name as a model's."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")
    return name[:64] or "encoder"
