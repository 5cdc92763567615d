"""``predict.html``: the images of a folder of ``predict``, before and after."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from tarfile import is_tarfile
from typing import Any

from callbacks.pages.images import MOST, Content, Part, Scene, write_images_page
from callbacks.predict.predictions import last_lines, outputs_in
from files.paths import PREDICT_PAGE

log = logging.getLogger(__name__)
PAGE = PREDICT_PAGE
ERRORS = 20  # that are named
VIDEO = ".mp4"
MIDDLES = (1, 3, 5)  # sixths: a frame of each third of a video is shown


def write_predict_page(folder: Path, earlier: int = 0) -> None:
    """Write the page of all outputs in a folder that have a line and exist, of this run or earlier.

    Errors are those of this run: an output that it failed to make is of an earlier one, and left
    out.

    Args:
        folder: The folder of outputs.
        earlier: Number of lines of earlier runs.
    """
    names = sorted(outputs_in(folder))
    there = [name for name in names if os.path.exists(folder / name)]
    lines = last_lines(folder, {*there[:MOST]}, earlier)
    errors = [line for line in lines.values() if "error" in line]
    there = [name for name in there if "error" not in lines.get(name, {})]
    content = Content(f"{folder.name}: before and after", _facts(lines, len(there)))
    content.notes += [
        f"Not enlarged: {line.get('input') or line['key']}: {line['error']}"
        for line in errors[:ERRORS]
    ]
    if len(errors) > ERRORS:
        content.notes.append(f"{len(errors) - ERRORS} more could not be enlarged.")
    if there or errors:
        write_images_page(folder / PAGE, _scenes(folder, there, lines), content)
        log.info("before and after: %s", folder / PAGE)


def _scenes(folder: Path, names: list[str], lines: dict[str, dict[str, Any]]) -> Iterator[Scene]:
    for name in names:
        line = lines.get(name, {})
        output, source = folder / name, line.get("input")
        if output.is_dir():  # of a clip
            yield Scene(name, [Part("first frame", min(output.iterdir(), default=output))])
            continue
        parts = [Part("output", output)]
        # An input may be gone, or lie in a shard, which is the source then.
        if isinstance(source, str) and os.path.isfile(source) and not is_tarfile(source):
            parts.insert(0, Part("bicubic (plain enlargement)", Path(source), enlarged=True))
        if name.endswith(VIDEO):
            count = line.get("frames", 1)
            for number in sorted({count * sixths // 6 + 1 for sixths in MIDDLES}):
                frames = [part._replace(frame=number) for part in parts]
                yield Scene(f"{name}, frame {number} of {count}", frames)
        else:
            yield Scene(name, parts)


def _facts(lines: dict[str, dict[str, Any]], count: int) -> list[tuple[str, str]]:
    ways: dict[str, None] = {}
    for line in lines.values():
        if "error" not in line:
            method, scale, file = line["model"], line.get("scale"), line["weights"]
            words = [
                str(method).rpartition(".")[2],
                f"x{scale:g}" if scale else "",
                Path(str(file)).name if file else "",
            ]
            ways[", ".join(filter(None, words))] = None
    return [*(("method", way) for way in ways), ("images", str(count))]
