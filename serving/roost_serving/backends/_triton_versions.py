"""Which versions of a model Triton is told to load: those that the gateway checked, and no others that lie there.

Left to itself, Triton loads every version of a model, and none where one of them cannot be loaded.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig  # pyright: ignore[reportAttributeAccessIssue]

from roost.artifact import Manifest
from roost.errors import BadArtifact
from roost_serving import repository

CONFIG = "config.pbtxt"


class Versions:
    """Versions by the name of their model.

    Args:
        folder: The model repository.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wanted: dict[str, set[int]] = defaultdict(set)
        self._refused: dict[str, set[int]] = defaultdict(set)

    def want(self, manifest: Manifest) -> None:
        """Have a version loaded from now on."""
        self._wanted[manifest.name].add(manifest.version)
        self._refused[manifest.name].discard(manifest.version)

    def forget(self, manifest: Manifest) -> None:
        """Leave it to other gateways over the same server whether a version stays."""
        self._wanted[manifest.name].discard(manifest.version)

    def refuse(self, manifest: Manifest) -> None:
        """Have a version not loaded again."""
        self.forget(manifest)
        self._refused[manifest.name].add(manifest.version)

    def others(self, name: str) -> list[int]:
        """Versions in the repository of which this gateway has said nothing; reads its folders."""
        try:
            lying = {int(path.name) for path in (self._folder / name).iterdir() if path.name.isdecimal()}
        except OSError:
            return []
        return sorted(lying - self._wanted[name] - self._refused[name])

    def config(self, name: str, *, ready: Iterable[int], anew: bool = False) -> str | None:
        """A model's configuration, with its versions, as Triton's load request takes it; reads files.

        Args:
            name: The model's.
            ready: Others that the server has. They stay if they are whole: another gateway may have had it load them.
            anew: With a note in it: a server keeps a process that died while its configuration is the same.

        Returns:
            JSON; None where the repository has no configuration for the model.

        Raises:
            BadArtifact: It cannot be read.
        """
        path = self._folder / name / CONFIG
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, text_format.ParseError) as error:
            raise BadArtifact(f"{path} cannot be read ({error}). Export it again.", path=path) from error
        versions = self._wanted[name] | {version for version in ready if self._is_whole(name, version)}
        config.version_policy.specific.versions[:] = sorted(versions)
        if anew:
            config.parameters["roost_loaded_again"].string_value = str(time.time())
        return json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)

    def _is_whole(self, name: str, version: int) -> bool:
        try:
            repository.read(self._folder / name / str(version))
        except BadArtifact:
            return False
        return True
