"""Presets: each builds its metrics as in its paper; differences are found."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from callbacks.metrics.base import Metric
from callbacks.metrics.protocols import NAMES, compare_presets, differences, load_preset, main


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_makes_metrics_of_different_names(name: str) -> None:
    preset = load_preset(name)
    assert len(preset.about) > 60
    assert preset.metrics
    assert all(isinstance(metric, Metric) for metric in preset.metrics)
    names = [metric.name for metric in preset.metrics]
    assert len(set(names)) == len(names)
    for metric in preset.metrics:
        assert metric.protocol()["implementation"]


def protocols(name: str) -> dict[str, Any]:
    return {metric.name: metric.protocol() for metric in load_preset(name).metrics}


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
    cascade = load_preset("selfcascade-fid")
    assert [m.name for m in cascade.metrics] == ["fid", "kid", "pfid", "pkid"]
    assert all(m.needs_hr is False for m in cascade.metrics)
    assert cascade.metrics[0].protocol()["preset"] == "clean-fid"
    assert str(cascade.metrics[2].protocol()["crops"]).startswith("3 of 299x299")
    for name in ("clean-fid", "torch-fidelity", "torchmetrics"):
        assert {p["preset"] for p in protocols(name).values()} == {name}


def test_differences() -> None:
    assert differences({"color": "y", "border": 0}, {"border": 0, "color": "y"}) == []
    assert differences({"color": "y"}, {"color": "rgb", "border": 0}) == [
        "color: y / rgb",
        "border: None / 0",
    ]
    lines = compare_presets(load_preset("liif-div2k"), load_preset("resshift"))
    assert lines[0] == "psnr: color: rgb / y; border: scale+6 / 0; round_8bit: False / True"
    assert "ssim: only in resshift" in lines
    assert "psnr: comparable" in compare_presets(
        load_preset("invsr-imagenet"), load_preset("resshift")
    )


def test_the_command(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    assert main([]) == 0
    assert all(f"{name}: " in caplog.text for name in NAMES)
    caplog.clear()
    assert main(["clean-fid", "torchmetrics"]) == 0
    assert "fid: preset: clean-fid / torchmetrics; resize: bicubic, clipped" in caplog.text
    assert main(["cleanfid"]) == 2
    assert "there is no preset 'cleanfid'; there are liif-div2k, " in caplog.text
