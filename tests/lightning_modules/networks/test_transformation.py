"""NSARM's transformation network: counts, released layout, and how its rows are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.bsq import quantized, scales_of
from lightning_modules.networks.transformation import (
    RELEASED,
    Branch,
    LatentEstimate,
    Transformation,
    from_official,
)
from lightning_modules.weights import load_strictly

SMALL = [Branch(8, 1, 2), Branch(12, 2, 3)]


def small(**options: object) -> Transformation:
    torch.manual_seed(0)
    arguments = {"bits": 3, "size": (6, 8), "grids": [(2, 3), (6, 8)], "branches": SMALL}
    return Transformation(**{**arguments, **options}).eval()  # type: ignore[arg-type]


def test_counts() -> None:
    with torch.device("meta"):
        network = Transformation()
        widths = (16, 16, 32, 32, 48, 48, 64)
        narrow = [
            branch._replace(width=width) for branch, width in zip(RELEASED, widths, strict=True)
        ]
        other = Transformation(branches=[b._replace(heads=4) for b in narrow])
    assert sum(p.numel() for p in network.parameters()) == 385_103_600
    assert len(network.state_dict()) == 950
    encoders = [sum(p.numel() for p in b.whole.parameters()) for b in network.branches]
    assert [round(n / 1e6, 2) for n in encoders] == [0.20, 1.19, 6.32, 17.74, 37.83, 99.23, 201.54]
    assert sum(p.numel() for p in other.parameters()) == 3_177_840


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


def test_released_names() -> None:
    with torch.device("meta"):
        tensors = official(Transformation())
    expected = {
        "feature_extractor.0.weight": (64, 14, 3, 3),
        "feature_extractor.6.weight": (14, 128, 3, 3),
        "feature_extractor.7.bias": (14, 32, 32),
        "feature_transforms.2.0.weight": (128, 14, 3, 3),
        "feature_transforms.2.4.weight": (256, 32, 32),
        "transformers.6.layers.15.self_attn.in_proj_weight": (3072, 1024),
        "transformers.0.layers.3.linear1.weight": (256, 64),
        "transformers.0.layers.3.norm2.bias": (64,),
        "output_projs.5.0.weight": (384, 768),
        "output_projs.5.1.weight": (384,),
        "output_projs.5.3.weight": (14, 384),
    }
    for name, shape in expected.items():
        assert tensors[f"map_transformer.{name}"].shape == shape


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


def test_rows_are_read_as_they_lie_in_memory() -> None:
    network, z = small(), torch.randn(2, 3, 6, 8)
    rows: list[Tensor] = []
    for branch in network.branches:
        branch.register_forward_hook(lambda module, given, found: rows.append(found))
    for found, row, grid in zip(network(z), rows, network.grids, strict=True):
        assert row.shape == (2, grid[0] * grid[1], 3)
        assert torch.equal(found.flatten(), row.flatten())
        assert not torch.equal(found, row.transpose(1, 2).reshape(found.shape))


def test_rows_as_positions() -> None:
    network, z = small(layout="positions"), torch.randn(2, 3, 6, 8)
    rows: list[Tensor] = []
    for branch in network.branches:
        branch.register_forward_hook(lambda module, given, found: rows.append(found))
    for found, row, (_, w) in zip(network(z), rows, network.grids, strict=True):
        for p in range(row.shape[1]):
            assert torch.equal(found[:, :, p // w, p % w], row[:, p])


@pytest.mark.parametrize("trained", ["memory", "positions"])
def test_weights_of_the_other_layout_are_refused(trained: Any) -> None:
    other: Any = {"memory": "positions", "positions": "memory"}[trained]
    tensors = small(layout=trained).state_dict()
    load_strictly(small(layout=trained), tensors, "a.ckpt")
    with pytest.raises(
        ValueError, match=f"layout is {other}, and a.ckpt was trained with {trained}"
    ):
        load_strictly(small(layout=other), tensors, "a.ckpt")


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
    # So the error of an output is that of the estimate, at its scale.
    off = network.estimate(z) - f
    for output, target, grid in zip(outputs, found, network.grids, strict=True):
        torch.testing.assert_close(
            output - target, functional.interpolate(off, grid, mode="area"), rtol=1e-4, atol=1e-5
        )


def test_layers_are_those_of_the_release() -> None:
    """By hand: norms over whole maps, transformers that normalise afterwards."""
    network, z = small(), torch.randn(1, 3, 6, 8)
    weights = network.state_dict()

    def convolved(x: Tensor, name: str, place: int) -> Tensor:
        x = functional.conv2d(
            x, weights[f"{name}.{place}.weight"], weights[f"{name}.{place}.bias"], padding=1
        )
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), False, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt()
        x = x * weights[f"{name}.{place + 1}.weight"] + weights[f"{name}.{place + 1}.bias"]
        return functional.gelu(x)

    x = z
    for place in (0, 3, 6):
        x = convolved(x, "trunk", place)
    for place in (0, 3):
        x = convolved(x, "branches.0.local", place)
    x = functional.adaptive_avg_pool2d(x, (2, 3)).flatten(2).transpose(1, 2)
    layer = network.branches[0].whole.layers[0]
    x = layer.norm1(x + layer.self_attn(x, x, x)[0])
    x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
    torch.testing.assert_close(
        network(z)[0].flatten(), network.branches[0].out(x).flatten(), rtol=1e-4, atol=1e-5
    )
    assert layer.dropout.p == layer.self_attn.dropout == 0.1


def test_a_sample_does_not_depend_on_its_batch() -> None:
    network, z = small(), torch.randn(3, 3, 6, 8)
    for whole, alone in zip(network(z), network(z[1:2]), strict=True):
        torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="3 x 8 x 8; expected 3 x 6 x 8, the one size"):
        small()(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="2 grids and 1 branches"):
        small(branches=SMALL[:1])
    with pytest.raises(ValueError, match="10 wide with 4 heads"):
        small(branches=[SMALL[0], (10, 1, 4)])
    with pytest.raises(ValueError, match="layout is 'rows'; expected memory or positions"):
        small(layout="rows")
    with pytest.raises(ValueError, match="width is 8 and blocks 0; expected 1 or more"):
        estimating(blocks=0)
    with pytest.raises(ValueError, match="3 x 6 x 8; expected 3 x 3 x 4, the one size"):
        estimating()(torch.zeros(1, 3, 6, 8))
