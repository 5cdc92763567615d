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

from degradations.device import copy_to
from degradations.draws import GAMMA, mix, seed_of

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
        self._stored: Pairs | None = None  # of `size` pairs
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
        count = len(pairs.hr)
        seeds = [int(seed) for seed in seeds]
        if self.size % count:
            raise ValueError(
                f"a pool of {self.size} pairs is not a multiple of the batch size {count}"
            )
        incoming = self._in_8_bits(pairs)
        if self._stored is None:
            self._stored = _empty_pairs(incoming, self.size)
        elif self._stored.hr.device != incoming.hr.device:  # from a checkpoint
            hr, lr, notes = self._stored
            device = incoming.hr.device
            self._stored = Pairs(hr.to(device), lr.to(device), notes)
        if self._last is not None and self._last.seeds != seeds:
            self._put(self._stored, self._last)
        if self._filled < self.size:
            slots = list(range(self._filled, self._filled + count))
            outgoing = pairs
        else:
            slots = _draw_slots(self.size, count, seeds)
            outgoing = _take(self._stored, slots)
        self._last = _Exchange(seeds, slots, incoming)
        return outgoing

    def _put(self, stored: Pairs, exchange: _Exchange) -> None:
        slots = exchange.slots
        incoming = exchange.incoming
        device = stored.hr.device
        indices = _slots_on(slots, device)
        stored.hr.index_copy_(0, indices, incoming.hr.to(device))
        stored.lr.index_copy_(0, indices, incoming.lr.to(device))
        for name, values in incoming.notes.items():
            for slot, value in zip(slots, values, strict=True):
                stored.notes[name][slot] = value
        stop = max(slots, default=-1) + 1
        self._filled = max(self._filled, stop)

    def _in_8_bits(self, pairs: Pairs) -> Pairs:
        hr = _to_levels(pairs.hr)
        lr = _to_levels(pairs.lr)
        notes = {name: list(values) for name, values in pairs.notes.items()}
        # The check makes a GPU's host wait.
        if self._stored is None or pairs.lr.device.type == "cpu":
            _check_8_bits("hr", pairs.hr, hr)
            _check_8_bits("lr", pairs.lr, lr)
        return Pairs(hr, lr, notes)

    # ---------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """Return the pool of this process in plain types, on the images' device."""
        if self._stored is None or self._last is None:
            return {}
        filled = self._filled
        notes = {name: values[:filled] for name, values in self._stored.notes.items()}
        return {
            "hr": self._stored.hr[:filled],
            "lr": self._stored.lr[:filled],
            "notes": notes,
            "last_hr": self._last.incoming.hr,
            "last_lr": self._last.incoming.lr,
            "last_notes": self._last.incoming.notes,
            "last_seeds": self._last.seeds,
            "last_slots": self._last.slots,
        }

    def states(self) -> list[dict[str, Any]]:
        """Return the pools of all ranks, on the CPU; all ranks must call this together.

        Rank 0 gets all pools, other ranks the same number of empty dictionaries.
        """
        state = self.state()
        tensors: dict[str, Tensor] = {}
        others: dict[str, Any] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                others[name] = value
        if not (distributed.is_available() and distributed.is_initialized()):
            for name, tensor in tensors.items():
                state[name] = tensor.to("cpu", copy=True)
            return [state]
        rank = distributed.get_rank()
        world = distributed.get_world_size()
        states: list[Any] = [None] * world
        distributed.all_gather_object(states, others)
        # One after the other: the device may not have room for the pools of all ranks.
        for source in range(world):
            for name, tensor in tensors.items():
                received = tensor.contiguous() if source == rank else torch.empty_like(tensor)
                distributed.broadcast(received, source)
                if rank == 0:
                    states[source][name] = received.to("cpu", copy=True)
        return states if rank == 0 else [{} for _ in states]

    def load(
        self,
        states: Sequence[dict[str, Any]],
        rank: int,
        world: int,
    ) -> None:
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
        stored = Pairs(state["hr"], state["lr"], state["notes"])
        slots = list(range(len(stored.hr)))
        last = Pairs(state["last_hr"], state["last_lr"], state["last_notes"])
        self._stored = _empty_pairs(last, self.size)
        self._put(self._stored, _Exchange([], slots, stored))
        seeds = list(state["last_seeds"])
        last_slots = list(state["last_slots"])
        self._last = _Exchange(seeds, last_slots, last)


def _check_8_bits(name: str, image: Tensor, levels: Tensor) -> None:
    if torch.equal(_to_float(levels), image):
        return
    fault = "more" if image.isfinite().all() else "pixels that are not finite"
    raise ValueError(
        f"the pair pool (degradation.init_args.pool) stores 8 bits, but {name} has {fault}: "
        "use 8-bit images and a degradation with quantize: true, or pool: 0"
    )


def _draw_slots(size: int, count: int, seeds: list[int]) -> list[int]:
    # The first of a random order, equivalent to shuffling the pool and taking its first pairs.
    base = np.uint64(seed_of("pool", *seeds))
    with np.errstate(over="ignore"):
        slots = np.arange(size, dtype=np.uint64)
        keys = mix(base + slots * np.uint64(GAMMA))
    order = np.argsort(keys, kind="stable")
    return order[:count].tolist()


def _take(stored: Pairs, slots: list[int]) -> Pairs:
    indices = _slots_on(slots, stored.hr.device)
    hr = stored.hr.index_select(0, indices)
    lr = stored.lr.index_select(0, indices)
    notes: Notes = {}
    for name, values in stored.notes.items():
        notes[name] = [values[slot] for slot in slots]
    return Pairs(_to_float(hr), _to_float(lr), notes)


def _to_levels(images: Tensor) -> Tensor:
    levels = (images * 255).round_()
    return levels.to(torch.uint8)


def _to_float(images: Tensor) -> Tensor:
    return images.float().div_(255)  # as for images from a file


def _empty_pairs(like: Pairs, size: int) -> Pairs:
    hr_shape = like.hr.shape[1:]
    lr_shape = like.lr.shape[1:]
    hr = like.hr.new_zeros((size, *hr_shape))
    lr = like.lr.new_zeros((size, *lr_shape))
    notes = {name: [""] * size for name in like.notes}
    return Pairs(hr, lr, notes)


def _slots_on(slots: list[int], device: torch.device) -> Tensor:
    # Through pinned memory, so that the host does not wait.
    indices = torch.tensor(slots, dtype=torch.int64)
    return copy_to(indices, device)
