"""``main.py weights``: list the weights that the project knows by name, and fetch those missing.

python main.py weights                     list found and missing files
python main.py weights --fetch alexnet     fetch these, if they are missing
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from files.manifest import entry_of, folders, found, locate, manifest

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0; 1 if a file could not be fetched or is not the published one.

    Raises:
        ValueError: For an unknown name; ``main.py`` prints its message.
    """
    parser = argparse.ArgumentParser(
        prog="main.py weights",
        description="List the weights that the project knows by name, and fetch those missing.",
    )
    parser.add_argument("names", nargs="*", help="only these; all by default")
    parser.add_argument("--fetch", action="store_true", help="fetch those that are named")
    options = parser.parse_args(arguments)
    if options.fetch and not options.names:  # all together are tens of gigabytes
        parser.error("--fetch takes names, such as --fetch alexnet; without it, all are listed")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    absent = []
    status = 0
    entries = {name: entry_of(name) for name in options.names} or manifest()
    for name, entry in entries.items():
        try:
            path = locate(name) if options.fetch else found(name)
            state = str(path)
        except (OSError, ValueError) as error:  # the others are listed, too
            status = 1
            state = f"error: {error}"
            path = None
        else:
            if path is None:
                absent.append(name)
                state = f"missing: {entry['file']} from {entry['source']}"
            elif entry["sha256"] is None:
                state += " (not verified: no hash is known)"
        sys.stdout.write(f"{name}: {state}\n    {entry['used_by']}; {entry['licence']}\n")
    if absent:
        place = " or ".join(map(str, folders()))
        sys.stdout.write(
            f"missing: {', '.join(absent)}; put them into {place}, or fetch them by --fetch NAME\n"
        )
    return status


if __name__ == "__main__":
    raise SystemExit(main())
