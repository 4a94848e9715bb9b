"""How a client reaches a gateway."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

import roost
from roost.errors import BadSettings

DEFAULT_MAX_MESSAGE_BYTES = 32 * 1024 * 1024
DEFAULT_IN_FLIGHT = 64
CALLS_IN_FLIGHT = 4  # of one `embed` or `assign`, so that every core of the gateway has work


@dataclass(frozen=True)
class Tls:
    """An encrypted connection; with a certificate and key of its own, the client is known to the gateway."""

    authority: Path | None = None
    """PEM certificates to trust; the system's by default."""
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            BadSettings: One cannot be read.
        """
        authority, certificate, key = (_read(path) for path in (self.authority, self.certificate, self.key))
        return grpc.ssl_channel_credentials(authority, key, certificate)


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise BadSettings(f"The TLS file {path} cannot be read: {error.strerror}.", path=path) from error


def options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """The channel options of every client."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.primary_user_agent", f"roost/{roost.__version__}"),
        # A gateway that restarts is back in seconds; gRPC's own pauses grow to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
