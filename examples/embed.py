"""Embed images and compare each with the first.

    python examples/embed.py [IMAGE ...]

Needs a gateway at 127.0.0.1:50051, or where ROOST_GATEWAY says. Without images it takes three that `make demo` wrote.
"""

import os
import sys
from pathlib import Path

import roost
from roost.address import DEFAULT_TARGET

images = [Path(name) for name in sys.argv[1:]] or sorted(Path("data/digits").rglob("*.png"))[:3]

with roost.Client(os.environ.get("ROOST_GATEWAY", DEFAULT_TARGET)) as client:
    vectors = client.embed(images)  # (n, dim), float32, rows of unit length

print(f"{len(vectors)} vectors of length {vectors.shape[1]}")
for image, cosine in zip(images, vectors @ vectors[0], strict=True):
    print(f"{cosine:+.4f}  {image}")
