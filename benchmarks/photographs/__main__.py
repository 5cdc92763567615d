"""Every method small on photographs, beside its controls: `python -m benchmarks.photographs`.

Trains what the table asks for (`main.py fit`), tests each row (`main.py test`), measures it and its
controls, and writes `photographs.json` and an image a row into `benchmarks/results/` after each,
beside what other machines wrote. What is done is not done again: a second call goes on where the
first one ended, and a training whose options or configuration changed is done afresh. `--page`
writes the tables into `docs/photographs.md`.

Images are read from `$ENLARGER_DATA` (`bsds400`, `natural`, `kodak24`), weights of Real-ESRGAN and
NIQE from `$ENLARGER_WEIGHTS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks import report
from benchmarks.photographs import page
from benchmarks.photographs.measure import Measure, Numbers, samples
from benchmarks.photographs.outputs import OUTPUTS
from benchmarks.photographs.table import (
    ROWS,
    RUNS,
    TRAININGS,
    Row,
    Table,
    Training,
    load,
    texts,
)
from benchmarks.report import REPOSITORY
from callbacks.provenance import commit
from callbacks.results.files import load_results
from commands.run.files import FOLDER, best_or_newest, fingerprint, newest_whole
from files.owned import write_whole

NOTES = RUNS / "notes"
LAST = 5  # lines of a failed command's output
Note = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Arguments of the command line; by default those of this process.

    Returns:
        0, or 1 if a command failed or another one is running.
    """
    table = load()
    options = _options(arguments, [row.name for row in table.rows])
    rows = table.wanted(options.only)
    if options.dry_run:
        for command in _commands(table, rows):
            sys.stdout.write(shlex.join(["python", "main.py", *command]) + "\n")
        return 0
    if options.page:
        page.write(table, json.loads((options.results / page.JSON).read_text(encoding="utf-8")))
        return 0
    os.chdir(REPOSITORY)
    NOTES.mkdir(parents=True, exist_ok=True)
    _commit()
    try:
        with FileLock(RUNS / "lock", timeout=0):
            for row in rows:
                _fill(table, row)
                _write(table, options.results)
                page.draw(table, row, options.results)
    except Timeout:
        sys.stderr.write(f"another command fills {RUNS}: wait for it\n")
        return 1
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _options(words: Sequence[str] | None, rows: Sequence[str]) -> argparse.Namespace:
    known = report.parser(__doc__)
    known.add_argument("--only", nargs="+", default=[], choices=rows, metavar="ROW")
    known.add_argument("--results", type=Path, default=report.RESULTS, help="another folder")
    known.add_argument("--page", action="store_true", help="write the page from the JSON")
    known.add_argument("--dry-run", action="store_true", help="print the commands")
    return known.parse_args(words)


