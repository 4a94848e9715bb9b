"""Certificates of the gateway, read again when their files change."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
from cryptography import x509

from roost.errors import BadSettings

log = logging.getLogger(__name__)


class Certificates:
    """A certificate with its key and, to know callers by theirs, the authorities of callers.

    Args:
        certificate: PEM file of the certificate and those between it and its authority.
        key: PEM file of its key.
        callers: PEM file of the authorities whose certificates callers must have; None: none is asked for.
        observe: Told when the certificate ends, in seconds since the epoch, whenever one is read.

    Raises:
        BadSettings: A file cannot be read, is no certificate, or the key is another's.
    """

    def __init__(self, certificate: Path, key: Path, callers: Path | None, *, observe: Callable[[float], None]) -> None:
        self._files = [certificate, key, *([callers] if callers else [])]
        self._observe = observe
        self._seen = self._stamps()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC listens with; it asks for changed files before every new connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._changed,  # pyright: ignore[reportArgumentType]  # None is allowed, and means no change
            require_client_authentication=len(self._files) > 2,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' content where they changed; where it is none, those before stay, and the log says why."""
        try:
            seen = self._stamps()
            if seen == self._seen:
                return None
            self._seen = seen
            read = self._read()
        except BadSettings as error:
            log.error("the certificate stays as it was: %s", error.message)
            return None
        log.info("%s was read again", self._files[0])
        return read

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, *callers = (_bytes(path) for path in self._files)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files[:2], password=_no_password)
            ends = x509.load_pem_x509_certificates(certificate)[0].not_valid_after_utc
            for content in callers:
                x509.load_pem_x509_certificates(content)
        except (ssl.SSLError, ValueError) as error:
            raise BadSettings(
                f"{' and '.join(map(str, self._files))} make no certificate that can be served: {error}.",
                key="tls_certificate_file",
            ) from error
        self._observe(ends.timestamp())
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=callers[0] if callers else None
        )

    def _stamps(self) -> list[tuple[int, int, int]]:
        try:
            found = [path.stat() for path in self._files]
        except OSError as error:
            raise _unreadable(error) from error
        return [(stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(error) from error


def _no_password() -> str:
    """OpenSSL would ask on the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted")


def _unreadable(error: OSError) -> BadSettings:
    return BadSettings(f"The TLS file {error.filename} cannot be read: {error.strerror}.", key="tls_certificate_file")
