"""Compare runs image by image: ``python main.py compare``.

    python main.py compare runs/a runs/b          # the second against the first
    python main.py compare runs/a runs/a@bicubic  # against a metric's control
    python main.py compare runs/a runs/b runs/c --metric psnr --dataset set5

The difference of two runs' means over the same images has an interval, from resampling the images
(`mean_interval`); for a stochastic method, each image's mean over the seeds comes first. A run is
called better only if the interval excludes 0. Only numbers of one dataset, scale and protocol are
compared; others are left out and named.

Source: Efron, "Bootstrap methods: another look at the jackknife" (1979); the correction for few
images is the expanded percentile interval of Hesterberg, "What teachers should know about the
bootstrap" (2015): plain percentiles are too narrow, for 10 images by a sixth.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from scipy.special import ndtr, stdtrit

from callbacks.evaluation import MetricProtocol
from callbacks.results.files import (
    RESULTS,
    ImageNumbers,
    Result,
    ResultsFile,
    are_unlike,
    describe,
    identity,
    load_images,
    load_results,
    shown_value,
)
from files.words import first_of

FEWEST = 5  # images: fewer have too few different resamples for an interval of 95 %
_TOGETHER = 4_000_000  # indices drawn at a time: 32 MB
CONTROL = "bicubic"
log = logging.getLogger(__name__)
NO_INTERVAL, NOTHING = "no interval", "no difference shown"
WEIGHTS = "Of these weights, on these images: another training, by another seed, differs, too."
RUN = "a run's directory; RUN@PART: of the checkpoint whose name has PART in it"


def mean_interval(
    values: NDArray[np.float64], draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return an interval of the mean of the distribution that the values are a sample of.

    For paired comparisons, the values are the differences of two methods, image by image.

    Args:
        values: (N,) finite, N at least 2.
        draws: Number of resamples.
        seed: Seed of the resamples, which all metrics share.
        level: Probability that such an interval holds the mean.

    Returns:
        Its lower and upper end.
    """
    n = len(values)
    generator = np.random.default_rng(seed)
    rows = max(1, _TOGETHER // n)
    means = []
    for done in range(0, draws, rows):
        indices = generator.integers(0, n, (min(rows, draws - done), n))
        means.append(values[indices].mean(1))
    tail = expanded_tail(n, level)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(n: int, level: float) -> float:
    """Return the share of resampled means to leave out at each end.

    The means of resamples spread too little, by sqrt((n - 1) / n), and ``n`` values do not
    determine their own deviation: Student's quantile instead of the normal one corrects both.

    Args:
        n: Number of values, 2 or more.
        level: Probability that the interval holds the mean.
    """
    t = stdtrit(n - 1, 0.5 + level / 2)
    return float(ndtr(-math.sqrt(n / (n - 1)) * t))


class RunNumbers(NamedTuple):
    """The numbers of a run, or of one checkpoint in it.

    name: The run as given by the user.
    folder: The run's directory.
    results: Numbers of whole datasets.
    measured: Numbers of single images; None for those in the run's directory.
    """

    name: str
    folder: Path
    results: list[Result]
    measured: list[ImageNumbers] | None = None

    def images(self) -> dict[str, list[ImageNumbers]]:
        """Return the numbers of single images, one entry per seed, by ``identity`` of their result.

        Raises:
            FileNotFoundError: If the run has none.
            ValueError: If their file is damaged.
        """
        measured = load_images(self.folder) if self.measured is None else self.measured
        by_result: dict[str, list[ImageNumbers]] = {}
        for numbers in measured:
            if numbers["values"]:  # else of a whole set
                by_result.setdefault(identity(numbers), []).append(numbers)
        return by_result


def load_run(name: str) -> RunNumbers:
    """Read a run's numbers.

    Args:
        name: The run's directory; after an ``@`` a part of a checkpoint's name.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If they are damaged, or none are of that checkpoint.
    """
    folder = Path(name)
    checkpoint = ""
    if not folder.exists() and "@" in name:
        before, _, checkpoint = name.rpartition("@")
        folder = Path(before)
    path = folder / RESULTS
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: name the directory of a run, and measure it first: main.py "
            f"validate --config {folder / 'config.yaml'}"
        )
    return RunNumbers(name, folder, _of_checkpoint(load_results(path), checkpoint, path))


