"""OpenVINO in this process: `openvino://model_repository`, for CPUs that compute in bf16 or int8.

It runs the graphs that `onnx://` runs, in the precision that each was exported for. Large encoders gain by it; small
ones may not, since a call costs more than ONNX Runtime's.
"""

import logging
import subprocess
import sys

import numpy as np

from roost.errors import MissingDependency
from roost_serving.backends._local import LocalBackend
from roost_serving.repository import Model

try:
    # Importing OpenVINO reports that to its makers, and leaves files in the home folder, where it finds this package.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import openvino
except ModuleNotFoundError as error:
    raise MissingDependency(
        f"openvino:// needs {error.name}, which is not installed. Install Roost with the extra `openvino`; in its "
        "source folder: pip install '.[openvino]'",
        package=error.name or "openvino",
    ) from error

READER = "roost_serving.backends._openvino_reader"
READ_SECONDS = 300

log = logging.getLogger(__name__)


class Backend(LocalBackend[openvino.Model, openvino.InferRequest]):
    """Embeds with OpenVINO, on the CPU."""

    runtime = "OpenVINO"
    scheme = "openvino"
    errors = (RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired)

    def read(self, content: bytes) -> openvino.Model:
        """The graph in an ONNX file, after another process could read it."""
        command = [sys.executable, "-m", READER]
        reader = subprocess.run(command, input=content, capture_output=True, timeout=READ_SECONDS, check=False)
        if reader.returncode < 0:
            raise RuntimeError("its reader crashed, as it does on operators that it does not know")
        if reader.returncode:
            raise RuntimeError(reader.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        return openvino.Core().read_model(content)

    def make(self, model: Model, graph: openvino.Model, *, threads: int, callers: int) -> list[openvino.InferRequest]:
        """Requests on so many threads: with one, the caller's own."""
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the threads are the gateway's, and do more than this
            # Left to itself, it computes in bf16 wherever the CPU can, which fp32's golden embeddings do not allow.
            "INFERENCE_PRECISION_HINT": "bf16" if model.manifest.precision == "bf16" else "f32",
        }
        # A request for each caller of one compiled model would make them wait for each other.
        return [openvino.compile_model(graph, "CPU", options).create_infer_request() for _ in range(callers)]

    def infer(self, session: openvino.InferRequest, pixels: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""
        return session.infer(pixels, share_inputs=True)["embedding"]

    def check(self, model: Model, session: openvino.InferRequest) -> None:
        """Run a model version on its golden images, and say where it is not run as it was exported for."""
        # Two threads that infer for the very first time in a process can wait for each other for ever (a static of
        # OpenVINO 2026.4.1's NumPy bindings against the GIL). This, of the first model and on one thread, is before.
        super().check(model, session)
        precision = session.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        if model.manifest.precision == "bf16" and precision != openvino.Type.bf16:
            log.warning(
                "%s is for bf16, which this CPU cannot compute in: it runs in %s, no faster than an export in fp32.",
                model.manifest.reference,
                precision.get_type_name(),
            )
