"""Conditions of a denoiser: text, images, coordinates, noise levels, sizes."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from files.paths import expand_path
from lightning_modules.backbone.space import named
from lightning_modules.weights import fingerprint, read_file


@dataclasses.dataclass(frozen=True)
class Condition:
    """Inputs of a denoiser besides the noisy sample; unused parts are None.

    Args:
        text: (B, N, D), one embedding per token.
        pooled: (B, D'), one embedding of the whole text, for SDXL.
        sizes: (B, n) numbers to embed, such as SDXL's original size, crop and target.
        image: (B, C, h, w), concatenated to the noisy sample, in its size.
        coordinates: (B, 2, h, w).
        noise_level: (B,) levels of the noise added to ``image``.
    """

    text: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    image: Tensor | None = None
    coordinates: Tensor | None = None
    noise_level: Tensor | None = None

    @property
    def used(self) -> dict[str, Tensor]:
        """Return the used parts by name."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part for name, part in parts.items() if part is not None}


def joined(first: Condition, second: Condition) -> Condition:
    """Concatenate two conditions to one batch.

    Raises:
        ValueError: If one has a part that the other lacks.
    """
    a, b = first.used, second.used
    if a.keys() != b.keys():
        raise ValueError(
            f"one condition has {', '.join(a) or 'nothing'}, the other {', '.join(b) or 'nothing'}:"
            " expected the same parts, for example a null text for the unconditional one"
        )
    return Condition(**{name: torch.cat([a[name], b[name]]) for name in a})


def guided(
    predict: Callable[[Tensor, Tensor, Condition], Tensor],
    z: Tensor,
    t: Tensor,
    condition: Condition,
    unconditional: Condition,
    scale: float,
    together: bool = True,
) -> Tensor:
    """Classifier-free guidance: extrapolate from the unconditional prediction.

    Args:
        predict: From (z, t, condition) to the network's output, or a linear function of it.
        z: (B, ...), noisy.
        t: (B,).
        condition: Condition of B samples.
        unconditional: The same parts, with a null text or a negative prompt.
        scale: Strength; 1 is no guidance, with one call.
        together: Make one call of 2B samples; otherwise two, which need less memory.

    Returns:
        The guided prediction, (B, ...).

    Source: Ho and Salimans, 2022 (arXiv 2207.12598), equation 6, in the form of Imagen (scale = 1 +
    w).
    """
    if scale == 1:
        return predict(z, t, condition)
    if together:
        both = predict(torch.cat([z, z]), torch.cat([t, t]), joined(unconditional, condition))
        without, with_it = both.chunk(2)
    else:
        without, with_it = predict(z, t, unconditional), predict(z, t, condition)
    return without + scale * (with_it - without)


class FixedPrompt(nn.Module):
    """Embeddings of one prompt and its negative, from a file made by ``write``.

    They are buffers that are not stored in checkpoints. Training and sampling need no text encoder.

    Args:
        path: The safetensors file; environment variables are expanded.

    Attributes:
        source: The file, with a hash of its content.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is corrupt, or holds no prompt.
    """

    prompt: Tensor
    negative: Tensor
    how_to_make = (
        "make it, with transformers installed, by python -m lightning_modules.backbone.prompt "
        "--out {path}"
    )

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        file = Path(expand_path(str(path), "model.init_args.prompt"))
        if not file.is_file():
            raise FileNotFoundError(
                f"model.init_args.prompt: no embedding of a prompt at {file}; "
                + self.how_to_make.format(path=path)
            )
        tensors = read_file(file)
        if "prompt" not in tensors or tensors["prompt"].ndim != 2:
            raise ValueError(
                f"{path} holds {', '.join(tensors) or 'nothing'}; expected a tensor 'prompt' of "
                "(tokens, channels), as python -m lightning_modules.backbone.prompt makes it"
            )
        for name in ("prompt", "negative"):
            value = tensors.get(name, torch.zeros_like(tensors["prompt"]))
            self.register_buffer(name, value, persistent=False)
        self.has_negative = "negative" in tensors
        self.source = f"{path} {fingerprint(tensors)}"

    def condition(self, count: int) -> Condition:
        """Return the prompt for ``count`` samples."""
        return Condition(text=self.prompt.expand(count, -1, -1))

    def unconditional(self, count: int) -> Condition:
        """Return the negative prompt for ``count`` samples.

        Raises:
            ValueError: If the file was written without one.
        """
        if not self.has_negative:
            raise ValueError(
                f"{self.source} has no negative prompt, as guidance needs: write it with one, or"
                " set the guidance to 1"
            )
        return Condition(text=self.negative.expand(count, -1, -1))

    @staticmethod
    def write(
        path: str | Path,
        encode: Callable[[Sequence[str]], Tensor],
        prompt: str,
        negative: str | None = None,
    ) -> None:
        """Write the file of a fixed prompt.

        Args:
            path: The file to write; its header keeps the texts.
            encode: From texts to (B, tokens, channels), such as a ``TextEncoder``.
            prompt: The text.
            negative: The negative prompt of guidance; empty for "no text".
        """
        from safetensors.torch import save_file

        texts = {"prompt": prompt} | ({} if negative is None else {"negative": negative})
        tensors = {name: encode([text])[0].float().cpu().clone() for name, text in texts.items()}
        save_file(tensors, path, metadata={"texts": json.dumps(texts)})


class TextEncoder(nn.Module):
    """CLIP's text encoder as in Stable Diffusion, frozen; needs transformers.

    Args:
        path: Folder with ``text_encoder`` and ``tokenizer`` in diffusers' layout, or name on the
            hub. Environment variables are expanded.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed.
    """

    model: Any  # transformers, which has the types, may be missing
    tokenizer: Any

    def __init__(self, path: str, revision: str | None = None) -> None:
        super().__init__()
        self.tokenizer, self.model = text_parts(path, revision)
        self.source = named(path, self.model, revision)
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_pretrained(cls, path: str, revision: str | None = None) -> TextEncoder:
        """Load a trained encoder; arguments as in the class."""
        return cls(path, revision)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor | Condition:
        """Return (B, tokens, channels) of B texts, truncated or padded to the number of tokens.

        An encoder with further outputs, such as a pooled embedding, returns a ``Condition``.

        Args:
            texts: B texts; empty ones are the unconditional text of Stable Diffusion.
        """
        states: Tensor = self.model(token_ids(self.tokenizer, self.model, texts))[0]
        return states


def text_parts(path: str, revision: str | None, second: bool = False) -> tuple[Any, Any]:
    """Load tokenizer and text encoder from a folder in diffusers' layout, or from the hub.

    Args:
        path: As in ``TextEncoder``.
        revision: Branch, tag or commit on the hub.
        second: Load SDXL's second ones: ``tokenizer_2`` and ``text_encoder_2``.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            "a text encoder needs transformers, which is not installed: install it, or use the "
            "cached embedding of a fixed prompt"
        ) from error
    place, number = expand_path(path, "TextEncoder.path"), "_2" if second else ""
    kind = library.CLIPTextModelWithProjection if second else library.CLIPTextModel
    try:
        tokenizer = library.CLIPTokenizer.from_pretrained(
            place, subfolder=f"tokenizer{number}", revision=revision
        )
        model = kind.from_pretrained(place, subfolder=f"text_encoder{number}", revision=revision)
    except (OSError, TypeError) as error:  # TypeError: transformers 4 opens a missing file
        raise FileNotFoundError(
            f"{place} has no readable text encoder ({str(error).splitlines()[0]}): "
            f"expected a folder with text_encoder{number} and tokenizer{number} in diffusers' "
            "layout, or a name on the hub that is cached or can be downloaded"
        ) from error
    return tokenizer, model


def token_ids(tokenizer: Any, model: Any, texts: Sequence[str]) -> Tensor:
    """Return the ids (B, tokens) of B texts, truncated or padded, on the model's device.

    Args:
        tokenizer: A tokenizer of transformers.
        model: The encoder.
        texts: B texts.
    """
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = tokens.input_ids
    return ids.to(next(model.parameters()).device)
