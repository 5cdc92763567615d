"""How a run computes: float32 or TF32, and cuDNN's choice of algorithms."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from commands.run.directory import RunOptions

log = logging.getLogger(__name__)
TRAINING = ("fit", "check")
TENSOR_CORES = (8, 0)  # compute capability from which float32 has them, Ampere's


class Switches(NamedTuple):
    """Torch's own, for the whole process.

    precision: Of float32 matrix products: ``highest``, ``high`` or ``medium``.
    benchmark: Whether cuDNN tries its algorithms, and takes the fastest for each size.
    tf32: Whether convolutions of float32 compute in TF32.
    """

    precision: str
    benchmark: bool
    tf32: bool


@contextmanager
def arithmetic(
    options: RunOptions, config: Namespace, trainer: Trainer, command: str, data: Any = None
) -> Iterator[None]:
    """Set torch's switches for the commands within, and log them if they change.

    Without ``trainer.benchmark``, cuDNN chooses algorithms by their time where precision is
    ``high`` by default, unless ``crops.scales`` gives batches many sizes.

    Args:
        options: ``run`` of the configuration.
        config: ``trainer`` of the configuration.
        trainer: The trainer, which knows its device.
        command: The command.
        data: The data module, if there is one.
    """
    device = trainer.strategy.root_device
    before = _read_switches()
    chosen = _choose_switches(options, config, device, command, data)
    try:
        _set_switches(chosen)
        if _read_switches() != before or config.deterministic:
            log.info(
                "arithmetic: run.matmul_precision %s, trainer.benchmark %s, convolutions in %s, "
                "on %s",
                chosen.precision,
                str(chosen.benchmark).lower(),
                "TF32" if chosen.tf32 else "float32",
                device,
            )
        yield
    finally:
        _set_switches(before)


def _choose_switches(
    options: RunOptions, config: Namespace, device: torch.device, command: str, data: Any
) -> Switches:
    """Return the switches of a run. Arguments as in ``arithmetic``."""
    precision, benchmark, tf32 = _read_switches()
    exact = bool(config.deterministic)
    fast = command in TRAINING and not exact and _has_tensor_cores(device)
    if options.matmul_precision is not None:
        precision = options.matmul_precision
    elif exact:
        precision = "highest"
    elif fast:
        precision = "high"
    if config.benchmark is None:  # else Lightning has set it
        crops = getattr(data, "crops", None)
        one_size = getattr(crops, "scales", None) is None  # cuDNN times each new size
        benchmark = not exact and (benchmark or (fast and one_size))
    # Torch has TF32 for convolutions by default, whatever the precision of matrix products.
    tf32 = tf32 and not exact and options.matmul_precision != "highest"
    return Switches(precision, benchmark, tf32)


def _has_tensor_cores(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= TENSOR_CORES


def _read_switches() -> Switches:
    cudnn: Any = torch.backends.cudnn
    tf32 = cudnn.conv.fp32_precision == "tf32"  # allow_tf32 raises where RNNs have another
    return Switches(torch.get_float32_matmul_precision(), cudnn.benchmark, tf32)


def _set_switches(switches: Switches) -> None:
    torch.set_float32_matmul_precision(switches.precision)
    torch.backends.cudnn.benchmark = switches.benchmark
    torch.backends.cudnn.allow_tf32 = switches.tf32
