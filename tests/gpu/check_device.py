"""The pretended GPU itself: what waits is counted, and what does not is not."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.device import GPU, counted, pretended_gpu

WAITS = {
    "device to host": lambda x: x.cpu(),
    "host to device, blocking": lambda x: torch.ones(4).to(GPU),
    "host to device, not pinned": lambda x: torch.ones(4).to(GPU, non_blocking=True),
    "_local_scalar_dense": lambda x: x.sum().item(),
    "nonzero": lambda x: x.nonzero(),
    "index by a mask": lambda x: x[x > 0],
    "event with nothing behind it": lambda x: torch.cuda.Event().synchronize(),
}


@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_is_counted_once_by_its_kind_and_line(kind):
    with pretended_gpu():
        x = torch.ones(4).to(GPU)
        with counted() as waits:
            WAITS[kind](x)
    ((counted_kind, line),) = waits
    assert counted_kind == kind
    assert line.startswith("tests/gpu/check_device.py:")
    assert waits.total() == 1


def test_copies_of_pinned_memory_and_operations_on_the_device_do_not_wait():
    with pretended_gpu(), counted() as waits:
        x = torch.ones(4).pin_memory().to(GPU, non_blocking=True)
        (2 * x).to("cpu", non_blocking=True)
    assert not waits
