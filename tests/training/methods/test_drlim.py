import numpy as np
import pytest
import torch

from roost_training import encoders, methods
from roost_training.images.data import Images
from roost_training.methods import drlim


def grey_images(values: list[int]) -> Images:
    """Flat images of 8 x 8 pixels, whose only difference is how bright they are."""
    n = len(values)
    return Images(
        store=np.tile(np.array(values, np.uint8)[:, None, None, None], (1, 8, 8, 3)),
        rows=np.arange(n),
        labels=None,
        classes=[],
        paths=[f"{i}.png" for i in range(n)],
        sha256=[f"{i:064x}" for i in range(n)],
        skipped=[],
    )


def build(**settings: object) -> drlim.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=8)
    return drlim.Method(methods.configure("drlim", settings), encoder, dim)


def loss_of(method: drlim.Method, **asked: torch.Tensor) -> float:
    views = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return method.eval()(views, **asked)["loss"].item()


def test_the_nearest_are_the_nearest_in_pixels_without_the_image_itself():
    rows = drlim.thumbnails(grey_images([10, 200, 13, 190, 20]))
    assert drlim.nearest(rows, 2).tolist() == [[2, 4], [3, 4], [0, 4], [1, 4], [2, 0]]


def test_fewer_images_than_neighbours_have_all_others_near():
    assert drlim.nearest(torch.eye(3), 5).shape == (3, 2)


def test_neighbours_are_found_beyond_a_chunk():
    rows = torch.randn(drlim.CHUNK + 50, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.cdist(rows[-50:], rows).topk(2, largest=False).indices[:, 1]
    assert torch.equal(drlim.nearest(rows, 1)[-50:, 0], expected)


def test_thumbnails_of_large_images_are_32_pixels_a_side():
    large = Images(**{**vars(grey_images([1, 2])), "store": np.zeros((2, 64, 64, 3), np.uint8)})
    assert drlim.thumbnails(large).shape == (2, 32 * 32 * 3)


def test_a_class_of_its_own_for_each_image_is_the_same_as_views():
    expected = loss_of(build())
    assert loss_of(build(similar="labels"), labels=torch.arange(4)) == pytest.approx(expected, rel=1e-6)


def test_neighbours_are_similar_both_ways_as_if_they_shared_a_class():
    method = build(similar="neighbours", neighbours=1)
    method.prepare(grey_images([0, 4, 250, 255]))  # two pairs, each other's nearest
    expected = loss_of(build(similar="labels"), labels=torch.tensor([0, 0, 1, 1]))
    assert loss_of(method, indices=torch.arange(4)) == pytest.approx(expected, rel=1e-6)


def test_a_neighbour_that_is_nearer_to_another_is_similar_all_the_same():
    method = build(similar="neighbours", neighbours=1)
    method.prepare(grey_images([0, 1, 3, 255]))  # 0 <-> 1 <- 2 <- 3
    some = loss_of(method, indices=torch.arange(4))
    method.nearest = torch.tensor([[1], [2], [3], [2]])  # the same pairs from their other ends
    assert loss_of(method, indices=torch.arange(4)) == pytest.approx(some, rel=1e-6)


def test_only_what_the_setting_needs_is_wanted():
    wants = [
        (build(similar=similar).wants_labels, build(similar=similar).wants_indices)
        for similar in ("views", "labels", "neighbours")
    ]
    assert wants == [(False, False), (True, False), (False, True)]
