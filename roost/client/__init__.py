"""Call a gateway from Python: `Client`, and `AsyncClient` for asyncio."""

from roost.client.aio import AsyncClient
from roost.client.answers import (
    Cluster,
    Filter,
    Hit,
    Image,
    Item,
    Model,
    Neighbours,
    Outcome,
    Range,
    Reloaded,
    StoredItem,
)
from roost.client.channel import Tls
from roost.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "Cluster",
    "Filter",
    "Hit",
    "Image",
    "Item",
    "Model",
    "Neighbours",
    "Outcome",
    "Range",
    "Reloaded",
    "StoredItem",
    "Tls",
]
