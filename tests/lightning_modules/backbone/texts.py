"""Text encoders: as of Stable Diffusion, in diffusers' layout of folders; and lengths of texts."""

from __future__ import annotations

import json

import torch
from torch import nn

from lightning_modules.backbone.condition import Condition, TextEncoder


class Words(TextEncoder):
    """Each caption's length, as three tokens."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, texts):
        return torch.tensor([float(len(text)) for text in texts]).view(-1, 1, 1).expand(-1, 3, 6)


class Pooled(Words):
    """As SDXL's two: a vector for each caption, besides."""

    def forward(self, texts):
        text = super().forward(texts)
        return Condition(text=text, pooled=text[:, 0, :5])


def save_text_encoder(folder, second=False):
    """Write `tokenizer` and `text_encoder`: six tokens of eight channels. Needs transformers.

    Args:
        folder: Where to.
        second: As SDXL's `tokenizer_2` and `text_encoder_2`, which projects onto five channels.
    """
    import transformers

    number = "_2" if second else ""
    kind = transformers.CLIPTextModelWithProjection if second else transformers.CLIPTextModel
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"]
    place = folder / f"tokenizer{number}"
    place.mkdir(parents=True)
    (place / "merges.txt").write_text("#version: 0.2\n")
    vocabulary = {word: token for token, word in enumerate(words)}
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(place, model_max_length=6)
    tokenizer.save_pretrained(place)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(
        vocab_size=4, num_hidden_layers=2, max_position_embeddings=6, projection_dim=5, **small
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(second))
        kind(config).save_pretrained(folder / f"text_encoder{number}")
