"""Commands that build on one another, a few at a time; what is done already is not done again."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from callbacks.files import commit
from files.owned import move_aside, write_whole

REPOSITORY = Path(__file__).resolve().parents[2]
LOOKS = 0.5  # seconds from one look at what runs to the next
PATIENCE = 120.0  # seconds that a command has to end by itself: a training writes a checkpoint
LAST_LINES = 5  # of a failed command's output


@dataclass(frozen=True)
class Job:
    """One command of ``main.py``.

    name: For the line of progress, and for those that need it; unique.
    arguments: Of ``main.py``.
    place: Of its note (what was done) and of its output, without suffix; not in the run's folder,
        which may be moved aside.
    needs: Jobs that come before it.
    inputs: Says what else its result depends on; asked when those it needs are done.
    made: A folder of what it makes, moved aside before it runs: numbers of other weights stay in
        a run's results.
    minutes: Expected time, for the estimate of what is left.
    """

    name: str
    arguments: tuple[str, ...]
    place: Path
    needs: tuple[str, ...] = ()
    inputs: Callable[[], str] = str
    made: Path | None = None
    minutes: float = 1.0

    @property
    def output(self) -> Path:
        """What the command printed."""
        return self.place.with_suffix(".log")

    def note(self) -> Note:
        """What is known of the latest time it was run."""
        try:
            return Note(**json.loads(self.place.with_suffix(".json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Note()

    def keep(self, note: Note) -> None:
        """Write it down."""
        write_whole(self.place.with_suffix(".json"), json.dumps(asdict(note), indent=2) + "\n")

    def done(self) -> bool:
        """Whether this very command was done, with these inputs."""
        note = self.note()
        return note.whole and note.arguments == [*self.arguments] and note.inputs == self.inputs()


@dataclass(frozen=True)
class Note:
    """What was done of a job.

    whole: Whether it came to its end.
    arguments: Of ``main.py``.
    inputs: What else it depended on.
    seconds: All the time it took; of a training that was interrupted, with that before.
    commit: The commit of the code at its end.
    cpu_seconds: Those of its process and of all that this started: what runs beside it changes
        them far less than ``seconds``. None where they were not noted.
    """

    whole: bool = False
    arguments: list[str] | None = None
    inputs: str | None = None
    seconds: float = 0.0
    commit: str | None = None
    cpu_seconds: float | None = None

    def cost(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "commit": self.commit,
        }


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    show: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run those that are not done, each after what it needs.

    Args:
        jobs: All, each after those that it needs.
        at_once: How many beside one another, each with one thread or what OMP_NUM_THREADS says.
        show: Receives one line about what is done, what runs, and the time that is left.
        environment: Further variables for the commands.

    Raises:
        ValueError: A job comes before one that it needs, or that is not there.
        RuntimeError: A command failed; those that run beside it are ended.
    """
    for number, job in enumerate(jobs):
        if missing := set(job.needs) - {before.name for before in jobs[:number]}:
            raise ValueError(f"{job.name} needs {', '.join(sorted(missing))} before it")
    waiting, running, finished = list(jobs), list[_Running](), set[str]()
    try:
        while waiting or running:
            _start(waiting, running, finished, at_once, environment or {})
            names = ", ".join(process.job.name for process in running)
            if names:
                left = _minutes_left(jobs, waiting, running, finished) / at_once
                done = f"{len(finished)} of {len(jobs)} done"
                show(f"{done}, about {math.ceil(left)} min left, running: {names}")
            ended = [process for process in running if process.ended()]
            for process in ended:
                running.remove(process)
                process.conclude()
                finished.add(process.job.name)
            if running and not ended:
                time.sleep(LOOKS)
        show(f"{len(jobs)} of {len(jobs)} done")
    finally:
        for process in running:
            process.end()


def _minutes_left(
    jobs: Sequence[Job], waiting: list[Job], running: list[_Running], finished: set[str]
) -> float:
    """Return the expected minutes that are left, corrected by what finished jobs have taken."""
    done = [job for job in jobs if job.name in finished]
    expected = sum(job.minutes for job in done)
    pace = sum(job.note().seconds for job in done) / 60 / expected if expected else 1.0
    left = sum(pace * job.minutes for job in waiting)
    for process in running:
        left += max(0.0, pace * process.job.minutes - (time.monotonic() - process.begun) / 60)
    return left


def _start(
    waiting: list[Job],
    running: list[_Running],
    finished: set[str],
    at_once: int,
    environment: Mapping[str, str],
) -> None:
    for job in list(waiting):
        if not finished.issuperset(job.needs):
            continue
        if job.done():
            finished.add(job.name)
        elif len(running) < at_once:
            running.append(_Running(job, environment))
        else:
            continue
        waiting.remove(job)


class _Running:
    """A job's process.

    Args:
        job: What runs.
        environment: Further variables.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self.job, self.begun, self.inputs = job, time.monotonic(), job.inputs()
        self.before, self.cpu_seconds = job.note(), 0.0
        # A run goes on by itself where it stands, which is wrong on another base or other settings.
        changed = self.before.inputs not in (None, self.inputs)
        changed = changed or self.before.arguments not in (None, [*job.arguments])
        self.resumes = job.arguments[0] == "fit" and not changed
        afresh = ("--run.overwrite", "true") if job.arguments[0] == "fit" and changed else ()
        if job.made is not None and job.made.exists():
            move_aside(job.made)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with job.output.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                [sys.executable, "main.py", *job.arguments, *afresh],
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                # By the number of threads sums are in another order, and numbers others.
                env={"OMP_NUM_THREADS": "1", **os.environ, **environment},
            )

    def ended(self) -> bool:
        """Whether it runs no more."""
        with self._counted():
            return self.process.poll() is not None

    def conclude(self) -> None:
        """Note that it is done.

        Raises:
            RuntimeError: It failed.
        """
        self._keep(whole=self.process.returncode == 0)
        if self.process.returncode:
            last = (
                self.job.output.read_text(errors="replace", encoding="utf-8")
                .strip()
                .splitlines()[-LAST_LINES:]
            )
            raise RuntimeError(
                f"{self.job.name} ended with status {self.process.returncode}; all it said is in "
                f"{self.job.output}, the end of which is:\n" + "\n".join(last)
            )

    def end(self) -> None:
        """End it; what it was trained is kept."""
        with self._counted():
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._keep(whole=False)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        # A process's time becomes that of ended children when it is waited for, and not before.
        before = _of_children()
        try:
            yield
        finally:
            self.cpu_seconds += _of_children() - before

    def _keep(self, whole: bool) -> None:
        before = self.before.seconds if self.resumes else 0.0
        seconds = round(before + time.monotonic() - self.begun, 1)
        # Of a training that began before they were noted, a part is not known.
        cpu = self.before.cpu_seconds if before else 0.0
        cpu = None if cpu is None else round(cpu + self.cpu_seconds, 1)
        done = Note(whole, list(self.job.arguments), self.inputs, seconds, commit(), cpu)
        self.job.keep(done)


def _of_children() -> float:
    """CPU seconds of this process's ended children, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
