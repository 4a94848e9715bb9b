from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_IMAGE: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_VECTOR: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_PAGE_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_SETTINGS: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_DATA: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_PLUGIN: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_MODEL: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_ITEM: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_ARTIFACT: _ClassVar[ErrorReason]
    ERROR_REASON_NO_CLUSTERS: _ClassVar[ErrorReason]
    ERROR_REASON_PARITY_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_DEPENDENCY: _ClassVar[ErrorReason]
    ERROR_REASON_TRAINING_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_DISK_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_BACKEND_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_GATEWAY_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_FORBIDDEN: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_EMBEDDING: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_BAD_IMAGE: ErrorReason
ERROR_REASON_BAD_VECTOR: ErrorReason
ERROR_REASON_BAD_REQUEST: ErrorReason
ERROR_REASON_BAD_PAGE_TOKEN: ErrorReason
ERROR_REASON_BAD_SETTINGS: ErrorReason
ERROR_REASON_BAD_DATA: ErrorReason
ERROR_REASON_UNKNOWN_PLUGIN: ErrorReason
ERROR_REASON_UNKNOWN_MODEL: ErrorReason
ERROR_REASON_UNKNOWN_ITEM: ErrorReason
ERROR_REASON_BAD_ARTIFACT: ErrorReason
ERROR_REASON_NO_CLUSTERS: ErrorReason
ERROR_REASON_PARITY_FAILED: ErrorReason
ERROR_REASON_MISSING_DEPENDENCY: ErrorReason
ERROR_REASON_TRAINING_FAILED: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_DISK_FULL: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_BACKEND_UNAVAILABLE: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_GATEWAY_UNAVAILABLE: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_FORBIDDEN: ErrorReason
ERROR_REASON_BAD_EMBEDDING: ErrorReason
