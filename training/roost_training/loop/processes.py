"""What the processes of a run agree on between steps: numbers, and whether all may go on."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar, cast

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from roost.errors import BadSettings, RoostError
from roost_training.loop.rendezvous import PATIENCE

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where `torchrun` put this process."""

    local: int
    """Processes on this machine."""
    machines: int

    @classmethod
    def found(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """What the environment's variables say; None where this is no process of `torchrun`.

        Raises:
            BadSettings: Machines with different numbers of processes.
        """
        if "TORCHELASTIC_RUN_ID" not in environment:
            return None
        world, local = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        machines = int(environment["GROUP_WORLD_SIZE"])
        if local * machines != world:
            raise BadSettings(
                f"torchrun started {world} processes on {machines} machines, {local} of them here. "
                "Give every machine the same --nproc-per-node.",
                processes=world,
            )
        return cls(local, machines)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank as its launcher says, before the processes know of each other."""
    return int(environment.get("RANK" if "TORCHELASTIC_RUN_ID" in environment else "LOCAL_RANK", 0))


class Processes:
    """The processes of a run; make it in all of them, after they were launched.

    They talk through a group of their own, so that a GPU's queue of work is not waited for.
    """

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.count = distributed.get_world_size() if together else 1
        group = distributed.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None
        self._group = cast(ProcessGroup | None, group)

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over all processes, the same sums in each."""
        if self._group is None:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sums, group=self._group)
        return sums.tolist()

    def gather(self, number: float) -> list[float]:
        """A number of each process, by rank."""
        return self.total(*(number if rank == self.rank else 0.0 for rank in range(self.count)))

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Each figure's mean over all processes; they have the same names in each."""
        sums = self.total(*figures.values())
        return {name: total / self.count for name, total in zip(figures, sums, strict=True)}

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all; the error of the domain that it raises, all raise."""
        made = self.each(make if self.rank == 0 else lambda: None)
        if self._group is None:
            return cast(T, made)
        answer = [made]
        distributed.broadcast_object_list(answer, src=0, group=self._group)
        return cast(T, answer[0])

    def each(self, make: Callable[[], T]) -> T:
        """What this process makes, once all have made theirs; the error of the domain that one raises, all raise."""
        if self._group is None:
            return make()
        made, error = _attempt(make)
        errors: list[RoostError | None] = [None] * self.count
        distributed.all_gather_object(errors, error, group=self._group)
        for found in errors:
            if found is not None:
                raise found
        return cast(T, made)


def _attempt(make: Callable[[], T]) -> tuple[T | None, RoostError | None]:
    try:
        return make(), None
    except RoostError as error:
        return None, error
