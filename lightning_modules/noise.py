"""Noise that depends only on the image: the same field in any batch, on any rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from degradations.draws import seed_of
from files.batch import Batch, Span, Tile, length_of

Size = tuple[int, int]  # height and width, in pixels or latents

LARGEST_AUGMENTATION = 0.1  # standard deviation, for values in [-1, 1]
SQUARE = 64  # side of the squares that a placed field is drawn in


class Noise:
    """Independent normal fields, one per image, for samplers.

    The n-th call returns the field of (seed of i, n) for image i, whatever else is in the batch.
    Fields are drawn on the CPU, identical on every machine, and moved to the device.

    Args:
        seeds: (B,) int64, the batch's ``seed``.
        device: Device of the fields.
    """

    def __init__(self, seeds: Tensor, device: torch.device | str = "cpu") -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.device = torch.device(device)
        self.calls = 0
        self._streams: list[Noise] = []

    @property
    def drew(self) -> bool:
        """Whether any field was drawn, here or in a stream."""
        return self.calls > 0 or any(stream.drew for stream in self._streams)

    def stream(self, name: str | int, tiles: Sequence[Tile] | None = None) -> Noise:
        """Return separate noise for a part of a method, e.g. a stage of a cascade.

        Its fields do not depend on the number of fields that other parts draw.

        Args:
            name: Name of the part.
            tiles: Places of its fields, if they differ from those of the method's output.
        """
        seeds = [seed_of(seed, "stream", name) for seed in self.seeds]
        stream = self._of_same_kind(torch.tensor(seeds, dtype=torch.int64), tiles)
        self._streams.append(stream)
        return stream

    def _of_same_kind(self, seeds: Tensor, tiles: Sequence[Tile] | None) -> Noise:
        """Return noise of this class and device from other seeds, for ``stream``."""
        return Noise(seeds, self.device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise.

        Args:
            shape: (B, ...) of the field; B is the number of seeds.

        Returns:
            (B, ...) float32.

        Raises:
            ValueError: If the first dimension is not the number of images.
        """
        # An explicit type, since Lightning's "true" half precisions change the default.
        pinned = self.device.type == "cuda"  # so that the host does not wait for the copy
        fields = torch.empty(tuple(shape), dtype=torch.float32, pin_memory=pinned)
        for image, (seed, field) in enumerate(zip(self.seeds, fields, strict=True)):
            self._fill(field, seed_of(seed, "noise", self.calls), image)
        self.calls += 1
        return fields.to(self.device, non_blocking=True)

    def generators(self) -> list[torch.Generator]:
        """Return one generator per image, for libraries that draw noise; counts as one call.

        They ignore positions: all tiles of an image draw the same fields.

        Returns:
            B generators on the CPU, with identical fields on every machine.
        """
        seeds = [seed_of(seed, "noise", self.calls) for seed in self.seeds]
        self.calls += 1
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def _fill(self, field: Tensor, seed: int, image: int) -> None:
        """Fill a field in place from the seed; ``image``, its number in the batch, is unused."""
        field.normal_(generator=torch.Generator().manual_seed(seed))


