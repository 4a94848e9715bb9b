import pytest
import torch
from torch import nn

from roost_training.blocks.synchrony import SyncedBatchNorm, synchronise


def pair(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A module with a batch norm, and its copy with a synchronised one."""
    alone, synced = nn.Sequential(norm), nn.Sequential(type(norm)(3))
    synced.load_state_dict(alone.state_dict())
    synchronise(synced)
    return alone, synced


def rows(*shape: int) -> torch.Tensor:
    return 5 + torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm1d(3), (8, 3)), (nn.BatchNorm2d(3), (8, 3, 4, 4))])
def test_one_process_is_normalised_as_by_pytorch_s_own(norm, shape):
    alone, synced = pair(norm)
    assert torch.allclose(synced(rows(*shape)), alone(rows(*shape)), atol=1e-5)
    assert all(torch.allclose(value, alone.state_dict()[name]) for name, value in synced.state_dict().items())


def test_gradients_are_those_of_pytorch_s_own():
    alone, synced = pair(nn.BatchNorm1d(3).double())
    synced.double()
    found, expected = rows(8, 3).double().requires_grad_(), rows(8, 3).double().requires_grad_()
    synced(found).pow(3).sum().backward()
    alone(expected).pow(3).sum().backward()
    assert torch.allclose(found.grad, expected.grad, atol=1e-10)
    assert torch.allclose(synced[0].weight.grad, alone[0].weight.grad)


def test_evaluation_takes_the_running_statistics():
    alone, synced = pair(nn.BatchNorm1d(3))
    alone(rows(8, 3))
    synced(rows(8, 3))
    assert torch.allclose(synced.eval()(rows(4, 3)), alone.eval()(rows(4, 3)), atol=1e-6)


def test_statistics_of_bfloat16_are_computed_in_float32():
    _, synced = pair(nn.BatchNorm1d(3))
    far = (rows(64, 3) * 8).bfloat16()
    found = synced(far)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(synced[0].running_mean, 0.1 * far.float().mean(0), atol=1e-5)


def test_parameters_are_shared_and_every_level_is_reached():
    inner = nn.BatchNorm1d(3)
    module = nn.Sequential(nn.Sequential(inner), nn.LayerNorm(3))
    synchronise(module)
    assert isinstance(module[0][0], SyncedBatchNorm)
    assert module[0][0].weight is inner.weight
    assert isinstance(module[1], nn.LayerNorm)


def test_a_norm_without_weights_or_statistics_stays_one():
    alone, synced = nn.Sequential(nn.BatchNorm1d(3, affine=False, track_running_stats=False)), nn.Sequential()
    synced.append(nn.BatchNorm1d(3, affine=False, track_running_stats=False))
    synchronise(synced)
    assert torch.allclose(synced.eval()(rows(8, 3)), alone.eval()(rows(8, 3)), atol=1e-5)
    assert synced.state_dict() == {}


def test_an_input_without_channels_is_refused():
    _, synced = pair(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        synced.eval()(rows(3))
