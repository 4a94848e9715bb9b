"""A finished run that has learnt nothing, and what is measured of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from roost_training import encoders
from roost_training.encoders import whitening
from roost_training.evaluate import baselines, embedding, report, subject
from roost_training.evaluate.report import Measured
from roost_training.loop import run, scores, source
from roost_training.loop.settings import TrainSettings


@pytest.fixture(scope="session")
def finish(digits, tmp_path_factory) -> Callable[..., Path]:
    """Write the run folder that training over the digits would leave, with the encoder's first weights."""
    cache = tmp_path_factory.mktemp("pixels")

    def write(out: Path, *, whiten: int | None = None, **given: object) -> Path:
        plain: dict[str, object] = {"data": digits, "cache": cache, "encoder": "resnet10w32", "image_size": 16}
        settings = TrainSettings(**(plain | {"threads": 1, "source_size": 20, "out": out, "whiten": whiten} | given))
        images = source.read(settings)
        embedder = baselines.untrained(
            settings.encoder, mean=images.mean, std=images.std, side=settings.image_size, seed=settings.seed
        )
        dim = encoders.build(settings.encoder, image_size=settings.image_size)[1]
        if whiten:
            embedder.whitening = whitening.fit(embedding.features(embedder, images.plain), dim=whiten)
        run.prepare(settings)
        quality = scores.score(embedder, images, whiten=whiten) | {"training_cpu_seconds": 1.5}
        manifest = run.manifest(settings, images, quality=quality, dim=whiten or dim)
        run.write_artifact(out, manifest, embedder=embedder, golden_from=images.held_out)
        return out

    return write


@pytest.fixture(scope="session")
def finished(finish, tmp_path_factory) -> Path:
    """The run `first`, with whitened embeddings."""
    return finish(tmp_path_factory.mktemp("runs") / "first", whiten=16)


@pytest.fixture(scope="session")
def measured(finished) -> Measured:
    """Its report, with baselines."""
    return report.measure(subject.open_(finished), with_baselines=True)
