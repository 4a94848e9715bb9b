"""FastAPI as most write it first: one session that uses every core for each image, called one image at a time.

At its best where there is one caller, who waits for the shortest time.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import encoder
import uvicorn  # pyright: ignore[reportMissingImports]
from fastapi import FastAPI, Request, Response  # pyright: ignore[reportMissingImports]

app = FastAPI()
model = encoder.from_environment(threads=encoder.cores())
worker = ThreadPoolExecutor(1)


@app.post("/embed")
async def embed(request: Request) -> Response:
    """Embed one image."""
    image = await request.body()
    vector = await asyncio.get_running_loop().run_in_executor(worker, model.embed, image)
    return Response(vector.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=encoder.port(), log_level="warning", access_log=False)
