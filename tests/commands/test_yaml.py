"""Files of a configuration that cannot be read, or say less than they seem to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Refusal = Callable[..., str]
FIT = ("fit", "--config", "tiny.yaml")


@pytest.mark.parametrize("key", ["model", "data", "degradation", "trainer", "trainer.callbacks"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a:\n\tb: 3\n", ("names the file 'broken.yaml', which is no YAML", "line 2", "a tab?")),
        (b"a: [b\nc: d\n", ("names the file 'broken.yaml', which is no YAML", "line 2")),
        ("# caf\xe9\na: 3\n".encode("latin-1"), ("broken.yaml is no text in UTF-8",)),
    ],
)
def test_a_file_of_a_group_that_cannot_be_read(
    tiny: Path, refusal: Refusal, key: str, content: bytes, expected: tuple[str, ...]
) -> None:
    Path("broken.yaml").write_bytes(content)
    sentence = refusal(*FIT, f"--{key}", "broken.yaml")
    assert [part for part in expected if part not in sentence] == [], sentence
    assert "no such file" not in sentence


def test_a_configuration_in_another_encoding(tiny: Path, refusal: Refusal) -> None:
    Path("more.yaml").write_bytes("# caf\xe9\ntrainer: {max_steps: 3}\n".encode("latin-1"))
    sentence = refusal(*FIT, "--config", "more.yaml")
    assert "more.yaml is no text in UTF-8: let your editor save it" in sentence
