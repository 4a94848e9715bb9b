"""What watches the gateway: Prometheus, a kubelet, a load balancer, a caller without stubs."""

import asyncio
import json
import shutil
import urllib.error
import urllib.request

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from roost import artifact
from roost.client import AsyncClient
from roost.errors import BackendUnavailable, StoreUnavailable
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving.backends import onnx
from roost_serving.health import NEEDS, Health
from roost_serving.server import serving
from roost_serving.stores import memory

GATEWAY = "roost.v1.GatewayService"
SERVING = health_pb2.HealthCheckResponse.SERVING
CALLS = "roost_caller_calls_total"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def fetch(gateway, path: str, accept: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{gateway.http_address}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def scrape(gateway) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    _, text = await asyncio.to_thread(fetch, gateway, "/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def labels(method: str, **more: str) -> tuple[tuple[str, str], ...]:
    kind = "bidi_stream" if method == "IngestItems" else "unary"
    service = {"grpc_service": "roost.v1.GatewayService", "grpc_method": method, "grpc_type": kind}
    return tuple(sorted((service | more).items()))


async def test_a_scrape_tells_what_was_done(gateway, stub, digits):
    items = [pb.Item(image=image) for image in [*digits[:3], b"no image"]]
    await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items, allow_partial=True))
    requests = [pb.IngestItemsRequest(model="digits", item=pb.Item(image=image)) for image in digits[:5]]
    assert len([response async for response in stub.IngestItems(iter(requests))]) == 5
    with pytest.raises(grpc.RpcError):
        await stub.GetItem(pb.GetItemRequest(model="digits", id="nobody"))
    await stub.SearchItems(pb.SearchItemsRequest(model="digits", vector=pb.Vector(values=b"\0\0\x80?" * 256)))
    samples = await scrape(gateway)
    assert samples["grpc_server_handled_total", labels("EmbedItems", grpc_code="OK")] == 1
    assert samples["grpc_server_handled_total", labels("IngestItems", grpc_code="OK")] == 1
    assert samples["grpc_server_handled_total", labels("GetItem", grpc_code="NOT_FOUND")] == 1
    assert samples["grpc_server_msg_received_total", labels("IngestItems")] == 5
    assert samples["grpc_server_msg_sent_total", labels("IngestItems")] == 5
    assert samples["grpc_server_handling_seconds_count", labels("EmbedItems")] == 1
    assert samples["roost_images_total", (("model", "digits@1"), ("result", "ok"))] == 8
    assert samples["roost_images_total", (("model", "digits@1"), ("result", "error"))] == 1
    for stage, count in {"queue": 8, "decode": 8, "infer": 8, "place": 6, "store": 5, "search": 1}.items():
        assert samples["roost_stage_seconds_count", (("model", "digits@1"), ("stage", stage))] == count
    assert samples["roost_image_errors_total", (("model", "digits@1"), ("reason", "BAD_IMAGE"))] == 1
    assert samples["roost_anomaly_score_count", (("model", "digits@1"),)] == 6
    assert samples["roost_payload_bytes_count", (("rpc", "IngestItems"),)] == 5
    assert samples["roost_payload_bytes_sum", (("rpc", "GetItem"),)] == 16
    assert samples["roost_search_results_count", (("model", "digits@1"),)] == 1
    assert samples["roost_search_results_sum", (("model", "digits@1"),)] == 5
    assert samples["roost_in_flight_images", ()] == 0
    assert samples["roost_in_flight_images_limit", ()] == 512
    assert samples["roost_dependency_up", (("part", "store"),)] == 1


async def test_a_scrape_tells_of_versions_that_come_and_go(settings, repository, tmp_path, digits):
    models = tmp_path / "models" / "digits"
    shutil.copytree(repository / "digits" / "1", models / "1")
    chosen = settings.model_copy(update={"backend": f"onnx://{models.parent}", "reload_seconds": 0})
    success = ("roost_repository_last_success_timestamp_seconds", ())
    async with serving(chosen) as running, AsyncClient(running.address) as client:
        await client.embed(digits[:1], model="digits")
        assert list((await client.reload()).refused) == []
        first = await scrape(running)
        assert first["roost_stage_seconds_count", (("model", "digits@1"), ("stage", "infer"))] == 1
        shutil.copytree(models / "1", models / "2")  # says that it is another version
        assert list((await client.reload()).refused) == ["digits@2"]
        second = await scrape(running)
        assert second["roost_model_load_seconds_count", (("result", "error"),)] == 1
        assert 0 < second[success] == first[success]
        manifest = artifact.read(models / "2").model_copy(update={"version": 2})
        artifact.write(models / "2", manifest, files=manifest.files)
        shutil.rmtree(models / "1")
        assert (await client.reload()).dropped == ["digits@1"]
        third = await scrape(running)
    assert third["roost_model_load_seconds_count", (("result", "ok"),)] == 1
    assert third[success] > second[success]
    of_versions = {
        version: {name for name, labels in third if ("model", version) in labels}
        for version in ("digits@1", "digits@2")
    }
    assert "roost_stage_seconds_bucket" in of_versions["digits@2"]
    assert {name.removesuffix("_created").removesuffix("_total") for name in of_versions["digits@1"]} == {
        "roost_anomalies",
        "roost_images",
    }


