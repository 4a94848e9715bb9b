"""Every error that Roost raises on purpose.

RoostError
├── BadImage             INVALID_ARGUMENT     bytes that are no readable image
├── BadVector            INVALID_ARGUMENT     a vector of the wrong length, or not finite
├── BadRequest           INVALID_ARGUMENT     a request that contradicts its own description
├── BadPageToken         INVALID_ARGUMENT     a page token from elsewhere
├── BadSettings          INVALID_ARGUMENT     an unknown setting, or a value out of range
├── BadData              INVALID_ARGUMENT     a training folder that cannot be trained on
├── UnknownPlugin        INVALID_ARGUMENT     a method, format, backend or store of that name does not exist
├── UnknownModel         NOT_FOUND            a model or version that is not served
├── UnknownItem          NOT_FOUND            an item that is not stored
├── BadArtifact          FAILED_PRECONDITION  an artifact that is incomplete, altered or of another schema
├── BadEmbedding         FAILED_PRECONDITION  an image of which the model makes no embedding of unit length
├── NoClusters           FAILED_PRECONDITION  the model was exported but its clusters were never fitted
├── ParityFailed         FAILED_PRECONDITION  an exported model that does not repeat the trained embeddings
├── MissingDependency    FAILED_PRECONDITION  a package or device that this step needs
├── TrainingFailed       FAILED_PRECONDITION  a run that diverged or collapsed
├── TooLarge             RESOURCE_EXHAUSTED   an image or request over a byte, pixel or item limit
├── Overloaded           RESOURCE_EXHAUSTED   the gateway holds as much work as it may; try again later
├── RateLimited          RESOURCE_EXHAUSTED   the caller's key has spent its rate; try again later
├── DiskFull             RESOURCE_EXHAUSTED   a disk has no space left
├── Unauthenticated      UNAUTHENTICATED      no API key, or one that the gateway does not know
├── Forbidden            PERMISSION_DENIED    the key may not do this, or not with this model
├── DeadlineExceeded     DEADLINE_EXCEEDED    the caller's deadline passed first
├── BackendUnavailable   UNAVAILABLE          the model server cannot be reached
├── StoreUnavailable     UNAVAILABLE          the vector store cannot be reached
├── GatewayUnavailable   UNAVAILABLE          the gateway cannot be reached
└── Unexpected           INTERNAL             a fault of Roost's own; its text stays in the server's log

`code` is the name of the gRPC status; `reason` is the machine-readable reason in the status' one
`google.rpc.ErrorInfo`, whose metadata are the error's facts.
"""

from typing import ClassVar

DOMAIN = "roost"


class RoostError(Exception):
    """An error that says what happened and what to do.

    Args:
        message: One or two sentences for a person.
        facts: The values in the message, for a program.
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: ClassVar[str] = "UNSPECIFIED"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = {name: str(value) for name, value in facts.items()}


class BadImage(RoostError):
    """Bytes that are no image, or one that cannot be read to its end."""

    code = "INVALID_ARGUMENT"
    reason = "BAD_IMAGE"


class BadVector(RoostError):
    """A vector of the wrong length, of zero length, or with a value that is not finite."""

    code = "INVALID_ARGUMENT"
    reason = "BAD_VECTOR"


class BadRequest(RoostError):
    """A request that contradicts its own description."""

    code = "INVALID_ARGUMENT"
    reason = "BAD_REQUEST"


class BadPageToken(RoostError):
    """A page token that this list did not give."""

    code = "INVALID_ARGUMENT"
    reason = "BAD_PAGE_TOKEN"


class BadSettings(RoostError):
    """A setting that does not exist, or a value that it cannot take."""

    code = "INVALID_ARGUMENT"
    reason = "BAD_SETTINGS"


class BadData(RoostError):
    """A folder of images that cannot be trained on."""

    code = "INVALID_ARGUMENT"
    reason = "BAD_DATA"


class UnknownPlugin(RoostError):
    """No method, export format, backend or store of that name."""

    code = "INVALID_ARGUMENT"
    reason = "UNKNOWN_PLUGIN"


class UnknownModel(RoostError):
    """A model or model version that is not served."""

    code = "NOT_FOUND"
    reason = "UNKNOWN_MODEL"


class UnknownItem(RoostError):
    """An item that is not stored."""

    code = "NOT_FOUND"
    reason = "UNKNOWN_ITEM"


class BadArtifact(RoostError):
    """An artifact that is incomplete, altered, or of another schema."""

    code = "FAILED_PRECONDITION"
    reason = "BAD_ARTIFACT"


class BadEmbedding(RoostError):
    """An image of which the model makes no embedding of unit length; its other images may be well."""

    code = "FAILED_PRECONDITION"
    reason = "BAD_EMBEDDING"


class NoClusters(RoostError):
    """The model's clusters were never fitted."""

    code = "FAILED_PRECONDITION"
    reason = "NO_CLUSTERS"


class ParityFailed(RoostError):
    """An exported model that does not repeat the embeddings that training gave."""

    code = "FAILED_PRECONDITION"
    reason = "PARITY_FAILED"


class MissingDependency(RoostError):
    """A package or a device that this step needs and that is not here."""

    code = "FAILED_PRECONDITION"
    reason = "MISSING_DEPENDENCY"


class TrainingFailed(RoostError):
    """A training run that diverged or collapsed."""

    code = "FAILED_PRECONDITION"
    reason = "TRAINING_FAILED"


class TooLarge(RoostError):
    """An image or a request over a byte, pixel or item limit; the same request will never be taken."""

    code = "RESOURCE_EXHAUSTED"
    reason = "TOO_LARGE"


class Overloaded(RoostError):
    """The gateway holds as much work as it may. The fact `retry_after_seconds` says when to try again."""

    code = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"


class RateLimited(RoostError):
    """The caller's key has spent its rate. The fact `retry_after_seconds` says when to try again."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RATE_LIMITED"


class DiskFull(RoostError):
    """A disk has no space left; what was acknowledged is kept. A call may succeed once someone has freed some."""

    code = "RESOURCE_EXHAUSTED"
    reason = "DISK_FULL"


class Unauthenticated(RoostError):
    """No API key where the gateway asks for one, or one that it does not know."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class Forbidden(RoostError):
    """The caller's key may not do this, or not with this model."""

    code = "PERMISSION_DENIED"
    reason = "FORBIDDEN"


class DeadlineExceeded(RoostError):
    """The caller's deadline passed before the answer was there."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class BackendUnavailable(RoostError):
    """The model server cannot be reached, or does not answer."""

    code = "UNAVAILABLE"
    reason = "BACKEND_UNAVAILABLE"


class StoreUnavailable(RoostError):
    """The vector store cannot be reached, or does not answer."""

    code = "UNAVAILABLE"
    reason = "STORE_UNAVAILABLE"


class GatewayUnavailable(RoostError):
    """The gateway cannot be reached, or closed the connection."""

    code = "UNAVAILABLE"
    reason = "GATEWAY_UNAVAILABLE"


class Unexpected(RoostError):
    """A fault of Roost's own. The server's log has its text; a caller sees only that it happened."""

    code = "INTERNAL"
    reason = "INTERNAL"


def by_reason() -> dict[str, type[RoostError]]:
    """The error class of each reason."""
    return {error.reason: error for error in RoostError.__subclasses__()}
