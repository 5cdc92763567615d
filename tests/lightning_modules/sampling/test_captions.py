"""Captions: what a denoiser gets of them, and of none."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.backbone.condition import Condition
from lightning_modules.sampling.captions import (
    drop_captions,
    encode_captions,
)
from tests.lightning_modules.backbone.texts import Pooled, Words
from tests.lightning_modules.backbone.unets import wrapped

BATCH = {"key": ["a", "b"], "text": ["one", "two, three"]}


def test_the_networks_own_token_stands_for_none():
    denoiser = wrapped(null="learned")
    known, nothing = encode_captions(BATCH, denoiser, Words())
    assert known.text[:, 0, 0].tolist() == [3, 10]
    assert torch.equal(nothing.text, denoiser.null_text(2, 3))
    nothing.text.sum().backward()  # it is learned
    assert denoiser.null.grad.flatten().tolist() == [6.0] * 6
    assert not known.text.requires_grad


def test_else_an_empty_caption_does():
    """Of all its parts: a pooled embedding of the caption would tell of it."""
    _, nothing = encode_captions(BATCH, wrapped(), Words())
    assert torch.equal(nothing.text, torch.zeros(2, 3, 6))
    for denoiser in (wrapped(), wrapped(null="learned")):
        known, nothing = encode_captions(BATCH, denoiser, Pooled(), torch.ones(2, 6))
        assert known.pooled.tolist() == [[3] * 5, [10] * 5]
        assert torch.equal(nothing.pooled, torch.zeros(2, 5))
        assert torch.equal(nothing.text, torch.zeros(2, 3, 6))
        assert known.sizes is nothing.sizes


@pytest.mark.parametrize("share", [0.0, 1.0, 0.25])
def test_captions_are_left_out_at_random(share):
    """A caption with all of its parts, or none of them."""
    torch.manual_seed(0)
    known = Condition(torch.ones(4000, 3, 6), torch.ones(4000, 5), torch.full((4000, 6), 7.0))
    nothing = Condition(torch.zeros(4000, 3, 6), torch.zeros(4000, 5), known.sizes)
    found = drop_captions(known, nothing, share)
    left_out = (found.text == 0).all((1, 2))
    assert torch.equal(found.text, (~left_out).float().view(-1, 1, 1).expand(-1, 3, 6))
    assert torch.equal(found.pooled, found.text[:, :1, :5].squeeze(1))
    assert torch.equal(found.sizes, known.sizes)
    assert abs(left_out.float().mean() - share) < 0.03
