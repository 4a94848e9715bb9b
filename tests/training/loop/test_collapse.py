"""A run that diverges or collapses stops, says what was seen and what to try, and keeps its last good checkpoint."""

import json
import os
import signal

import pytest
import torch

from roost import artifact
from roost.errors import TrainingFailed
from roost_training import methods
from roost_training.loop import checkpoint
from roost_training.loop.progress import Reporter
from roost_training.loop.training import train

COLLAPSING = '''
"""SimCLR, whose encoder gives every image the same features when half of the training is done."""

import torch

from roost_training.methods import simclr
from roost_training.methods.simclr import Config as Config


class Method(simclr.Method):
    """Empties the last block."""

    @torch.no_grad()
    def after_step(self, progress):
        if progress >= 0.5:
            block = self.encoder.layers[-1]
            for norm, level in ((block.bn2, 1.0), (block.downsample[1], 0.0)):
                norm.weight.zero_()
                norm.bias.fill_(level)
'''


@pytest.fixture
def collapsing(settings, tmp_path, monkeypatch):
    """Settings under which the encoder collapses from the fourth of eight epochs on."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "collapsing.py").write_text(COLLAPSING)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    return settings(method="collapsing", epochs=8)


def epochs(settings) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def test_a_collapse_stops_the_run_with_what_was_seen_and_what_to_try(collapsing):
    with pytest.raises(TrainingFailed, match=r"collapsed: .*rankme 1, under min_rankme = 1\.2.*learning_rate"):
        train(collapsing, progress=Reporter())
    *_, before, last = epochs(collapsing)
    assert [before["epoch"], last["epoch"]] == [4, 5]  # one low score is a warning, the next the end
    assert [line["rankme"] < 1.2 for line in epochs(collapsing)] == [False] * 4 + [True] * 2
    assert not (collapsing.out / artifact.MANIFEST).exists()


def test_the_last_good_checkpoint_is_kept_and_can_be_gone_on_from_without_floors(collapsing):
    with pytest.raises(TrainingFailed):
        train(collapsing.model_copy(update={"checkpoint_seconds": 1e-6}), progress=Reporter())
    position = torch.load(checkpoint.path_in(collapsing.out), weights_only=True)["position"]
    assert position["figures"]["rankme"] >= 1.2
    anyway = {"resume": True, "min_rankme": 0.0, "min_feature_std": 0.0}
    manifest = train(collapsing.model_copy(update=anyway), progress=Reporter())
    assert manifest.quality["epochs"] == 8


def test_a_run_that_is_stopped_while_it_collapses_keeps_the_checkpoint_before(collapsing):
    class Stopping(Reporter):
        said = ""

        def epoch(self, record):
            if record["rankme"] < 1.2:
                os.kill(os.getpid(), signal.SIGTERM)

        def note(self, text):
            self.said = text

    progress = Stopping()
    with pytest.raises(KeyboardInterrupt):
        train(collapsing, progress=progress)
    position = torch.load(checkpoint.path_in(collapsing.out), weights_only=True)["position"]
    assert position["figures"]["rankme"] >= 1.2
    assert "the encoder was collapsing" in progress.said


def test_weights_that_blow_up_in_an_epoch_s_one_step_stop_the_run(settings):
    given = {"optimiser": "sgd", "learning_rate": 1e30, "clip_norm": None, "warmup": 0.0}
    with pytest.raises(TrainingFailed, match=r"not finite.* Try a lower learning rate"):
        train(settings(epochs=50, batch=128, **given), progress=Reporter())


def test_after_a_low_score_the_next_epoch_is_scored_too(collapsing):
    with pytest.raises(TrainingFailed):
        train(collapsing.model_copy(update={"evaluate_every": 3, "min_feature_std": 2.0}), progress=Reporter())
    assert [line["epoch"] for line in epochs(collapsing) if "rankme" in line] == [2, 3]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(settings):
    good = settings(epochs=6, log_every=1, checkpoint_seconds=1e-6)
    bad = good.model_copy(update={"optimiser": "sgd", "learning_rate": 1e30, "clip_norm": None, "warmup": 0.5})
    with pytest.raises(TrainingFailed, match=r"The loss was (nan|inf) after step \d+\. Try a lower learning rate"):
        train(bad, progress=Reporter())
    state = torch.load(checkpoint.path_in(bad.out), weights_only=True)
    assert all(value.isfinite().all() for value in state["method"].values())
