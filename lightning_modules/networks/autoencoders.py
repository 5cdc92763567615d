"""Autoencoders: VQ-f4, TAEF2, the bitwise VAE and one that starts at principal components.

VQ-f4: Esser et al., CVPR 2021 (arXiv 2012.09841); 55,322,782 parameters in 205 tensors with 3
latent channels and a codebook of 8192 entries.

TAEF2: Bohan (madebyollin), "Tiny AutoEncoder for Stable Diffusion", git madebyollin/taesd. Tensor
names are those of the released files, one per half. Blocks in the middle have a branch that pools
over the whole image (GroupNorm), so processing in tiles is not exact.

BitwiseVAE: Han et al., Infinity (arXiv 2412.04431): VQGAN's layers without attention. Encoder and
decoder are diffusers'; this file combines them and maps the names of the released files.

PCAAutoencoder: ours. Its start is the best linear autoencoder of patches, so minutes of training
on a CPU are enough for small images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import NonNegativeInt, PositiveInt
from lightning_modules.networks.layers import conv3x3, zeroed
from lightning_modules.networks.running import Float32, without_fp16

if TYPE_CHECKING:
    from diffusers import VQModel

_NAMES = (  # diffusers' names of the same tensors; its decoder levels count in reverse
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
)
_UP_LEVEL = re.compile(r"^decoder\.up\.(\d+)\.")
# The files of BitwiseVAE wrap each layer in another, except the convolution of a resampling.
_INNER = re.compile(r"(?<!sample)\.(conv|norm)(?=\.(weight|bias)$)")
_MASK = re.compile(r"^quantizer?e?\.lfq\.mask$")  # powers of two, for codes as integers

WIDTH = 64  # of TAEF2's layers
TAEF2_CHANNELS = 32
TAEF2_FACTOR = 8
_BOUND = 3.0  # TAEF2's decoder squashes its input to [-3, 3]
_LEAST_VARIANCE = 1e-6  # of a principal component; that of a constant patch is 0


def resshift_vq(
    channels: Sequence[int] = (128, 256, 512), entries: int = 8192, latent: int = 3
) -> VQModel:
    """Create the autoencoder with random weights; each level except the last halves the sides.

    Args:
        channels: Widths of the levels.
        entries: Size of the codebook.
        latent: Channels of a latent and of an entry.
    """
    from diffusers import VQModel

    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=2,
        latent_channels=latent,
        num_vq_embeddings=entries,
        vq_embed_dim=latent,
        scaling_factor=1.0,
    )


def vq_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map released tensors to diffusers' names and shapes.

    Args:
        tensors: Tensors as in the file, ``encoder.down.0.block.0.conv1.weight`` and so on.
    """
    # Without the prefixes of DDP and torch.compile.
    plain = {re.sub(r"module\.|_orig_mod\.", "", name): t for name, t in tensors.items()}
    ups = [match for name in plain if (match := _UP_LEVEL.match(name))]
    deepest = max((int(match[1]) for match in ups), default=0)
    state = {}
    for name, tensor in plain.items():
        if match := _UP_LEVEL.match(name):  # diffusers counts the decoder's levels in reverse
            name = f"decoder.up.{deepest - int(match[1])}.{name[match.end() :]}"
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if ".attentions." in name and tensor.ndim == 4:
            tensor = tensor.flatten(1)  # a 1x1 convolution as a matrix
        state[name] = tensor
    return state


class Block(nn.Module):
    """Three convolutions with a skip connection, optionally after a pooled branch.

    Args:
        pooled: Whether there is a pooled branch.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv3x3(WIDTH, WIDTH),
            nn.ReLU(),
            conv3x3(WIDTH, WIDTH),
            nn.ReLU(),
            conv3x3(WIDTH, WIDTH),
        )
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 64, H, W) to the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class SoftClamp(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Squash values of any shape to [-3, 3]."""
        return (x / _BOUND).tanh() * _BOUND


