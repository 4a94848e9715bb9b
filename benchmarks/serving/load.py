"""The load generator: a process that checks a server's answers, warms it up, and calls it.

In a closed loop each caller sends its next image when it has the answer to its last; in an open loop images are due at
fixed times, whatever became of those before, and an answer's time counts from when its image was due.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count

import clients
import numpy as np
import work
from work import Measured, Work

READY_SECONDS = 180.0
RETRY_SECONDS = 0.2
CALL_SECONDS = 60.0
REST_SECONDS = 10.0
"""A server that is asked nothing for so long is at rest."""

Ask = Callable[[int], Awaitable[object]]
"""Sends the image of that number and returns when it is answered."""


@dataclass
class Answers:
    """What came of the calls."""

    seconds: list[float] = field(default_factory=list)
    """Of each call that was answered while it counted."""
    calls: int = 0
    failures: list[str] = field(default_factory=list)

    async def add(self, call: Awaitable[object], *, due: float, until: float, since: float) -> None:
        """Await a call, and count it if it ends in time."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call
        except Exception as error:  # whatever a peer's client raises
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        ended = time.perf_counter()
        self.calls += 1
        if since <= ended <= until:
            self.seconds.append(ended - due)


async def closed_loop(ask: Ask, *, callers: int, warmup_seconds: float, seconds: float) -> Answers:
    """Callers that wait for their answer; those answered within `seconds` after warming up count."""
    answers, numbers = Answers(), count()
    since = time.perf_counter() + warmup_seconds
    until = since + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < until:
            failures = len(answers.failures)
            await answers.add(ask(next(numbers)), due=now, since=since, until=until)
            if len(answers.failures) > failures:
                await asyncio.sleep(RETRY_SECONDS)  # or a server that refuses would be asked without a pause

    await asyncio.gather(*(caller() for _ in range(callers)))
    return answers


async def open_loop(ask: Ask, *, rate: float, warmup_seconds: float, seconds: float) -> Answers:
    """Images due at `rate` a second; those due within `seconds` after warming up count, whenever they are answered."""
    answers = Answers()
    begun = time.perf_counter()
    since = begun + warmup_seconds
    tasks = []
    for number in range(int(rate * (warmup_seconds + seconds))):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        counts = since if due >= since else float("inf")
        tasks.append(asyncio.create_task(answers.add(ask(number), due=due, since=counts, until=float("inf"))))
    await asyncio.gather(*tasks)
    return answers


def agree(vectors: np.ndarray, expected: np.ndarray, *, least_cosine: float) -> bool:
    """Whether embeddings (n, dim) are those that are expected, and differ from each other as those do.

    The encoder is untrained, so that all its embeddings are nearly alike: what they have in common is taken away first.
    """
    if vectors.shape != expected.shape:
        return False
    common = expected.mean(axis=0)
    a, b = vectors - common, expected - common
    cosines = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return bool(cosines.min() > least_cosine)


async def main(given: Work) -> None:
    """Do the work."""
    client = clients.client(
        given.protocol, address=given.address, model=given.model, size=given.size, resize=given.resize
    )
    requests = [client.request(image) for image in given.read()]
    async with client.connect() as call:
        await _wait(call, requests[0])
        vectors = np.stack([client.vector(await call(request)) for request in requests]).reshape(len(requests), -1)
        if not agree(vectors, np.load(given.expected), least_cosine=given.least_cosine):
            raise SystemExit("the answers are not the embeddings that the plain loop computed")
        await asyncio.sleep(REST_SECONDS)
        work.say()

        def ask(number: int) -> Awaitable[object]:
            return call(requests[number % len(requests)])

        for callers in given.callers:
            work.say(await _measure(ask, given, callers=callers))


async def _measure(ask: Ask, given: Work, *, callers: int) -> Measured:
    before = time.process_time()
    begun = time.perf_counter()
    if given.rate is None:
        answers = await closed_loop(ask, callers=callers, warmup_seconds=given.warmup_seconds, seconds=given.seconds)
        took = given.seconds
    else:
        answers = await open_loop(ask, rate=given.rate, warmup_seconds=given.warmup_seconds, seconds=given.seconds)
        took = time.perf_counter() - begun - given.warmup_seconds
    p50, p99 = work.percentiles(answers.seconds)
    return Measured(
        callers=callers,
        images_per_second=len(answers.seconds) / took,
        p50_ms=p50,
        p99_ms=p99,
        failures=len(answers.failures),
        calls=answers.calls,
        cpu_seconds=time.process_time() - before,
        failure=answers.failures[0] if answers.failures else "",
    )


async def _wait(call: clients.Call, request: bytes) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call(request)
            return
        except Exception as error:  # whatever a peer says while it starts
            if time.monotonic() > until:
                raise SystemExit(f"no answer within {READY_SECONDS:g} s: {error}")
        await asyncio.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(work.given()))
