"""``main.py compare``: runs by their numbers, or folders of images side by side on a page.

    python main.py compare runs/a runs/b
    python main.py compare outputs/a outputs/b --reference my/hr --input my/lr

Folders hold outputs of methods, of this program or another, under the same names.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from callbacks import weights
from callbacks.metrics.niqe import PRISTINE
from callbacks.metrics.sets import images_by_name, read_image
from callbacks.pages.images import Content, PageTable, Part, Scene, Size, size_of, write_images_page
from callbacks.report.runs import CONFIG, RESULTS, unique_names
from callbacks.results import compare as runs
from callbacks.results.files import (
    ImageNumbers,
    Result,
    column_of,
    columns,
    count_of,
    describe,
    shown_value,
)
from commands.errors import ConfigurationError
from commands.process import prepare_output
from degradations.bicubic import resize
from degradations.images import as_image
from files.paths import IMAGE_EXTENSIONS, walk

log = logging.getLogger(__name__)
PAGE = "compare.html"
HR = "HR"
DATASET = "images"
FULL_REFERENCE = ("psnr", "ssim")
WEIGHTS = {"lpips": "alexnet", "niqe": PRISTINE}  # metrics that are measured if these are here
NAMED = 5  # names in one line
INTERVAL = "Interval of the mean of A - B, from resampling the images."


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0, or 2 if runs have nothing to compare.

    Raises:
        ConfigurationError: If folders cannot be compared.
    """
    options = _parser().parse_args(words)
    if not _asks_for_folders(options):
        return runs.compare_runs(options)
    prepare_output()
    try:
        _compare_folders(options)
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py compare",
        description="Compare runs by their numbers on the same images, or folders of images of "
        f"the same names: side by side in {PAGE}, with numbers. All are compared with the first.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{runs.RUN}; or a folder of images")
    runs.add_arguments(parser)
    group = parser.add_argument_group("folders of images")
    group.add_argument("--reference", metavar="FOLDER", help="the HR images: PSNR, SSIM, LPIPS")
    group.add_argument("--input", metavar="FOLDER", help="the LR images: bicubic beside")
    group.add_argument(
        "--scale",
        type=float,
        help="factor of enlargement: the border that PSNR and SSIM leave out (default: that "
        "between --input and the outputs, or 1)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    group.add_argument("--out", type=Path, default=Path(PAGE), help=f"the page (default {PAGE})")
    return parser


# -------------------------------------------------------------------------- which images, and sizes
def _asks_for_folders(options: argparse.Namespace) -> bool:
    given = options.reference is not None or options.input is not None
    return given or any(_holds_images(Path(name)) for name in options.runs)


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in (RESULTS, CONFIG))


def _holds_images(path: Path) -> bool:
    if not path.is_dir() or _is_run(path):
        return False
    return any(Path(name).suffix.lower() in IMAGE_EXTENSIONS for *_, f in walk(path) for name in f)


class Folder(NamedTuple):
    """Images of one method, or HR or LR.

    label: Its name on the page.
    path: The folder.
    files: Its images by name, which is their path below it without suffix.
    """

    label: str
    path: Path
    files: Mapping[str, Path]


class Folders:
    """Folders whose images are compared: those whose name is in all of them.

    Args:
        outputs: Folders of outputs.
        reference: The folder of the HR images.
        input: The folder of the LR images.

    Raises:
        ValueError: If a folder is missing or a run's, no name is in all of them, or outputs of one
            name differ in size.
    """

    def __init__(
        self, outputs: Sequence[Path], reference: Path | None = None, input: Path | None = None
    ) -> None:
        labels = unique_names(outputs)
        self.outputs = [_read(*each) for each in zip(labels, outputs, strict=True)]
        self.bicubic = "bicubic of LR" if "bicubic" in labels else "bicubic"  # its label
        self.reference = None if reference is None else _read(HR, reference)
        self.input = None if input is None else _read("LR", input)
        self.all = [*self.outputs, *filter(None, (self.reference, self.input))]
        self.names = [
            name
            for name in self.outputs[0].files
            if all(name in folder.files for folder in self.all)
        ]
        if not self.names:
            some = ", ".join(f"{folder.path} has {next(iter(folder.files))}" for folder in self.all)
            names = ", ".join(folder.label for folder in self.all)
            raise ValueError(f"{names} have no image of the same name ({some}): rename partners")
        first, *others = self.outputs
        self.sizes = {name: size_of(first.files[name]) for name in self.names}
        for other in others:
            for name, size in self.sizes.items():
                _check_equal(first.files[name], size, other.files[name])

    def alone(self) -> list[str]:
        """Return a line for each name that is not in all folders."""
        names = sorted({name for folder in self.all for name in folder.files} - {*self.names})
        return [
            f"{name} (not in {', '.join(f.label for f in self.all if name not in f.files)})"
            for name in names
        ]

    def check_references(self, scale: float) -> None:
        """Raise if a reference does not fit.

        Args:
            scale: By less than this, a reference may be larger: its sides are cut to a multiple.

        Raises:
            ValueError: Names both files and their sizes.
        """
        for name, size in self.sizes.items() if self.reference is not None else ():
            file = cast(Folder, self.reference).files[name]
            own = size_of(file)
            if not all(0 <= n - m < max(scale, 1) for n, m in zip(own, size, strict=True)):
                raise ValueError(
                    f"{file} has {_shown(own)} pixels and {self.outputs[0].files[name]} "
                    f"{_shown(size)}: a reference must be as large as the outputs"
                    + (f", or by less than the scale {scale:g} larger" if scale > 1 else "")
                )

    def scale(self, given: float | None) -> float:
        """Return the factor from the LR images to the outputs.

        Args:
            given: By the user; None to find it.

        Raises:
            ValueError: If an image has another factor.
        """
        if self.input is None:
            return 1 if given is None else given
        lr = {name: size_of(self.input.files[name]) for name in self.names}
        ratio = statistics.median(self.sizes[name][1] / lr[name][1] for name in self.names)
        tried = [given] if given is not None else [max(round(ratio), 1), round(ratio, 2)]
        for scale in tried:
            wrong = [n for n in self.names if not _fits(lr[n], self.sizes[n], scale)]
            if not wrong:
                return scale
        name, scale = wrong[0], tried[0]
        raise ValueError(
            f"{self.input.files[name]} is {_shown(lr[name])}, which x{scale:g} does not enlarge to "
            f"the {_shown(self.sizes[name])} of {self.outputs[0].files[name]}: set --scale, or "
            "leave out images of another factor"
        )


