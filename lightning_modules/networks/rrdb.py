"""RRDBNet and SRVGGNetCompact: the networks of ESRGAN and Real-ESRGAN.

Wang et al., ESRGAN, ECCVW 2018 (arXiv 1809.00219), section 3.1; Real-ESRGAN, ICCVW 2021 (arXiv
2107.10833), section 3.4, which shuffles pixels into channels for x2 and x1.

Blocks of three dense blocks, no normalisation, every residual scaled by 0.2. Tensor names are those
of Real-ESRGAN's files; both kinds of ESRGAN's names are read, too. 16.7 million parameters with the
default sizes.
Differs from the papers in: sides that do not fit the shuffle are mirrored up and the output is
cropped.

SRVGGNetCompact, known as Compact, is released with Real-ESRGAN and not described in the paper:
plain convolutions on LR and a shuffle of pixels at the end, by which it learns what the nearest
pixel lacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import PositiveInt
from files.weights import renamed_by
from lightning_modules.networks.layers import conv3x3, zeroed

GROWTH = 32  # width of the outputs within a dense block
SLOPE = 0.2  # of every leaky ReLU
RESIDUAL = 0.2  # factor of every residual
SHUFFLES = {4: 1, 2: 2, 1: 4}  # side of the squares of pixels that become channels, by scale
# From ESRGAN's names: those of its first release, by numbers, and the later ones.
RENAMED = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^model\.0\.", "conv_first."),
        (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
        (r"^model\.1\.sub\.\d+\.", "conv_body."),
        (r"^model\.3\.", "conv_up1."),
        (r"^model\.6\.", "conv_up2."),
        (r"^model\.8\.", "conv_hr."),
        (r"^model\.10\.", "conv_last."),
        (r"^RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
        (r"^trunk_conv\.", "conv_body."),
        (r"^upconv(\d)\.", r"conv_up\1."),
        (r"^HRconv\.", "conv_hr."),
    )
)


class DenseBlock(nn.Module):
    """Five convolutions, each of the input and all outputs before.

    Args:
        channels: Width of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for number in range(1, 6):
            outputs = channels if number == 5 else GROWTH
            convolution = zeroed(conv3x3(channels + (number - 1) * GROWTH, outputs))
            nn.init.kaiming_normal_(convolution.weight)  # only the bias stays 0
            with torch.no_grad():
                convolution.weight.mul_(0.1)  # small residuals at first, as released
            self.add_module(f"conv{number}", convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features x (B, C, H, W)."""
        features = x
        for number in range(1, 5):
            y = functional.leaky_relu(self.get_submodule(f"conv{number}")(features), SLOPE)
            features = torch.cat([features, y], 1)
        return torch.add(x, self.get_submodule("conv5")(features), alpha=RESIDUAL)


class RRDB(nn.Module):
    """Residual in residual: three dense blocks, added to their input.

    Args:
        channels: Width of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(channels)
        self.rdb2 = DenseBlock(channels)
        self.rdb3 = DenseBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features x (B, C, H, W)."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(nn.Module):
    """ESRGAN's and Real-ESRGAN's network, for x4, x2 and x1.

    Args:
        scale: Factor of enlargement: 1, 2 or 4 (linked from data.init_args.scale).
        channels: Width of all features.
        blocks: Number of RRDBs: 23 in both papers, 6 in the released network for anime.

    Raises:
        ValueError: If ``scale`` is another factor.
    """

    def __init__(
        self,
        scale: float,
        channels: PositiveInt = 64,
        blocks: PositiveInt = 23,
    ) -> None:
        super().__init__()
        if scale not in SHUFFLES:
            raise ValueError(
                f"data.init_args.scale is {scale:g}, but RRDBNet enlarges by 1, 2 or 4; it and "
                "AnySize enlarge by any factor"
            )
        self.scale = int(scale)
        self.shuffle = SHUFFLES[self.scale]
        self.divisor = self.shuffle  # of LR sides; others are mirrored up to it
        self.conv_first = conv3x3(3 * self.shuffle**2, channels)
        self.body = nn.Sequential(*(RRDB(channels) for _ in range(blocks)))
        self.conv_body = conv3x3(channels, channels)
        self.conv_up1 = conv3x3(channels, channels)
        self.conv_up2 = conv3x3(channels, channels)
        self.conv_hr = conv3x3(channels, channels)
        self.conv_last = conv3x3(channels, 3)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].

        Returns:
            (B, 3, scale * h, scale * w), about [0, 1]; not clamped.
        """
        h, w = lr.shape[-2:]
        x = self.conv_first(self._shuffled(lr))
        x = x + self.conv_body(self.body(x))
        # Fourfold at any scale: for x2 and x1, `_shuffled` has made the sides smaller before.
        for convolution in (self.conv_up1, self.conv_up2):
            larger = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = functional.leaky_relu(convolution(larger), SLOPE)
        sr: Tensor = self.conv_last(functional.leaky_relu(self.conv_hr(x), SLOPE))
        # Without what `_shuffled` mirrored.
        return sr if self.shuffle == 1 else sr[..., : self.scale * h, : self.scale * w]

    def _shuffled(self, lr: Tensor) -> Tensor:
        """Return LR with squares of pixels as channels, mirrored up to whole squares."""
        if self.shuffle == 1:
            return lr
        bottom = -lr.shape[-2] % self.shuffle  # rows that are missing for whole squares
        right = -lr.shape[-1] % self.shuffle
        if bottom or right:
            # Mirrored; a side of one or two pixels, which has no mirror image, is repeated.
            mode = "reflect" if min(lr.shape[-2:]) > max(bottom, right) else "replicate"
            lr = functional.pad(lr, (0, right, 0, bottom), mode=mode)
        return functional.pixel_unshuffle(lr, self.shuffle)

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file of ESRGAN or Real-ESRGAN by this network's names.

        Args:
            tensors: Flat state dict.
        """
        return renamed_by(tensors, RENAMED)

    def community(self) -> dict[str, Tensor]:
        """Return the tensors by the names of the released files, which are the network's own."""
        return dict(self.state_dict())


class SRVGGNetCompact(nn.Module):
    """Light network of plain convolutions, upsampling at its end.

    Args:
        scale: Factor of enlargement, a whole number from 1 (linked from data.init_args.scale).
        channels: Width of all layers.
        convolutions: Convolutions between the first and the last one: 16 in the released network
            for videos of anime, 32 in the general one.

    Raises:
        ValueError: If ``scale`` is no whole number from 1.
    """

    def __init__(
        self, scale: float, channels: PositiveInt = 64, convolutions: PositiveInt = 16
    ) -> None:
        super().__init__()
        if scale != int(scale) or scale < 1:
            raise ValueError(
                f"data.init_args.scale is {scale:g}, but SRVGGNetCompact enlarges by a whole "
                "number; within AnySize it enlarges by any factor"
            )
        self.scale = int(scale)
        layers: list[nn.Module] = []
        inputs = 3
        for _ in range(convolutions + 1):
            layers += [conv3x3(inputs, channels), nn.PReLU(channels)]
            inputs = channels
        self.body = nn.Sequential(*layers, conv3x3(channels, 3 * self.scale**2))

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].

        Returns:
            (B, 3, scale * h, scale * w), about [0, 1]; not clamped.
        """
        details = functional.pixel_shuffle(self.body(lr), self.scale)
        return details + functional.interpolate(lr, scale_factor=self.scale, mode="nearest")

    def community(self) -> dict[str, Tensor]:
        """Return the tensors by the names of the released files, which are the network's own."""
        return dict(self.state_dict())
