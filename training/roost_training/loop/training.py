"""The training loop: a folder of images in, a run folder with an encoder's artifact out."""

import math
import time

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from roost import artifact
from roost.errors import TrainingFailed
from roost_training import methods
from roost_training.evaluate import embedding
from roost_training.evaluate.embedding import embed, features
from roost_training.images import batches, data
from roost_training.loop import checkpoint, devices, pictures, run, scores, source
from roost_training.loop.learner import Learner
from roost_training.loop.meter import Meter
from roost_training.loop.progress import Reporter, console
from roost_training.loop.schedule import Clock
from roost_training.loop.settings import TrainSettings
from roost_training.loop.signals import Interruption

REPORT_SECONDS = 0.5
COLLAPSED_RANKME = 1.01


def train(settings: TrainSettings, *, progress: Reporter | None = None) -> artifact.Manifest:
    """Train an encoder and write its artifact into the run folder.

    Args:
        settings: What to train, on what, for how long.
        progress: Told of what happens; by default a bar on stderr where that is a terminal, else a line per epoch.

    Returns:
        The artifact's manifest.

    Raises:
        BadSettings: Settings that contradict the method, the run folder or the checkpoint.
        BadData: Images that cannot be trained on.
        UnknownPlugin: No method or encoder of that name.
        MissingDependency: The accelerator is not here.
        TrainingFailed: The loss is not finite, or every image has the same embedding.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    settings.check_names()
    fabric = devices.fabric(settings)
    fabric.launch()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    reporter = (progress or console()) if fabric.is_global_zero else Reporter()
    try:
        if fabric.is_global_zero:
            run.prepare(settings)
        with fabric.rank_zero_first():
            images = source.read(settings, progress=reporter.decoded)
        loop = _Loop(fabric, settings, images, reporter)
        with Interruption() as interruption:
            loop.run(interruption)
        return loop.finish()
    finally:
        reporter.close()


class _Loop:
    """A run from its first step, or from its checkpoint, to its artifact."""

    def __init__(self, fabric: Fabric, settings: TrainSettings, images: source.Source, reporter: Reporter) -> None:
        self.fabric, self.settings, self.images, self.reporter = fabric, settings, images, reporter
        self.learner = Learner(fabric, settings, images)
        self.position = self._begin()
        self.loss = torch.tensor(self.position.loss, dtype=torch.float32, device=fabric.device)
        self.clock = Clock(
            steps=settings.epochs * len(self._order(0)),
            max_seconds=settings.max_seconds,
            max_cpu_seconds=settings.max_cpu_seconds,
            seconds=self.position.seconds,
            cpu_seconds=self.position.cpu_seconds,
        )
        self.progress = 0.0
        self.stop = False
        self.saved_at = self.reported_at = time.monotonic()

    def run(self, interruption: Interruption) -> None:
        """Train until the last step, the end of the budget, or an interruption."""
        # Only the first process writes; what it measures of time and signals, all follow.
        self.metrics = (
            run.Metrics(self.settings.out, size=self.position.metrics_bytes, step=self.position.step)
            if self.fabric.is_global_zero
            else None
        )
        try:
            self._look_at_clock(interruption)
            while self.progress < 1:
                self._epoch(interruption)
        finally:
            if self.metrics:
                self.metrics.close()

    def finish(self) -> artifact.Manifest:
        """Write the artifact."""
        figures = self.position.figures
        if figures["rankme"] < COLLAPSED_RANKME:
            raise TrainingFailed(
                "Every image has the same embedding: the encoder collapsed. Try a lower learning rate, a larger batch, "
                "or weaker views.",
                rankme=figures["rankme"],
            )
        embedder, whiten = self.learner.embedder, self.learner.whiten
        if whiten is not None and embedder.whitening is None:  # resumed after its last epoch
            scores.score(embedder, self.images, whiten=whiten)
        spent = {
            "epochs": self.position.epoch,
            "images_seen": self.position.images,
            "training_seconds": round(self.position.seconds, 1),
            "training_cpu_seconds": round(self.position.cpu_seconds, 1),
        }
        dim = self.learner.feature_dim if whiten is None else whiten
        manifest = run.manifest(self.settings, self.images, quality=figures | spent, dim=dim)
        figures = self.learner.method.figures(embed(embedder, self.images.plain), self._held_out())
        manifest = manifest.model_copy(update={"quality": manifest.quality | figures})
        if self.fabric.is_global_zero:
            pictures.write(self.settings.out, self._pictures(), mean=self.images.mean, std=self.images.std)
            manifest = run.write_artifact(
                self.settings.out, manifest, embedder=embedder, golden_from=self.images.held_out
            )
        return self.fabric.broadcast(manifest)

    def _held_out(self) -> methods.HeldOut:
        embedder, images = self.learner.embedder, self.images.held_out
        labels = None if images.labels is None else torch.from_numpy(images.labels)
        return methods.HeldOut(embed(embedder, images), labels, views=self._embedded_views)

    @torch.inference_mode()
    def _embedded_views(self) -> list[Tensor]:
        embedder = self.learner.embedder.eval()
        parts = [
            [embedding.served(embedder, embedder.encoder(view).float()) for view in self._views(pixels, step)]
            for step, pixels in enumerate(embedding.batches(self.images.held_out))
        ]
        return [torch.cat(view) for view in zip(*parts, strict=True)]

    @torch.no_grad()
    def _pictures(self) -> dict[str, Tensor]:
        chosen = np.arange(min(pictures.IMAGES, len(self.images.held_out)))
        pixels = torch.from_numpy(self.images.held_out.gather(chosen))
        return dict(self.learner.method.eval().pictures(self._views(pixels, 0)))

    def _views(self, pixels: Tensor, step: int) -> list[Tensor]:
        return self.learner.views(pixels.to(self.fabric.device), step)

    def _begin(self) -> checkpoint.Position:
        if self.settings.resume and checkpoint.path_in(self.settings.out).exists():
            position = checkpoint.load(self.fabric, self.settings, self.images, self.learner)
            self.reporter.note(f"Going on after step {position.step}, in epoch {position.epoch}.")
            return position
        self.reporter.note(self.images.describe())
        return checkpoint.Position(
            figures=scores.baselines(self.learner.embedder, self.images, whiten=self.learner.whiten)
        )

    def _epoch(self, interruption: Interruption) -> None:
        position = self.position
        if not position.epoch_step:
            self.learner.forget(self.learner.method.before_epoch(position.epoch, self._features))
        order = self._order(position.epoch)[position.epoch_step :]
        meter = Meter()
        for batch in meter.waiting(batches.stream(self.images.train, order, device=self.fabric.device)):
            figures = self.learner.step(batch, step=position.step, progress=self.progress)
            self.loss += figures["loss"]
            position.step += 1
            position.epoch_step += 1
            meter.images += self.learner.batch * self.fabric.world_size
            position.images += self.learner.batch * self.fabric.world_size
            self._look_at_clock(interruption)
            self._tell(figures, meter)
            if self.stop or self.progress >= 1:
                break
            if time.monotonic() - self.saved_at > self.settings.checkpoint_seconds:
                self._save()
        if self.stop and self.progress < 1:
            self._leave()
        meter.stop()
        self._end_epoch(meter)

    def _features(self) -> Tensor:
        return functional.normalize(features(self.learner.embedder, self.images.plain), dim=1)

    def _look_at_clock(self, interruption: Interruption) -> None:
        self.progress, self.stop = self.clock.progress(self.position.step), interruption.requested
        if self.fabric.world_size > 1:
            self.progress, self.stop = self.fabric.broadcast((self.progress, self.stop))

    def _tell(self, figures: dict[str, Tensor], meter: Meter) -> None:
        now = time.monotonic()
        log = self.position.step % self.settings.log_every == 0
        if not log and now - self.reported_at < REPORT_SECONDS:
            return  # reading a figure from a GPU waits for it
        self.reported_at = now
        numbers = {name: value.item() for name, value in figures.items()}
        _check_finite(numbers["loss"], step=self.position.step)
        numbers |= meter.figures() | {"seconds_left": self._seconds_left()}
        self.reporter.step(self.progress, numbers)
        if log and self.metrics:
            where = {"step": self.position.step, "epoch": self.position.epoch}
            rate = {"learning_rate": self.learner.learning_rate(self.progress)}
            self.metrics.write("step", where | numbers | rate)

    def _end_epoch(self, meter: Meter) -> None:
        position = self.position
        loss = float(self.fabric.all_reduce(self.loss / position.epoch_step, reduce_op="mean"))  # pyright: ignore[reportArgumentType]
        _check_finite(loss, step=position.step)
        record = {"step": position.step, "epoch": position.epoch, "loss": loss} | meter.figures()
        due = self.progress >= 1 or (position.epoch + 1) % self.settings.evaluate_every == 0
        if due:
            found = scores.score(self.learner.embedder, self.images, whiten=self.learner.whiten)
            position.figures |= found | {"loss": loss}
            record |= found
        record |= {"seconds": self.clock.seconds, "seconds_left": self._seconds_left()}
        if self.metrics:
            self.metrics.write("epoch", record)
        self.reporter.epoch(record)
        position.epoch += 1
        position.epoch_step = 0
        self.loss.zero_()
        if due:
            self._save()

    def _leave(self) -> None:
        self._save()
        self.reporter.note(
            f"Stopped after step {self.position.step}; the checkpoint is in {self.settings.out}. "
            "Run the same command with --resume to go on."
        )
        raise KeyboardInterrupt

    def _save(self) -> None:
        _check_finite(self.loss.item(), step=self.position.step)
        self.position.loss = self.loss.item()
        self.position.seconds, self.position.cpu_seconds = self.clock.seconds, self.clock.cpu_seconds
        if self.metrics:
            self.position.metrics_bytes = self.metrics.flush()
        checkpoint.save(self.fabric, self.settings, self.images, self.learner, self.position)
        self.saved_at = time.monotonic()

    def _order(self, epoch: int) -> list[np.ndarray]:
        pool = self.learner.method.pool(np.random.default_rng([self.settings.seed, epoch, 1]))
        return data.epoch_indices(
            len(self.images.train) if pool is None else pool,
            batch=self.learner.batch,
            seed=self.settings.seed,
            epoch=epoch,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    def _seconds_left(self) -> float:
        return self.clock.seconds * (1 - self.progress) / self.progress if self.progress else math.inf


def _check_finite(loss: float, *, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailed(
            f"The loss was {loss} after step {step}. Try a lower learning rate, a longer warm-up, or --precision fp32.",
            loss=loss,
            step=step,
        )
