"""Versions, GPUs, weights and folders of this machine.

Checks import what they need themselves, and only the standard library is imported here, because a
package may be what is broken.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from commands.check.findings import ROOT, Finding, command_as_typed, path_as_typed, print_findings
from files.versions import installed

INSTALL = f"pip install -c {path_as_typed('constraints.txt')} -e {path_as_typed('.')}"
LEAST_DISK = 5e9  # bytes
LEAST_SHARED = 1e9  # bytes of /dev/shm, through which readers pass batches


def main() -> int:
    """Print what this machine has; ``main.py check`` without a configuration.

    Returns:
        0; 1 if something is broken.
    """
    broken = print_findings(_findings())
    sys.stdout.write(f"{broken} broken\n" if broken else "nothing is broken\n")
    return int(broken > 0)


def _findings() -> Iterator[Finding]:
    """Yield the findings of all checks."""
    for check in CHECKS:
        yield from _error_as_finding(check.__name__, check, INSTALL)


def _error_as_finding(
    subject: str, check: Callable[[], Iterable[Finding]], fix: str
) -> Iterator[Finding]:
    """Yield what a check finds, and its error as a finding: one must not stop the others."""
    try:
        yield from check()
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield Finding("broken", subject, text, fix)


def python() -> Iterator[Finding]:
    """Name the Python interpreter."""
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok", "Python", f"{version}, {sys.executable}")


def packages() -> Iterator[Finding]:
    """Check required packages and the installed optional ones against ``pyproject.toml``."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    absent = []
    for extra, requirements in groups.items():
        for requirement in map(Requirement, requirements):
            name, version = requirement.name, installed(requirement.name)
            if version is None and extra:
                absent.append(extra)
            elif version is None:
                yield Finding("broken", name, "is missing", INSTALL)
            elif not requirement.specifier.contains(version, prereleases=True):
                text = f"is {version}, but {requirement.specifier} is required"
                yield Finding("broken", name, text, INSTALL)
    extras = f"extras that are not installed: {', '.join(dict.fromkeys(absent)) or 'none'}"
    yield Finding("ok", "packages", extras)


def torchvision() -> Iterator[Finding]:
    """Check that torch and torchvision belong together, by one of torchvision's operators."""
    import torch
    import torchvision

    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(box, torch.ones(1), 0.5)
    text = f"{torchvision.__version__}, with torch {torch.__version__}"
    yield Finding("ok", "torchvision", text)


def gpus() -> Iterator[Finding]:
    """Multiply in bf16 on each GPU; without one, say why."""
    import torch

    fix = "exclude it with CUDA_VISIBLE_DEVICES, and see nvidia-smi"
    for number in range(torch.cuda.device_count()):
        yield from _error_as_finding(f"GPU {number}", functools.partial(_gpu, number), fix)
    if torch.cuda.device_count():
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding("ok", "GPUs", "none, and no NVIDIA driver; training runs on the CPU")
        return
    text = f"there is a driver, but torch {torch.__version__} sees none"
    fix = (
        "unset CUDA_VISIBLE_DEVICES, update the driver, or install torch for its CUDA; in a "
        "container, add --gpus all"
    )
    yield Finding("look", "GPUs", text, fix)


def _gpu(number: int) -> Iterator[Finding]:
    """Check the memory and a matrix product of one GPU."""
    import torch

    name = f"GPU {number}, {torch.cuda.get_device_name(number)}"
    free, total = torch.cuda.mem_get_info(number)
    ones = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16)
    if bool(((ones @ ones) == 64).all()):
        text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB free; a product is correct"
        yield Finding("ok", name, text)
    else:
        yield Finding("broken", name, "a product on it is wrong", "nvidia-smi -q")


def disks() -> Iterator[Finding]:
    """Check free space in the working directory and in shared memory."""
    shared = Path("/dev/shm")
    fix = "runs and outputs are written here: free space"
    yield _free_space("disk", Path.cwd(), LEAST_DISK, fix)
    if shared.is_dir():
        fix = "in a container: docker run --shm-size 8g; or --data.workers 0"
        yield _free_space("shared memory", shared, LEAST_SHARED, fix)


def _free_space(name: str, place: Path, least: float, fix: str) -> Finding:
    """Compare the free space of a folder with the least that is enough, in bytes."""
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GB free in {place}"
    return Finding("ok", name, text) if free > least else Finding("look", name, text, fix)


def folders() -> Iterator[Finding]:
    """Check the folders that variables of the environment name."""
    from files.paths import expand_path

    for name, content in (("ENLARGER_DATA", "image sets"), ("ENLARGER_WEIGHTS", "weights")):
        value = os.environ.get(name)
        if value and not Path(expand_path(value, name)).is_dir():
            yield Finding("broken", name, f"{value} does not exist", f"export {name}=FOLDER")
        else:
            yield Finding("ok", name, value or f"not set; it may name the folder of {content}")


def weights() -> Iterator[Finding]:
    """Verify the files of ``configs/weights.yaml`` that exist, and name the missing ones."""
    from files.manifest import found, manifest, place_of

    def verified(name: str) -> Iterator[Finding]:
        yield Finding("ok", f"weights {name}", str(found(name)))

    absent = []
    for name in manifest():
        if place_of(name) is None:
            absent.append(name)
        else:
            yield from _error_as_finding(f"weights {name}", functools.partial(verified, name), "")
    if absent:
        fix = f"where you need one: {command_as_typed('weights --fetch NAME')}"
        yield Finding("look", "weights", f"missing: {', '.join(absent)}", fix)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    torchvision,
    gpus,
    disks,
    folders,
    weights,
)
