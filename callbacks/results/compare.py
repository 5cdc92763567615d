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

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit
from scipy.stats import bootstrap

from callbacks.evaluation import MetricProtocol
from callbacks.results.digests import are_unlike
from callbacks.results.files import RESULTS, read
from callbacks.results.rows import CONTROL, Row, of_datasets
from files.words import first_of

FEWEST = 5  # images: fewer have too few different resamples for an interval of 95 %
_TOGETHER = 4_000_000  # indices drawn at a time: 32 MB
NO_INTERVAL, NOTHING = "no interval", "no difference shown"
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
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=draws,
        batch=max(1, _TOGETHER // len(values)),
        confidence_level=1 - 2 * expanded_tail(len(values), level),
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(interval.low), float(interval.high)


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


# ------------------------------------------------------------------------------ what is compared


class Selection(NamedTuple):
    """The numbers to compare.

    metrics: Names of metrics; all if empty.
    datasets: Names of datasets; all if empty.
    """

    metrics: Sequence[str] = ()
    datasets: Sequence[str] = ()

    def has(self, row: Row) -> bool:
        """Return whether this number is selected."""
        if self.metrics and row.metric not in self.metrics:
            return False
        return not self.datasets or row.dataset in self.datasets


@dataclass(frozen=True, eq=False)
class Measured:
    """The number of a dataset, with those of its images, one row for each image and seed.

    A metric of sets has no numbers of images.
    """

    number: Row
    images: list[Row]

    def means(self) -> dict[str, float]:
        """Return each image's mean over the seeds, by name and sorted.

        An image that was not measured with every seed is left out.
        """
        by_image: dict[str, list[float]] = {}
        for row in self.images:
            by_image.setdefault(str(row.image), []).append(row.value)
        seeds = len({row.seed for row in self.images})
        means = {}
        for image, values in sorted(by_image.items()):
            if len(values) == seeds:
                means[image] = sum(values) / seeds
        return means

    def on(self, images: Sequence[str]) -> Measured:
        """Return the number over some of its images only: their mean."""
        means = self.means()
        if len(images) == len(means):
            return self
        values = np.array([means[image] for image in images])
        value = float(values.mean()) if len(values) else math.nan
        # The deviation over seeds was that of all images.
        number = replace(self.number, value=value, n=len(values), not_finite=0, std=None)
        return Measured(number, [row for row in self.images if row.image in images])


@dataclass(frozen=True)
class Run:
    """The rows of a run, or of one checkpoint in it.

    name: The run as given by the user.
    """

    name: str
    rows: list[Row]

    def selected(self, selection: Selection) -> Iterator[Measured]:
        """Yield the run's numbers that a selection has.

        Raises:
            ValueError: If there are none, or several checkpoints have one number.
        """
        numbers = [row for row in of_datasets(self.rows) if selection.has(row)]
        if not numbers:
            names = dict.fromkeys(f"{r.metric} on {r.dataset}" for r in of_datasets(self.rows))
            raise ValueError(
                f"{self.name} has nothing that was asked for; it has {first_of(names)}"
            )
        for number in numbers:
            same = [row for row in numbers if row.title == number.title]
            self._refuse_several([row for row in same if row.protocol == number.protocol])
            yield self._measured(number)

    def counterpart(self, other: Measured) -> tuple[Measured | None, str]:
        """Return the number to compare with one of another run, or None and the reason.

        Raises:
            ValueError: If several checkpoints have one.
        """
        wanted = other.number
        same_title = [row for row in of_datasets(self.rows) if row.title == wanted.title]
        if not same_title:
            return None, f"{self.name} does not have it"
        comparable = [row for row in same_title if protocol_of(row) == protocol_of(wanted)]
        if not comparable:
            unlike = differences(protocol_of(wanted), protocol_of(same_title[0]))
            return None, f"{self.name} has it by another protocol ({'; '.join(unlike)})"
        # With equally many images, if there is one; else the one with most.
        as_many = [row for row in comparable if row.protocol == wanted.protocol]
        candidates = sorted(as_many or comparable, key=lambda row: row.n)
        by_checkpoint = {row.checkpoint: row for row in candidates}
        self._refuse_several(list(by_checkpoint.values()))
        measured = self._measured(candidates[-1])
        if _are_of_other_images(other, measured):
            return None, (
                f"{self.name} has other pixels under the same names, or LR of another degradation"
            )
        return measured, ""

    def _measured(self, number: Row) -> Measured:
        """Return a number of the run with those of its images."""
        same = [row for row in self.rows if row.number == number.number]
        return Measured(number, [row for row in same if row.image is not None])

    def _refuse_several(self, rows: list[Row]) -> None:
        """Raise if one number was measured with several checkpoints."""
        if len(rows) > 1:
            names = ", ".join(str(row.checkpoint) for row in rows)
            raise ValueError(
                f"{self.name} has {rows[0].title} of {len(rows)} checkpoints ({names}): say which "
                f"by a part of its name, {self.name.partition('@')[0]}@PART"
            )


def protocol_of(row: Row) -> MetricProtocol:
    """Return the protocol without the number of images, which may be a part of the dataset."""
    return {key: value for key, value in row.protocol.items() if key != "images"}


def differences(one: MetricProtocol, two: MetricProtocol) -> list[str]:
    """Return the entries of two protocols that differ, as ``border: 4 / 0``."""
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return [f"{name}: {one.get(name)} / {two.get(name)}" for name in names]


def _are_of_other_images(a: Measured, b: Measured) -> bool:
    """Return whether two numbers have no image in common, though images have the same names.

    Of numbers of whole sets, such as FID, whether any image differs.
    """
    if not a.images or not b.images:
        return are_unlike(a.number.digest, b.number.digest)
    common, unlike = _common_and_unlike([a, b])
    return bool(unlike) and not common


def _common_and_unlike(measured: Sequence[Measured]) -> tuple[list[str], list[str]]:
    """Compare the images of several numbers, at least one, by name and content.

    Returns:
        The names of images that all have alike; those of images that all have by name, but with
        different pixels.
    """
    names = set.intersection(*(set(each.means()) for each in measured))
    digests: dict[str, list[str | None]] = {}
    for each in measured:
        for row in each.images:
            digests.setdefault(str(row.image), []).append(row.digest)
    unlike = {name for name in names if are_unlike(*digests[name])}
    return sorted(names - unlike), sorted(unlike)


def load_run(name: str) -> Run:
    """Read the numbers of a run, or of one checkpoint in it.

    Args:
        name: The run's directory; after an ``@`` a part of a checkpoint's name.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If they are damaged, or none are of that checkpoint.
    """
    folder = Path(name)
    part = ""
    if not folder.exists() and "@" in name:
        before, _, part = name.rpartition("@")
        folder = Path(before)
    path = folder / RESULTS
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: name the directory of a run, and measure it first: main.py "
            f"validate --config {folder / 'config.yaml'}"
        )
    rows = read(folder)
    if not part:
        of_model = [row for row in rows if row.checkpoint != CONTROL]
        return Run(name, of_model or rows)
    exact = [row for row in rows if str(row.checkpoint) == part]
    matching = [row for row in rows if part in str(row.checkpoint)]
    if not matching:
        names = ", ".join(dict.fromkeys(str(row.checkpoint) for row in rows))
        raise ValueError(f"{path} has nothing of a checkpoint {part!r}; it has {names}")
    return Run(name, exact or matching)


