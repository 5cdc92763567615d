"""InvSR's discriminator: its size and names, the sizes that it judges, and what it depends on."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks.discriminator import LatentDiscriminator, from_official
from lightning_modules.weights import load_strictly
from tests.lightning_modules.networks.invsr_layers import Layers

SMALL = {"widths": (32, 64, 64), "layers": (1, 1, 1), "heads": 4, "text_width": 8, "text_heads": 2}


def official_shapes():
    """Names and shapes of the released file, discriminator_sd_turbo_v5.pth."""
    shapes = Layers()
    layer, residual = shapes.layer, shapes.residual

    def transformer(name, width):
        layer(f"{name}.norm", width)
        layer(f"{name}.proj_in", width, width, 1, 1)
        layer(f"{name}.proj_out", width, width, 1, 1)
        block = f"{name}.transformer_blocks.0"
        for i in (1, 2, 3):
            layer(f"{block}.norm{i}", width)
        for attention, text in (("attn1", width), ("attn2", 1024)):
            layer(f"{block}.{attention}.to_q", width, width, bias=False)
            layer(f"{block}.{attention}.to_k", width, text, bias=False)
            layer(f"{block}.{attention}.to_v", width, text, bias=False)
            layer(f"{block}.{attention}.to_out.0", width, width)
        layer(f"{block}.ff.net.0.proj", 8 * width, width)
        layer(f"{block}.ff.net.2", width, 4 * width)

    layer("conv_in", 128, 4, 3, 3)
    layer("feature_in", 32, 4, 3, 3)
    layer("time_embedding.linear_1", 512, 128)
    layer("time_embedding.linear_2", 512, 512)
    layer("add_embedding.norm1", 1024)
    shapes["add_embedding.pool.positional_embedding"] = (1, 1024)
    for part in "kqv":
        layer(f"add_embedding.pool.{part}_proj", 1024, 1024)
    layer("add_embedding.proj", 512, 1024)
    layer("add_embedding.norm2", 512)
    down = [[(160, 128)], [(160, 256), (256, 256)], [(288, 512), (512, 512)]]
    up = [
        [(1024, 512), (1024, 512), (768, 512)],
        [(768, 256), (512, 256), (384, 256)],
        [(384, 128), (256, 128)],
    ]
    for way, levels in (("down", down), ("up", up)):
        for level, sizes in enumerate(levels):
            width = sizes[0][1]
            for i, (before, after) in enumerate(sizes):
                residual(f"{way}_blocks.{level}.resnets.{i}", before, after)
                if width > 128:
                    transformer(f"{way}_blocks.{level}.attentions.{i}", width)
            if level < 2:
                layer(f"{way}_blocks.{level}.{way}samplers.0.conv", width, width, 3, 3)
    for i in range(2):
        residual(f"mid_block.resnets.{i}", 512, 512)
    transformer("mid_block.attentions.0", 512)
    for i, width in enumerate((512, 512, 256, 128)):
        layer(f"out_blocks.{i}.0", width)
        layer(f"out_blocks.{i}.2", width, width, 3, 3)
        layer(f"out_blocks.{i}.3", width)
        layer(f"out_blocks.{i}.5", 1, width, 3, 3)
    return shapes


def seeded(**arguments):
    torch.manual_seed(0)
    return LatentDiscriminator(**{**SMALL, **arguments})


def inputs(batch=2, side=8):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 4, side, side, generator=generator)
    return z, torch.tensor([249, 99][:batch]), torch.randn(batch, 5, 8, generator=generator)


def test_the_released_size_and_names():
    with torch.device("meta"):
        model = LatentDiscriminator()
        maps = model(torch.zeros(2, 4, 64, 64), 249, torch.zeros(1, 77, 1024))
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 112_082_532
    assert len(state) == 519
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == official_shapes()
    assert [tuple(logits.shape) for logits in maps] == [(2, 1, n, n) for n in (16, 32, 64, 64)]
    attentions = [m for m in model.modules() if hasattr(m, "to_q")]
    assert {attention.heads for attention in attentions} == {16}
    assert model.add_embedding.pool.num_heads == 64
    norms = {
        (n.num_groups, n.eps, ".attentions." in name)
        for name, n in model.named_modules()
        if isinstance(n, torch.nn.GroupNorm)
    }
    assert norms == {(32, 1e-5, False), (32, 1e-6, True)}


@pytest.mark.parametrize("around", ["{}", "module.{}", "_orig_mod.{}"])
def test_a_released_file_loads(around):
    model, other = seeded(), LatentDiscriminator(**SMALL)
    file = {"state_dict": {around.format(name): t for name, t in model.state_dict().items()}}
    load_strictly(other, from_official(file), "the file")
    for found, expected in zip(other(*inputs()), model(*inputs()), strict=True):
        assert torch.equal(found, expected)


def test_everything_is_looked_at():
    model, (z, t, text) = seeded(), inputs()
    before = model(z, t, text)
    for changed in ((z + 0.1, t, text), (z, t - 50, text), (z, t, 2 * text)):
        for old, new in zip(before, model(*changed), strict=True):
            assert not torch.allclose(old, new)


def test_every_level_on_the_way_down_sees_the_latent_itself():
    """Where nothing comes from above, the first map still depends on the features beside."""
    model, (z, t, text) = seeded(), inputs()
    model.conv_in.weight.data.zero_()
    assert not torch.allclose(model(z, t, text)[0], model(z + torch.randn_like(z), t, text)[0])


def test_one_text_and_one_timestep_for_all():
    model, (z, _, text) = seeded(), inputs()
    every = model(z, torch.tensor([99, 99]), text[:1].repeat(2, 1, 1))
    for found, expected in zip(model(z, 99, text[:1]), every, strict=True):
        torch.testing.assert_close(found, expected)


def test_without_text():
    model, (z, t, text) = seeded(text_width=None), inputs()
    assert not any("attn2" in name or "add_embedding" in name for name in model.state_dict())
    maps = model(z, t)
    assert [tuple(logits.shape) for logits in maps] == [(2, 1, n, n) for n in (2, 4, 8, 8)]
    for found, expected in zip(model(z, t, text), maps, strict=True):
        assert torch.equal(found, expected)


def test_blocks_that_are_computed_again_give_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = seeded(checkpointing=checkpointing)
        z, t, text = inputs()
        z.requires_grad_()
        sum(logits.mean() for logits in model(z, t, text)).backward()
        gradients.append({"z": z.grad, **{n: p.grad for n, p in model.named_parameters()}})
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_less_is_kept_where_blocks_are_computed_again():
    kept = {False: 0, True: 0}
    for checkpointing in kept:

        def keep(tensor, checkpointing=checkpointing):
            kept[checkpointing] += tensor.numel()
            return tensor

        model = seeded(checkpointing=checkpointing).requires_grad_(False)
        z, t, text = inputs(side=16)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(z.requires_grad_(), t, text)
    assert kept[True] < kept[False] / 2


@pytest.mark.slow
def test_it_learns_to_tell():
    """Real latents and flat ones, by the hinge loss."""
    model = seeded(text_width=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    real, t, _ = inputs()
    losses = []
    for _ in range(12):
        pairs = zip(model(real, t), model(torch.zeros_like(real), t), strict=True)
        loss = sum(
            (1 - good).relu().mean() / 2 + (1 + bad).relu().mean() / 2 for good, bad in pairs
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_what_cannot_be():
    with pytest.raises(ValueError, match="widths has 2 numbers and layers has 3"):
        LatentDiscriminator(widths=(32, 64))
    with pytest.raises(ValueError, match="has 48; expected multiples of 32"):
        LatentDiscriminator(beside=48)
    with pytest.raises(ValueError, match="widths has 32; expected multiples of heads, 24"):
        LatentDiscriminator(widths=(32,), layers=(1,), heads=24)
    with pytest.raises(ValueError, match="text_width is 100; expected a multiple of text_heads"):
        LatentDiscriminator(text_width=100)
    z, t, text = inputs()
    with pytest.raises(ValueError, match="requires a text and got none: set its text_width"):
        seeded()(z, t)
    with pytest.raises(ValueError, match=r"the latent is 6x8; .* sides divisible by 4"):
        seeded()(z[:, :, :6], t, text)
