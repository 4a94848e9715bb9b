"""Which role each method needs, and whose call it is."""

from collections.abc import Iterable

from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from roost.errors import Unauthenticated
from roost_serving.callers import ANYONE, Caller, Role
from roost_serving.keys import Keys
from roost_serving.servicer import SERVICE

ROLES = {
    f"/{SERVICE}/EmbedItems": Role.READ,
    f"/{SERVICE}/AssignClusters": Role.READ,
    f"/{SERVICE}/SearchItems": Role.READ,
    f"/{SERVICE}/ListItems": Role.READ,
    f"/{SERVICE}/GetItem": Role.READ,
    f"/{SERVICE}/ListModels": Role.READ,
    f"/{SERVICE}/ListClusters": Role.READ,
    f"/{SERVICE}/IngestItems": Role.WRITE,
    f"/{SERVICE}/DeleteItem": Role.WRITE,
    f"/{SERVICE}/ReloadModels": Role.ADMIN,
    f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": Role.READ,
    f"/{health.SERVICE_NAME}/Check": Role.READ,
    f"/{health.SERVICE_NAME}/Watch": Role.READ,
}
"""A method that is not here needs an admin."""
HEADER = "authorization"
SCHEME = "Bearer "


class Access:
    """Decides who calls, and whether the caller's role is high enough.

    Args:
        keys: Who may call; None: anyone may.
        open_health: Whether health needs no key, so that a kubelet can ask.
    """

    def __init__(self, keys: Keys | None, *, open_health: bool) -> None:
        self._keys = keys
        self._open = f"/{health.SERVICE_NAME}/" if open_health else None

    def caller(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Whose call this is.

        Args:
            method: `/service/method`.
            metadata: The call's, as gRPC gives it.

        Raises:
            Unauthenticated: No key, or one that nobody has.
            Forbidden: The key's role is too low.
        """
        if self._keys is None or (self._open and method.startswith(self._open)):
            return ANYONE
        caller = self._known(self._keys, next((value for name, value in metadata if name == HEADER), ""))
        caller.check_role(ROLES.get(method, Role.ADMIN))
        return caller

    def check(self, authorization: str, needed: Role) -> None:
        """Refuse an HTTP request whose `Authorization` is not a key's of at least a role.

        Raises:
            Unauthenticated: No key, or one that nobody has.
            Forbidden: The key's role is too low.
        """
        if self._keys is not None:
            self._known(self._keys, authorization).check_role(needed)

    @staticmethod
    def _known(keys: Keys, presented: str | bytes) -> Caller:
        if not isinstance(presented, str) or not presented.startswith(SCHEME):
            raise Unauthenticated(
                "This gateway asks for an API key. Send it as `authorization: Bearer KEY`; Roost's own clients take "
                "it from the variable ROOST_API_KEY_FILE."
            )
        return keys.caller(presented.removeprefix(SCHEME))
