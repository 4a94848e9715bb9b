"""The online half of Roost: a gRPC gateway over a model backend and a vector store. Needs no torch."""
