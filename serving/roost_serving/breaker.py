"""Calls to a part that does not answer fail at once, those that wait for it too, until it is seen to answer again."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, TypeVar, cast

from roost.errors import BackendUnavailable, RoostError, StoreUnavailable
from roost_serving.backends import ModelUnavailable

T = TypeVar("T")
R = TypeVar("R")

FAILURES = 2
"""In a row, by calls or by looks, that open a breaker: one may be chance."""
RETRY_SECONDS = 2.0
"""What refused callers are told; a part is looked at as often."""
STORE_CALLS = ("upsert", "delete", "get", "search", "scroll", "count", "count_clusters")
BACKEND_CALLS = ("embed",)


class Breaker:
    """Counts failures of one part.

    Args:
        part: What it is called.
        error: What calls are refused with.
        observe: Told whether it is open, now and whenever that changes.
    """

    def __init__(self, part: str, error: type[RoostError], *, observe: Callable[[bool], None]) -> None:
        self.open = False
        self._part, self._error, self._observe = part, error, observe
        self._failures = 0
        self._last: RoostError | None = None
        self._calls: dict[asyncio.Timeout, float] = {}
        """Calls under way, oldest first, and when each began."""
        observe(False)

    async def guard(self, call: Callable[..., Awaitable[R]], *args: Any, **named: Any) -> R:
        """Call the part: refused while the breaker is open, ended when it opens, and counted.

        Raises:
            RoostError: The breaker's, while it is open.
        """
        if self.open:
            raise self._refusal()
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._calls[limit] = asyncio.get_running_loop().time()
                try:
                    result = await call(*args, **named)
                finally:
                    self._calls.pop(limit, None)
        except ModelUnavailable:  # calls for other models must go on
            self._failures = 0
            raise
        except (BackendUnavailable, StoreUnavailable) as error:
            if error is not self._last:  # one failure may be told to several calls
                self._last = error
                self.saw(up=False)
            raise
        except TimeoutError:
            if limit.expired():
                raise self._refusal()
            raise
        self._failures = 0
        return result

    def waited(self) -> float:
        """Seconds that the oldest call under way has been waiting for an answer; 0 where there is none."""
        begun = next(iter(self._calls.values()), None)
        return 0.0 if begun is None else asyncio.get_running_loop().time() - begun

    def saw(self, *, up: bool) -> None:
        """The part was seen to answer, or not to."""
        self._failures = 0 if up else self._failures + 1
        if up:
            self._last = None  # it would keep alive what it was raised over
        now_open = self._failures >= FAILURES or (self.open and not up)
        if now_open is not self.open:
            self.open = now_open
            self._observe(now_open)
            if now_open:
                waiting, self._calls = self._calls, {}
                for call in waiting:  # they would wait for their deadlines, in vain
                    call.reschedule(asyncio.get_running_loop().time())

    def _refusal(self) -> RoostError:
        return self._error(
            f"The {self._part} does not answer, and is asked every {RETRY_SECONDS:g} s whether it is back. "
            "Try again then.",
            retry_after_seconds=RETRY_SECONDS,
        )


def guarded(part: T, breaker: Breaker, calls: Collection[str]) -> T:
    """The part, some of whose coroutine methods go through a breaker."""
    return cast(T, _Guarded(part, breaker, calls))


class _Guarded:
    def __init__(self, part: object, breaker: Breaker, calls: Collection[str]) -> None:
        self._part, self._breaker, self._calls = part, breaker, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name not in self._calls:
            return found

        return partial(self._breaker.guard, found)
