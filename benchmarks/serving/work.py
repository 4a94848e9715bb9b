"""What a load generator is told and what it answers, as JSON: one line for each number of callers."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Work:
    """The work of one start of a contender."""

    protocol: str
    address: str
    model: str
    """Name that a server knows it by."""
    file: str
    """model.onnx, for the loop without a server."""
    size: int
    resize: int
    images: list[str]
    """JPEG files, sent in turn."""
    expected: str
    """File of the embeddings that the answers must be; the loop without a server writes it."""
    least_cosine: float
    """Of an answer that counts as right."""
    callers: list[int]
    seconds: float
    warmup_seconds: float
    rate: float | None
    """Images/s of an open loop; None for callers that wait for their answer before they send again."""

    def read(self) -> list[bytes]:
        """The images' bytes."""
        return [Path(path).read_bytes() for path in self.images]


@dataclass(frozen=True)
class Measured:
    """What one number of callers had."""

    callers: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    failures: int
    calls: int
    """All that were answered, those of warming up among them."""
    cpu_seconds: float
    """Of the load generator, warming up included."""
    failure: str = ""
    """What the first one said."""


def given() -> Work:
    """The work that this process was started for."""
    return Work(**json.loads(sys.argv[1]))


def say(measured: Measured | None = None) -> None:
    """Tell the parent a figure, or that there is someone to measure."""
    print(json.dumps(asdict(measured) if measured else {"ready": True}), flush=True)


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th percentile in milliseconds: each a time that was measured; NaN where there is none."""
    if not seconds:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(np.asarray(seconds) * 1000, [50, 99], method="inverted_cdf")
    return float(p50), float(p99)
