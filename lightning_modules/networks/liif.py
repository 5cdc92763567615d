"""Networks for any size: LIIF, and AnySize around a network of one factor, such as EDSR.

Learning Continuous Image Representation with Local Implicit Image Function.

Chen et al., CVPR 2021; arXiv 2012.09161.

z*    features of the nearest cell, unfolded     x - v*   relative coordinate, one LR pixel = 2
c     cell: size of the output pixel             S_t      areas that weight the local ensemble

Differs from the paper in: `global_skip`, an option that is off by default; without `ensemble`, a
pixel halfway between two cells takes the second one. The perceptron's first
layer is linear, and its largest input is the unfolded 3x3 neighbourhood. That part is computed as
one 3x3 convolution of the LR map, once per image instead of four times per pixel; only coordinate
and cell are added per query.
"""

from __future__ import annotations

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

NUDGE = 1e-6  # LR pixels; decides ties


class Axis(NamedTuple):
    """Along one axis, the cells near each output pixel.

    cells: (1 or 2, B, n): the cell of the pixel, or those half a cell before and after it.
    offsets: (1 or 2, B, n): where the pixel is, from the cell's centre, in halves of a cell.
    step: (B, 1), from a pixel to the next, likewise.
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

    def __init__(self, inputs: int, hidden: list[int]) -> None:
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


class LIIF(nn.Module):
    """EDSR's features, and a perceptron that predicts the colour at any point between them.

    Args:
        scale: Factor of enlargement, any positive number (linked from data.init_args.scale);
            used if `forward` gets no output size.
        blocks: Number of residual blocks of the encoder.
        channels: Width of the encoder.
        hidden: Width of each hidden layer of the perceptron.
        unfold: Give the perceptron the 3x3 neighbourhood of a cell, not only the cell.
        cell: Give the perceptron the size of the output pixel.
        ensemble: Blend the predictions of the four nearest cells; without it, images show seams.
        chunk: Number of points computed at once; bounds memory without gradients and changes no
            result. None is 4096 on a CPU, which fits its caches, and 65536 elsewhere.
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
        unfold: bool = True,
        cell: bool = True,
        ensemble: bool = True,
        chunk: PositiveInt | None = None,
        global_skip: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.kernel = 3 if unfold else 1
        self.cell = cell
        self.ensemble = ensemble
        self.chunk = chunk
        self.encoder = Trunk(blocks, channels, peak=1.0)
        inputs = channels * self.kernel**2 + (4 if cell else 2)
        self.imnet = Perceptron(inputs, list(hidden))
        self.global_skip = global_skip
        self.trained_with = {"global_skip": global_skip, "ensemble": ensemble}
        if global_skip:
            last = cast("nn.Linear", self.imnet.layers[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self,
        lr: Tensor,
        size: tuple[int, int] | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Enlarge to any size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: Height and width of the output; None for `scale` times that of lr, rounded.
            boxes: B parts of lr that the outputs cover; by default all of it.

        Returns:
            (B, 3, *size), about [0, 1]; not clamped.
        """
        h, w = lr.shape[-2:]
        height, width = size or (round(self.scale * h), round(self.scale * w))
        return self.render(self.encode(lr), lr, (height, width), boxes)

    def encode(self, lr: Tensor) -> Tensor:
        """Return features (B, C, h, w) of lr (B, 3, h, w) in [0, 1]."""
        return self.encoder(lr * 2 - 1)

    def render(
        self,
        features: Tensor,
        lr: Tensor,
        size: tuple[int, int],
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Return the output of `forward` from the features of `encode`.

        Args:
            features: (B, C, h, w) from `encode`.
            lr: (B, 3, h, w) in [0, 1]; used only with `global_skip`.
            size: Height and width of the output.
            boxes: As in `forward`.

        Returns:
            (B, 3, *size), about [0, 1]; not clamped.
        """
        h, w = features.shape[-2:]
        (height, width), batch = size, len(features)
        parts = [((0.0, h), (0.0, w))] * batch if boxes is None else boxes
        rows = self._axis([box[0] for box in parts], height, h, features.device)
        columns = self._axis([box[1] for box in parts], width, w, features.device)
        table = self._first_layer(features)
        chunk = self.chunk or (4096 if features.device.type == "cpu" else 65536)
        points = torch.arange(height * width, device=features.device)
        answers = [
            self._answer(table, rows, columns, part)
            for part in torch.split(points, max(1, chunk // batch))
        ]
        image = torch.cat(answers, dim=1) * 0.5 + 0.5
        image = image.view(batch, height, width, 3).permute(0, 3, 1, 2)
        if self.global_skip:  # an untrained perceptron gives 0.5
            return image - 0.5 + resize(lr, size, clamp=False, boxes=boxes)
        return image

    def _axis(
        self, parts: Sequence[tuple[float, float]], count: int, side: int, device: torch.device
    ) -> Axis:
        places = torch.stack([centres(count, *part) for part in parts])
        shifts = (-0.5, 0.5) if self.ensemble else (0.0,)
        # At the border both shifts give the same cell, as in the paper's formula.
        cells = torch.stack([(places + shift + NUDGE).floor() for shift in shifts])
        cells = cells.clamp(0, side - 1)
        steps = torch.tensor([2 * (stop - start) / count for start, stop in parts])
        return Axis(
            copy_to(cells.long(), device),
            copy_to((2 * (places - cells - 0.5)).float(), device),
            copy_to(steps[:, None], device),
            side,
        )

    def _first_layer(self, features: Tensor) -> Tensor:
        """Return the cells' part of the first layer, with the bias: (B * h * w, width)."""
        C, k = features.shape[1], self.kernel
        # unfold orders its channels as (C, k, k), as a convolution's weight does.
        weight = self.imnet.first.weight[:, : C * k * k].reshape(-1, C, k, k)
        features = features.contiguous(memory_format=torch.channels_last)
        maps = functional.conv2d(features, weight, self.imnet.first.bias, padding=k // 2)
        return maps.permute(0, 2, 3, 1).flatten(0, 2)

    def _answer(self, table: Tensor, rows: Axis, columns: Axis, points: Tensor) -> Tensor:
        """Return values (B, q, 3) in [-1, 1] at q output pixels: equation 2, or 4 if blended."""
        at_row, at_column = points // columns.length, points % columns.length
        batch = len(rows.step)
        image = torch.arange(batch, device=points.device).unsqueeze(1) * (rows.side * columns.side)
        cell = torch.stack([rows.step, columns.step], dim=-1).expand(batch, len(points), 2)
        values, areas = [], []
        for down, right in product(range(len(rows.cells)), repeat=2):
            dy, dx = rows.offsets[down][:, at_row], columns.offsets[right][:, at_column]
            place = [torch.stack((dy, dx), dim=-1)]
            if self.cell:
                place.append(cell)
            row, column = rows.cells[down][:, at_row], columns.cells[right][:, at_column]
            index = (image + row * columns.side + column).flatten()
            own = torch.cat(place, dim=-1).flatten(0, 1)
            weight = self.imnet.first.weight[:, -own.shape[1] :]
            hidden = torch.addmm(table.index_select(0, index), own.to(table.dtype), weight.t())
            # Under autocast, only the perceptron has half precision, not coordinates and blend.
            values.append(self.imnet.rest(hidden).to(dy.dtype))
            areas.append((dy * dx).abs() + 1e-9)
        # The nearer a corner, the larger the area spanned with the *opposite* one; the order of
        # the shifts makes that the same list reversed.
        weights = torch.stack(areas[::-1])
        weights = weights / weights.sum(dim=0)
        return (torch.stack(values).view(*weights.shape, 3) * weights.unsqueeze(-1)).sum(dim=0)


class AnySize(nn.Module):
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
        super().__init__()
        self.scale, self.network = scale, network(factor)
        self.encodes = hasattr(self.network, "encode")
        self.divisor = int(getattr(self.network, "divisor", 1))
        self.trained_with = getattr(self.network, "trained_with", {})
        # The source of weights that the network loads itself, as Spandrel does.
        self.weights_source: str | None = getattr(self.network, "weights_source", None)

    def forward(
        self,
        lr: Tensor,
        size: tuple[int, int] | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Enlarge to any size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W) of the output; ``scale`` times that of lr, rounded, by default.
            boxes: B parts of lr that the outputs cover; by default all of it.

        Returns:
            (B, 3, H, W), about [0, 1]; not clamped.
        """
        height, width = size or tuple(round(self.scale * n) for n in lr.shape[-2:])
        return self._resized(self.network(lr), lr, (height, width), boxes)

    def encode(self, lr: Tensor) -> Tensor:
        """Return features (B, C, h, w) of lr (B, 3, h, w) in [0, 1]."""
        return cast(Any, self.network).encode(lr) if self.encodes else lr

    def render(
        self,
        features: Tensor,
        lr: Tensor,
        size: tuple[int, int],
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Return the output of ``forward`` from the features of ``encode``.

        Args:
            features: (B, C, h, w), the result of ``encode``.
            lr: (B, 3, h, w) in [0, 1], the LR that they are of.
            size: (H, W) of the output.
            boxes: As in ``forward``.

        Returns:
            (B, 3, H, W), about [0, 1]; not clamped.
        """
        known = cast(Any, self.network)
        image = known.enlarged(features, lr) if self.encodes else known(lr)
        return self._resized(image, lr, size, boxes)

    def _resized(
        self, image: Tensor, lr: Tensor, size: tuple[int, int], boxes: Sequence[Box] | None
    ) -> Tensor:
        if boxes is None:
            return resize(image, size, clamp=False)
        y, x = (larger / n for larger, n in zip(image.shape[-2:], lr.shape[-2:], strict=True))
        larger = [
            ((top * y, bottom * y), (left * x, right * x)) for (top, bottom), (left, right) in boxes
        ]
        return resize(image, size, clamp=False, boxes=larger)

    def official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a released file of the network to ours."""
        official = getattr(self.network, "official", dict)
        return {f"network.{name}": tensor for name, tensor in official(state).items()}
