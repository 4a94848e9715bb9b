import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from roost_training.methods.moco import Config, Method, info_nce


def unit_rows(rows: int, seed: int, dim: int = 8) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def small(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    return Method(Config(**({"queue": 32, "dim": 4} | settings)), encoder, 6)


def views(n: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(n, 3, 2, 2, generator=generator) for _ in range(2)]


def keys_of(method: Method, view: torch.Tensor) -> torch.Tensor:
    return functional.normalize(method.teacher(view), dim=1)


def test_a_query_that_is_its_key_and_orthogonal_to_the_negatives_reaches_the_closed_form():
    query, negatives = torch.eye(5)[:2], torch.eye(5)[2:]
    expected = math.log(1 + 3 * math.exp(-1 / 0.5))
    assert info_nce(query, query, negatives, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_equals_the_paper_s_equation_written_out():
    query, key, negatives = unit_rows(4, 1), unit_rows(4, 2), unit_rows(9, 3)
    expected = 0.0
    for q, own in zip(query, key, strict=True):
        scores = [math.exp(float(q @ k) / 0.2) for k in (own, *negatives)]
        expected -= math.log(scores[0] / sum(scores)) / 4
    assert info_nce(query, key, negatives, temperature=0.2).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_equals_lightly_s():
    from lightly.loss import NTXentLoss

    query, key = unit_rows(16, 1), unit_rows(16, 2)
    theirs = NTXentLoss(temperature=0.3, memory_bank_size=(40, 8))
    negatives = theirs.memory_bank.bank.clone()
    expected = theirs(query, key).item()
    assert info_nce(query, key, negatives, temperature=0.3).item() == pytest.approx(expected, rel=1e-5)


def test_collapsed_rows_cost_the_logarithm_of_all_keys():
    one = torch.ones(6, 4) / 2
    assert info_nce(one[:2], one[:2], one, temperature=0.1).item() == pytest.approx(math.log(7), rel=1e-5)


def test_the_loss_keeps_its_digits_under_autocast():
    rows = unit_rows(4, 1), unit_rows(4, 2), unit_rows(9, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(*rows, temperature=0.1)
    assert loss.item() == pytest.approx(info_nce(*rows, temperature=0.1).item(), rel=1e-6)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        info_nce(unit_rows(2, 1), unit_rows(2, 2), unit_rows(3, 3), temperature=0.0)


def test_queries_and_keys_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 8\) for keys of shape \(3, 8\)"):
        info_nce(unit_rows(2, 1), unit_rows(3, 2), unit_rows(3, 3), temperature=0.2)


def test_keys_come_back_in_the_order_of_their_images_after_they_were_mixed():
    method = small()
    _, asked = views()
    expected = keys_of(method, asked)
    method(views())
    assert torch.allclose(method.queue.rows[:8], expected, atol=1e-6)


def test_a_batch_is_told_from_earlier_ones_only():
    method = small()
    first, second = views()
    before = method.queue.rows.clone()
    query = functional.normalize(method.projector(method.encoder(first)), dim=1)
    expected = info_nce(query, keys_of(method, second), before, temperature=0.2)
    assert method([first, second])["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_batch_norm_of_the_keys_sees_the_whole_batch():
    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(len(x))
            return x

    encoder = nn.Sequential(Sizes(), nn.Flatten(), nn.Linear(12, 6))
    method = Method(Config(queue=32, dim=4, parts=3), encoder, 6)
    method(views())
    assert (encoder[0].seen, method.teacher[0][0].seen) == ([8], [3, 3, 2])


def test_a_batch_too_small_for_its_parts_is_made_in_fewer():
    method = small(parts=8)
    method(views(n=5))
    assert method.queue.pushed == 5


def test_asking_both_ways_leaves_both_views_keys():
    method = small(symmetric=True)
    first, second = views()
    method([first, second])
    both = torch.cat([keys_of(method, second), keys_of(method, first)])
    assert torch.allclose(method.queue.rows[:16], both, atol=1e-6)


def test_the_key_encoder_moves_by_what_its_momentum_leaves():
    method = small(momentum=0.75)
    before = method.teacher[0][1].weight.clone()
    with torch.no_grad():
        method.encoder[1].weight.add_(1)
    method.after_step(0.5)
    assert torch.allclose(method.teacher[0][1].weight, before + 0.25, atol=1e-6)
