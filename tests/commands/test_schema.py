"""The JSON Schemas: all shipped configurations fit, and a misspelt key does not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from commands import schema
from commands.names import TOOLS
from tests.configs.shipped import PATHS
from tests.conftest import REPO
from tests.docs.blocks import blocks

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")

FILES = {name: path for name, path in PATHS.items() if name != "weights.yaml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schemas")
    (typed,) = [b.text for b in blocks(REPO / "docs" / "configuration.md") if b.how == "test"]
    program, main, command, *words = shlex.split(typed)
    assert (program, main, TOOLS[command]) == ("python", "main.py", schema.__name__)
    # A training that went before in this process leaves classes that cannot be imported.
    place = {"__module__": "lightning.pytorch.core.optimizer", "__qualname__": "LightningAdam"}
    made = type("LightningAdam", (torch.optim.Adam,), place)
    assert schema.main([*words, "--out", str(path)]) == 0
    assert made.__name__ not in (path / "experiment.json").read_text()
    return path


@pytest.fixture(scope="module")
def validators(folder: Path) -> dict[str, Any]:
    """Return the schemas by their folder of `configs/`."""
    schemas = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    kinds = {Path(name).stem: content for name, content in schemas.items()}
    jsonschema.Draft202012Validator.check_schema(kinds["experiment"])
    known = referencing.Registry().with_resources(
        (name, referencing.Resource.from_contents(content, referencing.jsonschema.DRAFT202012))
        for name, content in schemas.items()
    )
    made = {
        kind: jsonschema.Draft202012Validator(content, registry=known)
        for kind, content in kinds.items()
    }
    return {**made, "ablation": made["experiment"]}


@pytest.mark.slow
def test_every_shipped_configuration_fits(validators: dict[str, Any]) -> None:
    assert len(FILES) > 100
    wrong = {
        str(path): error.message[:200]
        for name, path in FILES.items()
        for error in validators[name.partition("/")[0]].iter_errors(
            yaml.safe_load(path.read_text())
        )
    }
    assert not wrong


# Kind and content. Loops, not parameters: each process of pytest-xdist would build the schemas.
MISTAKES = [
    ("experiment", "trainer: {max_step: 3}"),
    ("experiment", "modle: ../model/edsr.yaml"),
    ("experiment", "data: {init_args: {crop_sise: 96}}"),
    ("experiment", "data: {init_args: {crop_size: large}}"),
    ("experiment", "run: {nme: a}"),
    ("model", "{class_path: lightning_modules.one_pass.regression.Regresion}"),
    ("model", "{class_path: lightning_modules.Regression, init_args: {losss: l1}}"),
    (
        "model",
        "{class_path: lightning_modules.Regression, init_args: {network: "
        "{class_path: lightning_modules.EDSR, init_args: {blokcs: 4}}}}",
    ),
    ("callbacks", "[{class_path: callbacks.PSNR, init_args: {colour: y}}]"),
    ("degradation", "{class_path: degradations.Bicubic, init_args: {xyzzy: 1}}"),
]
FITTING = [
    "{}",
    "trainer: {callbacks+: [callbacks.NIQE]}",
    "model: {class_path: my_sr.sharpened.Sharpened, init_args: {width: 3}}",
    "degradation: {init_args: {stages+: [{class_path: my_sr.banding.Banding}]}}",
    "data: {init_args: {train: {class_path: datamodules.Folder, init_args: {root: a}}}}",
    "$schema: schema/experiment.json",
]


@pytest.mark.slow
def test_a_mistake_does_not_but_parts_additions_and_own_classes_do(
    validators: dict[str, Any],
) -> None:
    for kind, text in MISTAKES:
        assert list(validators[kind].iter_errors(yaml.safe_load(text))), text
    for text in FITTING:
        assert not list(validators["experiment"].iter_errors(yaml.safe_load(text))), text


def test_keys_have_their_help_and_default(folder: Path) -> None:
    whole = json.loads((folder / "experiment.json").read_text())
    models = whole["$defs"]["ImageModel"]["anyOf"]
    (found,) = [
        model["properties"]["init_args"]["properties"]
        for model in models
        if model.get("properties", {}).get("class_path", {}).get("const", "").endswith("ResShift")
    ]
    checkpoint = whole["$defs"]["checkpoint"]["properties"]
    assert checkpoint["keep_last"] | {"type": "integer", "minimum": 1} == checkpoint["keep_last"]
    assert checkpoint["every_n_minutes"]["type"] == "number"
    assert found["perceptual_weight"]["default"] == 1.0
    assert found["perceptual_weight"]["description"].startswith("Its weight: 1 in the paper")
