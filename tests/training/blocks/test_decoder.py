import pytest
import torch

from roost_training.blocks.decoder import Decoder, VectorDecoder


@pytest.mark.parametrize(("rows", "size"), [(1, 16), (2, 32), (4, 32), (7, 96), (8, 16), (8, 8), (3, 37)])
def test_a_map_of_any_size_becomes_an_image_of_the_size_asked_for(rows, size):
    drawn = Decoder(8, width=32, out=5)(torch.randn(2, 8, rows, rows), size=size)
    assert drawn.shape == (2, 5, size, size)


def test_what_lies_left_in_the_map_lies_left_in_the_image():
    torch.manual_seed(0)
    decoder = Decoder(4, width=32).eval()
    maps = torch.randn(1, 4, 8, 8)
    changed = maps.clone()
    changed[..., :2] += 1
    difference = (decoder(changed, size=64) - decoder(maps, size=64)).abs().sum((0, 1, 2))
    assert difference[:16].min() > 0
    assert difference[44:].max() == 0


def test_a_vector_becomes_an_image():
    assert VectorDecoder(6, width=16)(torch.randn(2, 6), size=24).shape == (2, 3, 24, 24)


def test_each_enlargement_halves_the_channels_down_to_thirty_two():
    widths = [step[0].out_channels for step in Decoder(256, width=64).steps]
    assert widths == [64, 32, 32]


def test_an_untrained_decoder_draws_no_chequerboard():
    torch.manual_seed(0)
    drawn = Decoder(8, width=32)(torch.randn(2, 8, 4, 4), size=32)
    assert torch.equal(drawn[..., ::2, ::2], drawn[..., 1::2, 1::2])
