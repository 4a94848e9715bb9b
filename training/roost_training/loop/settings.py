"""The settings of `roost train`; a recipe is a TOML file of them, under `[train]`."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import SettingsConfigDict

from roost import artifact
from roost.errors import BadSettings
from roost.settings import Settings
from roost_training import encoders, methods
from roost_training.loop import optim
from roost_training.views.augment import Recipe

MIN_BATCH = 4
"""Images that pass the encoder together, at the least: fewer make no statistics and no comparison."""

Share = Annotated[float, Field(gt=0, lt=1)]

RUN_CONTROL = {
    *("data", "val", "out", "name", "cache", "init", "resume", "overwrite"),
    *("accelerator", "devices", "threads", "compile", "evaluate_every", "log_every", "checkpoint_seconds"),
    *("min_rankme", "min_feature_std"),
}
"""Settings that a resumed run may change: they say where, how and how long, not what is learnt. Images and first
weights are compared by content."""


class TrainSettings(Settings):
    """What to train, on what, for how long."""

    model_config = SettingsConfigDict(env_prefix="ROOST_TRAIN_")
    section: ClassVar[str] = "train"

    data: Path
    """The folder of images to learn from; folder names are used to score, never to learn, unless the method says so."""
    val: Path | None = None
    """A folder of images to score on. Without it, `val_fraction` of `data` is held out."""
    val_fraction: Share = 0.2
    out: Path
    """The run folder: settings, metrics, checkpoints, and at the end the artifact."""
    name: Annotated[str, Field(pattern=artifact.NAME)] | None = None
    """The model's name; the run folder's where not given."""
    cache: Path = Path(".roost-cache")
    """Where decoded pixels are kept."""

    method: str = "simclr"
    method_settings: dict[str, Any] = Field(default_factory=dict)
    """The method's own settings, such as `temperature`."""
    encoder: str = "resnet18"
    image_size: PositiveInt = 32
    """Side of the square that the encoder sees, in pixels."""
    init: Path | None = None
    """Begin with the encoder of this finished run or artifact, which has the same name and image size."""
    init_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the weights in `init`; where it is not given, it is found and recorded."""
    source_size: PositiveInt | None = None
    """Side of the decoded square that views are cut from, in pixels; `image_size` where not given."""
    views: Recipe = Recipe()
    whiten: PositiveInt | None = None
    """Length of an embedding: so many principal components of the features, scaled to one variance, but no more than
    a quarter of the images. Without it, an embedding is the encoder's features."""

    epochs: PositiveInt = 100
    max_seconds: PositiveFloat | None = None
    """Wall-clock time of the training loop. The learning rate reaches its end with whichever limit comes first."""
    max_cpu_seconds: PositiveFloat | None = None
    """User and system time of all processes in the training loop; likewise."""
    batch: Annotated[int, Field(ge=MIN_BATCH)] = 256
    """Images a step, over all processes; all images where there are fewer."""
    accumulate: PositiveInt = 1
    """Parts of a batch that pass one after the other before the step, to save memory. Their losses are averaged: a
    loss that compares images compares those of a part, and batch norms see a part."""
    optimiser: optim.Name = "adamw"
    learning_rate: PositiveFloat | None = None
    """At the peak, for 256 images a step; it is scaled to `batch` by the optimiser's rule."""
    weight_decay: NonNegativeFloat = 1e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training in which the learning rate rises to its peak."""
    clip_norm: PositiveFloat | None = 5.0
    """Gradients longer than this are shortened to it."""
    seed: NonNegativeInt = 0

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = "auto"
    """Processes to train with, one a device; on a CPU `auto` is one. Under torchrun it starts them, and says how many.
    """
    threads: PositiveInt | None = None
    """CPU threads of each process; PyTorch's choice where not given. One wastes nothing where cores are shared."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What the forward pass computes in; `auto` is bf16 where the hardware has it, else fp16 on GPUs, else fp32."""
    compile: bool = False
    """Compile the method with torch.compile; pays on GPUs and long runs."""

    evaluate_every: PositiveInt = 1
    """Epochs between scores; the last epoch is always scored."""
    log_every: PositiveInt = 50
    """Steps between lines in metrics.jsonl."""
    checkpoint_seconds: PositiveFloat = 60.0
    """A checkpoint is written after every scored epoch, and when the last one is older than this."""
    min_rankme: NonNegativeFloat = 1.2
    """Where RankMe is under this for an epoch, the encoder has collapsed and the run stops; 0 never stops it."""
    min_feature_std: NonNegativeFloat = 0.01
    """Likewise for the standard deviation of the features at unit length, 1 where they point everywhere."""
    resume: bool = False
    """Go on from the run folder's checkpoint."""
    overwrite: bool = False
    """Start over in a run folder that is not empty."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        if self.source_size is not None and self.source_size < self.image_size:
            raise ValueError(f"source_size is {self.source_size}, less than image_size {self.image_size}")
        if self.batch < MIN_BATCH * self.accumulate:
            raise ValueError(f"a batch of {self.batch} in {self.accumulate} parts has fewer than {MIN_BATCH} in each")
        if self.init_sha256 and not self.init:
            raise ValueError("init_sha256 is of the weights in init, which is not given")
        return self

    def check_names(self) -> None:
        """Check what plug-ins decide: the method, its settings, and the encoder.

        Raises:
            UnknownPlugin: No method or encoder of that name.
            BadSettings: A setting that the method does not take, or an encoder that it cannot train.
        """
        methods.configure(self.method, self.method_settings)
        needed = methods.load(self.method).Method.needs
        with torch.device("meta"):
            encoder, _ = encoders.build(self.encoder, image_size=self.image_size)
        if not isinstance(encoder, needed):
            raise BadSettings(
                f"The method {self.method} trains a {needed.__name__}, and {self.encoder} is none. "
                "`roost encoders` lists what there is.",
                method=self.method,
                encoder=self.encoder,
            )

    @property
    def view_source(self) -> int:
        """Side of the square that views are cut from, in pixels."""
        return self.source_size or self.image_size

    def effective(self) -> dict[str, Any]:
        """Every setting that decides what is learnt, as JSON has it."""
        return self.model_dump(mode="json", exclude=RUN_CONTROL)
