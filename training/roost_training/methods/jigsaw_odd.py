"""Jigsaw with pieces that do not belong: find those of other images, set them aside, and order the rest.

Announced as future work by Lai and Mundhenk, "Combining Self-supervised Tasks with Deep Clustering of Visual
Features". Noroozi, Vinjimoor, Favaro and Pirsiavash, CVPR 2018, https://arxiv.org/abs/1805.00385, exchange pieces too
(Jigsaw++), and ask for the order only.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from roost_training.blocks import patches
from roost_training.blocks.heads import mlp
from roost_training.methods import jigsaw
from roost_training.methods.jigsaw import ORDERS, PIECES


class Config(jigsaw.Config):
    """Jigsaw's settings, and those of the odd pieces."""

    odd: Annotated[int, Field(ge=1, le=4)] = 2  # the orders differ in so many places that five pieces still tell them
    """Pieces of each puzzle that are another image's."""
    odd_weight: PositiveFloat = 1.0
    """Of finding them, beside ordering the rest."""


class Method(jigsaw.Method):
    """Tells for each piece whether it belongs, and classifies the order of those that seem to."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(config, encoder, feature_dim)
        self.puzzle = Puzzle(config, feature_dim)


class Puzzle(jigsaw.Puzzle):
    """A puzzle of which some pieces were exchanged for those of other images."""

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__(config, feature_dim)
        self.odd, self.odd_weight = config.odd, config.odd_weight
        self.judge = mlp(PIECES * config.dim, config.hidden, PIECES)

    def exchange(self, pieces: Tensor) -> tuple[Tensor, Tensor]:
        """Put any piece of any other image in the place of some.

        Args:
            pieces: Shape (n, 9, ...), of at least two images.

        Returns:
            The pieces, and which are odd: bool (n, 9), the same number in each row.
        """
        n = len(pieces)
        odd = torch.rand(n, PIECES, device=pieces.device).argsort(1) < self.odd
        away = torch.randint(1, max(2, n), (n, PIECES), device=pieces.device)
        others = (torch.arange(n, device=pieces.device)[:, None] + away) % n
        strangers = pieces[others, torch.randint(PIECES, (n, PIECES), device=pieces.device)]
        return torch.where(odd.view(n, PIECES, *[1] * (pieces.ndim - 2)), strangers, pieces), odd

    def deal(self, pieces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Puzzles of pieces, or of features, (n, 9, ...): shuffled, which are odd (n, 9), and the order (n,)."""
        exchanged, odd = self.exchange(pieces)
        shuffled, order = self.shuffle(exchanged)
        return shuffled, odd.gather(1, self.permutations[order]), order

    def solve(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the features (n, 9, feature_dim) of shuffled pieces say.

        Returns:
            Logits of the orders, (n, permutations), and of each piece being odd, (n, 9). A piece counts for the order
            by the probability that it belongs.
        """
        reduced = self.reduce(features)
        odd = self.judge(reduced.flatten(1))
        return self.head((reduced * torch.sigmoid(-odd)[..., None]).flatten(1)), odd

    def play(self, encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The loss of puzzles cut from images (n, 3, size, size), and the shares solved and of odd pieces found."""
        features = patches.encode(encoder, self.cut(images))
        # As in `jigsaw`: the encoder sees each piece by itself, and so its features are dealt, as often as one likes.
        dealt = zip(*(self.deal(features) for _ in range(ORDERS)), strict=True)
        shuffled, odd, order = (torch.cat(part) for part in dealt)
        logits, suspected = self.solve(shuffled)
        ordering = functional.cross_entropy(logits.float(), order)
        finding = functional.binary_cross_entropy_with_logits(suspected.float(), odd.float())
        return {
            "loss": ordering + self.odd_weight * finding,
            "solved": (logits.argmax(1) == order).float().mean(),
            "found": odd.gather(1, suspected.topk(self.odd).indices).float().mean(),
        }

    def draw(self, encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Puzzles cut from images (n, 3, size, size), as they are dealt, and as solved, without what seems odd."""
        pieces, _, _ = self.deal(self.cut(images))
        logits, suspected = self.solve(patches.encode(encoder, pieces))
        kept = pieces * (suspected < 0)[..., None, None, None]
        return {"puzzles": patches.tile(pieces), "solved": patches.tile(self.restore(kept, logits.argmax(1)))}
