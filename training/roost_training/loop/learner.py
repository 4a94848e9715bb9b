"""A method, its optimiser and the device they run on: everything that one step of training changes."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from roost.errors import BadData, BadSettings
from roost_training import encoders, methods
from roost_training.blocks.synchrony import synchronise
from roost_training.images import batches
from roost_training.images.batches import Batch
from roost_training.images.data import Images
from roost_training.loop import optim, weights
from roost_training.loop.schedule import cosine
from roost_training.loop.settings import MIN_BATCH, TrainSettings
from roost_training.loop.source import Source
from roost_training.views import augment


class Learner:
    """What learns.

    Args:
        fabric: Launched.
        settings: Of the run; they decide the first weights too.
        images: What is learnt from.

    Raises:
        BadData: The method wants classes, and the folders name none.
        BadSettings: The batch leaves too few images to each process.
    """

    def __init__(self, fabric: Fabric, settings: TrainSettings, images: Source) -> None:
        self.fabric, self.settings = fabric, settings
        self.batch = max(1, min(settings.batch, len(images.train)) // fabric.world_size)
        """Images a step in this process."""
        if self.batch < MIN_BATCH:
            raise BadSettings(
                f"{self.batch * fabric.world_size} images a step leave {self.batch} to each of {fabric.world_size} "
                f"processes; at least {MIN_BATCH} are needed. Take a larger batch, or fewer devices.",
                batch=settings.batch,
                devices=fabric.world_size,
            )
        self.parts = min(settings.accumulate, max(1, self.batch // MIN_BATCH))
        """In which they pass."""
        self.method, self.feature_dim = _build(fabric, settings)
        if self.method.wants_labels and images.train.labels is None:
            raise BadData(
                f"The method {settings.method} learns from classes, and {settings.data} names none. "
                "Sort its images into one subfolder a class.",
                path=settings.data,
                method=settings.method,
            )
        self.whiten = None if settings.whiten is None else min(settings.whiten, max(1, len(images.train) // 4))
        """Dimensions that whitening keeps: components that few images decide are noise."""
        self.method.mean, self.method.std = images.mean, images.std
        self.method.prepare(images.train)
        self._peak = optim.scaled_rate(
            settings.optimiser, batch=self.batch * fabric.world_size, base=settings.learning_rate
        )
        self.optimiser = optim.build(
            settings.optimiser,
            self.method,
            learning_rate=self._peak,
            weight_decay=settings.weight_decay,
            constant=self.method.constant_rate,
        )
        if settings.compile:
            self.method.compile()
        self._forward, self._stepper = fabric.setup(self.method, self.optimiser)
        self.embedder = encoders.Embedder(self.method.served, mean=images.mean, std=images.std).to(fabric.device)

    def learning_rate(self, progress: float) -> float:
        """The rate when `progress`, 0 to 1, of the training is done."""
        return self._peak * cosine(progress, warmup=self.settings.warmup)

    def rehearse(self, images: Images) -> None:
        """Pass a few images through a method that is made for this alone: what does not fit is found at no cost.

        Raises:
            BadSettings: The encoder cannot take the method's views.
        """
        settings, few = self.settings, np.arange(MIN_BATCH)
        method, _ = _build(self.fabric, settings)
        method.mean, method.std = self.method.mean, self.method.std
        method.prepare(images)
        batch = batches.take(images, few, device=self.fabric.device)
        try:
            with torch.no_grad(), self.fabric.autocast():
                method.to(self.fabric.device)(self.views(batch.pixels, 0), **self._asked(batch))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, BadSettings) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise BadSettings(
                f"The encoder {settings.encoder} cannot take the views that {settings.method} makes of images of "
                f"{settings.image_size} pixels: {reason}. Try another image_size, or another of the method_settings "
                "that say how large its views are.",
                encoder=settings.encoder,
                method=settings.method,
                image_size=settings.image_size,
            ) from error

    def step(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            batch: Images, on the device.
            step: From 0. All that is random in a step is drawn from the run's seed, this number and the process's
                rank, so that a resumed run draws the same.
            progress: The share of the training that is done, 0 to 1.

        Returns:
            What the method returned, detached: `loss` and perhaps more scalars.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(min(progress, self.settings.warmup) if group["constant"] else progress)
        figures = self._gradients(batch, step)
        if self.settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self._forward, self._stepper, max_norm=self.settings.clip_norm, error_if_nonfinite=False
            )
        self._stepper.step()
        self.optimiser.zero_grad()
        self.method.after_step(progress)
        return figures

    def _gradients(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Add up the gradients of a batch, part by part.

        Returns:
            What the method returned, detached: the mean over the batch's images.
        """
        views = [view.tensor_split(self.parts) for view in self.views(batch.pixels, step)]
        asked = {name: given.tensor_split(self.parts) for name, given in self._asked(batch).items()}
        figures: dict[str, Tensor] = {}
        for part in range(self.parts):
            share = len(views[0][part]) / len(batch.pixels)
            with self.fabric.no_backward_sync(self._forward, enabled=part + 1 < self.parts):
                found = self._forward(
                    [view[part] for view in views], **{name: given[part] for name, given in asked.items()}
                )
                self.fabric.backward(found["loss"] * share)
            for name, value in found.items():
                figures[name] = figures.get(name, 0) + value.detach() * share
        return figures

    def is_finite(self) -> bool:
        """Whether no weight is infinite or no number at all."""
        return all(bool(weight.isfinite().all()) for weight in self.method.parameters())

    def begin_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> None:
        """Let the method do what an epoch begins with; what is random in it is the same in every process."""
        torch.manual_seed(int(np.random.SeedSequence([self.settings.seed, epoch]).generate_state(1, np.uint64)[0]))
        for parameter in self.method.before_epoch(epoch, embed):
            self.optimiser.state.pop(parameter, None)

    def views(self, pixels: Tensor, step: int) -> list[Tensor]:
        """What the method is given of uint8 pixels (batch, side, side, 3) in a step."""
        pixels = pixels.to(self.fabric.device)
        state = np.random.SeedSequence([self.settings.seed, step, self.fabric.global_rank]).generate_state(2, np.uint64)
        torch.manual_seed(int(state[0]))
        generator = torch.Generator().manual_seed(int(state[1]))
        return [
            augment.normalise(
                augment.augment(pixels, cut.recipe, size=cut.size, generator=generator),
                mean=self.embedder.mean,
                std=self.embedder.std,
            )
            for cut in self.method.views(self.settings.views, self.settings.image_size)
        ]

    def _asked(self, batch: Batch) -> dict[str, Tensor]:
        asked = {"indices": batch.indices} if self.method.wants_indices else {}
        return asked | ({"labels": batch.labels} if self.method.wants_labels and batch.labels is not None else {})


def _build(fabric: Fabric, settings: TrainSettings) -> tuple[methods.Method, int]:
    encoder, feature_dim = weights.first(settings)
    config = methods.configure(settings.method, settings.method_settings)
    method = methods.load(settings.method).Method(config, encoder, feature_dim)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    elif fabric.world_size > 1:
        synchronise(method)
    return cast(methods.Method, method.to(memory_format=torch.channels_last)), feature_dim
