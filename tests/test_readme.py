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
SHARDS, DEGRADATIONS = "docs/shards.md", "docs/degradations.md"
YOURS = ("NAME", "mine")  # what a reader's own files are called


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_named_files_exist(page: Path) -> None:
    named = re.findall(NAMED, page.read_text(encoding="utf-8"))
    ours = [name for name in named if Path(name).stem not in YOURS]
    assert [name for name in ours if not (REPO / name).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Those of docs/ are looked at by `make docs`."""
    text = FENCE.sub("", (REPO / name).read_text())
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        page = REPO / (path or name)
        assert page.exists(), target
        if anchor:
            section(page.read_text(), anchor)


# ------------------------------------------------- numbers that are written by hand, not made


def written(*pattern: str, page: str = "README.md") -> list[str]:
    """The numbers between these words, which the page has once."""
    found = re.findall(r"(\d[\d,.]*)".join(map(re.escape, pattern)), text_of(page))
    assert len(found) == 1, f"{pattern} is {len(found)} times in {page}"
    numbers = [found[0]] if isinstance(found[0], str) else found[0]
    return [number.replace(",", "") for number in numbers]


def text_of(page: str) -> str:
    return " ".join((REPO / page).read_text().split())


def assert_rounded(words: list[str], *values: float) -> None:
    for word, value in zip(words, values, strict=True):
        digits = len(word.partition(".")[2])
        # JSON's are rounded, too: beside a half either neighbour may be right.
        assert abs(float(word) - value) <= 0.5 * 10**-digits + 1e-9, f"{word} for {value}"


def stored(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def by_metric(numbers: list[Any]) -> dict[tuple[str, bool], dict[str, Any]]:
    return {(row["metric"], row["checkpoint"] == "bicubic"): row for row in numbers}


def test_the_demo_is_what_was_measured() -> None:
    report = stored("quickstart")
    rows = by_metric(report["results"]["numbers"])
    ours, bicubic = (
        [rows[metric, plain]["value"] for metric in ("psnr", "ssim")] for plain in (False, True)
    )
    steps = re.findall(r"step-(\d+)", rows["psnr", False]["checkpoint"])
    table = written(
        "| bicubic | ", " | ", " | | EDSR, 122 k parameters, ", " steps | ", " | ", " |"
    )
    assert_rounded(table, *bicubic, *map(int, steps), *ours)
    assert_rounded(written("x2, ", " held-out photographs |"), rows["psnr", False]["n"])
    minutes, seconds = written("the whole command took ", " min ", " s,")
    assert [60 * int(minutes) + int(seconds)] == [*report["results"]["seconds"].values()]


def test_the_degraded_quickstart_is_what_was_measured() -> None:
    results = stored("real_esrgan_quickstart")["results"]
    (numbers,) = (found for what, found in results.items() if what.startswith("test, "))
    rows = by_metric(numbers)
    ahead = rows["psnr", False]["value"] - rows["psnr", True]["value"]
    said = written("(", " dB above it on ", " squares of three photographs", page=DEGRADATIONS)
    assert_rounded(said, ahead, rows["psnr", False]["n"])
    minutes = written(" trains in ", " minutes on two cores", page=DEGRADATIONS)
    assert_rounded(minutes, results["seconds of fit"] / 60)


def test_reading_against_peers_is_what_was_measured() -> None:
    results = stored("streaming")["results"]
    for row, who in {"no workers": "0 workers, one core", "two workers": "2 workers"}.items():
        said = written(f"| {row} | ", " | ", " |", page=SHARDS)
        measured = results[who]
        assert_rounded(
            said, measured["ours_over"]["webdataset_bare"], measured["stream_over_webdataset"]
        )


def test_degrading_against_its_peer_is_what_was_measured() -> None:
    results = stored("degradation")["results"]
    plain, sharpened = results["without USM"], results["with USM"]
    said = written(
        "results/degradation.json)) | ",
        " on average, ",
        " in the median | ",
        " on average |",
        page=DEGRADATIONS,
    )
    of_plain = plain["ratio_of_means"], plain["ratio_of_medians"]
    assert_rounded(said, *of_plain, sharpened["ratio_of_means"])
    launches = results["canvas, compiled"]["without USM"]["launches"]
    assert_rounded(written("without USM is ", " kernels", page=DEGRADATIONS), launches)


def test_imdn_gives_its_published_figures_to_a_hundredth() -> None:
    found = stored("imdn")["results"]
    assert "published figures to 0.01 dB" in text_of("README.md")
    for name, scales in PUBLISHED.items():
        for scale, said in scales.items():
            apart = round(found[name][scale]["imdn"]["psnr"], 2) - float(said.split()[0])
            assert abs(apart) < 0.015
