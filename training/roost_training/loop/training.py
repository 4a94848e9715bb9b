"""The training loop: a folder of images in, a run folder with an encoder's artifact out."""

import math
import time

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from roost import artifact
from roost_training import encoders
from roost_training.blocks import distributed
from roost_training.evaluate.embedding import features
from roost_training.images import batches, data
from roost_training.loop import checkpoint, collapse, devices, finish, memory, run, scores, source, weights
from roost_training.loop.learner import Learner
from roost_training.loop.meter import Meter
from roost_training.loop.processes import Processes
from roost_training.loop.progress import Reporter, console
from roost_training.loop.schedule import Clock, Stopwatch
from roost_training.loop.settings import TrainSettings
from roost_training.loop.signals import Interruption

REPORT_SECONDS = 0.5


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
    memory.keep_freed()
    fabric = devices.fabric(settings)
    processes = Processes()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    reporter = (progress or console()) if fabric.is_global_zero else Reporter()
    try:
        processes.first(lambda: run.check(settings))
        settings = processes.each(lambda: weights.identify(settings))
        loop = _Loop(fabric, processes, settings, _read(settings, processes, reporter), reporter)
        if not loop.position.step:  # a run that is resumed has shown that it fits
            processes.each(lambda: loop.learner.rehearse(loop.images.train))
        processes.first(lambda: run.prepare(settings))
        with Interruption() as interruption:
            loop.run(interruption)
        return loop.finish()
    finally:
        reporter.close()


def _read(settings: TrainSettings, processes: Processes, reporter: Reporter) -> source.Source:
    """The images: the first process decodes them, and the others open what it decoded."""

    def read() -> source.Source:
        return source.read(settings, progress=reporter.decoded)

    decoded = processes.each(lambda: read() if processes.rank == 0 else None)
    return processes.each(lambda: decoded or read())


