"""What denoisers get beside images: text encoders, fixed prompts, features; and guidance."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from lightning_modules import T5, FixedPrompt, FixedText, SDXLTextEncoder, TextEncoder
from lightning_modules.backbone import prompt as prompts
from lightning_modules.backbone.condition import Condition, guided, text_of
from lightning_modules.backbone.prompt import NEGATIVE, PROMPT
from tests import make, small_t5
from tests.lightning_modules.backbone.texts import save_text_encoder
from tests.lightning_modules.backbone.unets import SDXL, base


@pytest.mark.parametrize(("scale", "calls"), [(1.0, [2]), (7.5, [4])])
def test_guidance_extrapolates_in_one_call_of_both(scale, calls):
    counts = []

    def predict(z, t, condition):
        counts.append(len(z))
        return z * condition.text.mean((1, 2)).view(-1, 1) + t.view(-1, 1)

    text = Condition(text=make.normal(2, 3, 4))
    nothing = Condition(text=make.normal(2, 3, 4, seed=1))
    z = make.normal(2, 5)
    t = torch.tensor([3, 7])

    output = guided(predict, z, t, text, nothing, scale)

    assert counts == calls
    without = predict(z, t, nothing)
    assert_close(output, without + scale * (predict(z, t, text) - without))


# ---------------------------------------------------------------------------------- text encoders


def assert_frozen(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules() if module is not encoder)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@torch.no_grad()
def test_sdxls_encoders_give_what_its_pipeline_encodes(tmp_path):
    transformers = pytest.importorskip("transformers")
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline

    save_text_encoder(tmp_path)
    save_text_encoder(tmp_path, second=True)
    parts = {}
    for name, kind in {
        "tokenizer": transformers.CLIPTokenizer,
        "tokenizer_2": transformers.CLIPTokenizer,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
    }.items():
        parts[name] = kind.from_pretrained(str(tmp_path), subfolder=name)
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(norm_num_groups=4, block_out_channels=(8,)),
        unet=base(**SDXL | {"cross_attention_dim": 16}).unet,
        scheduler=EulerDiscreteScheduler(),
        force_zeros_for_empty_prompt=True,
        **parts,
    )
    encoder = SDXLTextEncoder(str(tmp_path))

    condition = encoder(["a b", "b"])
    nothing = encoder(["", ""])

    text, no_text, pooled, no_pooled = pipeline.encode_prompt(["a b", "b"])
    assert torch.equal(condition.text, text)
    assert torch.equal(condition.pooled, pooled)
    assert torch.equal(nothing.text, no_text)
    assert torch.equal(nothing.pooled, no_pooled)
    assert_frozen(encoder)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    small_t5.write(folder)
    return str(folder)


def test_rows_of_t5_are_tokens_and_padding_does_not_count(t5, monkeypatch):
    monkeypatch.setenv("T5", t5)
    encoder = T5("$T5")

    both = encoder(["a red car", "car"])

    assert both.features.shape == (2, 4, small_t5.WIDTH)
    assert both.lengths.tolist() == [4, 2]  # words, and the end of the text
    assert_close(both.features[1, :2], encoder(["car"]).features[0])
    assert_frozen(encoder)
    assert encoder.source.split()[-1] == T5(t5).source.split()[-1]  # its fingerprint


# ------------------------------------------------------------------------------------- from a file


def test_a_command_writes_embeddings_of_invsrs_prompt(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    save_text_encoder(tmp_path / "sd")

    assert prompts.main(["--model", "sd"]) == 0

    encoder = TextEncoder("sd")
    prompt = FixedPrompt("$ENLARGER_WEIGHTS/invsr_prompt.safetensors")
    assert prompt.source.startswith("$ENLARGER_WEIGHTS/invsr_prompt.safetensors ")
    assert prompt.state_dict() == {}
    assert_close(prompt.condition(3).text, encoder([PROMPT] * 3))
    assert_close(prompt.unconditional(2).text, encoder([NEGATIVE] * 2))
    assert prompt.double().condition(1).text.dtype == torch.float64  # it moves with the model
    with safe_open(tmp_path / "weights/invsr_prompt.safetensors", "pt") as file:
        texts = json.loads(file.metadata()["texts"])
    assert texts == {"prompt": PROMPT, "negative": NEGATIVE}
    with pytest.raises(ValueError, match="already exists"):  # nothing is replaced
        prompts.main(["--model", "sd"])


def test_a_command_writes_features_of_t5_which_are_one_text_for_all_images(t5, tmp_path):
    out = tmp_path / "text.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no embedding of a prompt at .*--t5"):
        FixedText(out)

    words = ["--t5", "--model", t5, "--prompt", "a red car", "--out", str(out)]
    assert prompts.main(words) == 0

    fixed = FixedText(out)
    text = text_of({"key": ["a", "b"]}, fixed, None)  # one for all images
    assert_close(text.features, T5(t5)(["a red car", "a red car"]).features)
    assert text.lengths.tolist() == [4, 4]  # three words, and the end of the text
    assert "text.safetensors" in fixed.source
    cached = {"key": ["a"], "text_features": text.features, "text_lengths": text.lengths}
    with pytest.raises(ValueError, match=r"a has features .*encoder is for all"):
        text_of(cached, fixed, None)
