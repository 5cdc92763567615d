"""Text features of a next-scale model: one row per token of a caption."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from files.paths import expand_path
from lightning_modules.backbone.condition import FixedPrompt
from lightning_modules.backbone.space import named
from lightning_modules.networks.infinity import Text

if TYPE_CHECKING:
    from datamodules.base import Batch


class Texts(nn.Module, ABC):
    """Base class of encoders of captions.

    Attributes:
        width: Channels of a feature.
        reads: Whether it uses captions.
        source: Source of its weights, with a hash; empty if it trains with the model.
    """

    width: int
    reads: bool = True
    source: str = ""

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Text:
        """Return features of captions.

        Args:
            texts: B captions, none empty.
        """


class T5(Texts):
    """T5's encoder, frozen, as in Infinity and NSARM (flan-t5-xl); needs transformers.

    Args:
        path: Folder in transformers' layout, or name on the hub. Environment variables are
            expanded.
        revision: Branch, tag or commit on the hub.
        length: Largest number of tokens; longer captions are truncated.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed.
    """

    def __init__(
        self, path: str = "google/flan-t5-xl", revision: str | None = None, length: int = 512
    ) -> None:
        super().__init__()
        self.length = length
        self.tokenizer, self.model = _t5(expand_path(path, "T5.path"), revision)
        self.width = self.model.config.d_model
        self.source = named(path, self.model, revision)
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_pretrained(cls, path: str, revision: str | None = None) -> T5:
        """Load a trained encoder; arguments as in the class."""
        return cls(path, revision)

    def train(self, mode: bool = True) -> T5:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Text:
        """As ``Texts.forward``."""
        how: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer(list(texts), max_length=self.length, **how)
        device = next(self.model.parameters()).device
        mask: Tensor = tokens.attention_mask.to(device)
        found = self.model(tokens.input_ids.to(device), attention_mask=mask)
        features: Tensor = found.last_hidden_state
        return Text(features, mask.sum(1))


class FixedText(Texts):
    """Features of one text for all images, from a file; no encoder runs.

    Args:
        path: The safetensors file of ``python -m lightning_modules.backbone.prompt --t5``;
            environment variables are expanded.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is corrupt, or holds no prompt.
    """

    reads = False

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        if not Path(expand_path(str(path), "FixedText.path")).is_file():
            raise FileNotFoundError(
                f"model.init_args.encoder: no features of a text at {path}; make them by python -m "
                f"lightning_modules.backbone.prompt --t5 --model google/flan-t5-xl --out {path}"
            )
        self.prompt = FixedPrompt(path)
        self.width, self.source = self.prompt.prompt.shape[-1], self.prompt.source

    def forward(self, texts: Sequence[str]) -> Text:
        """Return the fixed features; the texts are ignored."""
        features = self.prompt.prompt.expand(len(texts), -1, -1)
        lengths = torch.full((len(texts),), features.shape[1], device=features.device)
        return Text(features, lengths)


class Classes(Texts):
    """One learned feature per class, trained with the model; captions are the classes' names.

    Args:
        names: Names of the classes.
        width: Channels of a feature.

    Raises:
        ValueError: If a name occurs twice, or there is none.
    """

    def __init__(self, names: Sequence[str], width: int = 128) -> None:
        super().__init__()
        if not names or len(set(names)) != len(names):
            raise ValueError(f"names of classes are {list(names)}; expected different ones")
        self.names, self.width = list(names), width
        self.table = nn.Embedding(len(names), width)

    def forward(self, texts: Sequence[str]) -> Text:
        """Return the features of the classes.

        Raises:
            ValueError: If a caption is no name of a class.
        """
        unknown = [text for text in texts if text not in self.names]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no class; model.init_args.encoder.init_args.names has "
                f"{', '.join(self.names[:8])}"
            )
        device = self.table.weight.device
        numbers = torch.tensor([self.names.index(text) for text in texts], device=device)
        return Text(self.table(numbers)[:, None], torch.ones_like(numbers))


def text_of(batch: Batch, encoder: Texts | None, prompt: str | None, width: int) -> Text | None:
    """Return the text of a batch; None without encoder and cached features.

    Args:
        batch: Batch with ``text``, or with cached ``text_features``.
        encoder: Encodes captions.
        prompt: A caption for all images, instead of their own.
        width: Channels of the network's text features.

    Raises:
        ValueError: If a caption is missing or empty, or features have another width.
    """
    count, key = len(batch["key"]), batch["key"][0]
    if "text_features" in batch and prompt is not None:
        raise ValueError(
            f"{key} has features of its own caption, and model.init_args.prompt is for all images: "
            "unset it, or use shards without text_features.npy"
        )
    if "text_features" in batch:
        found = Text(batch["text_features"], batch["text_lengths"])
    elif encoder is None:
        return None
    elif prompt is not None:
        found = encoder([prompt] * count)
    elif not encoder.reads:
        found = encoder([""] * count)
    else:
        found = encoder(_captions(batch))
    if found.features.shape[-1] != width:
        raise ValueError(
            f"the features of {key}'s text have {found.features.shape[-1]} channels and the "
            f"transformer takes {width}: use the encoder that it was trained with, or set "
            "model.init_args.transformer.init_args.text_width"
        )
    return found


def _captions(batch: Batch) -> list[str]:
    if "text" not in batch:
        raise ValueError(
            f"{batch['key'][0]} has no caption, and model.init_args.encoder reads them: use a "
            "source with text, set model.init_args.prompt, or unset the encoder"
        )
    for key, text in zip(batch["key"], batch["text"], strict=True):
        if not text.strip():
            raise ValueError(
                f"{key} has an empty caption: write one, set model.init_args.prompt, or unset "
                "model.init_args.encoder"
            )
    return batch["text"]


def _t5(place: str, revision: str | None) -> tuple[Any, Any]:
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            "T5 needs transformers, which is not installed: install it, or use cached features"
        ) from error
    try:
        model = library.T5EncoderModel.from_pretrained(place, revision=revision)
        tokenizer = library.AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"model.init_args.encoder: {place} has no readable T5 "
            f"({str(error).splitlines()[0]}): expected a folder in transformers' layout, or a name "
            "on the hub that is cached or can be downloaded"
        ) from error
    return tokenizer, model
