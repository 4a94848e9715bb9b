"""The engine's process: what it keeps when it or its gateway is killed, one process a folder, a disk that fills up."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roost.errors import BadSettings, BadVector, RoostError, StoreUnavailable
from roost_serving import stores
from roost_serving.edge.protocol import qdrant
from roost_serving.stores import Point
from roost_serving.stores.edge import Store

DIM = 16


def vector_of(number: int) -> np.ndarray:
    """The vector that every process of these tests gives to an item."""
    row = np.random.default_rng(number).normal(size=DIM)
    return (row / np.linalg.norm(row)).astype(np.float32)


def batch_of(first: int, size: int = 20) -> list[Point]:
    return [Point(f"item-{n}", {"n": n}, None, vector_of(n)) for n in range(first, first + size)]


async def stored(store: stores.Store, collection: str) -> dict[int, np.ndarray]:
    found, start = {}, None
    while True:
        page = await store.scroll(collection, limit=1000, start=start, with_vectors=True)
        found |= {point.payload["n"]: point.vector for point in page.points}
        start = page.next_key
        if start is None:
            return found


async def until_it_answers(store: stores.Store) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            return await store.ping(timeout=5)
        except StoreUnavailable:
            assert time.monotonic() < give_up, "the engine's process was not started again"
            await asyncio.sleep(0.02)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if happened():
                return
            await asyncio.sleep(0.02)


async def until_it_fails(store: stores.Store) -> None:
    while True:
        await store.ping(timeout=5)


def check(found: dict[int, np.ndarray], *, acknowledged: set[int], sent: set[int]) -> None:
    assert acknowledged <= found.keys() <= sent
    for number, vector in found.items():
        np.testing.assert_allclose(vector, vector_of(number), atol=1e-6)


@pytest.fixture
async def open_store(tmp_path):
    """Open stores over folders; those still open are closed in the end."""
    opened = []

    async def open_store(folder: Path = tmp_path / "index") -> Store:
        store = Store(f"edge://{folder}")
        await store.open()
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        await store.close()


async def test_everything_is_there_after_closing_and_opening(open_store):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM, alias="digits")
    await store.upsert("digits@1", batch_of(0))
    await store.delete("digits@1", "item-3")
    await store.close()
    again = await open_store()
    check(await stored(again, "digits"), acknowledged=set(range(20)) - {3}, sent=set(range(20)) - {3})


async def test_kill_9_of_the_engine_loses_nothing_that_was_acknowledged(open_store):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM)
    chance = random.Random(20)
    acknowledged, sent = set(), set()
    for _ in range(6):
        kill_after = chance.randrange(1, 40)
        for count in range(1_000):
            first = len(sent)
            sent |= set(range(first, first + 20))
            writing = asyncio.create_task(store.upsert("digits@1", batch_of(first)))
            if count == kill_after:
                await asyncio.sleep(chance.random() * 0.004)  # anywhere within the write, or just behind it
                os.kill(store.pid, signal.SIGKILL)
            try:
                await writing
            except StoreUnavailable:
                break
            acknowledged |= set(range(first, first + 20))
        await until_it_answers(store)
        check(await stored(store, "digits@1"), acknowledged=acknowledged, sent=sent)
    assert len(acknowledged) < len(sent)


WRITER = """
import asyncio, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_edge_process import DIM, batch_of
from roost_serving.stores.edge import Store

async def main():
    store = Store(sys.argv[1])
    await store.open()
    await store.ensure("digits@1", dim=DIM)
    for first in range(0, 1_000_000, 20):
        await store.upsert("digits@1", batch_of(first))
        print(first, flush=True)