def only_one(name: str, results: Iterable[Result]) -> Result | None:
    """Return the only result; None without any.

    Args:
        name: The run as given by the user.
        results: Results of one dataset, scale, metric and protocol, by checkpoint.

    Raises:
        ValueError: If there are several.
    """
    all_results = list(results)
    if len(all_results) > 1:
        names = ", ".join(str(result["checkpoint"]) for result in all_results)
        raise ValueError(
            f"{name} has {_place(all_results[0])} of {len(all_results)} checkpoints ({names}): say "
            f"which by a part of its name, {name.partition('@')[0]}@PART"
        )
    return all_results[0] if all_results else None


def _of_checkpoint(content: ResultsFile, part: str, path: Path) -> list[Result]:
    results = content["results"]
    if not part:
        of_model = [result for result in results if result["checkpoint"] != CONTROL]
        return of_model or results
    exact = [result for result in results if str(result["checkpoint"]) == part]
    matching = [result for result in results if part in str(result["checkpoint"])]
    if not matching:
        names = ", ".join(dict.fromkeys(str(result["checkpoint"]) for result in results))
        raise ValueError(f"{path} has nothing of a checkpoint {part!r}; it has {names}")
    return exact or matching


class Comparison(NamedTuple):
    """One number of two runs.

    a: The first run's result; ``value`` is the mean over the common images.
    b: The second run's.
    interval: Interval of ``a - b``; None if there is none.
    verdict: Which run is better, if the interval shows it.
    notes: Remarks on the comparison.
    """

    a: Result
    b: Result
    interval: tuple[float, float] | None
    verdict: str
    notes: list[str]


class Selection(NamedTuple):
    """The numbers to compare.

    metrics: Names of metrics; all if empty.
    datasets: Names of datasets; all if empty.
    """

    metrics: Sequence[str] = ()
    datasets: Sequence[str] = ()

    def has(self, result: Result) -> bool:
        """Return whether this number is selected."""
        if self.metrics and result["metric"] not in self.metrics:
            return False
        return not self.datasets or result["dataset"] in self.datasets


ALL = Selection()


def compare(
    a: RunNumbers, b: RunNumbers, selection: Selection = ALL
) -> tuple[list[Comparison], list[str]]:
    """Compare all comparable numbers of two runs.

    Args:
        a: The first run.
        b: The second run.
        selection: Which numbers.

    Returns:
        The comparisons, and a line for each number that is left out, or some images of it, with
        the reason.

    Raises:
        FileNotFoundError: If a run has no numbers of single images.
        ValueError: If no selected number exists, or several checkpoints have one.
    """
    _refuse_nothing((a, b), selection)
    images_of_a = a.images()
    images_of_b = b.images()
    comparisons: list[Comparison] = []
    left_out: list[str] = []
    places: set[str] = set()
    for first in results(a, selection):
        place = _place(first)
        places.add(place)
        second, reason = counterpart(first, b)
        if second is None:
            left_out.append(f"{place} is left out: {reason}")
            continue
        of_a = images_of_a.get(identity(first), [])
        of_b = images_of_b.get(identity(second), [])
        common, unlike = _common(of_a, of_b)
        if unlike:
            left_out.append(
                f"{place}: {len(unlike)} of {len(common)} images are left out, because "
                f"{a.name} and {b.name} have other pixels under their names, or LR of another "
                f"degradation: {first_of(unlike)}"
            )
            if unlike == common:
                continue
        comparisons.append(_compared(first, second, of_a, of_b, unlike))
    only_in_b = [_place(result) for result in b.results if selection.has(result)]
    for place in dict.fromkeys(only_in_b):
        if place not in places:
            left_out.append(f"{place} is left out: {a.name} does not have it")
    return comparisons, left_out


