"""BentoML: one worker process, in which a thread for each core decodes and infers with one thread to an image.

Both let go of the GIL; further worker processes (`workers`) would share the callers among them by chance. The image
comes as the body, opened by BentoML's own image type, and the embedding goes out as bytes, without JSON. Metrics and
request logs, which are on by default, are off.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import bentoml  # pyright: ignore[reportMissingImports]
import encoder
from PIL.Image import Image


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Embed:
    """JPEG file to the embedding's bytes."""

    def __init__(self) -> None:
        self.encoder = encoder.from_environment()
        self.workers = ThreadPoolExecutor(encoder.cores())

    @bentoml.api(route="/embed")
    async def embed(
        self, image: Annotated[Image, bentoml.validators.ContentType("image/jpeg")], /
    ) -> Annotated[bytes, bentoml.validators.ContentType("application/octet-stream")]:
        """Embed one image."""
        return await asyncio.get_running_loop().run_in_executor(self.workers, self.run, image)

    def run(self, image: Image) -> bytes:
        """Decode and infer."""
        return self.encoder.run(self.encoder.pixels(image)[None])[0].tobytes()
