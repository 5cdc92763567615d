"""``predict.html``: the images of a folder of ``predict``, before and after."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
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
    written = [name for name in sorted(outputs_in(folder)) if os.path.exists(folder / name)]
    lines = last_lines(folder, set(written[:MOST]), earlier)
    errors = {name: line for name, line in lines.items() if "error" in line}
    names = [name for name in written if name not in errors]
    content = Content(f"{folder.name}: before and after", _facts(lines, len(names)))
    for line in list(errors.values())[:ERRORS]:
        source = line.get("input") or line["key"]
        content.notes.append(f"Not enlarged: {source}: {line['error']}")
    if len(errors) > ERRORS:
        content.notes.append(f"{len(errors) - ERRORS} more could not be enlarged.")
    if names or errors:
        write_images_page(folder / PAGE, _scenes(folder, names, lines), content)
        log.info("before and after: %s", folder / PAGE)


def _scenes(folder: Path, names: list[str], lines: dict[str, dict[str, Any]]) -> Iterator[Scene]:
    for name in names:
        yield from scenes_of(folder, name, lines.get(name, {}))


def scenes_of(folder: Path, name: str, line: Mapping[str, Any]) -> Iterator[Scene]:
    """Yield what the page shows of an output: one scene, or some frames of a video.

    Args:
        folder: The folder of outputs.
        name: The output, below it.
        line: Its line in ``predictions.jsonl``.
    """
    output = folder / name
    source = line.get("input")
    if output.is_dir():  # of a clip
        yield Scene(name, [Part("first frame", min(output.iterdir(), default=output))])
        return
    parts = [Part("output", output)]
    # An input may be gone, or lie in a shard, which is the source then.
    if isinstance(source, str) and os.path.isfile(source) and not is_tarfile(source):
        parts.insert(0, Part("bicubic (plain enlargement)", Path(source), enlarged=True))
    if not name.endswith(VIDEO):
        yield Scene(name, parts)
        return
    count = line.get("frames", 1)
    for number in sorted({count * sixths // 6 + 1 for sixths in MIDDLES}):
        frames = [part._replace(frame=number) for part in parts]
        yield Scene(f"{name}, frame {number} of {count}", frames)


def _facts(lines: dict[str, dict[str, Any]], count: int) -> list[tuple[str, str]]:
    methods = []
    for line in lines.values():
        if "error" in line:
            continue
        words = [str(line["model"]).rpartition(".")[2]]
        if line.get("scale"):
            words.append(f"x{line['scale']:g}")
        if line["weights"]:
            words.append(Path(str(line["weights"])).name)
        methods.append(", ".join(words))
    facts = [("method", method) for method in dict.fromkeys(methods)]
    return [*facts, ("images", str(count))]
