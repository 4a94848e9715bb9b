import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.images.data import Images
from roost_training.methods.deepcluster import shared_cross_entropy

N = 40


def build(name: str = "deepcluster", **settings) -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    method = methods.load(name).Method(methods.configure(name, settings), encoder, dim)
    method.prepare(images())
    return method


def images() -> Images:
    return Images(
        store=np.zeros((N, 16, 16, 3), np.uint8),
        rows=np.arange(N),
        labels=None,
        classes=[],
        paths=[f"{i}.png" for i in range(N)],
        sha256=[f"{i:064x}" for i in range(N)],
        skipped=[],
    )


def features(seed: int = 0) -> torch.Tensor:
    """Of two kinds of image in turn; unit length."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(2, 256, generator=generator).repeat(N // 2, 1)
    return functional.normalize(kinds + 0.3 * torch.randn(N, 256, generator=generator), dim=1)


def test_one_cluster_an_image_is_plain_cross_entropy():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    clusters = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = shared_cross_entropy(logits, clusters[:, None], torch.ones(6, 1))
    assert loss.item() == pytest.approx(functional.cross_entropy(logits, clusters).item(), rel=1e-6)


def test_an_image_shared_by_two_clusters_costs_what_each_would_by_its_share():
    logits = torch.tensor([[math.log(5), math.log(3), math.log(2)]])  # probabilities of 0.5, 0.3 and 0.2
    loss = shared_cross_entropy(logits, torch.tensor([[0, 2]]), torch.tensor([[0.75, 0.25]]))
    assert loss.item() == pytest.approx(-0.75 * math.log(0.5) - 0.25 * math.log(0.2), rel=1e-6)


def test_shares_of_every_cluster_are_the_cross_entropy_of_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits, shares = torch.randn(6, 5, generator=generator), torch.rand(6, 5, generator=generator).softmax(1)
    order = torch.stack([torch.randperm(5, generator=generator) for _ in range(6)])
    loss = shared_cross_entropy(logits, order, shares.gather(1, order))
    assert loss.item() == pytest.approx(functional.cross_entropy(logits, shares).item(), rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_number_of_clusters():
    loss = shared_cross_entropy(torch.ones(3, 7), torch.tensor([[0], [3], [6]]), torch.ones(3, 1))
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)


def test_clusters_and_shares_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="shares of shape"):
        shared_cross_entropy(torch.ones(3, 7), torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 2))


@pytest.mark.parametrize("name", ["deepcluster", "deepcluster_em"])
def test_images_of_one_kind_are_one_cluster(name):
    method = build(name, clusters=2, components=1)
    method.before_epoch(0, features)
    assert sorted(method.clusters[:2, 0].tolist()) == [0, 1]
    assert torch.equal(method.clusters[:, 0], method.clusters[:2, 0].repeat(N // 2))
    assert method.shares.sum(1).numpy() == pytest.approx(np.ones(N))


def test_the_classifier_begins_anew_at_every_clustering_and_is_named_to_be_forgotten():
    method = build(clusters=4)
    method.before_epoch(0, features)
    with torch.no_grad():
        method.classifier.weight.fill_(7.0)
        method.classifier.bias.fill_(7.0)
    begun = list(method.before_epoch(1, features))
    assert [id(parameter) for parameter in begun] == [id(parameter) for parameter in method.classifier.parameters()]
    assert method.classifier.weight.abs().max() < 0.1
    assert not method.classifier.bias.any()


def test_every_epoch_begins_from_weights_of_its_own_which_every_process_draws_alike():
    first, again, other = (build(clusters=4) for _ in range(3))
    torch.manual_seed(99)  # what a process drew before does not count
    for method, epoch in [(first, 1), (again, 1), (other, 2)]:
        method.before_epoch(epoch, features)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_between_two_clusterings_nothing_is_embedded_and_nothing_changes():
    method = build(clusters=4, every=3)
    method.before_epoch(3, features)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    embedded = []
    assert list(method.before_epoch(4, lambda: embedded.append(1) or features(1))) == []
    assert embedded == []
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_an_epoch_has_as_many_images_of_every_cluster():
    method = build(clusters=2, components=1)
    first, second = features()[:2]
    method.before_epoch(0, lambda: torch.stack([first] * 35 + [second] * 5))
    assert sorted(method.clusters[:, 0].bincount().tolist()) == [5, 35]
    pool = method.pool(np.random.default_rng(0))
    assert method.clusters[torch.from_numpy(pool), 0].bincount().tolist() == [20, 20]


def test_before_the_first_clustering_every_image_comes_once():
    assert sorted(build().pool(np.random.default_rng(0))) == list(range(N))


def test_there_are_no_more_clusters_than_a_quarter_of_the_images():
    assert build(clusters=1000).classifier.out_features == N // 4


def test_each_image_is_told_by_its_own_cluster():
    method = build(clusters=4).eval()
    method.before_epoch(0, features)
    views = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    indices = torch.tensor([5, 1, 0, 30, 5, 22])
    logits = method.classifier(method.encoder(views))
    expected = functional.cross_entropy(logits, method.clusters[indices, 0])
    assert method([views], indices=indices)["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_mixture_shares_an_image_that_lies_between_two_kinds():
    method = build("deepcluster_em", clusters=2, components=1)
    wide = torch.linspace(-1, 1, N)[:, None] * torch.randn(256, generator=torch.Generator().manual_seed(0))
    method.before_epoch(0, lambda: wide)
    ends, middle = method.shares[[0, -1], 0], method.shares[N // 2, 0]
    assert method.clusters.shape == (N, 2)
    assert ends.min() > 0.95
    assert middle < 0.8


def test_the_mixture_keeps_no_more_clusters_than_there_are():
    assert build("deepcluster_em", clusters=3, kept=8).shares.shape == (N, 3)
    assert build("deepcluster_em", clusters=9, kept=2).shares.shape == (N, 2)


@pytest.mark.parametrize("setting", ["clusters", "components", "every"])
def test_settings_below_one_are_refused(setting):
    with pytest.raises(BadSettings, match=f"'{setting}' of the method deepcluster"):
        methods.configure("deepcluster", {setting: 0})


def one_of_two_processes(rank: int, port: int, answers) -> None:
    """The clusters that a process ends with whose features differ from the other's, as rounding may have it."""
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    method = build("deepcluster_em", clusters=5)
    method.before_epoch(0, lambda: features(rank))
    answers.put((rank, method.clusters.tolist(), method.shares.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_have_the_clusters_of_the_first(in_two_processes):
    found = in_two_processes(one_of_two_processes)
    alone = build("deepcluster_em", clusters=5)
    alone.before_epoch(0, features)
    for _, clusters, shares in found:
        assert clusters == alone.clusters.tolist()
        assert shares == alone.shares.tolist()
