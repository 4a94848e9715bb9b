import math

import pytest
import torch

from roost.errors import BadSettings
from roost_training import encoders, methods


def build(**settings) -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return methods.load("jigsaw_odd").Method(methods.configure("jigsaw_odd", settings), encoder, dim).eval()


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 36, 36, generator=torch.Generator().manual_seed(1))


def numbered(n: int) -> torch.Tensor:
    """In place of pieces: 10 times the image's number, plus the place's."""
    return 10 * torch.arange(n)[:, None] + torch.arange(9)


@pytest.mark.parametrize("odd", [1, 4])
def test_so_many_pieces_of_each_puzzle_are_another_image_s(odd):
    pieces, strange = build(odd=odd).puzzle.exchange(numbered(50))
    assert strange.sum(1).tolist() == [odd] * 50
    assert torch.equal(pieces // 10 != torch.arange(50)[:, None], strange)
    assert torch.equal(pieces[~strange], numbered(50)[~strange])


def test_strangers_come_from_any_image_and_any_place():
    pieces, strange = build(odd=4).puzzle.exchange(numbered(30))
    assert len((pieces[strange] // 10).unique()) > 20
    assert len((pieces[strange] % 10).unique()) == 9
    assert strange.any(0).all()


def test_odd_pieces_are_known_where_the_shuffle_brings_them():
    puzzle = build(grey=0, standardise=False, piece=1.0).puzzle
    colours = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 36, 36)  # every image has one of its own
    pieces, strange, _ = puzzle.deal(puzzle.cut(colours))
    assert torch.equal(pieces[:, :, 0, 0, 0] != torch.arange(6)[:, None], strange)


def test_a_head_that_knows_nothing_pays_for_the_order_and_for_the_pieces():
    method = build(permutations=50, odd_weight=3.0)
    torch.nn.init.zeros_(method.puzzle.head[-1].weight)
    torch.nn.init.zeros_(method.puzzle.judge[-1].weight)
    assert method([images()])["loss"].item() == pytest.approx(math.log(50) + 3 * math.log(2), rel=1e-6)


def test_a_piece_that_is_surely_odd_has_no_say_in_the_order():
    puzzle = build().puzzle
    features = torch.randn(3, 9, 256, generator=torch.Generator().manual_seed(2)).requires_grad_()
    puzzle.judge = torch.nn.Sequential(torch.nn.Linear(9 * 64, 9))
    torch.nn.init.zeros_(puzzle.judge[0].weight)
    with torch.no_grad():
        puzzle.judge[0].bias.copy_(torch.tensor([200.0] * 2 + [-200.0] * 7))
    logits, _ = puzzle.solve(features)
    logits.sum().backward()
    assert features.grad[:, :2].abs().max() == 0
    assert features.grad[:, 2:].abs().amax((0, 2)).min() > 0


def test_a_judge_that_sees_every_odd_piece_finds_them_all():
    method = build(grey=0, standardise=False, piece=1.0)
    dark = torch.zeros(2, 3, 36, 36)
    dark[1] += 1  # of two images, the odd pieces are those of the rarer brightness
    method.encoder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    method.puzzle.reduce = torch.nn.Identity()
    method.puzzle.judge = Rarer()
    method.puzzle.head = torch.nn.Linear(27, 100)
    assert method([dark])["found"] == 1


class Rarer(torch.nn.Module):
    """Suspects the brightness that fewer of the nine pieces have."""

    def forward(self, joined: torch.Tensor) -> torch.Tensor:
        bright = joined.unflatten(1, (9, 3))[..., 0]
        return torch.where(bright.mean(1, keepdim=True) > 0.5, 1 - bright, bright)


def test_the_solved_puzzle_is_drawn_without_what_seems_odd():
    method = build(odd=2)
    method.puzzle.judge = torch.nn.Sequential(torch.nn.Linear(9 * 64, 9))
    torch.nn.init.zeros_(method.puzzle.judge[0].weight)
    with torch.no_grad():
        method.puzzle.judge[0].bias.copy_(torch.tensor([9.0] * 3 + [-9.0] * 6))
    drawn = method.pictures([images()])
    blank = (drawn["solved"].unflatten(2, (3, -1)).unflatten(4, (3, -1)) == 0).all((1, 3, 5))
    assert blank.flatten(1).sum(1).tolist() == [3] * 4
    assert drawn["puzzles"].shape == drawn["solved"].shape


def test_one_image_alone_can_be_drawn():
    assert build().pictures([images(1)])["puzzles"].shape[0] == 1


@pytest.mark.parametrize("odd", [0, 5])
def test_no_odd_pieces_or_too_many_are_refused(odd):
    with pytest.raises(BadSettings, match="'odd' of the method jigsaw_odd"):
        methods.configure("jigsaw_odd", {"odd": odd})
