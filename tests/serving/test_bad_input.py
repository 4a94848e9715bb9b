"""What callers get wrong: the exact status and reason, one ErrorInfo, and the next good call answered."""

import asyncio
import gzip
import io
import struct
import urllib.request
import zipfile
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families as parse

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import pages

DIM = 256
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half(kind: str) -> bytes:
    """The first half of a picture's file."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    return whole[: len(whole) // 2]


def vector(*values: float) -> pb.Vector:
    return pb.Vector(values=np.array(values, "<f4").tobytes())


def nested(levels: int) -> struct_pb2.Struct:
    """A payload of so many objects inside each other."""
    payload = struct_pb2.Struct()
    for _ in range(levels):
        payload = struct_pb2.Struct(fields={"a": struct_pb2.Value(struct_value=payload)})
    return payload


def embed(image: bytes) -> tuple[str, object]:
    return "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image)])


def embed_with(payload: dict) -> tuple[str, object]:
    """A good image whose payload is not."""
    struct = struct_pb2.Struct()
    struct.update(payload)
    return "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=PNG, payload=struct)])


def search(**fields) -> tuple[str, object]:
    return "SearchItems", pb.SearchItemsRequest(**{"model": "digits", "id": "x"} | fields)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claim(width: int, height: int) -> bytes:
    """A PNG file that claims so many pixels and has none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bitmap(width: int, height: int) -> bytes:
    """The header of a BMP file that claims so many pixels."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
FRAMES = {"save_all": True, "append_images": [NOISE.rotate(90)]}
PNG, JPEG = encoded(NOISE), encoded(NOISE, "JPEG")
UPRIGHT = Image.Exif()
UPRIGHT[0x112] = 6
WRONG, FOREIGN = ("INVALID_ARGUMENT", "BAD_REQUEST"), ("INVALID_ARGUMENT", "BAD_PAGE_TOKEN")
NO_IMAGE, HUGE = ("INVALID_ARGUMENT", "BAD_IMAGE"), ("RESOURCE_EXHAUSTED", "TOO_LARGE")
NAMES = (
    "a\0b", "digits\0", "digits%2e", "..", "digits/1", "digits@", "@1", "digits@-1", "digits@1.0", "digits@01",
    "digits@" + "9" * 30, "digits\n", "Digits", "\uff44igits", "digits\u200b", "x" * 100_000,
)  # fmt: skip
GOOD_FILES = {
    "progressive JPEG": encoded(NOISE, "JPEG", progressive=True),
    "CMYK JPEG": encoded(NOISE.convert("CMYK"), "JPEG"),
    "turned JPEG": encoded(NOISE, "JPEG", exif=UPRIGHT),
    "JPEG with a tail": JPEG + b"<script>alert(1)</script>" * 100,
    "16-bit PNG": encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)),
    "animated PNG": encoded(NOISE, "PNG", **FRAMES),
    "animated GIF": encoded(NOISE, "GIF", **FRAMES),
    "animated WebP": encoded(NOISE, "WEBP", **FRAMES),
    "PNG that is a zip file too": PNG + zipped("a.txt", b"x"),
    "GIF that is a script too": encoded(NOISE, "GIF", comment=b"*/=1;alert(1);/*"),
    "one pixel": encoded(Image.new("L", (1, 1))),
    "a line of pixels": encoded(Image.new("L", (60_000, 1))),
    "transparent palette": encoded(NOISE.quantize(16), "PNG", transparency=0),
}
BAD_FILES = {
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', *NO_IMAGE),
    "PDF": (encoded(NOISE, "PDF"), *NO_IMAGE),
    "FITS": (b"SIMPLE  =                    T".ljust(2880), *NO_IMAGE),
    "PSD": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(400), *NO_IMAGE),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", *NO_IMAGE),
    "ICO": (encoded(NOISE, "ICO"), *NO_IMAGE),
    "PPM": (encoded(NOISE, "PPM"), *NO_IMAGE),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(100), *NO_IMAGE),
    "HTML": (b"<!doctype html><title>404</title>", *NO_IMAGE),
    "address": (b"http://169.254.169.254/latest/meta-data", *NO_IMAGE),
    "path": (b"/etc/passwd\0.png", *NO_IMAGE),
    "numpy file": (b"\x93NUMPY\1\0v\0{'descr': '|O', 'shape': (4611686018427387904,)}".ljust(128), *NO_IMAGE),
    "pickle": (b"cos\nsystem\n(S'true'\ntR.", *NO_IMAGE),
    "zip file": (zipped("a.png", PNG), *NO_IMAGE),
    "zip bomb": (zipped("a.png", bytes(20_000_000)), *NO_IMAGE),
    "gzip bomb": (gzip.compress(bytes(100_000_000), 9), *NO_IMAGE),
    "PNG signature alone": (PNG[:8], *NO_IMAGE),
    "JPEG start alone": (JPEG[:2], *NO_IMAGE),
    "GIF header alone": (b"GIF89a\1\0\1\0\0\0\0", *NO_IMAGE),
    "truncated WebP": (half("WEBP"), *NO_IMAGE),
    "truncated GIF": (half("GIF"), *NO_IMAGE),
    "truncated BMP": (half("BMP"), *NO_IMAGE),
    "PNG with a wrong sum": (PNG[:29] + b"\0\0\0\0" + PNG[33:], *NO_IMAGE),
    "PNG without pixels": (claim(0, 0), *NO_IMAGE),
    "PNG whose data are missing": (claim(64, 64), *NO_IMAGE),
    "PNG with a bomb of text": (
        PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9)) + PNG[33:], *NO_IMAGE,
    ),
    "PNG of 169 megapixels": (claim(13_000, 13_000), *HUGE),
    "PNG of 196 megapixels": (claim(14_000, 14_000), *HUGE),
    "PNG of 2^62 pixels": (claim(2**31 - 1, 2**31 - 1), *HUGE),
    "BMP of 2^62 pixels": (bitmap(2**31 - 1, 2**31 - 1), *HUGE),
    "BMP of negative width": (bitmap(-8, 8), *HUGE),
}  # fmt: skip
BAD = {name: (*embed(content), code, reason) for name, (content, code, reason) in BAD_FILES.items()} | {
    "empty image": (*embed(b""), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "text": (*embed(b"this is no image"), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "truncated JPEG": (*embed(half("JPEG")), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "truncated PNG": (*embed(half("PNG")), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "TIFF": (*embed(encoded(Image.new("L", (8, 8)), "TIFF")), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "over the byte limit": (*embed(b"\xff" * (10 * 1024 * 1024 + 1)), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    "over the pixel limit": (*embed(encoded(Image.new("1", (8000, 8000)))), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    "decompression bomb": (*embed(encoded(Image.new("1", (20000, 20000)))), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    "no items": ("EmbedItems", pb.EmbedItemsRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "item without content": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(id="a")]), "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "too many items": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=b"x")] * 257),
        "RESOURCE_EXHAUSTED", "TOO_LARGE",
    ),
    "a long id": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(id="a" * 257, image=b"x")]),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "unknown model": (*search(model="birds"), "NOT_FOUND", "UNKNOWN_MODEL"),
    "unknown version": (*search(model="digits@7"), "NOT_FOUND", "UNKNOWN_MODEL"),
    "path as a model": (*search(model="../../etc/passwd"), "NOT_FOUND", "UNKNOWN_MODEL"),
    "no model among two": (*search(model=""), "NOT_FOUND", "UNKNOWN_MODEL"),
    "no query": ("SearchItems", pb.SearchItemsRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "unknown id": (*search(id="nobody"), "NOT_FOUND", "UNKNOWN_ITEM"),
    "empty id": ("GetItem", pb.GetItemRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "delete what is not there": (
        "DeleteItem", pb.DeleteItemRequest(model="digits", id="nobody"), "NOT_FOUND", "UNKNOWN_ITEM",
    ),
    "short vector": (*search(vector=vector(1, 2, 3)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "half a float": (*search(vector=pb.Vector(values=b"abcde")), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "NaN": (*search(vector=vector(*[float("nan")] * DIM)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "infinity": (*search(vector=vector(*[float("inf")] * DIM)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "zeros": (*search(vector=vector(*[0.0] * DIM)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "negative limit": (*search(vector=vector(*[1.0] * DIM), limit=-1), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "huge limit": (*search(vector=vector(*[1.0] * DIM), limit=10**6), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "condition without a match": (
        *search(vector=vector(*[1.0] * DIM), filter=pb.Filter(payload=[pb.PayloadCondition(key="a")])),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "range to NaN": (
        *search(
            vector=vector(*[1.0] * DIM),
            filter=pb.Filter(payload=[pb.PayloadCondition(key="a", range=pb.Range(min=float("nan")))]),
        ),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "items and vectors": (
        "AssignClusters",
        pb.AssignClustersRequest(model="digits", items=[pb.Item(image=b"x")], vectors=[vector(*[1.0] * DIM)]),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "neither items nor vectors": (
        "AssignClusters", pb.AssignClustersRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "clusters that were never fitted": (
        "ListClusters", pb.ListClustersRequest(model="plain"), "FAILED_PRECONDITION", "NO_CLUSTERS",
    ),
    "foreign page token": (
        "ListItems", pb.ListItemsRequest(model="digits", page_token="bm90IG91cnMgYXQgYWxs"),
        "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "page token that is no base64": (
        "ListModels", pb.ListModelsRequest(page_token="§§§"), "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "crafted page token of a list in memory": (
        "ListModels", pb.ListModelsRequest(page_token=pages.token("abc", scope="models")),
        "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "crafted page token of stored items": (
        "ListItems", pb.ListItemsRequest(model="digits", page_token=pages.token("[1]", scope="items digits@1 ")),
        "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "deep payload": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=b"x", payload=nested(17))]),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "vector of a million": (*search(vector=vector(*[1.0] * 10**6)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "no vector": (*search(vector=vector()), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "too many vectors": (
        "AssignClusters", pb.AssignClustersRequest(model="digits", vectors=[vector(1.0)] * 4097), *HUGE,
    ),
    "too many conditions": (
        *search(vector=vector(*[1.0] * DIM), filter=pb.Filter(payload=[pb.PayloadCondition(key="a", text="b")] * 33)),
        *HUGE,
    ),
    "too many clusters": (*search(vector=vector(*[1.0] * DIM), filter=pb.Filter(clusters=[1] * 1025)), *HUGE),
    "condition on nothing": (
        *search(vector=vector(*[1.0] * DIM), filter=pb.Filter(payload=[pb.PayloadCondition(text="b")])), *WRONG,
    ),
    "large payload": (*embed_with({"a": "x" * 65 * 1024}), *HUGE),
    "payload of NaN": (*embed_with({"a": float("nan")}), *WRONG),
    "id of a hundred thousand": ("GetItem", pb.GetItemRequest(model="digits", id="x" * 100_000), *WRONG),
    "id with a NUL": ("GetItem", pb.GetItemRequest(model="digits", id="a\0b"), "NOT_FOUND", "UNKNOWN_ITEM"),
    "id that is a path": ("DeleteItem", pb.DeleteItemRequest(model="digits", id="../x"), "NOT_FOUND", "UNKNOWN_ITEM"),
    "huge page": ("ListItems", pb.ListItemsRequest(model="digits", page_size=10**6), *WRONG),
    "huge page token": ("ListItems", pb.ListItemsRequest(model="digits", page_token="A" * 10**6), *FOREIGN),
    "negative page": (
        "ListItems", pb.ListItemsRequest(model="digits", page_size=-5), "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    **{f"model {name[:20]!r}": (*search(model=name), "NOT_FOUND", "UNKNOWN_MODEL") for name in NAMES},
}  # fmt: skip


async def samples(gateway, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """A metric's values by their labels."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{gateway.http_address}/metrics", timeout=5) as answer:
            return answer.read().decode()

    families = parse(await asyncio.to_thread(fetch))
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def reason_of(error: grpc.RpcError) -> str:
    details = rpc_status.from_call(error).details
    infos = [detail for detail in details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "roost"
    return info.reason


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_gets_its_status_and_the_next_call_is_answered(stub, digits, case):
    method, request, code, reason = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        await getattr(stub, method)(request)
    assert (caught.value.code().name, reason_of(caught.value)) == (code, reason)
    assert len(caught.value.details()) > 20
    good = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])]))
    assert len(good.results) == 1