class PlacedNoise(Noise):
    """Noise of tiles: overlapping tiles of an image draw the same noise in their overlap.

    A field is the part of the whole image's field at the tile's position. The whole field consists
    of independent squares, so that only required ones are drawn. A field of any size covers the
    tile, for example pixels of the output or latents.

    Args:
        seeds: (B,) int64, the batch's ``seed``; equal for tiles of one image.
        places: B tiles of one size, with their positions in their images.
        device: Device of the fields.
    """

    def __init__(
        self, seeds: Tensor, places: Sequence[Tile], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(seeds, device)
        self.places = list(places)

    def _of_same_kind(self, seeds: Tensor, tiles: Sequence[Tile] | None) -> Noise:
        return PlacedNoise(seeds, tiles or self.places, self.device)

    def _fill(self, field: Tensor, seed: int, image: int) -> None:
        """Fill the field of a tile from the squares that it overlaps; ``image`` tells the tile."""
        if field.ndim < 2:  # without rows and columns a field has no place in the image
            super()._fill(field, seed, image)
            return
        height, width = field.shape[-2:]
        rows, columns = self.places[image]
        for row, from_rows, to_rows in _overlaps(_field_start(rows, height), height):
            for column, from_columns, to_columns in _overlaps(_field_start(columns, width), width):
                square = torch.empty((*field.shape[:-2], SQUARE, SQUARE), dtype=field.dtype)
                super()._fill(square, seed_of(seed, row, column), image)
                field[..., to_rows, to_columns] = square[..., from_rows, from_columns]


def _overlaps(start: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield for each square that a field overlaps: its number, its part, the place in the field.

    Along one side, rows or columns.

    Args:
        start: Where the field starts in the whole image's field.
        length: Values along the side.
    """
    end = start + length
    for number in range(start // SQUARE, -(-end // SQUARE)):
        first = number * SQUARE
        low = max(start, first)
        high = min(end, first + SQUARE)
        yield number, slice(low - first, high - first), slice(low - start, high - start)


def _field_start(span: Span, n: int) -> int:
    """Return where a field of ``n`` values along a tile's side starts in the whole image's field.

    For a fractional scale, a tile's own ratio of LR to output is not the image's: at a side of
    2000 the position would be off by dozens of pixels, differently for each tile. So positions are
    counted in units of which a value is a whole multiple or fraction: pixels of the output or of
    LR, and latents, on whose lattice the tiles lie (``tile_multiple``).
    """
    for place in (span.out, span.lr):
        side = length_of(place)
        if n % side == 0:  # a pixel has one value or several
            return int(place.start * (n // side))
    cells = []  # the tile's start, and the number of pixels a value covers, if that is whole
    for place in (span.lr, span.out):
        side = length_of(place)
        pixels = round(side / n)
        is_whole = abs(pixels * n - side) < pixels  # the last one may cover less than the others
        if is_whole:
            cells.append((place.start, pixels))
    for start, pixels in cells:
        if start % pixels == 0:
            return start // pixels
    for place in (span.lr, span.out):
        side = length_of(place)
        if place.start * n % side == 0:  # such as the grid of a coarse scale: 40 for 1024 pixels
            return place.start * n // side
    if not cells:
        return _rounded_quotient(span.out.start * n, length_of(span.out))
    start, pixels = cells[0]
    return _rounded_quotient(start, pixels)


def _rounded_quotient(a: int, b: int) -> int:
    """Return a / b rounded half up: the same in both tiles, wherever their borders lie."""
    return (2 * a + b) // (2 * b)


def seeds_of(batch: Any) -> Tensor:
    """Return the seeds of a batch's samples, (B,) int64 on the host.

    Args:
        batch: A batch of any DataLoader.

    Raises:
        ValueError: If it has none.
    """
    if "seed" not in batch:
        raise ValueError(
            "the batch has no seed: give each sample an integer, from which all of its noise "
            "follows (docs/plugins/method.md), or use datamodules.SRDataModule"
        )
    return torch.as_tensor(batch["seed"], dtype=torch.int64).cpu()


def with_noise_seeds(batch: Batch, noise_seed: int) -> Batch:
    """Return a batch with seeds for the method's own noise.

    The degradation uses the images' seeds, which are the same in all runs. Another ``noise_seed``
    therefore changes only what the method draws.

    Args:
        batch: The batch, with the images' seeds.
        noise_seed: The run's seed.
    """
    seeds = [seed_of(noise_seed, "model", seed) for seed in seeds_of(batch).tolist()]
    return cast("Batch", {**batch, "seed": torch.tensor(seeds, dtype=torch.int64)})


def augmented(lr: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Add noise to some training inputs, for networks that will process another network's output.

    Conditioning augmentation of cascaded diffusion (Ho et al., 2022; arXiv 2106.15282), drawn from
    torch's generator, like all noise of training.

    Args:
        lr: (B, 3, h, w) in [0, 1].
        probability: Share of inputs with noise.

    Returns:
        The inputs, not clamped, and (B,) standard deviations, for values in [-1, 1].
    """
    share, chance = torch.rand(2, len(lr), device=lr.device)
    levels = LARGEST_AUGMENTATION * share * (chance < probability)
    # LR in [0, 1] has half the range that the levels are for.
    return lr + levels.view(-1, 1, 1, 1) / 2 * torch.randn_like(lr), levels
