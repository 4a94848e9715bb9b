"""`roost items`: list, get, delete."""

from itertools import islice
from typing import Annotated

import typer

from roost.address import DEFAULT_TARGET
from roost.cli.options import Anomaly, Cluster, Gateway, Json, Model, Where, to_filter
from roost.cli.output import emit, say, table

Id = Annotated[str, typer.Argument(help="The item's id.")]


def list_(
    *,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many; all by default.")] = None,
    cluster: Cluster = None,
    anomaly: Anomaly = None,
    where: Where = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="With --json, the embeddings too.")] = False,
    model: Model = "",
    gateway: Gateway = DEFAULT_TARGET,
    json: Json = False,
) -> None:
    """List stored items.

    Example: roost items list --anomaly --limit 20
    """
    from roost.client import Client

    wanted = to_filter(where=where, clusters=cluster, anomaly=anomaly)
    with Client(gateway) as client:
        found = islice(client.items(filter=wanted, with_vectors=vectors, model=model), limit)
        if json:
            for item in found:
                emit(item)
            return
        rows = []
        for item in found:
            at = item.placement
            lies = (at.cluster, at.anomaly_score, at.anomaly) if at else (None, None, None)
            rows.append((item.payload.get("path"), *lies, item.id))
    table(["path", "#cluster", "#anomaly score", "anomaly", "id"], rows)


def get(id: Id, *, model: Model = "", gateway: Gateway = DEFAULT_TARGET) -> None:
    """Print one stored item with its vector, as JSON.

    Example: roost items get 0f0e4b46-6a0d-5ca5-9a2b-6f0d8a3c1f11
    """
    from roost.client import Client

    with Client(gateway) as client:
        emit(client.get(id, model=model))


def delete(id: Id, *, model: Model = "", gateway: Gateway = DEFAULT_TARGET) -> None:
    """Delete one stored item.

    Example: roost items delete 0f0e4b46-6a0d-5ca5-9a2b-6f0d8a3c1f11
    """
    from roost.client import Client

    with Client(gateway) as client:
        client.delete(id, model=model)
    say(f"{id} is deleted.")
