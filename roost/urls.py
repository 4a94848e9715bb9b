"""URLs in settings. Whoever puts a password or a key into one shall not find it in a log."""

import re
from urllib.parse import urlsplit

MASK = "***"
OPTIONS = ("", "?tls=0", "?tls=1")
"""What may follow the place, and tells nothing."""


def redacted(url: str) -> str:
    """A URL without what may be a secret in it: a user and password, options, a port that is no number.

    Other text stays as it is.
    """
    scheme, mark, rest = url.partition("://")
    if ":" in url.rpartition("@")[0]:
        return f"{scheme}{mark}{MASK}" if mark else MASK
    if not mark:
        return url
    place = re.split("[?#]", rest, maxsplit=1)[0]
    options = rest.removeprefix(place)
    place = re.sub(r"^([^/:[]*):(?!\d*(/|$)).*", rf"\1:{MASK}", place)
    return f"{scheme}{mark}{place}{options if options in OPTIONS else options[0] + MASK}"


def target(url: str, *, port: int) -> str | None:
    """The server that a URL names, `host:port` as gRPC writes it; None where it names none, or says more than that.

    Args:
        url: `scheme://host` or `scheme://host:port`, with options or without; `[…]` around an IPv6 address.
        port: Where the URL says none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or port
    except ValueError:
        return None
    if not host or parts.path.strip("/") or "@" in parts.netloc or parts.fragment:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
