"""What a denoiser is told besides the noisy sample: text, images, coordinates, levels, sizes."""

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
    """Each part is None where it is not used.

    Args:
        text: (B, N, D), one embedding a token.
        pooled: (B, D'), one embedding for the whole text, as SDXL wants it.
        sizes: (B, n) numbers that are embedded, such as SDXL's original size, crop and target.
        image: (B, C, h, w) that goes beside the noisy sample, in its size.
        coordinates: (B, 2, h, w).
        noise_level: (B,) of noise that was put onto ``image``, as the network was trained with.
    """

    text: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    image: Tensor | None = None
    coordinates: Tensor | None = None
    noise_level: Tensor | None = None

    @property
    def used(self) -> dict[str, Tensor]:
        """The parts that are there, by name."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part for name, part in parts.items() if part is not None}


def joined(first: Condition, second: Condition) -> Condition:
    """Both as one batch, ``first`` before ``second``.

    Raises:
        ValueError: One of them has a part that the other lacks.
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
    """Classifier-free guidance: away from what is predicted without the condition.

    Args:
        predict: The network's output, or what follows linearly from it, of (z, t, condition).
        z: (B, ...), noisy.
        t: (B,).
        condition: Of B samples.
        unconditional: The same parts of B samples, with a null text or a negative prompt.
        scale: 1 is no guidance, and one call.
        together: Make one call of 2B samples; else two, which needs less memory.

    Returns:
        What ``predict`` gives, (B, ...).

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
    """Embeddings of one prompt and of its negative, from a file that ``write`` made once.

    They are buffers that move with the model and are in no checkpoint; no text encoder is needed
    to train or to sample.

    Args:
        path: The safetensors file; may hold environment variables.

    Attributes:
        source: The file with a hash of what is in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is corrupt, or holds no prompt.
    """

    prompt: Tensor
    negative: Tensor
    how_to_make = (
        "make it, where transformers is installed, by python -m lightning_modules.backbone.prompt "
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
        """The prompt for ``count`` samples."""
        return Condition(text=self.prompt.expand(count, -1, -1))

    def unconditional(self, count: int) -> Condition:
        """The negative prompt for ``count`` samples.

        Raises:
            ValueError: The file was written without one.
        """
        if not self.has_negative:
            raise ValueError(
                f"{self.source} has no negative prompt, which guidance wants: write it with one, or"
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
        """Make such a file.

        Args:
            path: Where to; the texts are kept in the file's header.
            encode: From texts to (B, tokens, channels), such as a ``TextEncoder``.
            prompt: The text.
            negative: What guidance leads away from; empty for "no text".
        """
        from safetensors.torch import save_file

        texts = {"prompt": prompt} | ({} if negative is None else {"negative": negative})
        tensors = {name: encode([text])[0].float().cpu().clone() for name, text in texts.items()}
        save_file(tensors, path, metadata={"texts": json.dumps(texts)})


class TextEncoder(nn.Module):
    """CLIP's text encoder as Stable Diffusion has it, frozen; needs transformers.

    Args:
        path: Folder that holds ``text_encoder`` and ``tokenizer`` in diffusers' layout, or name on
            the hub. May hold environment variables.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: There is no such folder, or the hub cannot be reached.
        ValueError: transformers is not installed.
    """

    model: Any  # transformers may not be there to say what they are
    tokenizer: Any

    def __init__(self, path: str, revision: str | None = None) -> None:
        super().__init__()
        self.tokenizer, self.model = text_parts(path, revision)
        self.source = named(path, self.model, revision)
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_pretrained(cls, path: str, revision: str | None = None) -> TextEncoder:
        """A trained encoder. Args as of the class."""
        return cls(path, revision)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor | Condition:
        """(B, tokens, channels) of B texts, each cut or filled to the encoder's number of tokens.

        An encoder that has more to tell, such as a pooled embedding, returns a ``Condition``.

        Args:
            texts: B texts; empty ones are the unconditional text of Stable Diffusion.
        """
        states: Tensor = self.model(token_ids(self.tokenizer, self.model, texts))[0]
        return states


def text_parts(path: str, revision: str | None, second: bool = False) -> tuple[Any, Any]:
    """Tokenizer and text encoder of a folder in diffusers' layout, or of the hub.

    Args:
        path: As of ``TextEncoder``.
        revision: Branch, tag or commit on the hub.
        second: The second ones, of SDXL: ``tokenizer_2`` and ``text_encoder_2``.

    Raises:
        FileNotFoundError: There is no such folder, or the hub cannot be reached.
        ValueError: transformers is not installed.
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
    except (OSError, TypeError) as error:  # transformers 4 opens a file that it has not found
        raise FileNotFoundError(
            f"{place} has no text encoder that can be read ({str(error).splitlines()[0]}): "
            f"expected a folder with text_encoder{number} and tokenizer{number} in diffusers' "
            "layout, or a name on the hub that is in its cache or can be fetched"
        ) from error
    return tokenizer, model


def token_ids(tokenizer: Any, model: Any, texts: Sequence[str]) -> Tensor:
    """(B, tokens) of B texts, each cut or filled, where the model is.

    Args:
        tokenizer: Of transformers.
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
