"""``doctor``: cores, memory, disks, limits and environment variables of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from commands.doctor_lines import Check, Line, Options, broken, look, ok
from commands.open_files import raised
from files.paths import expand_path

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
            f"{count}, of which this container may use {share:g}: export OMP_NUM_THREADS="
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
    try:
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
