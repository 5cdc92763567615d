"""Networks for any size: LIIF, and AnySize around a network of one factor, such as EDSR.

Learning Continuous Image Representation with Local Implicit Image Function.

Chen et al., CVPR 2021; arXiv 2012.09161.

z*    features of the nearest cell, unfolded     x - v*   relative coordinate, one LR pixel = 2
c     cell: size of the output pixel             S_t      areas that weight the local ensemble

Differs from the paper in: ``global_skip``, an option that is off by default. The perceptron's first
layer is linear, and its largest input is the unfolded 3x3 neighbourhood. That part is computed as
one 3x3 convolution of the LR map, once per image instead of four times per pixel; only coordinate
and cell are added per query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from degradations.bicubic import centres, resize
from degradations.device import copy_to
from files.batch import Box
from files.numbers import NonNegativeInt, PositiveInt
from lightning_modules.networks.edsr import Trunk
from lightning_modules.networks.layers import zeroed
from lightning_modules.noise import Size

NUDGE = 1e-6  # LR pixels; decides ties
NEIGHBOURS = 9  # cells whose features the perceptron gets
PLACE = 4  # and beside them: the offset from the cell's centre, and the size of the output pixel
# Points computed at once: bounds memory without gradients, and changes no result.
CPU_POINTS = 4096  # fit the caches
GPU_POINTS = 65536


class Axis(NamedTuple):
    """Along one axis, the cells near each output pixel.

    cells: (2, B, n): the cells half a cell before and after the pixel.
    offsets: (2, B, n): where the pixel is, from the cell's centre; one cell = 2.
    step: (B, 1): from a pixel to the next, in the same unit.
    side: Number of cells.
    """

    cells: Tensor
    offsets: Tensor
    step: Tensor
    side: int

    @property
    def length(self) -> int:
        """Number of output pixels."""
        return self.cells.shape[-1]


class Perceptron(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs: Number of inputs.
        hidden: Width of each hidden layer.
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, 3))

    @property
    def first(self) -> nn.Linear:
        """The first layer, which LIIF computes in two parts."""
        return cast("nn.Linear", self.layers[0])

    def rest(self, x: Tensor) -> Tensor:
        """Apply all layers after the first to x (n, width)."""
        for layer in self.layers[1:]:
            x = layer(x)
        return x


class AnyFactor(nn.Module, ABC):
    """Base of the networks that enlarge to any size, in two steps.

    Args:
        scale: Factor of enlargement, used if ``forward`` gets no output size.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    @abstractmethod
    def encode(self, lr: Tensor) -> Tensor:
        """Return features (B, C, h, w) of lr (B, 3, h, w) in [0, 1]."""

    @abstractmethod
    def render(
        self, features: Tensor, lr: Tensor, size: Size, boxes: Sequence[Box] | None = None
    ) -> Tensor:
        """Return the output of ``forward`` from the features of ``encode``.

        Args:
            features: (B, C, h, w), the result of ``encode``.
            lr: (B, 3, h, w) in [0, 1], the LR image the features were computed from.
            size: (H, W) of the output.
            boxes: As in ``forward``.
        """

    def forward(
        self, lr: Tensor, size: Size | None = None, boxes: Sequence[Box] | None = None
    ) -> Tensor:
        """Enlarge to any size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W) of the output; ``scale`` times that of lr, rounded, by default.
            boxes: B parts of lr that the outputs cover; by default all of it.

        Returns:
            (B, 3, H, W), about [0, 1]; not clamped.
        """
        if size is None:
            h, w = lr.shape[-2:]
            size = round(self.scale * h), round(self.scale * w)
        return self.render(self.encode(lr), lr, size, boxes)


