"""The method that CONTRIBUTING.md shows is a method."""

import re
from pathlib import Path

import pytest
import torch

from roost_training import encoders, methods

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The file that the page shows, among the methods."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "align_uniform.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    return "align_uniform"


def test_the_shown_method_is_found_configured_and_learns(shown):
    assert shown in methods.names()
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=32)
    method = methods.load(shown).Method(methods.configure(shown, {"uniformity": 0.5}), encoder, dim)
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    views = [torch.rand(16, 3, 32, 32), torch.rand(16, 3, 32, 32)]
    losses = []
    for _ in range(5):
        loss = method(views)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
