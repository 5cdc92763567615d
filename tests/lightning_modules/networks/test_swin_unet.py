"""ResShift's network: its size and names, its windows and masks, its conditions."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks.swin_unet import (
    SwinBlock,
    SwinUNet,
    WindowAttention,
    from_official,
    released_mask,
    to_windows,
    wrap_mask,
)
from tests.lightning_modules.tiny import fill

SMALL = {"width": 32, "multipliers": (1, 2), "size": 32, "swin_width": 48, "heads": 3}


def official_buffers(model):
    """What a released file holds beside our tensors."""
    places = torch.zeros(64, 64, dtype=torch.int64)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, SwinBlock):
            found[f"{name}.attn.relative_position_index"] = places
            if module.shift:
                found[f"{name}.attn_mask"] = released_mask(16, 16, 8, 4)
    return found


def test_a_released_file_loads():
    model = fill(SwinUNet(**SMALL)).eval()
    model.set_mask("released")
    official = {
        name: tensor
        for name, tensor in {**model.state_dict(), **official_buffers(model)}.items()
        if name != "released_mask"  # which is ours
    }
    other = SwinUNet(**SMALL)
    other.load_state_dict(from_official(official))
    assert masks(other) == {"released"}
    x, lr, t = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32), torch.tensor([3])
    torch.testing.assert_close(other(x, t, lr), model(x, t, lr))


def test_patches_are_positions():
    """Four times the pixels for the positions of one; inside a patch and beyond it, all counts."""
    torch.manual_seed(0)
    model = fill(SwinUNet(**SMALL, patch=2, condition_factor=0.5)).eval()
    assert model.divisor == 2 * SwinUNet(**SMALL).divisor
    x, t, lr = torch.randn(1, 3, 32, 64), torch.tensor([3]), torch.rand(1, 3, 16, 32)
    assert model(x, t, lr).shape == x.shape
    assert model.input_blocks[0](torch.zeros(1, 24, 16, 32), torch.zeros(1, 128)).shape[-1] == 32
    other = x.clone()
    other[..., 5, 6] += 1
    changed = (model(other, t, lr) - model(x, t, lr)).abs().amax((0, 1))
    assert (changed > 0).float().mean() > 0.9


# ----------------------------------------------------------------------------------------- windows


def test_attention_with_its_bias_pixel_by_pixel():
    torch.manual_seed(0)
    attention = WindowAttention(12, 3, 4)
    x, mask = torch.randn(2, 2, 16, 12), -100 * (torch.rand(2, 16, 16) < 0.3).float()
    mask.diagonal(dim1=1, dim2=2).zero_()
    found = attention(x, mask)
    q, k, v = attention.qkv(x[1, 1]).view(16, 3, 3, 4).permute(1, 2, 0, 3)  # of one window
    expected = torch.zeros(16, 12)
    table = attention.relative_position_bias_table
    for head in range(3):
        for i in range(16):
            logits = (q[head, i] @ k[head].T) / 2 + mask[1, i]
            for j in range(16):
                row, column = i // 4 - j // 4 + 3, i % 4 - j % 4 + 3
                logits[j] = logits[j] + table[row * 7 + column, head]
            expected[i, 4 * head : 4 * head + 4] = logits.softmax(0) @ v[head]
    torch.testing.assert_close(found[1, 1], attention.proj(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (24, 16)])
def test_the_correct_mask_keeps_apart_what_wrapped_around(h, w):
    """Against places in the image: two pixels see each other if both moved in the same way."""
    mask = wrap_mask(h, w, 8, 4)
    rolled = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    rolled = rolled[None].float().roll((-4, -4), (2, 3))
    places = to_windows(rolled, 8)[0]  # (windows, N, 2): where each pixel came from
    near = (places[:, :, None] - places[:, None, :]).abs().amax(-1) < 8
    assert torch.equal(mask == 0, near)


def test_the_released_mask():
    mask = released_mask(64, 128, 8, 4)
    masked = (mask != 0).flatten(1).any(1).view(8, 16)
    assert masked[-1].all()
    assert not masked[:-1].any()
    assert (released_mask(64, 64, 8, 4) != 0).flatten(1).any(1).sum() == 8
    last = mask[-1].view(8, 8, 8, 8)
    assert last[0, 3, 7, 0] == 0  # rows are not kept apart
    assert last[0, 3, 0, 4] == -100


def masks(model):
    return {module.mask for module in model.modules() if isinstance(module, SwinBlock)}


def test_weights_keep_the_mask_that_they_were_trained_with():
    made, other = SwinUNet(**SMALL), SwinUNet(**SMALL)
    assert masks(made) == {"correct"}
    for mask in ("released", "correct"):
        made.set_mask(mask)
        state = made.state_dict()
        assert ("released_mask" in state) is (mask == "released")
        other.load_state_dict(state)
        assert masks(other) == {mask}
        assert other.state_dict().keys() == state.keys()


def test_files_of_other_programs_that_mask_correctly():
    """The mask in the file tells, not that there is one."""
    own = SwinUNet(**SMALL)
    state = dict(own.state_dict())
    state["input_blocks.1.1.blocks.1.attn_mask"] = wrap_mask(32, 32, 8, 4)
    found = from_official(state)
    own.load_state_dict(found)
    assert masks(own) == {"correct"}
