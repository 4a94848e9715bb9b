"""What every backend does. Runs over every file of `backends/`: a new one needs an entry in `URLS`."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from roost import artifact, plugins
from roost.errors import BackendUnavailable, BadArtifact, BadImage, DeadlineExceeded, UnknownPlugin
from roost_serving import backends
from roost_serving.backends import Embedded

URLS = {
    "onnx": lambda request: ("onnx://", request.getfixturevalue("repository")),
    "openvino": lambda request: ("openvino://", request.getfixturevalue("repository")),
    "triton": lambda request: (request.getfixturevalue("triton").url, request.getfixturevalue("triton_repository")),
}


@pytest.fixture(params=plugins.names(backends))
def connect(request):
    """Make a backend of each kind over a repository with models; not opened."""
    url, repository = URLS[request.param](request)
    return lambda models=repository: backends.connect(url, repository=models, workers=2)


@pytest.fixture
async def backend(connect):
    opened = connect()
    await opened.open()
    yield opened
    await opened.close()


async def test_it_serves_every_model_of_the_repository_in_order(backend):
    served = [(model.manifest.name, model.manifest.version) for model in backend.models]
    root = backend.models[0].folder.parent.parent
    assert served == sorted((path.parent.parent.name, int(path.parent.name)) for path in root.glob("*/*/manifest.json"))
    await backend.ping(timeout=30)


async def test_an_embedding_is_of_unit_length_and_the_images_own(backend, photographs):
    for model in backend.models:
        embedded = await backend.embed(model.manifest, photographs, timeout=60)
        alone = await backend.embed(model.manifest, photographs[2:3], timeout=60)
        vectors = np.stack([each.vector for each in embedded])
        assert vectors.shape == (len(photographs), model.manifest.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(vectors[2], alone[0].vector, atol=1e-5)
        assert all(each.seconds.keys() == {"queue", "decode", "infer"} for each in embedded)


async def test_a_bad_image_gets_its_own_error_and_leaves_the_others_alone(backend, photographs):
    results = await backend.embed(backend.models[0].manifest, [photographs[0], b"no image", photographs[1]])
    assert [type(result) for result in results] == [Embedded, BadImage, Embedded]


async def test_no_images_have_no_embeddings(backend):
    assert await backend.embed(backend.models[0].manifest, []) == []


async def test_work_whose_deadline_has_passed_is_refused(backend, photographs):
    with pytest.raises(DeadlineExceeded):
        await backend.embed(backend.models[0].manifest, photographs, timeout=0)


async def test_a_closed_backend_embeds_nothing(connect, photographs):
    backend = connect()
    await backend.open()
    await backend.close()
    await backend.close()
    with pytest.raises(BackendUnavailable):
        await backend.ping()
    with pytest.raises(BackendUnavailable):
        await backend.embed(backend.models[0].manifest, photographs[:1])


async def test_a_backend_that_was_never_opened_closes(connect):
    await connect().close()


async def test_a_repository_without_a_model_is_refused_and_the_backend_closes(connect, tmp_path):
    backend = connect(tmp_path)
    with pytest.raises(BadArtifact, match="holds no model"):
        await backend.open()
    await backend.close()


async def test_an_altered_model_is_refused(connect, tmp_path):
    folder = tmp_path / "altered" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"as exported")
    given = artifact.Input(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    data = artifact.Data(fingerprint="0" * 64, images=1)
    manifest = artifact.Manifest(name="altered", method="simclr", encoder="vit", input=given, dim=8, data=data)
    artifact.write(folder, manifest, files=["model.onnx"])
    (folder / "model.onnx").write_bytes(b"as altered!")
    backend = connect(tmp_path)
    with pytest.raises(BadArtifact, match="sha256 differs"):
        await backend.open()
    await backend.close()


def test_a_backend_that_does_not_exist_is_named():
    with pytest.raises(UnknownPlugin, match="onnxx"):
        backends.connect("onnxx://", repository=Path(), workers=1)


async def test_images_of_several_models_at_once_get_what_they_get_alone(backend, photographs):
    """A worker may take some of them together."""
    asked = [(model.manifest, image) for image in [*photographs, b"no image"] * 3 for model in backend.models]
    alone = [(await backend.embed(manifest, [image], timeout=60))[0] for manifest, image in asked]
    together = await asyncio.gather(*[backend.embed(manifest, [image], timeout=60) for manifest, image in asked])
    for one, (other,) in zip(alone, together, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Embedded):
            np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)
