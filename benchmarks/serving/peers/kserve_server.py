"""KServe's model server over gRPC: one process, in which a thread for each core decodes and infers an image.

Its gRPC server has one process. A plain `predict` would hold up its event loop, so the work goes to threads, which let
go of the GIL. A log line for each request is off.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import encoder
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # pyright: ignore[reportMissingImports]

FREE_PORT = 0


class Embed(Model):
    """JPEG bytes to an embedding (1, dim)."""

    def __init__(self) -> None:
        super().__init__("encoder")
        self.encoder = encoder.from_environment()
        self.workers = ThreadPoolExecutor(encoder.cores())
        self.ready = True

    async def predict(self, payload: InferRequest, *_: object) -> InferResponse:
        """Embed one image."""
        image = payload.inputs[0].as_numpy().item()
        vector = await asyncio.get_running_loop().run_in_executor(self.workers, self.encoder.embed, image)
        output = InferOutput("embedding", [1, len(vector)], "FP32")
        output.set_data_from_numpy(vector[None])
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    server = ModelServer(http_port=FREE_PORT, grpc_port=encoder.port(), enable_latency_logging=False)
    server.start([Embed()])
