"""How a client reaches a gateway."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

import roost
from roost.errors import BadSettings
from roost.v1 import gateway_pb2 as pb

DEFAULT_MAX_MESSAGE_BYTES = 32 * 1024 * 1024
DEFAULT_IN_FLIGHT = 64
SERVICE = pb.DESCRIPTOR.services_by_name["GatewayService"].full_name
KEY_FILE = "ROOST_API_KEY_FILE"
"""The variable that names the file of a client's API key."""
TLS_VARIABLES = ("AUTHORITY", "CERTIFICATE", "KEY")
SYSTEM = "system"
CALLS_IN_FLIGHT = 4  # of one `embed` or `assign`, so that every core of the gateway has work
SAFE = ("EmbedItems", "AssignClusters", "SearchItems", "ListItems", "GetItem", "ListModels", "ListClusters")
"""Methods that change nothing, so that gRPC may send them again."""
SERVICE_CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": method} for method in SAFE],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # A gateway says by a trailer when it wants to be asked again, or that it never will take the call.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
    # Each failure costs one of ten tokens, each success gives a tenth back; under five, nothing is sent twice, so that
    # an outage meets no storm.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    # Where an address stands for several gateways, each gets its share.
    "loadBalancingConfig": [{"round_robin": {}}],
}
"""How gRPC itself behaves on every channel (https://grpc.io/docs/guides/service-config/, gRFC A6)."""


@dataclass(frozen=True)
class Tls:
    """An encrypted connection; with a certificate and key of its own, the client is known to the gateway."""

    authority: Path | None = None
    """PEM certificates to trust; the system's by default."""
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def from_environment(cls) -> Self | None:
        """What `ROOST_TLS_AUTHORITY`, `ROOST_TLS_CERTIFICATE` and `ROOST_TLS_KEY` say; None without the first.

        The first is a path, or `system` for the authorities that this machine trusts.
        """
        authority, certificate, key = (os.environ.get(f"ROOST_TLS_{name}") for name in TLS_VARIABLES)
        if not authority:
            return None
        return cls(
            authority=None if authority == SYSTEM else Path(authority),
            certificate=Path(certificate) if certificate else None,
            key=Path(key) if key else None,
        )

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            BadSettings: One cannot be read.
        """
        authority, certificate, key = (_read(path) for path in (self.authority, self.certificate, self.key))
        return grpc.ssl_channel_credentials(authority, key, certificate)


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What every call carries: the API key that was given, or else that of the file which `ROOST_API_KEY_FILE` names.

    Raises:
        BadSettings: The file cannot be read, or what it holds is no key.
    """
    if api_key is None and (file := os.environ.get(KEY_FILE)):
        try:
            api_key = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"The API key file {file} of {KEY_FILE} cannot be read: {error}.", path=file) from error
    if api_key is None:
        return ()
    if not re.fullmatch(r"[!-~]+", api_key):
        raise BadSettings("The API key holds something else than letters, digits and signs. Look at its file.")
    return (("authorization", f"Bearer {api_key}"),)


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
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        # A gateway that restarts is back in seconds; gRPC's own pauses grow to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