def taef2_encoder() -> nn.Sequential:
    """Create the encoder: (B, 3, H, W) in [0, 1], sides divisible by 8, to (B, 32, H / 8, ...)."""
    layers = nn.Sequential(conv3x3(3, WIDTH), Block())
    for level in range(3):  # each halves the sides; only the smallest has pooled branches
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
        layers.extend(Block(pooled=level == 2) for _ in range(3))
    return layers.append(conv3x3(WIDTH, TAEF2_CHANNELS))


def taef2_decoder() -> nn.Sequential:
    """Create the decoder: (B, 32, h, w) to (B, 3, 8 h, 8 w), about [0, 1]."""
    layers = nn.Sequential(SoftClamp(), conv3x3(TAEF2_CHANNELS, WIDTH), nn.ReLU())
    for level in range(3):  # each doubles the sides; only the smallest has pooled branches
        layers.extend(Block(pooled=level == 0) for _ in range(3))
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False))
    return layers.extend([Block(), conv3x3(WIDTH, 3)])


class BitwiseVAE(Float32):
    """Autoencoder with latents of d channels; its weights stay in float32.

    The default is that of NSARM and Infinity-8B: 8 pixels per position, 14 bits, 81.62 M
    parameters. With five widths, 128 256 512 512 512, and 16 to 64 bits it is that of Infinity-2B,
    16 pixels per position; 110.12 M with 32 bits.

    Args:
        bits: Channels of the latent, d.
        widths: Channels of each level; all except the last one halve the sides.
        layers: Residual blocks per level of the encoder; the decoder has one more.
        groups: Channel groups of each norm. A norm removes the mean of a group over the image, so
            groups of one channel lose most of the colour. 0 for no norms: small networks, which do
            not need them, then learn colours in a fraction of the steps.
    """

    def __init__(
        self,
        bits: PositiveInt = 14,
        widths: Sequence[PositiveInt] = (128, 256, 512, 512),
        layers: PositiveInt = 2,
        groups: NonNegativeInt = 32,
    ) -> None:
        super().__init__()
        # Imported late, as it takes a second and the help does not need it.
        from diffusers.models.autoencoders.vae import Decoder, Encoder

        common: dict[str, Any] = {
            "block_out_channels": tuple(widths),
            "layers_per_block": layers,
            "norm_num_groups": groups or 1,  # torch refuses 0; the norms are removed below
            "mid_block_add_attention": False,
        }
        self.bits = bits
        self.trained_with = {"groups": groups}  # kept with the weights, whose shapes do not show it
        self.encoder = Encoder(
            out_channels=bits,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            double_z=False,
            **common,
        )
        self.decoder = Decoder(
            in_channels=bits,
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            **common,
        )
        if not groups:
            _remove_norms(self)
        # The memory layout in which convolutions are fastest; activations follow.
        self.to(memory_format=torch.channels_last)

    @property
    def factor(self) -> int:
        """Pixels per position of the latent, along a side."""
        return 2 ** (len(self.encoder.down_blocks) - 1)

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a released file, as ``bitwise_vae_from_official``."""
        return bitwise_vae_from_official(tensors)

    def encode(self, images: Tensor) -> Tensor:
        """Encode, without quantising; in float32 at any precision, since rounding flips signs.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of ``factor``.

        Returns:
            (B, d, H / factor, W / factor).
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.encoder(2 * images.float() - 1)

    def decode(self, total: Tensor) -> Tensor:
        """Decode to images; in float32 under fp16 autocast, whose range activations exceed.

        Args:
            total: (B, d, h, w), the sum of all scales' codes.

        Returns:
            (B, 3, h factor, w factor), about [0, 1]; not clamped, for training.
        """
        images = without_fp16(self.decoder, total.float())
        return (images + 1) / 2


def _remove_norms(network: nn.Module) -> None:
    """Replace the group norms of a network by identities, in place."""
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, nn.Identity())


