"""``doctor``: the imports of torch and torchvision, and the GPUs that they see."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands.doctor_lines import Check, Line, Options, broken, error_text, look, ok
from commands.doctor_machine import format_bytes
from commands.doctor_versions import PAIR_FIX

DRIVER = Path("/proc/driver/nvidia/version")
LEAST_FREE = 0.5  # share of a GPU's memory
TOLERANCE = 0.05  # relative error of a sum of 64 products in bf16


def import_torch(options: Options) -> Iterator[Line]:
    """Import torch, and report what it is built for."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield ok("torch", f"{torch.__version__} is imported; built for {built}")


def import_torchvision(options: Options) -> Iterator[Line]:
    """Import torchvision, which fails with an unsuitable torch, and try one of its operators."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    except Exception as error:
        why = f"{error_text(error)}; lightning, torchmetrics and lpips need it"
        yield broken("torchvision", f"{why}: {PAIR_FIX}")
        return
    if kept != [0, 2]:
        yield broken("torchvision", f"its nms gives {kept}, expected [0, 2]: {PAIR_FIX}")
        return
    yield ok(
        "torchvision", f"{torchvision.__version__} is imported, and its nms runs on this torch"
    )


def gpus(options: Options) -> Iterator[Line]:
    """Compare the driver with torch's CUDA, and check each GPU."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        yield _without_gpu(driver, torch.version.cuda)
        return
    yield ok("NVIDIA driver", f"{driver or 'unknown'}, and torch's CUDA {torch.version.cuda} runs")
    for number in range(torch.cuda.device_count()):
        yield from _gpu(torch, number)


def bf16(options: Options) -> Iterator[Line]:
    """Check a product in bf16 on the device that training would use."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    off = product_error(torch, device)
    if off > TOLERANCE:
        yield broken(
            "bf16", f"a product in bf16 on {device} is off by {off:.2g}: --trainer.precision 32"
        )
    elif device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        yield look("bf16", "this GPU only emulates bf16: --trainer.precision 16-mixed")
    else:
        yield ok(
            "bf16", f"a product in bf16 on {device} is correct: --trainer.precision bf16-mixed"
        )


TORCH_CHECKS: dict[str, Check] = {
    "torch": import_torch,
    "torchvision": import_torchvision,
    "GPUs": gpus,
    "bf16": bf16,
}


# ------------------------------------------------------------------------------------------- parts


def product_error(torch: Any, device: str) -> float:
    """Return the error of a product in bf16 against float64, relative to its largest value.

    Args:
        torch: The module.
        device: Name of the device that multiplies.
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
    except Exception as error:  # other GPUs may work
        fix = "exclude it with CUDA_VISIBLE_DEVICES, and see nvidia-smi and dmesg"
        yield broken(name, f"{error_text(error)}: {fix}")
        return
    kind = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
    text = f"{kind}, {format_bytes(free)} free of {format_bytes(total)}"
    if off > TOLERANCE:
        yield broken(name, f"{text}, but a product is off by {off:.2g}: see nvidia-smi -q")
    elif free < LEAST_FREE * total:
        yield look(name, f"{text}: other programs use it, see nvidia-smi")
    else:
        yield ok(name, f"{text}, and a product on it is correct")


def _without_gpu(driver: str | None, built: str | None) -> Line:
    name = "GPUs"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return look(name, "CUDA_VISIBLE_DEVICES hides them all: unset it")
    if driver is None:
        return ok(name, "none, and no NVIDIA driver; training runs on the CPU")
    if built is None:
        fix = "install torch and torchvision for CUDA, both from one index"
        return broken(name, f"driver {driver} is installed, but torch is built without CUDA: {fix}")
    return broken(
        name,
        f"driver {driver} is installed, but torch, built for CUDA {built}, sees no GPU{_why()}: "
        "update the driver, install a torch for an older CUDA, or start the container with "
        "--gpus all",
    )


def _why() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        return f" ({error_text(error)})"
    return ""


def _driver() -> str | None:
    """Return the driver's version, or None without a driver."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
        return f"nvidia-smi fails, {(done.stdout + done.stderr).strip()[:100]}"
    return DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.exists() else None
