"""Many searches at the same time, with asyncio.

    python examples/search_async.py [IMAGE ...]

Needs a gateway at 127.0.0.1:50051, or where ROOST_GATEWAY says, with items stored. Without images it takes ten that
`make demo` wrote.
"""

import asyncio
import os
import sys
from pathlib import Path

from roost import AsyncClient
from roost.address import DEFAULT_TARGET


async def main(images: list[Path]) -> None:
    """Search for every image at once, and print each one's nearest neighbour."""
    async with AsyncClient(os.environ.get("ROOST_GATEWAY", DEFAULT_TARGET), timeout=10) as client:
        answers = await asyncio.gather(*(client.search(image, limit=1) for image in images))
    for image, found in zip(images, answers, strict=True):
        for hit in found:
            print(f"{image} -> {hit.item.payload.get('path', hit.item.id)} ({hit.score:.4f})")


asyncio.run(main([Path(name) for name in sys.argv[1:]] or sorted(Path("data/digits").rglob("*.png"))[:10]))
