"""What is looked at twice a second: the event loop and the items that wait."""

import asyncio
import time

from roost_serving import loop
from roost_serving.admission import Admission, Load
from roost_serving.metrics import Metrics


async def test_the_metrics_tell_of_a_loop_that_was_held_up_of_its_tasks_and_of_items_that_wait(monkeypatch):
    monkeypatch.setattr(loop, "PERIOD_SECONDS", 0.01)
    metrics, admission = Metrics(), Admission(Load(1, 100), lambda held: None)
    release = await admission.enter(Load(1, 1))
    waits = asyncio.create_task(admission.enter(Load(1, 1)))
    watch = asyncio.create_task(loop.watch(metrics, admission))
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251 - which is what it is about
    while not metrics.registry.get_sample_value("roost_event_loop_lag_seconds_count"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert metrics.registry.get_sample_value("roost_event_loop_lag_seconds_sum") >= 0.08
    assert metrics.registry.get_sample_value("roost_event_loop_tasks") == len(asyncio.all_tasks()) == 3
    assert metrics.registry.get_sample_value("roost_waiting_items") == 1
    release()
    (await waits)()
    assert admission.waiting == 0
    watch.cancel()