@pytest.mark.parametrize("kind", GOOD_FILES)
async def test_an_odd_picture_is_a_picture(stub, kind):
    answer = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=GOOD_FILES[kind])]))
    assert np.linalg.norm(np.frombuffer(answer.results[0].vector.values, "<f4")) == pytest.approx(1, abs=1e-5)


async def test_the_whole_corpus_leaves_a_gateway_as_it_was(serve, repository, tmp_path, digits):
    assert len(BAD) + len(GOOD_FILES) >= 60
    deep = pb.Filter(payload=[pb.PayloadCondition(key=".".join("a" * 1000), text="b")])
    good = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image) for image in digits[:64]])
    arguments = ("--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index")
    with serve(*arguments) as running:
        async with grpc.aio.insecure_channel(running.address, UNLIMITED) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            expected = [await stub.EmbedItems(good) for _ in range(3)][-1]
            before = resident(running.process.pid)
            for case, (method, request, code, reason) in BAD.items():
                with pytest.raises(grpc.RpcError) as caught:
                    await getattr(stub, method)(request)
                assert (caught.value.code().name, reason_of(caught.value)) == (code, reason), case
            for image in GOOD_FILES.values():
                await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image)]))
            assert not (await stub.SearchItems(search(vector=vector(*[1.0] * DIM), filter=deep)[1])).hits
            with pytest.raises(grpc.RpcError) as caught:  # gRPC's own, which reads no further
                await stub.EmbedItems(pb.EmbedItemsRequest(items=[pb.Item(image=bytes(100_000_000))]))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await stub.EmbedItems(good) == expected
            grown = resident(running.process.pid) - before
        assert grown <= 50_000_000
        assert running.stop() == 0