def _read(label: str, path: Path) -> Folder:
    if _is_run(path):
        raise ValueError(
            f"{path} is a run, not a folder of images: compare runs with runs, and images with "
            "images, such as the folder that predict writes"
        )
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    return Folder(label, path, images_by_name([path]))


def _check_equal(file: Path, size: Size, other: Path) -> None:
    if (own := size_of(other)) != size:
        raise ValueError(
            f"{other} has {_shown(own)} pixels and {file} {_shown(size)}: images of one name must "
            "have one size; leave them out, or resize one"
        )


def _fits(lr: Size, size: Size, scale: float) -> bool:
    return all(abs(n - scale * m) <= scale for n, m in zip(size, lr, strict=True))


def _shown(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


# ------------------------------------------------------------------------------------- the numbers
def _chosen(asked: Sequence[str], has_reference: bool) -> tuple[list[str], list[str]]:
    """Return the metrics to measure, and a line for each that lacks its weights."""
    if asked:
        return list(asked), []
    wanted = [*FULL_REFERENCE, "lpips", "niqe"] if has_reference else ["niqe"]
    notes = {name: why for name in wanted if (why := _why_not(name))}
    return [name for name in wanted if name not in notes], list(notes.values())


def _why_not(metric: str) -> str:
    if metric not in WEIGHTS:
        return ""
    name = WEIGHTS[metric]
    try:
        if weights.find(name) is not None:
            return ""
    except ValueError as error:  # a file of that name, which is another one
        return f"{metric} is not measured: {error}"
    return f"{metric} is not measured: python main.py weights --fetch {name} downloads its weights"


def _measured(
    folder: Folder, folders: Folders, metrics: Sequence[str], scale: float, device: str
) -> runs.RunNumbers:
    import enlarger  # here, because runs do without

    truth = folders.reference and {n: folders.reference.files[n] for n in folders.names}
    log.info("%s: %s of %d images", folder.label, ", ".join(metrics), len(folders.names))
    outputs = {name: folder.files[name] for name in folders.names}
    found = enlarger.measure(outputs, truth, metrics, scale=scale, device=device)
    results: list[Result] = []
    images: list[ImageNumbers] = []
    for metric, number in found.items():
        place = {
            **{"dataset": DATASET, "scale": scale, "metric": metric, "checkpoint": None},
            "protocol": number["protocol"],
        }
        result = {**place, "value": number["value"], "n": number["n"]}
        if number["higher_is_better"] is not None:
            result["higher_is_better"] = number["higher_is_better"]
        if lost := sum(not math.isfinite(value) for value in number["images"].values()):
            result["not_finite"] = lost
        results.append(cast(Result, result))
        if number["images"]:
            images.append(cast(ImageNumbers, {**place, "seed": None, "values": number["images"]}))
    return runs.RunNumbers(folder.label, folder.path, results, images)


def _enlarged(folders: Folders, into: Path) -> Folder:
    """Write bicubic enlargements, which are measured as the outputs are: in 8 bits."""
    files = {}
    for number, (name, size) in enumerate(folders.sizes.items()):
        files[name] = into / f"{number}.png"
        lr = read_image(cast(Folder, folders.input).files[name])
        as_image(resize(lr, size)).save(files[name], compress_level=1)
    return Folder(folders.bicubic, into, files)


# ---------------------------------------------------------------------------------------- the page
def _compare_folders(options: argparse.Namespace) -> None:
    if options.dataset:
        raise ValueError("--dataset chooses among the numbers of runs: leave it out for folders")
    if options.out.suffix != ".html":
        raise ValueError(f"--out is {options.out}: end it in .html")
    given = [None if each is None else Path(each) for each in (options.reference, options.input)]
    folders = Folders([Path(name) for name in options.runs], *given)
    if len(folders.all) < 2:
        raise ValueError(f"got one folder, {options.runs[0]}: give two, --reference or --input")
    scale = folders.scale(options.scale)
    folders.check_references(scale)
    metrics, remarks = _chosen(options.metric, folders.reference is not None)
    for line in remarks:
        log.warning("%s", line)
    title = f"{', '.join(folder.label for folder in folders.outputs)} side by side"
    content = Content(title, _facts(folders, scale))
    content.notes += remarks
    if alone := folders.alone():
        more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
        line = f"{len(alone)} images are not in all folders: {', '.join(alone[:NAMED])}{more}"
        print(line)
        content.lists.append((line, alone))
    numbers: list[runs.RunNumbers] = []
    if metrics:
        with tempfile.TemporaryDirectory() as into:
            measured = list(folders.outputs)
            if folders.input is not None:
                measured.append(_enlarged(folders, Path(into)))
            numbers = [_measured(f, folders, metrics, scale, options.device) for f in measured]
        content.notes += _without_numbers(metrics, numbers)
    if any(run.results for run in numbers):
        content.tables = [_results(numbers), *_differences(numbers)]
    write_images_page(options.out, _scenes(folders, numbers), content)
    log.info("side by side: %s", options.out)


def _facts(folders: Folders, scale: float) -> list[tuple[str, str]]:
    found = [("folders", ", ".join(str(folder.path) for folder in folders.outputs))]
    for name, folder in (("reference", folders.reference), ("input", folders.input)):
        if folder is not None:
            found.append((name, str(folder.path)))
    found.append(("images", str(len(folders.names))))
    return [*found, ("scale", f"x{scale:g}")] if scale != 1 else found


def _without_numbers(metrics: Sequence[str], numbers: Sequence[runs.RunNumbers]) -> list[str]:
    lines = []
    for run in numbers:
        missing = {*metrics} - {result["metric"] for result in run.results}
        lines += [f"{name} measured no image of {run.name}" for name in metrics if name in missing]
    return lines


def _results(numbers: Sequence[runs.RunNumbers]) -> PageTable:
    headings = columns([result for run in numbers for result in run.results])
    rows = []
    for run in numbers:
        own = {column_of(result): result for result in run.results}
        cells = [shown_value(own[c]) if c in own else "-" for c in headings]
        counts = "/".join(dict.fromkeys(count_of(result) for result in run.results))
        rows.append([run.name, *cells, counts])
    protocols = [f"{heading}: {describe(protocol)}" for heading, protocol in headings.values()]
    names = [heading for heading, _ in headings.values()]
    return PageTable("Numbers", ["method", *names, "n"], rows, protocols)


def _differences(numbers: Sequence[runs.RunNumbers]) -> Iterator[PageTable]:
    first, *others = numbers
    for other in others:
        compared, left_out = runs.compare(first, other)
        for line in left_out:
            log.warning("%s", line)
        runs.print_table(first.name, other.name, compared)
        rows = []
        for each in compared:
            *cells, verdict = runs.cells(each)
            rows.append([each.a["metric"], verdict, *cells])  # on a phone, the verdict is in sight
        yield PageTable(
            f"{first.name} (A) against {other.name} (B)",
            ["metric", "verdict", "n", "A", "B", "A - B", "95 % interval"],
            rows,
            [INTERVAL, *left_out, *runs.notes(compared)],
            ["verdict"],
        )


def _scenes(folders: Folders, numbers: Sequence[runs.RunNumbers]) -> Iterator[Scene]:
    captions = {run.name: _captions(run) for run in numbers}
    before = folders.input is not None
    for name in folders.names:

        def caption(label: str, name: str = name) -> str:
            return captions.get(label, {}).get(name, "")

        parts = [
            Part(folder.label, folder.files[name], caption=caption(folder.label))
            for folder in folders.outputs
        ]
        if folders.input is not None:
            file = folders.input.files[name]
            numbers_of = caption(folders.bicubic)
            parts.insert(0, Part(folders.bicubic, file, enlarged=True, caption=numbers_of))
        if folders.reference is not None:
            parts.append(Part(HR, folders.reference.files[name], cut=True, caption=""))
        # The first two methods; of one, bicubic before it, or HR after it.
        left = int(before) if len(folders.outputs) > 1 else 0
        yield Scene(name, parts, whole=int(before), left=left, right=left + 1)


def _captions(run: runs.RunNumbers) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for numbers in run.measured or ():
        for name, value in numbers["values"].items():
            found.setdefault(name, []).append(f"{numbers['metric']} {value:.4g}")
    return {name: ", ".join(values) for name, values in found.items()}


if __name__ == "__main__":
    raise SystemExit(main())
