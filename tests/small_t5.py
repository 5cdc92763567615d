"""A tiny T5 with random weights, in transformers' layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

WORDS = ["</s>", "<pad>", "<unk>", "a", "red", "car"]
WIDTH = 128


def write(place: Path) -> None:
    """Tokenizer and encoder.

    Args:
        place: A folder.
    """
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: n for n, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 0)]
    )
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(place)
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=WIDTH, d_kv=4, d_ff=32, num_layers=1, num_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.T5EncoderModel(config).save_pretrained(place)
