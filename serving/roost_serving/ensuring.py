"""A collection in the store for every model version that is served, made as soon as the store answers.

A gateway embeds without its store, so that it also starts without one: see docs/decisions/0010.
"""

import asyncio
import logging

from roost.errors import DeadlineExceeded, DiskFull, Overloaded, RoostError, StoreUnavailable
from roost_serving.repository import Model
from roost_serving.served import Served
from roost_serving.stores import Store

PASSING = (StoreUnavailable, DeadlineExceeded, Overloaded, DiskFull)
"""What a store says that may say otherwise later."""
PING_SECONDS = 2.0
BEGIN_SECONDS = 10.0
"""A start waits for collections no longer."""

log = logging.getLogger(__name__)


class Collections:
    """Makes collections, and knows which are still missing.

    Args:
        store: An open one, once `begin` is called.
        served: The versions that are served.
    """

    def __init__(self, store: Store, served: Served) -> None:
        self._store = store
        self._served = served
        self._missing: dict[str, Model] = {}
        """Versions by reference."""
        self._one = asyncio.Lock()  # or an older version could get the name after a newer one
        self._said = ""

    async def begin(self) -> None:
        """Make one for every served version; where the store is away, that is left to `ping`.

        Raises:
            BadArtifact: One exists with another vector length.
            BadSettings: A model's name is that of a collection.
        """
        self._missing = {model.manifest.reference: model for model in self._served.models}
        try:
            await self._store.ping(timeout=PING_SECONDS)
            await self._make(timeout=BEGIN_SECONDS)
        except PASSING as error:
            self._say(error)

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return if the store answers and has a collection for every version; those that it lacks are made.

        Raises:
            RoostError: It does not answer, or cannot make them. A full disk is none: what is stored is found.
        """
        await self._store.ping(timeout=timeout)
        try:
            await self._make(timeout=timeout)
        except RoostError as error:
            self._say(error)
            if not isinstance(error, DiskFull):
                raise

    async def ensure(self, model: Model, *, newest: bool) -> None:
        """Make a version's collection unless it exists, and have the model's name mean it where it is the newest."""
        async with self._one:
            await self._ensure(model, newest=newest)

    def forget(self, model: Model) -> None:
        """Make none for a version that is no longer served."""
        self._missing.pop(model.manifest.reference, None)

    async def _make(self, *, timeout: float | None) -> None:
        if not self._missing:
            return
        try:
            async with asyncio.timeout(timeout):
                for reference, model in list(self._missing.items()):
                    async with self._one:
                        if reference in self._missing:
                            await self._ensure(model, newest=self._served.is_newest(model))
        except TimeoutError:
            raise StoreUnavailable(f"The store did not make its collections within {timeout} s.")
        log.info("the store has a collection for every model version")

    def _say(self, error: RoostError) -> None:
        if error.message != self._said:
            log.error("there are no collections yet for %s: %s", ", ".join(self._missing), error.message)
            self._said = error.message

    async def _ensure(self, model: Model, *, newest: bool) -> None:
        manifest = model.manifest
        await self._store.ensure(manifest.reference, dim=manifest.dim, alias=manifest.name if newest else None)
        self._missing.pop(manifest.reference, None)
