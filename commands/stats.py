"""``main.py stats``: sizes, blur, noise, duplicates and broken files of a set, as JSON and a page.

python main.py stats my/photos
python main.py stats 'shards/train-{000..099}.tar' --out measured --part 3/8
python main.py stats --finish measured
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commands.errors import ConfigurationError
from datamodules.parts import check_whole, parse_natural, parse_part, parse_positive
from datamodules.workers import TIME_LIMIT, usable_cores
from files.owned import write_whole
from files.paths import expand_path

if TYPE_CHECKING:
    from callbacks.pages.stats import Section
    from datamodules.stats.parts import Parts
    from datamodules.stats.summary import Images, Summary

log = logging.getLogger(__name__)
NEAR = 4  # bits of 64
MEASURING = ("out", "part", "workers", "decode_timeout", "overwrite")  # without effect in --finish
GROUPS, IN_GROUP = 8, 6  # of equal or similar images on the page
# Kinds of examples: title, caption from blur, noise, width and height, and whether to show a part.
LOOKED_AT = (
    ("blurred", "Most blurred or smooth", "sharpness {0:.3g}", True),
    ("noisy", "Most noisy", "noise {1:.3g} levels", True),
    ("grey", "Grey", "", False),
    ("flat", "Flat", "", False),
)
EXAMPLES = """\
examples:
  python main.py stats my/photos
  python main.py stats 'shards/train-{000..099}.tar' --out measured
  on many machines, one part of a hundred each, and then one page:
    python main.py stats my/photos --out measured --part 7/100
    python main.py stats --finish measured

A command that was killed continues when it is run again. The numbers are the same for any number of
parts, workers and interruptions.

exit status: 0 measured, 2 an error stopped it, 130 Ctrl-C
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0, or 130 after Ctrl-C.

    Raises:
        ConfigurationError: If images are missing, or blocks are those of another set.
    """
    words = sys.argv[1:] if words is None else list(words)
    options = _parse(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _run(options)
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    except KeyboardInterrupt:
        log.error("stopped: the same command continues after the last finished block")
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    # Here, so that --help and wrong options are answered at once.
    from datamodules.stats.inputs import find_inputs
    from datamodules.stats.parts import Parts, measure_part

    if options.finish is not None:
        parts = Parts(Path(expand_path(options.finish, "--finish")))
        if not parts.job:
            raise ValueError(
                f"--finish {str(parts.out)!r} has no measurements: give the --out of the parts"
            )
        command = ["stats", *parts.job["paths"], "--out", str(parts.out)]
        check_whole(parts.missing(), parts.job["blocks"], parts.parts, lambda: command)
        _finish(parts, options.near)
        return
    parts = Parts(Path(expand_path(options.out, "--out")))
    if parts.out.exists() and not parts.out.is_dir():
        raise ValueError(f"--out {str(parts.out)!r} is a file; expected a folder")
    inputs = find_inputs(options.paths)
    part = options.part or (1, 1)
    parts.begin(inputs, options.paths, part[1], options.overwrite)
    measure_part(parts, inputs, part, options.workers, options.decode_timeout)
    if options.part is None:
        _finish(parts, options.near)
    else:
        log.info("part %d/%d is measured; main.py stats --finish joins all parts", *part)


def _finish(parts: Parts, near: int) -> None:
    from callbacks.pages.stats import facts_of, write_stats_page
    from datamodules.stats.summary import QUANTITIES, summarise

    summary, images = summarise(parts, near)
    paths = parts.job["paths"]
    numbers = {"paths": paths, **summary.numbers}
    path, page = parts.out / "stats.json", parts.out / "stats.html"
    write_whole(path, json.dumps(numbers, indent=1) + "\n")
    titles = {name: quantity.title for name, quantity in QUANTITIES.items()}
    write_stats_page(page, numbers, titles, _sections(summary, images, paths))
    for name, value in facts_of(numbers):
        log.info("%-16s %s", name, value)
    log.info("page: %s; all numbers: %s", page, path)


def _sections(summary: Summary, images: Images, paths: list[str]) -> list[Section]:
    """Return the small images of the page."""
    from callbacks.pages.stats import Section, Thumbnail
    from datamodules.stats.examples import small_image

    def thumbnails(numbers: list[int], caption: str, cut: bool) -> list[Thumbnail]:
        found = []
        for number in numbers:
            webp = small_image(images, number, cut)
            if webp is not None:
                row = images.row(number)
                said = caption.format(row["blur"], row["noise"], row["width"], row["height"])
                found.append(Thumbnail(_shown(images.name(number), paths), said, webp))
        return found

    sections = []
    for kind, title, caption, cut in LOOKED_AT:
        found = thumbnails(summary.examples[kind], caption, cut)
        more = not cut and summary.numbers[kind] > len(summary.examples[kind])
        about = "The middle of each image, unscaled." if cut else "The first of them." * more
        sections.append(Section(title, about, [found] if found else []))
    for groups, title, caption in (
        (summary.equal, "Equal", "{2}x{3}"),
        (summary.similar, "Similar", "{2}x{3}"),
    ):
        some = groups.largest[:GROUPS]
        about = "The largest groups; stats.json lists more." if groups.groups > len(some) else ""
        found_groups = [thumbnails(group.numbers[:IN_GROUP], caption, False) for group in some]
        sections.insert(len(sections) - 2, Section(title, about, [g for g in found_groups if g]))
    return sections


def _shown(name: str, paths: list[str]) -> str:
    """Return a path below the folder that was given; of several folders with the folder's name."""
    for path in paths:
        folder = path.rstrip("/") + "/"
        if name.startswith(folder):
            below = name.removeprefix(folder)
            return f"{Path(path).name}/{below}" if len(paths) > 1 else below
    return name


