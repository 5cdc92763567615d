"""``doctor``: what works on this machine, and what does not, with its mend: one line each.

    python main.py doctor
    python main.py doctor --doctor.shards 'my/shards/*.tar'
    torchrun ... main.py doctor        also whether all machines reach each other

Whatever may hang, crash or fail to be imported is tried in processes of its own, two or more at a
time. A part that dies goes on behind the check that killed it. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from functools import partial

from commands import (
    doctor_codecs,
    doctor_machine,
    doctor_network,
    doctor_nodes,
    doctor_shards,
    doctor_torch,
    doctor_training,
    doctor_versions,
    doctor_weights,
)
from commands.doctor_lines import (
    BROKEN,
    LOOK,
    OK,
    ROOT,
    Check,
    Line,
    Options,
    broken,
    colored,
    guarded,
    heard,
    ok,
    report,
    stderr_tail,
)

# Tried in processes of their own, as they are printed.
PARTS: dict[str, dict[str, Check]] = {
    "torch": doctor_torch.CHECKS,
    "codecs": doctor_codecs.CHECKS,
    "weights": doctor_weights.CHECKS,
    "shards": doctor_shards.CHECKS,
    "network": doctor_network.CHECKS,
    "nodes": doctor_nodes.CHECKS,
    "training": doctor_training.CHECKS,
}
ENDING: dict[str, Check] = {"farewell": doctor_nodes.farewell}
# The first of these are started first: others wait for this machine, or it takes the longest.
FIRST = ("nodes", "training")
LIMIT = 300.0  # seconds for a part, also on a machine that is busy with other things
READERS = ("weights", "shards")  # they take as long as the files are large, and show a bar
WIDTH = 22  # of the column of names
# What would make the training of one process wait for others.
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "MASTER_", "GROUP_", "LOCAL_", "ROLE_", "RANK", "WORLD_")

DESCRIPTION = """\
Say what works on this machine and what does not: one line each, with the mend. ok: it works; look:
it works, and may not do what you want; broken: it does not work. The exit status is 1 if anything
is broken, else 0. Nothing is left behind, and nothing is fetched.
"""
EXAMPLES = """\
examples:
  python main.py doctor
  python main.py doctor --doctor.shards 'my/shards/*.tar' --doctor.checksums true
  python main.py doctor --run.root /disk/runs
  torchrun --nnodes 2 --node_rank 0 --nproc_per_node 8 --master_addr HOST --master_port 29500 \\
    main.py doctor
