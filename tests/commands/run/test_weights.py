"""`model.init_args.weights`: where a name is looked up, and whether it is the right file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

import commands.run.weights
from commands.errors import ConfigurationError
from commands.run.files import write_whole
from commands.run.weights import MANIFEST, find_weights, manifest


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Prepare a manifest of two files, an empty weights folder and cache, and no network."""
    entries = {
        f"net-x{scale}": {
            "file": f"net-x{scale}.pth",
            "sha256": hashlib.sha256(content(scale)).hexdigest(),
            "licence": "MIT",
            "source": f"https://example.invalid/net_x{scale}.pth",
            "used_by": "nobody",
        }
        for scale in (2, 4)
    }
    file = tmp_path / "weights.yaml"
    file.write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(commands.run.weights, "MANIFEST", file)
    monkeypatch.chdir(tmp_path)
    weights, cache = tmp_path / "weights", tmp_path / "torch" / "checkpoints"
    weights.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(weights))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache.parent))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return {"weights": weights, "cache": cache}


def content(scale: float) -> bytes:
    return f"weights for {scale:g}".encode()


def offline(url: str, path: str, digest: str) -> None:
    raise OSError("no route to host")


def put(folder: Path, scale: int = 2) -> Path:
    path = folder / f"net-x{scale}.pth"
    path.write_bytes(content(scale))
    return path


# ------------------------------------------------------------------------------------ where it is


def test_the_folder_of_weights_comes_before_the_cache(caches: dict[str, Path]) -> None:
    in_cache = put(caches["cache"])
    assert find_weights("net-x2", 2) == in_cache
    in_folder = put(caches["weights"])
    assert find_weights("net-x2", 2) == in_folder


def test_what_is_nowhere_is_fetched_into_the_cache(
    caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def fetch(url: str, path: str, digest: str) -> None:
        asked.append((url, digest))
        Path(path).write_bytes(content(2))

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    caplog.set_level("INFO")
    assert find_weights("net-x2", 2) == caches["cache"] / "net-x2.pth"
    assert asked == [(manifest()["net-x2"]["source"], manifest()["net-x2"]["sha256"])]
    assert "licence: MIT" in caplog.text


@pytest.mark.parametrize(("scale", "file"), [(2, "net-x2.pth"), (4.0, "net-x4.pth")])
def test_the_scale_is_filled_in(caches: dict[str, Path], scale: float, file: str) -> None:
    put(caches["weights"], 2)
    put(caches["weights"], 4)
    assert find_weights("net-x{scale}", scale).name == file


# -------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("place", ["weights", "cache"])
def test_another_file_of_that_name_is_refused(caches: dict[str, Path], place: str) -> None:
    path = put(caches[place])
    path.write_bytes(b"something else")
    with pytest.raises(ConfigurationError) as raised:
        find_weights("net-x2", 2)
    for part in (str(path), "SHA-256", "https://example.invalid/net_x2.pth"):
        assert part in str(raised.value)


def test_what_can_not_be_had_says_where_to_get_it_and_put_it(caches: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        find_weights("net-x2", 2)
    for part in (
        *("'net-x2'", "no route to host", "net-x2.pth", "https://example.invalid/net_x2.pth"),
        *("licence: MIT", str(caches["weights"])),
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net-x3", "'net-x3': neither a file nor a name .* did you mean 'net-x[24]'"),
        ("net-x{scale}", "'net-x3': neither a file nor a name"),
        ("xyzzy", "its names are: net-x2, net-x4"),
        ("nowhere/net-x2", "'nowhere/net-x2', and there is no such file"),
        ("net-x2.pth", "'net-x2.pth', and there is no such file"),
        ("$NOWHERE/net.pth", r"NOWHERE is not set; it should hold"),
        ("${NOWHERE}/net.pth", r"NOWHERE.* is not set"),
        ("", "is empty; it should hold a path"),
    ],
)
def test_messages(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        find_weights(name, 3)
    assert "model.init_args.weights" in str(raised.value)


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


# -------------------------------------------------------------------------------- the real manifest


# Their hashes are unknown: a user's file is reported by its hash, not verified.
UNPUBLISHED = {
    *("nrqm", "resshift-vq-f4", "resshift-x4-s15-v2", "resshift-x4-s4-v3"),
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
