"""Presets of configs/callbacks: each builds its metrics as in its paper."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from callbacks.metrics.base import Metric

FOLDER = Path(__file__).parents[3] / "configs/callbacks"


def preset(name: str) -> list[Metric]:
    metrics = []
    for entry in yaml.safe_load((FOLDER / f"{name}.yaml").read_text()):
        path, arguments = entry, {}
        if isinstance(entry, dict):
            path, arguments = entry["class_path"], entry.get("init_args", {})
        module, _, kind = path.rpartition(".")
        metrics.append(getattr(importlib.import_module(module), kind)(**arguments))
    return metrics


def protocols(name: str) -> dict[str, Any]:
    return {metric.name: metric.protocol() for metric in preset(name)}


def test_what_the_papers_say() -> None:
    liif = protocols("liif-div2k")
    assert list(liif) == ["psnr"]
    assert (liif["psnr"]["color"], liif["psnr"]["border"]) == ("rgb", "scale+6")
    assert liif["psnr"]["round_8bit"] is False
    idm = protocols("idm-faces")
    assert (idm["psnr"]["color"], idm["psnr"]["border"], idm["lpips"]["net"]) == ("rgb", 0, "alex")
    for name in ("invsr-imagenet", "resshift", "nsarm-real"):
        found = protocols(name)
        assert all((found[m]["color"], found[m]["border"]) == ("y", 0) for m in ("psnr", "ssim"))
        assert {"lpips", "niqe"} <= set(found)
    cascade = preset("selfcascade-fid")
    assert [m.name for m in cascade] == ["fid", "kid", "pfid", "pkid"]
    assert all(m.needs_hr is False for m in cascade)
    assert cascade[0].protocol()["preset"] == "clean-fid"
    assert str(cascade[2].protocol()["crops"]).startswith("3 of 299x299")
    for name in ("clean-fid", "torch-fidelity"):
        assert {p["preset"] for p in protocols(name).values()} == {name}