def resident(pid: int) -> int:
    """What a process holds, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


BAD_INGESTS = {
    "no id": (pb.Item(), vector(*[1.0] * DIM), "BAD_REQUEST"),
    "an image too": (pb.Item(id="a", image=b"x"), vector(*[1.0] * DIM), "BAD_REQUEST"),
    "short": (pb.Item(id="a"), vector(1.0), "BAD_VECTOR"),
    "empty": (pb.Item(id="a"), vector(), "BAD_VECTOR"),
    "half a float": (pb.Item(id="a"), pb.Vector(values=b"abcde"), "BAD_VECTOR"),
    "NaN": (pb.Item(id="a"), vector(*[float("nan")] * DIM), "BAD_VECTOR"),
    "zeros": (pb.Item(id="a"), vector(*[0.0] * DIM), "BAD_VECTOR"),
    "long id": (pb.Item(id="a" * 257), vector(*[1.0] * DIM), "BAD_REQUEST"),
}


async def test_of_items_that_come_with_vectors_only_the_bad_ones_fail(stub, gateway):
    good = pb.IngestItemsRequest(model="digits", item=pb.Item(id="good"), vector=vector(*[2.0] * DIM))
    bad = [pb.IngestItemsRequest(model="digits", item=item, vector=given) for item, given, _ in BAD_INGESTS.values()]
    answers = [answer async for answer in stub.IngestItems(iter([*bad, good]))]
    reasons = []
    for answer in answers[:-1]:
        info = error_details_pb2.ErrorInfo()
        assert answer.error.details[0].Unpack(info)
        reasons.append(info.reason)
    assert reasons == [reason for _, _, reason in BAD_INGESTS.values()]
    assert answers[-1].outcome == pb.INGEST_OUTCOME_STORED
    stored = (await stub.GetItem(pb.GetItemRequest(model="digits", id="good"))).item
    assert np.linalg.norm(np.frombuffer(stored.vector.values, "<f4")) == pytest.approx(1)
    assert stored.placement.cluster >= 0
    images = await samples(gateway, "roost_images_total")
    assert images[(("model", "digits@1"), ("result", "ok"))] == 0  # nothing was embedded


async def test_refused_items_of_a_stream_are_counted(stub, gateway):
    large = pb.IngestItemsRequest(model="digits", item=pb.Item(image=b"\xff" * (10 * 1024 * 1024 + 1)))
    answers = [answer async for answer in stub.IngestItems(iter([large, large]))]
    assert [answer.outcome for answer in answers] == [pb.INGEST_OUTCOME_FAILED] * 2
    assert (await samples(gateway, "roost_refused_total"))[(("reason", "TOO_LARGE"), ("rpc", "IngestItems"))] == 2


async def test_a_message_that_cannot_be_parsed_is_a_bad_request(gateway):
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        call = channel.unary_unary("/roost.v1.GatewayService/EmbedItems")
        with pytest.raises(grpc.RpcError) as caught:
            await call(b"\xff\xff\xff")
    assert (caught.value.code().name, reason_of(caught.value)) == ("INVALID_ARGUMENT", "BAD_REQUEST")


async def test_a_call_whose_deadline_passes_is_ended_by_the_gateway_too(gateway, stub):
    slow = encoded(Image.new("L", (3000, 3000)))  # few bytes, and many seconds for all of them
    items = [pb.Item(image=slow)] * 256
    with pytest.raises(grpc.RpcError) as caught:
        await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while not (ended := await samples(gateway, "grpc_server_handled_total")):
            pass
    ((labels, count),) = ended.items()
    assert dict(labels)["grpc_code"] in {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert count == 1
    assert await samples(gateway, "roost_in_flight_images") == {(): 0}
    assert sum((await samples(gateway, "roost_stage_seconds_count")).values()) == 0
    assert (await samples(gateway, "roost_images_total"))[(("model", "digits@1"), ("result", "error"))] == 256
