"""The command that makes the file of a fixed prompt."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lightning_modules.backbone.condition import FixedPrompt, TextEncoder
from lightning_modules.backbone.prompt import NEGATIVE, PROMPT, main
from tests.lightning_modules.backbone.texts import save_text_encoder

TRANSFORMERS = importlib.util.find_spec("transformers") is not None
NEEDS = pytest.mark.skipif(not TRANSFORMERS, reason="needs the optional package transformers")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@NEEDS
def test_the_file(folder: Path) -> None:
    save_text_encoder(folder / "sd")
    assert main(["--model", "sd"]) == 0
    written = folder / "weights/invsr_prompt.safetensors"
    prompt = FixedPrompt("$ENLARGER_WEIGHTS/invsr_prompt.safetensors")
    encoder = TextEncoder("sd")
    assert torch.equal(prompt.condition(1).text, encoder([PROMPT]))
    assert torch.equal(prompt.unconditional(1).text, encoder([NEGATIVE]))
    with safe_open(written, "pt") as file:
        texts = json.loads(file.metadata()["texts"])
    assert texts == {"prompt": PROMPT, "negative": NEGATIVE}

    with pytest.raises(ValueError, match="already exists"):  # nothing is replaced
        main(["--model", "sd"])
    written.unlink()
    assert main(["--model", "sd", "--prompt", "a", "--negative", ""]) == 0
    assert torch.equal(FixedPrompt(written).condition(1).text, encoder(["a"]))
