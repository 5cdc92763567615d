"""docs/claims.md: verdicts, and the claims of the table of photographs that it names."""

from __future__ import annotations

import re

from tests.conftest import REPO

CLAIMS = (REPO / "docs/claims.md").read_text()
VERDICTS = ("**Photographs**", "**shown in Photographs**", "**shown in Cars**", "**holds**")
OTHERS = ("does not hold", "not tested", "needs")


def lines() -> list[list[str]]:
    rows = re.findall(r"^\| (.+) \|$", CLAIMS.split("\n## ", 1)[1], re.MULTILINE)
    return [row.split(" | ") for row in rows if row != "claim | judged"]


def test_every_claim_has_a_verdict() -> None:
    assert len(lines()) > 40
    for claim, judged in lines():
        assert judged.startswith((*VERDICTS, *OTHERS)), claim
        if judged.startswith("needs"):
            assert judged.removeprefix("needs").strip(" ."), claim  # what
