"""SDXL's two text encoders (Podell et al., ICLR 2024; arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_modules.backbone.condition import Condition, TextEncoder, text_parts, token_ids
from lightning_modules.backbone.space import named

Empty = Literal["zero", "encoded"]


class SDXLTextEncoder(TextEncoder):
    """Both CLIP text encoders of SDXL, frozen; needs transformers.

    Args:
        path: Folder with ``text_encoder``, ``tokenizer``, ``text_encoder_2`` and ``tokenizer_2`` in
            diffusers' layout, or name on the hub. Environment variables are expanded.
        revision: Branch, tag or commit on the hub.
        empty: Embedding of an empty text: ``zero``, as the released base was trained and diffusers
            samples it, or ``encoded`` like any other text.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed, or ``empty`` is unknown.
    """

    model_2: Any
    tokenizer_2: Any

    def __init__(self, path: str, revision: str | None = None, empty: Empty = "zero") -> None:
        super().__init__(path, revision)
        if empty not in get_args(Empty):
            raise ValueError(f"SDXLTextEncoder.empty is {empty!r}; expected zero or encoded")
        self.empty = empty
        self.tokenizer_2, self.model_2 = text_parts(path, revision, second=True)
        self.source = named(path, nn.ModuleList([self.model, self.model_2]), revision)
        self.requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Condition:
        """Return SDXL's condition of B texts.

        Args:
            texts: B texts.

        Returns:
            ``text`` (B, tokens, D), the concatenated penultimate layers of both encoders, and
            ``pooled`` (B, D') of the second one.
        """
        pairs = ((self.tokenizer, self.model), (self.tokenizer_2, self.model_2))
        ids = [token_ids(tokenizer, model, texts) for tokenizer, model in pairs]
        first = self.model(ids[0], output_hidden_states=True)
        second = self.model_2(ids[1], output_hidden_states=True)
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = second.text_embeds
        if self.empty == "zero":
            kept = torch.tensor([bool(one) for one in texts], device=text.device)
            text, pooled = text * kept.view(-1, 1, 1), pooled * kept.view(-1, 1)
        return Condition(text=text, pooled=pooled)
