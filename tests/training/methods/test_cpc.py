import math

import pytest
import torch

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.methods.cpc import Above, info_nce


def build(**settings) -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return methods.load("cpc").Method(methods.configure("cpc", settings), encoder, dim).eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive_info_nce(predictions: torch.Tensor, targets: torch.Tensor, below: int) -> float:
    """Equation 4 of the paper, term by term."""
    n, _, rows, columns = targets.shape
    everywhere = [(i, r, c) for i in range(n) for r in range(rows) for c in range(columns)]
    losses = []
    for i, r, c in everywhere:
        if r + below >= rows:
            continue
        score = {(j, s, d): math.exp(predictions[i, :, r, c] @ targets[j, :, s, d]) for j, s, d in everywhere}
        losses.append(-math.log(score[i, r + below, c] / sum(score.values())))
    return sum(losses) / len(losses)


def test_one_column_of_two_orthogonal_targets_reaches_the_closed_form():
    targets = torch.eye(2).view(1, 2, 2, 1)  # one image, two rows
    predictions = 3 * targets.flip(2)  # of the row below: 3 times what is there
    assert info_nce(predictions, targets, below=1).item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-5)


@pytest.mark.parametrize("below", [1, 2, 3])
def test_the_loss_equals_the_paper_s_equation_written_out(below):
    predictions, targets = random(2, 3, 4, 2), random(2, 3, 4, 2, seed=1)
    found = info_nce(predictions, targets, below=below).item()
    assert found == pytest.approx(naive_info_nce(predictions, targets, below), rel=1e-5)


def test_collapsed_targets_cost_the_logarithm_of_their_number():
    targets = torch.ones(2, 8, 5, 3)
    assert info_nce(random(2, 8, 5, 3), targets, below=2).item() == pytest.approx(math.log(2 * 5 * 3), rel=1e-5)


def test_the_loss_keeps_its_digits_under_autocast():
    predictions, targets = random(2, 64, 5, 5), random(2, 64, 5, 5, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = info_nce(predictions, targets, below=1)
    assert found.item() == pytest.approx(info_nce(predictions, targets, below=1).item(), rel=1e-6)


@pytest.mark.parametrize("below", [0, 5])
def test_a_row_that_is_not_below_is_refused(below):
    with pytest.raises(ValueError, match=f"{below} rows below, of 5"):
        info_nce(random(1, 2, 5, 5), random(1, 2, 5, 5), below=below)


def test_the_context_of_a_row_does_not_see_the_rows_below():
    torch.manual_seed(0)
    context = torch.nn.Sequential(Above(6, 32), Above(6, 32), Above(6, 32))
    features = random(1, 6, 5, 5)
    changed = features.clone()
    changed[:, :, 3] += 1
    same = (context(features) == context(changed)).all(3).all(1)[0]
    assert same.tolist() == [True, True, True, False, False]


def test_the_context_sees_all_columns_of_the_rows_above():
    torch.manual_seed(0)
    context = torch.nn.Sequential(Above(6, 32), Above(6, 32))
    features = random(1, 6, 5, 5)
    changed = features.clone()
    changed[:, :, 1, 1] += 1
    same = (context(features) == context(changed)).all(1)[0]
    assert not same[2, :4].any()
    assert not same[3, :4].any()
    assert same[0].all()


def test_patches_overlap_by_half_and_make_the_grid():
    assert build(grid=7).cut(torch.zeros(1, 3, 64, 64)).shape == (1, 7, 7, 3, 16, 16)
    assert build(grid=5).cut(torch.zeros(1, 3, 48, 48)).shape == (1, 5, 5, 3, 16, 16)


def test_a_feature_lies_where_its_patch_does():
    method = build(dropped=0, nearest=1, farthest=1)
    method.encoder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    method.context = torch.nn.Identity()
    method.target = torch.nn.Identity()
    method.predictors = torch.nn.ModuleList([torch.nn.Identity()])
    images = random(2, 3, 24, 24)
    features = method.cut(images).mean((4, 5)).permute(0, 3, 1, 2)
    expected = info_nce(features * 0.1, features, below=1)
    assert method([images])["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_picture_shows_the_patch_that_each_prediction_is_nearest_to():
    method = build(dropped=0, nearest=1, farthest=1)
    method.encoder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    method.context = method.target = torch.nn.Identity()
    method.predictors = torch.nn.ModuleList([torch.nn.Identity()])
    colours = torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 24, 24).clone()
    colours[0, :, 16:] = colours[1, :, 16:]  # the first image turns from red to green
    drawn = method.pictures([colours])
    tops = drawn["patches"][0, :, :9]
    assert torch.equal(drawn["predicted"][1:], drawn["patches"][1:])
    assert torch.equal(drawn["predicted"][0, :, 27:36], tops)  # green follows; red was above
    assert not torch.equal(drawn["patches"][0, :, 27:36], tops)


@pytest.mark.parametrize("settings", [{"farthest": 5}, {"nearest": 3, "farthest": 2}])
def test_rows_beyond_the_grid_are_refused(settings):
    with pytest.raises(BadSettings, match="rows"):
        methods.configure("cpc", {"grid": 5} | settings)


def two_processes(rank: int, port: int, answers) -> None:
    """Half of the images in each of two processes: the mean loss, and the gradient of a shared linear map."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = DistributedDataParallel(shared_map())
    targets = model(random(4, 3, 4, 2)[2 * rank : 2 * rank + 2])
    loss = info_nce(targets.tanh(), targets, below=1)
    loss.backward()
    answers.put((loss.item(), model.module.weight.grad.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


def shared_map() -> torch.nn.Conv2d:
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 5, kernel_size=1, bias=False)


def test_two_processes_of_two_images_equal_one_of_four_in_loss_and_gradient(in_two_processes):
    found = in_two_processes(two_processes)

    alone = shared_map()
    targets = alone(random(4, 3, 4, 2))
    expected = info_nce(targets.tanh(), targets, below=1)
    expected.backward()
    assert sum(loss for loss, _ in found) / 2 == pytest.approx(expected.item(), rel=1e-6)
    for _, gradient in found:
        assert torch.allclose(torch.tensor(gradient), alone.weight.grad, rtol=1e-5, atol=1e-6)
