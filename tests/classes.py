"""An encoder of captions that are names of classes: one learned feature for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lightning_modules.backbone.condition import Texts
from lightning_modules.networks.infinity import Text


class Classes(Texts):
    def __init__(self, names: Sequence[str], width: int = 128) -> None:
        super().__init__()
        self.names, self.width = list(names), width
        self.table = nn.Embedding(len(names), width)

    def forward(self, texts: Sequence[str]) -> Text:
        numbers = torch.tensor([self.names.index(text) for text in texts])
        numbers = numbers.to(self.table.weight.device)
        return Text(self.table(numbers)[:, None], torch.ones_like(numbers))
