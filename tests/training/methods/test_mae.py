import pytest
import torch

from roost_training import encoders, methods
from roost_training.methods import mae
from roost_training.methods.mae import images_of, masked_loss, patches_of, sine_positions
from roost_training.views.recipe import Recipe

ALL = torch.arange(4).expand(2, -1)


def build(**settings: object) -> mae.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("vit_xti_16", image_size=16)
    return mae.Method(methods.configure("mae", {"decoder_dim": 32} | settings), encoder, dim)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_patches_are_counted_by_rows():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert patches_of(image, 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_patches_are_put_together_again():
    images = random(2, 3, 8, 8)
    assert torch.equal(images_of(patches_of(images, 4), 4), images)


def test_only_hidden_patches_cost():
    predicted = torch.zeros(1, 3, 2)
    patches = torch.tensor([[[9.0, 9.0], [1.0, 3.0], [2.0, 0.0]]])
    loss = masked_loss(predicted, patches, hidden=torch.tensor([[1, 2]]), normalise=False)
    assert loss.item() == ((1 + 9) / 2 + (4 + 0) / 2) / 2


def test_a_prediction_of_nothing_costs_a_normalised_patch_s_variance():
    patches = 5 + 3 * random(2, 4, 12)
    loss = masked_loss(torch.zeros(2, 4, 12), patches, hidden=ALL, normalise=True)
    assert loss.item() == pytest.approx(11 / 12, rel=1e-5)  # the authors' variance is the unbiased one


def test_the_loss_equals_the_authors_formula():
    patches, predicted = 2 + random(2, 4, 12), random(2, 4, 12).flip(0)
    hidden = torch.tensor([[3, 1], [0, 2]])
    mask = torch.zeros(2, 4).scatter(1, hidden, 1.0)
    target = (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + 1.0e-6) ** 0.5
    expected = (((predicted - target) ** 2).mean(dim=-1) * mask).sum() / mask.sum()
    loss = masked_loss(predicted, patches, hidden=hidden, normalise=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_flat_patch_costs_nothing_and_is_finite():
    loss = masked_loss(torch.zeros(2, 4, 12), torch.ones(2, 4, 12), hidden=ALL, normalise=True)
    assert loss.item() == 0


def test_positions_equal_lightly_s():
    from lightly.models.utils import get_2d_sine_cosine_positional_embedding

    expected = torch.from_numpy(get_2d_sine_cosine_positional_embedding(32, 5, cls_token=False)).float()
    columns_first = sine_positions(5, 32).roll(16, 1)
    assert torch.allclose(columns_first, expected, atol=1e-5)


def test_no_two_positions_are_alike():
    positions = sine_positions(8, 32)
    assert (torch.cdist(positions, positions) + 9 * torch.eye(64)).min() > 0.5


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 16), (0.5, 32), (0.999, 1)])
def test_the_mask_ratio_s_share_of_64_patches_is_hidden(ratio, kept):
    left, hidden = build(mask_ratio=ratio)._choose(random(2, 3, 16, 16))
    assert (left.shape, hidden.shape) == ((2, kept), (2, 64 - kept))
    assert torch.equal(torch.cat([left, hidden], dim=1).sort(1).values, torch.arange(64).expand(2, -1))


def test_the_decoder_does_not_see_what_is_hidden():
    method, images = build(), random(2, 3, 16, 16)
    kept, hidden = method._choose(images)
    patches = patches_of(images, 2)
    changed = images_of(patches.scatter(1, hidden[:, :, None].expand(-1, -1, 12), 7.0), 2)
    assert torch.equal(method._decode(images, kept), method._decode(changed, kept))


def test_the_decoder_puts_every_token_in_its_place():
    torch.manual_seed(0)
    decoder = mae.Decoder(8, side=2, width=32, layers=1, out=3)
    tokens = random(1, 4, 8)
    kept, other = torch.tensor([[2, 0, 3]]), torch.tensor([[0, 3, 2]])
    reordered = tokens[:, [0, 2, 3, 1]]
    assert torch.allclose(decoder(tokens, kept), decoder(reordered, other), atol=1e-6)


def test_a_view_keeps_its_colours():
    views = build().views(Recipe(), 16)
    assert [(view.recipe.jitter, view.recipe.grey, view.size) for view in views] == [(0, 0, 16)]


@pytest.mark.parametrize("normalise", [True, False])
def test_pictures_show_the_image_as_it_is_where_it_was_not_hidden(normalise):
    method, images = build(normalise=normalise).eval(), random(2, 3, 16, 16)
    torch.manual_seed(1)
    drawn = method.pictures([images])
    left = drawn["masked"] != 0
    assert left.float().mean().item() == pytest.approx(0.25)
    assert torch.equal(drawn["reconstruction"][left], images[left])
    assert torch.equal(drawn["original"], images)


def test_a_mask_of_everything_is_refused():
    with pytest.raises(methods.BadSettings, match="'mask_ratio' of the method mae"):
        methods.configure("mae", {"mask_ratio": 1.0})
