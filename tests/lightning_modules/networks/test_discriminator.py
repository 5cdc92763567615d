"""InvSR's discriminator, and how much PatchGAN sees."""

from __future__ import annotations

import torch

from lightning_modules.networks.discriminator import LatentDiscriminator, PatchGAN


def test_heads_and_norms_are_those_of_the_release():
    with torch.device("meta"):
        model = LatentDiscriminator()
        maps = model(torch.zeros(2, 4, 64, 64), 249, torch.zeros(1, 77, 1024))
    assert [tuple(logits.shape) for logits in maps] == [(2, 1, n, n) for n in (16, 32, 64, 64)]
    assert {m.heads for m in model.modules() if hasattr(m, "to_q")} == {16}
    assert model.add_embedding.pool.num_heads == 64
    assert model.trained_with == {"heads": 16, "text_heads": 64}  # which no tensor shows
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {(m.num_groups, m.eps, ".attentions." in n) for n, m in norms} == {
        (32, 1e-5, False),
        (32, 1e-6, True),
    }


# ---------------------------------------------------------------------------------------- PatchGAN


def test_a_logit_sees_seventy_pixels() -> None:
    torch.manual_seed(0)
    network = PatchGAN(8).eval()
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    (logits,) = network(images)
    assert logits.shape == (1, 1, 14, 14)
    for module in network.modules():  # which see whole maps
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    network(images)[0][0, 0, 7, 7].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70
