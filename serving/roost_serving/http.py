"""What a browser, a kubelet or Prometheus reads: `/metrics`, `/livez`, `/readyz`."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from roost.errors import Forbidden, Unauthenticated

Readiness = Callable[[], tuple[bool, dict[str, bool]]]
"""Whether calls should be sent here, and which parts of the gateway answer, by name."""
Check = Callable[[str], None]
"""Raises `Unauthenticated` or `Forbidden` for an `Authorization` header that does not suffice."""


async def listen(
    registry: CollectorRegistry, ready: Readiness, *, check: Check | None, host: str, port: int
) -> tuple[web.AppRunner, int]:
    """Begin to serve on host and port.

    Args:
        registry: Of the metrics.
        ready: Asked for `/readyz`.
        check: Asked for `/metrics`; None: anyone may read them.
        host: Where to listen.
        port: Likewise; 0 takes a free one.

    Returns:
        The runner, whose `cleanup` ends it, and the port that it took.
    """

    async def metrics(request: web.Request) -> web.Response:
        if check is not None:
            try:
                check(request.headers.get("Authorization", ""))
            except Unauthenticated as error:
                return web.Response(status=401, text=f"{error.message}\n", headers={"WWW-Authenticate": "Bearer"})
            except Forbidden as error:
                return web.Response(status=403, text=f"{error.message}\n")
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        good, parts = ready()
        return web.json_response(parts, status=200 if good else 503)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]
