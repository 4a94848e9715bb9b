"""ONNX Runtime in this process: `onnx://model_repository`."""

import logging

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort  # pyright: ignore[reportAttributeAccessIssue]

from roost import artifact
from roost_serving.backends._local import LocalBackend
from roost_serving.repository import Model

GPU = "CUDAExecutionProvider"
"""Taken where it is there. TensorRT's is not: it builds its engines for minutes at every start."""
CPU = "CPUExecutionProvider"

log = logging.getLogger(__name__)


class Backend(LocalBackend[bytes, onnxruntime.InferenceSession]):
    """Embeds with ONNX Runtime."""

    runtime = "ONNX Runtime"
    scheme = "onnx"
    errors = (
        ort.EPFail,
        ort.Fail,
        ort.InvalidArgument,
        ort.InvalidGraph,
        ort.InvalidProtobuf,
        ort.NoModel,
        ort.NotImplemented,
        ort.RuntimeException,
        RuntimeError,
        ValueError,
    )  # ONNX Runtime's own have no common class but Exception

    async def open(self) -> None:
        """Load every model version and check it on its golden images."""
        if GPU in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # CUDA and cuDNN as the packages of `roost[serving-gpu]` bring them
        await super().open()

    def read(self, content: bytes) -> bytes:
        """The file as it is: each session reads it by itself."""
        return content

    def make(self, model: Model, graph: bytes, *, threads: int, callers: int) -> list[onnxruntime.InferenceSession]:
        """One session for all, on the GPU, where there is one, or on so many threads: with one, the caller's own."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Threads that share an image wait for each other busily, but never between two images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.dynamic_block_base", "4")  # who is held up leaves the others more
        if threads > 1 and self.cores:  # the first is the caller's; ONNX Runtime counts them from 1
            others = ";".join(str(core + 1) for core in self.cores[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", others)
        # A graph may name files that hold its weights, which no manifest vouches for. They would be looked for in the
        # working directory; inside a file, none is found, so that such a graph is refused.
        path = str(model.folder / artifact.MODEL)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", path)
        options.log_severity_level = 3
        providers = [GPU, CPU] if GPU in onnxruntime.get_available_providers() else [CPU]
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
        session._model_bytes = None  # pyright: ignore[reportPrivateUsage] - kept to begin again on another device
        return [session] * callers

    def infer(self, session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""
        (name,) = [node.name for node in session.get_inputs()]
        return np.asarray(session.run(["embedding"], {name: pixels})[0])

    def rest(self, session: onnxruntime.InferenceSession, pixels: np.ndarray) -> None:
        """Give back the memory that runs of a session took, which ONNX Runtime does after a run that asks for it."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        session.run(["embedding"], {session.get_inputs()[0].name: pixels}, options)

    def check(self, model: Model, session: onnxruntime.InferenceSession) -> None:
        """Run a model version on its golden images, and say where it is not run as one may expect."""
        super().check(model, session)
        reference = model.manifest.reference
        if GPU in onnxruntime.get_available_providers() and GPU not in session.get_providers():
            log.warning(
                "%s runs on the CPU: ONNX Runtime found no GPU, or not the libraries that it needs. Install "
                "`roost[serving-gpu]` and NVIDIA's driver to use one; to stay on the CPU, do nothing.",
                reference,
            )
        if model.manifest.precision == "bf16":
            log.warning("%s is for bf16, and ONNX Runtime runs it in fp32. Serve it with openvino://.", reference)
