"""Copies from host to device that the host does not wait for.

A plain ``tensor.to("cuda")`` waits until everything queued on the device is done, and so does
``torch.tensor(..., device="cuda")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def copy_to(
    x: Tensor,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Copy a host tensor to a device without waiting.

    Args:
        x: Of any shape, on the CPU.
        device: Where the copy should be; on the CPU, ``x`` itself is returned if the type fits.
        dtype: Type of the copy; that of ``x`` by default.
    """
    if device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, dtype or x.dtype, non_blocking=True)


def tensor_like(values: Sequence[float], like: Tensor) -> Tensor:
    """Return a tensor (n,) of n Python numbers on the device and in the type of ``like``."""
    x = torch.tensor(values, dtype=like.dtype)
    return copy_to(x, like.device)


class Table:
    """Constants on the CPU that are copied to each device and type once.

    Args:
        values: Of any shape, on the CPU; must not change.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Return the constants on the device and in the type of ``x``."""
        return self.on(x.device, x.dtype)

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return the constants on a device, in their own type by default."""
        dtype = dtype or self.values.dtype
        place = (device, dtype)
        if place not in self._copies:
            with torch.inference_mode(False):  # a later training step needs them, too
                self._copies[place] = copy_to(self.values, device, dtype)
            if device.type == "cuda":  # else a CUDA graph would copy them each time
                torch._dynamo.mark_static_address(self._copies[place])
        return self._copies[place]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_copies": {}}  # copies belong to this process


def constant(make: Callable[[], Tensor]) -> Callable[[torch.device], Tensor]:
    """Decorate a function that makes a constant, which then takes a device and runs only once.

    Call it once per device before compiling, so that the compiled code finds the copy there.

    Args:
        make: Makes the tensor on the CPU.
    """
    tables: list[Table] = []  # one, from the first call on

    def on_device(device: torch.device) -> Tensor:
        if not tables:
            tables.append(Table(make()))
        return tables[0].on(device)

    return on_device
