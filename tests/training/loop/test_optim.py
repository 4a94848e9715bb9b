import pytest
import torch
from torch import nn

from roost_training.loop import optim


def parameter_with_gradient(values: list[float], gradient: list[float]) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(values))
    parameter.grad = torch.tensor(gradient)
    return parameter


def test_lars_scales_a_step_by_the_norms_of_weights_and_gradient():
    # |w| = 5, g + 0.1 w = (0.3, 1.4), |g| = 1.4318: the step is 0.1 * 0.1 * 5 / 1.4318 * (0.3, 1.4)
    weight = parameter_with_gradient([3.0, 4.0], [0.0, 1.0])
    optim.Lars([weight], lr=0.1, weight_decay=0.1, trust=0.1).step()
    step = torch.tensor([3.0, 4.0]) - weight.detach()
    assert step.tolist() == pytest.approx([0.010477, 0.048892], rel=1e-4)


def test_lars_gathers_momentum():
    weight = parameter_with_gradient([1.0], [1.0])
    optimiser = optim.Lars([{"params": [weight], "adapt": False}], lr=0.1, momentum=0.5)
    optimiser.step()
    optimiser.step()
    assert weight.item() == pytest.approx(1.0 - 0.1 * 1.0 - 0.1 * 1.5)


def test_lars_takes_plain_steps_where_a_group_is_not_to_be_adapted():
    bias = parameter_with_gradient([3.0, 4.0], [1.0, 0.0])
    optim.Lars([{"params": [bias], "adapt": False}], lr=0.1).step()
    assert bias.tolist() == pytest.approx([2.9, 4.0])


def test_lars_adapts_matrices_that_do_not_decay_too():
    module = nn.Linear(2, 1)
    for group in optim.build("lars", module, learning_rate=0.1, weight_decay=0.0).param_groups:
        assert group["adapt"] is (group["params"][0] is module.weight)


def test_lars_moves_weights_that_are_zero():
    weight = parameter_with_gradient([0.0], [2.0])
    optim.Lars([weight], lr=0.1, weight_decay=0.1).step()
    assert weight.item() == pytest.approx(-0.2)


@pytest.mark.parametrize("name", list(optim.RATES))
def test_biases_and_norms_do_not_decay(name):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    decaying, still = optim.build(name, module, learning_rate=0.1, weight_decay=0.3).param_groups
    assert [parameter.ndim for parameter in decaying["params"]] == [2]
    assert [parameter.ndim for parameter in still["params"]] == [1, 1, 1]
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize(("name", "expected"), [("sgd", 0.04), ("lars", 0.04), ("adamw", 0.02)])
def test_four_times_the_batch_takes_the_rate_of_the_optimiser_s_rule(name, expected):
    assert optim.scaled_rate(name, batch=1024, base=0.01) == pytest.approx(expected)
