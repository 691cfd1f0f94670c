"""Attributes that are numbers or vectors, as input of a tower: standardised, then a linear layer."""

from collections.abc import Mapping

import torch
from torch import nn

from trainer.storage.attributes import DenseFeature


class DenseInputs(nn.Module):
    """A linear layer for each number or vector; its output stands beside the pooled rows of the tables."""

    def __init__(self, widths: Mapping[str, int], outputs: int, std: float) -> None:
        """Make the layers, on the CPU.

        Args:
            widths: Numbers in each attribute, by its name; 1 for a number.
            outputs: Width of each layer's output.
            std: Standard deviation of initial weights. Standardised rows have a length of about 1, so that
                outputs begin as long as a row of a table that begins with the same deviation.
        """
        super().__init__()
        self.widths = dict(widths)
        self.layers = nn.ModuleDict(
            {name: StandardisedLinear(width, outputs, std) for name, width in widths.items()}
        )

    def forward(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return the output of each layer, (B, outputs).

        Args:
            values: All attributes side by side in the order of `widths`, (B, sum of widths); NaN is missing.
        """
        parts = values.split(list(self.widths.values()), dim=1)
        return [layer(part) for layer, part in zip(self.layers.values(), parts, strict=True)]

    def set_scales(self, features: Mapping[str, DenseFeature]) -> None:
        """Set what attributes are standardised by, before the model is sharded.

        Args:
            features: The attributes of the data set, by the names of `widths`.
        """
        for name, layer in self.layers.items():
            assert isinstance(layer, StandardisedLinear)
            layer.center.copy_(torch.tensor(features[name].center))
            layer.scale.fill_(features[name].scale)


class StandardisedLinear(nn.Module):
    """A linear layer over (x - center) / scale; missing rows have a trained vector of their own.

    Center and scale are part of the model's state: a training that starts from this one on other data
    continues with them, since the weights mean something only with them.
    """

    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, outputs: int, std: float) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.weight = nn.Parameter(torch.empty(outputs, width + 1).normal_(0, std))
        with torch.no_grad():
            self.weight[:, -1] = 0  # of missing rows: stays zero where training has none

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (B, outputs) for values of (B, width), with NaN in missing rows."""
        missing = values.isnan().any(1, keepdim=True)
        scaled = ((values - self.center) / self.scale).masked_fill(missing, 0)
        return nn.functional.linear(torch.cat([scaled, missing.to(scaled.dtype)], dim=1), self.weight)
