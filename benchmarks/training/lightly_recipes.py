"""lightly's own methods as its CIFAR-10 benchmark has them, over an encoder of ours.

From lightly's documentation, `getting_started/benchmarks/cifar10_benchmark.py`: heads, losses, temperatures and
momenta, SGD at 0.06 (Adam at 0.001 for SwAV), a cosine schedule. VICReg, which that page lacks and which diverges with
that optimiser, is as in lightly's ImageNet benchmark: LARS at 0.2 for 256 images, after a tenth of warm-up.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, get_weight_decay_parameters, update_momentum
from lightly.utils.lars import LARS
from torch import Tensor, nn

BATCH = 128
MOMENTUM = 0.99


class Learner(lightning.LightningModule):
    """One of lightly's methods; `spent` tells the share of the budget that is gone, which the rate's cosine follows."""

    def __init__(self, encoder: nn.Module, dim: int, *, spent: Callable[[], float]) -> None:
        super().__init__()
        self.encoder, self.spent = encoder, spent
        self.build(dim)

    def build(self, dim: int) -> None:
        """Make heads and losses."""
        raise NotImplementedError

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """Of one batch."""
        raise NotImplementedError

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        """Lightning's."""
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        """SGD as in lightly's benchmark, with the cosine in steps of the budget."""
        return self.scheduled(torch.optim.SGD(self.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4))

    def scheduled(self, optimiser: torch.optim.Optimizer, *, warmup: float = 0.0) -> Any:
        """An optimiser with the cosine of the budget, after a share of it in which the rate rises."""

        def factor(step: int) -> float:
            spent = min(1.0, self.spent())
            if spent < warmup:
                return spent / warmup
            return 0.5 * (1 + math.cos(math.pi * (spent - warmup) / (1 - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]


class SimCLR(Learner):
    """lightly's SimCLR."""

    def build(self, dim: int) -> None:
        self.head, self.criterion = heads.SimCLRProjectionHead(dim, dim, 128), NTXentLoss()

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        return self.criterion(self.head(self.encoder(views[0])), self.head(self.encoder(views[1])))


class BarlowTwins(Learner):
    """lightly's Barlow Twins."""

    criterion: nn.Module

    def build(self, dim: int) -> None:
        self.head = heads.BarlowTwinsProjectionHead(dim, 2048, 2048)
        self.criterion = BarlowTwinsLoss()

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        return self.criterion(self.head(self.encoder(views[0])), self.head(self.encoder(views[1])))


class VICReg(BarlowTwins):
    """lightly's VICReg."""

    def build(self, dim: int) -> None:
        super().build(dim)
        self.criterion = VICRegLoss()

    def configure_optimizers(self) -> Any:
        decaying, still = get_weight_decay_parameters([self.encoder, self.head])
        groups = [{"params": decaying}, {"params": still, "weight_decay": 0.0}]
        return self.scheduled(LARS(groups, lr=0.2 * BATCH / 256, momentum=0.9, weight_decay=1e-6), warmup=0.1)


class SimSiam(Learner):
    """lightly's SimSiam."""

    def build(self, dim: int) -> None:
        self.head = heads.ProjectionHead(
            [(dim, 2048, nn.BatchNorm1d(2048), nn.ReLU(inplace=True)), (2048, 2048, nn.BatchNorm1d(2048), None)]
        )
        self.predictor = heads.SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        za, zb = (self.head(self.encoder(view)) for view in views)
        return 0.5 * (self.criterion(self.predictor(za), zb.detach()) + self.criterion(self.predictor(zb), za.detach()))


class Following(Learner):
    """A method with a momentum copy of encoder and head."""

    head: nn.Module

    def follow(self, head: Callable[[], nn.Module]) -> None:
        """Make both heads, alike, and the copy, without gradients. A norm of weights keeps a head from being copied."""
        self.head, self.teacher_head = head(), head()
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher = copy.deepcopy(self.encoder)
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        update_momentum(self.encoder, self.teacher, m=MOMENTUM)
        update_momentum(self.head, self.teacher_head, m=MOMENTUM)
        return super().training_step(batch, index)

    def taught(self, view: Tensor) -> Tensor:
        """What the copy makes of a view."""
        return self.teacher_head(self.teacher(view)).detach()


class BYOL(Following):
    """lightly's BYOL."""

    def build(self, dim: int) -> None:
        self.follow(lambda: heads.BYOLProjectionHead(dim, 1024, 256))
        self.predictor = heads.BYOLPredictionHead(256, 1024, 256)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        pa, pb = (self.predictor(self.head(self.encoder(view))) for view in views)
        return 0.5 * (self.criterion(pa, self.taught(views[1])) + self.criterion(pb, self.taught(views[0])))


class MoCo(Following):
    """lightly's MoCo v2, with its memory bank of 4,096 keys."""

    def build(self, dim: int) -> None:
        self.follow(lambda: heads.MoCoProjectionHead(dim, dim, 128))
        self.criterion = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        def one_way(query: Tensor, key: Tensor) -> Tensor:
            shuffled = torch.randperm(len(key))  # against the leak of the batch norm's statistics
            keys = self.taught(key[shuffled])[shuffled.argsort()]
            return self.criterion(self.head(self.encoder(query)), keys)

        return 0.5 * (one_way(views[0], views[1]) + one_way(views[1], views[0]))


class SwAV(Learner):
    """lightly's SwAV with two crops and 512 prototypes."""

    def build(self, dim: int) -> None:
        self.head = heads.SwaVProjectionHead(dim, dim, 128)
        self.prototypes = heads.SwaVPrototypes(128, 512)
        self.criterion = SwaVLoss()

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        self.prototypes.normalize()
        scores = [self.prototypes(nn.functional.normalize(self.head(self.encoder(view)), dim=1, p=2)) for view in views]
        return self.criterion(scores, [])

    def configure_optimizers(self) -> Any:
        return self.scheduled(torch.optim.Adam(self.parameters(), lr=1e-3, weight_decay=1e-6))


class DINO(Following):
    """lightly's DINO with two global crops."""

    def build(self, dim: int) -> None:
        self.follow(lambda: heads.DINOProjectionHead(dim, 2048, 256, 2048, batch_norm=True))
        self.criterion = DINOLoss(output_dim=2048)

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        taught = [self.taught(view) for view in views]
        return self.criterion(taught, [self.head(self.encoder(view)) for view in views], epoch=self.current_epoch)


METHODS: dict[str, type[Learner]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "simsiam": SimSiam,
    "swav": SwAV,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "dino": DINO,
}
