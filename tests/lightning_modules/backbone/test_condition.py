"""What denoisers get beside images: text encoders, fixed prompts, features; and guidance."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from files.weights import fingerprint
from lightning_modules import T5, FixedPrompt, FixedText, SDXLTextEncoder, TextEncoder
from lightning_modules.backbone import prompt as prompts
from lightning_modules.backbone.condition import Condition, guided, text_of
from lightning_modules.backbone.prompt import NEGATIVE, PROMPT
from tests import make, small_t5
from tests.lightning_modules.backbone.texts import save_text_encoder
from tests.lightning_modules.backbone.unets import SDXL, base


@pytest.mark.parametrize(
    ("scale", "batch_sizes"),
    [pytest.param(1.0, [2], id="the text alone"), pytest.param(7.5, [2 + 2], id="guidance")],
)
def test_guidance_extrapolates_from_one_call_with_and_without_a_text(scale, batch_sizes):
    calls = []

    def predict(z, t, condition):
        calls.append(len(z))
        return z * condition.text.mean((1, 2)).view(-1, 1) + t.view(-1, 1)

    text = Condition(text=make.normal(2, 3, 4))
    nothing = Condition(text=make.normal(2, 3, 4, seed=1))
    z = make.normal(2, 5)
    t = torch.tensor([3, 7])

    output = guided(predict, z, t, text, nothing, scale)

    assert calls == batch_sizes
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


def test_t5_gives_features_of_each_token_which_do_not_depend_on_padding(t5):
    """Three words and one, each with a token for the end; the shorter text is padded by two."""
    encoder = T5(t5)

    padded = encoder(["a red car", "car"])

    assert padded.features.shape == (2, 4, small_t5.WIDTH)
    assert padded.lengths.tolist() == [4, 2]
    assert_close(padded.features[1, :2], encoder(["car"]).features[0])
    assert_frozen(encoder)


def test_the_fingerprint_of_t5_does_not_depend_on_how_its_folder_is_written(t5, monkeypatch):
    """By it, a checkpoint from a machine with another path is recognised to have the same T5."""
    monkeypatch.setenv("T5", t5)
    expected = fingerprint(T5(t5).model.state_dict())
    assert T5(t5).source == f"{t5} {expected}"
    assert T5("$T5").source == f"$T5 {expected}"


# ------------------------------------------------------------------------------------- from a file


INVSRS_FILE = "$ENLARGER_WEIGHTS/invsr_prompt.safetensors"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Where the command without `--out` writes the embeddings of InvSR's prompt."""
    pytest.importorskip("transformers")
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    save_text_encoder(tmp_path / "sd")
    assert prompts.main(["--model", "sd"]) == 0
    return tmp_path / "weights/invsr_prompt.safetensors"


def test_a_fixed_prompt_is_what_the_text_encoder_made_of_invsrs_prompt(written):
    """For each of so many images, and for the negative prompt of guidance."""
    encoder = TextEncoder("sd")

    prompt = FixedPrompt(INVSRS_FILE)

    assert_close(prompt.condition(3).text, encoder([PROMPT] * 3))
    assert_close(prompt.unconditional(2).text, encoder([NEGATIVE] * 2))


def test_a_fixed_prompt_moves_with_the_model_and_checkpoints_have_only_its_source(written):
    prompt = FixedPrompt(INVSRS_FILE)
    assert prompt.double().condition(1).text.dtype == torch.float64
    assert prompt.state_dict() == {}
    assert prompt.source.startswith(f"{INVSRS_FILE} ")


def test_a_file_of_embeddings_has_their_texts(written):
    with safe_open(written, "pt") as file:
        texts = json.loads(file.metadata()["texts"])
    assert texts == {"prompt": PROMPT, "negative": NEGATIVE}


def test_the_command_does_not_replace_a_file_of_embeddings(written):
    with pytest.raises(ValueError, match="already exists"):
        prompts.main(["--model", "sd"])


@pytest.fixture
def fixed_text(t5, tmp_path):
    out = tmp_path / "text.safetensors"
    words = ["--t5", "--model", t5, "--prompt", "a red car", "--out", str(out)]
    assert prompts.main(words) == 0
    return FixedText(out)


def test_a_fixed_text_is_what_t5_made_of_it_for_each_image(fixed_text, t5):
    text = text_of({"key": ["a", "b"]}, fixed_text, None)

    assert_close(text.features, T5(t5)(["a red car", "a red car"]).features)
    assert text.lengths.tolist() == [4, 4]  # three words, and the end of the text
    assert "text.safetensors" in fixed_text.source


def test_features_of_captions_beside_a_fixed_text_are_refused(fixed_text):
    """One of the two would be ignored without a word."""
    features = make.normal(1, 4, small_t5.WIDTH)
    batch = {"key": ["a"], "text_features": features, "text_lengths": torch.tensor([4])}
    with pytest.raises(ValueError, match=r"a has features .*encoder is for all"):
        text_of(batch, fixed_text, None)


def test_without_its_file_a_fixed_text_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no embedding of a prompt at .*--t5"):
        FixedText(tmp_path / "text.safetensors")
