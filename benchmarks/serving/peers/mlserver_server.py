"""MLServer over gRPC: a process of its parallel inference for each core, with one thread to an image.

The file's bytes come as a raw BYTES tensor. No adaptive batching: on a CPU batches gain little. Access logs (`debug`)
and metrics are off.
"""

import asyncio

import encoder
from mlserver import MLModel, MLServer, ModelSettings, Settings  # pyright: ignore[reportMissingImports]
from mlserver.codecs import NumpyCodec  # pyright: ignore[reportMissingImports]
from mlserver.types import InferenceRequest, InferenceResponse  # pyright: ignore[reportMissingImports]

FREE_PORT = 0


class Embed(MLModel):
    """JPEG bytes to an embedding (1, dim)."""

    async def load(self) -> bool:
        self.encoder = encoder.from_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        vector = self.encoder.embed(payload.inputs[0].data[0])
        outputs = [NumpyCodec.encode_output("embedding", vector[None])]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    """Serve until told to stop."""
    settings = Settings(
        host="127.0.0.1",
        grpc_port=encoder.port(),
        http_port=FREE_PORT,
        metrics_endpoint=None,
        parallel_workers=encoder.cores(),
        debug=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="encoder", implementation="mlserver_server.Embed")])


if __name__ == "__main__":
    asyncio.run(main())
