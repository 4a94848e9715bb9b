"""Strangers: every method and route that there is against every kind of key."""

import asyncio
import urllib.error
import urllib.request

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from roost.client import AsyncClient
from roost.errors import Forbidden, Unauthenticated
from roost_serving import http, keys
from roost_serving.access import ROLES
from roost_serving.server import serving
from roost_serving.servicer import SERVICE

READ, WRITE, ADMIN, OPEN = "read", "write", "admin", "open"
ROLES_UPWARDS = (READ, WRITE, ADMIN)
SCOPES = {"": ["digits"], "other-": ["plain"], "any-": None}
"""Models that keys may use: the one that is asked for, another, all."""
OTHER = "other-admin"
KINDS = ["none", "bad", *(scope + role for scope in SCOPES for role in ROLES_UPWARDS)]

GATEWAY, HEALTH, REFLECTION = SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME
NEEDED = {
    f"{GATEWAY}/EmbedItems": READ,
    f"{GATEWAY}/AssignClusters": READ,
    f"{GATEWAY}/SearchItems": READ,
    f"{GATEWAY}/ListItems": READ,
    f"{GATEWAY}/GetItem": READ,
    f"{GATEWAY}/ListModels": READ,
    f"{GATEWAY}/ListClusters": READ,
    f"{GATEWAY}/IngestItems": WRITE,
    f"{GATEWAY}/DeleteItem": WRITE,
    f"{GATEWAY}/ReloadModels": ADMIN,
    f"{HEALTH}/Check": OPEN,
    f"{HEALTH}/Watch": OPEN,
    f"{REFLECTION}/ServerReflectionInfo": READ,
}
"""A new method, or service, needs a row."""
ROUTES = {"/metrics": READ, "/livez": OPEN, "/readyz": OPEN}
"""A new route needs a row."""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.toml"


@pytest.fixture
def held(file):
    """A key of each role and scope."""
    made = {
        scope + role: keys.add(file, scope + role, role=role, models=models)
        for scope, models in SCOPES.items()
        for role in ROLES_UPWARDS
    }
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
    request = message_factory.GetMessageClass(method.input_type)()
    if "model" in method.input_type.fields_by_name:
        request.model = model
    sends, answers = (
        "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
    )
    call = getattr(channel, f"{sends}_{answers}")(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    try:
        if not method.server_streaming:
            await call(request, metadata=metadata(key))
            return None
        answering = call(iter([request]) if method.client_streaming else request, metadata=metadata(key))
        response = await answering.read()
        answering.cancel()
        return refusal(response.error) if hasattr(response, "error") else None
    except grpc.aio.AioRpcError as error:
        return refusal(rpc_status.from_call(error))


def refused(needed: str, kind: str, *, names_model: bool) -> str | None:
    """What a method, or route, of a role answers a key with."""
    if needed == OPEN:
        return None
    if kind in ("none", "bad"):
        return "UNAUTHENTICATED"
    scope, _, role = kind.rpartition("-")
    if names_model and scope == "other":
        return "FORBIDDEN"
    return None if ROLES_UPWARDS.index(role) >= ROLES_UPWARDS.index(needed) else "FORBIDDEN"


def methods_of(service: str) -> dict[str, MethodDescriptor]:
    found = descriptor_pool.Default().FindServiceByName(service)
    return {f"{service}/{method.name}": method for method in found.methods}


@pytest.fixture
async def registered(monkeypatch) -> set[str]:
    """Names of the services that a server was given, whether reflection tells of them or not."""
    names: set[str] = set()
    server = type(grpc.aio.server())
    add = server.add_generic_rpc_handlers

    def kept(self, handlers):
        names.update(handler.service_name() for handler in handlers)
        add(self, handlers)

    monkeypatch.setattr(server, "add_generic_rpc_handlers", kept)
    return names


async def test_every_method_of_every_service_has_a_row_and_a_role(registered, channel, held):
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    (answer,) = [answer async for answer in reflect(iter(asked), metadata=metadata(held[READ]))]
    assert registered == {service.name for service in answer.list_services_response.service}
    methods = {name for service in registered for name in methods_of(service)}
    assert methods == set(NEEDED)
    assert {name.removeprefix("/") for name in ROLES} <= methods
    assert {name for name, role in NEEDED.items() if role != OPEN} <= {name.removeprefix("/") for name in ROLES}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_opens_what_its_role_and_models_allow(channel, held, kind):
    for name, needed in NEEDED.items():
        method = methods_of(name.partition("/")[0])[name]
        expected = refused(needed, kind, names_model="model" in method.input_type.fields_by_name)
        assert await outcome(channel, method, held[kind], model="digits") == expected, name


async def test_every_route_has_a_row():
    runner, _ = await http.listen(CollectorRegistry(), lambda: (True, {}), check=None, host="127.0.0.1", port=0)
    try:
        assert {route.resource.canonical for route in runner.app.router.routes()} == set(ROUTES)
    finally:
        await runner.cleanup()


async def test_metrics_are_refused_to_a_key_that_is_no_text(guarded):
    host, _, port = guarded.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = (
        b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nAuthorization: Bearer roost_\xff\xfe\r\n\r\n"
    )
    writer.write(request)
    assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
    writer.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_route_can_ask_for_a_key(guarded, held, kind):
    status = {None: 200, "UNAUTHENTICATED": 401, "FORBIDDEN": 403}
    for route, needed in ROUTES.items():
        expected = status[refused(needed, kind, names_model=False)]
        assert await fetch(guarded, route, held[kind]) == expected, route


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
    text = ""
    async with asyncio.timeout(10):  # a call is counted after it was answered
        while 'roost_caller_calls_total{caller="other-admin",grpc_code="PERMISSION_DENIED"} 1.0' not in text:
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(request).read().decode())
    assert 'roost_caller_calls_total{caller="unknown",grpc_code="UNAUTHENTICATED"} 1.0' in text
    assert 'roost_refused_total{reason="FORBIDDEN",rpc="GetItem"} 1.0' in text
    for key in filter(None, held.values()):
        assert key not in text + caplog.text
