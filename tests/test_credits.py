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
def test_each_paper_named_by_its_arxiv_number_is_in_citation_cff(folder: str) -> None:
    cited = set(NUMBER.findall(" ".join(paper.get("url", "") for paper in REFERENCES)))
    for path in (REPO / folder).rglob("*"):
        if path.suffix in (".md", ".py", ".yaml"):
            missing = set(NUMBER.findall(path.read_text())) - cited
            assert not missing, f"{path} names papers that CITATION.cff lacks"


def terms_of_weights() -> dict[str, str]:
    """The terms that NOTICE states for each file of weights, by its name.

    A row of its table may go on in the next line: after a comma in the names, or in the terms.
    """
    rows: list[dict[str, str]] = []
    for line in section(1):
        names = line[:TERMS].strip()
        terms = line[TERMS:]
        if rows and (rows[-1]["names"].endswith(",") or (terms and not names)):
            rows[-1]["names"] = f"{rows[-1]['names']} {names}".strip()
            rows[-1]["terms"] += terms
        else:
            rows.append({"names": names, "terms": terms})
    return {name: row["terms"] for row in rows for name in row["names"].split(", ")}


def test_notice_has_the_licence_of_each_file_of_weights() -> None:
    terms = terms_of_weights()
    for name, entry in WEIGHTS.items():
        # Without remarks, which follow in parentheses or after a semicolon.
        licence = re.split(r" \((?!non-commercial)|;", entry["licence"])[0]
        assert name in terms, f"NOTICE does not say what {name} demands: {entry['licence']}"
        assert licence in terms[name], f"NOTICE has other terms of {name} than configs/weights.yaml"
