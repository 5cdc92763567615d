"""Every method small on photographs, beside its controls: `python -m benchmarks.photographs`.

Trains what the table asks for (`main.py fit`), tests each row (`main.py test`), measures it and its
controls, and writes `photographs.json` and an image a row into `benchmarks/results/` after each,
beside what other machines wrote. What is done is not done again: a second call goes on where the
first one ended, and a training whose options or configuration changed is done afresh. `--page`
writes the tables into `docs/photographs.md`.

`make evidence-gpu BUDGET=800` is `--table benchmarks/configs/photographs_cuda.yaml --budget 800`,
sized for minutes of a GPU. It keeps weights in half precision in `runs/photographs_cuda/weights`.
Without a GPU its commands are printed; `--small` rehearses them.

Images are read from `$ENLARGER_DATA` (`bsds400`, `natural`, `kodak24`), weights of Real-ESRGAN and
NIQE from `$ENLARGER_WEIGHTS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file

from benchmarks import report
from benchmarks.photographs import page
from benchmarks.photographs.measure import Measure, Numbers, samples
from benchmarks.photographs.outputs import OUTPUTS
from benchmarks.photographs.table import TABLE, Row, Table, Training, load, texts
from benchmarks.report import REPOSITORY
from callbacks.provenance import commit
from callbacks.results.files import read_file
from commands.run.files import FOLDER, fingerprint, newest_whole
from commands.run.ranking import best_or_newest
from files.owned import write_whole
from files.weights import EXPORTED, read_weights

CONTROLS = "noise, sharpening"  # numbers made with other controls are made again
LAST = 5  # lines of a failed command's output
RESERVE = 25.0  # seconds of the budget for this program's start, and for a checkpoint after SIGTERM
LEAST = RESERVE + 20.0  # seconds of the budget without which no command is begun
Note = dict[str, Any]


class BudgetSpent(Exception):  # noqa: N818  (no error)
    """Raised when the time is over; the same command goes on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Arguments of the command line; by default those of this process.

    Returns:
        0, also if the budget is spent; 1 if a command failed or another one is running.
    """
    begun = time.monotonic()
    table, options = _options(arguments)
    rows = table.wanted(options.only)
    if options.page:
        found = (options.results / f"{table.name}.json").read_text(encoding="utf-8")
        page.write(table, json.loads(found))
        return 0
    without_gpu = table.gpu and not options.small and not torch.cuda.is_available()
    if without_gpu:
        sys.stdout.write("# There is no GPU here. With one, this would run:\n")
    if options.dry_run or without_gpu:
        for command in _commands(table, rows):
            sys.stdout.write(shlex.join(["python", "main.py", *command]) + "\n")
        return 0
    os.chdir(REPOSITORY)
    _notes(table).mkdir(parents=True, exist_ok=True)
    _commit()
    todo = list(rows)
    try:
        with FileLock(table.runs / "lock", timeout=0):
            while todo:
                row = todo[0]
                _fill(table, row, begun + options.budget)
                _write(table, options.results)
                page.draw(table, row, options.results)
                todo.pop(0)
    except Timeout:
        sys.stderr.write(f"another command fills {table.runs}: wait for it\n")
        return 1
    except BudgetSpent:
        names = ", ".join(row.name for row in todo)
        sys.stderr.write(f"the budget is spent; the same command goes on with {names}\n")
        return 0
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _options(words: Sequence[str] | None) -> tuple[Table, argparse.Namespace]:
    """Return the table and the options."""
    known = report.parser(__doc__)
    known.add_argument("--table", type=Path, default=TABLE, help="another table")
    known.add_argument("--only", nargs="+", default=[], metavar="ROW")
    known.add_argument("--budget", type=float, default=math.inf, help="seconds; default: no limit")
    known.add_argument("--small", action="store_true", help="rehearse a table that needs a GPU")
    known.add_argument("--results", type=Path, help="another folder")
    known.add_argument("--page", action="store_true", help="write the page from the JSON")
    known.add_argument("--dry-run", action="store_true", help="print the commands")
    options = known.parse_args(words)
    table = load(options.table, options.small)
    if options.results is None:
        options.results = table.runs if options.small else report.RESULTS
    unknown = set(options.only) - {row.name for row in table.rows}
    if unknown:
        known.error(f"{options.table} has no row {', '.join(sorted(unknown))}")
    return table, options


def _commands(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    commands: list[list[str]] = []
    for row in rows:
        test = table.test_command(row)
        trainings = [table.training_command(training) for training in table.needed(test)]
        commands += [words for words in trainings if words not in commands]
        commands.append(test)
    return commands


def _notes(table: Table) -> Path:
    return table.runs / "notes"


def _fill(table: Table, row: Row, deadline: float) -> None:
    """Train what a row needs, test it and measure it, unless that is done.

    Args:
        table: The table.
        row: The row.
        deadline: When to stop, by ``time.monotonic``.

    Raises:
        BudgetSpent: If the deadline has come.
        RuntimeError: If a command failed.
    """
    command = table.test_command(row)
    for training in table.needed(command):
        words = table.training_command(training)
        before = [t for t in table.needed(words) if t != training]
        _run(table, training.name, words, before, deadline)
        if table.gpu and training.verb == "fit":
            _keep_weights(table, training)
    note = _run(table, row.name, command, table.needed(command), deadline)
    for name in table.sets[row.set].tables:
        compared = table.tables[name]
        others = {"bicubic": compared.bicubic, "regression": compared.regression}
        smooth = {
            label: other
            for label, other in others.items()
            if row.generative and other and _note(table, "test", other)
        }
        of_controls = [_note(table, "test", other)["digest"] for other in smooth.values()]
        made = [CONTROLS, note["digest"], *of_controls]
        place = _notes(table) / f"numbers_{row.name}_{name}.json"
        if place.is_file() and json.loads(place.read_text(encoding="utf-8"))["made"] == made:
            continue
        run = table.rows_folder / row.name
        folders = {name: table.rows_folder / other / OUTPUTS for name, other in smooth.items()}
        if compared.scale:
            numbers = Measure(compared.scale).row(run / OUTPUTS, name, folders)
        elif compared.samples:
            numbers = {"row": samples(run / OUTPUTS, name)}
        else:
            here = [row for row in read_file(run / "results.json") if row.dataset == name]
            numbers = {"row": {row.metric: [row.value] for row in here}}
        write_whole(place, json.dumps({"made": made, "numbers": numbers}) + "\n")


def _run(
    table: Table, name: str, command: list[str], needed: Sequence[Training], deadline: float
) -> Note:
    """Run a command of ``main.py`` unless it is done with the same inputs; return its note."""
    verb, before = command[0], _note(table, command[0], name)
    folder = table.trainings_folder
    checkpoints = [best_or_newest(folder / training.name / FOLDER) for training in needed]
    inputs = [*texts(command), *(fingerprint(found[0]) for found in checkpoints if found)]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
    same = before.get("digest") == digest
    if same and "seconds" in before:
        return before
    if deadline - time.monotonic() < LEAST:
        raise BudgetSpent
    place, run = _notes(table) / f"{verb}_{name}.json", folder / name / FOLDER
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
    begun, log = time.monotonic(), _notes(table) / f"{verb}_{name}.log"
    status = _status([*command, *afresh], log, deadline - RESERVE - begun)
    if status:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST:]
        raise RuntimeError(f"{verb} {name} ended with {status} ({log}):\n" + "\n".join(last))
    note["seconds"] = note.pop("spent") + round(time.monotonic() - begun)
    if verb == "fit" and (kept := newest_whole(run)):
        note["steps"] = int(kept.stem.partition("-")[2])
    write_whole(place, json.dumps(note) + "\n")
    return note


def _status(command: list[str], log: Path, limit: float) -> int:
    """Run a command of ``main.py`` and return its status.

    Args:
        command: Its arguments.
        log: File of its output.
        limit: Seconds after which it gets a SIGTERM, for which a training writes a checkpoint.

    Raises:
        BudgetSpent: If the limit stopped it.
    """
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "main.py", *command],
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The number of threads changes the order of sums, and so the numbers.
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )
        try:
            return process.wait(None if math.isinf(limit) else limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            if process.wait():
                raise BudgetSpent from None
            return 0  # it had just ended
        finally:
            process.kill()  # after Ctrl-C


def _keep_weights(table: Table, training: Training) -> None:
    """Write a training's weights in half precision, without its discriminator.

    The file has a fifth or less of the checkpoint's size, and can be copied from a rented machine.
    """
    found = best_or_newest(table.trainings_folder / training.name / FOLDER)
    place = table.runs / "weights" / f"{training.name}.safetensors"
    if found is None or (place.is_file() and place.stat().st_mtime > found[0].stat().st_mtime):
        return
    weights = read_weights(found[0])
    tensors = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in weights.tensors.items()
        if not name.startswith("discriminator.")
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, place, {EXPORTED: str(_commit()), "model": str(weights.model)})


@cache
def _commit() -> str | None:
    """Return the commit as the command began: the JSON that it writes is itself a local change."""
    return commit()


def _note(table: Table, verb: str, name: str) -> Note:
    place = _notes(table) / f"{verb}_{name}.json"
    found: Note = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    return found


def _write(table: Table, folder: Path) -> None:
    """Write the JSON of what is measured here; the rest of it stays as another machine wrote it."""
    place = folder / f"{table.name}.json"
    before: dict[str, Any] = {"trainings": {}, "rows": {}, "claims": []}
    if place.is_file():
        before = json.loads(place.read_text(encoding="utf-8"))["results"]
    measured: dict[str, dict[str, dict[str, Numbers]]] = {}
    for row in table.rows:
        for name in table.sets[row.set].tables:
            numbers = _notes(table) / f"numbers_{row.name}_{name}.json"
            if numbers.is_file():
                found = json.loads(numbers.read_text(encoding="utf-8"))["numbers"]
                measured.setdefault(row.name, {})[name] = found
    notes = {t.name: _note(table, t.verb, t.name) for t in table.trainings}
    trainings = before["trainings"] | {n: note for n, note in notes.items() if "seconds" in note}
    rows = before["rows"] | {
        name: _note(table, "test", name) | {"tables": page.means(tables)}
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
