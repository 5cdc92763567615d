"""An error of a configuration names the file and the line of its key, unless that was typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.arguments.places import place_of


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("model: parts/m.yaml\ntrainer:\n  max_steps: 3\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/m.yaml").write_text("class_path: X\ninit_args:\n  scale: 2\n")
    (tmp_path / "b.yaml").write_text("\ntrainer.max_steps: 4\n")
    (tmp_path / "self.yaml").write_text("a: &a\n  b: *a\n")
    return tmp_path


A, B = ("--config", "a.yaml"), ("--config=b.yaml",)


@pytest.mark.parametrize(
    ("typed", "key", "place"),
    [
        (A, "trainer.max_steps", "a.yaml, line 3: "),
        ((*A, *B), "trainer.max_steps", "b.yaml, line 2: "),  # the later one counts
        ((*A, "--trainer.max_steps", "x"), "trainer.max_steps", ""),
        (A, "model.scale", "parts/m.yaml, line 3: "),
        (("--model", "parts/m.yaml"), "model.scale", "parts/m.yaml, line 3: "),
        (("--config", "self.yaml"), "model.scale", ""),
    ],
)
def test_place(files: Path, typed: tuple[str, ...], key: str, place: str) -> None:
    assert place_of(key, typed) == place
