"""Networks of diffusers: build, load, freeze and compile them.

A clip is (B, F, 3, H, W), like a list of images; its latent is (B, C, F, h, w), as in video
networks. Functions of single frames are applied to (B F, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from torch import Tensor, nn
from torch.nn import functional

from degradations.compiling import allow_kinds
from files.checksums import check_folder
from files.network import hub_answers
from files.paths import expand_path
from files.weights import Differences
from lightning_modules.networks.running import checkpointed, to_channels_last

Precision = Literal["float32", "bfloat16", "float16"]
PIXELS = 1024 * 1024  # of frames per call of an autoencoder
# Settings of diffusers' configurations that change outputs, but not the shape of any tensor.
UNSHAPED = (
    "attention_head_dim",
    "num_attention_heads",
    "norm_num_groups",
    "norm_eps",
    "act_fn",
    "flip_sin_to_cos",
    "freq_shift",
    "time_embedding_act_fn",
    "timestep_post_act",
    "center_input_sample",
    "downsample_padding",
    "mid_block_scale_factor",
    "resnet_skip_time_act",
    "resnet_out_scale_factor",
)


def library_class(kind: str) -> Any:
    """Return a class of diffusers; imported late, as that takes seconds."""
    import diffusers

    return getattr(diffusers, kind)


def untrained(kind: str, config: dict[str, Any]) -> Any:
    """Create a network with random weights.

    Args:
        kind: Name of the class.
        config: Its arguments, as in a ``config.json``.

    Raises:
        ValueError: If the class does not have an argument.
    """
    network = library_class(kind)
    # Keys with an underscore are diffusers' notes, such as its version.
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = arguments.keys() - signature(network.__init__).parameters.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"unknown arguments of the network: {kind} has no {names}")
    return network.from_config(arguments)


def unshaped(network: Any) -> dict[str, Any]:
    """Return the settings of a network that its tensors do not show, as plain types."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in network.config.items()
        if name in UNSHAPED
    }


def pretrained(key: str, kind: str, path: str, subfolder: str | None) -> Any:
    """Load a trained network in diffusers' layout.

    Args:
        key: Name of the argument, for messages.
        kind: Name of the class.
        path: Folder, or name on the hub. Environment variables are expanded.
        subfolder: Subfolder of the network.

    Raises:
        FileNotFoundError: If the folder has no network, or neither the hub nor its cache does.
        ValueError: If the weights do not fit the configuration, or contradict their checksum.
    """
    place = expand_path(path, key)
    folder = Path(place, subfolder or "")
    check_folder(folder)
    try:
        network, notes = library_class(kind).from_pretrained(
            place,
            subfolder=subfolder,
            local_files_only=not hub_answers(),
            output_loading_info=True,
            low_cpu_mem_usage=False,  # True requires accelerate
            ignore_mismatched_sizes=True,  # reported below, with missing tensors
        )
    except OSError as error:  # of diffusers, whose message has many lines
        reason = str(error).splitlines()[0]
        if HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        elif not Path(place).is_dir() and not hub_answers():
            reason = "the hub does not answer"
        raise FileNotFoundError(
            f"{key}: cannot load {folder}: {reason}; set a folder in diffusers' layout, or "
            f"download it by `hf download {place}` with internet access"
        ) from error
    reshaped = [f"{name} {tuple(a)} for {tuple(b)}" for name, a, b in notes["mismatched_keys"]]
    Differences(notes["missing_keys"], notes["unexpected_keys"], reshaped).refuse(str(folder))
    return network


@dataclass(frozen=True)
class Flags:
    """How a network runs.

    Args:
        frozen: Never train it: evaluation mode, no gradients of its weights, and only its source in
            checkpoints.
        channels_last: Keep images and weights in the memory layout in which convolutions are
            fastest on a GPU.
        gradient_checkpointing: Recompute the blocks in the backward pass instead of storing their
            activations: less memory, a third more time.
        compile: Compile it with ``torch.compile`` at its first call; ``graphs``: on a GPU, also
            replay it as a CUDA graph, one for each size, for inputs of few sizes.
        dtype: Number type of a frozen network's weights and computation. A network that trains
            stays in float32 and follows ``trainer.precision``.

    Raises:
        ValueError: If ``dtype`` is not float32 for a network that trains.
    """

    frozen: bool = False
    channels_last: bool = False
    gradient_checkpointing: bool = False
    compile: bool | Literal["graphs"] = False
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        if self.dtype != "float32" and not self.frozen:
            raise ValueError(
                f"dtype is {self.dtype} for a network that trains; set frozen, or leave dtype at "
                "float32 and set trainer.precision"
            )


def run_as(network: Any, flags: Flags) -> None:
    """Prepare a network of diffusers in place; its owner handles ``frozen``.

    Args:
        network: The network.
        flags: How it runs.
    """
    dtype = getattr(torch, flags.dtype)
    if network.dtype != dtype:
        nn.Module.to(network, dtype)  # diffusers' own method warns about absent modules
    if flags.channels_last:
        to_channels_last(network)
    if flags.gradient_checkpointing:
        if network._supports_gradient_checkpointing:
            network.enable_gradient_checkpointing()
        else:  # diffusers has none for it, such as for video
            for block in (*network.down_blocks, network.mid_block, *network.up_blocks):
                block.forward = partial(checkpointed, block.forward)
    if flags.compile:
        allow_kinds()
        mode = "reduce-overhead" if flags.compile == "graphs" else None
        network.compile(mode=mode)  # in place, so that names of tensors stay


def of_clip(encode: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
    """Encode clips by an encoder of images, a few frames at a time.

    Args:
        encode: (N, 3, H, W) to (N, C, h, w).
        clip: (B, F, 3, H, W).

    Returns:
        (B, C, F, h, w).
    """
    latents = _by_parts(encode, clip.flatten(0, 1), clip.shape[-2] * clip.shape[-1])
    return torch.unflatten(latents, 0, clip.shape[:2]).transpose(1, 2)


def to_clip(decode: Callable[[Tensor], Tensor], z: Tensor, factor: int) -> Tensor:
    """Decode clips by a decoder of images.

    Args:
        decode: (N, C, h, w) to (N, 3, H, W).
        z: (B, C, F, h, w).
        factor: Pixels of an image per position of ``z``, along a side.

    Returns:
        (B, F, 3, H, W).
    """
    frames = z.transpose(1, 2)
    pixels = z.shape[-2] * z.shape[-1] * factor**2
    images = _by_parts(decode, frames.flatten(0, 1), pixels)
    return torch.unflatten(images, 0, frames.shape[:2])


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize images, clips, or latents of either.

    Args:
        x: (..., C, h, w).
        size: (H, W) of the result.
        mode: ``bilinear`` or ``bicubic``, with half-pixel centres and no antialiasing; ``area``;
            ``nearest-exact``.
    """
    images = functional.interpolate(x.flatten(0, -4), size, mode=mode)
    return images.reshape(*x.shape[:-2], *size)


def repeated(t: Tensor, z: Tensor) -> Tensor:
    """Repeat a value per sample for each frame: (B, ...) to (B F, ...); unchanged for images.

    Args:
        t: Timesteps, or other values per sample.
        z: (B, C, F, h, w) or (B, C, h, w).
    """
    return t if z.ndim == 4 else t.repeat_interleave(z.shape[2], 0)


def _by_parts(function: Callable[[Tensor], Tensor], frames: Tensor, pixels: int) -> Tensor:
    """Apply a function to frames of so many pixels, a few at a time, to bound its memory."""
    at_once = max(PIXELS // pixels, 1)
    return torch.cat([function(part) for part in torch.split(frames, at_once)])
