"""Whether OpenVINO can read the graph on stdin, and reads nothing else for it: `python -m` this, exit code 0.

A process of its own, since OpenVINO 2026.4 crashes on some graphs with an operator that it does not know.
"""

import sys

import onnx
from google.protobuf.message import DecodeError, Message

from roost_serving.backends.openvino import openvino


def main() -> None:
    """Read the graph, or say on stderr why not."""
    content = sys.stdin.buffer.read()
    try:
        if names_files(onnx.load_model_from_string(content)):
            sys.exit("External data: its weights are in files that the manifest does not list")
        openvino.Core().read_model(content)
    except (DecodeError, RuntimeError) as error:
        sys.exit(" ".join(str(error).split()).rstrip("."))


def names_files(message: Message) -> bool:
    """Whether a tensor anywhere in a model lies in a file of its own, which OpenVINO would open wherever it is."""
    if isinstance(message, onnx.TensorProto):
        return message.data_location == onnx.TensorProto.EXTERNAL or len(message.external_data) > 0
    parts = [value for field, value in message.ListFields() if field.message_type is not None]
    return any(names_files(part) for value in parts for part in ([value] if isinstance(value, Message) else value))


if __name__ == "__main__":
    main()
