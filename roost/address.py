"""Where a gateway is looked for. Apart from the client, so that `roost --help` can say it without loading gRPC."""

DEFAULT_TARGET = "127.0.0.1:50051"
