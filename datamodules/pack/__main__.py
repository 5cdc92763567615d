"""Pack images into shards: ``python main.py pack``."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.files.decode import UnreadableImage, read_size
from datamodules.files.paths import parse_bytes
from datamodules.pack.images import KEEP, MAX_PIXELS, Outcome, Recipe, parse_encoding, process
from datamodules.pack.inputs import Entry, Inputs, Place, Stretch, find_inputs, is_tars, role_of
from datamodules.pack.journal import (
    Journal,
    Stage,
    counted,
    in_order,
    make_report,
    own_shards,
    print_report,
    save_report,
    usable_cores,
)
from datamodules.shards.writer import ShardWriter, find_shards
from datamodules.sources.paired import misfit, with_scale
from files.owned import remove_file
from files.paths import expand_path

DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
DESCRIPTION = """\
Pack images into WebDataset shards (tars), each with its index. Every image is decoded once, and
broken ones are refused and listed. By default the files are kept unchanged, in the order of their
paths."""
EXAMPLES = """\
examples:
  a folder with its files unchanged, in shards of at most 300 MB:
    python main.py pack my/photos my/shards --shard-size 300M
  2K images from which training decodes crops only:
    python main.py pack DIV2K_train_HR shards --encode jpeg:97 --restart-markers
  sub-images of pairs, as BasicSR cuts them:
    python main.py pack DIV2K_train_HR shards --lr DIV2K_train_LR_bicubic/X2 \\
      --lr-suffix x2 --scale 2 --crop 480 --step 240 --encode webp

A command that was killed, or stopped at a full disk, continues when it is run again. The same input
and options give the same bytes, for any number of workers and interruptions.

exit status: 0 all packed, 1 some inputs were refused, 2 an error stopped it, 130 Ctrl-C
"""


def parse_size(text: str) -> int:
    """Parse a size in bytes such as ``300M``.

    Raises:
        ArgumentTypeError: If ``text`` is not such a number.
    """
    try:
        size = parse_bytes(text, "it")
    except ValueError:
        size = 0
    if size == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected e.g. 300M or 2G")
    return size


def _pixels(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels; expected e.g. 200M")
    return int(float(match[1]) * DECIMAL[match[2].upper()])


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 1 <= scale < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a scale; expected a number of at least 1"
        )
    return scale


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid name of shards; expected letters, digits, and _ . - within"
        )
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; exit with a message if it is wrong.

    Args:
        arguments: Command-line arguments; by default those of this process.
    """
    made = _parser()
    options, more = made.parse_known_args(arguments)
    if more and not any(one.startswith("-") for one in more):
        made.error(
            f"{len(more) + 2} paths where SOURCE and OUT were expected: quote a pattern, so that "
            "the shell does not expand it, as in 'photos/*.jpg'"
        )
    if more:
        made.error(f"unknown arguments: {' '.join(more)}")
    return options


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="main.py pack",
        usage="%(prog)s SOURCE OUT [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder (with its subfolders), a pattern of images, a text file with a path on "
        "each line (also BasicSR's and Real-ESRGAN's meta_info, with sizes or pairs), an LMDB, or "
        "tars: 'old/train-{000..099}.tar'",
    )
    made.add_argument("out", metavar="OUT", help="folder to write the shards to")
    _add_inputs(made.add_argument_group("inputs"))
    _add_images(made.add_argument_group("processing of an image, in this order"))
    _add_shards(made.add_argument_group("shards"))
    return made


def _add_inputs(group: Any) -> None:
    group.add_argument(
        "--lr", metavar="SOURCE", help="the LR images, with the same names; needs --scale"
    )
    group.add_argument(
        "--scale",
        type=_scale,
        metavar="N",
        help="how many times larger than their LR images are; pairs of other sizes are refused",
    )
    group.add_argument(
        "--lr-suffix",
        default="",
        metavar="TEXT",
        help="what an LR name has after the HR's, such as x2 or x{scale}",
    )
    group.add_argument(
        "--captions",
        metavar="KEY",
        help="take the caption from this key of the JSON beside an image. By default the text "
        "file a.txt is the caption of a.jpg. a.json goes into the shard unchanged",
    )
    group.add_argument(
        "--no-sidecars", action="store_true", help="ignore text and JSON beside images"
    )
    group.add_argument(
        "--keep-duplicates",
        action="store_true",
        help="keep images whose file equals an earlier one; by default they are left out",
    )
    group.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder to which the paths in a text file are relative (default: the file's own)",
    )
    group.add_argument(
        "--shard-in-key",
        action="store_true",
        help="prefix keys with their tar's name, for tars that all count from 0",
    )
    group.add_argument(
        "--max-pixels",
        type=_pixels,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse images with more pixels, e.g. 400M, before decoding (default: 179M)",
    )


def _add_images(group: Any) -> None:
    group.add_argument(
        "--max-long-side",
        type=_positive,
        metavar="N",
        help="shrink images with a longer long side, by Lanczos",
    )
    group.add_argument(
        "--max-short-side", type=_positive, metavar="N", help="the same for the short side"
    )
    group.add_argument(
        "--min-side",
        type=_positive,
        default=1,
        metavar="N",
        help="refuse images whose short side is then below this",
    )
    group.add_argument(
        "--crop",
        type=_positive,
        metavar="N",
        help="cut images into squares of this side, as BasicSR's extract_subimages: a_s001, ...",
    )
    group.add_argument(
        "--step", type=_positive, metavar="N", help="distance between squares (default: --crop)"
    )
    group.add_argument(
        "--thresh",
        type=_natural,
        default=0,
        metavar="N",
        help="pixels that may remain at the border; if more remain, another square ends there "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--encode",
        type=parse_encoding,
        default=KEEP,
        metavar="HOW",
        help="keep: unchanged files, and PNG for shrunk or cut images (default); webp: lossless; "
        "png; jpeg:QUALITY, for HR only: LR is always lossless",
    )
    group.add_argument(
        "--restart-markers",
        action="store_true",
        help="give JPEGs restart markers, so that crops are read without the rest: JPEG files are "
        "converted without loss (by jpegtran, else they are kept), others are encoded by --encode "
        "jpeg:QUALITY",
    )


