"""Runs commands that depend on one another, a few at a time, and skips finished ones."""

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

    name: Unique name, for the line of progress and for ``needs`` of other jobs.
    arguments: Arguments of ``main.py``.
    place: Path without suffix of its note and its output. It is not in the run's folder, which may
        be moved aside.
    needs: Names of the jobs that must finish first.
    inputs: Returns what else the result depends on; called when ``needs`` are done.
    made: The folder that it fills. It is moved aside first, because a run's results keep numbers of
        earlier weights.
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
        """The file with what the command printed."""
        return self.place.with_suffix(".log")

    def note(self) -> Note:
        """Return the note of its latest run; an empty one if there is none."""
        try:
            return Note(**json.loads(self.place.with_suffix(".json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Note()

    def keep(self, note: Note) -> None:
        """Write its note."""
        write_whole(self.place.with_suffix(".json"), json.dumps(asdict(note), indent=2) + "\n")

    def done(self) -> bool:
        """Whether this command has finished with the present inputs."""
        note = self.note()
        return note.whole and note.arguments == [*self.arguments] and note.inputs == self.inputs()


@dataclass(frozen=True)
class Note:
    """A record of a job's latest run.

    whole: Whether it finished.
    arguments: Arguments of ``main.py``.
    inputs: What else the result depended on.
    seconds: Wall-clock seconds, including those before an interruption.
    commit: Commit of the code at its end.
    cpu_seconds: CPU seconds of its process and the processes that it started, which other load
        changes far less than ``seconds``. None if unknown.
    """

    whole: bool = False
    arguments: list[str] | None = None
    inputs: str | None = None
    seconds: float = 0.0
    commit: str | None = None
    cpu_seconds: float | None = None

    def cost(self) -> dict[str, Any]:
        """Return what a report contains."""
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
    """Run unfinished jobs, each after those that it needs.

    Args:
        jobs: All jobs, in an order in which each follows its ``needs``.
        at_once: Number of jobs in parallel, each with one thread unless OMP_NUM_THREADS is set.
        show: Receives one line about finished jobs, running jobs and the time left.
        environment: Further environment variables of the commands.

    Raises:
        ValueError: If a job needs a job that does not precede it.
        RuntimeError: If a command failed; the other running commands are stopped.
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
    """Return the expected minutes left, scaled by the time that finished jobs took."""
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
    """A running job.

    Args:
        job: The job.
        environment: Further environment variables.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self.job, self.begun, self.inputs = job, time.monotonic(), job.inputs()
        self.before, self.cpu_seconds = job.note(), 0.0
        # A run resumes by itself, which is wrong with another base or other settings.
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
                # The number of threads changes the order of sums, and so the numbers.
                env={"OMP_NUM_THREADS": "1", **os.environ, **environment},
            )

    def ended(self) -> bool:
        """Whether it has ended."""
        with self._counted():
            return self.process.poll() is not None

    def conclude(self) -> None:
        """Write its note.

        Raises:
            RuntimeError: If it failed.
        """
        self._keep(whole=self.process.returncode == 0)
        if self.process.returncode:
            last = (
                self.job.output.read_text(errors="replace", encoding="utf-8")
                .strip()
                .splitlines()[-LAST_LINES:]
            )
            raise RuntimeError(
                f"{self.job.name} ended with status {self.process.returncode}; its output is in "
                f"{self.job.output}, which ends with:\n" + "\n".join(last)
            )

    def end(self) -> None:
        """Stop it; a training keeps its progress."""
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
        # The time of a process is added to that of ended children when it is waited for.
        before = _of_children()
        try:
            yield
        finally:
            self.cpu_seconds += _of_children() - before

    def _keep(self, whole: bool) -> None:
        before = self.before.seconds if self.resumes else 0.0
        seconds = round(before + time.monotonic() - self.begun, 1)
        # A resumed training whose first part was not measured has no total.
        cpu = self.before.cpu_seconds if before else 0.0
        cpu = None if cpu is None else round(cpu + self.cpu_seconds, 1)
        done = Note(whole, list(self.job.arguments), self.inputs, seconds, commit(), cpu)
        self.job.keep(done)


def _of_children() -> float:
    """Return the CPU seconds of ended children, including their own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
