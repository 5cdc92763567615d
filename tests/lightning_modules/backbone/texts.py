"""A text encoder as of Stable Diffusion, as small as can be, in diffusers' layout of folders."""

from __future__ import annotations

import json
from pathlib import Path


def save_text_encoder(folder: Path) -> None:
    """Write `tokenizer` and `text_encoder`: six tokens of eight channels. Needs transformers."""
    import torch
    import transformers

    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"]
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=6)
    tokenizer.save_pretrained(folder / "tokenizer")
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(
        vocab_size=4, num_hidden_layers=1, max_position_embeddings=6, **small
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