def _refuse_nothing(runs: Sequence[RunNumbers], selection: Selection) -> None:
    for run in runs:
        if not any(selection.has(result) for result in run.results):
            names = dict.fromkeys(f"{r['metric']} on {r['dataset']}" for r in run.results)
            raise ValueError(f"{run.name} has nothing that was asked for; it has {first_of(names)}")


def on_common_images(
    runs: Sequence[RunNumbers], selection: Selection
) -> Iterator[tuple[Result, list[RunNumbers]]]:
    """Yield each number of the first run, and all runs with that number alone.

    It is of the images that all have, of the same pixels and finite in all. Numbers of whole sets
    stay as they are, as does a NaN, whose run must not empty the others. A run that has no number
    to compare, or none of the first run's pixels, has no results.

    Raises:
        FileNotFoundError: If a run has no numbers of single images.
        ValueError: If a run has several checkpoints with one number, or nothing that is asked for.
    """
    _refuse_nothing(runs, selection)
    images = [run.images() for run in runs]
    for first in results(runs[0], selection):
        of_first = images[0].get(identity(first), [])
        of_runs = [RunNumbers(runs[0].name, runs[0].folder, [first], of_first)]
        for run, of_run in zip(runs[1:], images[1:], strict=True):
            result, _ = counterpart(first, run)
            measured = of_run.get(identity(result), []) if result else []
            common, unlike = _common(of_first, measured)
            if result is None or (unlike and unlike == common):
                of_runs.append(RunNumbers(run.name, run.folder, [], []))
            else:
                of_runs.append(RunNumbers(run.name, run.folder, [result], measured))
        keys = _finite_in_all([run for run in of_runs if _is_sound(run)])
        yield first, [_on_images(run, keys) if _is_sound(run) else run for run in of_runs]


def _is_sound(run: RunNumbers) -> bool:
    return bool(run.measured) and not math.isnan(run.results[0]["value"])


def _finite_in_all(runs: Sequence[RunNumbers]) -> list[str]:
    """Return the images that runs of one number have alike, with a finite number in each."""
    measured = [run.measured or [] for run in runs]
    common, unlike = _common(*measured)
    keys = set(common) - set(unlike)
    for numbers in measured:
        keys &= {key for key, value in over_seeds(numbers).items() if math.isfinite(value)}
    return sorted(keys)


def _on_images(run: RunNumbers, keys: Sequence[str]) -> RunNumbers:
    """Return a run of one number with that number over some of its images."""
    measured = run.measured or []
    values = over_seeds(measured)
    if len(keys) == len(values):
        return run
    result = _on_part(run.results[0], np.array([values[key] for key in keys]))
    together: ImageNumbers = {**measured[0], "values": {key: values[key] for key in keys}}
    return run._replace(results=[result], measured=[together])  # of all seeds together


def results(run: RunNumbers, selection: Selection) -> Iterator[Result]:
    """Yield the selected results of a run, each once.

    Raises:
        ValueError: If several checkpoints have one number.
    """
    groups: dict[str, list[Result]] = {}
    for result in run.results:
        if selection.has(result):
            groups.setdefault(identity({**result, "checkpoint": None}), []).append(result)
    for group in groups.values():
        only = only_one(run.name, group)
        if only is not None:
            yield only


