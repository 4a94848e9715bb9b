"""Ray Serve: a replica for each core with one thread to an image, behind HAProxy, which Ray brings.

Serve's settings for throughput are on: HAProxy calls the replicas directly, where Serve's own proxy is a Python
process. HAProxy listens on every address of the machine while it is measured; Ray allows no other. A replica takes a
few requests at a time, so that it has the next one when it ends one.
"""

import asyncio
import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor

os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
}

import encoder
import ray  # pyright: ignore[reportMissingImports]
from ray import serve  # pyright: ignore[reportMissingImports]
from starlette.requests import Request  # pyright: ignore[reportMissingImports]
from starlette.responses import Response  # pyright: ignore[reportMissingImports]

OBJECT_STORE_BYTES = 100 * 1024 * 1024


@serve.deployment(num_replicas=encoder.cores(), max_ongoing_requests=4, ray_actor_options={"num_cpus": 1})
class Embed:
    """JPEG bytes to the embedding's bytes."""

    def __init__(self) -> None:
        self.encoder = encoder.from_environment()
        self.worker = ThreadPoolExecutor(1)

    async def __call__(self, request: Request) -> Response:
        """Embed one image."""
        image = await request.body()
        vector = await asyncio.get_running_loop().run_in_executor(self.worker, self.encoder.embed, image)
        return Response(vector.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # whose path must be short: sockets lie in it
        ray.init(
            num_cpus=encoder.cores(),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            logging_level="WARNING",
        )
        serve.start(
            http_options={"host": "127.0.0.1", "port": encoder.port()}, logging_config={"enable_access_log": False}
        )
        serve.run(Embed.bind(), route_prefix="/embed")  # pyright: ignore[reportAttributeAccessIssue]
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        ray.shutdown()
