"""LitServe: a worker process for each core with one thread to an image, and its queue on ZeroMQ (`fast_queue`).

A body of bytes is passed on as it is, which costs less than a form; one process takes the requests, as one is enough to
keep the workers busy and every further one would take processor time from them. No batches: on a CPU they gain little,
and a worker would decode its batch's images one after the other.
"""

from typing import Annotated

import encoder
import litserve  # pyright: ignore[reportMissingImports]
import numpy as np
from fastapi import Body, Response  # pyright: ignore[reportMissingImports]


class Embed(litserve.LitAPI):
    """JPEG bytes to the embedding's bytes."""

    def setup(self, device: str) -> None:
        self.encoder = encoder.from_environment()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def predict(self, image: bytes) -> np.ndarray:
        return self.encoder.embed(image)

    def encode_response(self, vector: np.ndarray) -> Response:
        return Response(vector.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(
        Embed(api_path="/embed"), accelerator="cpu", workers_per_device=encoder.cores(), fast_queue=True
    )
    server.run(
        host="127.0.0.1", port=encoder.port(), num_api_servers=1, log_level="warning", generate_client_file=False
    )
