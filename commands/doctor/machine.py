"""Checks of the machine: versions, torch, GPU, codecs, disk."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.doctor.lines import INSTALL, ROOT, Check, Line, Options, broken, error_text, look, ok
from commands.process import raised
from files.paths import expand_path

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MEGABYTE, GIGABYTE = 2**20, 2**30

# Below the first of each pair failure is likely, below the second it is possible.
MEMORY = (1 * GIGABYTE, 4 * GIGABYTE)  # the quickstart trains in 1.0 GB
DISK = (200 * MEGABYTE, 5 * GIGABYTE)  # checkpoints of a small network, and of a large one
SHARED = (16 * MEGABYTE, 1 * GIGABYTE)  # batches in transit from workers
FILES = (256, 4096)  # each batch in transit holds a few open files
SHARED_FOLDER = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
CPU_FLAGS = Path("/proc/cpuinfo")


def cores(options: Options) -> Iterator[Line]:
    """Count the cores, and those that a container may use."""
    count, share = usable_cores(), _quota()
    if share is not None and share < count:
        yield look(
            "cores",
            f"{count}; this container may use {share:g}: export OMP_NUM_THREADS="
            f"{max(1, int(share))}, or threads wait for each other",
        )
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield ok("cores", f"{count}{limit}, {_arithmetic()}")


def memory(options: Options) -> Iterator[Line]:
    """Check free memory, within the limit of a container."""
    total, free = memory_of_machine()
    limit = _limit_of_memory()
    where = ""
    if limit is not None and limit[0] < total:
        (total, free), where = limit, ", the limit of this container"
    text = f"{format_bytes(free)} free of {format_bytes(total)}{where}"
    yield _judged("memory", free, MEMORY, text, "close other programs, or use a larger machine")


def disk(options: Options) -> Iterator[Line]:
    """Check free space and write permission in the folder of runs."""
    folder = Path(options.runs).resolve()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    state, name = os.statvfs(place), "disk for runs"
    free = shutil.disk_usage(place).free
    text = f"{format_bytes(free)} free in {folder}"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"enlarger")
    except OSError as error:
        why = error.strerror or error
        yield broken(name, f"{place} cannot be written ({why}): free space, or set --run.root")
        return
    if state.f_files and not state.f_favail:
        yield broken(name, f"{text}, but there are no free inodes for files: set --run.root")
        return
    yield _judged(name, free, DISK, text, "free space, or set --run.root to another disk")


def shared_memory(options: Options) -> Iterator[Line]:
    """Check the shared memory, which carries batches from workers."""
    name, fix = "shared memory", "start the container with --shm-size 8g, or set workers: 0"
    if not SHARED_FOLDER.is_dir():
        yield look(name, f"{SHARED_FOLDER} is missing, so workers may fail: set workers: 0")
        return
    use = shutil.disk_usage(SHARED_FOLDER)
    text = f"{format_bytes(use.free)} free of {format_bytes(use.total)} in {SHARED_FOLDER}"
    if not os.access(SHARED_FOLDER, os.W_OK):
        yield broken(name, f"{SHARED_FOLDER} cannot be written, so workers fail: {fix}")
        return
    yield _judged(name, use.free, SHARED, text, fix)


def open_files(options: Options) -> Iterator[Line]:
    """Check how many files a process may open."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        yield ok("open files", "no limit")
        return
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    found = raised(soft, hard)
    own = f", which main.py raises to {found}" if found > soft else ""
    text = f"{soft} in a process{own}, at most {most}"
    fix = "ask for a higher limit to use many workers and shards"
    yield _judged("open files", found, FILES, text, fix)


