"""Qdrant's gRPC API: the messages and stubs that qdrant-client generates, without its REST half.

`import qdrant_client` builds some 600 pydantic models, most of a second that a gateway which has to be ready in
three seconds does not have. The generated package imports nothing of it, so it is loaded from its own folder.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from roost.errors import MissingDependency

NAME = f"{__package__}.generated"


def load() -> ModuleType:
    """The package `qdrant_client.grpc`, imported without `qdrant_client`.

    Raises:
        MissingDependency: qdrant-client is not installed.
    """
    found = importlib.util.find_spec("qdrant_client")
    if found is None or found.origin is None:
        raise MissingDependency("qdrant-client is not installed. Run `pip install '.[serving]'`.")
    folder = Path(found.origin).parent / "grpc"
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise MissingDependency(f"qdrant-client has no {folder}. Install it again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from qdrant_client import grpc as qdrant
else:
    qdrant = load()
