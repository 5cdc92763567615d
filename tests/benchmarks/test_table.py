"""The table of all methods is made from the JSON files alone."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.miniature_rows import METHODS
from benchmarks.report import RESULTS, placed
from benchmarks.table import (
    TITLES,
    Other,
    changes,
    count,
    headline,
    marks_of,
    measured,
    page,
    summary,
    texts,
)
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
    assert headline(claim, [claim]) == f"{sentence}; PSNR-Y +1: **holds** (2 of 2)"
    assert count([claim]) == (
        "of 2, holds: 1, does not hold: 0, not decided: 0, not tested in the paper's sense: 1"
    )
    page_ = TEXTS["docs/methods/nsarm.md"]
    lines = [line for line in page_.splitlines() if "scores vary less" in line]
    assert lines
    assert all("**not tested in the paper's sense**" in line for line in lines)


def test_distances_of_thumbnails_are_a_thousandth() -> None:
    assert measured(apart("kid_base", 1.0, -0.0423, "holds")) == "KID-thumb, base -42.3: **holds**"


def test_a_headline_has_every_scale_and_the_trainings_that_agree() -> None:
    first = [
        apart("psnr", 2.7, -0.5, "not decided"),
        apart("psnr", 4.0, 0.25, "holds"),
        apart("psnr", 8.0, 0.5, "holds"),
        apart("swd", 4.0, -0.25, "holds"),
        apart("swd", 8.0, 0.5, "does not hold"),
    ]
    assert headline({"judged": first}, []) == (
        "PSNR-Y -0.5 (x2.7): **not decided**; +0.25 (x4), +0.5 (x8): **holds**; "
        "SWD -0.25 (x4): **holds**; +0.5 (x8): **does not hold**"
    )
    second = [*first[:2], apart("psnr", 8.0, -1.0, "does not hold"), *first[3:]]
    third = [*first[:3], apart("swd", 4.0, -0.125, "not decided")]  # nothing of SWD at x8
    assert headline({"judged": first}, [{"judged": second}, {"judged": third}]) == (
        "PSNR-Y -0.5 (x2.7): **not decided** (3 of 3); +0.25 (x4): **holds** (3 of 3); "
        "+0.5 (x8): **holds** (2 of 3); "
        "SWD -0.25 (x4): **holds** (2 of 3); +0.5 (x8): **does not hold** (2 of 2)"
    )


def test_judgements_are_counted() -> None:
    verdicts = ["holds", "does not hold", "holds", "not decided"]
    claims = [{"judged": [apart("psnr", 4.0, 0.0, verdict) for verdict in verdicts]}]
    assert count(claims) == "of 4, holds: 2, does not hold: 1, not decided: 1"


def report(command: str, difference: float, verdict: str, than: str = "b") -> dict[str, Any]:
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
            "rows": {"a": {"label": "A"}, "b": {"label": "B"}, "c": {"label": "C"}},
            "claims": [{"claim": "A wins", "better": "a", "than": than, "judged": judged}],
        },
    }


def test_another_training_stands_beside_the_first_one() -> None:
    first = report("first", 0.5, "holds")
    once = page({"casarbi": first})
    assert "| A wins | A - B | PSNR-Y +0.5: **holds** |" in once
    assert "rained again" not in once
    second = report("second", -0.25, "does not hold")
    again = Other("trained again", "casarbi_miniature_1.json", second)
    both = page({"casarbi": first}, {"casarbi": [again]})
    assert "| measured | trained again |\n|---|---|---|---|\n" in both
    assert "| A - B | PSNR-Y +0.5: **holds** | PSNR-Y -0.25: **does not hold** |" in both
    assert (
        "not decided: 0. `second` ([JSON](../benchmarks/results/casarbi_miniature_1.json)), 1 "
        in both
    )
    assert "\n1 of 1 judgements differ from those of the first training.\n" in both
    third = again._replace(report=report("third", 1.0, "holds", than="c"))
    other = page({"casarbi": first}, {"casarbi": [third]})
    assert "| A - B | PSNR-Y +0.5: **holds** |  |" in other
    assert "\n0 of 0 judgements differ " in other


def test_nothing_is_judged_of_a_base_behind_a_closed_gate() -> None:
    first = report("first", 0.5, "holds")
    first["results"]["claims"][0]["claim"] = METHODS["casarbi"].headline
    closed = deepcopy(first) | {"command": "second"}
    closed["results"]["gate"]["open"] = False
    closed["results"]["claims"][0]["judged"] = []
    others = {"casarbi": [Other("3 times the steps", "casarbi_miniature_longer_3.json", closed)]}
    found = page({"casarbi": first}, others)
    assert "\n3 times the steps: the gate is not passed, so nothing is judged. `second` " in found
    assert "| measured |\n|---|---|---|\n" in found
    assert "differ" not in found
    assert summary({"casarbi": first}, others) == summary({"casarbi": first})


def test_several_scales_have_a_row_each() -> None:
    first, second = (report(which, 0.5, "holds") for which in ("first", "second"))
    first["results"]["claims"][0]["judged"] = [
        apart("psnr", 2.7, 0.25, "holds"),
        apart("psnr", 4.0, 0.5, "holds"),
        apart("swd", 2.7, 0.0, "not decided"),
    ]
    again = Other("trained again", "casarbi_miniature_1.json", second)
    assert page({"casarbi": first}, {"casarbi": [again]}).endswith(
        "| claim | the better one - the other one | scale | measured | trained again |\n"
        "|---|---|---|---|---|\n"
        "| A wins | A - B | x2.7 | PSNR-Y +0.25: **holds**; SWD +0: **not decided** |  |\n"
        "|  |  | x4 | PSNR-Y +0.5: **holds** | PSNR-Y +0.5: **holds** |\n"
    )


def test_changes_are_counted_by_metric_and_scale() -> None:
    who = {"claim": "A wins", "better": "a", "than": "b"}
    first = [apart("psnr", 2.0, 0.1, "holds"), apart("psnr", 4.0, 0.1, "holds")]
    second = [  # in another order, one changed, one that the first training has not
        apart("psnr", 4.0, 0.2, "not decided"),
        apart("psnr", 2.0, 0.2, "holds"),
        apart("swd", 2.0, 0.2, "holds"),
    ]
    said = changes([who | {"judged": first}], [who | {"judged": second}])
    assert said == "1 of 2 judgements differ from those of the first training"


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
    assert "differ" not in summary({"casarbi": first})


def test_readme_says_what_other_trainings_changed() -> None:
    methods = {}
    for name in ("casarbi", "invsr"):
        methods[name] = report("first", 0.5, "holds")
        methods[name]["results"]["claims"][0]["claim"] = METHODS[name].headline
    changed = deepcopy(methods["invsr"])
    changed["results"]["claims"][0]["judged"][0]["verdict"] = "not decided"
    again = {name: [Other("trained again", "", own)] for name, own in methods.items()}
    again["invsr"].append(Other("3 times the steps", "", changed))
    said = summary(methods, again)
    assert "| PSNR-Y +0.5: **holds** (2 of 2) |" in said.splitlines()[2]
    assert "| PSNR-Y +0.5: **holds** (2 of 3) |" in said.splitlines()[3]
    assert said.endswith(
        "\n\nJudgements that differ from those of the first training: "
        "0 of 2 (trained again), 1 of 1 (3 times the steps: InvSR).\n"
    )


def test_every_method_with_claims_has_a_headline_and_a_title() -> None:
    for name, method in METHODS.items():
        assert bool(method.claims) == bool(method.headline) == (name in TITLES)


@pytest.mark.parametrize("name", TEXTS)
def test_pages_say_what_the_numbers_say(name: str) -> None:
    content = (REPO / name).read_text()
    assert placed(content, TEXTS[name], marks_of(name)) == content


def test_every_page_with_marks_is_held() -> None:
    """A method whose JSON was not found would be left as it is."""
    pages = [*(REPO / "docs").rglob("*.md"), *REPO.glob("*.md")]
    names = {path.relative_to(REPO).as_posix(): path.read_text() for path in pages}
    assert {name for name, text in names.items() if marks_of(name)[0] in text} == set(TEXTS)


def test_longer_trainings_stand_beside_the_first_one_and_those_of_a_gpu_do_not(
    tmp_path: Path,
) -> None:
    for name in ("casarbi_miniature.json", "casarbi_miniature_1.json"):
        shutil.copy(RESULTS / name, tmp_path)
    before = texts(tmp_path)
    assert "Trained again" in before["docs/results.md"]
    for variant in ("cuda", "longer_10_cuda", "longer_10_training_1"):
        (tmp_path / f"casarbi_miniature_{variant}.json").write_text("not read")
    assert texts(tmp_path) == before
    first = (tmp_path / "casarbi_miniature.json").read_text()
    (tmp_path / "casarbi_miniature_longer_3.json").write_text(first)
    found = texts(tmp_path)["docs/results.md"]
    assert "| measured | trained again | 3 times the steps |\n" in found
    assert "\n3 times the steps: of 67, " in found
    assert "\n0 of 67 judgements differ from those of the first training.\n" in found
