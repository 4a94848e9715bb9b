import asyncio
import gc
import subprocess
import sys
import threading

import grpc
import pytest

from roost import errors
from roost.client import AsyncClient, Client, Item
from roost.v1 import gateway_pb2 as pb


def stored(request):
    return pb.IngestItemsResponse(id=request.item.id, outcome=pb.INGEST_OUTCOME_STORED)


def store_all(requests, context):
    yield from map(stored, requests)


def items(count):
    return [Item(b"x", id=str(n)) for n in range(count)]


def test_every_item_gets_its_outcome_in_order(peer, call):
    peer.answers["IngestItems"] = store_all
    outcomes = call(peer.target, "ingest", items(500), model="digits")
    assert [outcome.id for outcome in outcomes] == [str(n) for n in range(500)]
    assert {outcome.kind for outcome in outcomes} == {"stored"}


def test_an_item_that_cannot_be_read_fails_alone_and_in_its_place(peer, call, tmp_path):
    peer.answers["IngestItems"] = store_all
    mixed = [Item(b"x", id="a"), Item(tmp_path / "absent.png", id="b"), Item(b"x", id="c", payload={"s": {1}})]
    outcomes = call(peer.target, "ingest", [*mixed, Item(b"x", id="d")])
    assert [(outcome.id, outcome.kind) for outcome in outcomes] == [
        ("a", "stored"),
        ("b", "failed"),
        ("c", "failed"),
        ("d", "stored"),
    ]
    assert isinstance(outcomes[1].error, errors.BadImage)
    assert isinstance(outcomes[2].error, errors.BadRequest)


def test_payload_and_skip_existing_reach_the_gateway(peer, call):
    seen = []

    def answer(requests, context):
        for request in requests:
            seen.append((dict(request.item.payload), request.skip_existing, request.model))
            yield pb.IngestItemsResponse(id="a", outcome=pb.INGEST_OUTCOME_EXISTED)

    peer.answers["IngestItems"] = answer
    (outcome,) = call(peer.target, "ingest", [Item(b"x", payload={"n": 1})], model="m", skip_existing=True)
    assert outcome.kind == "existed"
    assert seen == [({"n": 1}, True, "m")]


@pytest.mark.parametrize("ending", ["given up", "ended by the gateway", "answered"])
def test_a_stream_that_an_error_keeps_is_let_go_of_when_the_client_is_closed(peer, ending):
    """Else Python lets go of it as the process exits, and may wait for ever for a lock of gRPC's stopped threads."""

    def answer(requests, context):
        yield stored(next(requests))
        if ending == "ended by the gateway":
            context.abort(grpc.StatusCode.INTERNAL, "no more")
        yield from map(stored, requests)

    def index(client):
        for outcome in client.ingest(items(500 if ending == "given up" else 1 + (ending != "answered"))):
            if ending == "given up":
                raise ValueError(outcome.id)
        raise ValueError("all is answered")

    peer.answers["IngestItems"] = answer
    before = calls_of_grpc()
    with pytest.raises((ValueError, errors.RoostError)) as kept, Client(peer.target) as client:
        index(client)
    assert kept.value.__traceback__ is not None
    assert calls_of_grpc() == before


def test_a_client_that_nobody_closes_lets_go_of_its_streams_before_its_process_ends(peer):
    peer.answers["IngestItems"] = store_all
    left = """
import atexit, gc, sys

@atexit.register  # registered first, it runs last
def tell():
    print([type(thing).__name__ for thing in gc.get_objects()].count("_MultiThreadedRendezvous"))

from roost.client import Client, Item

client = Client(sys.argv[1])
outcomes = client.ingest(Item(b"x", id=str(n)) for n in range(500))
next(outcomes)
"""
    run = subprocess.run([sys.executable, "-c", left, peer.target], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("0\n", 0), run.stderr


def calls_of_grpc() -> int:
    """How many calls Python has not let go of."""
    return sum(type(thing).__name__ == "_MultiThreadedRendezvous" for thing in gc.get_objects())


def test_no_more_items_are_taken_than_may_be_in_flight(peer):
    peer.answers["IngestItems"] = store_all
    taken = []

    def counted():
        for item in items(100):
            taken.append(item)
            yield item

    with Client(peer.target) as client:
        outcomes = client.ingest(counted(), in_flight=5)
        ahead = [len(taken) - n for n, _ in enumerate(outcomes, start=1)]
    assert max(ahead) == 4  # five on their way when the first answer comes, which is one of them
    assert len(ahead) == 100


def test_items_may_come_from_an_async_iterable(peer):
    async def produced():
        for item in items(3):
            yield item

    async def run():
        async with AsyncClient(peer.target) as client:
            return [outcome.id async for outcome in client.ingest(produced())]

    peer.answers["IngestItems"] = store_all
    assert asyncio.run(run()) == ["0", "1", "2"]


def test_an_error_of_the_callers_own_iterator_reaches_the_caller(peer, call):
    def broken():
        yield from items(3)
        raise KeyError("mine")

    peer.answers["IngestItems"] = store_all
    with pytest.raises(KeyError, match="mine"):
        call(peer.target, "ingest", broken())


def test_a_stream_that_the_gateway_breaks_raises_after_what_was_answered(peer):
    def answer(requests, context):
        yield stored(next(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    peer.answers["IngestItems"] = answer
    with Client(peer.target) as client:
        outcomes = client.ingest(items(10))
        assert next(outcomes).id == "0"
        with pytest.raises(errors.GatewayUnavailable):
            next(outcomes)


def test_a_stream_that_ends_early_is_no_success(peer, call):
    def answer(requests, context):
        yield stored(next(requests))

    peer.answers["IngestItems"] = answer
    with pytest.raises(errors.GatewayUnavailable, match="early"):
        call(peer.target, "ingest", items(2))


def test_a_gateway_that_falls_silent_in_a_stream_is_a_deadline_exceeded(peer, call):
    gone = threading.Event()

    def answer(requests, context):
        context.add_callback(gone.set)
        yield stored(next(requests))
        gone.wait(10)

    peer.answers["IngestItems"] = answer
    with pytest.raises(errors.DeadlineExceeded):
        call(peer.target, "ingest", items(2), options={"timeout": 0.3})
    assert gone.wait(10)  # the client let go of the stream


def test_a_caller_that_stops_listening_ends_the_stream(peer):
    gone = threading.Event()

    def answer(requests, context):
        context.add_callback(gone.set)
        yield from map(stored, requests)

    peer.answers["IngestItems"] = answer
    with Client(peer.target) as client:
        outcomes = client.ingest(items(100))
        assert next(outcomes).id == "0"
        outcomes.close()
        assert gone.wait(10)
