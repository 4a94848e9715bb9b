"""MoCo v2: find the image's other view among many keys, which a slowly moving copy of the network made.

He, Fan, Wu, Xie, Girshick, CVPR 2020, https://arxiv.org/abs/1911.05722; Chen, Fan, Girshick, He, 2020,
https://arxiv.org/abs/2003.04297

Within one batch, its norms' statistics tell a query which key is its own (section 3.3). Against this the paper shuffles
the batch among GPUs before it makes keys. Here each process makes its keys in several parts, of images in a random
order, so that a query and its key share no statistics, with one process too: the authors' way for CIFAR on one GPU.
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks.heads import mlp
from roost_training.blocks.memory import Queue
from roost_training.blocks.momentum import follow, teacher_of
from roost_training.views.recipe import Probability


class Config(methods.Config):
    """MoCo's settings."""

    temperature: PositiveFloat = 0.2
    queue: PositiveInt = 4096  # the paper: 65536 of ImageNet's 1.3 million
    """Keys of earlier batches to tell the image's own from; well below the number of images."""
    momentum: Probability = 0.99  # the paper: 0.999 for 200 epochs of ImageNet
    """The key encoder's."""
    dim: PositiveInt = 128
    parts: PositiveInt = 4  # the paper: 8 GPUs
    """In which a process makes its keys."""
    symmetric: bool = False
    """Ask for each view in turn with the other's key, as later versions do: twice the work a step."""


class Method(methods.Method):
    """Contrasts queries with a queue of keys by the InfoNCE loss."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.projector = mlp(feature_dim, feature_dim, config.dim, norm=False, bias=True)
        self.teacher = teacher_of(self._student())
        self.queue = Queue(config.queue, config.dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size): the first asks, the second is the key."""
        first, second = views
        pairs = [(first, second), (second, first)] if self.config.symmetric else [(first, second)]
        negatives = self.queue.rows.clone()  # the queue moves on before the gradient is computed
        losses = []
        for asking, asked in pairs:
            query = functional.normalize(self._student()(asking).float(), dim=1)
            key = self._keys(asked)
            losses.append(info_nce(query, key, negatives, temperature=self.config.temperature))
            self.queue.push(key)
        return {"loss": torch.stack(losses).mean()}

    def after_step(self, progress: float) -> None:
        """Move the key encoder."""
        follow(self.teacher, self._student(), momentum=self.config.momentum)

    @torch.no_grad()
    def _keys(self, view: Tensor) -> Tensor:
        order = torch.randperm(len(view), device=view.device)
        parts = min(self.config.parts, max(1, len(view) // 2))  # a norm needs two images
        keys = torch.cat([self.teacher(view[part]) for part in order.tensor_split(parts)])
        return functional.normalize(keys[order.argsort()].float(), dim=1)

    def _student(self) -> nn.Module:
        return nn.Sequential(self.encoder, self.projector)


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of a query's own key among it and the negatives (equation 1), mean over rows.

    Args:
        query: Unit length, shape (batch, dim).
        key: Unit length, of the same images in the same order, shape (batch, dim).
        negatives: Unit length, shape (n, dim).
        temperature: Divides cosine similarities; > 0.

    Returns:
        A scalar >= 0. Where each query is its key and orthogonal to the negatives, log(1 + n e^(-1/temperature));
        where all are one vector, log(1 + n).

    Raises:
        ValueError: A temperature that is not positive, or queries and keys of two shapes.
    """
    if query.shape != key.shape:
        raise ValueError(f"queries of shape {tuple(query.shape)} for keys of shape {tuple(key.shape)}")
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature}; it must be positive")
    with torch.autocast(query.device.type, enabled=False):
        query, key, negatives = query.float(), key.float(), negatives.float()
        own = (query * key).sum(1, keepdim=True)
        logits = torch.cat([own, query @ negatives.T], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))