def counterpart(result: Result, run: RunNumbers) -> tuple[Result | None, str]:
    """Return the run's number to compare with, or None and the reason."""
    same = [r for r in run.results if _place(r) == _place(result)]
    for strict in (True, False):  # first those with an equal number of images
        protocol = _protocol(result, strict)
        fitting = [r for r in same if _protocol(r, strict) == protocol]
        largest = {r["checkpoint"]: r for r in sorted(fitting, key=lambda r: r["n"])}
        only = only_one(run.name, largest.values())
        if only is not None:
            return only, ""
    if same:
        unlike = differences(_protocol(result, False), _protocol(same[0], False))
        return None, f"{run.name} has it by another protocol ({'; '.join(unlike)})"
    elsewhere = [r for r in run.results if r["dataset"] == result["dataset"]]
    scales = {f"x{r['scale']:g}" for r in elsewhere}
    if scales and f"x{result['scale']:g}" not in scales:
        return None, f"{run.name} has {result['dataset']} at {', '.join(sorted(scales))} only"
    return None, f"{run.name} does not have it"


def differences(one: MetricProtocol, two: MetricProtocol) -> list[str]:
    """Return the differences of two protocols; empty if their numbers are comparable."""
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return [f"{name}: {one.get(name)} / {two.get(name)}" for name in names]


def _protocol(result: Result, whole: bool) -> MetricProtocol:
    # With `images`, only a part of the dataset was measured; the common images can be compared.
    return {k: v for k, v in result["protocol"].items() if whole or k != "images"}


def _common(*runs: list[ImageNumbers]) -> tuple[list[str], list[str]]:
    """Return the names of images that all have, and those of them whose pixels differ."""
    if not runs or not all(runs):
        return [], []
    common = sorted(set.intersection(*(set(over_seeds(numbers)) for numbers in runs)))
    digests = [of_seed.get("digests", {}) for numbers in runs for of_seed in numbers]
    unlike = [key for key in common if are_unlike(*(of_seed.get(key) for of_seed in digests))]
    return common, unlike


def _compared(
    a: Result,
    b: Result,
    of_a: list[ImageNumbers],
    of_b: list[ImageNumbers],
    unlike: Sequence[str],
) -> Comparison:
    if not of_a or not of_b:
        note = "a number of the whole set, not of its images"
        if of_a or of_b:
            run = "B" if of_a else "A"
            note = f"{run} has no numbers of its images: run its test again"
        elif a["n"] != b["n"]:
            note += f", and of {a['n']} and {b['n']} images: not to be compared"
        return Comparison(a, b, None, NO_INTERVAL, [note])
    first = over_seeds(of_a)
    second = over_seeds(of_b)
    common = first.keys() & second.keys()
    notes = []
    if first.keys() != second.keys():
        notes.append(
            f"on the {len(common)} images in both; {len(first) - len(common)} are only in A, "
            f"{len(second) - len(common)} only in B"
        )
    keys = sorted(common - set(unlike))
    finite = [key for key in keys if math.isfinite(first[key]) and math.isfinite(second[key])]
    not_finite = sorted(set(keys) - set(finite))
    if len(keys) < max(len(first), len(second)):
        a = _on_part(a, np.array([first[key] for key in keys]))
        b = _on_part(b, np.array([second[key] for key in keys]))
    # A run whose mean is NaN has an output with a pixel that is not finite: nothing is compared.
    is_nan = math.isnan(a["value"]) or math.isnan(b["value"])
    if not_finite and (is_nan or not finite):
        notes.append(
            f"{len(not_finite)} of {len(keys)} images have no finite number: {first_of(not_finite)}"
        )
        return Comparison(a, b, None, NO_INTERVAL, notes)
    values_a = np.array([first[key] for key in finite])
    values_b = np.array([second[key] for key in finite])
    if not_finite:
        pairs = [f"{key} ({first[key]:.4g}, {second[key]:.4g})" for key in not_finite]
        notes.append(
            f"{len(not_finite)} of {len(keys)} images are left out: their number is not finite in "
            f"A or B: {first_of(pairs)}"
        )
        a = _on_part(a, values_a)
        b = _on_part(b, values_b)
    if len(finite) < FEWEST:
        notes.append(f"{len(finite)} images are too few: an interval takes {FEWEST} or more")
        return Comparison(a, b, None, NO_INTERVAL, notes)
    interval = mean_interval(values_a - values_b)
    return Comparison(a, b, interval, verdict(interval, a.get("higher_is_better")), notes)