class _Loop:
    """A run from its first step, or from its checkpoint, to its artifact."""

    def __init__(
        self,
        fabric: Fabric,
        processes: Processes,
        settings: TrainSettings,
        images: source.Source,
        reporter: Reporter,
    ) -> None:
        self.fabric, self.processes, self.settings = fabric, processes, settings
        self.images, self.reporter = images, reporter
        self.learner = Learner(fabric, settings, images)
        self.position = self._begin()
        self.loss = torch.tensor(self._loss_before(), dtype=torch.float32, device=fabric.device)
        self.clock = Clock(
            steps=settings.epochs * len(self._order(0)),
            max_seconds=settings.max_seconds,
            max_cpu_seconds=settings.max_cpu_seconds,
            seconds=self.position.seconds,
            cpu_seconds=self.position.cpu_seconds,
        )
        self.stopwatch = Stopwatch()
        self.progress = 0.0
        self.stop = self.save_is_due = False
        self.saved_at = self.reported_at = time.monotonic()
        self.metrics: run.Metrics | None = None

    def run(self, interruption: Interruption) -> None:
        """Train until the last step, the end of the budget, or an interruption."""
        # Only the first process writes; what the processes measure of time and signals, they share.
        self.processes.first(self._open_metrics)
        try:
            self._look_at_clock(interruption)
            while self.progress < 1:
                self._epoch(interruption)
        finally:
            if self.metrics:
                self.metrics.close()

    def finish(self) -> artifact.Manifest:
        """Write the artifact."""
        return self.processes.first(lambda: finish.write(self.settings, self.images, self.learner, self.position))

    def _begin(self) -> checkpoint.Position:
        learner, settings, images = self.learner, self.settings, self.images
        if settings.resume and self.processes.first(checkpoint.path_in(settings.out).exists):
            position = self.processes.each(lambda: checkpoint.load(self.fabric, settings, images, learner))
            self.reporter.note(f"Going on after step {position.step}, in epoch {position.epoch}.")
            return position
        self.reporter.note(images.describe())
        untrained = encoders.Embedder(weights.untrained(settings)[0], mean=images.mean, std=images.std)
        untrained.to(self.fabric.device)
        return checkpoint.Position(
            figures=self.processes.first(lambda: scores.baselines(untrained, images, whiten=learner.whiten))
        )

    def _loss_before(self) -> float:
        """This process's part of what the epoch's losses sum up to, where the run is resumed in one."""
        losses = self.position.losses
        if len(losses) == self.processes.count:
            return losses[self.processes.rank]
        return sum(losses) / max(len(losses), 1)  # with another number of processes than before

    def _epoch(self, interruption: Interruption) -> None:
        position = self.position
        if not position.epoch_step:
            self.learner.begin_epoch(position.epoch, self._features)
        order = self._order(position.epoch)[position.epoch_step :]
        meter = Meter()
        for batch in meter.waiting(batches.stream(self.images.train, order, device=self.fabric.device)):
            figures = self.learner.step(batch, step=position.step, progress=self.progress)
            self.loss += figures["loss"]
            position.step += 1
            position.epoch_step += 1
            meter.images += self.learner.batch * self.processes.count
            position.images += self.learner.batch * self.processes.count
            self._look_at_clock(interruption)
            self._tell(figures, meter)
            if self.stop or self.progress >= 1:
                break
            if self.save_is_due and not position.low:
                self._save()
        if self.stop and self.progress < 1:
            self._leave()
        meter.stop()
        self._end_epoch(meter)

    def _features(self) -> Tensor:
        """The unit-length features of all training images, the same in every process; each computes a part."""
        images, count = self.images.plain, self.processes.count
        turns = np.arange(-(-len(images) // count) * count) % len(images)
        own = features(self.learner.embedder, images.subset(turns[self.processes.rank :: count]))
        every = distributed.gather(own).unflatten(0, (count, -1)).transpose(0, 1).flatten(0, 1)
        return functional.normalize(every[: len(images)], dim=1)

    def _look_at_clock(self, interruption: Interruption) -> None:
        seconds, cpu_seconds = self.stopwatch.lap()
        late = time.monotonic() - self.saved_at > self.settings.checkpoint_seconds
        leads = self.processes.rank == 0
        seconds, cpu_seconds, late, stop = self.processes.total(
            seconds if leads else 0.0, cpu_seconds, leads and late, interruption.requested
        )
        self.clock.count((seconds, cpu_seconds))
        self.progress = self.clock.progress(self.position.step)
        self.save_is_due, self.stop = late > 0, stop > 0

    def _tell(self, figures: dict[str, Tensor], meter: Meter) -> None:
        now = time.monotonic()
        log = self.position.step % self.settings.log_every == 0
        if not log and now - self.reported_at < REPORT_SECONDS:
            return  # reading a figure from a GPU waits for it
        self.reported_at = now
        numbers = {name: value.item() for name, value in figures.items()}
        if log:
            numbers = self.processes.mean(numbers)
            _check_finite(numbers["loss"], step=self.position.step)
        told = numbers | meter.figures() | {"seconds_left": self._seconds_left()}
        self.reporter.step(self.progress, told)
        if log:
            where = {"step": self.position.step, "epoch": self.position.epoch}
            self._record("step", where | told | {"learning_rate": self.learner.learning_rate(self.progress)})

    def _end_epoch(self, meter: Meter) -> None:
        position, settings = self.position, self.settings
        loss = self.processes.mean({"loss": self.loss.item() / position.epoch_step})
        _check_finite(loss["loss"], step=position.step)
        record = {"step": position.step, "epoch": position.epoch} | loss | meter.figures()
        due = self.progress >= 1 or position.low or (position.epoch + 1) % settings.evaluate_every == 0
        was_low = position.low
        if due:
            self._check_weights()
            found = self.processes.first(self._score)
            position.figures |= found | loss
            position.low = collapse.is_low(found, settings)
            record |= found
        record |= {"seconds": self.clock.seconds, "cpu_seconds": self.clock.cpu_seconds}
        record |= {"seconds_left": self._seconds_left()}
        self._record("epoch", record)
        self.reporter.epoch(record)
        if position.low and (was_low or self.progress >= 1):
            raise collapse.failure(position.figures, settings, epoch=position.epoch)
        position.epoch += 1
        position.epoch_step = 0
        self.loss.zero_()
        if due and not position.low:
            self._save()

    def _score(self) -> dict[str, float]:
        return scores.score(self.learner.embedder, self.images, whiten=self.learner.whiten)

    def _leave(self) -> None:
        stopped = f"Stopped after step {self.position.step}; "
        if self.position.low:  # a checkpoint of a collapsed encoder would take the place of a good one
            stopped += f"the encoder was collapsing, so that {self.settings.out} keeps the checkpoint before. "
        else:
            self._save()
            stopped += f"the checkpoint is in {self.settings.out}. "
        self.reporter.note(stopped + "Run the same command with --resume to go on.")
        raise KeyboardInterrupt

    def _save(self) -> None:
        self.position.losses = self.processes.gather(self.loss.item())
        _check_finite(sum(self.position.losses), step=self.position.step)
        self._check_weights()
        self.position.seconds, self.position.cpu_seconds = self.clock.seconds, self.clock.cpu_seconds
        self.processes.first(self._write_checkpoint)
        self.saved_at = time.monotonic()

    def _check_weights(self) -> None:
        if not self.learner.is_finite():
            raise collapse.diverged(f"A weight was not finite after step {self.position.step}", step=self.position.step)

    def _write_checkpoint(self) -> None:
        if self.metrics:
            self.position.metrics_bytes = self.metrics.flush()
        checkpoint.save(self.fabric, self.settings, self.images, self.learner, self.position)

    def _open_metrics(self) -> None:
        position = self.position
        self.metrics = run.Metrics(self.settings.out, size=position.metrics_bytes, step=position.step)

    def _record(self, kind: str, record: dict[str, float]) -> None:
        self.processes.first(lambda: self.metrics.write(kind, record) if self.metrics else None)

    def _order(self, epoch: int) -> list[np.ndarray]:
        pool = self.learner.method.pool(np.random.default_rng([self.settings.seed, epoch, 1]))
        return data.epoch_indices(
            len(self.images.train) if pool is None else pool,
            batch=self.learner.batch,
            seed=self.settings.seed,
            epoch=epoch,
            rank=self.processes.rank,
            world=self.processes.count,
        )

    def _seconds_left(self) -> float:
        return self.clock.seconds * (1 - self.progress) / self.progress if self.progress else math.inf


def _check_finite(loss: float, *, step: int) -> None:
    if not math.isfinite(loss):
        raise collapse.diverged(f"The loss was {loss} after step {step}", loss=loss, step=step)