class LIIF(AnyFactor):
    """EDSR's features, and a perceptron that predicts the colour at any point between them.

    Args:
        scale: Factor of enlargement, any positive number (linked from data.init_args.scale);
            used if ``forward`` gets no output size.
        blocks: Number of residual blocks of the encoder.
        channels: Width of the encoder.
        hidden: Width of each hidden layer of the perceptron.
        global_skip: Let the network learn the residual of bicubic enlargement, starting from
            exactly bicubic; for short trainings from scratch. False, as in the paper, for released
            weights.
    """

    def __init__(
        self,
        scale: float,
        blocks: NonNegativeInt = 16,
        channels: PositiveInt = 64,
        hidden: tuple[int, ...] = (256, 256, 256, 256),
        global_skip: bool = False,
    ) -> None:
        super().__init__(scale)
        self.encoder = Trunk(blocks, channels, peak=1.0)
        self.imnet = Perceptron(channels * NEIGHBOURS + PLACE, hidden)
        self.global_skip = global_skip
        # Kept with the weights, whose shapes do not show it.
        self.trained_with = {"global_skip": global_skip}
        if global_skip:
            zeroed(self.imnet.layers[-1])

    def encode(self, lr: Tensor) -> Tensor:
        """Return features (B, C, h, w) of lr (B, 3, h, w) in [0, 1]."""
        return self.encoder(lr * 2 - 1)

    def render(
        self, features: Tensor, lr: Tensor, size: Size, boxes: Sequence[Box] | None = None
    ) -> Tensor:
        """Return the colours at ``size``, from features; arguments as of ``AnyFactor.render``.

        ``lr`` is used only with ``global_skip``.
        """
        batch = len(features)
        h, w = features.shape[-2:]
        height, width = size
        parts = [((0.0, h), (0.0, w))] * batch if boxes is None else boxes
        rows = _axis([rows for rows, _ in parts], height, h, features.device)
        columns = _axis([columns for _, columns in parts], width, w, features.device)
        # Once per LR pixel instead of four times per output pixel, which then looks it up.
        table = self._first_layer_by_cell(features)
        at_once = CPU_POINTS if features.device.type == "cpu" else GPU_POINTS
        points = torch.arange(height * width, device=features.device)
        colours = [
            self._colours(table, rows, columns, part)
            for part in torch.split(points, max(1, at_once // batch))
        ]
        image = torch.cat(colours, dim=1) * 0.5 + 0.5  # from [-1, 1] to [0, 1]
        image = image.view(batch, height, width, 3).permute(0, 3, 1, 2)
        if self.global_skip:  # minus the 0.5 of an untrained perceptron, to start from bicubic
            return image - 0.5 + resize(lr, size, clamp=False, boxes=boxes)
        return image

    def _first_layer_by_cell(self, features: Tensor) -> Tensor:
        """Return what the first layer makes of each cell's features: (B * h * w, width).

        With the bias, and without offset and cell size, which ``_colours`` adds.
        """
        # The layer's inputs are ordered as (C, 3, 3), so its weight is that of a convolution.
        weight = self.imnet.first.weight[:, :-PLACE].reshape(-1, features.shape[1], 3, 3)
        features = features.contiguous(memory_format=torch.channels_last)
        maps = functional.conv2d(features, weight, self.imnet.first.bias, padding=1)
        return maps.permute(0, 2, 3, 1).flatten(0, 2)

    def _colours(self, table: Tensor, rows: Axis, columns: Axis, points: Tensor) -> Tensor:
        """Return colours (B, n, 3) in [-1, 1] at n output pixels: equation 4.

        Args:
            table: Result of ``_first_layer_by_cell``.
            rows: Cells near the output's rows.
            columns: Likewise.
            points: (n,), numbers of the output pixels, row by row.
        """
        row = points // columns.length
        column = points % columns.length
        batch = len(rows.step)
        images = torch.arange(batch, device=points.device).unsqueeze(1)
        first_cell = images * (rows.side * columns.side)  # of each image in the table
        cell = torch.stack([rows.step, columns.step], dim=-1).expand(batch, len(points), 2)
        values = []
        areas = []
        for down, right in product((0, 1), repeat=2):
            dy = rows.offsets[down][:, row]
            dx = columns.offsets[right][:, column]
            place = torch.cat([torch.stack((dy, dx), dim=-1), cell], dim=-1).flatten(0, 1)
            cell_row = rows.cells[down][:, row]
            cell_column = columns.cells[right][:, column]
            index = first_cell + cell_row * columns.side + cell_column
            features = table.index_select(0, index.flatten())
            weight = self.imnet.first.weight[:, -PLACE:]
            hidden = torch.addmm(features, place.to(table.dtype), weight.t())
            # Under autocast, only the perceptron has half precision, not coordinates and blend.
            values.append(self.imnet.rest(hidden).to(dy.dtype))
            areas.append((dy * dx).abs() + 1e-9)  # all four may be 0 at the border
        # The nearer a corner, the larger the area spanned with the *opposite* one; the order of
        # the shifts makes that the same list reversed.
        weights = torch.stack(areas[::-1])
        weights = weights / weights.sum(dim=0)
        return (torch.stack(values).view(*weights.shape, 3) * weights.unsqueeze(-1)).sum(dim=0)


def _axis(
    parts: Sequence[tuple[float, float]], count: int, side: int, device: torch.device
) -> Axis:
    """Return the cells near each of ``count`` output pixels that cover ``parts`` of a side."""
    places = torch.stack([centres(count, start, stop) for start, stop in parts])
    # At the border both shifts give the same cell, as in the paper's formula.
    cells = torch.stack([(places + shift + NUDGE).floor() for shift in (-0.5, 0.5)])
    cells = cells.clamp(0, side - 1)
    offsets = 2 * (places - cells - 0.5)
    steps = torch.tensor([[2 * (stop - start) / count] for start, stop in parts])
    return Axis(
        copy_to(cells.long(), device),
        copy_to(offsets.float(), device),
        copy_to(steps, device),
        side,
    )


class AnySize(AnyFactor):
    """A network of one factor, resized to any size by antialiased bicubic interpolation.

    As the base of ``lightning_modules.CasArbi``, its features are those of the network's own
    ``encode``, as EDSR has it, or else the LR image. CasArbi's paper lists EDSR among its bases
    without the resizing; this is our choice.

    Args:
        scale: Factor of enlargement, any number of at least 1 (linked from data.init_args.scale);
            used if ``forward`` gets no output size.
        network: The network: a class whose first argument is the factor, such as
            ``lightning_modules.EDSR`` or ``lightning_modules.Spandrel``.
        factor: The network's own factor.
    """

    def __init__(
        self, scale: float, network: Callable[[float], nn.Module], factor: float = 2.0
    ) -> None:
        super().__init__(scale)
        self.network: Any = network(factor)
        # Whether the network computes features and output apart, as EDSR does.
        self.encodes = hasattr(self.network, "enlarged")
        self.divisor = int(getattr(self.network, "divisor", 1))  # of LR sides
        self.trained_with = getattr(self.network, "trained_with", {})
        # The source of weights that the network loads itself, as Spandrel does.
        self.weights_source: str | None = getattr(self.network, "weights_source", None)

    def encode(self, lr: Tensor) -> Tensor:
        """Return the network's features (B, C, h, w) of lr, or lr itself if it has none to give."""
        return self.network.encode(lr) if self.encodes else lr

    def render(
        self, features: Tensor, lr: Tensor, size: Size, boxes: Sequence[Box] | None = None
    ) -> Tensor:
        """Enlarge by the network and resize to ``size``; arguments as of ``AnyFactor.render``."""
        image = self.network.enlarged(features, lr) if self.encodes else self.network(lr)
        if boxes is None:
            return resize(image, size, clamp=False)
        # Boxes are in LR pixels; here, the image is what is resized.
        y = image.shape[-2] / lr.shape[-2]
        x = image.shape[-1] / lr.shape[-1]
        parts = [
            ((top * y, bottom * y), (left * x, right * x)) for (top, bottom), (left, right) in boxes
        ]
        return resize(image, size, clamp=False, boxes=parts)

    def official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a released file of the network to ours."""
        official = getattr(self.network, "official", dict)
        return {f"network.{name}": tensor for name, tensor in official(state).items()}
