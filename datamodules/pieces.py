"""Batches cut among workers, for a Source of which each worker reads its own streams.

The stock DataLoader gives each batch to one worker, so every worker would have to read every
stream. Here worker w gets the w-th piece of every batch, which are always the same streams; the
pieces are put together again in the process that trains.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import DataLoader

from datamodules.batches import joined
from datamodules.order import Item, PlanSampler


class Pieces:
    """The batch sampler: the pieces of each batch, one after the other.

    The DataLoader gives them to its workers in turn. Were it otherwise, workers would read more
    than they need, but batches would be the same: an item says itself what it is.

    Args:
        whole: Gives the whole batches.
        workers: Processes that there may be; no more are used than there are streams.
    """

    def __init__(self, whole: PlanSampler, workers: int) -> None:
        self.whole = whole
        self.streams = len(whole.plan.own_streams(whole.rank, whole.world))
        self.count = min(workers, self.streams)

    def __len__(self) -> int:
        """Number of pieces of a whole epoch."""
        return self.count * len(self.whole)

    def __iter__(self) -> Iterator[list[Item]]:
        """The pieces; a batch holds stream after stream."""
        for batch in self.whole:
            share = len(batch) // self.streams
            ends = [n * self.streams // self.count * share for n in range(self.count + 1)]
            yield from (batch[start:end] for start, end in itertools.pairwise(ends))


class PiecesLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over ``Pieces`` that gives whole batches; arguments as ``DataLoader``."""

    @property
    def _pieces(self) -> Pieces:
        return cast(Pieces, self.batch_sampler)

    def __len__(self) -> int:
        """Number of whole batches of an epoch."""
        return len(self._pieces.whole)

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The batches."""
        pieces = super().__iter__()
        while part := list(itertools.islice(pieces, self._pieces.count)):
            yield joined(part)
