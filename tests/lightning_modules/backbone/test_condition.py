"""What a denoiser gets: put together, cached, and led by."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from lightning_modules.backbone.condition import Condition, FixedPrompt, TextEncoder, guided, joined
from lightning_modules.backbone.prompt import write
from tests.lightning_modules.backbone.texts import save_text_encoder

TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def field(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_as_one_batch():
    first = Condition(text=field(2, 3, 4), sizes=torch.tensor([1.0, 2.0]))
    second = Condition(text=field(1, 3, 4, seed=1), sizes=torch.tensor([3.0]))
    both = joined(first, second)
    assert both.used.keys() == {"text", "sizes"}
    assert both.text.shape == (3, 3, 4)
    assert both.sizes.tolist() == [1, 2, 3]


# ---------------------------------------------------------------------------------------- guidance


@pytest.mark.parametrize(
    ("scale", "sizes"),
    [(1.0, [2]), (0.0, [4]), (7.5, [4])],
)
def test_guidance(scale, sizes):
    calls = []

    def predict(z, t, condition):
        calls.append(len(z))
        return z * condition.text.mean((1, 2)).view(-1, 1) + t.view(-1, 1)

    conditions = Condition(text=field(2, 3, 4)), Condition(text=field(2, 3, 4, seed=1))
    z, t = field(2, 5), torch.tensor([3, 7])
    found = guided(predict, z, t, *conditions, scale)
    assert calls == sizes
    with_it, without = (predict(z, t, condition) for condition in conditions)
    torch.testing.assert_close(found, scale * with_it + (1 - scale) * without)


# ------------------------------------------------------------------------------------ fixed prompt


def encode(texts):
    return torch.stack([field(5, 4, seed=len(text)) for text in texts])


def test_a_fixed_prompt_comes_from_a_file(tmp_path):
    file = tmp_path / "prompt.safetensors"
    write(file, encode, {"prompt": "sharp", "negative": "blurred and dull"})
    prompt = FixedPrompt(file)
    assert torch.equal(prompt.condition(3).text, encode(["sharp"]).expand(3, -1, -1))
    assert torch.equal(prompt.unconditional(2).text[1], encode(["blurred and dull"])[0])
    assert prompt.state_dict() == {}
    assert prompt.source.startswith(f"{file} ")
    assert prompt.double().condition(1).text.dtype == torch.float64  # it moves with the model

    write(file, encode, {"prompt": "sharper"})
    other = FixedPrompt(file)
    assert other.source != prompt.source
    with pytest.raises(ValueError, match="no negative prompt, as guidance needs"):
        other.unconditional(1)


@pytest.mark.skipif(not TRANSFORMERS, reason="needs transformers")
def test_a_text_encoder(tmp_path):
    save_text_encoder(tmp_path)
    encoder = TextEncoder(str(tmp_path)).train()
    found = encoder(["a b", "b", ""])
    assert found.shape == (3, 6, 8)
    torch.testing.assert_close(encoder(["b"]), found[1:2])
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
