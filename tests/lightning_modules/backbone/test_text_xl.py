"""SDXL's two text encoders are diffusers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lightning_modules.backbone.condition import SDXLTextEncoder
from tests.lightning_modules.backbone.texts import save_text_encoder
from tests.lightning_modules.methods.test_self_cascade import SDXL, base

TEXTS = ["a b", "b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sdxl")
    for second in (False, True):
        save_text_encoder(place, second)
    return place


def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    at = str(folder)
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(norm_num_groups=4, block_out_channels=(8,)),
        unet=base(**SDXL | {"cross_attention_dim": 16}).unet,
        scheduler=EulerDiscreteScheduler(),
        tokenizer=CLIPTokenizer.from_pretrained(at, subfolder="tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(at, subfolder="tokenizer_2"),
        text_encoder=CLIPTextModel.from_pretrained(at, subfolder="text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(at, subfolder="text_encoder_2"),
        force_zeros_for_empty_prompt=True,
    )


@torch.no_grad()
def test_it_is_what_the_pipeline_encodes(folder):
    encoder = SDXLTextEncoder(str(folder))
    found = encoder(TEXTS)
    text, none, pooled, pooled_none = pipeline(folder).encode_prompt(TEXTS)
    assert torch.equal(found.text, text)
    assert torch.equal(found.pooled, pooled)
    nothing = encoder([""] * 2)
    assert torch.equal(nothing.text, none)
    assert torch.equal(nothing.pooled, pooled_none)


def test_it_is_frozen_and_both_of_its_networks_are_named(folder, tmp_path):
    encoder = SDXLTextEncoder(str(folder)).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert SDXLTextEncoder(str(folder)).source == encoder.source
    save_text_encoder(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no readable text_encoder_2 of transformers"):
        SDXLTextEncoder(str(tmp_path))
