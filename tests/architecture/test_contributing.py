"""The method that CONTRIBUTING.md shows is a method."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from roost_training import encoders, methods

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The file that the page shows, among the methods."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "align_uniform.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    return "align_uniform"


def test_the_shown_method_is_found_and_its_loss_is_the_papers(shown):
    assert shown in methods.names()
    method = methods.load(shown).Method(methods.configure(shown, {"uniformity": 0.5}), nn.Flatten(), 4)
    method.projector = nn.Identity()
    views = torch.eye(4)[:, :, None, None]
    figures = method([views, views])
    # Equal views are aligned; all pairs are sqrt(2) apart, and log(exp(-2 * 2)) is -4.
    assert figures["alignment"].item() == 0
    assert figures["loss"].item() == pytest.approx(0.5 * -4)


def test_the_shown_method_trains_an_encoder(shown):
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=32)
    method = methods.load(shown).Method(methods.configure(shown, {}), encoder, dim)
    method([torch.rand(16, 3, 32, 32), torch.rand(16, 3, 32, 32)])["loss"].backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
