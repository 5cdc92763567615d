"""NSARM's transformation network: counts, released layout, and how its rows are read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.bsq import quantized, scales_of
from lightning_modules.networks.transformation import (
    Branch,
    LatentEstimate,
    Transformation,
    from_official,
)

SMALL = [Branch(8, 1, 2), Branch(12, 2, 3)]


def small(**options: object) -> Transformation:
    torch.manual_seed(0)
    arguments = {"bits": 3, "size": (6, 8), "grids": [(2, 3), (6, 8)], "branches": SMALL}
    return Transformation(**{**arguments, **options}).eval()  # type: ignore[arg-type]


def official(network: Transformation) -> dict[str, Tensor]:
    """Its weights by the names of the release."""
    parts = {"local": "feature_transforms", "whole": "transformers", "out": "output_projs"}
    found = {}
    for name, tensor in network.state_dict().items():
        words = name.split(".")
        if words[0] == "trunk":
            words[0] = "feature_extractor"
        else:
            words[:3] = [parts[words[2]], words[1]]
        found["map_transformer." + ".".join(words)] = tensor
    return found


@pytest.mark.parametrize("prefix", ["map_transformer.", ""])
def test_released_weights(prefix: str) -> None:
    network, other = small(), small()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    tensors = {name.replace("map_transformer.", prefix): t for name, t in official(other).items()}
    if prefix:  # in one file with the transformer
        tensors["word_embed.weight"] = torch.zeros(3, 3)
    network.load_state_dict(from_official(tensors))
    z = torch.randn(2, 3, 6, 8)
    for one, two in zip(network(z), other(z), strict=True):
        assert torch.equal(one, two)
    more = from_official({**tensors, f"{prefix}another.weight": torch.zeros(3)})
    assert len(more) == len(network.state_dict()) + 1  # not left out: loading refuses it


def test_rows_are_read_as_they_lie_in_memory() -> None:
    network, z = small(), torch.randn(2, 3, 6, 8)
    rows: list[Tensor] = []
    for branch in network.branches:
        branch.register_forward_hook(lambda module, given, found: rows.append(found))
    for found, row, grid in zip(network(z), rows, network.grids, strict=True):
        assert row.shape == (2, grid[0] * grid[1], 3)
        assert torch.equal(found, row.reshape(found.shape))


def estimating(**options: object) -> LatentEstimate:
    torch.manual_seed(0)
    arguments = {"bits": 3, "size": (3, 4), "grids": [(2, 3), (4, 6)], "full": (6, 8)}
    arguments |= {"width": 8, "blocks": 1}
    return LatentEstimate(**{**arguments, **options})  # type: ignore[arg-type]


def test_each_output_is_what_its_own_codes_leave_of_the_estimate() -> None:
    network, z = estimating(), torch.randn(2, 3, 3, 4)
    estimate, total = network.estimate(z), torch.zeros(2, 3, 6, 8)
    assert estimate.shape == total.shape
    for output, grid in zip(network(z), network.grids, strict=True):
        left = functional.interpolate(estimate - total, grid, mode="area")
        torch.testing.assert_close(output, left)
        total = total + functional.interpolate(quantized(left), (6, 8), mode="bilinear")


def test_targets_correct_the_codes_of_the_network() -> None:
    """Those of the paper do not: they are the residuals after HR's own codes."""
    network, z, f = estimating(), torch.randn(2, 3, 3, 4), torch.randn(2, 3, 6, 8)
    outputs, sizes = network(z), [(2, 3), (4, 6), (6, 8)]
    found = network.targets(f, sizes, outputs)
    code = functional.interpolate(quantized(outputs[0]), (6, 8), mode="bilinear")
    torch.testing.assert_close(found[1], functional.interpolate(f - code, (4, 6), mode="area"))
    own = [scale.residual for scale in scales_of(f, sizes)]
    assert torch.equal(found[0], own[0])
    assert not torch.equal(found[1], own[1])
    for target, residual in zip(small().targets(f, sizes, outputs), own[:2], strict=True):
        assert torch.equal(target, residual)