asyncio.run(main())
"""


async def test_kill_9_of_the_gateway_loses_nothing_that_was_acknowledged(open_store, tmp_path):
    folder, here = tmp_path / "index", str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, f"edge://{folder}", here]
    writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    lines = [int(await writer.stdout.readline()) for _ in range(30)]
    writer.kill()
    lines += [int(line) for line in (await writer.stdout.read()).split()]
    await writer.wait()
    # That it opens shows that the engine's process has ended too: it would hold the folder.
    store = await open_store(folder)
    acknowledged = {n for first in lines for n in range(first, first + 20)}
    check(await stored(store, "digits@1"), acknowledged=acknowledged, sent=set(range(max(lines) + 40)))


async def test_an_engine_that_hangs_is_not_waited_for_at_the_end_and_loses_nothing(open_store):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM)
    await store.upsert("digits@1", batch_of(0))
    os.kill(store.pid, signal.SIGSTOP)
    async with asyncio.timeout(20):
        await store.close()
    store = await open_store()
    check(await stored(store, "digits@1"), acknowledged=set(range(20)), sent=set(range(20)))


async def test_a_killed_engine_is_started_again_and_calls_in_between_say_so(open_store):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM)
    await store.upsert("digits@1", batch_of(0))
    first = store.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        await until_it_fails(store)
    await until_it_answers(store)
    assert store.pid != first
    assert await store.count("digits@1") == 20


async def test_an_engine_that_cannot_be_started_for_a_while_is_started_in_the_end(
    open_store, tmp_path, monkeypatch, caplog
):
    babbling = tmp_path / "babbling"
    babbling.write_text("#!/bin/sh\necho no address\n")
    babbling.chmod(0o755)
    store = await open_store()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "missing"))
        os.kill(store.pid, signal.SIGKILL)
        await until(lambda: "No such file" in caplog.text)
        patch.setattr(sys, "executable", str(babbling))
        await until(lambda: "other words than its address" in caplog.text)
    await until_it_answers(store)


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path, monkeypatch):
    silent, pid = tmp_path / "silent", tmp_path / "pid"
    silent.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")
    silent.chmod(0o755)
    store = Store(f"edge://{tmp_path / 'index'}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(silent))
        opening = asyncio.create_task(store.open())
        await until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    await store.close()
    await store.open()
    await store.ping()
    await store.close()


async def test_a_caller_never_reads_where_the_index_lies(open_store, tmp_path, caplog):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM)
    key = qdrant.Condition(field=qdrant.FieldCondition(key='payload."a', match=qdrant.Match(keyword="x")))
    request = qdrant.CountPoints(collection_name="digits@1", filter=qdrant.Filter(must=[key]), exact=True)
    with pytest.raises(RoostError, match="The index failed") as broken:
        await store._call(store._connected.points.Count, request, timeout=30)
    with pytest.raises(BadVector) as longer:
        await store.search("digits@1", np.ones(DIM + 1), limit=1)
    await store.close()
    with pytest.raises(StoreUnavailable) as closed:
        await store.count("digits@1")
    messages = [str(error.value) for error in (broken, longer, closed)]
    assert not [message for message in messages if str(tmp_path) in message or "JSON" in message]
    assert "Vector dimension error" in caplog.text


async def test_a_folder_has_one_process(open_store, tmp_path):
    await open_store(tmp_path / "index")
    with pytest.raises(BadSettings, match="Another process"):
        await open_store(tmp_path / "index")


async def test_a_folder_whose_path_is_too_long_for_a_socket_works(open_store, tmp_path):
    store = await open_store(tmp_path / ("x" * 120) / "index")
    await store.ping()


async def test_a_folder_that_cannot_be_made_is_refused(open_store, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadSettings, match="cannot hold an index"):
        await open_store(tmp_path / "file" / "index")


async def test_a_store_that_was_never_opened_closes(tmp_path):
    await Store(f"edge://{tmp_path / 'index'}").close()


@pytest.mark.parametrize("url", ["edge://", "edge"])
def test_a_url_without_a_folder_is_refused(url):
    with pytest.raises(BadSettings, match="names no folder"):
        stores.connect(url)


async def test_a_closed_store_says_so(open_store):
    store = await open_store()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.count("digits@1")


async def test_what_was_half_made_when_a_process_died_is_gone(open_store, tmp_path):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM)
    await store.close()
    collections = tmp_path / "index" / "collections"
    (collections / ".letters@1.new" / "1").mkdir(parents=True)
    (collections / "digits@1" / "2").mkdir()
    await open_store()
    assert [folder.name for folder in collections.iterdir()] == ["digits@1"]
    assert not (collections / "digits@1" / "2").exists()


async def test_a_socket_that_a_killed_process_left_is_gone(open_store, tmp_path):
    left_over = tmp_path / "index" / "socket.7"
    left_over.parent.mkdir()
    left_over.touch()
    await open_store()
    assert not left_over.exists()


async def test_what_others_put_beside_a_collection_is_left_alone(open_store, tmp_path):
    store = await open_store()
    await store.ensure("digits@1", dim=DIM)
    await store.upsert("digits@1", batch_of(0))
    await store.close()
    collections = tmp_path / "index" / "collections"
    for folder in ("digits@1 (copy)", ".backup", "photos", "digits@1/1.bak"):
        (collections / folder).mkdir()
        (collections / folder / "precious").write_text("kept")
    (collections / "notes.txt").write_text("kept")
    again = await open_store()
    assert await again.count("digits@1") == 20
    kept = {
        str(path.relative_to(collections)) for path in collections.rglob("*") if path.name in ("precious", "notes.txt")
    }
    assert kept == {f"{x}/precious" for x in ("digits@1 (copy)", ".backup", "photos", "digits@1/1.bak")} | {"notes.txt"}


FILLER = """
import asyncio, json, shutil, sys
from pathlib import Path
import numpy as np
from roost.errors import DiskFull
from roost_serving.stores import Point
from roost_serving.stores.edge import Store

async def main():
    disk = Path(sys.argv[1])
    ballast = disk / "ballast"
    store = Store(f"edge://{disk / 'index'}")
    await store.open()
    await store.ensure("digits@1", dim=256)
    ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - (72 << 20)))  # leaves 8 MiB above the reserve
    rows = np.random.default_rng(0).normal(size=(100, 256)).astype(np.float32)
    written, refused = 0, ""
    for first in range(0, 100_000, 100):
        try:
            points = [Point(f"item-{first + i}", {"n": first + i}, None, row) for i, row in enumerate(rows)]
            await store.upsert("digits@1", points)
        except DiskFull as error:
            refused = error.message
            break
        written += 100
    full = {"count": await store.count("digits@1"), "hits": len(await store.search("digits@1", rows[0], limit=10))}
    pid = store.pid
    await store.close()
    await store.open()
    reopened = await store.count("digits@1")
    ballast.unlink()
    await store.upsert("digits@1", points)
    freed = await store.count("digits@1")
    await store.close()
    print(json.dumps({"written": written, "refused": refused, **full, "reopened": reopened, "freed": freed}))

asyncio.run(main())
"""


def test_a_full_disk_refuses_writes_and_serves_searches_until_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=160m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare may not make a mount namespace here, so there is no small disk to fill")
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(disk), sys.executable, FILLER]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert "no space left" in result["refused"]
    assert result["written"] >= 1000
    assert result["written"] == result["count"] == result["reopened"]
    assert result["freed"] == result["written"] + 100
    assert result["hits"] == 10


async def test_an_error_from_a_process_that_cannot_start_is_roosts_own(tmp_path):
    folder = tmp_path / "index"
    store = Store(f"edge://{folder}")
    await store.open()
    await store.ensure("digits@1", dim=DIM)
    await store.close()
    (folder / "collections" / "digits@1" / "collection.json").write_text("not json")
    with pytest.raises(RoostError, match="Its words are in the log"):
        await store.open()