async def test_openmetrics_is_given_to_whoever_asks(gateway):
    _, text = await asyncio.to_thread(fetch, gateway, "/metrics", OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert "roost_build" in {family.name for family in parse_openmetrics(text)}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
async def test_promtool_finds_no_fault_in_the_metrics(gateway, stub, digits):
    await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])]))
    _, text = await asyncio.to_thread(fetch, gateway, "/metrics")
    promtool = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=-1, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await promtool.communicate(text.encode())
    ours = [line for line in output.decode().splitlines() if line.startswith(("roost_", "grpc_", "error"))]
    assert ours == []


async def test_strangers_cannot_add_series(gateway, stub):
    before = set(await scrape(gateway))
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        for number in range(20):
            with pytest.raises(grpc.RpcError):
                await channel.unary_unary(f"/roost.v1.GatewayService/Nothing{number}")(b"")
            with pytest.raises(grpc.RpcError):
                await stub.GetItem(pb.GetItemRequest(model=f"stranger{number}", id="x"))
    first = set(await scrape(gateway))
    with pytest.raises(grpc.RpcError):
        await stub.GetItem(pb.GetItemRequest(model="one more stranger", id="x"))
    assert set(await scrape(gateway)) == first
    of_the_method = {(name, labels) for name, labels in first if "GetItem" in dict(labels).values()}
    assert {name for name, _ in first - before - of_the_method} <= {CALLS, f"{CALLS.removesuffix('_total')}_created"}
    assert len(of_the_method) < 60


async def test_live_and_ready_are_said_over_http(gateway):
    assert await asyncio.to_thread(fetch, gateway, "/livez") == (200, "ok\n")
    status, text = await asyncio.to_thread(fetch, gateway, "/readyz")
    assert (status, json.loads(text)) == (200, {"backend": True, "store": True})


@pytest.mark.parametrize("service", ["", "liveness", "readiness", "roost.v1.GatewayService"])
async def test_health_is_said_for_each_service(gateway, service):
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def serving_services(gateway) -> set[str]:
    """The services, but liveness, that are said to be SERVING."""
    found = set()
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert (await check(health_pb2.HealthCheckRequest(service="liveness"))).status == SERVING
        for service in NEEDS:
            if (await check(health_pb2.HealthCheckRequest(service=service))).status == SERVING:
                found.add(service)
    return found


@pytest.fixture
def looked(monkeypatch):
    """Set when the gateway has looked at its parts."""
    looked, look = asyncio.Event(), Health.look

    async def watched(self):
        await look(self)
        looked.set()

    monkeypatch.setattr(Health, "look", watched)
    return looked


async def test_a_gateway_whose_backend_is_away_is_alive_but_not_ready(looked, gateway, monkeypatch):
    async def away(self, *, timeout=None):
        raise BackendUnavailable("The backend is away.")

    monkeypatch.setattr(onnx.Backend, "ping", away)
    looked.clear()
    await asyncio.wait_for(looked.wait(), 10)
    assert await serving_services(gateway) == {f"{GATEWAY}/{name}" for name in ("ListItems", "GetItem", "DeleteItem")}
    status, text = await asyncio.to_thread(fetch, gateway, "/readyz")
    assert (status, json.loads(text)) == (503, {"backend": False, "store": True})


@pytest.mark.parametrize("error", [StoreUnavailable("The store is away."), ValueError("a fault of the store's own")])
async def test_a_gateway_whose_store_is_away_embeds_and_does_not_search(looked, gateway, monkeypatch, error):
    async def away(self, *, timeout=None):
        raise error

    monkeypatch.setattr(memory.Store, "ping", away)
    looked.clear()
    await asyncio.wait_for(looked.wait(), 10)
    status, text = await asyncio.to_thread(fetch, gateway, "/readyz")
    assert (status, json.loads(text)) == (200, {"backend": True, "store": False})
    methods = {f"{GATEWAY}/{name}" for name in ("EmbedItems", "AssignClusters")}
    assert await serving_services(gateway) == {"", "readiness", GATEWAY} | methods


