import math

import pytest
import torch
from lightly.loss import SwaVLoss
from torch.nn import functional

from roost_training import encoders
from roost_training.blocks.sinkhorn import sinkhorn
from roost_training.methods.swav import Config, Method, swapped_prediction


def cosines(views: int, rows: int, prototypes: int) -> torch.Tensor:
    return torch.rand(views, rows, prototypes, generator=torch.Generator().manual_seed(rows)) * 2 - 1


def codes_of(scores: torch.Tensor) -> torch.Tensor:
    return torch.stack([sinkhorn(view, epsilon=0.05, iterations=3) for view in scores[:2]])


def naive_swapped_prediction(codes: torch.Tensor, scores: torch.Tensor, temperature: float) -> float:
    """The authors' loop over codes and other crops."""
    losses = []
    for i, code in enumerate(codes):
        for v, score in enumerate(scores):
            if v != i:
                log_p = torch.log(torch.exp(score / temperature) / torch.exp(score / temperature).sum(1, keepdim=True))
                losses.append(float(-(code * log_p).sum(1).mean()))
    return sum(losses) / len(losses)


def method(**settings) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return Method(Config(prototypes=8, dim=4, hidden=16, **settings), encoder, dim)


def crops(*sides: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 3, side, side, generator=generator) for side in sides]


def test_right_predictions_of_certain_codes_cost_what_the_temperature_leaves():
    codes = torch.eye(4).expand(2, 4, 4)  # each image has a prototype of its own
    expected = math.log(1 + 3 * math.exp(-1 / 0.1))
    assert swapped_prediction(codes, codes, temperature=0.1).item() == pytest.approx(expected, rel=1e-3)


def test_the_loss_equals_the_authors_loop():
    scores = cosines(5, 12, 6)
    codes = codes_of(scores)
    expected = naive_swapped_prediction(codes, scores, 0.1)
    assert swapped_prediction(codes, scores, temperature=0.1).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("views", [2, 6])
def test_the_loss_equals_lightly_s(views):
    scores = cosines(views, 32, 16)
    expected = SwaVLoss()(list(scores[:2]), list(scores[2:]))
    assert swapped_prediction(codes_of(scores), scores, temperature=0.1).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_half_precision_costs_what_single_precision_does():
    scores = cosines(2, 32, 16)
    halves = scores.half()
    loss = swapped_prediction(codes_of(halves), halves, temperature=0.1)
    expected = swapped_prediction(codes_of(halves.float()), halves.float(), temperature=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_collapsed_scores_cost_the_logarithm_of_the_prototypes():
    scores = torch.full((4, 8, 16), 0.3)
    assert swapped_prediction(codes_of(scores), scores, temperature=0.1).item() == pytest.approx(math.log(16), rel=1e-5)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        swapped_prediction(cosines(2, 4, 4), cosines(2, 4, 4), temperature=0.0)


def test_the_queue_keeps_both_global_crops_projections_of_an_image():
    swav = method(queue=16)
    views = crops(16, 16)
    swav(views)
    z = functional.normalize(swav.projector(swav.encoder(torch.cat(views))), dim=1)
    assert torch.allclose(swav.queue.rows[:8], torch.cat(z.chunk(2), dim=1), atol=1e-5)


def test_a_queue_counts_once_it_is_full():
    with_queue, without = method(queue=16), method()
    batches = [crops(16, 16, seed=seed) for seed in range(3)]
    differences = [with_queue(batch)["loss"].item() - without(batch)["loss"].item() for batch in batches]
    assert [abs(difference) > 1e-3 for difference in differences] == [False, False, True]


def test_the_prototypes_stay_until_their_share_is_over():
    swav = method(frozen=0.5)
    before = swav.prototypes.weight.clone()
    optimiser = torch.optim.SGD(swav.parameters(), lr=0.1)
    moved = []
    for progress in (0.25, 0.5, 0.75):
        optimiser.zero_grad()
        swav(crops(16, 16))["loss"].backward()
        optimiser.step()
        swav.after_step(progress)
        moved.append(not torch.allclose(swav.prototypes.weight, before))
    assert moved == [False, False, True]
    assert torch.allclose(swav.prototypes.weight.norm(dim=1), torch.ones(8))
