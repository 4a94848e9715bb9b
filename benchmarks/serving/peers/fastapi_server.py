"""FastAPI and ONNX Runtime by hand: the file's bytes in the body, the embedding's bytes in the answer.

At its best on few cores: one process, in which as many threads as there are cores decode and infer, with one thread
to an image. Both let go of the GIL, and no image is copied between processes, nor any caller bound to a busy process.

With the argument `wide` as most write it first: one session that uses every core for each image, called one image at a
time. That is at its best where there is one caller, who waits for the shortest time.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import encoder
import uvicorn  # pyright: ignore[reportMissingImports]
from fastapi import FastAPI, Request, Response  # pyright: ignore[reportMissingImports]

app = FastAPI()
wide = sys.argv[1:] == ["wide"]
model = encoder.from_environment(threads=encoder.cores() if wide else 1)
workers = ThreadPoolExecutor(1 if wide else encoder.cores())


@app.post("/embed")
async def embed(request: Request) -> Response:
    """Embed one image."""
    image = await request.body()
    vector = await asyncio.get_running_loop().run_in_executor(workers, model.embed, image)
    return Response(vector.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=encoder.port(), log_level="warning", access_log=False)
