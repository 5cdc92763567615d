"""Pack images into WebDataset shards: ``python -m datamodules.pack SOURCE OUT``."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.decode import UnreadableImage, read_size
from datamodules.pack_inputs import Entry, Inputs, Place, Stretch, find_inputs, role_of
from datamodules.pack_journal import Journal, Stage
from datamodules.pack_options import check, described, parse, parse_size, recipe_of, suffix_of
from datamodules.pack_pictures import Outcome, process
from datamodules.pack_report import counted, make_report, print_report, save_report
from datamodules.pack_workers import in_order
from datamodules.pairs import misfit
from datamodules.shard_writer import ShardWriter, find_shards, own_shards
from files.owned import remove_file
from files.paths import expand_path

__all__ = ["main", "parse_size"]

log = logging.getLogger(__name__)

SILENCE = 60  # seconds between log lines if there is no progress bar
LOST = "other captions of images that were left out as equal (--keep-duplicates keeps them)"
FIRST = 20  # pairs whose sizes are checked before anything is packed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; by default those of this process.

    Returns:
        0 if all images were packed, 1 if some were refused, 2 after an error, 130 after Ctrl-C.
    """
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    except KeyboardInterrupt:
        log.error("stopped: the same command continues after the last finished shard")
        return 130


def _run(options: argparse.Namespace) -> int:
    check(options)
    out = Path(expand_path(options.out, "OUT"))
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT {str(out)!r} is a file; expected a folder")
    inputs = find_inputs(
        *(options.source, options.lr, suffix_of(options), options.shard_in_key, options.root)
    )
    _check_apart(inputs.entries, out, options.name)
    if options.scale is not None:
        _check_scale(inputs.entries, options.scale)
    with Journal(out / f"{options.name}.journal.jsonl") as journal:
        _begin(journal, inputs, out, options)
        if journal.done:
            log.info("everything was packed already")
        else:
            _pack(journal, inputs, out, options)
        report, path = make_report(journal, inputs), out / f"{options.name}.report.json"
        save_report(report, path)
    print_report(report, path)
    if report["shards"]:
        log.info("to read them: class_path: datamodules.shards.Shards")
        log.info('              init_args: {urls: "%s"}', out.resolve() / f"{options.name}-*.tar")
    return 1 if report["refused"] else 0


def _check_apart(entries: list[Entry], out: Path, name: str) -> None:
    """Raise if a tar to read would be overwritten."""
    ours = {path.resolve() for path in find_shards(out, name)}
    read = {p.path for entry in entries for p in entry.members.values() if isinstance(p, Stretch)}
    for path in sorted(read):
        if Path(path).resolve() in ours:
            raise ValueError(
                f"{path} is an input and would be replaced: give another OUT or --name"
            )


def _pair(entry: Entry) -> list[Place]:
    """Return the places of HR and LR; empty for an input without LR."""
    by_role = {role_of(suffix): place for suffix, place in entry.members.items()}
    large = by_role.get("hr.", by_role.get(""))
    return [large, by_role["lr."]] if large is not None and "lr." in by_role else []


def _check_scale(entries: list[Entry], scale: float) -> None:
    """Raise early if the scale is wrong: if none of the first pairs fits, none will."""
    problems = []
    for entry in [entry for entry in entries if _pair(entry)][:FIRST]:
        try:
            large, small = (read_size(io.BytesIO(place.read())) for place in _pair(entry))
        except (UnreadableImage, OSError):
            continue
        problem = misfit(large, small, scale)
        if problem is None:
            return
        problems.append(f"{entry.key} ({problem})")
    if problems:
        raise ValueError(
            f"pairs of HR and LR do not fit scale {scale:g}: {', '.join(problems[:3])}. Give the "
            "scale of these folders as --scale"
        )


# ----------------------------------------------------------------------------------- begin or go on


def _begin(journal: Journal, inputs: Inputs, out: Path, options: argparse.Namespace) -> None:
    """Compare with existing shards, and remove those that are not kept."""
    job = {
        "options": described(options),
        "inputs": {"count": len(inputs.entries), "digest": inputs.digest()},
    }
    differences = _differences(journal.job, job)
    if journal.job and not differences and not options.overwrite:
        _check_finished(journal.finished, out)
        for path in find_shards(out, options.name, parts=True):
            if path.suffix == ".part":
                remove_file(path)
        if journal.finished and not journal.done:
            log.info("continuing after %s", counted(len(journal.finished), "finished shard"))
        return
    if find_shards(out, options.name) and not options.overwrite:
        how = f" (made otherwise: {'; '.join(differences)})" if journal.job else ""
        raise ValueError(
            f"{out} already has shards named {options.name}-*.tar{how}: run the same command as "
            "before to continue, or give another OUT or --name, or --overwrite to replace them"
        )
    report = out / f"{options.name}.report.json"
    for path in own_shards(out, options.name, journal, [report]):
        remove_file(path)
    journal.begin(job)


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    before, after = then.get("options", {}), now["options"]
    found = [
        f"{name} was {before.get(name)!r}, now it is {value!r}"
        for name, value in after.items()
        if before.get(name) != value
    ]
    if not found and then.get("inputs") != now["inputs"]:
        counts = [job.get("inputs", {}).get("count") for job in (then, now)]
        found.append(f"SOURCE had {counts[0]} images, now it has {counts[1]} others")
    return found


