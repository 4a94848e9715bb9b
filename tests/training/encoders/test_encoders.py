import pytest
import torch
from safetensors.torch import save_file

from roost import artifact
from roost.errors import BadArtifact, BadSettings, UnknownPlugin
from roost_training import encoders

LIGHT = ["resnet10w32", "resnet18", "resnet34", "resnet50", "vit_ti_16"]
"""Those that a test can afford to run; the rest differ in depth and width only."""


@pytest.mark.parametrize("size", [28, 96])
@pytest.mark.parametrize("name", LIGHT)
def test_an_encoder_gives_features_of_the_length_it_says(name, size):
    encoder, dim = encoders.build(name, image_size=size)
    with torch.inference_mode():
        features = encoder.eval()(torch.zeros(2, 3, size, size))
    assert features.shape == (2, dim)


def test_every_name_builds_without_its_classification_head():
    with torch.device("meta"):
        sizes = {name: encoders.build(name, image_size=224)[1] for name in encoders.names()}
    assert sizes["resnet18"] == sizes["resnet34"] == 512
    assert sizes["resnet50"] == sizes["resnet101"] == sizes["resnet152"] == 2048
    assert (sizes["vit_b_16"], sizes["vit_l_32"], sizes["vit_h_14"]) == (768, 1024, 1280)


def test_the_small_resnet_has_one_and_a_quarter_million_parameters():
    encoder, dim = encoders.build("resnet10w32", image_size=32)
    assert dim == 256
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 1_226_400


def test_small_images_get_a_stem_that_keeps_their_resolution():
    small, _ = encoders.build("resnet18", image_size=64)
    large, _ = encoders.build("resnet18", image_size=65)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, torch.nn.Identity)
    assert large.conv1.stride == (2, 2)


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (28, 2), (96, 12), (224, 16)])
def test_a_vit_cuts_its_image_into_patches_that_divide_it(size, patch):
    with torch.device("meta"):
        encoder, _ = encoders.build("vit_b_16", image_size=size)
    assert encoder.patch_size == patch


def test_a_wrong_name_is_refused_with_the_nearest_right_one():
    with pytest.raises(UnknownPlugin, match="Did you mean 'resnet18'"):
        encoders.build("resnet81", image_size=32)


def test_images_of_less_than_eight_pixels_are_refused():
    with pytest.raises(BadSettings, match="7 pixels"):
        encoders.build("resnet18", image_size=7)


def test_an_embedder_normalises_pixels_before_and_length_after():
    pixels = torch.tensor([[[[0, 102, 255]]]], dtype=torch.uint8)  # 0, 0.4 and 1
    embedder = encoders.Embedder(torch.nn.Flatten(), mean=(0.0, 0.4, 0.5), std=(1.0, 0.1, 0.5))
    assert torch.allclose(embedder(pixels), torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-6)


@pytest.fixture
def run(tmp_path):
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    save_file(encoder.state_dict(), tmp_path / encoders.WEIGHTS)
    manifest = artifact.Manifest(
        name="digits",
        method="simclr",
        encoder="resnet10w32",
        input=artifact.Input(size=16, resize=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        dim=dim,
        data=artifact.Data(fingerprint="0" * 64, images=1),
    )
    return encoder, tmp_path, artifact.write(tmp_path, manifest, files=[encoders.WEIGHTS])


def test_a_restored_encoder_embeds_as_the_one_that_was_saved(run):
    encoder, folder, manifest = run
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    expected = encoders.Embedder(encoder.eval(), mean=manifest.input.mean, std=manifest.input.std)(pixels)
    embeddings = encoders.restore(folder, manifest)(pixels)
    assert torch.equal(embeddings, expected)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3))


def test_a_whitening_is_restored_with_its_encoder(tmp_path, run):
    encoder, _, manifest = run
    whitening = torch.nn.Linear(256, 4)
    embedder = encoders.Embedder(encoder, mean=manifest.input.mean, std=manifest.input.std, whitening=whitening).eval()
    encoders.save(tmp_path, embedder)
    written = artifact.write(tmp_path, manifest.model_copy(update={"dim": 4}), files=[encoders.WEIGHTS])
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    embeddings = encoders.restore(tmp_path, written)(pixels)
    assert embeddings.shape == (3, 4)
    assert torch.equal(embeddings, embedder(pixels))


def test_weights_of_another_encoder_are_refused(run):
    _, folder, manifest = run
    with pytest.raises(BadArtifact, match="no weights of resnet18"):
        encoders.restore(folder, manifest.model_copy(update={"encoder": "resnet18"}))
