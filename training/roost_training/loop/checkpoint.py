"""What a killed run goes on from: plain tensors and numbers, replaced as a whole."""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning_fabric import Fabric

from roost import artifact
from roost.errors import BadArtifact, BadSettings
from roost_training.loop.learner import Learner
from roost_training.loop.run import CHECKPOINT, writing
from roost_training.loop.settings import TrainSettings
from roost_training.loop.source import Source

FILE = "last.ckpt"
SCHEMA = 3


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
    losses: list[float] = field(default_factory=list)
    """Sum over this epoch's steps, of each process."""
    metrics_bytes: int = 0
    """Length of metrics.jsonl."""
    low: bool = False
    """Whether the last scores were under a floor."""
    figures: dict[str, float] = field(default_factory=dict)
    """The baselines' scores and the encoder's last."""


def path_in(folder: Path) -> Path:
    """A run folder's checkpoint."""
    return folder / CHECKPOINT / FILE


def save(fabric: Fabric, settings: TrainSettings, images: Source, learner: Learner, position: Position) -> None:
    """Write the checkpoint beside the last one and rename it into place; the first process does, for all.

    Raises:
        DiskFull: There is no space for it; the last one is kept.
    """
    state = {
        "schema": SCHEMA,
        "settings": json.dumps(settings.effective()),
        "fingerprint": images.fingerprint,
        "method_fingerprint": learner.method.fingerprint,
        "method": learner.method.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),
        "position": asdict(position),
    }
    stream = io.BytesIO()
    torch.save(state, stream)
    with writing(settings.out):
        artifact.replace_bytes(path_in(settings.out), stream.getvalue())


def load(fabric: Fabric, settings: TrainSettings, images: Source, learner: Learner) -> Position:
    """Read the checkpoint into a learner.

    Returns:
        Where the run stands.

    Raises:
        BadArtifact: The checkpoint cannot be read, or is of another version of Roost or of the method.
        BadSettings: It belongs to a run with other settings or other images.
    """
    path = path_in(settings.out)
    try:
        state = torch.load(path, map_location=fabric.device, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise BadArtifact(f"{path} cannot be read. Start over with --overwrite.", path=path) from error
    _check(state, settings, images, learner, path=path)
    try:
        learner.method.load_state_dict(state["method"])
        learner.optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise BadArtifact(
            f"{path} was written by another version of the method {settings.method}. Start over with --overwrite.",
            path=path,
        ) from error
    fabric.strategy.precision.load_state_dict(state["precision"])
    return Position(**state["position"])


def _check(state: dict[str, Any], settings: TrainSettings, images: Source, learner: Learner, *, path: Path) -> None:
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
    if state["method_fingerprint"] != learner.method.fingerprint:
        raise BadSettings(
            f"{path} was trained when a file that the method {settings.method} reads said something else. "
            "Bring that back, or give another --out.",
            path=path,
        )
    if state["fingerprint"] != images.fingerprint:
        raise BadSettings(
            f"{path} was trained on other images: files were added, removed, renamed or changed. "
            "Bring them back, or give another --out.",
            path=path,
        )
