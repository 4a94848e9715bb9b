import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.images.data import Images
from roost_training.loop.progress import Reporter
from roost_training.loop.training import train
from roost_training.methods import constraints

IMAGES = Images(
    store=np.zeros((4, 8, 8, 3), np.uint8),
    rows=np.arange(4),
    labels=None,
    classes=[],
    paths=["a.png", "b.png", "c.png", "d.png"],
    sha256=[f"{i:064x}" for i in range(4)],
    skipped=[],
)
"""Of which nothing is known of d."""
ALL = torch.arange(4)


def build(folder: Path, **settings: object) -> constraints.Method:
    path = folder / "pairs.csv"
    path.write_text("a.png,b.png,must\nb.png,c.png,cannot\n")
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=8)
    method = constraints.Method(methods.configure("constraints", {"pairs": path, "dim": 4} | settings), encoder, dim)
    method.prepare(IMAGES)
    return method


def test_a_resumed_run_must_have_the_same_pairs(settings, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("0/00.png,0/01.png,must\n0/00.png,1/01.png,cannot\n")
    given = settings(method="constraints", method_settings={"pairs": path}, epochs=1, val=settings().data)
    train(given, progress=Reporter())
    path.write_text(path.read_text() + "2/00.png,2/01.png,must\n")
    with pytest.raises(BadSettings, match="a file that the method constraints reads said something else"):
        train(given.model_copy(update={"resume": True}), progress=Reporter())


def views() -> list[torch.Tensor]:
    return list(torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def linked(method: constraints.Method, bank: torch.Tensor) -> float:
    """What constraints cost where all images are in the bank, and each view is orthogonal to all of it."""
    method.bank.rows.copy_(bank)
    method.seen[:] = True
    fourth = torch.eye(4)[3].expand(8, -1)
    return method._linked(fourth, ALL.repeat(2)).item()


def test_a_must_link_pulls_and_a_cannot_link_pushes(tmp_path):
    # Must-links a-b and b-a: squared distance 2. Cannot-links b-c, and through b also a-c, both ways: sqrt(2) apart.
    expected = 0.75 * (2 + (1.5 - math.sqrt(2)) ** 2) / 2  # three of four images are constrained
    bank = torch.eye(4)[[0, 1, 2, 0]]
    assert linked(build(tmp_path, margin=1.5), bank) == pytest.approx(expected, rel=1e-5)


def test_what_is_unknown_of_an_image_costs_nothing(tmp_path):
    method = build(tmp_path)
    method.seen[:] = True
    assert method._linked(torch.eye(4)[:2], torch.tensor([3, 3])).item() == 0


def test_images_that_were_not_seen_yet_count_for_no_one(tmp_path):
    method = build(tmp_path)
    assert method(views(), ALL)["linked"].item() == 0
    assert method(views(), ALL)["linked"].item() > 0


def test_the_bank_keeps_the_unit_length_mean_of_an_image_s_views(tmp_path):
    method = build(tmp_path, momentum=0)
    given = views()
    projected = functional.normalize(method.projector(method.encoder(torch.cat(given))), dim=1)
    method(given, torch.tensor([2, 0, 1, 3]))
    expected = functional.normalize(projected[0] + projected[4], dim=0)
    assert torch.allclose(method.bank.rows[2], expected, atol=1e-5)


def test_evaluation_leaves_the_bank_as_it_is(tmp_path):
    method = build(tmp_path).eval()
    before = method.bank.rows.clone()
    method(views(), ALL)
    assert torch.equal(method.bank.rows, before)
    assert not method.seen.any()


def test_without_weight_it_is_simclr(tmp_path):
    method = build(tmp_path, weight=0.0)
    method(views(), ALL)
    simclr = methods.load("simclr")
    z = functional.normalize(method.projector(method.encoder(torch.cat(views()))), dim=1)
    assert method(views(), ALL)["loss"].item() == pytest.approx(simclr.nt_xent(z, 0.2).item(), rel=1e-6)


def test_the_manifest_counts_the_links_and_says_how_near_their_images_are(tmp_path):
    z = functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -1.0], [1.0, 0.0]]), dim=1)
    found = build(tmp_path).figures(z, methods.HeldOut(z, None, views=list))
    cosine = pytest.approx(math.sqrt(0.5))
    assert (found["must_links"], found["must_link_cosine"]) == (1, cosine)
    assert (found["cannot_links"], -found["cannot_link_cosine"]) == (1, cosine)


def test_a_run_without_a_file_of_pairs_is_refused():
    with pytest.raises(BadSettings, match="'pairs' of the method constraints: Field required"):
        methods.configure("constraints", {})
