"""Strangers: every method and route against every kind of key, from the descriptors themselves."""

import asyncio
import urllib.error
import urllib.request

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from roost.client import AsyncClient
from roost.errors import Forbidden, Unauthenticated
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import keys
from roost_serving.access import ROLES
from roost_serving.server import serving

READ, WRITE, ADMIN, OTHER = "read", "write", "admin", "other"

NEEDED = {
    "EmbedItems": READ,
    "AssignClusters": READ,
    "SearchItems": READ,
    "ListItems": READ,
    "GetItem": READ,
    "ListModels": READ,
    "ListClusters": READ,
    "IngestItems": WRITE,
    "DeleteItem": WRITE,
    "ReloadModels": ADMIN,
}
"""A new method needs a row."""
MODELLESS = ("ListModels", "ReloadModels")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.toml"


@pytest.fixture
def held(file):
    """A key of each kind; `other` may use another model only."""
    made = {role: keys.add(file, role, role=role, models=["digits"]) for role in (READ, WRITE, ADMIN)}
    made[OTHER] = keys.add(file, OTHER, role="admin", models=["plain"])
    return made | {"none": None, "bad": keys.PREFIX + "x" * 43}


@pytest.fixture
async def guarded(settings, file, held):
    """A gateway that asks for keys, even of a reader of metrics."""
    async with serving(settings.model_copy(update={"keys_file": file, "open_metrics": False})) as running:
        yield running


@pytest.fixture
async def channel(guarded):
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        yield channel


def metadata(key: str | None) -> tuple[tuple[str, str], ...]:
    return () if key is None else (("authorization", f"Bearer {key}"),)


def refusal(status) -> str | None:
    """Why a status refuses the caller; None where it says something else."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info) and info.reason in ("UNAUTHENTICATED", "FORBIDDEN"):
            return info.reason
    return None


async def outcome(channel, method, key: str | None, *, model: str) -> str | None:
    """Why a call was refused; None where it was let in, whatever became of its otherwise empty request."""
    request = getattr(pb, method.input_type.name)()
    if "model" in method.input_type.fields_by_name:
        request.model = model
    stub = getattr(gateway_pb2_grpc.GatewayServiceStub(channel), method.name)
    try:
        if not method.client_streaming:
            await stub(request, metadata=metadata(key))
            return None
        (response,) = [response async for response in stub(iter([request]), metadata=metadata(key))]
        return refusal(response.error)
    except grpc.aio.AioRpcError as error:
        return refusal(rpc_status.from_call(error))


def expected(method: str, kind: str) -> str | None:
    if kind in ("none", "bad"):
        return "UNAUTHENTICATED"
    if kind == OTHER:
        return None if method in MODELLESS else "FORBIDDEN"
    order = (READ, WRITE, ADMIN)
    return None if order.index(kind) >= order.index(NEEDED[method]) else "FORBIDDEN"


METHODS = pb.DESCRIPTOR.services_by_name["GatewayService"].methods


def test_every_method_has_a_row_and_a_role():
    names = {method.name for method in METHODS}
    assert names == set(NEEDED)
    assert {f"/roost.v1.GatewayService/{name}" for name in names} <= set(ROLES)


@pytest.mark.parametrize("kind", ["none", "bad", READ, WRITE, ADMIN, OTHER])
async def test_a_key_opens_what_its_role_and_models_allow(channel, held, kind):
    for method in METHODS:
        assert await outcome(channel, method, held[kind], model="digits") == expected(method.name, kind), method.name


@pytest.mark.parametrize(("kind", "status"), [("none", 401), ("bad", 401), (READ, 200), (OTHER, 200)])
async def test_metrics_can_ask_for_a_key(guarded, held, kind, status):
    assert await fetch(guarded, "/metrics", held[kind]) == status


async def test_metrics_are_refused_to_a_key_that_is_no_text(guarded):
    host, _, port = guarded.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = (
        b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nAuthorization: Bearer roost_\xff\xfe\r\n\r\n"
    )
    writer.write(request)
    assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
    writer.close()


@pytest.mark.parametrize("route", ["/livez", "/readyz"])
async def test_a_kubelet_needs_no_key(guarded, route):
    assert await fetch(guarded, route, None) == 200


async def fetch(running, route: str, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://{running.http_address}{route}", headers=headers)

    def get() -> int:
        try:
            with urllib.request.urlopen(request) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(get)


async def test_health_may_be_open_and_reflection_is_not(channel, held):
    stub = health_pb2_grpc.HealthStub(channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [answer async for answer in reflect(iter(asked))]
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [answer async for answer in reflect(iter(asked), metadata=metadata(held[READ]))]


async def test_health_can_ask_for_a_key_too(settings, file, held):
    closed = settings.model_copy(update={"keys_file": file, "open_health": False})
    async with serving(closed) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="asks for an API key"):
            await stub.Check(health_pb2.HealthCheckRequest())
        await stub.Check(health_pb2.HealthCheckRequest(), metadata=metadata(held[READ]))


async def test_a_key_that_is_taken_out_of_the_file_no_longer_opens(guarded, held, file, monkeypatch):
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    async with AsyncClient(guarded.address, api_key=held[READ]) as client:
        await client.models()
        content = file.read_text()
        file.write_text(content[content.index('[keys."write"]') :])
        with pytest.raises(Unauthenticated):
            await client.models()


async def test_a_broken_keys_file_leaves_the_keys_as_they_were(guarded, held, file, monkeypatch, caplog):
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    file.write_text("[keys")
    async with AsyncClient(guarded.address, api_key=held[READ]) as client:
        await client.models()
    assert "the keys stay as they were" in caplog.text


async def test_the_client_takes_its_key_from_the_file_that_the_environment_names(guarded, held, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(held[READ] + "\n")
    monkeypatch.setenv("ROOST_API_KEY_FILE", str(tmp_path / "key"))
    async with AsyncClient(guarded.address) as client:
        assert [model.name for model in await client.models()] == ["digits"]  # and not the other, which is served too


async def test_a_key_of_one_model_need_not_name_it(guarded, held, digits):
    async with AsyncClient(guarded.address, api_key=held[READ]) as client:
        assert (await client.embed([digits[0]])).shape == (1, 256)
        with pytest.raises(Forbidden, match=r"may not use the model 'plain'\. It may use: digits"):
            await client.embed([digits[0]], model="plain@1")
        with pytest.raises(Forbidden, match="'nowhere'"):  # which tells nothing of what is served
            await client.embed([digits[0]], model="nowhere")


async def test_no_key_and_no_hash_reaches_logs_metrics_or_errors(guarded, held, caplog):
    for key in (held["bad"], held[OTHER]):
        async with AsyncClient(guarded.address, api_key=key) as client:
            with pytest.raises((Unauthenticated, Forbidden)) as caught:
                await client.get("x", model="digits")
            assert key not in str(caught.value) + str(caught.value.facts)
    request = urllib.request.Request(
        f"http://{guarded.http_address}/metrics", headers={"Authorization": f"Bearer {held[READ]}"}
    )
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(request).read().decode())
    assert 'roost_caller_calls_total{caller="other",grpc_code="PERMISSION_DENIED"} 1.0' in text
    assert 'roost_caller_calls_total{caller="unknown",grpc_code="UNAUTHENTICATED"} 1.0' in text
    assert 'roost_refused_total{reason="FORBIDDEN"} 1.0' in text
    for key in filter(None, held.values()):
        assert key not in text + caplog.text
