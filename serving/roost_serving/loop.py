"""How late the event loop comes to what is due, and what it holds."""

import asyncio
from typing import Protocol

from roost_serving.admission import Admission

PERIOD_SECONDS = 0.5


class Observer(Protocol):
    """Is told; `roost_serving.metrics.Metrics` is one."""

    def looped(self, *, lag: float, tasks: int, waiting: int) -> None:
        """The loop came so many seconds late, and holds so many tasks and items of streams that wait."""
        ...


async def watch(observer: Observer, admission: Admission) -> None:
    """Look every half a second until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD_SECONDS
        await asyncio.sleep(PERIOD_SECONDS)
        observer.looped(lag=loop.time() - due, tasks=len(asyncio.all_tasks()), waiting=admission.waiting)
