"""The batch: the one contract between data, methods and callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:  # the packer and its workers need no torch, whose import takes seconds
    from torch import Tensor


# The rows and the columns of an image that another one covers, as (start, stop); the border of two
# pixels may lie within one.
Box = tuple[tuple[float, float], tuple[float, float]]


class Span(NamedTuple):
    """One side of a tile.

    lr: Its position in the image.
    out: Its position in the output.
    lr_side: The image's side.
    out_side: The output's side.
    """

    lr: slice
    out: slice
    lr_side: int
    out_side: int

    @property
    def covered(self) -> tuple[float, float]:
        """Start and stop of the tile's output, in pixels of its LR; they may lie within a pixel."""
        start = self.out.start * self.lr_side / self.out_side - self.lr.start
        stop = self.out.stop * self.lr_side / self.out_side - self.lr.start
        return start, stop

    @property
    def back(self) -> Span:
        """The same side with LR and output exchanged, to downscale an output to its LR."""
        return Span(self.out, self.lr, self.out_side, self.lr_side)


class Tile(NamedTuple):
    """A part of an image, and its place in the output."""

    rows: Span
    columns: Span

    @property
    def side(self) -> tuple[int, int]:
        """(h, w) in the LR image."""
        return length_of(self.rows.lr), length_of(self.columns.lr)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in the output."""
        return length_of(self.rows.out), length_of(self.columns.out)

    @property
    def box(self) -> Box:
        """The part of its LR that its output covers."""
        return self.rows.covered, self.columns.covered

    @property
    def back(self) -> Tile:
        """The same tile with LR and output exchanged."""
        return Tile(self.rows.back, self.columns.back)


class Piece(NamedTuple):
    """A finished part of enlarged images; those of an image come row by row, from left to right.

    rows: Its place in the output.
    columns: Likewise.
    sr: (B, 3, rows, columns) float32 in [0, 1].
    alpha: (B, 1, rows, columns) likewise, if the images' transparency was enlarged as well.
    """

    rows: slice
    columns: slice
    sr: Tensor
    alpha: Tensor | None = None


def tiles_of(batch: Batch) -> list[Tile]:
    """Return the tile that each element of a batch is; a whole image is a tile of itself."""
    if "tiles" in batch:
        return batch["tiles"]
    h, w = batch["lr"].shape[-2:]
    H, W = batch["size"]
    rows = Span(slice(0, h), slice(0, H), h, H)
    columns = Span(slice(0, w), slice(0, W), w, W)
    return [Tile(rows, columns)] * len(batch["lr"])


def boxes_of(batch: Batch) -> list[Box] | None:
    """Return the part of each tile's LR that its output covers; None for whole images."""
    return [tile.box for tile in batch["tiles"]] if "tiles" in batch else None


def length_of(part: slice) -> int:
    """Return the length of a slice with start and stop."""
    return int(part.stop - part.start)


class Batch(TypedDict, total=False):
    """What data gives, and methods and callbacks take.

    key: B names, unique within the source.
    seed: (B,) int64, always on the CPU: everything random about a sample is drawn from it.
    size: (H, W) of the output; authoritative.
    hr: (B, 3, H, W) float32 in [0, 1]; absent in ``predict``.
    lr: (B, 3, h, w) float32 in [0, 1]; for ``SuperResolver.pieces`` also levels in uint8.
    alpha: (B, 1, h, w), transparency like ``lr``; for ``SuperResolver.pieces`` only.
    tiles: B places in the images to enlarge; in ``restore`` only.
    text: B captions, if the source has them.
    text_features: (B, n, W) floats of the captions, padded to the longest, if shards have them.
    text_lengths: (B,) int64, the number of valid rows of each; with ``text_features``.
    clip: (B, T, 3, H, W) float32 in [0, 1], from clip sources only, without ``hr`` and ``lr``.
    frames: Number of frames of each clip, if clips are given or requested.
    meta: B dictionaries, if the source has them; not in training.
    latent: (B, C, h, w) float32, as the autoencoder gives HR, not standardised; in training on
        ``Latents`` only, where ``hr`` and ``lr`` may be absent.
    lr_latent: (B, C, h, w) float32 of the enlarged LR, likewise.
    space: Space of the latents: ``identity`` of a space.
    ref: (B, 3, H, W) float32 in [0, 1], from ``Triplets`` only; likewise ``p0`` and ``p1``, of the
        same size. ``hr``, ``lr`` and ``size`` are then absent.
    judge: (B,) float32 in [0, 1]: share of people who found ``p1`` nearer to ``ref``.
    error: ``predict`` only: why the batch's one image cannot be enlarged; the only other fields are
        ``key`` and, of a video, ``meta``.
    """

    key: list[str]
    seed: Tensor
    size: tuple[int, int]
    hr: Tensor
    lr: Tensor
    alpha: Tensor
    tiles: list[Tile]
    text: list[str]
    text_features: Tensor
    text_lengths: Tensor
    clip: Tensor
    frames: int
    meta: list[dict[str, Any]]
    latent: Tensor
    lr_latent: Tensor
    space: str
    ref: Tensor
    p0: Tensor
    p1: Tensor
    judge: Tensor
    error: list[str]


def size_of(batch: Batch) -> int:
    """Return the number of images: ``batch_size_fn`` of Lightning's ``ThroughputMonitor``."""
    return len(batch["key"])
