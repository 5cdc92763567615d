"""`check` without a configuration names what is broken on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import main

Run = Callable[[], tuple[object, str]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; return its status and what it printed."""

    def run() -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main.main(["check"])
        return ended.value.code, capsys.readouterr().out

    return run


def test_this_machine(check: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed = check()
    assert status == 0
    for subject in ("Python", "packages", "torchvision"):
        assert f"ok      {subject}: " in printed
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_weights_file_and_a_missing_folder_are_broken(
    check: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path / "none"))
    (tmp_path / "imdn-x2.pth").write_bytes(b"version https://git-lfs")
    status, printed = check()
    assert status == 1
    assert "ok      ENLARGER_WEIGHTS: " in printed
    assert "broken  ENLARGER_DATA: " in printed
    assert "broken  weights imdn-x2: " in printed
    assert printed.endswith("2 broken\n")


def test_a_package_that_does_not_load_stops_no_other_check(
    check: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    status, printed = check()
    assert status == 1
    assert "broken  torchvision: " in printed
    assert "ok      disk: " in printed
