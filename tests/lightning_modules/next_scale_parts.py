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
        return BitwiseVAE(BITS, (32, 32, 32, 32), 1, groups=8)


def space(seed=3):
    """A space as if its weights were trained."""
    bitwise = BitwiseSpace(vae(seed), GRIDS, 1)
    bitwise.source = f"test {seed:016x}"
    return bitwise


def transformer(seed=0):
    """A transformer of two blocks, whose head says something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = InfinityTransformer(BITS, 2, 64, 2, 128, 8, drop_path=0.0)
        with torch.no_grad():
            network.head.weight.mul_(200)
            for block in network.blocks:
                block.own.normal_()
    return network


def mapper(seed=0):
    """A mapper of the first two scales, without dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branches = [Branch(16, 1, 2), Branch(16, 1, 2)]
        return Transformation(BITS, (2, 2), GRIDS[:2], branches, dropout=0.0)
