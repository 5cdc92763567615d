"""Stable Diffusion's x4 upscaler with captions, as run by diffusers.

Rombach et al., CVPR 2022 (arXiv 2112.10752), released as ``stable-diffusion-x4-upscaler``; the last
stage of SD+SR in Self-Cascade's tables (arXiv 2402.10491).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from files.paths import expand_path
from lightning_modules.backbone.library import library_class
from lightning_modules.backbone.space import named
from lightning_modules.base import SuperResolver
from lightning_modules.color import ColorFix
from lightning_modules.noise import Noise
from lightning_modules.padding import padded

if TYPE_CHECKING:
    from datamodules.base import Batch


class SDUpscale(SuperResolver):
    """``StableDiffusionUpscalePipeline`` of diffusers; needs transformers. Nothing is trained.

    Args:
        scale: Factor by which images are enlarged; must be the pipeline's, 4. Set by
            ``data.init_args.scale``.
        path: Folder in diffusers' layout, or name on the hub. Environment variables are expanded.
        revision: Branch, tag or commit on the hub.
        steps: Sampling steps.
        guidance: Strength of classifier-free guidance; 1 for none. Images without a caption get
            an empty one.
        noise_level: Timestep of the noise added to the input, up to 350; more noise lets the model
            generate more.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.color``.

    Raises:
        FileNotFoundError: If the pipeline is missing.
        ValueError: If a setting is out of range, the scale is another one, or transformers is not
            installed.
    """

    def __init__(
        self,
        scale: float,
        path: str,
        revision: str | None = None,
        steps: int = 75,
        guidance: float = 9.0,
        noise_level: int = 20,
        color_fix: ColorFix = "none",
    ) -> None:
        super().__init__(scale, color_fix=color_fix)
        self.steps, self.guidance, self.noise_level = steps, guidance, noise_level
        self.pipeline = _loaded(path, revision)
        self.unet, self.vae = self.pipeline.unet, self.pipeline.vae
        self.text_encoder = self.pipeline.text_encoder
        most, factor = self.pipeline.config.max_noise_level, self.pipeline.vae_scale_factor
        if steps < 1 or not 0 <= noise_level <= most:
            raise ValueError(
                f"SDUpscale got steps {steps} and noise_level {noise_level}; expected 1 or more, "
                f"and 0 to {most}"
            )
        if self.scale != factor:
            raise ValueError(
                f"SDUpscale enlarges by {factor}, and {self.scale:g} is requested: set "
                f"data.init_args.scale, or model.init_args.upscaler_scale, to {factor}"
            )
        self.tile_multiple = factor
        self.weights_source = named(path, self, revision)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> SDUpscale:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise: there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "SDUpscale has nothing to train: use test or predict, or another model.class_path"
        )

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Run all steps of the pipeline, with noise from each image's own generator."""
        texts = batch.get("text") or [""] * len(batch["lr"])
        # The pipeline silently crops sides that are no multiples of its factor.
        mirrored = padded(batch["lr"], self.tile_multiple)
        made = self.pipeline(
            list(texts),
            mirrored.lr,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            noise_level=self.noise_level,
            generator=noise.generators(),
            output_type="pt",
        )
        images: Tensor = made.images
        return mirrored.crop(images, batch["size"])

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with the pipeline's."""
        asked = {"guidance": self.guidance, "noise_level": self.noise_level}
        return {"steps": self.steps, **asked, **super().options}


def _loaded(path: str, revision: str | None) -> Any:
    place = expand_path(path, "SDUpscale.path")
    try:
        pipeline = library_class("StableDiffusionUpscalePipeline").from_pretrained(
            place, revision=revision, low_cpu_mem_usage=False
        )
    except ImportError as error:
        raise ValueError(
            "SDUpscale's text encoder needs transformers, which is not installed: install it, or "
            "take another upscaler"
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"{place} has no readable upscaler ({str(error).splitlines()[0]}): expected a folder "
            "of StableDiffusionUpscalePipeline in diffusers' layout, or a name on the hub that is "
            "cached or can be downloaded"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
