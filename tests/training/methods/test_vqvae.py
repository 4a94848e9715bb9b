import pytest
import torch

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.methods.vqvae import Method


def build(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return Method(methods.configure("vqvae", settings), encoder, dim)


def some_images(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def gradients(method: Method, prefix: str) -> list[bool]:
    return [bool(p.grad is not None and p.grad.any()) for name, p in method.named_parameters() if prefix in name]


@pytest.mark.parametrize(("fold", "side"), [(1, 2), (4, 8)])
def test_each_place_of_the_map_unfolds_into_a_square_of_codes(fold, side):
    _, grid = build(fold=fold)._codes(some_images(size=32))
    assert grid.shape == (4, side, side)


def test_the_loss_is_the_error_the_commitment_and_the_prior_s_share():
    method = build(commitment=0.5).eval()
    images = some_images()
    commitment = method._codes(images)[0].commitment
    found = method([images])
    expected = found["error"] + 0.5 * commitment + found["prior"] * 16 / (3 * 16 * 16)  # 4 x 4 codes for an image
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_prior_moves_nothing_but_itself():
    method = build()
    method.prior.cost(method._codes(some_images())[1]).backward()
    assert any(gradients(method, "prior"))
    assert not any(gradients(method, "encoder"))


def test_the_drawing_moves_the_encoder_through_the_codes():
    method = build(commitment=0.0)
    method([some_images()])["error"].backward()
    assert all(gradients(method, "encoder"))


def test_the_commitment_alone_moves_the_encoder_and_not_the_decoder():
    method = build().eval()  # in training the first vectors are codes themselves
    method._codes(some_images())[0].commitment.backward()
    assert any(gradients(method, "encoder"))
    assert not any(gradients(method, "decoder"))


def test_reconstructions_are_drawn_from_codes_alone():
    method = build().eval()
    images = some_images()
    _, grid = method._codes(images)
    values = method.quantiser.codebook[grid.flatten()]
    drawn = method.pictures([images])["reconstructions"]
    assert torch.allclose(drawn, method._draw(values, grid, size=16), atol=1e-5)


def test_samples_are_drawn_from_the_prior_and_differ():
    drawn = build().eval().pictures([some_images()])["samples"]
    assert drawn.shape == (4, 3, 16, 16)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("bad", [{"decay": 1.0}, {"codes": 0}, {"fold": 0}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(BadSettings, match=next(iter(bad))):
        methods.configure("vqvae", bad)
