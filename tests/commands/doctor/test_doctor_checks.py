"""Every check of `doctor` reports what is broken, and what works."""

from __future__ import annotations

import importlib.metadata
import io
import os
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands.doctor import machine as doctor_codecs
from commands.doctor import machine as doctor_machine
from commands.doctor import machine as doctor_torch
from commands.doctor import machine as doctor_versions
from commands.doctor.lines import Check, Options, guarded
from commands.doctor.machine import GIGABYTE, MEGABYTE
from datamodules.files import decode, jpeg
from tests.commands.torchvisions import fake_torchvision

Patch = pytest.MonkeyPatch


def said(check: Check, **options: Any) -> dict[str, str]:
    """Return verdict and text of each line, by its name."""
    lines = list(guarded("check", check, Options(**options)))
    return {line.name: f"{line.verdict}: {line.text}" for line in lines}


# --------------------------------------------------------------------------------------- versions


def test_versions() -> None:
    for check in doctor_versions.VERSION_CHECKS.values():
        assert all(text.startswith(("ok", "look")) for text in said(check).values())
    assert "Python" in said(doctor_versions.python)


def test_a_python_that_is_too_old(monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor_versions, "OLDEST", (9, 9))
    assert "9.9 or newer is required" in said(doctor_versions.python)["Python"]


def test_a_python_beside_the_environment(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_versions, "OWN", tmp_path)
    text = said(doctor_versions.python)["Python"]
    assert text.startswith("look")
    assert f"source {tmp_path}/bin/activate" in text


