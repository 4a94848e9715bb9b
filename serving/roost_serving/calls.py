"""How many calls may be open, and how many a second each caller may make: beyond, a call is refused at once."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from grpc_health.v1 import health

from roost.errors import Overloaded, RateLimited
from roost_serving.admission import CALLER_SHARE, RETRY_AFTER_SECONDS
from roost_serving.callers import ANYONE, Caller
from roost_serving.rates import Rates

MOST_CALLS = 1024
"""Calls and streams open at once, so that what waits for admission is bounded too."""
MOST_WATCHES = 512
"""Watches of the health open at once. Strangers may be among them, so that one address has its share, too."""
HEALTH = f"/{health.SERVICE_NAME}/"
WATCH = f"{HEALTH}Watch"


class Calls:
    """Lets calls begin. Health is not counted among the others: they cannot shut it out, nor it them."""

    def __init__(self) -> None:
        self._calls = _Open("calls", MOST_CALLS)
        self._watches = _Open("watches of its health", MOST_WATCHES)
        self._rates = Rates()

    def begin(self, method: str, caller: Caller, peer: str) -> Callable[[], None]:
        """Count a call as open.

        Args:
            method: `/service/method`.
            caller: Whose call it is.
            peer: Where it comes from, as gRPC says it: an address and a port.

        Returns:
            What says that it is open no more, to be called once.

        Raises:
            Overloaded: More are open than may be.
            RateLimited: The caller has spent its rate.
        """
        if method == WATCH:
            return self._watches.begin(peer.rpartition(":")[0], share=CALLER_SHARE)
        if method.startswith(HEALTH):
            return lambda: None
        end = self._calls.begin(caller.name, share=1.0 if caller is ANYONE else CALLER_SHARE)
        try:
            self._spend(caller)
        except RateLimited:
            end()
            raise
        return end

    async def message(self, caller: Caller) -> None:
        """Count one more message of a stream, whose first came with the call: it is slowed, not refused."""
        bucket = self._rates.of(caller.name, caller.calls_per_second)
        if bucket is not None:
            bucket.level -= 1  # at once, so that streams of one key wait one after the other
            if seconds := bucket.seconds():
                await asyncio.sleep(seconds)

    def _spend(self, caller: Caller) -> None:
        bucket = self._rates.of(caller.name, caller.calls_per_second)
        if bucket is None:
            return
        if seconds := bucket.seconds():
            raise RateLimited(
                f"The key {caller.name!r} may make {bucket.rate:g} calls a second. Try again in {seconds:.3g} s.",
                rate=bucket.rate,
                retry_after_seconds=f"{seconds:.3f}",
            )
        bucket.level -= 1


class _Open:
    """Counts what is open, in all and for each."""

    def __init__(self, what: str, limit: int) -> None:
        self._what, self._limit = what, limit
        self._all = 0
        self._own: Counter[str] = Counter()

    def begin(self, who: str, *, share: float) -> Callable[[], None]:
        most = max(1, int(self._limit * share))
        bounds = ((self._all, self._limit, ""), (self._own.get(who, 0), most, " that it may have for this caller"))
        for found, bound, whose in bounds:
            if found >= bound:
                raise Overloaded(
                    f"The gateway has {found} of {bound} {self._what} open{whose}. "
                    f"Try again in {RETRY_AFTER_SECONDS} s.",
                    open=found,
                    limit=bound,
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )
        self._all += 1
        self._own[who] += 1
        return partial(self._end, who)

    def _end(self, who: str) -> None:
        self._all -= 1
        self._own[who] -= 1
        if not self._own[who]:
            del self._own[who]