def variables(options: Options) -> Iterator[Line]:
    """Check the environment variables that configurations and weights use."""
    purposes = {
        "ENLARGER_DATA": "configurations of benchmarks read $ENLARGER_DATA/...",
        "ENLARGER_WEIGHTS": "weights are looked up there first",
    }
    for name, purpose in purposes.items():
        value = os.environ.get(name)
        if value is None:
            yield ok(name, f"not set; {purpose}: export {name}=FOLDER")
        elif not value or not os.path.isdir(expand_path(value, name)):
            yield broken(name, f"{value}, which is not a folder: export {name}=FOLDER")
        else:
            yield ok(name, f"{value}; {purpose}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    online = "not set: missing weights are downloaded where possible"
    blocked = "set: missing weights are not downloaded; unset HF_HUB_OFFLINE to download them"
    yield ok("HF_HUB_OFFLINE", blocked if offline else online)


MACHINE_CHECKS: dict[str, Check] = {
    "cores": cores,
    "memory": memory,
    "disk for runs": disk,
    "shared memory": shared_memory,
    "open files": open_files,
    "variables": variables,
}


# ------------------------------------------------------------------------------------------- parts
def format_bytes(count: float) -> str:
    """Return a size in bytes as text, such as ``1.5 GB``."""
    if count >= GIGABYTE:
        return f"{count / GIGABYTE:.1f} GB"
    return f"{count / MEGABYTE:.0f} MB" if count >= MEGABYTE else f"{count / 1024:.0f} kB"


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    try:  # not datamodules.workers: the doctor also answers where no package is installed
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def memory_of_machine() -> tuple[int, int]:
    """Return total and available memory in bytes."""
    try:
        rows = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS does not report free memory
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    known = {row.split(":")[0]: 1024 * int(row.split()[1]) for row in rows if row.endswith("kB")}
    return known["MemTotal"], known["MemAvailable"]


def _judged(name: str, found: float, least: tuple[int, int], text: str, fix: str) -> Line:
    if found >= least[1]:
        return ok(name, text)
    return (broken if found < least[0] else look)(name, f"{text}, which is low: {fix}")


def _quota() -> float | None:
    # cgroup versions 2 and 1: microseconds of all cores in a period.
    words = _words(CGROUP / "cpu.max")
    if not words:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [word for name in names for word in _words(CGROUP / "cpu" / name)]
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def _limit_of_memory() -> tuple[int, int] | None:
    names = ("memory.max", "memory.current"), ("limit_in_bytes", "usage_in_bytes")
    version_2 = [_words(CGROUP / name) for name in names[0]]
    version_1 = [_words(CGROUP / "memory" / f"memory.{name}") for name in names[1]]
    for (limit, used), folder in ((version_2, CGROUP), (version_1, CGROUP / "memory")):
        if limit and used and limit[0] != "max":
            words = _words(folder / "memory.stat")
            stat = dict(zip(words[::2], words[1::2], strict=False))
            files = int(stat.get("inactive_file", 0))  # cached; freed when memory is needed
            return int(limit[0]), int(limit[0]) - int(used[0]) + files
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _arithmetic() -> str:
    if not CPU_FLAGS.exists():
        return "of an unknown kind"
    flags = set(
        CPU_FLAGS.read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    )
    known = {"amx_bf16": "bf16 in tiles (AMX)", "avx512_bf16": "bf16", "avx2": "AVX2, no bf16"}
    found = [text for flag, text in known.items() if flag in flags]
    return f"with {found[0]}" if found else "without AVX2"


OLDEST = (3, 11)  # Python
OWN = ROOT / ".venv"  # of `make install`
PAIR = "torch and torchvision"
PAIR_FIX = "install both at once, from one index: pip install -c constraints.txt torch torchvision"

# Purpose of each optional dependency of pyproject.toml.
EXTRAS = {
    "spandrel": "community checkpoints (RRDB, SwinIR, ...) as networks",
    "s3": "shards in s3://",
    "gs": "shards in gs://",
    "lmdb": "packing BasicSR's databases",
    "parquet": "packing parquet lists of addresses",
    "ray": "packing on a cluster, by pack --engine ray",
    "video": "H.264 as a degradation, and predictions as mp4",
    "iqa": "MUSIQ, MANIQA, CLIP-IQA, TOPIQ and PI",
    "onnx": "export to ONNX",
    "app": "main.py app, in the browser",
    "wandb": "logging to Weights & Biases",
}
MOST_NAMED = 5


def python(options: Options) -> Iterator[Line]:
    """Check the Python interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        yield broken("Python", f"{found}, but {needed} or newer is required: make PYTHON=...")
    elif OWN.is_dir() and not OWN.samefile(sys.prefix):
        yield look("Python", f"{found}, not that of {OWN}: source {OWN}/bin/activate")
    else:
        yield ok("Python", f"{found}, {sys.executable}")


def checkout(options: Options) -> Iterator[Line]:
    """Report the version and the commit of Enlarger."""
    version = _project()["version"]
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        commit = f"commit {done.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        commit = "not a git checkout"
    yield ok("Enlarger", f"{version}, {commit}")


def packages(options: Options) -> Iterator[Line]:
    """Check the required packages; yield a line for each that is missing or too old."""
    wrong, count = 0, 0
    for requirement in _requirements(_project()["dependencies"]):
        count += 1
        found = _installed(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            continue
        wrong += 1
        is_now = "is missing" if found is None else f"is {found}"
        wanted = f"pyproject.toml requires {requirement.specifier or 'it'}"
        yield broken(requirement.name, f"{is_now}, but {wanted}: {INSTALL}")
    if not wrong:
        yield ok("packages", f"{count} of {count} as pyproject.toml requires{_untested()}")


def pair(options: Options) -> Iterator[Line]:
    """Check that torch and torchvision fit, by the metadata of both."""
    from packaging.requirements import Requirement

    versions = [_installed(name) for name in ("torch", "torchvision")]
    torch, vision = versions
    if torch is None or vision is None:
        absent = " and ".join(n for n in ("torch", "torchvision") if _installed(n) is None)
        yield broken(PAIR, f"missing {absent}: {PAIR_FIX}")
        return
    wanted = [Requirement(text) for text in importlib.metadata.requires("torchvision") or ()]
    refused = [
        str(one.specifier)
        for one in wanted
        if one.name == "torch" and not one.specifier.contains(torch, prereleases=True)
    ]
    both = f"{torch} and {vision}"
    builds = [version.partition("+")[2] for version in (torch, vision)]
    if refused:
        yield broken(PAIR, f"{both}, but this torchvision needs torch{refused[0]}: {PAIR_FIX}")
    elif all(builds) and builds[0] != builds[1]:
        yield look(PAIR, f"{both} are builds for different devices: {PAIR_FIX}")
    else:
        yield ok(PAIR, f"{both}, as torchvision requires")


def extras(options: Options) -> Iterator[Line]:
    """Check the optional packages, and name their purpose."""
    optional = _project()["optional-dependencies"]
    for extra, purpose in EXTRAS.items():
        name, fix = f"extra {extra}", f"pip install -c constraints.txt -e '.[{extra}]'"
        for requirement in _requirements(optional[extra]):
            found = _installed(requirement.name)
            if found is None:
                yield ok(name, f"not installed, only needed for {purpose}: {fix}")
            elif requirement.specifier.contains(found, prereleases=True):
                yield ok(name, f"{requirement.name} {found}, for {purpose}")
            else:
                wanted = f"pyproject.toml requires {requirement.specifier}"
                yield broken(name, f"{requirement.name} is {found}, but {wanted}: {fix}")


VERSION_CHECKS: dict[str, Check] = {
    "Python": python,
    "Enlarger": checkout,
    "packages": packages,
    PAIR: pair,
    "extras": extras,
}


# ------------------------------------------------------------------------------------------- parts
def _project() -> dict[str, Any]:
    import tomllib  # missing in Python 3.10, which gets a line of its own

    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def _requirements(texts: list[str]) -> Iterator[Requirement]:
    """Yield the requirements that apply here; ``fsspec[http]`` also yields those of ``http``."""
    from packaging.requirements import Requirement

    for text in texts:
        requirement = Requirement(text)
        yield requirement
        if not requirement.extras or _installed(requirement.name) is None:
            continue
        for more in importlib.metadata.requires(requirement.name) or ():
            inner = Requirement(more)
            # Requirements without an extra were installed with the package.
            if not _applies(inner, "") and any(_applies(inner, e) for e in requirement.extras):
                yield inner


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _untested() -> str:
    # Not an error: pyproject.toml holds the bounds, constraints.txt the versions tested by CI.
    others = []
    for row in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, equals, version = row.partition("#")[0].strip().partition("==")
        found = _installed(name) if equals else None
        if found is not None and found.partition("+")[0] != version:
            others.append(f"{name} {found}")
    if not others:
        return ", all in the versions of constraints.txt"
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"; other versions than constraints.txt: {', '.join(others[:MOST_NAMED])}{more}"


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


SIDE = 32
LOSSY = 12  # largest error, in levels of 255, of a smooth image coded at good quality


def jpeg(options: Options) -> Iterator[Line]:
    """Decode a whole JPEG, and check that half of it is refused."""
    from datamodules.files.decode import UnreadableImage, decode
    from datamodules.files.jpeg import AVAILABLE

    data = _by_pillow("JPEG", quality=95, subsampling=0)
    off = _max_error(decode(data, "doctor.jpg").rgb, _ramps(8))
    if off > LOSSY:
        yield broken("JPEG", f"pixels are off by {off} levels: {INSTALL}")
        return
    if not AVAILABLE:
        missing = "simplejpeg is missing: truncated images (half grey) are not detected"
        yield look("JPEG", f"read by Pillow, because {missing}: {INSTALL}")
        return
    try:
        decode(data[: len(data) // 2], "half.jpg")
    except UnreadableImage:
        yield ok("JPEG", f"{_version('simplejpeg')} reads it, and refuses a truncated one")
    else:
        yield broken("JPEG", f"{_version('simplejpeg')} accepts a truncated file: {INSTALL}")


def png(options: Options) -> Iterator[Line]:
    """Check 16-bit PNG, written by OpenCV."""
    import cv2

    pixels = _ramps(16)
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    if not done:
        yield broken(
            "16-bit PNG", f"{_version('opencv-python-headless')} cannot write it: {INSTALL}"
        )
        return
    yield _exact("16-bit PNG", data.tobytes(), pixels, "opencv-python-headless")


def tiff(options: Options) -> Iterator[Line]:
    """Check 16-bit TIFF, written by tifffile."""
    import tifffile

    pixels, file = _ramps(16), io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb")
    yield _exact("16-bit TIFF", file.getvalue(), pixels, "tifffile")


def webp(options: Options) -> Iterator[Line]:
    """Check lossless WebP, written by Pillow."""
    yield _exact("WebP", _by_pillow("WEBP", lossless=True, exact=True), _ramps(8), "pillow")


def avif(options: Options) -> Iterator[Line]:
    """Check lossy AVIF, written by Pillow."""
    from datamodules.files.decode import decode

    off = _max_error(decode(_by_pillow("AVIF", quality=95), "doctor.avif").rgb, _ramps(8))
    if off > LOSSY:
        yield broken("AVIF", f"pixels are off by {off} levels: {INSTALL}")
    else:
        yield ok("AVIF", f"{_version('pillow')} writes it, and it is read to within {off} levels")


def h264(options: Options) -> Iterator[Line]:
    """Check H.264 of PyAV, which is optional."""
    try:
        import av  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ModuleNotFoundError:
        yield ok("H.264", "not tried: the extra video is not installed")
        return
    from degradations.stages.codec import H264

    off = _max_error(H264(crf=(18, 18)).encode_decode(_ramps(8), {"crf": 18}), _ramps(8))
    if off > 2 * LOSSY:  # its chroma has half the resolution
        yield broken("H.264", f"pixels are off by {off} levels: {INSTALL}")
    else:
        yield ok("H.264", f"{_version('av')} writes and reads a frame to within {off} levels")


CODEC_CHECKS: dict[str, Check] = {
    "JPEG": jpeg,
    "16-bit PNG": png,
    "16-bit TIFF": tiff,
    "WebP": webp,
    "AVIF": avif,
    "H.264": h264,
}


# ------------------------------------------------------------------------------------------- parts
def _ramps(bits: int) -> Any:
    """Return a (SIDE, SIDE, 3) image with a different smooth ramp in each channel."""
    import numpy as np

    ramp = np.linspace(0, 2**bits - 1, SIDE)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    pixels = np.stack([rows, columns, (rows + columns) / 2], axis=-1)
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


def _by_pillow(kind: str, **settings: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_ramps(8)).save(file, kind, **settings)
    return file.getvalue()


def _exact(name: str, data: bytes, pixels: Any, package: str) -> Line:
    from datamodules.files.decode import decode

    found = decode(data, f"doctor: {name}").rgb
    if found.dtype != pixels.dtype or _max_error(found, pixels):
        return broken(name, f"{_version(package)} changes the pixels: {INSTALL}")
    return ok(name, f"{_version(package)} writes it, and the same pixels are read")


def _max_error(found: Any, pixels: Any) -> int:
    import numpy as np

    return int(np.abs(found.astype(np.int64) - pixels.astype(np.int64)).max())


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
