"""Indexing on a gateway that is full, goes away, or refuses for good."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from roost import errors
from roost.client import Client
from roost.folder import find
from roost.indexing import Job, Ledger, index
from roost.indexing.job import ROUNDS
from roost.v1 import gateway_pb2 as pb

NAMES = [f"{n}.png" for n in range(8)]
SERVED = pb.Model(version=pb.ModelVersion(name="digits", version=1), in_service=True, dim=2, fingerprint="f")


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in NAMES:
        (images / name).write_bytes(name.encode())
    return images


@pytest.fixture
def peer(peer):
    """A gateway that embeds and serves one model."""

    def embed(request, context):
        vectors = [pb.EmbedResult(vector=pb.Vector(values=item.image[:8].ljust(8))) for item in request.items]
        return pb.EmbedItemsResponse(results=vectors)

    peer.answers |= {"EmbedItems": embed, "ListModels": lambda *_: pb.ListModelsResponse(models=[SERVED])}
    return peer


def failed(kind, **facts):
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=kind.reason, domain="roost", metadata=facts))
    status = status_pb2.Status(code=code_pb2.Code.Value(kind.code), message="no", details=[info])
    return pb.IngestItemsResponse(outcome=pb.INGEST_OUTCOME_FAILED, error=status)


def stored(request):
    return pb.IngestItemsResponse(id=request.item.id, outcome=pb.INGEST_OUTCOME_STORED)


def run(peer, folder, pauses, **options):
    job = Job(str(folder), "digits", "f", 2)
    with Client(peer.target) as client, Ledger.opened(folder.with_name("job"), job) as ledger:
        asked = {"ledger": ledger, "model": "digits@1", "pause": pauses.append, **options}
        outcomes = index(client, folder, find(folder), **asked)
        return [(name, outcome.kind) for name, outcome in outcomes]


def test_what_a_full_gateway_refused_is_sent_again_after_its_hint(peer, folder):
    refused = set()

    def answer(requests, context):
        for request in requests:
            path = request.item.payload["path"]
            assert request.vector.values
            assert not request.item.image
            if path in ("2.png", "5.png") and path not in refused:
                refused.add(path)
                yield failed(errors.Overloaded, retry_after_seconds="0.7")
            else:
                yield stored(request)

    peer.answers["IngestItems"] = answer
    pauses = []
    outcomes = run(peer, folder, pauses)
    assert sorted(outcomes) == [(name, "stored") for name in NAMES]
    assert [name for name, _ in outcomes[-2:]] == ["2.png", "5.png"]
    assert pauses == [0.7]


def test_a_stream_that_breaks_is_taken_up_where_it_was(peer, folder):
    received = []

    def answer(requests, context):
        for place, request in enumerate(requests):
            if place == 3 and len(received) < 6:
                context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            received.append(request.item.payload["path"])
            yield stored(request)

    peer.answers["IngestItems"] = answer
    outcomes = run(peer, folder, [])
    assert [name for name, _ in outcomes] == NAMES
    assert received == NAMES


def test_a_gateway_that_stays_away_is_given_up(peer, folder):
    peer.answers["IngestItems"] = lambda requests, context: context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    pauses = []
    with pytest.raises(errors.GatewayUnavailable):
        run(peer, folder, pauses)
    assert pauses == [1, 2, 4, 8, 8]
    assert len(pauses) == ROUNDS - 1


@pytest.mark.parametrize("kind", [errors.DiskFull, errors.UnknownModel])
def test_an_error_that_would_meet_every_file_ends_it(peer, folder, kind):
    peer.answers["IngestItems"] = lambda requests, context: (failed(kind) for _ in requests)
    with pytest.raises(kind):
        run(peer, folder, [])


def test_a_bad_file_is_final(peer, folder):
    peer.answers["IngestItems"] = lambda requests, context: (failed(errors.BadImage) for _ in requests)
    assert run(peer, folder, []) == [(name, "failed") for name in NAMES]


@pytest.mark.parametrize("times", [1, ROUNDS])
def test_embedding_is_tried_again_too(peer, folder, times):
    embed, tries = peer.answers["EmbedItems"], []

    def answer(request, context):
        tries.append(len(request.items))
        if len(tries) <= times:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")
        return embed(request, context)

    peer.answers |= {"EmbedItems": answer, "IngestItems": lambda requests, context: map(stored, requests)}
    pauses = []
    if times < ROUNDS:
        assert sorted(run(peer, folder, pauses)) == [(name, "stored") for name in NAMES]
    else:
        with pytest.raises(errors.DeadlineExceeded):
            run(peer, folder, pauses)
    assert len(pauses) == min(times, ROUNDS - 1)


def test_what_was_embedded_before_the_store_failed_is_not_embedded_again(peer, folder):
    peer.answers["IngestItems"] = lambda requests, context: (failed(errors.DiskFull) for _ in requests)
    with pytest.raises(errors.DiskFull):
        run(peer, folder, [])
    peer.answers["EmbedItems"] = lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "not again")
    peer.answers["IngestItems"] = lambda requests, context: map(stored, requests)
    assert sorted(run(peer, folder, [])) == [(name, "stored") for name in NAMES]


def test_replacing_goes_on_where_it_was_stopped_and_begins_anew_once_it_was_done(peer, folder):
    sent, room = [], [None]

    def answer(requests, context):
        for request in requests:
            if room[0] == 0:
                yield failed(errors.DiskFull)
                continue
            room[0] = room[0] and room[0] - 1
            assert not request.skip_existing or len(sent) < 8
            sent.append(request.item.payload["path"])
            yield stored(request)

    peer.answers["IngestItems"] = answer
    peer.answers["GetItem"] = lambda request, context: pb.GetItemResponse(item=pb.StoredItem(id=request.id))
    assert sorted(run(peer, folder, [])) == [(name, "stored") for name in NAMES]
    room[0] = 5
    with pytest.raises(errors.DiskFull):
        run(peer, folder, [], anew=True, shard_images=2)
    assert sent[8:] == NAMES[:5]
    room[0] = None
    embedded = len(peer.requests)
    outcomes = run(peer, folder, [], anew=True, shard_images=2)
    assert sorted(outcomes) == [(name, "existed") for name in NAMES[:4]] + [(name, "stored") for name in NAMES[4:]]
    assert sorted(sent[13:]) == NAMES[4:]
    again = [request for request in peer.requests[embedded:] if isinstance(request, pb.EmbedItemsRequest)]
    assert sum(len(request.items) for request in again) == 2  # the shard that was written is not embedded again
    assert sorted(run(peer, folder, [], anew=True)) == [(name, "stored") for name in NAMES]


def test_what_finishes_without_replacing_ends_a_replacement_that_was_stopped(peer, folder):
    peer.answers["IngestItems"] = lambda requests, context: map(stored, requests)
    peer.answers["GetItem"] = lambda request, context: pb.GetItemResponse(item=pb.StoredItem(id=request.id))
    run(peer, folder, [])
    peer.answers["IngestItems"] = lambda requests, context: (failed(errors.DiskFull) for _ in requests)
    with pytest.raises(errors.DiskFull):
        run(peer, folder, [], anew=True)
    peer.answers["IngestItems"] = lambda requests, context: map(stored, requests)
    run(peer, folder, [])
    assert sorted(run(peer, folder, [], anew=True)) == [(name, "stored") for name in NAMES]


def test_ctrl_c_ends_a_wait_that_it_did_not_wake(peer, folder):
    over, stopped = threading.Event(), []

    def answer(requests, context):
        context.add_callback(over.set)
        over.wait(30)
        return iter(())

    def interrupt():
        time.sleep(0.5)
        stopped.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # as if it had come before the wait

    peer.answers["IngestItems"] = answer
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(peer, folder, [])
    assert time.monotonic() - stopped[0] < 10  # and not after the client's 30 seconds


def test_ctrl_c_says_how_far_it_came(peer, folder):
    half, over = threading.Event(), threading.Event()

    def answer(requests, context):
        context.add_callback(over.set)
        for place, request in enumerate(requests):
            if place == 4:
                half.set()
                over.wait(30)
                return
            yield stored(request)

    peer.answers["IngestItems"] = answer
    command = [Path(sys.executable).with_name("roost"), "index", folder, "--gateway", peer.target]
    command += ["--ledger", folder.with_name("job")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert half.wait(30)
        process.send_signal(signal.SIGINT)
        output, words = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert output == ""
    assert words.startswith("Stopped after ")
    assert words.endswith("of 8 files. Run the command again to go on.\n")
