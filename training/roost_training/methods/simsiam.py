"""SimSiam: predict the image's other view, with no gradient through it and no copy of the network.

Chen, He, CVPR 2021, https://arxiv.org/abs/2011.10566
"""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks.heads import mlp


class Config(methods.Config):
    """SimSiam's settings."""

    dim: PositiveInt = 512  # the paper: 2048 behind ResNet-50's 2048 features
    bottleneck: PositiveInt = 128  # the paper: 512, a quarter of `dim` too
    """Width of the predictor's hidden layer."""


class Method(methods.Method):
    """Draws each view's prediction to the other view's projection, which stands still."""

    constant_rate = ("predictor",)  # section 4.2, table 1 (c)

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        projector = mlp(feature_dim, config.dim, config.dim, config.dim)
        # The authors' code scales and shifts nothing after the last norm.
        self.projector = nn.Sequential(*projector, nn.BatchNorm1d(config.dim, affine=False))
        self.predictor = mlp(config.dim, config.bottleneck, config.dim, bias=True)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size), and the projections' spread.

        `spread` is the standard deviation of unit-length projections times the square root of their length: near 1
        where they use every direction, 0 where they have collapsed (section 4.1).
        """
        za, zb = (self.projector(self.encoder(view)) for view in views)
        pa, pb = self.predictor(za), self.predictor(zb)
        spread = functional.normalize(za.detach().float(), dim=1).std(0).mean() * za.shape[1] ** 0.5
        return {"loss": (negative_cosine(pa, zb) + negative_cosine(pb, za)) / 2, "spread": spread}


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity (equation 1), mean over rows.

    Args:
        p: Predictions, shape (batch, dim).
        z: Projections of the other view, shape (batch, dim); no gradient reaches them.

    Returns:
        A scalar from -1 to 1; -1 where all have one direction, collapsed or not.

    Raises:
        ValueError: Two shapes.
    """
    if p.shape != z.shape:
        raise ValueError(f"predictions of shape {tuple(p.shape)} for projections of shape {tuple(z.shape)}")
    return -functional.cosine_similarity(p.float(), z.detach().float(), dim=1).mean()
