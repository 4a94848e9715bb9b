"""What a killed run goes on from: plain tensors and numbers, replaced as a whole."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning_fabric import Fabric

from roost.errors import BadArtifact, BadSettings
from roost_training.loop.learner import Learner
from roost_training.loop.run import CHECKPOINT
from roost_training.loop.settings import TrainSettings
from roost_training.loop.source import Source

FILE = "last.ckpt"
SCHEMA = 1


@dataclass
class Position:
    """Where a run stands. Random numbers are drawn from (seed, step), so that no generator's state is kept."""

    epoch: int = 0
    epoch_step: int = 0
    """Steps made in this epoch."""
    step: int = 0
    """Steps made in all."""
    images: int = 0
    """Images seen in all, over all processes."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    loss: float = 0.0
    """Sum over this epoch's steps."""
    metrics_bytes: int = 0
    """Length of metrics.jsonl."""
    figures: dict[str, float] = field(default_factory=dict)
    """The baselines' scores and the encoder's last."""


def path_in(folder: Path) -> Path:
    """A run folder's checkpoint."""
    return folder / CHECKPOINT / FILE


def save(fabric: Fabric, settings: TrainSettings, images: Source, learner: Learner, position: Position) -> None:
    """Write the checkpoint beside the last one and rename it into place; call it in every process."""
    path = path_in(settings.out)
    beside = path.with_suffix(".partial")
    state = {
        "schema": SCHEMA,
        "settings": json.dumps(settings.effective()),
        "fingerprint": images.fingerprint,
        "method": learner.method,
        "optimiser": learner.optimiser,
        "precision": fabric.strategy.precision.state_dict(),
        "position": asdict(position),
    }
    fabric.save(beside, state)  # its own renaming may cross file systems, where it is a copy
    if fabric.is_global_zero:
        beside.replace(path)


def load(fabric: Fabric, settings: TrainSettings, images: Source, learner: Learner) -> Position:
    """Read the checkpoint into a learner.

    Returns:
        Where the run stands.

    Raises:
        BadArtifact: The checkpoint cannot be read.
        BadSettings: It belongs to a run with other settings or other images.
    """
    path = path_in(settings.out)
    try:
        state = fabric.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise BadArtifact(f"{path} cannot be read. Start over with --overwrite.", path=path) from error
    _check(state, settings, fingerprint=images.fingerprint, path=path)
    learner.method.load_state_dict(state["method"])
    learner.optimiser.load_state_dict(state["optimiser"])
    fabric.strategy.precision.load_state_dict(state["precision"])
    return Position(**state["position"])


def _check(state: dict[str, Any], settings: TrainSettings, *, fingerprint: str, path: Path) -> None:
    if state.get("schema") != SCHEMA:
        raise BadArtifact(
            f"{path} has schema {state.get('schema')}, not {SCHEMA}. Start over with --overwrite.", path=path
        )
    theirs, ours = json.loads(state["settings"]), json.loads(json.dumps(settings.effective()))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise BadSettings(
                f"{path} was trained with {key} = {theirs.get(key)!r}, not {ours.get(key)!r}. "
                "Resume with the same settings, or give another --out.",
                key=key,
            )
    if state["fingerprint"] != fingerprint:
        raise BadSettings(
            f"{path} was trained on other images: files were added, removed, renamed or changed. "
            "Bring them back, or give another --out.",
            path=path,
        )
