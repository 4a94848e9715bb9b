"""What a method remembers of earlier steps: the latest keys, or one vector for each image.

The rows are buffers, so that they go with the method to its device and into its checkpoint. Every process adds what
all processes have seen, so that the rows stay equal in all of them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from roost_training.blocks import distributed


class Queue(nn.Module):
    """The latest keys, first in, first out.

    Args:
        size: Keys that are kept.
        dim: Length of a key.
    """

    rows: Tensor
    """Shape (size, dim); random and of unit length until keys take their places."""
    pushed: Tensor
    """Keys that ever came in, over all processes; int64 scalar."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", _random_units(size, dim))
        self.register_buffer("pushed", torch.tensor(0))

    @property
    def full(self) -> bool:
        """Whether every row is a key; asking makes the CPU wait for a GPU."""
        return bool(self.pushed >= len(self.rows))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Put keys in the places of the oldest.

        The rows change in place: a loss that is still to be differentiated needs a copy of what they were.

        Args:
            keys: Shape (n, dim), the same n in every process; those of lower ranks come first. Of more than `size`
                over all processes the last ones stay.
        """
        new = distributed.gather(keys.to(self.rows.dtype))
        places = torch.arange(len(new), device=new.device)[-len(self.rows) :]
        self.rows[(self.pushed + places) % len(self.rows)] = new[places]
        self.pushed += len(new)


class Bank(nn.Module):
    """One unit-length vector for each image, a moving average of what the encoder made of it.

    Args:
        images: How many there are.
        dim: Length of a vector.
    """

    rows: Tensor
    """Shape (images, dim); random at first."""

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", _random_units(images, dim))

    @torch.no_grad()
    def update(self, indices: Tensor, new: Tensor, *, momentum: float) -> None:
        """Move images' vectors towards new ones: row = momentum * row + (1 - momentum) * new, at unit length.

        The rows change in place: a loss that is still to be differentiated needs a copy of what it takes of them.

        Args:
            indices: Which images, int64 (n,), the same n in every process.
            new: Unit-length vectors, shape (n, dim).
            momentum: 0 (forget the old) to 1 (stay).
        """
        seen, new = distributed.gather(indices), distributed.gather(new.to(self.rows.dtype))
        self.rows[seen] = functional.normalize(self.rows[seen].lerp(new, 1 - momentum), dim=1)


def _random_units(n: int, dim: int) -> Tensor:
    return functional.normalize(torch.randn(n, dim), dim=1)
