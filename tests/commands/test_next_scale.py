"""From a tokenizer to NSARM, one command each."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands.encode import _caption
from tests import small_t5

Enlarger = Callable[..., None]
Refusal = Callable[..., str]

VAE = "{bits: 4, widths: [32, 32, 32, 32], layers: 1, groups: 8}"
GRIDS = "[[1, 1], [2, 2], [3, 3], [4, 4]]"
TOKENIZER = f"""
class_path: lightning_modules.Tokenizer
init_args:
  vae: {{class_path: lightning_modules.BitwiseVAE, init_args: {VAE}}}
  grids: {GRIDS}
  discriminator:
    class_path: lightning_modules.PatchGAN
    init_args: {{width: 8, layers: 2}}
"""
SPACE = f"""
  space:
    class_path: lightning_modules.BitwiseSpace
    init_args:
      vae: {{class_path: lightning_modules.BitwiseVAE, init_args: {VAE}}}
      grids: {GRIDS}
      patch: 1
  space_weights: runs/tokenizer
"""
TRANSFORMER = """
  transformer:
    class_path: lightning_modules.InfinityTransformer
    init_args: {bits: 4, depth: 1, width: 64, heads: 2, text_width: 128, text_length: 8}
"""
BASE = f"class_path: lightning_modules.Infinity\ninit_args:{SPACE}{TRANSFORMER}"
MAPPER = """
  mapper:
    class_path: lightning_modules.Transformation
    init_args: {bits: 4, size: [2, 2], grids: [[1, 1], [2, 2]], branches: [[16, 1, 2], [16, 1, 2]]}
"""
STAGE_ONE = f"class_path: lightning_modules.NSARMStageOne\ninit_args:{SPACE}{MAPPER}"
STAGE_TWO = (
    f"class_path: lightning_modules.NSARM\ninit_args:{SPACE}{MAPPER}{TRANSFORMER}"
    "  stage_two: {mapper_weights: runs/one, transformer_weights: runs/base}\n"
)
LATENTS = (
    *("--data.init_args.train", "datamodules.Latents"),
    *("--data.init_args.train.init_args.urls", "out/*.tar"),
)
T5 = ("--model.init_args.encoder", "lightning_modules.T5")


@pytest.fixture
def work(tiny: Path) -> Path:
    for name, text in (
        *(("tokenizer", TOKENIZER), ("base", BASE)),
        *(("one", STAGE_ONE), ("two", STAGE_TWO)),
    ):
        (tiny / f"{name}.yaml").write_text(text)
    return tiny


def of(name: str, verb: str = "fit") -> tuple[object, ...]:
    often = ("--trainer.max_steps", 2, "--trainer.val_check_interval", 2)
    steps = (*often, "--data.init_args.crop_size", 32) if verb == "fit" else ()
    named = () if verb == "encode" else ("--run.name", name)
    return (verb, "--config", "tiny.yaml", "--model", f"{name}.yaml", *named, *steps)


def report(folder: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs", folder, "samples", name).read_text())
    return found


@pytest.mark.slow
def test_the_whole_way(work: Path, enlarger: Enlarger) -> None:
    scales = ("--trainer.callbacks+", "callbacks.ScaleReport")
    enlarger(*of("tokenizer"), "--data.init_args.scale", 1, *scales)
    seen = report("tokenizer", "scales-val-00000002.json")["photos"]
    assert len(seen["scales"]) == 4
    crops = ("--encode.crop", 32, "--encode.crops_per_image", 2, "--encode.pairs", "true")
    enlarger(*of("one", "encode"), "--encode.out", "out", *crops)
    with tarfile.open(next(Path("out").glob("*.tar"))) as tar:
        sides = {
            member.name.split(".", 1)[1]: np.load(io.BytesIO(tar.extractfile(member).read())).shape  # type: ignore[union-attr]
            for member in tar
            if member.name.endswith("latent.npy")
        }
    assert sides == {"latent.npy": (4, 4, 4), "lr_latent.npy": (4, 2, 2)}
    enlarger(*of("base"), *LATENTS, "--data.init_args.val", "null")
    enlarger(*of("one"), *LATENTS)
    enlarger(*of("two"), *LATENTS, *scales)
    checkpoint = next(Path("runs/two/checkpoints").glob("*.ckpt"))
    stored = torch.load(checkpoint, weights_only=True)
    assert {name.split(".")[0] for name in stored["state_dict"]} == {"mapper", "transformer"}
    assert "runs/tokenizer" in stored["frozen"]["space"]
    weights = ("--model.init_args.weights", "runs/two")
    enlarger(*of("two", "test"), *weights)
    Image.new("RGB", (21, 40), (90, 120, 30)).save("small.png")
    enlarger(*of("two", "predict"), *weights, "--data.init_args.predict", "small.png")
    with Image.open("runs/two/predict/small.png") as large:
        assert large.size == (42, 80)


@pytest.mark.parametrize("sample", [{}, {"text": " \n"}])
def test_a_blank_caption_is_not_encoded(sample: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"a/1 has no caption, which --encode\.texts requires: "):
        _caption("a/1", sample)


@pytest.mark.slow
def test_captions_are_read_once(work: Path, enlarger: Enlarger, refusal: Refusal) -> None:
    pytest.importorskip("transformers")
    enlarger(*of("tokenizer"), "--data.init_args.scale", 1)
    small_t5.write(Path("t5"))
    with tarfile.open("images.tar", "w") as tar:
        for n in range(4):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (50 * n, 100, 0)).save(buffer, "PNG")
            for suffix, data in (
                ("png", buffer.getvalue()),
                ("txt", b"a red car" if n else b"car"),
            ):
                member = tarfile.TarInfo(f"{n}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    shards = (
        *("--data.init_args.train", "datamodules.Shards"),
        *("--data.init_args.train.init_args.urls", "images.tar"),
    )
    encode = (*of("base", "encode"), *shards, "--encode.out", "out", "--encode.texts", "true")
    assert "requires a trained caption encoder" in refusal(*encode)
    enlarger(*encode, *T5, "--model.init_args.encoder.init_args.path", "t5")
    with tarfile.open(next(Path("out").glob("*.tar"))) as tar:
        lengths = [
            np.load(io.BytesIO(tar.extractfile(member).read())).shape  # type: ignore[union-attr]
            for member in tar
            if member.name.endswith("text_features.npy")
        ]
    assert sorted(lengths) == [(2, 128), (4, 128), (4, 128), (4, 128)]
    assert json.loads(Path("out/encode.json").read_text())["texts"].startswith("t5 ")
    enlarger(*of("base"), *LATENTS, "--data.init_args.val", "null")  # without an encoder
