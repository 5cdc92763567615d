"""CITATION.cff and NOTICE: whose work this is, named in full and in the form that tools read."""

from __future__ import annotations

import re
from itertools import takewhile

import pytest

from files.yaml import plain_yaml
from tests.conftest import REPO

CITATION = plain_yaml((REPO / "CITATION.cff").read_text())
REFERENCES = CITATION["references"]
NOTICE = (REPO / "NOTICE").read_text().splitlines()
WEIGHTS = plain_yaml((REPO / "configs" / "weights.yaml").read_text())
NUMBER = re.compile(r"(?:arXiv\s+|arxiv\.org/abs/)(\d{4}\.\d{4,5})")
TERMS = 44  # the column of NOTICE's tables where the second one begins


def section(number: int) -> list[str]:
    """Lines of one section of NOTICE, without its title."""
    start = next(i for i, line in enumerate(NOTICE) if line.startswith(f"{number}. "))
    return list(takewhile(lambda line: not re.match(r"\d\. ", line), NOTICE[start + 2 :]))


@pytest.mark.parametrize(
    "folder",
    ["docs", "configs", "lightning_modules", "datamodules", "degradations", "callbacks"],
)
def test_papers_that_are_named_here_are_cited(folder: str) -> None:
    files = [
        path for end in ("md", "py", "yaml") for path in sorted((REPO / folder).rglob(f"*.{end}"))
    ]
    cited = {number for paper in REFERENCES for number in NUMBER.findall(paper.get("url", ""))}
    named = {number: path.name for path in files for number in NUMBER.findall(path.read_text())}
    assert {number: name for number, name in named.items() if number not in cited} == {}


def test_weights_are_named_with_their_terms() -> None:
    rows: list[tuple[str, str]] = []
    for line in section(1):
        names, terms = line[:TERMS].strip(), line[TERMS:]
        if rows and (rows[-1][0].endswith(",") or (terms and not names)):
            rows[-1] = (f"{rows[-1][0]} {names}".strip(), rows[-1][1] + terms)
        else:
            rows.append((names, terms))
    got = {name: terms for names, terms in rows for name in names.split(", ")}
    for name, entry in WEIGHTS.items():
        licence = re.split(r" \((?!non-commercial)|;", entry["licence"])[0]
        assert name in got, f"NOTICE does not say what {name} demands: {entry['licence']}"
        assert licence in got[name], f"NOTICE has other terms of {name} than configs/weights.yaml"