def verdict(interval: tuple[float, float], higher_is_better: bool | None) -> str:
    """Return what an interval of A - B shows.

    Args:
        interval: Lower and upper end.
        higher_is_better: The metric's direction; None if unknown.
    """
    low, high = interval
    if low <= 0 <= high:
        return NOTHING
    if higher_is_better is None:
        return "A is higher" if low > 0 else "B is higher"
    return "A is better" if (low > 0) == higher_is_better else "B is better"


def over_seeds(numbers: list[ImageNumbers]) -> dict[str, float]:
    """Return the mean over the seeds of each image that all of them have."""
    keys = sorted(set.intersection(*(set(n["values"]) for n in numbers)))
    return {key: sum(n["values"][key] for n in numbers) / len(numbers) for key in keys}


def _on_part(result: Result, values: NDArray[np.float64]) -> Result:
    """Return the result on some of its images; its deviation over seeds is that of all of them."""
    value = float(values.mean()) if len(values) else math.nan
    part: Result = {**result, "value": value, "n": len(values)}
    part.pop("std", None)
    part.pop("not_finite", None)
    return part


def _place(result: Result) -> str:
    return f"{result['metric']} on {result['dataset']} x{result['scale']:g}"


def table(a: str, b: str, comparisons: Sequence[Comparison]) -> Table:
    """Return the comparisons of two runs, with protocols and notes below.

    Args:
        a: Name of the first run.
        b: Name of the second one.
        comparisons: At least one.
    """
    table = Table(title=Text(f"A: {a}\nB: {b}"), title_justify="left", caption_justify="left")
    for name in ("dataset", "scale", "metric", "n", "A", "B", "A - B", "95 % interval", ""):
        table.add_column(name, justify="left" if name in ("dataset", "metric", "") else "right")
    protocols = []
    notes = []
    for compared in comparisons:
        first = compared.a
        scale = f"x{first['scale']:g}"
        table.add_row(escape(first["dataset"]), scale, escape(first["metric"]), *_cells(compared))
        protocols.append(f"{first['metric']}: {describe(_protocol(first, False))}")
        notes += [f"{_place(first)}: {note}" for note in compared.notes]
    table.caption = Text("\n".join([*dict.fromkeys(protocols), *notes, WEIGHTS]))
    return table


def _cells(compared: Comparison) -> list[str]:
    """Return a comparison's text: n, A, B, A - B, the interval, and the verdict."""
    a = compared.a
    b = compared.b
    count = str(a["n"]) if a["n"] == b["n"] else f"{a['n']}/{b['n']}"
    difference = a["value"] - b["value"]
    difference_text = "-" if math.isnan(difference) else _signed(difference)
    interval_text = "-"
    if compared.interval is not None:
        low, high = compared.interval
        interval_text = f"{_signed(low)} to {_signed(high)}"
    values = [shown_value(a), shown_value(b)]
    return [count, *values, difference_text, interval_text, compared.verdict]


def _signed(value: float) -> str:
    return f"{value:+.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:+.2g}"


def show(runs: Sequence[RunNumbers], selection: Selection = ALL) -> None:
    """Print the comparisons of all runs with the first.

    Raises:
        FileNotFoundError: If a run has no numbers of single images.
        ValueError: If nothing could be compared.
    """
    first, *others = runs
    if not others:
        raise ValueError(
            f"got one run; give two or more, or {first.name}@bicubic where it is a run"
        )
    for other in others:
        comparisons, left_out = compare(first, other, selection)
        for line in left_out:
            log.warning("%s", line)
        if not comparisons:
            raise ValueError(f"nothing of {first.name} and {other.name} is comparable")
        console = Console()
        if not console.is_terminal:  # a file can have any width; rows are easier to find unbroken
            console = Console(width=160)
        console.print(table(first.name, other.name, comparisons))
