"""Optimisers, and the learning rate that suits a batch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

Name = Literal["adamw", "sgd", "lars"]

RATES: dict[Name, float] = {"adamw": 2e-3, "sgd": 0.05, "lars": 0.3}
"""Peak learning rate for 256 images a step: SGD's is SimSiam's, LARS' is SimCLR's."""


def scaled_rate(name: Name, *, batch: int, base: float | None = None) -> float:
    """The peak learning rate for a batch.

    SGD and LARS scale with the batch (Goyal et al., 2017, https://arxiv.org/abs/1706.02677), AdamW with its square root
    (Malladi et al., 2022, https://arxiv.org/abs/2205.10287).

    Args:
        name: The optimiser.
        batch: Images a step, over all processes.
        base: The rate for 256 images; the optimiser's own in `RATES` where None.
    """
    rate = RATES[name] if base is None else base
    return rate * (batch / 256) ** (0.5 if name == "adamw" else 1.0)


def build(
    name: Name, module: nn.Module, *, learning_rate: float, weight_decay: float, constant: Sequence[str] = ()
) -> Optimizer:
    """An optimiser over a module's parameters; biases and norms do not decay.

    Args:
        name: `adamw`, or with momentum 0.9 `sgd` or `lars`.
        module: What learns.
        learning_rate: At the schedule's peak.
        weight_decay: Decoupled for AdamW, part of the gradient for the others.
        constant: Names of the module's children whose groups say `constant`: their rate does not fall.
    """
    found: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            found[path.partition(".")[0] in constant, parameter.ndim > 1].append(parameter)
    groups = [
        {"params": chosen, "weight_decay": weight_decay * matrices, "constant": is_constant, "adapt": matrices}
        for (is_constant, matrices), chosen in sorted(found.items(), key=lambda group: (group[0][0], not group[0][1]))
    ]
    if name == "adamw":
        return AdamW(groups, lr=learning_rate)
    if name == "sgd":
        return SGD(groups, lr=learning_rate, momentum=0.9)
    return Lars(groups, lr=learning_rate, momentum=0.9)


class Lars(Optimizer):
    """SGD with momentum whose step for each matrix follows the ratio of its weights' norm to its gradient's.

    You, Gitman, Ginsburg, 2017, https://arxiv.org/abs/1708.03888, algorithm 1. As in SimCLR's code, biases and norms
    take plain momentum steps: a group of them says `adapt` false.

    Args:
        params: Parameters or groups.
        lr: Learning rate; >= 0.
        momentum: 0 to 1.
        weight_decay: Added to the gradient, times the weight.
        trust: The ratio's coefficient, eta in the paper.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            weight_norm, gradient_norm = parameter.norm(), gradient.norm()
            ratio = group["trust"] * weight_norm / gradient_norm
            gradient = gradient * torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)
        velocity = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        velocity.mul_(group["momentum"]).add_(gradient)
        parameter.add_(velocity, alpha=-group["lr"])
