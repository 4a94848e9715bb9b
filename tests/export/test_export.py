import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from roost import artifact, plugins
from roost.errors import BadArtifact, BadSettings, MissingDependency, ParityFailed, UnknownPlugin
from roost_export import formats, parity
from roost_export.export import export
from roost_serving import repository as served
from roost_training import encoders


def config_of(folder) -> model_config_pb2.ModelConfig:
    return text_format.Parse((folder.parent / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def copy_run(run, tmp_path, **changes):
    """The run again, with arrays of golden.npz changed and the manifest made to fit."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with np.load(copy / "golden.npz") as saved:
        arrays = dict(saved)
    np.savez(copy / "golden.npz", **arrays | changes)
    manifest = artifact.read(copy, verify=())
    artifact.write(copy, manifest, files=manifest.files)
    return copy


def test_every_family_of_encoders_repeats_its_golden_embeddings(any_exported):
    assert len(any_exported.parity.rows) == 7  # one row a golden image
    assert any_exported.parity.max_abs_difference < 1e-5
    assert any_exported.parity.min_cosine > 1 - 1e-6


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_graph_takes_uint8_pixels_in_batches_of_any_size(exported, run, batch):
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    embeddings = session.run(["embedding"], {"image": pixels})[0]
    with torch.inference_mode():
        expected = encoders.restore(run, artifact.read(run))(torch.from_numpy(pixels)).numpy()
    assert embeddings.dtype == np.float32
    assert np.abs(embeddings - expected).max() < 1e-5


def test_the_graph_is_one_checked_file_of_the_asked_operator_set(exported):
    model = onnx.load(exported.folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(path.name for path in exported.folder.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [20]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_what_is_trained_as_a_product_of_matrices_is_exported_as_a_convolution(exported):
    operators = [node.op_type for node in onnx.load(exported.folder / "model.onnx").graph.node]
    assert operators.count("Conv") == 12  # eight in pairs, the stem, and three between stages


def test_pixels_become_floats_before_they_are_transposed(exported):
    graph = onnx.load(exported.folder / "model.onnx").graph
    maker = {output: node.op_type for node in graph.node for output in node.output}
    transposed = next(node.input[0] for node in graph.node if node.op_type == "Transpose")
    assert maker[transposed] == "Cast"  # TensorRT transposes no uint8


def test_the_gateway_reads_what_export_wrote(exported, repository):
    (model,) = served.scan(repository)
    assert model.manifest == exported.manifest
    assert model.manifest.reference == "small@1"


def test_the_manifest_keeps_training_figures_and_adds_its_own(exported):
    quality = exported.manifest.quality
    assert quality["knn20_accuracy"] == 0.5
    assert quality["parity_max_abs_difference"] == exported.parity.max_abs_difference
    assert quality["parity_min_cosine"] == exported.parity.min_cosine


def test_triton_reads_the_configuration(exported):
    config = config_of(exported.folder)
    (given,), (gives,) = config.input, config.output
    assert (config.name, config.backend, config.max_batch_size) == ("small", "onnxruntime", 64)
    assert (given.name, given.data_type, list(given.dims)) == ("image", model_config_pb2.TYPE_UINT8, [32, 32, 3])
    assert (gives.name, gives.data_type, list(gives.dims)) == ("embedding", model_config_pb2.TYPE_FP32, [256])
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 64]
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    assert config.version_policy.HasField("all")
    assert not config.optimization.HasField("execution_accelerators")


def test_a_version_for_bf16_has_the_file_of_fp32_and_says_how_far_bf16_is(exported, run, tmp_path):
    rounded = export(run, repository=tmp_path, precision="bf16")
    assert artifact.read(rounded.folder).precision == "bf16"
    assert rounded.manifest.files == exported.manifest.files
    assert 1e-5 < rounded.parity.max_abs_difference < 0.05  # eight bits of mantissa
    assert rounded.manifest.quality["parity_min_cosine"] == rounded.parity.min_cosine > 0.99


def test_bf16_that_is_too_far_leaves_nothing_behind(run, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "LEAST_COSINE", 1.1)
    with pytest.raises(ParityFailed, match=r"mean cosine .* Export in fp32"):
        export(run, repository=tmp_path / "repository", precision="bf16")
    assert not (tmp_path / "repository").exists()


def test_the_next_export_is_the_next_version_and_leaves_the_first_alone(exported, run, tmp_path):
    shutil.copytree(exported.folder.parent, tmp_path / "small")
    before = {path.name: path.read_bytes() for path in (tmp_path / "small" / "1").iterdir()}
    told = []
    second = export(run, repository=tmp_path, accelerator="tensorrt", max_batch=8, progress=told.append)
    assert second.manifest.reference == "small@2"
    assert second.folder == tmp_path / "small" / "2"
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "small" / "1").iterdir()}
    assert told == ["reading the run", "writing model.onnx", "comparing golden images"]
    assert [model.manifest.version for model in served.scan(tmp_path)] == [1, 2]
    config = config_of(second.folder)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_profile_max_shapes"] == "image:8x32x32x3"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_a_version_for_the_python_backend_has_its_program_among_its_hashed_files(triton_repository):
    (model,) = served.scan(triton_repository)
    assert set(model.manifest.files) == {"golden.npz", "model.onnx", "model.py"}
    assert config_of(model.folder).backend == "python"


def test_a_model_that_does_not_repeat_training_is_refused_and_leaves_nothing(run, tmp_path):
    with np.load(run / "golden.npz") as saved:
        embeddings = saved["embeddings"].copy()
    embeddings[3, 5] += 2e-3
    changed = copy_run(run, tmp_path, embeddings=embeddings)
    with pytest.raises(ParityFailed, match=r"Golden image 3 differs by 0\.002"):
        export(changed, repository=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("file", ["encoder.safetensors", "golden.npz", "manifest.json"])
def test_a_run_with_a_missing_file_is_refused(run, tmp_path, file):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / file).unlink()
    with pytest.raises(BadArtifact, match=file):
        export(tmp_path / "run", repository=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_run_with_one_flipped_bit_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    weights = tmp_path / "run" / "encoder.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadArtifact, match="sha256"):
        export(tmp_path / "run", repository=tmp_path / "repository")


def test_golden_images_of_another_size_are_refused(run, tmp_path):
    changed = copy_run(run, tmp_path, pixels=np.zeros((7, 16, 16, 3), np.uint8))
    with pytest.raises(BadArtifact, match=r"\(n, 32, 32, 3\)"):
        export(changed, repository=tmp_path / "repository")


def test_weights_of_another_encoder_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder": "resnet18"}))
    with pytest.raises(BadArtifact, match="resnet18"):
        export(tmp_path / "run", repository=tmp_path / "repository")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "no model name"),
        ({"name": "Digits"}, "no model name"),
        ({"backend": "pytorch"}, "onnxruntime and python can"),
        ({"accelerator": "openvino"}, "There is: tensorrt"),
        ({"accelerator": "tensorrt", "backend": "python"}, "goes with"),
        ({"max_batch": 0}, "1 or more"),
        ({"instances": 0}, "1 or more"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run, tmp_path, options, message):
    with pytest.raises(BadSettings, match=message):
        export(run, repository=tmp_path / "repository", **options)
    assert not (tmp_path / "repository").exists()


def test_a_mistyped_format_is_answered_with_the_nearest(run, tmp_path):
    with pytest.raises(UnknownPlugin, match="Did you mean 'onnx'"):
        export(run, repository=tmp_path, format="onxx")


def test_a_tensorrt_plan_where_there_is_no_tensorrt_says_in_one_line_what_is_missing(run, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there may be TensorRT here")
    with pytest.raises(MissingDependency, match=r"`tensorrt`|GPU") as caught:
        export(run, repository=tmp_path / "repository", format="tensorrt")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("name", plugins.names(formats))
def test_every_format_holds_what_a_format_holds(name):
    chosen = formats.load(name)
    assert chosen.FILE.startswith("model.")
    assert chosen.BACKEND
    assert all(callable(part) for part in (chosen.check, chosen.write, chosen.load))


def test_weights_that_do_not_fit_into_one_file_are_refused(tmp_path):
    module = torch.nn.Linear(2**15, 2**14, bias=False, device="meta")  # 2^29 weights of 4 bytes: one byte too many
    shape = formats.Shape(size=32, max_batch=1, opset=20)
    with pytest.raises(BadSettings, match="2147483648 bytes"):
        formats.load("onnx").write(module, tmp_path / "model.onnx", shape=shape)
