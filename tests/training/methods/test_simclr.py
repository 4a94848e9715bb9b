import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch.nn import functional

from roost_training.methods.simclr import nt_xent


def unit_rows(rows: int, dim: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return functional.normalize(torch.randn(rows, dim, generator=generator), dim=1)


def naive_nt_xent(z: torch.Tensor, temperature: float) -> float:
    """Equation 1 of the paper, term by term."""
    rows = len(z)
    losses = []
    for i in range(rows):
        partner = (i + rows // 2) % rows
        others = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(rows) if k != i]
        losses.append(-math.log(math.exp(float(z[i] @ z[partner]) / temperature) / sum(others)))
    return sum(losses) / rows


def test_identical_orthogonal_pairs_reach_the_closed_form():
    z = torch.eye(4).repeat(2, 1)  # N = 4
    expected = math.log(1 + 6 * math.exp(-1 / 0.5))
    assert nt_xent(z, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_equals_the_paper_s_equation_written_out():
    z = unit_rows(10)
    assert nt_xent(z, temperature=0.2).item() == pytest.approx(naive_nt_xent(z, 0.2), rel=1e-5)


def test_collapsed_rows_cost_the_logarithm_of_the_other_rows():
    z = torch.ones(8, 4) / 2
    assert nt_xent(z, temperature=0.1).item() == pytest.approx(math.log(7), rel=1e-5)


def test_the_loss_equals_lightly_s():
    z = unit_rows(64)
    expected = NTXentLoss(temperature=0.3)(z[:32], z[32:])
    assert nt_xent(z, temperature=0.3).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_keeps_its_digits_under_autocast():
    z = unit_rows(64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z, temperature=0.1)
    assert loss.item() == pytest.approx(nt_xent(z, temperature=0.1).item(), rel=1e-6)


@pytest.mark.parametrize("rows", [2, 5])
def test_rows_that_are_odd_or_too_few_are_refused(rows):
    with pytest.raises(ValueError, match=f"{rows} rows"):
        nt_xent(unit_rows(rows), temperature=0.5)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        nt_xent(unit_rows(4), temperature=0.0)


def two_processes(rank: int, port: int, answers) -> None:
    """Half of the pairs in each of two processes: the mean loss, and the gradient of a shared linear map."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    images, weight = shared_inputs()
    model = DistributedDataParallel(linear(weight))
    own = images[:, rank * 3 : rank * 3 + 3].flatten(0, 1)
    loss = nt_xent(functional.normalize(model(own), dim=1), temperature=0.2)
    loss.backward()
    answers.put((rank, loss.item(), model.module.weight.grad.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


def shared_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 5, generator=generator), torch.randn(4, 5, generator=generator)


def linear(weight: torch.Tensor) -> torch.nn.Linear:
    model = torch.nn.Linear(5, 4, bias=False)
    model.load_state_dict({"weight": weight})
    return model


def test_two_processes_of_three_pairs_equal_one_of_six_in_loss_and_gradient(in_two_processes):
    found = in_two_processes(two_processes)

    images, weight = shared_inputs()
    alone = linear(weight)
    expected = nt_xent(functional.normalize(alone(images.flatten(0, 1)), dim=1), temperature=0.2)
    expected.backward()
    assert sum(loss for _, loss, _ in found) / 2 == pytest.approx(expected.item(), rel=1e-6)
    for _, _, gradient in found:
        assert torch.allclose(torch.tensor(gradient), alone.weight.grad, rtol=1e-6, atol=1e-6)
