"""Conditions of a denoiser: text encoders, fixed prompts, classes."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from degradations.device import copy_to
from files.batch import Batch
from files.checksums import check_folder
from files.network import hub_answers
from files.numbers import PositiveInt
from files.paths import expand_path
from files.weights import fingerprint, read_file
from lightning_modules.backbone.space import named
from lightning_modules.networks.infinity import Text
from lightning_modules.networks.running import Frozen


@dataclasses.dataclass(frozen=True)
class Condition:
    """Inputs of a denoiser besides the noisy sample; unused parts are None.

    Args:
        text: (B, N, D), one embedding per token.
        pooled: (B, D'), one embedding of the whole text, for SDXL.
        sizes: (B, n) numbers to embed, such as SDXL's original size, crop and target.
    """

    text: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    @property
    def used(self) -> dict[str, Tensor]:
        """Return the used parts by name."""
        parts = {"text": self.text, "pooled": self.pooled, "sizes": self.sizes}
        return {name: part for name, part in parts.items() if part is not None}


def joined(first: Condition, second: Condition) -> Condition:
    """Concatenate two conditions, which have the same parts, to one batch."""
    second_parts = second.used
    parts = {name: torch.cat([part, second_parts[name]]) for name, part in first.used.items()}
    return Condition(**parts)


def guided(
    predict: Callable[[Tensor, Tensor, Condition], Tensor],
    z: Tensor,
    t: Tensor,
    condition: Condition,
    unconditional: Condition,
    scale: float,
) -> Tensor:
    """Classifier-free guidance: extrapolate from the unconditional prediction.

    Args:
        predict: From (z, t, condition) to the network's output, or a linear function of it.
        z: (B, ...), noisy.
        t: (B,).
        condition: Condition of B samples.
        unconditional: The same parts, with a null text or a negative prompt.
        scale: Strength; 1 is no guidance. Otherwise the call is of 2B samples.

    Returns:
        The guided prediction, (B, ...).

    Source: Ho and Salimans, 2022 (arXiv 2207.12598), equation 6, in the form of Imagen (scale = 1 +
    w).
    """
    if scale == 1:
        return predict(z, t, condition)
    # Both predictions in one call, which is faster than two.
    doubled = predict(torch.cat([z, z]), torch.cat([t, t]), joined(unconditional, condition))
    without_text, with_text = doubled.chunk(2)
    return without_text + scale * (with_text - without_text)


class FixedPrompt(nn.Module):
    """Embeddings of one prompt and its negative, from a file of ``python main.py prompt``.

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

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        file = Path(expand_path(str(path), "model.init_args.prompt"))
        if not file.is_file():
            raise FileNotFoundError(
                f"no embedding of a prompt at {file}; make it, with transformers installed, by "
                f"python main.py prompt --out {path} (with --t5 for FixedText)"
            )
        tensors = read_file(file)
        if "prompt" not in tensors:
            raise ValueError(f"{path} has no tensor prompt: make it with python main.py prompt")
        prompt = tensors["prompt"]  # (tokens, channels)
        # A placeholder where there is none, so that the buffer exists; it is never used.
        negative = tensors.get("negative", torch.zeros_like(prompt))
        self.register_buffer("prompt", prompt, persistent=False)
        self.register_buffer("negative", negative, persistent=False)
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


class TextEncoder(Frozen):
    """CLIP's text encoder as in Stable Diffusion, frozen; needs transformers.

    Args:
        path: Folder with ``text_encoder`` and ``tokenizer`` in diffusers' layout, or name on the
            hub. Environment variables are expanded.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed.
    """

    model: Any  # transformers, which has the types, may be missing
    tokenizer: Any

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tokenizer = loaded("CLIPTokenizer", path, "tokenizer")
        self.model = loaded("CLIPTextModel", path, "text_encoder")
        self.source = named(path, self.model)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor | Condition:
        """Return (B, tokens, channels) of B texts, truncated or padded to the number of tokens.

        An encoder with further outputs, such as a pooled embedding, returns a ``Condition``.

        Args:
            texts: B texts; empty ones are the unconditional text of Stable Diffusion.
        """
        return self.model(token_ids(self.tokenizer, self.model, texts))[0]


def loaded(kind: str, path: str, subfolder: str = "") -> Any:
    """Load a part of a text encoder from a folder, or from the hub.

    Args:
        kind: Name of transformers' class.
        path: As in ``TextEncoder``.
        subfolder: Subfolder of the part.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ImportError: If transformers is not installed.
        ValueError: If weights contradict their checksum.
    """
    import transformers

    place = expand_path(path, "path")
    check_folder(Path(place, subfolder))
    is_local = not hub_answers()
    try:
        return getattr(transformers, kind).from_pretrained(
            place, subfolder=subfolder, local_files_only=is_local
        )
    except (OSError, TypeError, ValueError) as error:  # TypeError: transformers 4, a missing file
        raise FileNotFoundError(
            f"{place} has no readable {subfolder or 'text encoder'} of transformers: "
            f"expected a folder, or a name on the hub; `hf download {place}` fetches it"
        ) from error


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


class SDXLTextEncoder(TextEncoder):
    """Both CLIP text encoders of SDXL, frozen; needs transformers.

    Args:
        path: Folder with ``text_encoder``, ``tokenizer``, ``text_encoder_2`` and ``tokenizer_2`` in
            diffusers' layout, or name on the hub. Environment variables are expanded.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed.
    """

    model_2: Any
    tokenizer_2: Any

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.tokenizer_2 = loaded("CLIPTokenizer", path, "tokenizer_2")
        self.model_2 = loaded("CLIPTextModelWithProjection", path, "text_encoder_2")
        self.source = named(path, nn.ModuleList([self.model, self.model_2]))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Condition:
        """Return SDXL's condition of B texts.

        Args:
            texts: B texts.

        Returns:
            ``text`` (B, tokens, D), the concatenated penultimate layers of both encoders, and
            ``pooled`` (B, D') of the second one; 0 for an empty text, as the base was trained.
        """
        ids = token_ids(self.tokenizer, self.model, texts)
        ids_2 = token_ids(self.tokenizer_2, self.model_2, texts)
        first = self.model(ids, output_hidden_states=True)
        second = self.model_2(ids_2, output_hidden_states=True)
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        has_text = copy_to(torch.tensor([bool(caption) for caption in texts]), text.device)
        pooled = second.text_embeds * has_text.view(-1, 1)
        return Condition(text=text * has_text.view(-1, 1, 1), pooled=pooled)


class Texts(nn.Module, ABC):
    """Base class of encoders of captions.

    Attributes:
        width: Channels of a feature.
        reads: Whether features depend on the captions; False if one text is for all images.
        source: Source of its weights, with a hash.
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


class T5(Frozen, Texts):
    """T5's encoder, frozen, as in Infinity and NSARM (flan-t5-xl); needs transformers.

    Args:
        path: Folder in transformers' layout, or name on the hub. Environment variables are
            expanded.
        length: Largest number of tokens; longer captions are truncated.

    Raises:
        FileNotFoundError: If the folder is missing, or the hub cannot be reached.
        ValueError: If transformers is not installed.
    """

    def __init__(self, path: str = "google/flan-t5-xl", length: PositiveInt = 512) -> None:
        super().__init__()
        self.length = length
        self.tokenizer = loaded("AutoTokenizer", path)
        self.model = loaded("T5EncoderModel", path)
        self.width = self.model.config.d_model
        self.source = named(path, self.model)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Text:
        """Return the encoder's last features, padded to the longest caption of the batch."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        mask: Tensor = tokens.attention_mask.to(device)
        output = self.model(tokens.input_ids.to(device), attention_mask=mask)
        return Text(output.last_hidden_state, mask.sum(1))


class FixedText(Texts):
    """Features of one text for all images, from a file; no encoder runs.

    Args:
        path: The safetensors file of ``python main.py prompt --t5``;
            environment variables are expanded.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is corrupt, or holds no prompt.
    """

    reads = False

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.prompt = FixedPrompt(path)
        self.width = self.prompt.prompt.shape[-1]
        self.source = self.prompt.source

    def forward(self, texts: Sequence[str]) -> Text:
        """Return the fixed features; the texts are ignored."""
        features = self.prompt.prompt.expand(len(texts), -1, -1)
        lengths = torch.full((len(texts),), features.shape[1], device=features.device)
        return Text(features, lengths)


def text_of(batch: Batch, encoder: Texts | None, prompt: str | None) -> Text | None:
    """Return the text of a batch; None without encoder and cached features.

    Args:
        batch: Batch with ``text``, or with cached ``text_features``.
        encoder: Encodes captions.
        prompt: A caption for all images, instead of their own.

    Raises:
        ValueError: If a caption is missing or empty, or one text is for all images, and they have
            cached features.
    """
    keys = batch["key"]
    is_fixed = encoder is not None and not encoder.reads  # one text for all images
    if "text_features" in batch:
        if prompt is not None or is_fixed:
            raise ValueError(
                f"{keys[0]} has features of its own caption, and model.init_args."
                f"{'encoder' if is_fixed else 'prompt'} is for all images: unset it, or use shards "
                "without text_features.npy"
            )
        return Text(batch["text_features"], batch["text_lengths"])
    if encoder is None:
        return None
    if prompt is not None or is_fixed:
        return encoder([prompt or ""] * len(keys))
    texts = batch.get("text", [""])
    if not all(text.strip() for text in texts):
        raise ValueError(
            f"{keys[0]}, or another image of its batch, has no caption: main.py pack packs a "
            "folder with a caption beside each image (NAME.txt); or set model.init_args.prompt, or "
            "unset model.init_args.encoder"
        )
    return encoder(texts)
