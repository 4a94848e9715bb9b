"""The gateway's protocol, version 1: `gateway.proto` and the code that `make proto` generates from it."""
