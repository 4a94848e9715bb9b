"""What methods put behind an encoder."""

from itertools import pairwise

from torch import nn


def mlp(*widths: int, norm: bool = True, bias: bool = False) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them; by default SimCLR's projector (its appendix B.5).

    Nothing follows the last layer: a method that wants a norm there appends it.

    Args:
        widths: Of the input, of each hidden layer, and of the output.
        norm: Batch norm behind each hidden layer, whose own shift takes the place of a bias.
        bias: Of the last layer.

    Returns:
        A map from (batch, first width) to (batch, last width).
    """
    *hidden, (before, out) = pairwise(widths)
    layers: list[nn.Module] = []
    for width, wider in hidden:
        layers.append(nn.Linear(width, wider, bias=not norm))
        layers += [nn.BatchNorm1d(wider), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(before, out, bias=bias))
