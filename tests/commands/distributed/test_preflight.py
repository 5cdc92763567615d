"""Facts that processes compare before the first step, and messages on differences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands.distributed import preflight
from commands.distributed.preflight import differences, start_facts, versions
from commands.errors import ConfigurationError
from commands.run.files import fingerprint, wait_for, write_whole
from commands.tracebacks import ROOMS


def facts(**changed: Any) -> dict[str, Any]:
    return {**start_facts(config_of(4)), **changed}


def config_of(batch_size: float) -> dict[str, Any]:
    data = {"init_args": {"batch_size": batch_size, "seed": 0}}
    return {"data": data, "trainer": {"max_steps": 3}}


# ------------------------------------------------------------------------------------- differences


CHANGES: dict[str, tuple[Any, str]] = {
    "python": ("3.99.0", "Python: 3.99.0 there"),
    "code": ("0" * 16, "Enlarger's code: 0000000000000000 there"),
    "plugins": ("0" * 16, "the code of your own classes"),
    "libraries": ({**versions(), "torch": "1.0"}, "the versions of libraries: torch is 1.0 there"),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_difference_is_named_with_process_and_value(key: str) -> None:
    value, expected = CHANGES[key]
    (found,) = differences([("a", facts()), ("b", facts()), ("c", facts(**{key: value}))])
    assert found.startswith("rank 2 (on c) differs in ")
    assert expected in found


@pytest.mark.parametrize("there", [8, 4.0])
def test_a_difference_of_the_configuration_names_the_key(there: float) -> None:
    config = start_facts(config_of(there))["config"]
    (found,) = differences([("a", facts()), ("b", facts(config=config))])
    assert f"data.init_args.batch_size is {there} there, 4 on rank 0" in found
    assert "seed" not in found


def test_code_is_told_apart_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.distributed.preflight.ROOT", tmp_path)
    (tmp_path / "main.py").write_text("a = 1\n")
    for name in ROOMS:
        (tmp_path / name).mkdir()
    before = start_facts({})["code"]
    (tmp_path / "commands" / "new.py").write_text("")
    between = start_facts({})["code"]
    (tmp_path / "main.py").write_text("a = 2\n")
    assert len({before, between, start_facts({})["code"]}) == 3


def test_code_of_plugins_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "an_own_class.py"
    path.write_text("class Own: pass\n")
    __import__("an_own_class")
    config = {"model": [{"class_path": "an_own_class.Own"}]}
    before = start_facts(config)["plugins"]
    assert before != start_facts({})["plugins"]
    path.write_text("class Own: x = 1\n")
    assert before != start_facts(config)["plugins"]
    monkeypatch.setattr(preflight, "ROOT", Path(str(tmp_path)[:-1]))  # it begins alike
    assert [*preflight._plugin_files(config)]


# ---------------------------------------------------------------------------- checkpoints and disk


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "step-000000003.ckpt"
    write_whole(path, lambda file: file.write(b"content") and None)
    return path


def test_a_checkpoint_that_is_seen(checkpoint: Path) -> None:
    assert fingerprint(checkpoint) == hashlib.sha256(b"content").hexdigest()
    wait_for(checkpoint, fingerprint(checkpoint), 0.0)


def gone(path: Path) -> None:
    path.unlink()


def changed(path: Path) -> None:
    path.write_bytes(b"Content")


@pytest.mark.parametrize(
    ("change", "expected"), [(gone, "there is no such file"), (changed, "its content differs")]
)
def test_one_that_is_not(checkpoint: Path, change: Callable[[Path], None], expected: str) -> None:
    digest = fingerprint(checkpoint)
    change(checkpoint)
    with pytest.raises(ConfigurationError, match=expected):
        wait_for(checkpoint, digest, 0.0)
