"""Parts of a next-scale model as small as can be: 16 px of LR, 32 of HR, four scales."""

from __future__ import annotations

import torch

from lightning_modules import BitwiseSpace, BitwiseVAE, InfinityTransformer, Transformation
from lightning_modules.networks.transformation import Branch

GRIDS = [(1, 1), (2, 2), (3, 3), (4, 4)]
BITS = 4


def vae(seed=3):
    """An autoencoder of factor 8, whatever the global generator is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BitwiseVAE(BITS, (32, 32, 32, 32), layers=1, groups=8)


def space(seed=3):
    """A space as if its weights were trained."""
    bitwise = BitwiseSpace(vae(seed), GRIDS, patch=1)
    bitwise.source = f"test {seed:016x}"
    return bitwise


def transformer(seed=0):
    """A transformer of two blocks; untrained, its blocks and logits would hardly count."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"depth": 2, "width": 64, "heads": 2, "text_width": 128, "text_length": 8}
        network = InfinityTransformer(BITS, **sizes, drop_path=0.0)
        with torch.no_grad():
            network.head.weight.mul_(200)
            for block in network.blocks:
                block.own.normal_()
    return network


def mapper(seed=0):
    """A mapper of the first two scales, without dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branches = [Branch(width=16, layers=1, heads=2)] * 2
        return Transformation(BITS, (2, 2), GRIDS[:2], branches, dropout=0.0)
