"""New model versions while the gateway serves: found in the repository, checked, loaded beside the old, then named.

A version is never edited, except that `roost cluster` gives it the clusters that it lacks.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from roost import clusters
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, RoostError
from roost_serving import ensuring, repository
from roost_serving.pipeline import Pipeline
from roost_serving.repository import Model, Stamp

PASSING = (BackendUnavailable, *ensuring.PASSING)
"""Errors that the same files may not meet again, such as a full queue before Triton or the store."""

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told what is served; `roost_serving.metrics.Metrics` is one."""

    def serve_model(self, manifest: Manifest) -> None:
        """A model version is served from now on."""
        ...

    def drop_model(self, manifest: Manifest) -> None:
        """A model version is no longer served."""
        ...

    def reloaded(self, *, changed: int, refused: int) -> None:
        """So many versions were added, changed or dropped, and so many in the repository are not served as they are."""
        ...

    def loaded(self, seconds: float, *, ok: bool) -> None:
        """A version was checked and loaded, or refused, in so many seconds."""
        ...


@dataclass(frozen=True)
class Refused:
    """A version in the repository that is not served as it lies there."""

    folder: Path
    error: RoostError

    @property
    def reference(self) -> str:
        """The model version's, as its folders name it."""
        return f"{self.folder.parent.name}@{self.folder.name}"

    @property
    def passes(self) -> bool:
        """Whether the same files may fare better next time."""
        return isinstance(self.error, PASSING)


@dataclass
class Reloaded:
    """What a look at the repository changed; lists of references."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Have clusters, and had none."""
    dropped: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


class Reloader:
    """Keeps what the pipeline serves equal to what its repository holds.

    Args:
        pipeline: An open one.
        observer: Is told.
        period: Look this often, in seconds; 0: only when asked.
    """

    def __init__(self, pipeline: Pipeline, observer: Observer, *, period: float) -> None:
        self._pipeline, self._observer, self._period = pipeline, observer, period
        self._refused: dict[Path, tuple[Stamp, Refused]] = {}
        self._one = asyncio.Lock()
        self._looks: set[asyncio.Task[Reloaded]] = set()
        self._watch: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Tell the observer what is served, and begin to look."""
        for model in self._pipeline.served.models:
            self._observer.serve_model(model.manifest)
        if self._period:
            self._watch = asyncio.create_task(self._keep_looking())

    async def end(self) -> None:
        """Look no more; what is being loaded is let go."""
        tasks = [*self._looks, *([] if self._watch is None else [self._watch])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self, *, again: bool = True) -> Reloaded:
        """Look at the repository now and serve what it holds.

        A version that cannot be served changes nothing; why is in the answer and in the log. A look goes on to its end,
        though whoever asked for it may go away.

        Args:
            again: Try versions too that were refused before and are as they were.
        """
        look = asyncio.create_task(self._look(again=again))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        return await asyncio.shield(look)

    async def _look(self, *, again: bool) -> Reloaded:
        async with self._one:
            result = Reloaded()
            found = await asyncio.to_thread(repository.stamps, self._pipeline.backend.repository)
            served = {model.folder: model for model in self._pipeline.served.models}
            # An empty repository is one that is being moved or mounted, or a mistake.
            gone = [served[folder] for folder in sorted(served.keys() - found.keys())] if found else []
            # A server that loads a model anew lets go of versions that are gone. No call may ask those then; but what a
            # name means is kept until its heir is served.
            await self._drop([model for model in gone if not self._pipeline.served.is_newest(model)], result)
            for folder in sorted(found, key=_version):
                before, (stamp, known) = served.get(folder), self._refused.get(folder, (None, None))
                if before is not None and before.stamp == found[folder]:
                    self._refused.pop(folder, None)
                elif (
                    known is not None and stamp == found[folder] and not again and not isinstance(known.error, PASSING)
                ):
                    result.refused.append(known)
                else:
                    await self._take(folder, found[folder], before, result)
            self._refused = {folder: kept for folder, kept in self._refused.items() if folder in found}
            await self._drop([model for model in gone if model in self._pipeline.served.models], result)
            changed = len(result.added) + len(result.changed) + len(result.dropped)
            self._observer.reloaded(changed=changed, refused=len(result.refused))
            return result

    async def _take(self, folder: Path, stamp: Stamp, before: Model | None, result: Reloaded) -> None:
        begun, refused = time.monotonic(), len(result.refused)
        try:
            model = await asyncio.to_thread(repository.read, folder)
            if before is None:
                await self._pipeline.add(model)
                result.added.append(model.manifest.reference)
                log.info("serving %s, which is new", model.manifest.reference)
            else:
                _check_same(before, model)
                self._pipeline.replace(before, model)
                if model.manifest == before.manifest:
                    return  # its files were only touched
                result.changed.append(model.manifest.reference)
                log.info("serving %s with its files as they are now", model.manifest.reference)
        except RoostError as error:
            self._refuse(Refused(folder, error), stamp, result)
        except Exception as error:
            log.exception("%s could not be loaded", folder)
            wrong = BadArtifact(f"{folder} could not be loaded ({type(error).__name__}). The gateway's log says why.")
            self._refuse(Refused(folder, wrong), stamp, result)
        else:
            self._refused.pop(folder, None)
            self._observer.serve_model(model.manifest)
        finally:
            self._observer.loaded(time.monotonic() - begun, ok=len(result.refused) == refused)

    def _refuse(self, refused: Refused, stamp: Stamp, result: Reloaded) -> None:
        result.refused.append(refused)
        _, known = self._refused.get(refused.folder, (None, None))
        if known is None or known.error.message != refused.error.message:
            log.error("not serving %s as it is now: %s", refused.reference, refused.error.message)
        self._refused[refused.folder] = stamp, refused

    async def _drop(self, models: list[Model], result: Reloaded) -> None:
        for model in models:
            try:
                await self._pipeline.drop(model)
            except RoostError as error:  # it stays, and the next look tries again
                log.warning("%s could not be dropped: %s", model.manifest.reference, error.message)
                continue
            self._observer.drop_model(model.manifest)
            result.dropped.append(model.manifest.reference)
            log.info("no longer serving %s, which is gone from the repository", model.manifest.reference)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            try:
                await self.reload(again=False)
            except Exception:
                log.exception("the model repository could not be looked at")


def _version(folder: Path) -> tuple[str, int, str]:
    number = int(folder.name) if folder.name.isdecimal() else 0
    return folder.parent.name, number, folder.name


def _check_same(before: Model, now: Model) -> None:
    """Check that a version was changed in nothing, but that it may have got the clusters that it lacked.

    Raises:
        BadArtifact: It was.
    """
    files = dict(now.manifest.files)
    if clusters.FILE not in before.manifest.files:
        files.pop(clusters.FILE, None)
    if now.manifest.model_copy(update={"files": files, "quality": before.manifest.quality}) != before.manifest:
        raise BadArtifact(
            f"{now.manifest.reference} was changed after it was loaded, and a version is never edited. Export it as a "
            "new version, or restart the gateway to serve it as it is now.",
            model=now.manifest.reference,
        )
