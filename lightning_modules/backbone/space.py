"""Spaces of diffusion: pixels, or the latents of an autoencoder.

A space maps images in [0, 1] to the denoiser's inputs and back. Autoencoders are frozen and stay in
evaluation mode, except in ``lightning_modules.Autoencoder``, which trains them; gradients pass
through them to their input. Their weights stay in float32 at any ``trainer.precision``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from files.numbers import PositiveFloat, PositiveInt
from files.paths import expand_path
from files.weights import fingerprint, load_part, load_strictly, read_weights
from lightning_modules.backbone.library import (
    of_clip,
    pretrained,
    to_clip,
    unshaped,
    untrained,
)
from lightning_modules.networks.autoencoders import (
    TAEF2_CHANNELS,
    TAEF2_FACTOR,
    PCAAutoencoder,
    resshift_vq,
    taef2_decoder,
    taef2_encoder,
    vq_from_official,
)
from lightning_modules.networks.running import Float32, without_fp16
from lightning_modules.noise import Noise

T = TypeVar("T")
_RELEASED_SETTINGS = {"norm_num_groups": 32, "act_fn": "silu"}  # of Stable Diffusion's autoencoders


class Space(Float32, ABC):
    """Base class of the spaces.

    Args:
        mean: (C,) subtracted from latents, one number per channel or one for all.
        deviation: (C,) by which they are then divided.

    Attributes:
        channels: Channels of a latent.
        factor: Pixels of an image per position of a latent, along a side.
        source: Source of the weights, with a hash; empty if there are none.
        trained_with: Settings that the weights are trained with and tensors do not show.
    """

    channels: int
    factor: int
    source: str = ""
    trained_with: Mapping[str, Any] = {}
    fp16_overflows: bool = False  # whether activations may exceed 65,504, the largest of fp16
    mean: Tensor
    deviation: Tensor
    _trains: bool = False
    _matched_identity: str = ""  # of stored latents that were found to be of this space

    def __init__(
        self, mean: Sequence[float] = (0.0,), deviation: Sequence[PositiveFloat] = (1.0,)
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("deviation", _per_channel(deviation), persistent=False)

    def encode(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Encode images.

        Args:
            image: (B, 3, H, W) in [0, 1], sides divisible by ``factor``; or clips, (B, F, 3, H, W),
                encoded frame by frame.
            noise: Draws from the encoder's distribution, if it has one; by default, and for clips,
                its mean.

        Returns:
            (B, channels, H / factor, W / factor), or (B, channels, F, ...) for clips.

        Raises:
            ValueError: If a side is not divisible by ``factor``.
        """
        H, W = image.shape[-2:]
        if H % self.factor or W % self.factor:
            raise ValueError(
                f"the image is {H}x{W}; {type(self).__name__} needs sides divisible by "
                f"{self.factor}: choose data.init_args.crop_size or a size accordingly, or pad"
            )
        if image.ndim == 5:
            return of_clip(self.encode, image)
        return self.standardised(self._encode(image, noise))

    def distribution(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and deviation of the encoder's distribution; None if it has none.

        Args:
            image: As in ``encode``.

        Returns:
            Both (B, channels, H / factor, W / factor), standardised.
        """
        return self.encode(image), None

    def standardised(self, z: Tensor) -> Tensor:
        """Standardise the encoder's output (B, channels, h, w) for the denoiser."""
        return (z - self.mean) / self.deviation

    def take(self, latent: Tensor, made_by: str) -> Tensor:
        """Standardise latents that ``main.py encode`` stored, after checking that they fit.

        Args:
            latent: (B, channels, h, w), the encoder's output.
            made_by: ``identity`` of their space.

        Returns:
            (B, channels, h, w).

        Raises:
            ValueError: If they are of another space.
        """
        # Checked once, not for each batch, as the hash of all weights is slow.
        if made_by != self._matched_identity:
            identity = self.identity
            if made_by != identity:
                raise ValueError(
                    f"the latents of data.init_args.train were made by {made_by}, and "
                    f"model.init_args.space is {identity}: encode with that, or set the same "
                    "weights"
                )
            self._matched_identity = made_by
        return self.standardised(latent)

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents to images.

        Args:
            z: (B, channels, h, w), or (B, channels, F, h, w) for clips.

        Returns:
            (B, 3, factor h, factor w), or clips, (B, F, 3, ...); about [0, 1], not clamped.
        """
        if z.ndim == 5:
            return to_clip(self.decode, z, self.factor)
        return self._decode(z * self.deviation + self.mean)

    def load_official(self, path: str | Path) -> None:
        """Load the autoencoder from a run that trained it, or from its authors' file.

        Args:
            path: Checkpoint of ``lightning_modules.Autoencoder``, exported file, or the release.

        Raises:
            ValueError: If there is nothing to load, or the file is corrupt or of another
                autoencoder.
        """
        load_part(self, read_weights(path), "space")
        # Hashed by the autoencoder's own names, without `vae.`, so that a file and a folder of the
        # same weights have the same hash.
        tensors = getattr(self, "vae", self).state_dict()
        self.source = f"{Path(path).name} {fingerprint(tensors)}"

    def official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of the authors' file to this space's names.

        Args:
            tensors: Tensors by the names in the file.
        """
        return tensors

    def unfreeze(self) -> None:
        """Make the autoencoder trainable."""
        self.requires_grad_(True)
        self._trains = True
        self.train()

    def compile_halves(self) -> None:
        """Compile encoder and decoder at their first calls; names of tensors stay."""
        for name, part in self.named_modules():
            if name.rpartition(".")[2] in ("encoder", "decoder"):
                part.compile()

    def initialise(self, images: Tensor) -> None:
        """Set initial weights from training images; most autoencoders need none, and do nothing.

        Args:
            images: (B, 3, H, W) in [0, 1].
        """

    def commitment(self, z: Tensor) -> Tensor:
        """Return the loss of quantisation, a scalar; 0 without a codebook.

        Args:
            z: (B, channels, h, w).
        """
        return z.new_zeros(())

    def in_range(self, network: Callable[[Tensor], T], x: Tensor) -> T:
        """Apply a part of the autoencoder, in float32 under fp16 autocast if fp16 would overflow.

        Args:
            network: Its encoder or decoder.
            x: (B, 3, H, W) for the encoder, (B, channels, h, w) for the decoder.
        """
        return without_fp16(network, x) if self.fp16_overflows else network(x)

    @property
    def identity(self) -> str:
        """Kind of space and hash of its weights; latents with the same identity are compatible."""
        return f"{type(self).__name__} {fingerprint(self.state_dict())}"

    @property
    def settings(self) -> dict[str, Any]:
        """What latents depend on, and ``source`` does not show."""
        return {
            "mean": [round(number, 6) for number in self.mean.flatten().tolist()],
            "deviation": [round(number, 6) for number in self.deviation.flatten().tolist()],
            **self.trained_with,
        }

    @abstractmethod
    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        """Encode without standardising."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor:
        """Decode latents that are not standardised."""

    def train(self, mode: bool = True) -> Space:
        """Stay in evaluation mode unless the autoencoder trains."""
        super().train(mode and self._trains)
        return self


class PixelSpace(Space):
    """Pixels in [-1, 1]."""

    channels = 3
    factor = 1

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        return image * 2 - 1

    def _decode(self, z: Tensor) -> Tensor:
        return (z + 1) / 2


class KLSpace(Space):
    """Latents of a variational autoencoder with a normal posterior, as in Stable Diffusion.

    Args:
        vae: Folder, or name on the hub, of the autoencoder in diffusers' layout; or arguments of
            diffusers' class, as in a ``config.json``, for random weights; in Python also diffusers'
            autoencoder itself. Its scaling and shift are applied.
        subfolder: Subfolder of the autoencoder, e.g. ``vae``.

    Raises:
        FileNotFoundError: If the autoencoder is missing.
        ValueError: If its weights do not fit.
    """

    def __init__(self, vae: str | dict[str, Any] | nn.Module, subfolder: str | None = None) -> None:
        autoencoder: Any = vae
        source = ""
        if isinstance(vae, dict):
            autoencoder = untrained("AutoencoderKL", vae)
        elif isinstance(vae, str):
            key = "model.init_args.space.init_args.vae"
            autoencoder = pretrained(key, "AutoencoderKL", vae, subfolder)
            source = named(vae, autoencoder)
        config = autoencoder.config
        # diffusers multiplies latents by its factor; a Space divides them by `deviation`.
        super().__init__((config.shift_factor or 0.0,), (1 / config.scaling_factor,))
        self.vae = autoencoder
        self.source = source
        self.trained_with = unshaped(autoencoder)
        self.channels = config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        # True for SDXL, and when the config omits it.
        self.fp16_overflows = config.force_upcast
        self.requires_grad_(False).eval()

    @property
    def identity(self) -> str:
        """Kind of space, hash of its weights, and settings, unless they are Stable Diffusion's.

        The hash shows tensors only, and other settings make other latents of the same tensors.
        """
        words = [super().identity]
        for name, setting in self.trained_with.items():
            if _RELEASED_SETTINGS.get(name) != setting:
                words.append(f"{name} {setting}")
        return " ".join(words)

    def distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the posterior, standardised; see ``Space.distribution``."""
        posterior = self.in_range(self.vae.encode, image * 2 - 1).latent_dist
        # The deviation is only scaled: subtracting the mean does not change it.
        return self.standardised(posterior.mean), posterior.std / self.deviation

    def official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of an autoencoder in diffusers' names to this space's."""
        return {f"vae.{name}": tensor for name, tensor in tensors.items()}

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        posterior = self.in_range(self.vae.encode, image * 2 - 1).latent_dist
        if noise is None:
            return posterior.mean
        return posterior.mean + posterior.std * noise.normal(posterior.mean.shape)

    def _decode(self, z: Tensor) -> Tensor:
        return (self.in_range(self.vae.decode, z).sample + 1) / 2


class ResShiftVQ(Space):
    """Latents of ResShift's vector-quantised autoencoder; initially with random weights.

    The encoder's output is not quantised; the decoder uses the nearest entry of the codebook, with
    a straight-through gradient.

    Args:
        channels: Widths of the levels; each except the last one halves the sides.
        entries: Size of the codebook.
        latent: Channels of a latent.
    """

    def __init__(
        self,
        channels: Sequence[PositiveInt] = (128, 256, 512),
        entries: PositiveInt = 8192,
        latent: PositiveInt = 3,
    ) -> None:
        super().__init__()
        self.vae = resshift_vq(channels, entries, latent)
        self.channels = latent
        self.factor = 2 ** (len(channels) - 1)
        self.requires_grad_(False).eval()

    def official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a file such as ``autoencoder_vq_f4.pth`` to this space's names."""
        return {f"vae.{name}": tensor for name, tensor in vq_from_official(tensors).items()}

    def commitment(self, z: Tensor) -> Tensor:
        """Return the codebook's loss, a scalar; see ``Space.commitment``."""
        _, loss, _ = self.vae.quantize(z)
        return cast(Tensor, loss)

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        return self.vae.encode(image * 2 - 1).latents  # not quantised

    def _decode(self, z: Tensor) -> Tensor:
        return (self.vae.decode(z).sample + 1) / 2  # diffusers quantises in `decode`


class Taef2Space(Space):
    """Latents of TAEF2, a small autoencoder; see ``networks.autoencoders``.

    Args:
        encoder: File of the encoder, ``taef2_encoder.pth``; without it the weights are random.
            Environment variables are expanded, as in ``decoder``.
        decoder: File of the decoder, ``taef2_decoder.pth``.
        mean: (32,) subtracted from latents, or one number.
        deviation: (32,) by which they are then divided.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is corrupt or of another network, or only one of the two is set.
    """

    channels = TAEF2_CHANNELS
    factor = TAEF2_FACTOR

    def __init__(
        self,
        encoder: str | Path | None = None,
        decoder: str | Path | None = None,
        mean: Sequence[float] = (0.0,),
        deviation: Sequence[PositiveFloat] = (1.0,),
    ) -> None:
        super().__init__(mean, deviation)
        if (encoder is None) != (decoder is None):
            raise ValueError("only one half of the autoencoder is set; set both, or none")
        self.encoder = taef2_encoder()
        self.decoder = taef2_decoder()
        if encoder is not None and decoder is not None:
            self.source = f"{_load(self.encoder, encoder)}, {_load(self.decoder, decoder)}"
        self.requires_grad_(False).eval()

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        return self.encoder(image)

    def _decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


def _load(half: nn.Module, file: str | Path) -> str:
    """Load one half of TAEF2, and return its source."""
    path = Path(expand_path(str(file), "TAEF2"))
    load_strictly(half, read_weights(path).tensors, f"{path}, a half of TAEF2,")
    return named(path.name, half)


class PCASpace(Space):
    """Latents of an autoencoder that ``lightning_modules.Autoencoder`` trained in minutes.

    Other arguments and errors are those of ``networks.autoencoders.PCAAutoencoder``, which also
    standardises the latents.

    Args:
        deviation: As in ``Space``; for ResShift that of each channel's residual between LR and HR,
            so that the noise, equal in all channels, does not hide what LR shows.
    """

    def __init__(self, deviation: Sequence[PositiveFloat] = (1.0,), **kwargs: Any) -> None:
        super().__init__(deviation=deviation)
        self.vae = PCAAutoencoder(**kwargs)
        self.channels = self.vae.latent
        self.factor = self.vae.factor
        self.requires_grad_(False).eval()

    def initialise(self, images: Tensor) -> None:
        """Start at the principal components of the images' patches."""
        self.vae.initialise(images)

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        return self.vae.encode(image)

    def _decode(self, z: Tensor) -> Tensor:
        return self.vae.decode(z)


def named(path: str, module: nn.Module) -> str:
    """Return the source of a module's weights: their path and hash."""
    return f"{path} {fingerprint(module.state_dict())}"


def _per_channel(values: Sequence[float]) -> Tensor:
    """Return (1, C, 1, 1), one value per channel or one for all, to broadcast over latents."""
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
