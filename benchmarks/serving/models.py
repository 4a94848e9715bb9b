"""The models that are served: encoders that have learnt nothing, since speed is all that is asked of them.

They are made by Roost's own export from a run such as training leaves, and kept in the work folder.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roost import artifact, folder, preprocess
from roost.errors import BadData

MAX_BATCH = 8
"""Of Triton's dynamic batcher: on a CPU larger batches are hardly faster, and callers wait longer for them."""
CALIBRATION_IMAGES = 128
CHECKED_IMAGES = 16
PEERS = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class Model:
    """An encoder and the size of its images, in pixels."""

    encoder: str
    size: int

    @property
    def resize(self) -> int:
        """Side that the central square is scaled to first, as is usual for ImageNet: 256 for 224."""
        return self.size * 8 // 7


MODELS = {"resnet18": Model("resnet18", 224), "resnet10w32": Model("resnet10w32", 32)}


@dataclass(frozen=True)
class Made:
    """A model's files in the work folder."""

    name: str
    model: Model
    folder: Path

    def repository(self, precision: str) -> Path:
        """Model repository that holds the model alone; `precision` is fp32 or int8."""
        return self.folder / precision

    def version(self, precision: str) -> Path:
        """The artifact in that repository."""
        return self.repository(precision) / self.name / "1"

    @property
    def jpeg_repository(self) -> Path:
        """Repository of the Triton model that takes JPEG files."""
        return self.folder / "jpeg"


def pick(root: Path, count: int) -> list[Path]:
    """JPEG files from all over a folder, at most `count`, in order of name.

    Raises:
        BadData: There is none.
    """
    files = [root / file.name for file in folder.find(root) if file.name.lower().endswith((".jpg", ".jpeg"))]
    if not files:
        raise BadData(f"{root} has no JPEG files. Give a folder of photographs.", path=root)
    places = np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)
    return [files[place] for place in places]


def make(name: str, *, images: Path, work: Path, cores: int) -> Made:
    """Make what is missing of a model: the run, fp32, int8, and Triton's own repository.

    Args:
        name: One of `MODELS`.
        images: Folder of photographs; int8 is calibrated on some of them.
        work: Where everything is kept.
        cores: Instances of the model that Triton runs.
    """
    made = Made(name, MODELS[name], work / name)
    run = made.folder / "run" / name
    if not (run / artifact.MANIFEST).exists():
        shutil.rmtree(run, ignore_errors=True)
        _write_run(run, made.model, pick(images, CHECKED_IMAGES))
    for precision in ("fp32", "int8"):
        if not made.version(precision).exists():
            _export(made, run, images=images, precision=precision, cores=cores)
    _write_jpeg_repository(made, cores=cores)
    return made


def _write_run(run: Path, model: Model, files: list[Path]) -> None:
    import torch
    from safetensors.torch import save_file

    from roost_training import encoders

    torch.manual_seed(0)
    encoder, dim = encoders.build(model.encoder, image_size=model.size)
    given = artifact.Input(size=model.size, resize=model.resize, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    embedder = encoders.Embedder(encoder, mean=given.mean, std=given.std).eval()
    pixels = np.stack([preprocess.decode(path.read_bytes(), size=given.size, resize=given.resize) for path in files])
    with torch.inference_mode():
        embeddings = embedder(torch.from_numpy(pixels)).numpy()
    run.mkdir(parents=True)
    save_file(encoder.state_dict(), run / encoders.WEIGHTS)
    np.savez(run / artifact.GOLDEN, pixels=pixels, embeddings=embeddings)
    manifest = artifact.Manifest(
        name=run.name,
        method="simclr",
        encoder=model.encoder,
        input=given,
        dim=dim,
        data=artifact.Data(fingerprint="0" * 64, images=len(files)),
    )
    artifact.write(run, manifest, files=[encoders.WEIGHTS, artifact.GOLDEN])


def _export(made: Made, run: Path, *, images: Path, precision: str, cores: int) -> None:
    from roost_export.export import export

    # Without subfolders, whose names would be taken as classes: this encoder tells none apart.
    calibration = made.folder / "calibration"
    if precision == "int8" and not calibration.exists():
        calibration.mkdir(parents=True)
        for place, path in enumerate(pick(images, CALIBRATION_IMAGES)):
            shutil.copyfile(path, calibration / f"{place}.jpg")
    export(
        run,
        repository=made.repository(precision),
        backend="python",
        precision=precision,
        images=calibration,
        max_batch=MAX_BATCH,
        instances=cores,
    )


def _write_jpeg_repository(made: Made, *, cores: int) -> None:
    """Write what Triton's peer serves: a Python model that decodes JPEG files and runs the same ONNX file."""
    version = made.jpeg_repository / made.name / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made.version("fp32") / artifact.MODEL, version / artifact.MODEL)
    shutil.copyfile(PEERS / "encoder.py", version / "encoder.py")
    shutil.copyfile(PEERS / "triton_model.py", version / "model.py")
    dim = artifact.read(made.version("fp32"), verify=()).dim
    (version.parent / "config.pbtxt").write_text(f"""\
name: "{made.name}"
backend: "python"
max_batch_size: {MAX_BATCH}
input [ {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
instance_group [ {{ count: {cores} kind: KIND_CPU }} ]
dynamic_batching {{ }}
parameters [
  {{ key: "size" value: {{ string_value: "{made.model.size}" }} }},
  {{ key: "resize" value: {{ string_value: "{made.model.resize}" }} }}
]
""")
