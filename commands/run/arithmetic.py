"""How a run computes: float32 or TF32, and cuDNN's choice of algorithms."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from commands.run.directory import RunOptions

log = logging.getLogger(__name__)
TRAINING = ("fit", "check")
TENSOR_CORES = (8, 0)  # compute capability from which float32 has them, Ampere's


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
    exact = bool(config.deterministic)
    device = trainer.strategy.root_device
    fast = (
        not exact
        and command in TRAINING
        and device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= TENSOR_CORES
    )
    before = _read_switches()
    precision: str = before[0]
    benchmark = before[1]
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
    tf32 = before[2] and not exact and options.matmul_precision != "highest"
    try:
        _set_switches(precision, benchmark, tf32)
        if _read_switches() != before or exact:
            log.info(
                "arithmetic: run.matmul_precision %s, trainer.benchmark %s, convolutions in %s, "
                "on %s",
                precision,
                str(benchmark).lower(),
                "TF32" if tf32 else "float32",
                device,
            )
        yield
    finally:
        _set_switches(*before)


def _read_switches() -> tuple[str, bool, bool]:
    """Return torch's precision of matrix products, cuDNN's benchmark, and TF32 of convolutions."""
    cudnn: Any = torch.backends.cudnn
    tf32 = cudnn.conv.fp32_precision == "tf32"  # allow_tf32 raises where RNNs have another
    return torch.get_float32_matmul_precision(), cudnn.benchmark, tf32


def _set_switches(precision: Any, benchmark: bool, tf32: bool) -> None:
    """Set what ``_switches`` returns."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.allow_tf32 = tf32
