"""How networks run: the same outputs and gradients in any layout, recomputed, and compiled."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.discriminator import LatentDiscriminator
from lightning_modules.networks.infinity import InfinityTransformer, Text
from lightning_modules.networks.noise_predictor import NoisePredictor
from lightning_modules.networks.running import Running
from lightning_modules.networks.sft_unet import SFTUNet
from lightning_modules.networks.swin_unet import SwinUNet
from tests.contracts import discovery
from tests.lightning_modules.next_scale_parts import BITS, GRIDS
from tests.make import fill
from tests.quick import quick

SWIN = {"width": 8, "multipliers": (1, 2), "size": 32, "blocks": 1, "swin_width": 16, "heads": 2}
SFT = {"features": 8, "width": 8, "multipliers": (1, 2), "blocks": 1}
MAKERS: dict[type[Running], Callable[..., Any]] = {
    SwinUNet: functools.partial(SwinUNet, **SWIN),
    SFTUNet: functools.partial(SFTUNet, **SFT),
    NoisePredictor: functools.partial(NoisePredictor, widths=(32, 64), layers=1, head_width=16),
    InfinityTransformer: functools.partial(
        InfinityTransformer, BITS, 3, 64, 2, 128, 8, drop_path=0.5
    ),
    LatentDiscriminator: functools.partial(
        LatentDiscriminator, widths=(32, 64), layers=(1, 1), heads=4, text_width=None
    ),
}
EACH = pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.__name__)
CONVOLVES = [kind for kind in MAKERS if kind not in (SwinUNet, InfinityTransformer)]


def test_all_of_them_are_here() -> None:
    assert set(discovery.concrete_subclasses(Running, "lightning_modules")) == set(MAKERS)


def made(kind: type[Running], **settings: Any) -> Any:
    """Random numbers also in layers that begin as zeros."""
    return fill(MAKERS[kind](**settings))


def image(seed: int, channels: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, side, side, generator=generator)


T = torch.tensor([1, 9])


def said(model: Any, x: Tensor) -> Any:
    """A transformer's answer to features of a text."""
    tokens = torch.cat([image(n, BITS, h).flatten(2).mT for n, (h, _) in enumerate(GRIDS)], 1)
    return model(tokens[:, 1:], Scales(GRIDS, 1), model.encode_text(Text(x, torch.tensor([4, 2]))))


CALLS: dict[type[Running], Callable[..., Any]] = {
    SwinUNet: lambda model, x: model(x, T, image(1, 3)),
    SFTUNet: lambda model, x: model(x, T, image(1, 3), image(2, 8, 8), (8, 8)),
    NoisePredictor: lambda model, x: model(x, T),
    InfinityTransformer: said,
    LatentDiscriminator: lambda model, x: model(x, T),
}


def input_of(kind: type[Running]) -> Tensor:
    if kind is InfinityTransformer:
        return image(0, 1, 128)[:, 0, :4]
    return image(0, 4 if kind is LatentDiscriminator else 3)


def outputs(model: Any, x: Tensor | None = None) -> list[Tensor]:
    """Of one input, or of x in its place; dropped parts are those of one seed."""
    torch.manual_seed(5)
    found = CALLS[type(model)](model, input_of(type(model)) if x is None else x)
    return [leaf for leaf in _pytree.tree_leaves(found) if isinstance(leaf, Tensor)]


@EACH
@pytest.mark.parametrize("frozen", quick([False, True], False))
def test_recomputed_blocks_give_the_same_bits(kind: type[Running], frozen: bool) -> None:
    """Outputs and gradients, also in evaluation mode and of a network that does not train."""
    found = []
    for checkpointing in (False, True):
        model = made(kind, checkpointing=checkpointing).requires_grad_(not frozen).train(not frozen)
        x = input_of(kind).requires_grad_()
        results = outputs(model, x)
        sum(result.square().mean() for result in results).backward()
        found.append([*results, x.grad, *(p.grad for p in model.parameters() if not frozen)])
    assert x.grad.abs().max() > 0
    assert all((a is None) == (b is None) for a, b in zip(*found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)


@pytest.mark.parametrize("kind", CONVOLVES, ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_channels_last(kind: type[Running]) -> None:
    plain, other = (made(kind, channels_last=last).eval() for last in (False, True))
    weights = [p for p in other.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    for expected, found in zip(outputs(plain), outputs(other), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Let graphs run as they are, without the compiler's minutes; return them."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield graphs
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)  # tracing takes seconds
def test_compiled(kind: type[Running], compiled: list[Any]) -> None:
    """With the names, copies and gradients of an uncompiled network, and recomputed blocks."""
    plain = made(kind)
    other = made(kind, checkpointing=True, compile=True)
    assert other.state_dict().keys() == plain.state_dict().keys()
    assert copy.deepcopy(other).state_dict().keys() == plain.state_dict().keys()
    for model in (plain, other):
        model.eval()  # the compiler's own draws are others
        sum(result.square().mean() for result in outputs(model)).backward()
    assert compiled
    # Those that are alike once: of three blocks, one.
    assert kind is not InfinityTransformer or len(compiled) == 1
    for expected, found in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)


class OfOneSize(Running):
    """A network that is compiled separately for each size."""

    any_size = False

    def __init__(self) -> None:
        super().__init__(compile=True)
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.prepare_to_run()

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def test_outputs_of_many_sizes_leave_training_compiled(compiled: list[Any]) -> None:
    """Validation comes first, with more sizes than are compiled, and than torch would compile."""
    model = OfOneSize()
    with torch.inference_mode():
        for side in range(2, 14):
            assert torch.equal(model(torch.ones(side)), torch.ones(side))
    assert len(compiled) == 4
    for _ in range(2):
        model(torch.ones(20)).sum().backward()
        assert len(compiled) == 5
    assert torch.equal(model.weight.grad, torch.tensor(40.0))
