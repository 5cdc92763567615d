"""What a later configuration file, or a typed value, replaces, changes and keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback

Enlarger = Callable[..., None]
FOLDER = "datamodules.Folder"


class Part:
    def __init__(self, size: int = 1, name: str = "a") -> None:
        self.size, self.name = size, name


class Parts(Callback):
    """A callback with dictionaries and lists of classes."""

    def __init__(
        self,
        named: dict[str, Part] | None = None,
        listed: list[Part] | None = None,
        one: Part | None = None,
        weights: dict[str, float] | None = None,
    ) -> None:
        self.named, self.listed, self.one, self.weights = named, listed, one, weights


@pytest.fixture
def printed(
    tiny: Path, enlarger: Enlarger, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Return the configuration of written files and typed words."""

    def run(*layers: str | dict[str, Any]) -> dict[str, Any]:
        words: list[str] = ["fit", "--config", "tiny.yaml"]
        for number, layer in enumerate(layers):
            if isinstance(layer, dict):
                Path(f"{number}.yaml").write_text(yaml.safe_dump(layer))
                words += ["--config", f"{number}.yaml"]
            else:
                words.append(layer)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            enlarger(*words, "--print_config")
        found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        return found

    return run


def source(root: str, **more: Any) -> dict[str, Any]:
    return {"class_path": FOLDER, "init_args": {"root": root, **more}}


def sources(config: dict[str, Any], key: str) -> dict[str, tuple[str, Any]]:
    found = config["data"]["init_args"][key]
    return {n: (s["init_args"]["root"], s["init_args"].get("files")) for n, s in found.items()}


def test_sources_of_a_later_file_stand_alone(printed: Callable[..., Any]) -> None:
    """`files` of the earlier source would stay with the new root."""
    later = {"val": {"other": source("b")}, "test": {"photos": source("b")}}
    found = printed({"data": {"init_args": later}})
    assert sources(found, "val") == {"other": ("b", None)}
    assert sources(found, "test") == {"photos": ("b", None)}


def test_a_key_that_is_typed_changes_that_key(printed: Callable[..., Any]) -> None:
    found = printed("--data.init_args.val.photos.init_args.root", "b")
    ((root, files),) = sources(found, "val").values()
    assert (root, files) == ("b", ["1.png", "2.png"])


@pytest.mark.parametrize("key", ["data.crops", "data.init_args.crops"])
def test_a_group_of_a_class_keeps_its_other_keys(printed: Callable[..., Any], key: str) -> None:
    words = (f"--{key}", "{flips: false}", f"--{key}", "{small: skip}")
    crops = printed({"data": {"init_args": {"crops": {"per_image": 3}}}}, *words)
    crops = crops["data"]["init_args"]["crops"]
    assert (crops["per_image"], crops["flips"], crops["small"]) == (3, False, "skip")


def test_dictionaries_and_lists_in_a_class_of_ones_own(printed: Callable[..., Any]) -> None:
    def layer(**arguments: Any) -> dict[str, Any]:
        given = {"class_path": f"{__name__}.Parts", "init_args": arguments}
        return {"trainer": {"callbacks": given}}

    part = f"{__name__}.Part"
    first = layer(
        named={"x": {"class_path": part, "init_args": {"size": 7}}},
        listed=[{"class_path": part, "init_args": {"size": 7}}],
        one={"class_path": part, "init_args": {"size": 7}},
        weights={"a": 1.0, "b": 2.0},
    )
    again = {"class_path": part, "init_args": {"name": "b"}}
    later = layer(named={"x": again}, listed=[again], one=again, weights={"b": 3.0})
    found = printed(first, later)["trainer"]["callbacks"]["init_args"]
    assert found["named"]["x"]["init_args"] == {"size": 1, "name": "b"}
    assert found["listed"][0]["init_args"] == {"size": 1, "name": "b"}
    assert found["one"]["init_args"] == {"size": 7, "name": "b"}  # a class keeps its other keys
    assert found["weights"] == {"b": 3.0}


def test_null_takes_away(printed: Callable[..., Any]) -> None:
    found = printed({"data": {"init_args": {"val": None}}, "trainer": {"callbacks": None}})
    assert found["data"]["init_args"].get("val") is None
    assert found["trainer"].get("callbacks") is None