def _commands(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    tests = [table.command(row) for row in rows]
    needed = {training.name for test in tests for training in table.needed(test)}
    return [*(t.command for t in table.trainings if t.name in needed), *tests]


def _fill(table: Table, row: Row) -> None:
    """Train what a row needs, test it and measure it, unless that is done."""
    command = table.command(row)
    for training in table.needed(command):
        before = [t for t in table.needed(training.command) if t != training]
        _run(training.name, training.command, before)
    note = _run(row.name, command, table.needed(command))
    for name in table.sets[row.set].tables:
        compared = table.tables[name]
        others = {"bicubic": compared.bicubic, "regression": compared.regression}
        controls = {
            f"{label} + noise": other
            for label, other in others.items()
            if row.generative and other and _note("test", other)
        }
        made = [note["digest"], *(_note("test", other)["digest"] for other in controls.values())]
        place = NOTES / f"numbers_{row.name}_{name}.json"
        if place.is_file() and json.loads(place.read_text(encoding="utf-8"))["made"] == made:
            continue
        folders = {label: ROWS / other / OUTPUTS for label, other in controls.items()}
        if compared.scale:
            numbers = Measure(compared.scale).row(ROWS / row.name / OUTPUTS, name, folders)
        elif compared.samples:
            numbers = {"row": samples(ROWS / row.name / OUTPUTS, name)}
        else:
            results = load_results(ROWS / row.name / "results.json")["results"]
            here = [result for result in results if result["dataset"] == name]
            numbers = {"row": {result["metric"]: [result["value"]] for result in here}}
        write_whole(place, json.dumps({"made": made, "numbers": numbers}) + "\n")


def _run(name: str, command: list[str], needed: Sequence[Training]) -> Note:
    """Run a command of ``main.py`` unless it is done with the same inputs; return its note."""
    verb, before = command[0], _note(command[0], name)
    checkpoints = [best_or_newest(TRAININGS / training.name / FOLDER) for training in needed]
    inputs = [*texts(command), *(fingerprint(found[0]) for found in checkpoints if found)]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
    same = before.get("digest") == digest
    if same and "seconds" in before:
        return before
    place, run = NOTES / f"{verb}_{name}.json", TRAININGS / name / FOLDER
    spent = 0.0
    if same and (kept := newest_whole(run)):  # a training that was cut off goes on
        spent = before.get("spent", 0.0) + max(kept.stat().st_mtime - place.stat().st_mtime, 0)
    note: Note = {
        "digest": digest,
        "command": shlex.join(["python", "main.py", *command]),
        "commit": _commit(),
        "spent": round(spent),
    }
    afresh = ["--run.overwrite", "true"] if verb == "fit" and before and not same else []
    write_whole(place, json.dumps(note) + "\n")
    sys.stderr.write(f"{time.strftime('%X')} {verb} {name}\n")
    begun, log = time.monotonic(), NOTES / f"{verb}_{name}.log"
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [sys.executable, "main.py", *command, *afresh],
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The number of threads changes the order of sums, and so the numbers.
            env={"OMP_NUM_THREADS": "1", **os.environ},
            check=False,
        )
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST:]
        raise RuntimeError(
            f"{verb} {name} ended with {done.returncode} ({log}):\n" + "\n".join(last)
        )
    note["seconds"] = note.pop("spent") + round(time.monotonic() - begun)
    if verb == "fit" and (kept := newest_whole(run)):
        note["steps"] = int(kept.stem.partition("-")[2])
    write_whole(place, json.dumps(note) + "\n")
    return note


@cache
def _commit() -> str | None:
    """Return the commit as the command began: the JSON that it writes is itself a local change."""
    return commit()


def _note(verb: str, name: str) -> Note:
    place = NOTES / f"{verb}_{name}.json"
    found: Note = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    return found


def _write(table: Table, folder: Path) -> None:
    """Write the JSON of what is measured here; the rest of it stays as another machine wrote it."""
    place = folder / page.JSON
    before: dict[str, Any] = {"trainings": {}, "rows": {}, "claims": []}
    if place.is_file():
        before = json.loads(place.read_text(encoding="utf-8"))["results"]
    measured: dict[str, dict[str, dict[str, Numbers]]] = {}
    for row in table.rows:
        for name in table.sets[row.set].tables:
            numbers = NOTES / f"numbers_{row.name}_{name}.json"
            if numbers.is_file():
                found = json.loads(numbers.read_text(encoding="utf-8"))["numbers"]
                measured.setdefault(row.name, {})[name] = found
    notes = {training.name: _note(training.verb, training.name) for training in table.trainings}
    trainings = before["trainings"] | {n: note for n, note in notes.items() if "seconds" in note}
    rows = before["rows"] | {
        name: _note("test", name) | {"tables": page.means(tables)}
        for name, tables in measured.items()
    }
    earlier = {claim["text"]: claim for claim in before["claims"]}
    claims = [page.judged(claim, table, measured) for claim in table.claims]
    results = {
        "trainings": {t.name: trainings[t.name] for t in table.trainings if t.name in trainings},
        "rows": {row.name: rows[row.name] for row in table.rows if row.name in rows},
        "claims": [c if c["parts"] else earlier.get(c["text"], c) for c in claims],
    }
    found = report.provenance(seed=0) | {"results": results}
    write_whole(place, json.dumps(found, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
