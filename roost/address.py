"""What a caller assumes of a gateway. Apart from the client, so that `roost --help` can say it without loading gRPC."""

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 30.0  # seconds