"""


def run(arguments: Sequence[str]) -> None:
    """The command.

    Args:
        arguments: As typed after ``main.py doctor``.

    Raises:
        SystemExit: With status 1 if something is broken, 2 for an option that there is not, 128
            and the signal's number after a signal.
    """
    given = _parsed(arguments)
    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    if given.part is not None:
        _be_a_child(given.part, given.checks, options)
        return
    try:
        lines = _told(arguments, options)
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + int(stop.args[0])) from None
    if any(line.verdict == BROKEN for line in lines):
        raise SystemExit(1)


def summary(lines: Sequence[Line]) -> str:
    """What all lines come to.

    Args:
        lines: All that was said.
    """
    counts = Counter(line.verdict for line in lines)
    bad = dict.fromkeys(line.name for line in lines if line.verdict == BROKEN)
    told = f": {', '.join(bad)}" if bad else ""
    end = f"{counts[BROKEN]} broken{told}" if bad else "nothing is broken"
    return f"{len(lines)} lines: {counts[OK]} ok, {counts[LOOK]} to look at, {end}"


def _told(arguments: Sequence[str], options: Options) -> list[Line]:
    """Print all lines and what they come to; of the ranks of a machine, the first one does."""
    place = doctor_nodes.place_of(os.environ)
    speaks = place is None or place.local_rank == 0
    several = place is not None and len(place.leaders) > 1
    host = f"{platform.node()}: " if several else ""
    alone = ("nodes",) if place is None else ()
    parts = [part for part in PARTS if part not in alone] if speaks else ["nodes"]
    lines = []
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):  # so that nothing is left behind then, too
            stack.callback(signal.signal, number, signal.signal(number, _stop))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-"))
        processes = stack.enter_context(Processes([*arguments, "--folder", folder], folder))
        for line in _all_lines(processes, parts, options, speaks):
            lines.append(line)
            if speaks or line.verdict == BROKEN:
                _say(f"{host}{colored(line.verdict)}  {line.name:<{WIDTH}}  {line.text}")
        if place is not None:
            processes.tried("farewell")
    if speaks:
        _say(f"{host}{summary(lines)}")
    return lines


def _all_lines(
    processes: Processes, parts: Sequence[str], options: Options, whole: bool
) -> Iterator[Line]:
    idle = ["shards"] if not options.shards else []
    waiting = processes.begin([part for part in parts if part not in idle])
    for name, check in {**doctor_versions.CHECKS, **doctor_machine.CHECKS}.items():
        if whole:
            yield from guarded(name, check, options)
    for part in parts:
        if part in idle:
            yield ok(part, "none were named: --doctor.shards 'my/shards/*.tar' looks at yours")
        else:
            yield from guarded(part, partial(_result, waiting[part]), options)


def _result(part: Future[list[Line]], options: Options) -> list[Line]:
    return part.result()


class Processes:
    """Processes in which parts are tried, and that end with this one.

    Args:
        arguments: As typed, for all of them.
        folder: For what they write.
    """

    def __init__(self, arguments: Sequence[str], folder: str) -> None:
        self.arguments, self.folder = list(arguments), folder
        self._pool = ThreadPoolExecutor(max(2, min(len(PARTS), doctor_machine.usable_cores())))
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._closed = threading.Lock(), False

    def __enter__(self) -> Processes:
        """Nothing is started yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """End what still runs, as after a Ctrl-C."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:  # no process is started from here on
            self._closed = True
            for process in self._running:
                _kill(process)
        self._pool.shutdown()

    def begin(self, parts: Sequence[str]) -> dict[str, Future[list[Line]]]:
        """Begin to try parts. Args as those of ``PARTS``."""
        order = sorted(parts, key=lambda part: FIRST.index(part) if part in FIRST else len(FIRST))
        return {part: self._pool.submit(self.tried, part) for part in order}

    def tried(self, part: str) -> list[Line]:
        """Try one part to its end; what kills its process is left out when it starts again.

        Args:
            part: One of ``PARTS``, or ``farewell``.
        """
        left = list(PARTS.get(part, ENDING))
        lines: list[Line] = []
        while left:
            text, errors, why = self._spoken(part, left)
            said, within, ended = heard(text)
            lines += said
            left = [name for name in left if name not in ended]
            if left:
                name = within or left[0]
                lines.append(broken(name, f"its process {why}{stderr_tail(errors)}"))
                left = left[left.index(name) + 1 :]
            if part == "nodes":  # it would meet nobody if it came again
                break
        return lines

    def _spoken(self, part: str, checks: Sequence[str]) -> tuple[str, str, str]:
        """What a process said, what it wrote beside that, and how it ended."""
        command = [sys.executable, str(ROOT / "main.py"), "doctor", *self.arguments]
        command += ["--part", part, "--checks", *checks]
        shows = part in READERS and sys.stderr.isatty()
        with tempfile.TemporaryFile(
            "w+", dir=self.folder, encoding="utf-8", errors="replace"
        ) as errors:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the command has ended")
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=None if shows else errors,
                    encoding="utf-8",
                    errors="replace",
                    env=_environment(part, self.folder),
                    start_new_session=True,  # so that its own children can be ended with it
                )
                self._running.add(process)
            try:
                text, _ = process.communicate(timeout=None if part in READERS else LIMIT)
                why = _ending(process.returncode)
            except subprocess.TimeoutExpired:
                _kill(process)
                text, _ = process.communicate()
                why = f"did not end within {LIMIT:g} s"
            finally:
                _kill(process)
                with self._lock:
                    self._running.discard(process)
            errors.seek(0)
            written = errors.read()
        if "--debug" in self.arguments and written:
            sys.stderr.write(f"--- {part}\n{written}")
        return text, written, why


# ------------------------------------------------------------------------------------------- parts


def _be_a_child(part: str, names: Sequence[str], options: Options) -> None:
    checks = {**PARTS, "farewell": ENDING}[part]
    # What libraries print is not ours to say.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        report(out, checks, names, options)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of a backend that failed would keep it


def _environment(part: str, folder: str) -> Mapping[str, str]:
    given = {**os.environ, "TMPDIR": folder, "NO_ALBUMENTATIONS_UPDATE": "1"}
    if part in ("nodes", "farewell"):
        return given
    return {name: value for name, value in given.items() if not name.startswith(LAUNCHERS)}


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)  # a check does not take it for its own failure


def _kill(process: subprocess.Popen[str]) -> None:
    # Its children too, which may outlive it; their group has its number.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="main.py doctor",
        usage="%(prog)s [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--doctor.shards",
        dest="shards",
        nargs="+",
        default=(),
        metavar="TARS",
        help="look at these, too: paths, patterns ('my/shards/*.tar', {000..099}), addresses",
    )
    parser.add_argument(
        "--doctor.checksums",
        dest="checksums",
        type=_truth,
        default=False,
        metavar="true|false",
        help="read every byte of shards, and of weights above 256 MB (default: false)",
    )
    parser.add_argument(
        "--doctor.wait",
        dest="wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for other machines (default: 60)",
    )
    parser.add_argument(
        "--run.root",
        dest="runs",
        default="runs",
        metavar="FOLDER",
        help="the folder of all runs, for the room on its disk (default: runs)",
    )
    parser.add_argument("--debug", action="store_true", help="show also what libraries said")
    # For the processes in which parts are tried.
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--checks", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"