def test_packages_that_are_missing_or_too_old(monkeypatch: Patch) -> None:
    whole = importlib.metadata.version
    changed = {"kornia": "0.1.0", "aiohttp": None}  # fsspec[http] requires the second

    def version(name: str) -> str:
        if name in changed and changed[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changed.get(name) or whole(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    text = said(doctor_versions.packages)
    assert set(text) == {"kornia", "aiohttp"}
    assert text["kornia"].startswith("broken: is 0.1.0, but pyproject.toml requires >=0.9: pip")
    assert text["aiohttp"].startswith("broken: is missing")


def test_a_torchvision_of_another_torch(monkeypatch: Patch, tmp_path: Path) -> None:
    # This process may hold the real operators, so the stand-in raises torch's own error.
    fake_torchvision(tmp_path, "raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    own = importlib.metadata.version("torch")
    text = said(doctor_versions.pair)["torch and torchvision"]
    assert text.startswith(f"broken: {own} and 0.20.1, but this torchvision needs torch==2.5.1")
    text = said(doctor_torch.import_torchvision)["torchvision"]
    assert "broken: RuntimeError: operator torchvision::nms does not exist" in text


def test_builds_for_two_devices(monkeypatch: Patch) -> None:
    versions = {"torch": "2.15.0+cpu", "torchvision": "0.30.0+cu132"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=2.14"])
    assert said(doctor_versions.pair)["torch and torchvision"].startswith("look: 2.15.0+cpu and")


def test_all_extras_are_explained() -> None:
    optional = doctor_versions._project()["optional-dependencies"]
    assert set(doctor_versions.EXTRAS) == set(optional) - {"dev", "docs"}


def test_an_extra_that_is_too_old(monkeypatch: Patch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    assert said(doctor_versions.extras)["extra lmdb"].startswith("broken: lmdb is 0.0.1, but")


# ---------------------------------------------------------------------------------------- machine


def test_a_good_machine(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_machine, "memory_of_machine", lambda: (8 * GIGABYTE, 6 * GIGABYTE))
    monkeypatch.setattr(doctor_machine, "CGROUP", tmp_path)
    monkeypatch.setattr(doctor_machine, "SHARED_FOLDER", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Use(9e11, 1e11, 8e11))
    limits(monkeypatch, 65536, 65536)
    for check in doctor_machine.MACHINE_CHECKS.values():
        for name, text in said(check, runs=str(tmp_path / "a" / "b")).items():
            assert text.startswith("ok"), (name, text)
    assert list(tmp_path.iterdir()) == []


Use = namedtuple("Use", "total used free")


def limits(monkeypatch: Patch, soft: int, hard: int) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (soft, hard))


LITTLE: dict[str, tuple[float, str]] = {
    "disk for runs": (100 * MEGABYTE, "broken: 100 MB free in "),
    "shared memory": (64 * MEGABYTE, "look: 64 MB free of "),
}


@pytest.mark.parametrize("name", LITTLE)
def test_little_room(monkeypatch: Patch, tmp_path: Path, name: str) -> None:
    free, expected = LITTLE[name]
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Use(free, 0, free))
    monkeypatch.setattr(doctor_machine, "SHARED_FOLDER", tmp_path)
    text = said(doctor_machine.MACHINE_CHECKS[name], runs=str(tmp_path))[name]
    assert text.startswith(expected)
    assert "which is low: " in text


def test_a_disk_that_cannot_be_written(monkeypatch: Patch, tmp_path: Path) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    text = said(doctor_machine.disk, runs=str(tmp_path / "runs"))["disk for runs"]
    assert text == (
        f"broken: {tmp_path} cannot be written (Read-only file system): free space, or set "
        "--run.root"
    )


def test_no_shared_memory(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_machine, "SHARED_FOLDER", tmp_path / "shm")
    assert said(doctor_machine.shared_memory)["shared memory"].startswith("look: ")


@pytest.mark.parametrize(
    ("soft", "hard", "verdict"),
    [
        (128, 128, "broken"),
        (128, 1024, "look"),
        (1024, 1 << 20, "ok"),
        (1024, -1, "ok"),
        (-1, -1, "ok"),
    ],
)
def test_a_limit_of_open_files(monkeypatch: Patch, soft: int, hard: int, verdict: str) -> None:
    limits(monkeypatch, soft, hard)
    text = said(doctor_machine.open_files)["open files"]
    assert text.startswith(verdict)
    assert ("ask for a higher limit" in text) == (verdict != "ok")


CGROUPS: dict[str, dict[str, str]] = {
    "version 2": {
        "cpu.max": "50000 100000\n",
        "memory.max": f"{GIGABYTE}\n",
        "memory.current": f"{900 * MEGABYTE}\n",
        "memory.stat": f"anon 1\ninactive_file {300 * MEGABYTE}\n",
    },
    "version 1": {
        "cpu/cpu.cfs_quota_us": "50000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str(GIGABYTE),
        "memory/memory.usage_in_bytes": str(600 * MEGABYTE),
        "memory/memory.stat": "cache 5\n",
    },
}


@pytest.mark.parametrize("version", CGROUPS)
def test_limits_of_a_container(monkeypatch: Patch, tmp_path: Path, version: str) -> None:
    for name, text in CGROUPS[version].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor_machine, "CGROUP", tmp_path)
    monkeypatch.setattr(doctor_machine, "memory_of_machine", lambda: (8 * GIGABYTE, 6 * GIGABYTE))
    assert "may use 0.5: export OMP_NUM_THREADS=1" in said(doctor_machine.cores)["cores"]
    free = {"version 2": "424 MB", "version 1": "424 MB"}[version]
    assert said(doctor_machine.memory)["memory"].startswith(f"broken: {free} free of 1.0 GB, the")


def test_variables(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = said(doctor_machine.variables)
    assert text["ENLARGER_DATA"].startswith(f"broken: {tmp_path}/nowhere, which is not a folder: ")
    assert text["ENLARGER_WEIGHTS"].startswith("ok")
    assert "are not downloaded" in text["HF_HUB_OFFLINE"]
    for name in ("ENLARGER_DATA", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name)
    text = said(doctor_machine.variables)
    assert text["ENLARGER_DATA"].startswith("ok: not set; ")
    assert "are downloaded where possible" in text["HF_HUB_OFFLINE"]


# ------------------------------------------------------------------------------------ torch, GPUs


def test_torch() -> None:
    assert said(doctor_torch.import_torch)["torch"].startswith(f"ok: {torch.__version__}")
    assert said(doctor_torch.bf16)["bf16"].startswith("ok")


def test_wrong_products(monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor_torch, "product_error", lambda torch, device: 0.5)
    assert "broken: a product in bf16" in said(doctor_torch.bf16)["bf16"]


DRIVERS: dict[str, tuple[str | None, str | None, str | None, str]] = {
    "none": (None, None, None, "ok: none, and no NVIDIA driver"),
    "hidden": ("550.1", "13.2", "", "look: CUDA_VISIBLE_DEVICES hides them all"),
    "a CPU build": ("550.1", None, None, "broken: driver 550.1 is installed, but torch is built"),
    "too old": ("470.1", "13.2", None, "broken: driver 470.1 is installed, but torch, built for"),
}


@pytest.mark.parametrize("case", DRIVERS)
def test_no_gpu(monkeypatch: Patch, case: str) -> None:
    driver, built, visible, expected = DRIVERS[case]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(doctor_torch, "_driver", lambda: driver)
    assert said(doctor_torch.gpus)["GPUs"].startswith(expected)


def test_driver_version(monkeypatch: Patch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for text, expected in (("echo 550.54.15", "550.54.15"), ("echo bad; exit 9", "nvidia-smi f")):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        assert str(doctor_torch._driver()).startswith(expected)


def test_a_full_gpu_and_a_failing_gpu(monkeypatch: Patch) -> None:
    def memory(number: int) -> tuple[int, int]:
        if number == 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return ((70, 8)[number] * GIGABYTE, 80 * GIGABYTE)

    properties = SimpleNamespace(name="H200", major=9, minor=0)
    fake = SimpleNamespace(device_count=lambda: 3, is_available=lambda: True, mem_get_info=memory)
    fake.get_device_properties = lambda number: properties
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(doctor_torch, "_driver", lambda: "590.1")
    monkeypatch.setattr(doctor_torch, "product_error", lambda torch, device: 0.0)
    text = said(doctor_torch.gpus)
    assert text["NVIDIA driver"].startswith("ok: 590.1")
    assert text["GPU 0"].startswith("ok: H200, compute capability 9.0, 70.0 GB free of 80.0 GB")
    assert text["GPU 1"].startswith("look: H200")
    assert text["GPU 2"].startswith("broken: RuntimeError: CUDA error: an illegal memory access")


# ----------------------------------------------------------------------------------------- codecs


def test_codecs_that_change_pixels(monkeypatch: Patch) -> None:
    ramps = doctor_codecs._ramps
    monkeypatch.setattr(doctor_codecs, "_max_error", lambda found, pixels: 99)
    for name, check in doctor_codecs.CODEC_CHECKS.items():
        text = said(check)[name]
        assert text.startswith("broken") or "not installed" in text, text
    assert ramps(16).dtype == np.uint16


def test_a_jpeg_decoder_that_accepts_half_a_file(monkeypatch: Patch) -> None:
    whole = doctor_codecs._by_pillow("JPEG", quality=95, subsampling=0)
    rgb = np.array(Image.open(io.BytesIO(whole)))
    monkeypatch.setattr(decode, "decode", lambda data, name: SimpleNamespace(rgb=rgb))
    assert "accepts a truncated file" in said(doctor_codecs.jpeg)["JPEG"]
    monkeypatch.setattr(jpeg, "AVAILABLE", False)
    assert said(doctor_codecs.jpeg)["JPEG"].startswith("look: read by Pillow")
