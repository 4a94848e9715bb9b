"""Roost turns a pile of unlabelled images into a running embedding service.

This package is the contract that its stages share, and the public face: the client, the errors, the
artifact's manifest, the one image decoder, and the arithmetic of clusters. It imports no stage.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roost.client import AsyncClient as AsyncClient
    from roost.client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the clients on first use, so that offline stages never load gRPC."""
    if name in ("AsyncClient", "Client"):
        from roost import client

        return getattr(client, name)
    raise AttributeError(f"module 'roost' has no attribute {name!r}")
