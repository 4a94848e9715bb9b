"""What torchrun runs in each of two processes: every method's loss, gradients and state, written by the first."""

import runpy
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from roost.errors import BadData
from roost_training import encoders, methods
from roost_training.blocks.synchrony import synchronise
from roost_training.loop.processes import Processes
from roost_training.views.recipe import Recipe

METHODS = runpy.run_path(str(Path(__file__).parents[1] / "methods" / "test_methods.py"))
ROWS = 8
"""Images of one process."""
NAMES = ("simclr", "barlow_twins", "swav", "dino", "vicreg", "byol", "simsiam", "drlim", "siamese", "triplet")
EXACT: dict[str, dict[str, int]] = {name: {} for name in NAMES} | {"swav with a queue": {"queue": 2 * ROWS}}
"""Methods, and settings, whose loss over two processes' images is the loss of one process with all of them."""


def exact(name: str) -> nn.Module:
    """A method in float64, in which an order of additions does not matter."""
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    kind = name.split(maxsplit=1)[0]
    return methods.load(kind).Method(methods.configure(kind, EXACT[name]), encoder, dim).double()


def loss_of(name: str, forward: nn.Module, views: list[torch.Tensor]) -> torch.Tensor:
    """The loss over views; that of their second pass, where the first fills a queue."""
    if EXACT[name]:
        forward(views)
    return forward(views)["loss"]


def noise(method: nn.Module) -> list[torch.Tensor]:
    """The views of both processes' images."""
    generator = torch.Generator().manual_seed(1)
    sizes = [view.size for view in method.views(Recipe(), 16)]
    return [torch.randn(2 * ROWS, 3, size, size, generator=generator).double() for size in sizes]


def gradients(method: nn.Module) -> dict[str, torch.Tensor]:
    """By the parameters' names."""
    return {name: weight.grad for name, weight in method.named_parameters() if weight.grad is not None}


def share(tensor: torch.Tensor) -> torch.Tensor:
    """This process's rows."""
    return tensor[distributed.get_rank() * ROWS :][:ROWS]


def loss_and_gradients(name: str) -> tuple[float, dict[str, torch.Tensor]]:
    method = exact(name)
    synchronise(method)
    together = DistributedDataParallel(method, forward_sync_buffers=False)
    loss = loss_of(name, together, [share(view) for view in noise(method)])
    loss.backward()
    total = loss.detach().double()
    distributed.all_reduce(total)
    return total.item() / 2, gradients(method)


def unequal_after_two_steps(name: str) -> list[str]:
    """What of a method's state is another in the second process."""
    method = METHODS["build"](name)
    synchronise(method)
    views = METHODS["batch"](method)
    together = DistributedDataParallel(
        method, forward_sync_buffers=False, find_unused_parameters=method.idle_parameters
    )
    optimiser = torch.optim.SGD([weight for weight in method.parameters() if weight.requires_grad], lr=1e-3)
    asked = {"labels": share(torch.arange(2 * ROWS) % 2)} if method.wants_labels else {}
    asked |= {"indices": share(torch.arange(2 * ROWS))} if method.wants_indices else {}
    for step in range(2):
        torch.manual_seed(10 * step + distributed.get_rank())
        together([share(view) for view in views], **asked)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(step / 2)
    state = method.state_dict()
    others = [torch.zeros_like(value) for value in state.values()]
    for mine, other in zip(state.values(), others, strict=True):
        other.copy_(mine)
        distributed.broadcast(other, src=1)
    return [key for (key, mine), other in zip(state.items(), others, strict=True) if not torch.equal(mine, other)]


def normalised() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch norm's output for this process's rows, and its running statistics."""
    module = nn.Sequential(nn.BatchNorm2d(3))
    synchronise(module)
    return module(share(maps())), module[0].running_mean, module[0].running_var


def maps() -> torch.Tensor:
    """Feature maps of both processes' images, whose second half is brighter."""
    drawn = torch.randn(2 * ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return drawn + torch.arange(2 * ROWS).view(-1, 1, 1, 1) // ROWS


def refused_in_the_second() -> str:
    """What the first process is told where the second one alone fails."""

    def fail() -> None:
        if distributed.get_rank() == 1:
            raise BadData("There is no folder here.")

    try:
        Processes().each(fail)
    except BadData as error:
        return error.message
    return ""


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    answer = {
        "normalised": normalised(),
        "refused": refused_in_the_second(),
        "sum": Processes().total(1.0 + distributed.get_rank()),
        "exact": {name: loss_and_gradients(name) for name in EXACT},
        "unequal": {name: unequal_after_two_steps(name) for name in methods.names()},
    }
    if distributed.get_rank() == 0:
        torch.save(answer, sys.argv[1])
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
