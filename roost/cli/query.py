"""`roost search`, `embed`, `models` and `clusters`: questions to a gateway."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roost.address import DEFAULT_TARGET, DEFAULT_TIMEOUT
from roost.cli.app import PARTLY_FAILED
from roost.cli.options import Anomaly, Cluster, Gateway, Json, Model, Timeout, Where, to_filter
from roost.cli.output import emit, say, say_failed, table
from roost.errors import BadRequest, RoostError

if TYPE_CHECKING:
    from roost.client import Neighbours

SHOWN_VALUES = 4
RELOAD_SECONDS = 120.0  # loading a large model takes its time


def search(
    *,
    image: Annotated[Path | None, typer.Option(help="Find neighbours of this image.")] = None,
    id: Annotated[str | None, typer.Option(help="Find neighbours of this stored item.")] = None,
    limit: Annotated[int, typer.Option(help="How many neighbours.")] = 10,
    cluster: Cluster = None,
    anomaly: Anomaly = None,
    where: Where = None,
    grid: Annotated[Path | None, typer.Option(help="Write the query and its neighbours as a picture.")] = None,
    root: Annotated[Path, typer.Option(help="The folder that was indexed, for --grid.")] = Path(),
    model: Model = "",
    gateway: Gateway = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT,
    json: Json = False,
) -> None:
    """Find the stored images nearest to an image or to a stored item.

    Example: roost search --image photos/cat.jpg --limit 5 --grid neighbours.png --root photos
    """
    if (image is None) == (id is None):
        raise typer.BadParameter("give --image FILE or --id ID: one of the two.")
    from roost.client import Client

    wanted = to_filter(where=where, clusters=cluster, anomaly=anomaly)
    with Client(gateway, timeout=timeout) as client:
        found = client.search(image, id=id, limit=limit, filter=wanted, model=model)
        query = image if id is None else root / str(client.get(id, model=model).payload.get("path", ""))
    if json:
        for hit in found:
            emit({"score": hit.score, "id": hit.item.id, "payload": hit.item.payload, "placement": hit.item.placement})
    else:
        columns = ["#score", "#cluster", "anomaly", "path", "id"]
        table(columns, [_row(place, found) for place in range(len(found))])
    if grid is not None and query is not None:
        _draw(found, query=query, root=root, out=grid)
        say(f"{grid} shows the query and its {len(found)} neighbours.")


def _row(place: int, found: "Neighbours") -> tuple[object, ...]:
    hit = found[place]
    at = hit.item.placement
    lies = (at.cluster, at.anomaly) if at else (None, None)
    return f"{hit.score:.4f}", *lies, hit.item.payload.get("path"), hit.item.id


def _draw(found: "Neighbours", *, query: Path, root: Path, out: Path) -> None:
    from roost.grid import Tile, draw

    row = [Tile(query, "query", query.parent.name or query.name)]
    for hit in found:
        path = str(hit.item.payload.get("path", ""))
        row.append(Tile(root / path, f"{hit.score:.3f}", str(hit.item.payload.get("label", path))))
    try:
        draw([row]).save(out)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{out} cannot be written: {error}. Give a .png file in a folder that exists.", path=out)


def embed(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    *,
    npz: Annotated[Path | None, typer.Option(help="Write paths and vectors to a NumPy file.")] = None,
    model: Model = "",
    gateway: Gateway = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT,
    json: Json = False,
) -> None:
    """Compute embeddings of images; nothing is stored.

    Example: roost embed photos/cat.jpg photos/dog.jpg --json
    """
    import numpy as np

    from roost.client import Client

    with Client(gateway, timeout=timeout) as client:
        results = client.embed(files, model=model, on_error="return")
    good = [(path, row) for path, row in zip(files, results, strict=True) if not isinstance(row, RoostError)]
    bad = [(path, error) for path, error in zip(files, results, strict=True) if isinstance(error, RoostError)]
    if npz is not None:
        paths = np.array([str(path) for path, _ in good], dtype=np.str_)
        try:
            np.savez(npz, paths=paths, vectors=np.array([row for _, row in good], dtype=np.float32))
        except OSError as error:
            raise BadRequest(
                f"{npz} cannot be written: {error.strerror}. Name a file in a folder that exists.", npz=npz
            )
    if json:
        for path, result in zip(files, results, strict=True):
            emit({"path": path, "error" if isinstance(result, RoostError) else "vector": result})
    elif good:
        first = [" ".join(f"{value:+.3f}" for value in row[:SHOWN_VALUES]) + " …" for _, row in good]
        table(["path", "#length", "vector"], [(p, len(row), v) for (p, row), v in zip(good, first, strict=True)])
    for path, error in bad:
        say_failed(path, error)
    if bad:
        say(f"{len(bad)} of {len(files)} images failed.")
        raise typer.Exit(PARTLY_FAILED)


def models(*, gateway: Gateway = DEFAULT_TARGET, json: Json = False) -> None:
    """List the model versions that the gateway serves.

    Example: roost models
    """
    from roost.client import Client

    with Client(gateway) as client:
        served = client.models()
    if json:
        for model in served:
            emit(model)
        return
    columns = ["model", "in service", "method", "encoder", "#input", "#dim", "#clusters", "#items"]
    table(
        columns,
        [
            (m.reference, m.in_service, m.method, m.encoder, m.input_size, m.dim, m.clusters, f"{m.items:,}")
            for m in served
        ],
    )


def reload(*, gateway: Gateway = DEFAULT_TARGET, timeout: Timeout = RELOAD_SECONDS, json: Json = False) -> None:
    """Have the gateway serve what its model repository holds now: new versions, and clusters that were fitted since.

    It looks by itself every few seconds; this says what came of it. The exit code is 3 where a version was refused;
    the gateway goes on with what it had.

    Example: roost reload
    """
    from roost.client import Client

    with Client(gateway, timeout=timeout) as client:
        done = client.reload()
    if json:
        emit(done)
    else:
        rows = [(what, reference) for what in ("added", "changed", "dropped") for reference in getattr(done, what)]
        if rows:
            table(["what", "model"], rows)
    for reference, error in done.refused.items():
        say_failed(reference, error)
    if done.refused:
        raise typer.Exit(PARTLY_FAILED)
    if not (done.added or done.changed or done.dropped):
        say("Nothing is new.")


def clusters(*, model: Model = "", gateway: Gateway = DEFAULT_TARGET, json: Json = False) -> None:
    """List a model's clusters.

    Example: roost clusters --model digits
    """
    from roost.client import Client

    with Client(gateway) as client:
        found = client.clusters(model=model)
    if json:
        for cluster in found:
            emit(cluster)
        return
    columns = ["#cluster", "#fitted", "#stored", "#median distance", "#anomaly past", "medoid"]
    table(
        columns,
        [(c.cluster, c.fitted_images, c.items, c.median_distance, c.anomaly_distance, c.medoid_id) for c in found],
    )
