"""lightly's training of small images as its CIFAR-10 benchmark does it, within a budget of processor time.

Its transforms without blur, batches of 128, and Lightning's Trainer in fp32 with two workers. The cosine ends with the
budget, as a user who knows his budget would set it. Images are in memory, as PIL images.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightly_recipes
import pytorch_lightning as lightning
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from lightly.transforms.dino_transform import DINOTransform
from lightly.transforms.moco_transform import MoCoV2Transform
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.simsiam_transform import SimSiamTransform
from lightly.transforms.swav_transform import SwaVTransform
from lightly.transforms.vicreg_transform import VICRegTransform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCH = lightly_recipes.BATCH
WORKERS = 2
TICKS = os.sysconf("SC_CLK_TCK")


def transform(method: str, *, size: int, mean: Sequence[float], std: Sequence[float]) -> Callable[..., Any]:
    """A method's views, without blur, as lightly's benchmark makes them of small images."""
    normalize = {"mean": list(mean), "std": list(std)}
    plain: dict[str, Any] = {"cj_strength": 0.5, "gaussian_blur": 0.0, "normalize": normalize}
    if method == "swav":
        sizes: dict[str, Any] = {"crop_sizes": [size], "crop_counts": [2]}
        return SwaVTransform(**sizes, crop_min_scales=[0.14], crop_max_scales=[1.0], **plain)  # pyright: ignore[reportArgumentType]
    if method == "dino":
        plain["gaussian_blur"] = (0.0, 0.0, 0.0)
        return DINOTransform(global_crop_size=size, n_local_views=0, **plain)
    if method == "byol":
        first, second = BYOLView1Transform(input_size=size, **plain), BYOLView2Transform(input_size=size, **plain)
        return BYOLTransform(view_1_transform=first, view_2_transform=second)
    classes = {"simsiam": SimSiamTransform, "moco": MoCoV2Transform, "vicreg": VICRegTransform}
    return classes.get(method, SimCLRTransform)(input_size=size, **plain)


class Views(Dataset):
    """Images in memory, or files that are opened each time, under a transform."""

    def __init__(self, images: Sequence[Image.Image] | Sequence[Path], transform: Callable[..., Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = self.images[index]
        return self.transform(Image.open(image).convert("RGB") if isinstance(image, Path) else image)


class Budget(lightning.Callback):
    """Stops the training when so much time is spent, and counts images from the first batch on."""

    def __init__(self, budget: float, *, clock: Callable[[], float], batch: int) -> None:
        self.budget, self.clock, self.batch = budget, clock, batch
        self.images = 0
        self._start = self._counted_from = clock()

    @property
    def spent(self) -> float:
        """The share that is spent."""
        return (self.clock() - self._start) / self.budget

    @property
    def rate(self) -> float:
        """Images for each second of the clock, without the first batch, which waits for workers to start."""
        return (self.images - self.batch) / (self.clock() - self._counted_from)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = self.clock()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *unused: Any, **named: Any
    ) -> None:
        self.images += self.batch
        if self.images == self.batch:
            self._counted_from = self.clock()
        trainer.should_stop = self.spent >= 1


def train(
    method: str,
    views: Views,
    *,
    encoder: nn.Module,
    dim: int,
    budget: Budget,
    seed: int = 0,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
) -> None:
    """Train an encoder in place.

    Args:
        method: One of `lightly_recipes.METHODS`.
        views: What to learn from.
        encoder: From (batch, 3, size, size) to (batch, dim).
        dim: Length of a feature vector.
        budget: When to stop.
        seed: Of heads, order and views.
        precision: Lightning's.
    """
    lightning.seed_everything(seed, workers=True, verbose=False)
    loader = DataLoader(
        views, batch_size=budget.batch, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
    )
    trainer = lightning.Trainer(
        max_epochs=100_000,
        min_steps=1,
        accelerator="cpu",
        precision=precision,
        callbacks=[budget],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints about workers and loggers
        trainer.fit(lightly_recipes.METHODS[method](encoder, dim, spent=lambda: budget.spent), loader)


def cpu_seconds() -> float:
    """User and system time of this process and of its children, living and dead."""
    own = os.times()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    living = 0
    for child in children:
        try:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        living += int(fields[11]) + int(fields[12])
    return own.user + own.system + own.children_user + own.children_system + living / TICKS
