"""Every file that README or a page of docs/ names exists; numbers in them are measured ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import RESULTS
from benchmarks.speed.imdn import PUBLISHED
from docs.hooks import FENCE, section
from tests.conftest import REPO
from tests.docs.blocks import pages

NAMED = (
    r"(?<![\w/.$-])((?:configs|docs|callbacks|tests|benchmarks|commands|datamodules)/[\w./-]+\.\w+)"
)
SHARDS = "docs/shards.md"
DEGRADATIONS = "docs/degradations.md"
YOURS = ("NAME", "mine")  # what a reader's own files are called


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_each_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(NAMED, page.read_text(encoding="utf-8"))
    ours = [name for name in named if Path(name).stem not in YOURS]
    assert [name for name in ours if not (REPO / name).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_each_link_leads_to_a_file_and_section_that_exist(name: str) -> None:
    """`make docs` checks those of docs/."""
    text = FENCE.sub("", (REPO / name).read_text())
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        page = REPO / (path or name)
        assert page.exists(), target
        if anchor:
            section(page.read_text(), anchor)  # raises if there is none


# ------------------------------------------------- numbers that are written by hand, not made


def written(text: str, page: str = "README.md") -> list[str]:
    """The numbers in a page in place of each {} of a text, which occurs there once."""
    pattern = re.escape(text).replace(r"\{\}", r"(\d[\d.,]*)")
    (match,) = re.finditer(pattern, text_of(page))
    return [number.replace(",", "") for number in match.groups()]


def text_of(page: str) -> str:
    return " ".join((REPO / page).read_text().split())


def assert_rounded(words: list[str], *values: float) -> None:
    """Each number of a page is that value, rounded to its digits."""
    for word, value in zip(words, values, strict=True):
        digits = len(word.partition(".")[2])
        # JSON's are rounded, too: beside a half either neighbour may be right.
        assert abs(float(word) - value) <= 0.5 * 10**-digits + 1e-9, f"{word} for {value}"


def stored(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def value_of(numbers: list[Any], metric: str, weights: str) -> float:
    """The value of a metric for trained weights ("step") or for "bicubic"."""
    (row,) = [row for row in numbers if row["metric"] == metric and weights in row["checkpoint"]]
    return float(row["value"])


def test_numbers_of_the_demo_in_the_readme_are_those_measured() -> None:
    report = stored("quickstart")
    numbers = report["results"]["numbers"]
    values = [
        value_of(numbers, "psnr", "bicubic"),
        value_of(numbers, "ssim", "bicubic"),
        int(re.findall(r"step-(\d+)", str(numbers))[0]),
        value_of(numbers, "psnr", "step"),
        value_of(numbers, "ssim", "step"),
    ]
    table = "| bicubic | {} | {} | | EDSR, 122 k parameters, {} steps | {} | {} |"
    assert_rounded(written(table), *values)
    assert_rounded(written("x2, {} held-out photographs |"), numbers[0]["n"])
    minutes, seconds = written("the whole command took {} min {} s,")
    assert [60 * int(minutes) + int(seconds)] == [*report["results"]["seconds"].values()]


def test_numbers_of_the_degraded_quickstart_are_those_measured() -> None:
    results = stored("real_esrgan_quickstart")["results"]
    (tested,) = [name for name in results if name.startswith("test, ")]
    numbers = results[tested]
    ahead = value_of(numbers, "psnr", "step") - value_of(numbers, "psnr", "bicubic")
    on_page = written("({} dB above it on {} squares of three photographs", page=DEGRADATIONS)
    assert_rounded(on_page, ahead, numbers[0]["n"])
    minutes = written(" trains in {} minutes on two cores", page=DEGRADATIONS)
    assert_rounded(minutes, results["seconds of fit"] / 60)


def test_the_time_of_reading_shards_is_what_was_measured() -> None:
    of_webdataset = []
    of_litdata = []
    for measured in ("0 workers, one core", "2 workers"):
        columns = stored("streaming")["results"][measured]["columns"]
        taken = {name: column["cpu_us_an_image"] for name, column in columns.items()}
        of_litdata.append(taken["ours"] / taken["litdata"])
        for ours in ("ours", "ours_stream"):
            of_webdataset.append(taken[ours] / taken["webdataset_bare"])
    webdataset = written("takes {} to {} times the CPU time of webdataset's loader", page=SHARDS)
    litdata = written("`Shards` {} to {} times that of litdata", page=SHARDS)
    assert_rounded(webdataset, min(of_webdataset), max(of_webdataset))
    assert_rounded(litdata, min(of_litdata), max(of_litdata))


@pytest.mark.parametrize("file", ["degradation", "degradation_xeon"])
def test_ratios_of_speed_of_degrading_are_those_measured(file: str) -> None:
    results = stored(file)["results"]
    plain = results["without USM"]
    small = results["without USM, 128 px"]
    assert_rounded(
        written(f"results/{file}.json)) | {{}}, {{}} | {{}}, {{}} | {{}} |", page=DEGRADATIONS),
        plain["ratio_of_means"],
        plain["ratio_of_medians"],
        small["ratio_of_means"],
        small["ratio_of_medians"],
        results["with USM"]["ratio_of_means"],
    )


def test_imdn_has_its_published_psnr_to_a_hundredth_as_the_readme_says() -> None:
    measured = stored("imdn")["results"]
    assert "published figures to 0.01 dB" in text_of("README.md")
    for dataset, scales in PUBLISHED.items():
        for scale, psnr_and_ssim in scales.items():
            psnr = round(measured[dataset][scale]["imdn"]["psnr"], 2)
            published = float(psnr_and_ssim.split()[0])
            assert abs(psnr - published) < 0.015  # 0.01, and the rounding of floats
