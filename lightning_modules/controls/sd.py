"""SD followed by super-resolution, and the SD upscaler.

A baseline of Self-Cascade that does not adapt the base (Guo et al., ECCV 2024; arXiv 2402.10491,
table 1).

Differs from the paper in: the upscaler is an argument. The paper's is Stable Diffusion's,
``lightning_modules.SDUpscale``, which enlarges sides by four, also for 1024 px; its
number of steps, and the final resizing, are unpublished.

Rombach et al., CVPR 2022 (arXiv 2112.10752), released as ``stable-diffusion-x4-upscaler``; the last
stage of SD+SR in Self-Cascade's tables (arXiv 2402.10491).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from degradations.bicubic import resize
from files.batch import Batch
from files.checksums import check_folder
from files.network import hub_answers
from files.numbers import PositiveFloat, PositiveInt
from files.paths import expand_path
from lightning_modules.backbone.library import library_class
from lightning_modules.backbone.space import named
from lightning_modules.base import NothingToTrain, SuperResolver
from lightning_modules.controls.direct import Direct
from lightning_modules.noise import Noise, Size
from lightning_modules.sampling.color import ColorFix
from lightning_modules.sampling.tiling import padded

NOISE_LEVEL = 20  # timestep of the noise that is added to the upscaler's input: its default


class SDSR(Direct):
    """The frozen base at its own size, then a frozen upscaler. Nothing is trained.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        upscaler: Any method that enlarges images, such as
            ``lightning_modules.Regression``; its scale is set.
        upscaler_weights: Its weights: a run that trained it, a file, or a name of
            ``configs/weights.yaml``. Not for an upscaler with its own weights.
        upscaler_scale: Its scale, if not ``scale``; its output is then resized by antialiased
            bicubic interpolation.

    Raises:
        ValueError: If parts do not fit together.
    """

    def __init__(
        self,
        scale: float,
        *,
        upscaler: Callable[[float], SuperResolver],
        upscaler_weights: str | None = None,
        upscaler_scale: PositiveFloat | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, patch=None, **kwargs)
        self.upscaler_weights = upscaler_weights
        self.upscaler_scale = upscaler_scale
        self.upscaler = upscaler(self.scale if upscaler_scale is None else upscaler_scale)
        self.half_outputs = self.upscaler.half_outputs  # the base alone could be in half precision

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps at the base's size, then the upscaler.

        Raises:
            ValueError: If a side is no multiple of ``scale``.
        """
        size = (batch["size"][0], batch["size"][1])
        base_size = self.trained_size(size)
        z = self.direct(batch, base_size, base_size, noise.stream(0))
        lr = self.space.decode(z).clamp(0, 1).float()
        small = cast("Batch", {**batch, "lr": lr, "size": self._upscaled_size(base_size, size)})
        return resize(self.upscaler.enlarge(small)["sr"], size)

    def _upscaled_size(self, base: Size, size: Size) -> Size:
        """Return the size of the upscaler's output, before it is resized to ``size``."""
        if self.upscaler_scale is None:
            return size
        height, width = (round(side * self.upscaler_scale) for side in base)
        return height, width

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with the upscaler's."""
        settings = super().output_settings
        name = type(self.upscaler).__name__
        weights = self.upscaler.weights_source
        settings["upscaler"] = f"{name} {weights}" if weights else name
        if self.upscaler_scale is not None:
            settings["upscaler_scale"] = self.upscaler_scale
        for name, value in self.upscaler.output_settings.items():
            settings[f"upscaler.{name}"] = value
        return settings

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the base and the upscaler."""
        super().load_parts(find)
        self.upscaler.load_parts(lambda key, name: find(f"upscaler.init_args.{key}", name))
        if self.upscaler_weights is not None:
            self.upscaler.load_weights(find("upscaler_weights", self.upscaler_weights))

    def setup(self, stage: str) -> None:
        """Check the frozen parts.

        Raises:
            ValueError: As in ``FromBase.setup`` and the upscaler's own, or if that has random
                weights.
        """
        super().setup(stage)
        self.upscaler.setup(stage)
        if self.upscaler.needs_weights:
            raise ValueError(
                f"model.init_args.upscaler, {type(self.upscaler).__name__}, has random weights: "
                "set model.init_args.upscaler_weights to the run that trained it, or to a file"
            )


class SDUpscale(NothingToTrain, SuperResolver):
    """``StableDiffusionUpscalePipeline`` of diffusers; needs transformers. Nothing is trained.

    Args:
        scale: Factor by which images are enlarged; must be the pipeline's, 4. Set by
            ``data.init_args.scale``.
        path: Folder in diffusers' layout, or name on the hub. Environment variables are expanded.
        steps: Sampling steps.
        guidance: Strength of classifier-free guidance; 1 for none. Images without a caption get
            an empty one.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.sampling.color``.

    Raises:
        FileNotFoundError: If the pipeline is missing.
        ImportError: If transformers is not installed.
    """

    def __init__(
        self,
        scale: float,
        path: str,
        steps: PositiveInt = 75,
        guidance: float = 9.0,
        color_fix: ColorFix = "none",
    ) -> None:
        super().__init__(scale, color_fix=color_fix)
        self.steps = steps
        self.guidance = guidance
        self.pipeline = _load_pipeline(path)
        self.unet, self.vae = self.pipeline.unet, self.pipeline.vae
        self.text_encoder = self.pipeline.text_encoder
        self.tile_multiple = self.pipeline.vae_scale_factor
        self.weights_source = named(path, self)
        # The pipeline holds the same modules, so this freezes it, and `.to` moves it.
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps of the pipeline, with noise from each image's own generator."""
        texts = batch.get("text") or [""] * len(batch["lr"])
        # The pipeline silently crops sides that are no multiples of its factor.
        mirrored = padded(batch["lr"], self.tile_multiple)
        output = self.pipeline(
            list(texts),
            mirrored.lr,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            noise_level=NOISE_LEVEL,
            generator=noise.generators(),
            output_type="pt",
        )
        images: Tensor = output.images
        return mirrored.crop(images, self.own_size(batch["lr"]))

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with the pipeline's."""
        return {"steps": self.steps, "guidance": self.guidance, **super().output_settings}


def _load_pipeline(path: str) -> Any:
    """Load diffusers' pipeline from a folder or the hub."""
    place = expand_path(path, "SDUpscale.path")
    check_folder(Path(place))
    is_local = not hub_answers()
    pipeline = library_class("StableDiffusionUpscalePipeline").from_pretrained(
        place,
        low_cpu_mem_usage=False,  # True requires accelerate
        local_files_only=is_local,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