# ------------------------------------------------------------------------------------- command line
def _parse(words: list[str]) -> argparse.Namespace:
    if any(word.partition("=")[0] == "--config" for word in words):
        raise ConfigurationError(
            "stats measures images and takes no --config: what a degradation draws is printed by "
            "main.py draws --config FILE"
        )
    parser = _parser()
    options = parser.parse_args(words)
    if (options.finish is None) == (not options.paths):
        parser.error("expected either paths of images, or --finish FOLDER")
    given = [name for name in vars(options) if getattr(options, name) != parser.get_default(name)]
    unused = [f"--{name.replace('_', '-')}" for name in given if name in MEASURING]
    if options.finish is not None and unused:
        parser.error(
            f"--finish joins what was measured, without use for {', '.join(unused)}: drop it"
        )
    if options.part is not None and "near" in given:
        parser.error("--near is for joining, and --part only measures: give it with --finish")
    if "decode_timeout" in given and options.workers == 0:
        parser.error(
            "--decode-timeout ends a worker, but --workers is 0: give 1 or more, or drop it"
        )
    if options.part is not None and options.overwrite:
        parser.error("--overwrite would remove what other parts have measured: give another --out")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py stats",
        usage="%(prog)s PATH... [options]\n       %(prog)s --finish FOLDER [--near N]",
        description="Measure a set of images: sizes, formats, blur, noise, grey, equal and similar "
        "images, and files that cannot be read. Writes stats.json and the page stats.html.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="a folder (with its subfolders), an image, a pattern in quotation marks, or tars: "
        "'train-{000..099}.tar', s3://bucket/train-*.tar; of tars, the HR images are measured",
    )
    parser.add_argument(
        "--out", default="stats", metavar="FOLDER", help="folder of the results (default: stats)"
    )
    parser.add_argument(
        "--near",
        type=_near,
        default=NEAR,
        metavar="N",
        help="similar images differ in N of the 64 bits of their hashes at most (default: "
        "%(default)s; 0 to 6)",
    )
    parser.add_argument(
        "--part",
        type=parse_part,
        metavar="I/N",
        help="measure part I of N only; the others can be measured anywhere, at any time",
    )
    parser.add_argument("--finish", metavar="FOLDER", help="join the parts in this --out")
    parser.add_argument(
        "--workers",
        type=parse_natural,
        default=usable_cores(),
        metavar="N",
        help="processes (default: one per core, here %(default)s); with 0, images are measured in "
        "this one, without --decode-timeout",
    )
    parser.add_argument(
        "--decode-timeout",
        type=parse_positive,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help="an image that takes longer, twice, counts as unreadable (default: %(default)g)",
    )
    parser.add_argument("--overwrite", action="store_true", help="measure everything again")
    return parser


def _near(text: str) -> int:
    if not re.fullmatch("[0-6]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 6")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
