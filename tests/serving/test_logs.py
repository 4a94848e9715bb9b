"""Logs: one event a line, with the call that it belongs to, and nothing that a caller could forge or would miss."""

import asyncio
import json
import logging
import subprocess
import sys

import grpc
import pytest
from google.protobuf import struct_pb2

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import keys, logs
from roost_serving.served import Served
from roost_serving.server import serving


@pytest.fixture
def events(monkeypatch):
    """What was logged, as JSON; read after the block."""

    class Kept(logging.Handler):
        def __init__(self) -> None:
            super().__init__(logging.DEBUG)
            self.setFormatter(logs.Json())
            self.lines: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.lines.append(self.format(record))

    kept, root = Kept(), logging.getLogger("roost_serving")
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    yield kept.lines
    root.removeHandler(kept)
    root.setLevel(level)


def calls(lines: list[str]) -> list[dict[str, str]]:
    return [event for event in map(json.loads, lines) if event["logger"] == "roost_serving.interceptor"]


async def request_id(call) -> str:
    await call
    return dict(await call.trailing_metadata())["x-request-id"]


async def test_an_event_of_a_call_names_the_call_and_the_key(settings, tmp_path, events):
    file = tmp_path / "keys.toml"
    key = keys.add(file, "webshop")
    guarded = settings.model_copy(update={"keys_file": file})
    async with serving(guarded) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"), ("x-request-id", "order-17"))
        assert await request_id(stub.ListModels(pb.ListModelsRequest(), metadata=metadata)) == "order-17"
        made = await request_id(stub.ListModels(pb.ListModelsRequest(), metadata=metadata[:1]))
    first, second = calls(events)
    assert (first["request"], first["caller"], first["level"]) == ("order-17", "webshop", "debug")
    assert first["message"].startswith("/roost.v1.GatewayService/ListModels ended with OK after ")
    assert second["request"] == made
    assert len(made) == 32


@pytest.mark.parametrize("name", ["a b", "x" * 65, '","level":"error'])
async def test_a_name_that_is_not_plain_is_not_taken(stub, name):
    assert len(await request_id(stub.ListModels(pb.ListModelsRequest(), metadata=(("x-request-id", name),)))) == 32


async def test_an_error_s_answer_tells_the_name_too(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetItem(pb.GetItemRequest(model="nowhere"), metadata=(("x-request-id", "a1"),))
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "a1"


async def test_a_fault_is_one_line_with_its_traceback(stub, events, monkeypatch):
    def broken(self, reference, **named):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(Served, "find", broken)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetItem(pb.GetItemRequest(model="digits", id="x"))
    assert "second line" not in caught.value.details()
    fault = next(event for event in calls(events) if event["level"] == "error")
    assert "RuntimeError: first line\nsecond line" in fault["traceback"]
    assert all("\n" not in line for line in events)


async def test_what_callers_send_is_in_no_log(stub, digits, events):
    payload = struct_pb2.Struct()
    payload.update({"path": "canary-path"})
    item = pb.Item(id="canary-id", image=digits[0], payload=payload)
    requests = [pb.IngestItemsRequest(model="digits", item=item)]
    assert [answer async for answer in stub.IngestItems(iter(requests))]
    await stub.SearchItems(pb.SearchItemsRequest(model="digits", id="canary-id"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GetItem(pb.GetItemRequest(model="canary-model", id="canary-id"))
    assert events
    assert "canary" not in "".join(events)


async def test_the_gateway_and_the_processes_that_it_starts_log_json(settings, tmp_path):
    flags = {"backend": settings.backend, "store": f"edge://{tmp_path}/index", "port": 0, "http_port": 0}
    flags |= {"log_format": "json", "log_level": "info"}
    command = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roost", "serve", *command), stderr=asyncio.subprocess.PIPE
    )
    seen = []
    while not any("serving digits@1" in line for line in seen):
        seen.append((await asyncio.wait_for(process.stderr.readline(), 60)).decode())
        assert seen[-1], "the gateway ended"
    process.terminate()
    rest = (await process.communicate())[1].decode()
    lines = [line for line in [*seen, *rest.splitlines()] if line]
    assert {"roost_serving.server"} <= {json.loads(line)["logger"] for line in lines}


FORGERY = "a\n2026-01-01 00:00:00,000 ERROR roost: b\r\x1b[2K\u2028\x85c"
SPEAKS = """
import logging, sys, warnings
from roost_serving import logs

logs.configure("info", sys.argv[1])
logging.getLogger("roost").info("%s", sys.argv[2])
warnings.warn(sys.argv[2])
try:
    raise ValueError(sys.argv[2])
except ValueError:
    logging.getLogger("roost").exception("it failed")
"""


def spoken(form: str) -> list[str]:
    """Lines, as the strictest reader of lines has them, of a message, a warning and an exception with `FORGERY`."""
    command = [sys.executable, "-c", SPEAKS, form, FORGERY]
    return subprocess.run(command, capture_output=True, check=True).stderr.decode().splitlines()


def test_no_message_and_no_warning_makes_more_than_its_event_of_json():
    said, warned, failed = map(json.loads, spoken("json"))
    assert said["message"] == FORGERY
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert FORGERY in warned["message"]
    assert FORGERY in failed["traceback"]


def test_no_message_and_no_warning_forges_a_line_of_text():
    said, warned, failed, *traceback = spoken("text")
    assert said.endswith(r"INFO roost: a\n2026-01-01 00:00:00,000 ERROR roost: b\r\x1b[2K\u2028\x85c")
    assert "WARNING py.warnings: " in warned
    assert failed.endswith("ERROR roost: it failed")
    assert traceback
    assert all(line.startswith("    ") for line in traceback)