# ------------------------------------------------------------------------------------ comparisons


class Comparison(NamedTuple):
    """One number of two runs.

    a: The first run's number; ``value`` is the mean over the common images.
    b: The second run's.
    interval: Interval of ``a - b``; None if there is none.
    verdict: Which run is better, if the interval shows it.
    notes: Remarks on the comparison.
    """

    a: Row
    b: Row
    interval: tuple[float, float] | None
    verdict: str
    notes: list[str]


ALL = Selection()


def compare(a: Run, b: Run, selection: Selection = ALL) -> tuple[list[Comparison], list[str]]:
    """Compare all comparable numbers of two runs.

    Args:
        a: The first run.
        b: The second run.
        selection: Which numbers.

    Returns:
        The comparisons, and a line for each number that is left out, with the reason.

    Raises:
        ValueError: If no selected number exists, or several checkpoints have one.
    """
    comparisons: list[Comparison] = []
    left_out: list[str] = []
    of_a = list(a.selected(selection))
    titles = [measured.number.title for measured in of_a]
    for first in of_a:
        second, reason = b.counterpart(first)
        if second is None:
            left_out.append(f"{first.number.title} is left out: {reason}")
        else:
            comparisons.append(paired(first, second))
    others = [row.title for row in of_datasets(b.rows) if selection.has(row)]
    for title in dict.fromkeys(others):
        if title not in titles:
            left_out.append(f"{title} is left out: {a.name} does not have it")
    return comparisons, left_out


