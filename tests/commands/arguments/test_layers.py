"""What a later configuration file, or a typed value, replaces, changes and keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Enlarger = Callable[..., None]


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


def sources(config: dict[str, Any], key: str) -> dict[str, tuple[str, Any]]:
    found = config["data"]["init_args"][key]
    return {n: (s["init_args"]["root"], s["init_args"].get("files")) for n, s in found.items()}


def test_nothing_of_earlier_data_stays_with_a_file(printed: Callable[..., Any]) -> None:
    later = {"class_path": "datamodules.SRDataModule", "init_args": {"scale": 2, "val": None}}
    Path("data.yaml").write_text(yaml.safe_dump(later))
    found = printed("--data", "data.yaml")
    assert found["data"]["init_args"]["train"] is None
    assert found["data"]["init_args"]["test"] is None
    assert found["data"]["init_args"]["batch_size"] == 16


def test_null_deep_in_a_class_is_refused(tiny: Path, refusal: Callable[..., str]) -> None:
    typed = ("--data.train.init_args.files", "null")
    message = refusal("fit", "--config", "tiny.yaml", *typed)
    assert "would become the text None" in message


def test_a_class_beside_a_group_of_a_class(printed: Callable[..., Any]) -> None:
    """In the documented command of CasArbi with the paper's process."""
    casarbi = {
        "class_path": "lightning_modules.CasArbi",
        "init_args": {
            "base": "lightning_modules.LIIF",
            "base_weights": "base",
            "network": "lightning_modules.SFTUNet",
            "process": {"class_path": "lightning_modules.ResidualShift"},
        },
    }
    Path("casarbi.yaml").write_text(yaml.safe_dump(casarbi))
    words = ("--model", "casarbi.yaml", "--model.process", "null")
    found = printed(*words, "--model.sampling.solver", "posterior")["model"]["init_args"]
    assert found["process"] is None
    assert found["sampling"]["solver"] == "posterior"


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


def test_null_takes_away(printed: Callable[..., Any]) -> None:
    found = printed({"data": {"init_args": {"val": None}}, "trainer": {"callbacks": None}})
    assert found["data"]["init_args"].get("val") is None
    assert found["trainer"].get("callbacks") is None
