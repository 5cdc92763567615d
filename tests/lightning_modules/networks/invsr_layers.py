"""Names and shapes of the layers that both of InvSR's released networks are made of."""

from __future__ import annotations


class Layers(dict[str, tuple[int, ...]]):
    """A file's tensors, as far as they were added."""

    def layer(self, name: str, *weight: int, bias: bool = True) -> None:
        self[f"{name}.weight"] = weight
        if bias:
            self[f"{name}.bias"] = weight[:1]

    def residual(self, name: str, before: int, after: int) -> None:
        self.layer(f"{name}.norm1", before)
        self.layer(f"{name}.conv1", after, before, 3, 3)
        self.layer(f"{name}.time_emb_proj", after, 512)
        self.layer(f"{name}.norm2", after)
        self.layer(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            self.layer(f"{name}.conv_shortcut", after, before, 1, 1)
