"""Jigsaw and deep clustering, at once and one after the other."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.images.data import Images
from roost_training.loop.progress import Reporter
from roost_training.loop.training import train
from roost_training.views.recipe import Recipe

N = 16
INDICES = torch.tensor([3, 0, 7, 12])
IMAGES = Images(
    store=np.zeros((N, 16, 16, 3), np.uint8),
    rows=np.arange(N),
    labels=None,
    classes=[],
    paths=[f"{i}.png" for i in range(N)],
    sha256=[f"{i:064x}" for i in range(N)],
    skipped=[],
)


def build(name: str, **settings) -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    method = methods.load(name).Method(methods.configure(name, settings), encoder, dim)
    method.prepare(IMAGES)
    return method.eval()


def features() -> torch.Tensor:
    return functional.normalize(torch.randn(N, 256, generator=torch.Generator().manual_seed(3)), dim=1)


def views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, side, side, generator=generator) for side in (16, 32)]


def losses(method: methods.Method) -> tuple[float, float]:
    """Of the puzzles and of the clusters, each on its own."""
    torch.manual_seed(5)
    puzzles = method.puzzle.play(method.encoder, views()[1])["loss"]
    logits = method.classifier(method.encoder(views()[0]))
    return puzzles.item(), functional.cross_entropy(logits, method.clusters[INDICES, 0]).item()


def loss(method: methods.Method) -> float:
    """Over the views that the method asks for."""
    by_size = {view.shape[2]: view for view in views()}
    torch.manual_seed(5)
    return method([by_size[view.size] for view in method.views(Recipe(), 16)], indices=INDICES)["loss"].item()


def test_both_losses_are_added_by_their_weights():
    method = build("jigsaw_with_deepcluster", puzzle_weight=0.25)
    method.before_epoch(0, features)
    puzzles, clusters = losses(method)
    assert loss(method) == pytest.approx(clusters + 0.25 * puzzles, rel=1e-6)


def test_the_puzzles_may_have_odd_pieces():
    method = build("jigsaw_with_deepcluster", odd=3)
    method.before_epoch(0, features)
    puzzles, clusters = losses(method)
    assert loss(method) == pytest.approx(clusters + puzzles, rel=1e-6)
    assert method.puzzle.exchange(torch.arange(9).expand(4, 9))[1].sum(1).tolist() == [3] * 4


def test_the_view_that_is_cut_up_is_larger_than_the_one_whose_cluster_is_told():
    assert [view.size for view in build("jigsaw_with_deepcluster", view_scale=1.5).views(Recipe(), 32)] == [32, 48]


def test_what_comes_one_after_the_other_asks_for_one_view_at_a_time():
    method = build("jigsaw_then_deepcluster", view_scale=1.5)
    assert [view.size for view in method.views(Recipe(), 32)] == [48]
    method.after_step(1.0)
    method.before_epoch(1, features)
    assert [view.size for view in method.views(Recipe(), 32)] == [32]
    assert method.pictures(views()[:1]) == {}


def test_clustering_follows_the_puzzles_with_the_first_epoch_after_their_share():
    method = build("jigsaw_then_deepcluster", share=0.5)
    puzzles, _ = losses(method)
    followed = []
    for epoch, done in enumerate([0.0, 0.49, 0.5, 0.75]):
        method.after_step(done)
        begun = list(method.before_epoch(epoch, features))
        followed.append(bool(begun))
        if not begun:
            assert loss(method) == pytest.approx(puzzles, rel=1e-6)
    assert followed == [False, False, True, True]
    assert loss(method) == pytest.approx(losses(method)[1], rel=1e-6)


def test_within_an_epoch_puzzles_do_not_give_way():
    method = build("jigsaw_then_deepcluster", share=0.5)
    method.before_epoch(0, features)
    before = loss(method)
    method.after_step(0.9)
    assert loss(method) == before


def test_while_there_are_puzzles_nothing_is_embedded_and_every_image_comes_once():
    method = build("jigsaw_then_deepcluster", share=0.5)
    embedded = []
    method.before_epoch(0, lambda: embedded.append(1) or features())
    assert embedded == []
    assert sorted(method.pool(np.random.default_rng(0))) == list(range(N))


def test_the_first_clustering_is_not_skipped_where_not_every_epoch_has_one():
    method = build("jigsaw_then_deepcluster", share=0.5, every=4)
    method.after_step(0.6)
    assert list(method.before_epoch(3, features))
    assert list(method.before_epoch(4, features)) == []
    assert list(method.before_epoch(7, features))


def test_a_resumed_training_goes_on_with_what_it_was_at():
    method, resumed = (build("jigsaw_then_deepcluster", share=0.5) for _ in range(2))
    method.after_step(0.6)
    method.before_epoch(3, features)
    resumed.load_state_dict(method.state_dict())
    assert loss(resumed) == loss(method)
    assert list(resumed.before_epoch(4, features))


class Breaking(Reporter):
    """Ends a run with an error at its seventh step: of five in each epoch, the second of the second."""

    steps = 0

    def step(self, progress, figures):
        self.steps += 1
        if self.steps == 7:
            raise RuntimeError("broken")


def test_a_run_that_broke_among_clusters_ends_with_the_same_weights(settings, tmp_path):
    whole, broken = (
        settings(
            out=tmp_path / name,
            method="jigsaw_then_deepcluster",
            method_settings={"clusters": 8, "share": 0.3, "permutations": 9},
            epochs=3,
            batch=24,
            log_every=1,
            evaluate_every=9,
            checkpoint_seconds=1e-6,
        )
        for name in ("whole", "broken")
    )
    train(whole, progress=Reporter())
    with pytest.raises(RuntimeError, match="broken"):
        train(broken, progress=Breaking())
    train(broken.model_copy(update={"resume": True}), progress=Reporter())
    expected = load_file(whole.out / encoders.WEIGHTS)
    weights = load_file(broken.out / encoders.WEIGHTS)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_without_a_share_for_puzzles_it_is_deepcluster():
    method, alone = build("jigsaw_then_deepcluster", share=0), build("deepcluster")
    alone.encoder.load_state_dict(method.encoder.state_dict())
    for each in (method, alone):
        each.before_epoch(0, features)
    assert torch.equal(method.clusters, alone.clusters)
    assert loss(method) == loss(alone)


def test_a_share_beyond_the_whole_training_is_refused():
    with pytest.raises(BadSettings, match="'share' of the method jigsaw_then_deepcluster"):
        methods.configure("jigsaw_then_deepcluster", {"share": 1.5})


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(BadSettings, match="'puzzle_weight' of the method jigsaw_with_deepcluster"):
        methods.configure("jigsaw_with_deepcluster", {"puzzle_weight": 0})
