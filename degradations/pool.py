"""The pair pool of Real-ESRGAN's training, which mixes batches with pairs of earlier ones.

If a whole batch shares its draws, a pool makes batches of differing degradations. Here every image
has its own draws, so a pool only serves to reproduce published trainings.

Source: released code of Real-ESRGAN (pool of 180 pairs; arXiv 2107.10833) and of ResShift and InvSR
(10 batches): fill the pool; then, for every batch, shuffle the pool and exchange the batch for as
many of its pairs. Differs: slots are drawn without moving the other pairs, which is equivalent;
pairs are stored in 8 bits, the precision of both images; checkpoints contain the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from degradations.draws import GAMMA, mix, seed_of, to_device

Notes = dict[str, list[str]]  # further data of pairs, e.g. key, text


class Pairs(NamedTuple):
    """Pairs of HR and LR.

    hr: (B, 3, H, W), float32 multiples of 1/255 in [0, 1]; uint8 within the pool.
    lr: (B, 3, h, w), as `hr`.
    notes: Lists of B strings, e.g. the keys.
    """

    hr: Tensor
    lr: Tensor
    notes: Notes


class _Exchange(NamedTuple):
    seeds: list[int]
    slots: list[int]
    incoming: Pairs


class PairPool:
    """A number of pairs of earlier batches, in each process.

    The latest exchange is stored, and applied when the next batch comes, because a checkpoint is
    written after the next batch has passed through the pool. If the stored batch comes again after
    a resume, it is exchanged only once.

    Args:
        size: Number of pairs; a multiple of the batch size.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: Pairs | None = None  # of `size` pairs
        self._filled = 0
        self._last: _Exchange | None = None

    def exchange(self, pairs: Pairs, seeds: Sequence[int]) -> Pairs:
        """Put a batch into the pool and, once it is full, take another batch out of it.

        Args:
            pairs: The batch, float32.
            seeds: Seeds of the samples, which determine the pairs that are taken.

        Returns:
            As many pairs, on the same device; the batch itself until the pool is full.

        Raises:
            ValueError: The pool is not a multiple of the batch, or values have more than 8 bits
                (on a GPU only the first batch is checked).
        """
        count, own = len(pairs.hr), [int(seed) for seed in seeds]
        if self.size % count:
            raise ValueError(
                f"a pool of {self.size} pairs is not a multiple of the batch size {count}"
            )
        incoming = self._in_8_bits(pairs)
        if self._kept is None:
            self._kept = _empty_pairs(incoming, self.size)
        elif self._kept.hr.device != incoming.hr.device:  # from a checkpoint
            hr, lr, notes = self._kept
            self._kept = Pairs(hr.to(incoming.hr.device), lr.to(incoming.hr.device), notes)
        if self._last is not None and self._last.seeds != own:
            self._put(self._kept, self._last)
        if self._filled < self.size:
            slots = list(range(self._filled, self._filled + count))
            outgoing = pairs
        else:
            slots = _draw_slots(self.size, count, own)
            outgoing = _take(self._kept, slots)
        self._last = _Exchange(own, slots, incoming)
        return outgoing

    def _put(self, kept: Pairs, exchange: _Exchange) -> None:
        slots, incoming = exchange.slots, exchange.incoming
        places = _slots_on(slots, kept.hr.device)
        kept.hr.index_copy_(0, places, incoming.hr.to(kept.hr.device))
        kept.lr.index_copy_(0, places, incoming.lr.to(kept.lr.device))
        for name, values in incoming.notes.items():
            for slot, value in zip(slots, values, strict=True):
                kept.notes[name][slot] = value
        self._filled = max([self._filled, *(slot + 1 for slot in slots)])

    def _in_8_bits(self, pairs: Pairs) -> Pairs:
        hr, lr = ((image * 255).round_().to(torch.uint8) for image in (pairs.hr, pairs.lr))
        incoming = Pairs(hr, lr, {name: list(values) for name, values in pairs.notes.items()})
        if self._kept is None or pairs.lr.device.type == "cpu":  # the check makes a GPU's host wait
            for name, image, kept in zip(pairs._fields[:2], pairs[:2], incoming[:2], strict=True):
                if not torch.equal(_to_float(kept), image):
                    raise ValueError(
                        f"the pair pool (degradation.init_args.pool) stores 8 bits, but {name} has "
                        f"{'more' if image.isfinite().all() else 'pixels that are not finite'}: "
                        "use 8-bit images and a degradation with quantize: true, or pool: 0"
                    )
        return incoming

    # ---------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """Return the pool of this process in plain types, on the images' device."""
        if self._kept is None or self._last is None:
            return {}
        kept, last, filled = self._kept, self._last, self._filled
        return {
            "hr": kept.hr[:filled],
            "lr": kept.lr[:filled],
            "notes": {name: values[:filled] for name, values in kept.notes.items()},
            "last_hr": last.incoming.hr,
            "last_lr": last.incoming.lr,
            "last_notes": last.incoming.notes,
            "last_seeds": last.seeds,
            "last_slots": last.slots,
        }

    def states(self) -> list[dict[str, Any]]:
        """Return the pools of all ranks, on the CPU; all ranks must call this together.

        Rank 0 gets all pools, other ranks the same number of empty dictionaries.
        """
        own = self.state()
        if not (distributed.is_available() and distributed.is_initialized()):
            kept = {k: v.to("cpu", copy=True) for k, v in own.items() if isinstance(v, Tensor)}
            return [{**own, **kept}]
        rank, world = distributed.get_rank(), distributed.get_world_size()
        small: list[Any] = [None] * world
        distributed.all_gather_object(
            small, {name: value for name, value in own.items() if not isinstance(value, Tensor)}
        )
        # One after the other: the device may not have room for the pools of all ranks.
        for source in range(world):
            for name, value in own.items():
                if isinstance(value, Tensor):
                    there = value.contiguous() if source == rank else torch.empty_like(value)
                    distributed.broadcast(there, source)
                    if rank == 0:
                        small[source][name] = there.to("cpu", copy=True)
        return small if rank == 0 else [{} for _ in small]

    def load(self, states: Sequence[dict[str, Any]], rank: int, world: int) -> None:
        """Load the pool of a checkpoint.

        Args:
            states: The result of `states` on rank 0.
            rank: Rank of this process.
            world: Number of ranks.

        Raises:
            ValueError: The checkpoint has another number of ranks.
        """
        if len(states) != world:
            raise ValueError(
                f"the checkpoint holds the pair pools (degradation.init_args.pool) of "
                f"{len(states)} processes, but there are {world} now: continue with as many, or "
                "start from the weights alone: --model.init_args.weights CHECKPOINT --run.name NEW"
            )
        state = states[rank]
        if not state:
            return
        kept = Pairs(state["hr"], state["lr"], state["notes"])
        last = Pairs(state["last_hr"], state["last_lr"], state["last_notes"])
        self._kept = _empty_pairs(last, self.size)
        self._put(self._kept, _Exchange([], list(range(len(kept.hr))), kept))
        self._last = _Exchange(list(state["last_seeds"]), list(state["last_slots"]), last)


