"""``doctor``: report what works on this machine and what does not, one line a check.

    python main.py doctor
    python main.py doctor --doctor.shards 'my/shards/*.tar'

Each line that is not ``ok`` names the fix. ``check`` tries the nodes and a training step.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields

from commands.doctor.data import SHARD_CHECKS, WEIGHTS_CHECKS
from commands.doctor.lines import BROKEN, LOOK, OK, Check, Line, Options, colored, guarded
from commands.doctor.machine import CODEC_CHECKS, MACHINE_CHECKS, TORCH_CHECKS, VERSION_CHECKS
from commands.world import claimed

CHECKS: dict[str, Check] = {
    **VERSION_CHECKS,
    **MACHINE_CHECKS,
    **TORCH_CHECKS,
    **CODEC_CHECKS,
    **WEIGHTS_CHECKS,
    **SHARD_CHECKS,
}
WIDTH = 22  # characters of the name column
DESCRIPTION = """\
Report what works on this machine and what does not, one line each, with the fix. ok: it works;
look: it works, but may not do what you want; broken: it does not work. The exit status is 1 if
anything is broken, else 0. Nothing is downloaded or left behind. To try a training step, and
several machines together, use main.py check.
"""
EXAMPLES = """\
examples:
  python main.py doctor
  python main.py doctor --doctor.shards 'my/shards/*.tar' --doctor.checksums true
  python main.py doctor --run.root /disk/runs
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: As typed after ``main.py doctor``.

    Returns:
        0; 1 if something is broken; 130 after a Ctrl-C.

    Raises:
        ConfigurationError: If a launcher's variables are no numbers, or contradict each other.
        SystemExit: With status 2 for an unknown option.
    """
    given = _parse(arguments)
    claimed()
    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    lines = []
    try:
        for line in _all_lines(options):
            lines.append(line)
            _print(f"{colored(line.verdict)}  {line.name:<{WIDTH}}  {line.text}")
    except KeyboardInterrupt:
        return 130
    _print(summary(lines))
    return int(any(line.verdict == BROKEN for line in lines))


def summary(lines: Sequence[Line]) -> str:
    """Return the last line, which counts the verdicts.

    Args:
        lines: All lines printed so far.
    """
    counts = Counter(line.verdict for line in lines)
    names = dict.fromkeys(line.name for line in lines if line.verdict == BROKEN)
    end = f"{counts[BROKEN]} broken: {', '.join(names)}" if names else "nothing is broken"
    return f"{len(lines)} lines: {counts[OK]} ok, {counts[LOOK]} to look at, {end}"


def _all_lines(options: Options) -> Iterator[Line]:
    for name, check in CHECKS.items():
        yield from guarded(name, check, options)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
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
        action="extend",
        nargs="+",
        default=[],
        metavar="TARS",
        help="also check these: paths, patterns ('my/shards/*.tar', {000..099}) or URLs",
    )
    parser.add_argument(
        "--doctor.checksums",
        dest="checksums",
        type=_boolean,
        default=False,
        metavar="true|false",
        help="read every byte of shards, and of weights above 256 MB (default: false)",
    )
    parser.add_argument(
        "--run.root",
        dest="runs",
        default="runs",
        metavar="FOLDER",
        help="the folder of all runs, whose disk is checked for free space (default: runs)",
    )
    parser.add_argument("--debug", action="store_true", help="also print whole tracebacks")
    return parser.parse_args(arguments)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"
