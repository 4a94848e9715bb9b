"""The gateway is killed again and again while it stores: all that it acknowledged is there, and nothing unsent."""

import random
import signal

import numpy as np
import pytest

from roost.client import Client, Item
from roost.errors import GatewayUnavailable

DIM = 256


def vectors(numbers: list[int]) -> np.ndarray:
    """Item n's vector, which depends on n alone; (n, dim), float32, unit length."""
    drawn = np.stack([np.random.default_rng(number).normal(size=DIM) for number in numbers])
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.timeout(1800)
def test_kill_9(serve, repository, tmp_path, soak, figures, seed):  # noqa: PLR0917
    sent, kills = (100_000, 50) if soak else (3_000, 3)
    chance = random.Random(seed)
    deaths = sorted(chance.sample(range(sent // 20, sent - sent // 20), kills))  # of as many processes
    arguments = ("--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index")
    acknowledged: set[int] = set()
    begun = died = 0
    """Items up to `begun` were sent."""
    while len(acknowledged) < sent:
        killed = False
        with serve(*arguments) as gateway, Client(gateway.address) as client:
            left = [number for number in range(sent) if number not in acknowledged]

            def items(left=left):
                nonlocal begun
                for start in range(0, len(left), 500):
                    group = left[start : start + 500]
                    for number, vector in zip(group, vectors(group), strict=True):
                        begun = max(begun, number + 1)
                        yield Item(id=str(number), vector=vector, payload={"n": number})

            try:
                for outcome in client.ingest(items(), model="digits"):
                    assert outcome.error is None
                    acknowledged.add(int(outcome.id))
                    if deaths and not killed and len(acknowledged) >= deaths[0]:
                        deaths.pop(0)
                        killed = True
                        gateway.process.kill()
            except GatewayUnavailable:
                assert killed
            if killed:
                died += gateway.process.wait(30) == -signal.SIGKILL
    with serve(*arguments) as gateway, Client(gateway.address) as client:
        stored = {int(item.id): item for item in client.items(model="digits", with_vectors=True, page_size=500)}
        count = sum(model.items for model in client.models() if model.name == "digits")
    assert acknowledged <= set(stored) <= set(range(begun))
    assert count == len(stored)
    expected = vectors(sorted(stored))
    found = np.stack([stored[number].vector for number in sorted(stored)])
    different = int((found != expected).any(axis=1).sum())
    figures |= {"sent": sent, "kills": died, "lost": len(acknowledged - set(stored)), "different": different}
    assert died == kills
    assert different == 0
    assert all(item.payload == {"n": number} for number, item in stored.items())
