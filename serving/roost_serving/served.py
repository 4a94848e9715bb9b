"""Which model versions a gateway answers with, and which of them a name means."""

from collections.abc import Callable, Iterable

from roost.errors import UnknownModel
from roost_serving import repository
from roost_serving.repository import Model

LISTED = 20


class Served:
    """The model versions; replaced as a whole, so that no call sees half a change."""

    def __init__(self) -> None:
        self.models: list[Model] = []
        """By name and then by version."""
        self._named: dict[str, Model] = {}

    def set(self, models: Iterable[Model]) -> None:
        """Answer with these from the next call on; a name means its newest version."""
        self.models = repository.ordered(models)
        newest = {model.manifest.name: model for model in self.models}  # of one name, the last stays
        self._named = newest | {model.manifest.reference: model for model in self.models}

    def is_newest(self, model: Model) -> bool:
        """Whether no served version of the model's name is newer."""
        found = self._named.get(model.manifest.name)
        return found is None or found.manifest.version <= model.manifest.version

    def find(self, reference: str, *, sees: Callable[[str], bool] = lambda name: True) -> Model:
        """The model version that a request means.

        Args:
            reference: As the request has it.
            sees: Whether the caller may know of models of a name.

        Raises:
            UnknownModel: It is not served, or none was named while several are served.
        """
        if not reference:
            names = {model.manifest.name for model in self.models if sees(model.manifest.name)}
            if len(names) > 1:
                raise UnknownModel(f"{len(names)} models are served, so the request must name one: {_listed(names)}.")
            reference = next(iter(names), "")
        found = self._named.get(reference)
        if found is None:
            served = {model.manifest.reference for model in self.models if sees(model.manifest.name)}
            raise UnknownModel(
                f"No model {reference[:128]!r} is served. There are: {_listed(served)}.", model=reference[:128]
            )
        return found


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:LISTED])
