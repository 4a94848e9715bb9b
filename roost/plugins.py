"""A plug-in is a file: `methods/simclr.py` is the method `simclr`, and nothing else needs to know."""

import difflib
import importlib
import pkgutil
from types import ModuleType

from roost.errors import UnknownPlugin


def names(package: ModuleType) -> list[str]:
    """The plug-ins in a package's folder, sorted; files whose name begins with `_` are not plug-ins."""
    found = pkgutil.iter_modules(package.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(package: ModuleType, name: str, *, kind: str) -> ModuleType:
    """Import one plug-in by name, and no other.

    Args:
        package: The package whose folder holds the plug-ins.
        name: The plug-in's file name without `.py`.
        kind: What the plug-ins are, in one word, for the error.

    Raises:
        UnknownPlugin: No plug-in has that name.
    """
    check(name, names(package), kind=kind)
    return importlib.import_module(f"{package.__name__}.{name}")


def check(name: str, known: list[str], *, kind: str) -> None:
    """Refuse a name that is not among those that are known, and say which is nearest.

    Raises:
        UnknownPlugin: It is not known.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known) or 'none'}."
    raise UnknownPlugin(f"No {kind} called {name!r}. {hint}", kind=kind, name=name)