def _draw_slots(size: int, count: int, seeds: list[int]) -> list[int]:
    # The first of a random order, equivalent to shuffling the pool and taking its first pairs.
    with np.errstate(over="ignore"):
        base = np.uint64(seed_of("pool", *seeds))
        keys = mix(base + np.arange(size, dtype=np.uint64) * np.uint64(GAMMA))
    return np.argsort(keys, kind="stable")[:count].tolist()


def _take(kept: Pairs, slots: list[int]) -> Pairs:
    places = _slots_on(slots, kept.hr.device)
    hr, lr = (_to_float(images.index_select(0, places)) for images in kept[:2])
    return Pairs(
        hr, lr, {name: [values[slot] for slot in slots] for name, values in kept.notes.items()}
    )


def _to_float(images: Tensor) -> Tensor:
    return images.float().div_(255)  # as for images from a file


def _empty_pairs(like: Pairs, size: int) -> Pairs:
    hr, lr = (images.new_zeros((size, *images.shape[1:])) for images in like[:2])
    return Pairs(hr, lr, {name: [""] * size for name in like.notes})


def _slots_on(slots: list[int], device: torch.device) -> Tensor:
    # Through pinned memory, so that the host does not wait.
    return to_device({"slots": np.array(slots, np.int64)}, len(slots), device)["slots"]
