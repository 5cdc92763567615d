"""How networks run: the same outputs and gradients in any layout, recomputed, and compiled."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils import _pytree

from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.discriminator import LatentDiscriminator
from lightning_modules.networks.infinity import InfinityTransformer, Text
from lightning_modules.networks.noise_predictor import NoisePredictor
from lightning_modules.networks.running import Running
from lightning_modules.networks.sft_unet import SFTUNet
from lightning_modules.networks.swin_unet import SwinUNet
from tests import make
from tests.contracts import discovery
from tests.lightning_modules.next_scale_parts import BITS, GRIDS
from tests.quick import quick

TEXT_TO_BITS = {"bits": BITS, "text_width": 128, "text_length": 8}
SWIN = {"size": 32, "swin_width": 16, "heads": 2}
SIZES = {
    SwinUNet: SWIN | {"width": 8, "multipliers": (1, 2), "blocks": 1},
    SFTUNet: {"features": 8, "width": 8, "multipliers": (1, 2), "blocks": 1},
    NoisePredictor: {"widths": (32, 64), "layers": 1, "head_width": 16},
    InfinityTransformer: TEXT_TO_BITS | {"depth": 3, "width": 64, "heads": 2, "drop_path": 0.5},
    LatentDiscriminator: {"widths": (32, 64), "layers": (1, 1), "heads": 4, "text_width": None},
}


def test_every_subclass_of_running_is_tested_here():
    assert set(discovery.concrete_subclasses(Running, "lightning_modules")) == set(SIZES)


def network(kind, **settings):
    """A small one, with random numbers also in layers that begin as zeros."""
    return make.fill(kind(**SIZES[kind], **settings))


def input_of(kind):
    """The input with gradients: an image, a latent, or features of a text."""
    if kind is InfinityTransformer:
        return make.normal(2, 4, 128)
    return make.normal(2, 4 if kind is LatentDiscriminator else 3, 16, 16)


def outputs(model, x):
    """All tensors that a network returns; dropped parts are those of one seed."""
    torch.manual_seed(5)
    t = torch.tensor([1, 9])
    if isinstance(model, SwinUNet):
        result = model(x, t, make.normal(2, 3, 16, 16, seed=1))
    elif isinstance(model, SFTUNet):
        features = make.normal(2, 8, 8, 8, seed=2)
        result = model(x, t, make.normal(2, 3, 16, 16, seed=1), features, (8, 8))
    elif isinstance(model, InfinityTransformer):
        scales = Scales(GRIDS, 1)
        tokens = make.normal(2, scales.tokens - 1, BITS)
        result = model(tokens, scales, model.encode_text(Text(x, torch.tensor([4, 2]))))
    else:
        result = model(x, t)
    return [leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("frozen", quick([False, True], False))
def test_with_checkpointing_layers_run_again_and_give_equal_outputs_and_gradients(kind, frozen):
    """A frozen network, in evaluation mode, has a gradient of its input alone."""
    runs = []  # outputs and gradients, plain and with checkpointing
    calls = []  # of each layer's call, whether it was with checkpointing
    for checkpointing in (False, True):
        model = network(kind, checkpointing=checkpointing)
        model.requires_grad_(not frozen).train(not frozen)
        for layer in model.modules():
            layer.register_forward_pre_hook(lambda *_: calls.append(checkpointing))  # noqa: B023
        x = input_of(kind).requires_grad_()
        results = outputs(model, x)
        torch.stack([result.square().mean() for result in results]).sum().backward()
        gradients = [p.grad for p in (x, *model.parameters()) if p.grad is not None]
        runs.append(results + gradients)

    assert calls.count(True) > calls.count(False)
    plain, recomputed = runs
    assert len(plain) == len(recomputed)
    assert all(map(torch.equal, plain, recomputed))


@pytest.mark.parametrize("kind", [SFTUNet, NoisePredictor, LatentDiscriminator])
@torch.no_grad()
def test_channels_last_gives_the_same_outputs(kind):
    plain = network(kind).eval()
    model = network(kind, channels_last=True).eval()
    for weight in model.parameters():
        if weight.ndim == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last)
    x = input_of(kind)
    for output, expected in zip(outputs(model, x), outputs(plain, x), strict=True):
        assert_close(output, expected, rtol=1e-5, atol=1e-5)


class OfOneSize(Running):
    """A network that is compiled separately for each size."""

    any_size = False

    def __init__(self):
        super().__init__(compile=True)
        self.weight = nn.Parameter(torch.ones(()))
        self.prepare_to_run()

    def forward(self, x):
        return self.weight * x


@pytest.fixture
def graphs(monkeypatch):
    """A list that fills with what is compiled; graphs run as they are, without minutes."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield compiled
    torch.compiler.reset()


def test_training_is_compiled_also_after_outputs_of_many_sizes(graphs):
    """As of validation, which comes first; torch stops compiling a function after eight sizes.

    So no more than the first four sizes without gradients are compiled, and four of training.
    """
    model = OfOneSize()
    with torch.inference_mode():
        for side in range(2, 14):  # twelve
            assert torch.equal(model(torch.ones(side)), torch.ones(side))
    assert len(graphs) == 4

    model(torch.ones(20)).sum().backward()
    model(torch.ones(20)).sum().backward()
    assert len(graphs) == 4 + 1
    assert model.weight.grad == 40  # twice the sum of 20 ones
