import pytest
import torch
from torch import nn

from roost_training.blocks import patches


def counted(n: int = 2, size: int = 12) -> torch.Tensor:
    """Images whose pixels tell their place: row * 100 + column in channel 0, and the image's number in channel 1."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    place = (rows * 100 + columns).expand(n, size, size)
    number = torch.arange(n)[:, None, None].expand(n, size, size)
    return torch.stack([place, number, torch.zeros_like(place)], dim=1).float()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_patch_is_the_slice_of_its_image_at_its_place():
    images = noise(2, 3, 8, 9)
    found = patches.cut(images, torch.tensor([[[0, 0], [3, 4]], [[5, 6], [1, 2]]]), side=3)
    assert found.shape == (2, 2, 3, 3, 3)
    assert torch.equal(found[0, 1], images[0, :, 3:6, 4:7])
    assert torch.equal(found[1, 0], images[1, :, 5:8, 6:9])


def test_a_grid_of_whole_cells_puts_the_image_together_again():
    images = counted()
    found = patches.jittered_grid(images, grid=3, share=1.0)
    rows = [torch.cat(list(found[1, 3 * row : 3 * row + 3]), dim=2) for row in range(3)]
    assert torch.equal(torch.cat(rows, dim=1), images[1])


def test_every_patch_lies_within_its_cell_and_at_every_place_of_it():
    torch.manual_seed(0)
    first = patches.jittered_grid(counted(200), grid=2, share=4 / 6)[:, :, 0, 0, 0]  # of cells of 6 pixels
    for cell, corner in enumerate([0, 6, 600, 606]):
        assert set(first[:, cell].tolist()) == {corner + 100 * down + right for down in range(3) for right in range(3)}


@pytest.mark.parametrize(("grid", "share"), [(3, 1.2), (3, 0.0), (13, 0.5)])
def test_patches_that_no_cell_holds_are_refused(grid, share):
    with pytest.raises(ValueError, match=f"patches of {share} cells"):
        patches.jittered_grid(counted(), grid=grid, share=share)


def test_overlapping_patches_begin_a_stride_apart():
    found = patches.overlapping_grid(counted(), side=4, stride=2)
    assert found.shape == (2, 5, 5, 3, 4, 4)
    assert found[0, 2, 1, 0, 0, 0] == 402  # row 4, column 2
    assert found[1, 4, 4, 0, 3, 3] == 1111


def test_a_patch_larger_than_its_image_is_refused():
    with pytest.raises(ValueError, match="do not fit images of 12 x 12"):
        patches.overlapping_grid(counted(), side=13, stride=1)


def test_dropping_colours_leaves_one_channel_and_faint_noise():
    torch.manual_seed(0)
    before = noise(50, 9, 3, 6, 6)
    after = patches.drop_colours(before, chance=1.0)
    left = (after == before).all((-2, -1))
    assert (left.sum(-1) == 1).all()
    assert left.any((0, 1)).all()  # each of the three is left somewhere
    assert after[~left].std().item() == pytest.approx(0.01, rel=0.1)


def test_each_patch_is_drawn_on_its_own_with_the_chance():
    torch.manual_seed(0)
    before = noise(500, 4, 3, 2, 2)
    changed = (patches.drop_colours(before, chance=0.25) != before).flatten(2).any(2)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert changed.any(1).float().mean().item() == pytest.approx(1 - 0.75**4, abs=0.06)


def test_a_patch_without_saturation_has_the_mean_in_every_channel():
    before = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 2)
    assert torch.equal(patches.drop_saturation(before, chance=1.0), torch.full((1, 1, 3, 2, 2), 3.0))
    assert torch.equal(patches.drop_saturation(before, chance=0.0), before)


def test_standardised_patches_forget_brightness_and_contrast():
    before = noise(2, 9, 3, 6, 6)
    after = patches.standardise(before)
    assert torch.allclose(after.mean((-2, -1)), torch.zeros(()), atol=1e-6)
    assert torch.allclose(after.std((-2, -1), correction=0), torch.ones(()), atol=1e-3)
    assert torch.allclose(patches.standardise(before * 3 + 5), after, atol=1e-3)


def test_a_flat_patch_becomes_nought():
    assert torch.equal(patches.standardise(torch.full((1, 3, 4, 4), 7.0)), torch.zeros(1, 3, 4, 4))


def test_the_same_seed_cuts_the_same_patches():
    images = noise(4, 3, 16, 16)
    torch.manual_seed(5)
    first = patches.jittered_grid(images, grid=3, share=0.6)
    torch.manual_seed(5)
    assert torch.equal(patches.jittered_grid(images, grid=3, share=0.6), first)


def test_tiles_lie_as_their_numbers_count():
    numbered = torch.arange(9.0).view(1, 9, 1, 1, 1).expand(1, 9, 3, 2, 2)
    picture = patches.tile(numbered)
    assert picture.shape == (1, 3, 9, 9)
    assert picture[0, 0, ::3, ::3].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert not picture[:, :, 2::3].any()


def test_patches_pass_the_encoder_as_one_batch_and_keep_their_places():
    images = noise(2, 4, 3, 5, 5)
    found = patches.encode(nn.AdaptiveAvgPool2d(1), images).flatten(2)
    assert torch.allclose(found, images.mean((3, 4)))