@pytest.fixture
def hung(monkeypatch):
    """A store whose searches get no answer, and that says by `answers` whether it is there."""

    class Hung:
        answers = True

    async def search(self, *arguments, **named):
        await asyncio.sleep(60)

    async def ping(self, *, timeout=None):
        if not Hung.answers:
            raise StoreUnavailable("The store is away.")

    monkeypatch.setattr("roost_serving.health.PERIOD_SECONDS", 60)
    monkeypatch.setattr(memory.Store, "search", search)
    monkeypatch.setattr(memory.Store, "ping", ping)
    return Hung


async def test_a_store_that_hangs_is_found_out_by_those_who_wait_and_a_slow_one_is_waited_for(
    hung, gateway, stub, digits
):
    request = pb.SearchItemsRequest(model="digits", item=pb.Item(image=digits[0]))
    waiting = asyncio.ensure_future(stub.SearchItems(request, timeout=30))
    assert not (await asyncio.wait([waiting], timeout=1.5))[0]
    hung.answers = False
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(waiting, 20)
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert f"{GATEWAY}/SearchItems" not in await serving_services(gateway)
    await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])]))


async def test_a_caller_without_stubs_finds_its_way_by_reflection(gateway, digits):
    """A plain gRPC channel that knows nothing but the address."""
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="roost.v1.GatewayService"),
        ]
        services, files = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
        assert "roost.v1.GatewayService" in {s.name for s in services.list_services_response.service}
        pool = descriptor_pool.DescriptorPool()
        pending = [
            descriptor_pb2.FileDescriptorProto.FromString(f)
            for f in files.file_descriptor_response.file_descriptor_proto
        ]
        known: set[str] = set()
        while pending:
            file = pending[0]
            missing = [name for name in file.dependency if name not in known]
            if missing:
                ask = reflection_pb2.ServerReflectionRequest(file_by_filename=missing[0])
                (answer,) = [answer async for answer in reflection.ServerReflectionInfo(iter([ask]))]
                found = answer.file_descriptor_response.file_descriptor_proto
                pending[:0] = [descriptor_pb2.FileDescriptorProto.FromString(f) for f in found]
                continue
            pool.Add(pending.pop(0))
            known.add(file.name)
        method = pool.FindServiceByName("roost.v1.GatewayService").FindMethodByName("EmbedItems")
        question = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/roost.v1.GatewayService/EmbedItems",
            request_serializer=question.SerializeToString,
            response_deserializer=answer.FromString,
        )
        response = await call(question(model="digits", items=[{"image": digits[0]}]))
    assert len(response.results[0].vector.values) == 256 * 4


async def test_draining_says_not_serving_and_goes_on_answering_before_the_port_closes(settings, digits):
    settings = settings.model_copy(update={"drain_seconds": 3.0})
    request = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])])
    kind = health_pb2.HealthCheckResponse
    seen = []
    heard = asyncio.Event()

    async def follow() -> float:
        """Hear of the drain, and then call for a second over connections of one's own; how long that took."""
        async for answer in watch:
            seen.append(answer.status)
            heard.set()
            if answer.status != kind.SERVING:
                break
        begun = asyncio.get_running_loop().time()
        for number in range(10):
            options = [("roost.test", number)]  # equal channels share a connection
            async with grpc.aio.insecure_channel(running.address, options=options) as own:
                await gateway_pb2_grpc.GatewayServiceStub(own).EmbedItems(request, timeout=5)
                check = health_pb2_grpc.HealthStub(own).Check
                for service in NEEDS:
                    found = (await check(health_pb2.HealthCheckRequest(service=service))).status
                    assert found == kind.NOT_SERVING, service
            await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time() - begun

    async with serving(settings) as running:
        channel = grpc.aio.insecure_channel(running.address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="readiness"))
        following = asyncio.create_task(follow())
        await asyncio.wait_for(heard.wait(), 10)
    assert 1 <= await following < settings.drain_seconds
    await channel.close()
    assert seen == [kind.SERVING, kind.NOT_SERVING]


async def test_a_part_that_failed_unexpectedly_is_asked_again_and_its_error_logged_once(gateway, monkeypatch, caplog):
    looks: asyncio.Queue[dict[str, bool]] = asyncio.Queue()
    look, ping = Health.look, memory.Store.ping
    failing = [ValueError("a fault of the store's own")] * 2

    async def faulty(self, *, timeout=None):
        if failing:
            raise failing.pop()
        await ping(self, timeout=timeout)

    async def watched(self):
        await look(self)
        looks.put_nowait(self.parts)

    monkeypatch.setattr("roost_serving.health.PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(memory.Store, "ping", faulty)
    monkeypatch.setattr(Health, "look", watched)
    seen = [(await asyncio.wait_for(looks.get(), 10))["store"] for _ in range(3)]
    assert seen == [False, False, True]
    assert [record.message for record in caplog.records if record.name == "roost_serving.health"] == [
        "the store could not be asked, so it counts as down"
    ]
