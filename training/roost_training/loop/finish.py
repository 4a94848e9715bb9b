"""What a run leaves when its last step is made: the method's own figures and pictures, and the artifact."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from roost import artifact
from roost_training import methods
from roost_training.evaluate import embedding
from roost_training.loop import pictures, run, scores
from roost_training.loop.checkpoint import Position
from roost_training.loop.learner import Learner
from roost_training.loop.settings import TrainSettings
from roost_training.loop.source import Source


def write(settings: TrainSettings, images: Source, learner: Learner, position: Position) -> artifact.Manifest:
    """Write pictures and the artifact into the run folder; one process does.

    Raises:
        DiskFull: There is no space for them.
    """
    embedder, whiten = learner.embedder, learner.whiten
    if whiten is not None and embedder.whitening is None:  # resumed after its last epoch
        scores.score(embedder, images, whiten=whiten)
    figures = learner.method.figures(embedding.embed(embedder, images.plain), _held_out(learner, images))
    manifest = run.manifest(
        settings,
        images,
        quality=position.figures | _spent(position) | figures,
        dim=learner.feature_dim if whiten is None else whiten,
    )
    with run.writing(settings.out):
        pictures.write(settings.out, _pictures(learner, images), mean=images.mean, std=images.std)
        return run.write_artifact(settings.out, manifest, embedder=embedder, golden_from=images.held_out)


def _spent(position: Position) -> dict[str, float]:
    return {
        "epochs": position.epoch,
        "images_seen": position.images,
        "training_seconds": round(position.seconds, 1),
        "training_cpu_seconds": round(position.cpu_seconds, 1),
    }


def _held_out(learner: Learner, images: Source) -> methods.HeldOut:
    labels = None if images.held_out.labels is None else torch.from_numpy(images.held_out.labels)
    embeddings = embedding.embed(learner.embedder, images.held_out)
    return methods.HeldOut(embeddings, labels, views=lambda: _embedded_views(learner, images))


@torch.inference_mode()
def _embedded_views(learner: Learner, images: Source) -> list[Tensor]:
    embedder = learner.embedder.eval()
    parts = [
        [embedding.served(embedder, embedder.encoder(view).float()) for view in learner.views(pixels, step)]
        for step, pixels in enumerate(embedding.batches(images.unseen))
    ]
    return [torch.cat(view) for view in zip(*parts, strict=True)]


@torch.no_grad()
def _pictures(learner: Learner, images: Source) -> Mapping[str, Tensor]:
    chosen = np.arange(min(pictures.IMAGES, len(images.unseen)))
    return learner.method.eval().pictures(learner.views(torch.from_numpy(images.unseen.gather(chosen)), 0))
