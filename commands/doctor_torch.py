"""``doctor``: whether torch and torchvision can be imported, and what GPUs they see."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands.doctor_lines import Check, Line, Options, broken, look, ok, said
from commands.doctor_machine import size
from commands.doctor_versions import PAIR_MEND

DRIVER = Path("/proc/driver/nvidia/version")
LEAST_FREE = 0.5  # share of a GPU's memory
TOLERANCE = 0.05  # of a product of 64 numbers in bf16


def import_torch(options: Options) -> Iterator[Line]:
    """The import, and what this torch is built for."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    yield ok("torch", f"{torch.__version__} is imported; built for {built}")


def import_torchvision(options: Options) -> Iterator[Line]:
    """The import, which another torch than its own makes fail, and one of its operators."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    except Exception as error:
        why = f"{said(error)}; lightning, torchmetrics and lpips need it, so nothing else will run"
        yield broken("torchvision", f"{why}: {PAIR_MEND}")
        return
    if kept != [0, 2]:
        yield broken("torchvision", f"its nms gives {kept} in place of [0, 2]: {PAIR_MEND}")
        return
    yield ok(
        "torchvision", f"{torchvision.__version__} is imported, and its nms runs on this torch"
    )


def gpus(options: Options) -> Iterator[Line]:
    """The driver against torch's CUDA, and a line for each GPU."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        yield _without_gpu(driver, torch.version.cuda)
        return
    yield ok("NVIDIA driver", f"{driver or 'unknown'}, and torch's CUDA {torch.version.cuda} runs")
    for number in range(torch.cuda.device_count()):
        yield from _gpu(torch, number)


def bf16(options: Options) -> Iterator[Line]:
    """A product in bf16 where training would run."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    off = product_error(torch, device)
    if off > TOLERANCE:
        yield broken(
            "bf16", f"a product in bf16 on {device} is {off:.2g} off: --trainer.precision 32"
        )
    elif device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        yield look("bf16", "this GPU has no bf16, which is emulated: --trainer.precision 16-mixed")
    else:
        yield ok("bf16", f"a product in bf16 on {device} is right; --trainer.precision bf16-mixed")


CHECKS: dict[str, Check] = {
    "torch": import_torch,
    "torchvision": import_torchvision,
    "GPUs": gpus,
    "bf16": bf16,
}


# ------------------------------------------------------------------------------------------- parts


def product_error(torch: Any, device: str) -> float:
    """How far a product in bf16 is off one in float64, relative to its largest value.

    Args:
        torch: The module.
        device: Where.
    """
    ramp = torch.linspace(-1, 1, 64 * 64, dtype=torch.float64).reshape(64, 64)
    right = ramp @ ramp.T
    found = (ramp.to(device).bfloat16() @ ramp.T.to(device).bfloat16()).double().cpu()
    return float((found - right).abs().max() / right.abs().max())


def _gpu(torch: Any, number: int) -> Iterator[Line]:
    name = f"GPU {number}"
    try:
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        off = product_error(torch, f"cuda:{number}")
    except Exception as error:  # the others may be well
        mend = "leave it out with CUDA_VISIBLE_DEVICES, and look at nvidia-smi and dmesg"
        yield broken(name, f"{said(error)}: {mend}")
        return
    kind = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
    text = f"{kind}, {size(free)} free of {size(total)}"
    if off > TOLERANCE:
        yield broken(name, f"{text}, but a product is {off:.2g} off: look at nvidia-smi -q")
    elif free < LEAST_FREE * total:
        yield look(name, f"{text}: others use it, look at nvidia-smi")
    else:
        yield ok(name, f"{text}, and a product on it is right")


def _without_gpu(driver: str | None, built: str | None) -> Line:
    name = "GPUs"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return look(name, "CUDA_VISIBLE_DEVICES hides them all: unset it")
    if driver is None:
        return ok(name, "none, and no NVIDIA driver; training runs on the CPU")
    if built is None:
        mend = "install torch and torchvision for CUDA, both from one index"
        return broken(
            name, f"there is a driver ({driver}), and torch is built without CUDA: {mend}"
        )
    return broken(
        name,
        f"the driver {driver} is there, and torch, built for CUDA {built}, sees no GPU{_why()}: "
        "update the driver, install a torch for an older CUDA, or start the container with "
        "--gpus all",
    )


def _why() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        return f" ({said(error)})"
    return ""


def _driver() -> str | None:
    """The driver's version; None where there is no driver."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        if told.returncode == 0 and told.stdout.strip():
            return told.stdout.split()[0]
        return f"nvidia-smi fails, {(told.stdout + told.stderr).strip()[:100]}"
    return DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.exists() else None
