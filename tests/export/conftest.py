"""Runs of several encoders, and what they were exported as."""

import pytest

from roost_export.export import Exported, export


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return tmp_path_factory.mktemp("export") / "repository"


@pytest.fixture(scope="session")
def exported(run, repository) -> Exported:
    """The run `small`, for Triton's ONNX Runtime backend."""
    return export(run, repository=repository)


@pytest.fixture(scope="session", params=["resnet10w32", "resnet18", "vit_ti_16"])
def any_exported(request, exported, make_run, tmp_path_factory) -> Exported:
    """An encoder of each family."""
    if request.param == exported.manifest.encoder:
        return exported
    folder = tmp_path_factory.mktemp("encoders")
    run = make_run(folder / request.param, encoder=request.param)
    return export(run, repository=folder / "repository")
