import pytest
import torch

from roost_training.blocks import exemplars


def noise(n: int = 4, side: int = 16) -> torch.Tensor:
    return torch.rand(3, n, side, side, generator=torch.Generator().manual_seed(1))


def textured_corner(n: int = 64, side: int = 32) -> torch.Tensor:
    """Flat images but for a chequered quarter at the lower right."""
    planes = torch.full((3, n, side, side), 0.5)
    chequers = (torch.arange(side // 2)[:, None] + torch.arange(side // 2)) % 2
    planes[:, :, side // 2 :, side // 2 :] = chequers.float()
    return planes


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_seeds_lie_within_their_images():
    centre, half = exemplars.draw_seeds(noise(200), smallest=0.25).split([2, 1], dim=1)
    assert (centre.abs() + half <= 1 + 1e-6).all()


def test_seeds_cover_from_the_smallest_share_to_the_whole_of_a_side():
    half = exemplars.draw_seeds(noise(400), smallest=0.25)[:, 2]
    assert half.min().item() == pytest.approx(0.25, abs=0.03)
    assert half.max().item() == pytest.approx(1, abs=0.03)


def test_seeds_lie_where_gradients_are_strong():
    x, y, half = exemplars.draw_seeds(textured_corner(400), smallest=0.25).T
    touching = (x + half > -0.1) & (y + half > -0.1)  # the chequered quarter, whose edge is a gradient too
    assert touching.all()
    assert (x + y)[half < 0.5].mean() > 0.4  # where gradients did not count it would be 0


def test_a_flat_image_has_a_seed_too():
    assert exemplars.draw_seeds(torch.zeros(3, 2, 8, 8), smallest=0.5).isfinite().all()


def nothing(n: int, **given: object) -> exemplars.Changes:
    """Changes that change nothing, but for those that are given."""
    keep = torch.tensor([1.0, 1.0, 0.0]).expand(n, 3)
    neutral = {"angle": torch.zeros(n), "scale": torch.ones(n), "move": torch.zeros(n, 2), "hue": torch.zeros(n)}
    neutral |= {"contrast": torch.ones(n, 3), "saturation": keep, "value": keep}
    return exemplars.Changes(**(neutral | given))


def coarse(planes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(planes, 4)


def recolour(planes: torch.Tensor, **given: object) -> torch.Tensor:
    changes = nothing(planes.shape[1], **given)
    return exemplars.recolour(planes, changes, mean=torch.full((3,), 0.4), components=torch.eye(3))


def one_colour(*channels: float) -> torch.Tensor:
    return torch.tensor(channels)[:, None, None, None].expand(3, 1, 2, 2)


def test_a_square_is_cut_out_where_it_lies():
    planes = noise()
    upper_right = torch.tensor([[0.5, -0.5, 0.5]]).expand(4, 3)
    patches = exemplars.cut(planes, upper_right, nothing(4), size=8)
    assert torch.allclose(coarse(patches), coarse(planes[:, :, :8, 8:]), atol=0.05)


def test_a_patch_that_moves_by_half_its_side_shows_what_lies_there():
    planes = noise()
    upper_left = torch.tensor([[-0.5, -0.5, 0.5]]).expand(4, 3)
    changes = nothing(4, move=torch.tensor([[1.0, 0.5]]).expand(4, 2))
    patches = exemplars.cut(planes, upper_left, changes, size=8)
    assert torch.allclose(coarse(patches), coarse(planes[:, :, 4:12, 8:]), atol=0.05)


def test_a_quarter_turn_turns_the_patch():
    planes = noise(1)
    changes = nothing(1, angle=torch.tensor([torch.pi / 2]))
    patch = exemplars.cut(planes, torch.tensor([[0.0, 0.0, 1.0]]), changes, size=16)
    assert torch.allclose(coarse(patch), coarse(planes).rot90(1, (2, 3)), atol=0.05)


def test_what_looks_twice_as_large_is_half_as_much():
    planes = noise(1)
    changes = nothing(1, scale=torch.tensor([2.0]))
    patch = exemplars.cut(planes, torch.tensor([[0.0, 0.0, 1.0]]), changes, size=8)
    assert torch.allclose(coarse(patch), coarse(planes[:, :, 4:12, 4:12]), atol=0.05)


def test_changes_that_change_nothing_leave_the_colours():
    planes = noise()
    assert torch.allclose(recolour(planes), planes, atol=1e-4)


def test_a_component_s_contrast_is_changed_about_the_mean():
    changed = recolour(one_colour(0.5, 0.4, 0.3), contrast=torch.tensor([[2.0, 1.0, 3.0]]))
    assert changed[:, 0, 0, 0].tolist() == pytest.approx([0.6, 0.4, 0.1], abs=1e-5)


def test_saturation_and_value_follow_their_powers_and_hue_stays():
    # Value 0.8 and saturation 0.5 become 0.64 and 0.25; the middle channel stays half way between the others.
    square = torch.tensor([[2.0, 1.0, 0.0]])
    changed = recolour(one_colour(0.8, 0.6, 0.4), saturation=square, value=square)
    assert changed[:, 0, 0, 0].tolist() == pytest.approx([0.64, 0.56, 0.48], abs=1e-5)


def test_saturation_and_value_are_multiplied_and_added_to():
    # Value 0.8 becomes 0.5 * 0.8 + 0.1 and saturation 0.5 becomes 1.5 * 0.5 - 0.15.
    changed = recolour(
        one_colour(0.8, 0.6, 0.4),
        value=torch.tensor([[1.0, 0.5, 0.1]]),
        saturation=torch.tensor([[1.0, 1.5, -0.15]]),
    )
    assert changed[:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.35, 0.2], abs=1e-5)


def test_a_third_of_a_turn_makes_red_green():
    changed = recolour(one_colour(0.9, 0.1, 0.1), hue=torch.tensor([1 / 3]))
    assert changed[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.9, 0.1], abs=1e-5)


def test_what_is_grey_stays_grey():
    changed = recolour(noise()[:1].expand(3, 4, 16, 16), saturation=torch.tensor([[1.0, 1.0, 0.1]]).expand(4, 3))
    assert (changed.amax(0) - changed.amin(0)).max() < 1e-5


def drawn(n: int, *, colour_strength: float) -> exemplars.Changes:
    return exemplars.draw_changes(n, rotation_degrees=20.0, colour_strength=colour_strength, device=torch.device("cpu"))


def test_changes_keep_to_the_paper_s_ranges():
    changes = drawn(2000, colour_strength=1.0)
    columns = {
        "angle": (changes.angle.rad2deg(), -20, 20),
        "scale": (changes.scale, 0.7, 1.4),
        "move": (changes.move, -0.2, 0.2),
        "contrast": (changes.contrast, 0.5, 2),
        "power": (changes.saturation[:, 0], 0.25, 4),
        "factor": (changes.value[:, 1], 0.7, 1.4),
        "shift": (changes.value[:, 2], -0.1, 0.1),
        "hue": (changes.hue, -0.1, 0.1),
    }
    found = {name: (x.min().item(), x.max().item()) for name, (x, _, _) in columns.items()}
    for name, (_, low, high) in columns.items():
        assert found[name] == (pytest.approx(low, abs=0.05 * (high - low)), pytest.approx(high, rel=0.05))


def test_at_half_strength_a_factor_of_two_is_its_root():
    contrast = drawn(2000, colour_strength=0.5).contrast
    assert contrast.max().item() == pytest.approx(2**0.5, rel=0.01)
    assert contrast.min().item() == pytest.approx(0.5**0.5, rel=0.01)


def test_at_no_strength_colours_stay():
    planes = noise()
    changed = exemplars.recolour(
        planes, drawn(4, colour_strength=0.0), mean=torch.full((3,), 0.4), components=torch.eye(3)
    )
    assert torch.allclose(changed, planes, atol=1e-4)
