"""Who calls, and what a caller may do.

The interceptor says who calls; whoever needs to know asks `current()`, in any task of the call.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from roost.errors import Forbidden


class Role(IntEnum):
    """What a key is for; each may do what those before it may."""

    READ = 1
    """Embed, place, search, list."""
    WRITE = 2
    """Store and delete."""
    ADMIN = 3
    """Change what the gateway serves."""


@dataclass(frozen=True)
class Caller:
    """Whoever holds a key; `ANYONE` where the gateway asks for none."""

    name: str
    """The key's, which logs and metrics may show."""
    role: Role
    models: frozenset[str] | None = None
    """Names of the models whose collections the caller may use; None: of all."""
    images_per_second: float | None = None
    in_flight: int | None = None
    """Images that the gateway holds for the caller at once; its own limit where None."""
    calls_per_second: float | None = None
    """Calls, and messages of streams; any number where None."""

    def check_role(self, needed: Role) -> None:
        """Refuse what the caller's role is too low for.

        Raises:
            Forbidden: It is.
        """
        if self.role < needed:
            raise Forbidden(
                f"The key {self.name!r} has the role {self.role.name.lower()}; this call needs {needed.name.lower()}.",
                role=self.role.name.lower(),
                needed=needed.name.lower(),
            )

    def sees(self, name: str) -> bool:
        """Whether the caller may use the models of a name."""
        return self.models is None or name in self.models

    def sees_version(self, reference: str) -> bool:
        """Whether the caller may use the model of a `name@version`."""
        return self.sees(reference.partition("@")[0])

    def check_model(self, reference: str) -> None:
        """Refuse a model that the caller may not use, whether or not it is served.

        Args:
            reference: `name` or `name@version`.

        Raises:
            Forbidden: It is none of the caller's.
        """
        name = reference.partition("@")[0]
        if not self.sees(name):
            raise Forbidden(
                f"The key {self.name!r} may not use the model {name[:128]!r}. It may use: "
                f"{', '.join(sorted(self.models or ()))}.",
                model=name[:128],
            )


ANYONE = Caller("anonymous", Role.ADMIN)
_current: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


def current() -> Caller:
    """Who the call under way is from."""
    return _current.get()


def begin(caller: Caller) -> None:
    """Say who calls, for the rest of this task and for those that it starts; gRPC gives every call its own."""
    _current.set(caller)