def _add_shards(group: Any) -> None:
    group.add_argument(
        "--samples-per-shard",
        type=_positive,
        default=1000,
        metavar="N",
        help="samples in each shard, at most (default: %(default)s)",
    )
    group.add_argument(
        "--shard-size",
        type=parse_size,
        metavar="SIZE",
        help="bytes in each shard, at most, e.g. 300M",
    )
    group.add_argument(
        "--name",
        type=_name,
        default="shard",
        help="shards are named NAME-000000.tar (default: %(default)s)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="start again, and replace shards of this name"
    )
    group.add_argument(
        "--workers",
        type=_positive,
        default=usable_cores(),
        metavar="N",
        help="processes (default: one per core, here %(default)s)",
    )


def check(options: argparse.Namespace) -> None:
    """Check that options fit together.

    Raises:
        ValueError: If they contradict each other.
    """
    if options.lr is not None and options.scale is None:
        raise ValueError("--lr needs --scale, to check the sizes of the pairs")
    if options.lr is None and options.lr_suffix:
        raise ValueError("--lr-suffix applies to --lr, which is not given")
    shrunk = options.max_long_side is not None or options.max_short_side is not None
    if options.lr is not None and shrunk:
        raise ValueError(
            "--max-long-side and --max-short-side would misalign HR and --lr: drop them"
        )
    if options.crop is None and (options.step is not None or options.thresh):
        raise ValueError("--step and --thresh apply to --crop, which is not given")
    if options.crop is not None and options.lr is not None:
        _check_grid(options)
    kind = options.encode.kind
    if options.restart_markers and kind in ("webp", "png"):
        raise ValueError(f"--restart-markers requires JPEG, but --encode is {kind}: drop one")
    if options.restart_markers and kind == "keep" and (shrunk or options.crop is not None):
        raise ValueError(
            "--restart-markers with --crop or a bounded side writes new JPEGs: set their quality, "
            "--encode jpeg:97"
        )
    for name in ("max_long_side", "max_short_side"):
        most = getattr(options, name)
        if most is not None and most < options.min_side:
            raise ValueError(
                f"--min-side {options.min_side} refuses what --{name.replace('_', '-')} {most} has "
                "shrunk: it applies to the result"
            )
    if options.captions is not None and options.no_sidecars and not is_tars(options.source):
        raise ValueError("--captions reads the JSON beside images: drop --no-sidecars")
    if options.root is not None and is_tars(options.source):
        raise ValueError("--root applies to the paths in a text file, but SOURCE is tars: drop it")
    if options.shard_in_key and not is_tars(options.source):
        raise ValueError("--shard-in-key applies to tars, but SOURCE is not one: drop it")


def _check_grid(options: argparse.Namespace) -> None:
    if options.scale != round(options.scale):
        raise ValueError(f"--crop of pairs needs a whole number as --scale, not {options.scale:g}")
    unit = round(options.scale)
    for name, value in (("--crop", options.crop), ("--step", options.step)):
        if value is not None and value % unit:
            raise ValueError(
                f"{name} is {value}, not a multiple of the scale {unit}, so the LR would be cut "
                f"between pixels: give {value - value % unit or unit} or {value + -value % unit}"
            )


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Return the processing of an image."""
    return Recipe(
        scale=options.scale,
        crop=options.crop,
        step=options.step or options.crop or 0,
        thresh=options.thresh,
        long_side=options.max_long_side,
        short_side=options.max_short_side,
        min_side=options.min_side,
        max_pixels=options.max_pixels,
        encoding=options.encode,
        restart_markers=options.restart_markers,
        captions=options.captions,
        sidecars=not options.no_sidecars,
    )


def suffix_of(options: argparse.Namespace) -> str:
    """Return the suffix of an LR name after the HR's."""
    return with_scale(options.lr_suffix, options.scale) if options.lr_suffix else ""


def described(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the shards depend on, by their command-line names."""
    names = dict(vars(options))
    for name in ("overwrite", "workers", "out", "source", "lr"):
        del names[name]
    if names["root"] is None:  # as in journals from before this option
        del names["root"]
    names["encode"] = str(names["encode"])
    source = os.path.abspath(expand_path(options.source, "SOURCE"))
    lr = None if options.lr is None else os.path.abspath(expand_path(options.lr, "--lr"))
    named = {f"--{name.replace('_', '-')}": value for name, value in sorted(names.items())}
    return {"SOURCE": source, "--lr": lr, **named}


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
        log.info("to read them: class_path: datamodules.Shards")
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
                f"{counted(writer.number, 'shard')}: make room, or fix it otherwise, and give the "
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
                image, _, caption = digest.partition(":")
                self._first(image, caption, number)
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
                caption = f":{outcome.caption}" if outcome.caption else ""
                self.stage.kept.append((number, outcome.digest + caption))
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
