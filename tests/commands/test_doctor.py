"""`doctor` names what is broken, and one failing check does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import doctor

Lines = dict[str, tuple[str, str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, Lines]]:
    """Run the command; return its status, and verdict and text by name."""

    def run() -> tuple[int, Lines]:
        status = doctor.main([])
        rows = capsys.readouterr().out.splitlines()[:-1]
        return status, {row[8:30].strip(): (row[:6].strip(), row[32:]) for row in rows}

    return run


def test_this_machine(lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, found = lines()
    assert status == 0
    assert found["Python"][0] == found["packages"][0] == found["torchvision"][0] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_weights_file_and_a_missing_folder_are_broken(
    lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path / "none"))
    (tmp_path / "imdn-x2.pth").write_bytes(b"version https://git-lfs")
    status, found = lines()
    assert status == 1
    assert found["ENLARGER_WEIGHTS"][0] == "ok"
    assert found["ENLARGER_DATA"][0] == found["weights imdn-x2"][0] == "broken"
