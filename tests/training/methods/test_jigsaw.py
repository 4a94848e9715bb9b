import math

import pytest
import torch

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.views.recipe import Recipe


def build(*, encoder: str = "resnet10w32", **settings) -> methods.Method:
    torch.manual_seed(0)
    trunk, dim = encoders.build(encoder, image_size=16)
    return methods.load("jigsaw").Method(methods.configure("jigsaw", settings), trunk, dim).eval()


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 36, 36, generator=torch.Generator().manual_seed(1))


def test_a_shuffled_piece_comes_from_the_place_that_its_order_says():
    puzzle = build().puzzle
    numbered = torch.arange(9).expand(50, 9)
    shuffled, order = puzzle.shuffle(numbered)
    assert torch.equal(shuffled, puzzle.permutations[order])
    assert len(order.unique()) > 20


def test_restoring_by_the_true_order_undoes_the_shuffle():
    puzzle = build().puzzle
    pieces = puzzle.cut(images())
    shuffled, order = puzzle.shuffle(pieces)
    assert not torch.equal(shuffled, pieces)
    assert torch.equal(puzzle.restore(shuffled, order), pieces)


def test_the_loss_is_the_mean_over_puzzles_whose_pieces_pass_the_encoder_one_by_one():
    method = build()
    torch.manual_seed(7)
    pieces = method.puzzle.cut(images())
    shuffled, order = method.puzzle.shuffle(pieces.repeat(8, 1, 1, 1, 1))
    losses = []
    for nine, right in zip(shuffled, order, strict=True):
        reduced = torch.cat([method.puzzle.reduce(method.encoder(piece[None]))[0] for piece in nine])
        losses.append(-method.puzzle.head(reduced[None])[0].log_softmax(0)[right].item())
    torch.manual_seed(7)
    assert len(losses) == 32
    assert method([images()])["loss"].item() == pytest.approx(sum(losses) / 32, rel=1e-5)


def test_a_head_that_knows_nothing_pays_the_logarithm_of_the_number_of_orders():
    method = build(permutations=50)
    torch.nn.init.zeros_(method.puzzle.head[-1].weight)
    assert method([images()])["loss"].item() == pytest.approx(math.log(50), rel=1e-6)


def test_pieces_that_look_alike_have_the_same_features_in_every_order():
    method = build(grey=0)
    pieces, _ = method.puzzle.shuffle(method.puzzle.cut(torch.ones(3, 3, 36, 36)))
    logits = method.puzzle(method.encoder(pieces.flatten(0, 1)).unflatten(0, (3, 9)))
    assert torch.allclose(logits[0], logits[1], atol=1e-6)
    assert torch.allclose(logits[0], logits[2], atol=1e-6)


def test_nine_pieces_of_64_pixels_are_cut_from_the_paper_s_225():
    assert build().puzzle.cut(torch.zeros(1, 3, 225, 225)).shape == (1, 9, 3, 64, 64)


def test_pieces_are_standardised_unless_the_setting_says_no():
    bright = images() + 5
    assert build(standardise=True).puzzle.cut(bright).mean().item() == pytest.approx(0, abs=1e-5)
    assert build(standardise=False).puzzle.cut(bright).mean().item() == pytest.approx(5, abs=0.2)


def test_each_piece_is_grey_on_its_own():
    torch.manual_seed(0)
    pieces = build(grey=0.3).puzzle.cut(images(200))
    grey = (pieces[:, :, 0] == pieces[:, :, 1]).flatten(2).all(2)
    assert grey.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert grey.all(1).sum() == 0  # 0.3 ** 9 of 200 images


def test_the_view_that_is_cut_is_the_encoder_s_size_times_the_scale():
    (view,) = build(view_scale=1.5).views(Recipe(), 32)
    assert view.size == 48


def test_the_orders_travel_with_the_checkpoint():
    few, other = build(permutations=8), build(permutations=8)
    few.puzzle.permutations = few.puzzle.permutations.flip(0)
    other.load_state_dict(few.state_dict())
    assert torch.equal(other.puzzle.permutations, few.puzzle.permutations)


def test_an_alexnet_can_be_the_trunk():
    method = build(encoder="alexnet", view_scale=3.0)
    assert method([torch.randn(2, 3, 48, 48)])["loss"].isfinite()


@pytest.mark.parametrize("permutations", [1, 2001])
def test_too_few_or_too_many_orders_are_refused(permutations):
    with pytest.raises(BadSettings, match="'permutations' of the method jigsaw"):
        methods.configure("jigsaw", {"permutations": permutations})