def _check_finished(finished: list[Stage], out: Path) -> None:
    for stage in finished:
        path = out / stage.shard
        size = path.stat().st_size if path.is_file() else None
        if size != stage.size:
            found = "is missing" if size is None else f"has {size} bytes instead of {stage.size}"
            raise ValueError(
                f"{path} was finished but {found}: restore it, or give --overwrite to start again"
            )


# --------------------------------------------------------------------------------------------- pack


def _pack(journal: Journal, inputs: Inputs, out: Path, options: argparse.Namespace) -> None:
    finished = journal.finished
    start = finished[-1].next[0] if finished else 0
    writer = ShardWriter(
        out, options.name, options.samples_per_shard, options.shard_size, len(finished)
    )
    work = partial(process, recipe_of(options))
    packing = _Packing(journal, writer, inputs.entries, options.keep_duplicates)
    said = time.monotonic()
    bar = tqdm(total=len(inputs.entries), initial=start, unit=" images", disable=None)
    with bar, closing(in_order(work, inputs.entries[start:], options.workers)) as outcomes:
        try:
            for number, outcome in enumerate(outcomes, start):
                packing.take(number, outcome)
                bar.update()
                if bar.disable and time.monotonic() - said > SILENCE:
                    said = time.monotonic()
                    log.info("%d of %d images", number + 1, len(inputs.entries))
            packing.end()
        except OSError as error:  # of writing: what could not be read is an outcome
            raise ValueError(
                f"cannot write to {out}: {error.strerror or error}. What is finished stays, "
                f"{counted(writer.number, 'shard')}: make room, or mend it otherwise, and give the "
                "same command to go on"
            ) from error
        finally:
            writer.abandon()


class _Packing:
    """Puts outcomes into shards, in their order, and keeps the journal."""

    def __init__(
        self, journal: Journal, writer: ShardWriter, entries: list[Entry], keep_duplicates: bool
    ) -> None:
        self.journal, self.writer, self.entries = journal, writer, entries
        self.keep_duplicates = keep_duplicates
        self.known: dict[str, int] = {}  # hash of an input: the first one that has it
        self.captions: dict[str, str] = {}  # hash of an input: that of the first one's caption
        for stage in journal.finished:
            for number, digest in stage.kept:
                picture, _, caption = digest.partition(":")
                self._first(picture, caption, number)
        # An input may begin in the last finished shard, and end in the one that comes now.
        self.next = journal.finished[-1].next if journal.finished else (0, 0)
        self.stage = Stage()

    def take(self, number: int, outcome: Outcome) -> None:
        """Write the samples of an input, or note why not."""
        begun = self.next[1] if number == self.next[0] else 0
        if begun:
            self._check_unchanged(number, outcome)
        elif outcome.reason:
            self.stage.refused.append((number, outcome.reason, outcome.message))
        else:
            other = self._first(outcome.digest, outcome.caption, number)
            if other != number:
                self.stage.duplicates.append((number, other))
                if not self.keep_duplicates:
                    if outcome.caption and outcome.caption != self.captions[outcome.digest]:
                        self.stage.notes[LOST] += 1
                    return
        for part, (key, members) in enumerate(outcome.samples[begun:], begun):
            if not self.writer.has_room(members):
                self._finish((number, part))
            if part == 0:
                told = f":{outcome.caption}" if outcome.caption else ""
                self.stage.kept.append((number, outcome.digest + told))
                self.stage.notes.update(outcome.notes)
            self.writer.add(key, members)

    def _first(self, digest: str, caption: str, number: int) -> int:
        """The first input with these images; its caption is the one that they have."""
        first = self.known.setdefault(digest, number)
        if first == number:
            self.captions[digest] = caption
        return first

    def end(self) -> None:
        """Finish the last shard, and the journal."""
        if self.writer.samples:
            self._finish((len(self.entries), 0))
        self.stage.next = (len(self.entries), 0)
        self.journal.append(self.stage)

    def _finish(self, next_: tuple[int, int]) -> None:
        stage = self.stage
        stage.next, stage.samples = next_, self.writer.samples
        path = self.writer.finish()
        stage.shard, stage.size = path.name, path.stat().st_size
        self.journal.append(stage)
        self.stage = Stage()

    def _check_unchanged(self, number: int, outcome: Outcome) -> None:
        if outcome.reason or self.known.get(outcome.digest) is None:
            entry = self.entries[number]
            where = next(iter(entry.members.values())).where
            raise ValueError(
                f"{where} was changed since a part of it was packed "
                f"({outcome.message or 'other bytes'}): put it back, or give --overwrite"
            )


if __name__ == "__main__":
    sys.exit(main())
