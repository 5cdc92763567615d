"""``main.py doctor``: versions, GPUs, weights and folders of this machine, one line each.

Each line that is not ``ok`` names the fix. Checks import what they need themselves, and only the
standard library is imported here, because a package may be what is broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from files.versions import installed

ROOT = Path(__file__).resolve().parents[1]
INSTALL = "pip install -c constraints.txt -e ."
PAIR = "install torch and torchvision at once, from one index: pip install torch torchvision"
DESCRIPTION = """\
Report versions, GPUs, weights and folders of this machine, one line each, with the fix.
ok: it works; look: it works, but may not do what you want; broken: it does not work.
The exit status is 1 if anything is broken. main.py check tries a training step.
"""
LEAST_DISK = 5e9  # bytes
LEAST_SHARED = 1e9  # bytes of /dev/shm, through which readers pass batches


class Line(NamedTuple):
    """One finding.

    verdict: ``ok``, ``look`` or ``broken``.
    name: What was checked.
    text: What was found and, after a colon, the fix.
    """

    verdict: str
    name: str
    text: str


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: As typed after ``main.py doctor``.

    Returns:
        0; 1 if something is broken.

    Raises:
        ConfigurationError: If a launcher's variables are no numbers, or contradict each other.
        SystemExit: With status 2, if ``check`` refuses the configuration.
    """
    parser = argparse.ArgumentParser(
        prog="main.py doctor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="Also do main.py check with this file.")
    config = parser.parse_args(arguments).config
    from commands.world import claimed

    claimed()
    count = 0
    broken = []
    for name, check in CHECKS.items():
        for line in _guarded(name, check):
            sys.stdout.write(f"{line.verdict:<6}  {line.name:<22}  {line.text}\n")
            sys.stdout.flush()
            count += 1
            if line.verdict == "broken":
                broken.append(line.name)
    end = f"{len(broken)} broken: {', '.join(broken)}" if broken else "nothing is broken"
    sys.stdout.write(f"{count} lines: {end}\n")
    if config is not None:
        from commands.cli import run

        sys.stdout.flush()
        run(["check", "--config", config])
    return int(bool(broken))


def _guarded(name: str, check: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    try:
        yield from check()
    except Exception as error:  # a failing check must not stop the others
        fix = f": {INSTALL}" if isinstance(error, ImportError) else ""
        yield Line("broken", name, f"{type(error).__name__}: {' '.join(str(error).split())}{fix}")


# --------------------------------------------------------------------------------------- versions


def python() -> Iterator[Line]:
    """Name the Python interpreter."""
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Line("ok", "Python", f"{version}, {sys.executable}")


def packages() -> Iterator[Line]:
    """Check required packages and the installed optional ones against ``pyproject.toml``."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wrong = list(_unsuitable(project["dependencies"], required=True))
    absent = []
    for extra, requirements in project["optional-dependencies"].items():
        wrong += _unsuitable(requirements, required=False)
        if any(installed(each.name) is None for each in map(Requirement, requirements)):
            absent.append(extra)
    yield from wrong
    if not wrong:
        extras = f"; extras not installed: {', '.join(absent)}" if absent else ""
        yield Line("ok", "packages", f"as pyproject.toml requires{extras}")


def torch_pair() -> Iterator[Line]:
    """Check that torch and torchvision belong together, by one of torchvision's operators."""
    import torch

    try:
        import torchvision

        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        torchvision.ops.nms(box, torch.ones(1), 0.5)
    except Exception as error:
        yield Line(
            "broken", "torchvision", f"does not fit torch {torch.__version__} ({error}): {PAIR}"
        )
        return
    yield Line("ok", "torchvision", f"{torchvision.__version__}, with torch {torch.__version__}")


def _unsuitable(requirements: list[str], required: bool) -> Iterator[Line]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        name, specifier = requirement.name, requirement.specifier
        version = installed(name)
        if version is None and required:
            yield Line("broken", name, f"is missing: {INSTALL}")
        elif version is not None and not specifier.contains(version, prereleases=True):
            yield Line("broken", name, f"is {version}, but {specifier} is required: {INSTALL}")


# ----------------------------------------------------------------------------------------- machine


def gpus() -> Iterator[Line]:
    """Multiply in bf16 on each GPU; without one, say why."""
    import torch

    for number in range(torch.cuda.device_count()):
        name = f"GPU {number}"
        try:
            free, total = torch.cuda.mem_get_info(number)
            ones = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16)
            right = bool(((ones @ ones) == 64).all())
        except Exception as error:  # other GPUs may work
            fix = "exclude it with CUDA_VISIBLE_DEVICES, and see nvidia-smi"
            yield Line("broken", name, f"{error}: {fix}")
            continue
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB free"
        about = f"{torch.cuda.get_device_name(number)}, {memory}"
        if right:
            yield Line("ok", name, f"{about}, and a product on it is correct")
        else:
            yield Line("broken", name, f"{about}, but a product is wrong: see nvidia-smi -q")
    if torch.cuda.device_count():
        return
    if shutil.which("nvidia-smi") is None:
        yield Line("ok", "GPUs", "none, and no NVIDIA driver; training runs on the CPU")
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        yield Line("look", "GPUs", "CUDA_VISIBLE_DEVICES hides them all: unset it")
    else:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        fix = "update the driver, or install torch for its CUDA; in a container, add --gpus all"
        yield Line(
            "broken", "GPUs", f"there is a driver, but torch, built for {built}, sees none: {fix}"
        )


def disks() -> Iterator[Line]:
    """Check free space in the working directory and in shared memory."""
    shared = Path("/dev/shm")
    places = [("disk", Path.cwd(), LEAST_DISK, "runs and outputs are written here")]
    if shared.is_dir():
        fix = "a container needs --shm-size 8g, or set data.workers to 0"
        places.append(("shared memory", shared, LEAST_SHARED, fix))
    for name, place, least, fix in places:
        free = shutil.disk_usage(place).free
        text = f"{free / 2**30:.1f} GB free in {place}"
        yield Line("ok", name, text) if free > least else Line("look", name, f"{text}: {fix}")


# -------------------------------------------------------------------------------- weights and data


def folders() -> Iterator[Line]:
    """Check the folders that variables of the environment name."""
    from files.paths import expand_path

    for name, content in (("ENLARGER_DATA", "image sets"), ("ENLARGER_WEIGHTS", "weights")):
        value = os.environ.get(name)
        if not value:
            yield Line("ok", name, f"not set; it may name the folder of {content}")
        elif Path(expand_path(value, name)).is_dir():
            yield Line("ok", name, value)
        else:
            yield Line("broken", name, f"{value} does not exist: export {name}=FOLDER")


def weights() -> Iterator[Line]:
    """Verify the files of ``configs/weights.yaml`` that exist, and name the missing ones."""
    from callbacks.weights import WrongWeightsError, locate, manifest

    absent = []
    for name, entry in manifest().items():
        try:
            path = locate(entry)
        except WrongWeightsError as error:
            yield Line("broken", f"weights {name}", str(error))
            continue
        if path is None:
            absent.append(name)
        else:
            yield Line("ok", f"weights {name}", str(path))
    if absent:
        fix = "python main.py weights --fetch NAME"
        yield Line("look", "weights", f"missing: {', '.join(absent)}; where you need one: {fix}")


CHECKS: dict[str, Callable[[], Iterable[Line]]] = {
    "Python": python,
    "packages": packages,
    "torchvision": torch_pair,
    "GPUs": gpus,
    "disks": disks,
    "folders": folders,
    "weights": weights,
}
