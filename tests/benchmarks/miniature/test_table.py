"""The table of all methods is made from the JSON files alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.miniature.rows import METHODS
from benchmarks.miniature.table import count, headline, marks_of, measured, page, summary, texts
from benchmarks.report import RESULTS, placed
from tests.conftest import REPO

TEXTS = texts()


def apart(metric: str, scale: float, difference: float, verdict: str) -> dict[str, Any]:
    return {"metric": metric, "scale": scale, "difference": difference, "verdict": verdict}


def test_a_judgement_is_its_difference_and_its_verdict() -> None:
    assert measured(apart("psnr", 4.0, 0.1234, "holds")) == "PSNR-Y +0.123: **holds**"


def test_the_variance_of_the_gain_is_no_verdict_on_robustness() -> None:
    """Whatever the committed files hold; the paper's is the variance of the scores themselves."""
    spread = apart("psnr_spread", 4.0, 6.3, "does not hold")
    sentence = "variance of the gain over bicubic +6.3: **not tested in the paper's sense**"
    assert measured(spread) == sentence
    claim = {"claim": "robust", "judged": [spread, apart("psnr", 4.0, 1.0, "holds")]}
    assert headline(claim) == f"{sentence}; PSNR-Y +1: **holds**"
    assert count([claim]) == (
        "of 2, holds: 1, does not hold: 0, not decided: 0, not tested in the paper's sense: 1"
    )
    page_ = TEXTS["docs/methods/nsarm.md"]
    lines = [line for line in page_.splitlines() if "scores vary less" in line]
    assert lines
    assert all("**not tested in the paper's sense**" in line for line in lines)


def test_distances_of_thumbnails_are_a_thousandth() -> None:
    assert measured(apart("kid_base", 1.0, -0.0423, "holds")) == "KID-thumb, base -42.3: **holds**"


def test_a_headline_has_every_scale() -> None:
    first = [
        apart("psnr", 2.7, -0.5, "not decided"),
        apart("psnr", 4.0, 0.25, "holds"),
        apart("psnr", 8.0, 0.5, "holds"),
        apart("swd", 4.0, -0.25, "holds"),
        apart("swd", 8.0, 0.5, "does not hold"),
    ]
    assert headline({"judged": first}) == (
        "PSNR-Y -0.5 (x2.7): **not decided**; +0.25 (x4), +0.5 (x8): **holds**; "
        "SWD -0.25 (x4): **holds**; +0.5 (x8): **does not hold**"
    )


def test_judgements_are_counted() -> None:
    verdicts = ["holds", "does not hold", "holds", "not decided"]
    claims = [{"judged": [apart("psnr", 4.0, 0.0, verdict) for verdict in verdicts]}]
    assert count(claims) == "of 4, holds: 2, does not hold: 1, not decided: 1"


def report(command: str, difference: float, verdict: str) -> dict[str, Any]:
    judged = [apart("psnr", 4.0, difference, verdict)]
    return {
        "command": command,
        "commit": "0123456789",
        "machine": {"cpu": "a CPU", "cores": 2},
        "results": {
            "seeds": [0],
            "gate": {"open": True},
            "trainings": {"a": {"seconds": 60.0}},
            "evaluations": {"a": {"seconds": 30.0}},
            "rows": {"a": {"label": "A"}, "b": {"label": "B"}},
            "claims": [{"claim": "A wins", "better": "a", "than": "b", "judged": judged}],
        },
    }


def test_a_section_has_its_claims() -> None:
    found = page({"casarbi": report("first", 0.5, "holds")})
    assert "| measured |\n|---|---|---|\n| A wins | A - B | PSNR-Y +0.5: **holds** |\n" in found


def test_several_scales_have_a_row_each() -> None:
    first = report("first", 0.5, "holds")
    first["results"]["claims"][0]["judged"] = [
        apart("psnr", 2.7, 0.25, "holds"),
        apart("psnr", 4.0, 0.5, "holds"),
        apart("swd", 2.7, 0.0, "not decided"),
    ]
    assert page({"casarbi": first}).endswith(
        "| claim | the better one - the other one | scale | measured |\n"
        "|---|---|---|---|\n"
        "| A wins | A - B | x2.7 | PSNR-Y +0.25: **holds**; SWD +0: **not decided** |\n"
        "|  |  | x4 | PSNR-Y +0.5: **holds** |\n"
    )


def test_readme_has_the_headline_and_what_it_took() -> None:
    first = report("python -m benchmarks.miniature casarbi --seeds 0", 0.5, "holds")
    claim = first["results"]["claims"][0] | {"claim": METHODS["casarbi"].headline}
    claim["judged"] = [
        apart("psnr", 2.7, -0.5, "does not hold"),
        apart("psnr", 4.0, 0.25, "holds"),
    ]
    first["results"]["claims"] = [claim]
    assert summary({"casarbi": first}).splitlines()[2] == (
        f"| [CasArbi](docs/methods/casarbi.md) | {claim['claim']} | PSNR-Y -0.5 (x2.7): "
        "**does not hold**; +0.25 (x4): **holds** | "
        "of 2, holds: 1, does not hold: 1, not decided: 0 | "
        "[`casarbi --seeds 0`](benchmarks/results/casarbi_miniature.json), 2 min, a CPU, 0123456 |"
    )
    del claim["judged"][1]
    assert "| PSNR-Y -0.5: **does not hold** |" in summary({"casarbi": first})


def test_every_method_with_claims_has_a_headline_and_a_title() -> None:
    for name, method in METHODS.items():
        assert bool(method.claims) == bool(method.headline) == bool(method.title), name


@pytest.mark.parametrize("name", TEXTS)
def test_pages_say_what_the_numbers_say(name: str) -> None:
    content = (REPO / name).read_text()
    assert placed(content, TEXTS[name], marks_of(name)) == content


def test_every_page_with_marks_is_held() -> None:
    """A method whose JSON was not found would be left as it is."""
    pages = [*(REPO / "docs").rglob("*.md"), *REPO.glob("*.md")]
    names = {path.relative_to(REPO).as_posix(): path.read_text() for path in pages}
    assert {name for name, text in names.items() if marks_of(name)[0] in text} == set(TEXTS)


def test_other_variants_are_not_read(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "casarbi_miniature.json", tmp_path)
    before = texts(tmp_path)
    for variant in ("cuda", "longer_10_cuda", "longer_10"):
        (tmp_path / f"casarbi_miniature_{variant}.json").write_text("not read")
    assert texts(tmp_path) == before
