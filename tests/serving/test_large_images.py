"""Pictures of few bytes and as many pixels as may be: the gateway takes their own size for them, and little more."""

import io
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc

SIDE = 7000  # 49 megapixels
BESIDES = 70_000_000
"""Bytes beside the decoded image: bands of it, the decoder's own, and what an embedding takes."""
TURNED = Image.Exif()
TURNED[0x112] = 6


def picture(mode: str, size: tuple[int, int] = (SIDE, SIDE), kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


LARGE = {  # and the bytes that Pillow holds for a pixel
    "RGBA": (lambda: picture("RGBA"), 4),
    "RGBA, turned": (lambda: picture("RGBA", exif=TURNED), 4),
    "RGBA, wide": (lambda: picture("RGBA", (49_000, 1000)), 4),
    "RGBA, high": (lambda: picture("RGBA", (1000, 49_000)), 8),  # and once more as RGB
    "LA": (lambda: picture("LA"), 4),
    "palette": (lambda: picture("P", transparency=0), 1),
    "16 bits": (sixteen_bits, 2),
    "CMYK": (lambda: picture("CMYK", kind="JPEG"), 4),
}


def peak(pid: int) -> int:
    """The most that a process held since `forget`, in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets the peak


async def test_a_large_picture_takes_its_size_once(serve, repository, digits):
    small = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image) for image in digits[:64]])
    with serve("--backend", f"onnx://{repository}", "--store", "memory://") as running:
        pid = running.process.pid
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            await stub.EmbedItems(small)
            taken = {}
            for kind, (make, pixel_bytes) in LARGE.items():
                content = make()
                assert len(content) < 3_000_000
                forget(pid)
                before = peak(pid)
                await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=content)]))
                taken[kind] = peak(pid) - before - pixel_bytes * SIDE * SIDE
    assert {kind: over for kind, over in taken.items() if over > BESIDES} == {}
