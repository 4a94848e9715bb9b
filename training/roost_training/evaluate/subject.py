"""What is evaluated: a finished run, or a version that was exported from one, with the images that suit it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from roost import artifact
from roost.artifact import Manifest
from roost.errors import BadArtifact, BadData, BadSettings
from roost_training import encoders
from roost_training.clustering import model_versions, onnx_embedder
from roost_training.encoders import Embedder
from roost_training.evaluate.embedding import Progress, Vectors, vectors
from roost_training.images.data import Images
from roost_training.loop import run, source
from roost_training.loop.settings import TrainSettings
from roost_training.loop.source import Source

ONNX_THREADS = 2


@dataclass(frozen=True)
class Subject:
    """An encoder on disk."""

    folder: Path
    manifest: Manifest
    settings: TrainSettings | None
    """What it was trained with; None for an exported version, which does not say."""

    @property
    def sha256(self) -> str:
        """Of the weights, by which a report knows its encoder again."""
        return self.manifest.files[encoders.WEIGHTS if self.settings else artifact.MODEL].sha256

    @cached_property
    def embedder(self) -> Embedder | None:
        """The run's encoder, on a GPU where there is one; None for an exported version."""
        if self.settings is None:
            return None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return encoders.restore(self.folder, self.manifest).to(device)

    def vectors(self, images: Images, *, progress: Progress | None = None) -> Vectors:
        """Features and embeddings of images; an exported version has embeddings only, which stand for both.

        Raises:
            BadArtifact: The weights or the model are missing or altered, or of another encoder.
        """
        if self.embedder is not None:
            return vectors(self.embedder, images, progress=progress)
        found = onnx_embedder.embed(
            artifact.check_file(self.folder, self.manifest, artifact.MODEL),
            images,
            fed=self.manifest.input,
            dim=self.manifest.dim,
            threads=ONNX_THREADS,
            progress=progress,
        )
        embeddings = torch.from_numpy(found)
        return Vectors(embeddings, embeddings)

    def images(
        self,
        data: Path | None,
        *,
        val: Path | None,
        cache: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[TrainSettings, Source]:
        """The images to measure with, and the settings that they were read by.

        Args:
            data: A folder of images; the run's own, with those that it held out, where None.
            val: A folder to score on; a part of `data` is held out where None.
            cache: Where decoded pixels are kept.
            progress: Called with the files done and the files in all.

        Raises:
            BadSettings: No folder, and an exported version.
            BadData: A folder that cannot be scored with.
        """
        given = {"data": data, "val": val, "out": self.folder, "cache": cache, "resume": False, "overwrite": False}
        if data is None and self.settings is not None and not self.settings.data.exists():
            raise BadData(
                f"{self.settings.data}, which the run learnt from, is not there. Give a folder of images after the "
                "run's.",
                path=self.settings.data,
            )
        if self.settings is not None:
            theirs = self.settings.model_dump(mode="json", exclude_none=True)
            if data is not None:
                theirs.pop("val", None)  # those of another folder
            settings = TrainSettings.load(flags=theirs | {key: to for key, to in given.items() if to is not None})
        elif data is None:
            raise BadSettings(
                f"{self.folder} does not say what it was trained on. Give a folder of images after it.",
                path=self.folder,
            )
        else:
            settings = TrainSettings.load(flags=given | {"image_size": self.manifest.input.resize})
        return settings, source.read(settings, progress=progress)


def open_(path: Path) -> Subject:
    """Open a run folder, a version of an exported model, or the latest version of a model's folder.

    Raises:
        BadArtifact: It is none of these, is not finished, or was altered.
        BadSettings: A run whose settings this Roost does not know.
    """
    if (path / run.SETTINGS).exists():
        if not (path / artifact.MANIFEST).exists():
            raise BadArtifact(
                f"The run {path} is not finished: it has no {artifact.MANIFEST}. Go on with it by `roost train` with "
                "the same settings and --resume.",
                path=path,
            )
        return Subject(path, artifact.read(path, verify=[encoders.WEIGHTS]), _settings(path / run.SETTINGS))
    if not path.is_dir():
        raise BadArtifact(f"There is no folder {path}. Give a run's, or an exported model's.", path=path)
    folder = path if (path / artifact.MANIFEST).exists() else model_versions.latest(path)[0]
    return Subject(folder, artifact.read(folder, verify=[artifact.MODEL]), None)


def _settings(path: Path) -> TrainSettings:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read ({error}). Train again.", path=path) from error
    if not isinstance(content, dict):
        raise BadArtifact(f"{path} holds no settings. Train again.", path=path)
    return TrainSettings.load(flags=content)