def paired(a: Measured, b: Measured) -> Comparison:
    """Compare two numbers of one dataset, scale and protocol, over the images that both have."""
    if not a.images or not b.images:
        note = "of the whole set, without numbers of its images"
        if a.number.n != b.number.n:
            note += f", and of {a.number.n} and {b.number.n} images: not to be compared"
        return Comparison(a.number, b.number, None, NO_INTERVAL, [note])
    notes = []
    common, unlike = _common_and_unlike([a, b])
    first, second = a.means(), b.means()
    both = len(common) + len(unlike)
    if not len(first) == len(second) == both:
        notes.append(
            f"on the {both} images in both; {len(first) - both} are only in A, "
            f"{len(second) - both} only in B"
        )
    if unlike:
        notes.append(
            f"{len(unlike)} of {both} images are left out: A and B have other pixels under their "
            f"names, or LR of another degradation: {first_of(unlike)}"
        )
    a, b = a.on(common), b.on(common)
    finite = [key for key in common if math.isfinite(first[key]) and math.isfinite(second[key])]
    pairs = [f"{key} ({first[key]:.4g}, {second[key]:.4g})" for key in common if key not in finite]
    # A run whose mean is NaN has an output with a pixel that is not finite: nothing is compared.
    is_nan = math.isnan(a.number.value) or math.isnan(b.number.value)
    if pairs and (is_nan or not finite):
        notes.append(
            f"{len(pairs)} of {len(common)} images have no finite number: {first_of(pairs)}"
        )
        return Comparison(a.number, b.number, None, NO_INTERVAL, notes)
    if pairs:
        notes.append(
            f"{len(pairs)} of {len(common)} images are left out: their number is not finite in A "
            f"or B: {first_of(pairs)}"
        )
    a, b = a.on(finite), b.on(finite)
    if len(finite) < FEWEST:
        notes.append(f"{len(finite)} images are too few: an interval takes {FEWEST} or more")
        return Comparison(a.number, b.number, None, NO_INTERVAL, notes)
    differences_of_images = np.array([first[key] - second[key] for key in finite])
    interval = mean_interval(differences_of_images)
    result = verdict(interval, a.number.higher_is_better)
    return Comparison(a.number, b.number, interval, result, notes)


def verdict(interval: tuple[float, float], higher_is_better: bool | None) -> str:
    """Return in words which run an interval of A - B shows to be better, if any.

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


def on_common_images(numbers: Sequence[Measured | None]) -> list[Measured | None]:
    """Return one number of several runs, each over the images that all have alike and finite.

    Numbers of whole sets stay as they are, and so does NaN: its run has no finite image, and the
    others would have none in common with it.

    Args:
        numbers: That of each run; None for a run without it.
    """
    sound = [m for m in numbers if m and m.images and not math.isnan(m.number.value)]
    if not sound:
        return list(numbers)
    common, _ = _common_and_unlike(sound)
    means = [measured.means() for measured in sound]
    finite = [key for key in common if all(math.isfinite(of_run[key]) for of_run in means)]
    return [m.on(finite) if m and m in sound else m for m in numbers]