def bitwise_vae_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map tensors of a released file to our names.

    Both styles are supported: ``encoder.conv_in.conv.weight``, as published, and
    ``encoder.conv_in.weight``. The quantiser's powers of two are left out.

    Args:
        tensors: Tensors as in the file, within ``vae`` or ``ema``.
    """
    state = {_INNER.sub("", name): t for name, t in tensors.items() if not _MASK.match(name)}
    return vq_from_official(state)


class PCAAutoencoder(nn.Module):
    """Autoencoder whose encoder is one convolution, started at principal components of patches.

    Latents are standardised by the means and deviations of the training batches, so noise that is
    added to them in training cannot be evaded by larger latents. The decoder is the sum of a linear
    one, started at the inverse of the encoder, and a residual one, whose output starts at zero.

    Args:
        latent: Channels of a latent, at most 3 factor^2.
        factor: Pixels per position of a latent, along a side; a power of two.
        kernel: Side of the encoder's convolution in pixels: the factor, or more by an even number.
        widths: Channels of the residual decoder's levels, coarse to fine; one level more than
            doublings of the sides.
    """

    def __init__(
        self,
        latent: int = 12,
        factor: int = 4,
        kernel: int = 8,
        widths: Sequence[int] = (64, 32, 24),
    ) -> None:
        super().__init__()
        self.latent = latent
        self.factor = factor
        self.encoder = nn.Conv2d(3, latent, kernel, factor, (kernel - factor) // 2)
        self.standard = nn.BatchNorm2d(latent, affine=False)
        # The linear decoder makes the pixels of each position as channels, which `shuffle` places.
        self.linear = nn.Conv2d(latent, 3 * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        width = widths[0]
        self.residual = nn.Sequential(conv3x3(latent, width), nn.SiLU())
        for finer in widths[1:]:
            self.residual.extend([conv3x3(width, width), nn.SiLU()])
            self.residual.extend([conv3x3(width, 4 * finer), nn.PixelShuffle(2), nn.SiLU()])
            width = finer
        self.residual.append(zeroed(conv3x3(width, 3)))

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Start at the principal components of the images' patches.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of ``factor``.
        """
        patches = functional.unfold(images, self.factor, stride=self.factor)
        patches = patches.transpose(1, 2).flatten(0, 1).double()  # (B h w, 3 factor^2)
        mean = patches.mean(0)
        variances, vectors = torch.linalg.eigh(torch.cov(patches.T))
        variances = variances[-self.latent :].flip(-1)  # largest first; `eigh` sorts them upwards
        vectors = vectors[:, -self.latent :].flip(-1)
        # Libraries differ in the signs of the vectors, so the largest entry is made positive.
        largest = vectors.abs().argmax(0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()
        deviations = variances.clamp(min=_LEAST_VARIANCE).sqrt()
        encode = (vectors / deviations).T
        kernels = encode.view(self.latent, 3, self.factor, self.factor).float()
        # A kernel that is larger than a patch is 0 around it.
        border = (self.encoder.kernel_size[0] - self.factor) // 2
        inner = slice(border, border + self.factor)
        nn.init.zeros_(self.encoder.weight)
        self.encoder.weight[:, :, inner, inner] = kernels
        cast(Tensor, self.encoder.bias).copy_(-(encode @ mean))
        # The inverse of the encoder: each position alone makes its patch.
        nn.init.zeros_(self.linear.weight)
        self.linear.weight[:, :, 1, 1] = (vectors * deviations).float()
        cast(Tensor, self.linear.bias).copy_(mean)

    def encode(self, images: Tensor) -> Tensor:
        """Encode.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of ``factor``.

        Returns:
            (B, latent, H / factor, W / factor), of about mean 0 and deviation 1.
        """
        return self.standard(self.encoder(images))

    def decode(self, z: Tensor) -> Tensor:
        """Decode to images.

        Args:
            z: (B, latent, h, w).

        Returns:
            (B, 3, h factor, w factor), about [0, 1], not clamped.
        """
        return self.shuffle(self.linear(z)) + self.residual(z)
