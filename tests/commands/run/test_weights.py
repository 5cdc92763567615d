"""`model.init_args.weights`: where a name is looked up, and whether it is the right file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from commands.errors import ConfigurationError
from commands.run.directory import RunDirectory
from commands.run.files import write_whole
from commands.run.weights import choose_weights, find_weights, load_trained
from files.manifest import MANIFEST
from lightning_modules import EDSR, Regression


@pytest.fixture(autouse=True)
def _manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of weights that a manifest names."""
    entries = {}
    for scale in (2, 4):
        file = tmp_path / f"net-x{scale}.pth"
        file.write_text(f"weights for {scale}")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entries[file.stem] = {"file": file.name, "sha256": digest}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr("files.manifest.MANIFEST", tmp_path / "weights.yaml")
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path))


# ------------------------------------------------------------------------------------ where it is


@pytest.mark.parametrize(("scale", "file"), [(2, "net-x2.pth"), (4.0, "net-x4.pth")])
def test_the_scale_is_filled_in(scale: float, file: str) -> None:
    assert find_weights("net-x{scale}", scale).name == file


# -------------------------------------------------------------------------------------- what fails


def test_a_run_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2):
        write_whole(folder / f"step-{step:09d}.ckpt", lambda file: torch.save({}, file))
    assert find_weights(str(tmp_path / "run"), 2).name == "step-000000002.ckpt"
    best = {"monitor": "val/psnr", "best": ["step-000000001.ckpt"]}
    best["scores"] = {"step-000000001.ckpt": 30.0}
    (folder / "best.json").write_text(json.dumps(best))
    assert find_weights(str(tmp_path / "run"), 2).name == "step-000000001.ckpt"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"init_args\.base_weights .* without checkpoints"):
        find_weights(str(tmp_path / "empty"), 2, "model.init_args.base_weights")


def test_a_checkpoint_that_fit_deletes_meanwhile_is_chosen_once_more(trained: Path) -> None:
    run = RunDirectory(trained)
    choice = choose_weights(run, None, None)
    model = Regression(2, EDSR(2, blocks=1, channels=8, global_skip=True))
    choice.checkpoint.unlink()

    path = load_trained(model, run, "test", choice)

    assert path == trained / "checkpoints" / "step-000000012.ckpt"


# -------------------------------------------------------------------------------- the real manifest


# Their hashes are unknown: a user's file is reported by its hash, not verified.
UNPUBLISHED = {
    *("nrqm", "resshift-vq-f4", "resshift-x4-s15-v1", "resshift-x4-s15-v2", "resshift-x4-s4-v3"),
    *("invsr", "invsr-diftune", "invsr-discriminator", "latent-lpips-sd-turbo"),
    *("realesrgan-x2", "realesrnet-x4", "realesrgan-x4-discriminator", "realesr-general-x4"),
    *("infinity-vae-d56", "infinity-vae-d32reg", "infinity-2b"),
}


def test_the_shipped_manifest_is_complete() -> None:
    entries = yaml.safe_load(MANIFEST.read_text())
    assert {"imdn-x2", "imdn-x3", "imdn-x4"} <= set(entries)
    for name, entry in entries.items():
        assert set(entry) == {"file", "sha256", "licence", "source", "used_by"}, name
        if name not in UNPUBLISHED:
            assert re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]), name
        assert entry["source"].startswith("https://"), name
