"""What atheris runs: `python fuzzing.py decoder|manifest|settings CORPUS [libFuzzer's options]`.

A `RoostError` is the answer that bad bytes deserve; anything else is a fault.
"""

import contextlib
import io
import resource
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["roost", "roost_serving", "PIL"]):
    from PIL import Image

    from roost import artifact, clusters, preprocess
    from roost.errors import RoostError
    from roost_serving import keys
    from roost_serving.settings import ServeSettings

WORK = Path(tempfile.mkdtemp())
LIMITS = preprocess.Limits(max_bytes=1 << 20, max_pixels=1 << 20)
DIM = 4
MEBIBYTES = 2048
"""That memory may grow by."""
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def decoder(data: bytes) -> None:
    """An image that somebody sends."""
    pixels = preprocess.decode(
        data, size=16, resize=16, limits=preprocess.Limits(max_bytes=1 << 20, max_pixels=1 << 20)
    )
    assert pixels.shape == (16, 16, 3)


def manifest(data: bytes) -> None:
    """A manifest, or clusters, that somebody put into the repository."""
    name = clusters.FILE if data.startswith(b"PK") else artifact.MANIFEST
    (WORK / name).write_bytes(data)
    if name == clusters.FILE:
        clusters.load(WORK / name, dim=DIM)
    else:
        artifact.read(WORK)


def settings(data: bytes) -> None:
    """A settings file, or a file of keys, of somebody who cannot type."""
    file = WORK / "file.toml"
    file.write_bytes(data)
    with contextlib.suppress(RoostError):
        ServeSettings.load(flags={}, file=file)
    keys.Keys(file)


def fitted() -> bytes:
    """A file of clusters."""
    from roost_training.clustering import cluster  # after the parts that are instrumented

    random = np.random.default_rng(0)
    points = random.normal(size=(64, DIM))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    names = [f"item-{number}" for number in range(64)]
    found = cluster.fit(points.astype(np.float32), ids=names, k=2, components=2, seed=0, starts=1)
    clusters.save(WORK / clusters.FILE, found)
    return (WORK / clusters.FILE).read_bytes()


def seeds(target: str) -> list[bytes]:
    """Good files, from which the fuzzer sets out."""
    if target == "decoder":
        made = []
        for kind in KINDS:
            buffer = io.BytesIO()
            Image.effect_noise((24, 20), 64).convert("RGB").save(buffer, kind)
            made.append(buffer.getvalue())
        return made
    if target == "manifest":
        described = artifact.Manifest(
            name="a",
            method="simclr",
            encoder="resnet18",
            input=artifact.Input(size=32, resize=36, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
            dim=DIM,
            data=artifact.Data(fingerprint="0" * 64, images=9),
            quality={"knn20_accuracy": 0.5},
            files={"model.onnx": artifact.File(sha256="0" * 64, size=1)},
        )
        return [described.model_dump_json(by_alias=True).encode(), fitted()]
    return [b'[serve]\nport = 1\nbackend = "onnx://x"\n', b'[keys.a]\nsha256 = "' + b"0" * 64 + b'"\nrole = "read"\n']


def main() -> None:
    """Run libFuzzer; it ends the process."""
    target, corpus = sys.argv[1], Path(sys.argv[2])
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(content)
    run = {"decoder": decoder, "manifest": manifest, "settings": settings}[target]

    def one(data: bytes) -> None:
        with contextlib.suppress(RoostError):
            run(data)

    # libFuzzer goes by the most that was ever resident, which a process takes over from the one that started it.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    atheris.Setup([sys.argv[0], f"-rss_limit_mb={most + MEBIBYTES}", *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
