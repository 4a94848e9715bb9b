"""Qdrant's engine in a process of its own, behind the part of Qdrant's gRPC API that Roost uses.

`python -m roost_serving.edge FOLDER --listen ADDRESS` is that process; `edge://FOLDER` starts it. The engine holds the
GIL in every call, so it must not live in the gateway.
"""
