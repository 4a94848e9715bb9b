"""Vision transformers: torchvision's layers, for views of any size and for a part of the patches.

Dosovitskiy and others, ICLR 2021, https://arxiv.org/abs/2010.11929
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vision_transformer import VisionTransformer

from roost.errors import BadSettings
from roost_training.encoders.encoder import Encoder

SHAPES = {  # (patch, layers, heads, width); tiny and small are those of DeiT, https://arxiv.org/abs/2012.12877, table 1
    "vit_xti_16": (16, 6, 4, 128),  # ours: 1.2 million parameters, for CPUs
    "vit_ti_16": (16, 12, 3, 192),
    "vit_s_16": (16, 12, 6, 384),
    "vit_b_16": (16, 12, 12, 768),
    "vit_b_32": (32, 12, 12, 768),
    "vit_l_16": (16, 24, 16, 1024),
    "vit_l_32": (32, 24, 16, 1024),
    "vit_h_14": (14, 32, 16, 1280),
}


class ViT(VisionTransformer, Encoder):
    """torchvision's ViT without its classifier; a feature vector is the class token's.

    Patches are the name's where they fit, and smaller where images are: at least 8 a side. The weights have
    torchvision's names.
    """

    def __init__(self, name: str, *, image_size: int) -> None:
        patch, layers, heads, width = SHAPES[name]
        largest = max(1, min(patch, image_size // 8))
        super().__init__(
            image_size=image_size,
            patch_size=next(side for side in range(largest, 0, -1) if image_size % side == 0),
            num_layers=layers,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
        )
        self.heads = nn.Sequential()
        self.dim = width

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, dim) of images (batch, 3, height, width), whose sides are multiples of the patch's."""
        return self.tokens(x)[:, 0]

    def maps(self, images: Tensor) -> Tensor:
        """The patches' features, (batch, dim, rows, columns)."""
        rows, columns = (side // self.patch_size for side in images.shape[2:])
        return self.tokens(images)[:, 1:].mT.unflatten(2, (rows, columns))

    def tokens(self, images: Tensor, *, kept: Tensor | None = None) -> Tensor:
        """The features of the class token and of the patches.

        Args:
            images: (batch, 3, height, width).
            kept: Which patches each image keeps, int64 (batch, k), counted by rows; all where None.

        Returns:
            (batch, 1 + k, dim): the class token's first.

        Raises:
            BadSettings: The images do not divide into patches.
        """
        if any(side % self.patch_size for side in images.shape[2:]):
            raise BadSettings(
                f"Views of {images.shape[2]} x {images.shape[3]} pixels do not divide into patches of "
                f"{self.patch_size}.",
                patch=self.patch_size,
            )
        patches = self.conv_proj(images)
        embedding = self._positions(*patches.shape[2:])
        x = patches.flatten(2).mT + embedding[:, 1:]
        if kept is not None:
            x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        first = (self.class_token + embedding[:, :1]).expand(x.shape[0], -1, -1)  # len() would fix the exported batch
        x = torch.cat([first, x], dim=1)
        return self.encoder.ln(self.encoder.layers(self.encoder.dropout(x)))

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding for a grid of patches; DINO's interpolation where it is not the one trained on."""
        embedding = self.encoder.pos_embedding
        side = self.image_size // self.patch_size
        if (rows, columns) == (side, side):
            return embedding
        grid = embedding[:, 1:].mT.unflatten(2, (side, side))
        grid = functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([embedding[:, :1], grid.flatten(2).mT], dim=1)
