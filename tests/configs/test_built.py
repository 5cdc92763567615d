"""Every experiment is built, up to its first step; most by a quick test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from commands.cli import EnlargerCLI
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests.configs.bases import base_of, bases
from tests.configs.shipped import PATHS
from tests.configs.test_configs import ALIKE, OWN_TESTS
from tests.runs import not_run
from tests.small_sd import options, save_sd, training

__all__ = ["bases"]  # a fixture

Enlarger = Callable[..., None]
# Every other experiment is run by a quick test, of test_configs.py.
NAMES = [name.removeprefix("experiment/").removesuffix(".yaml") for name in OWN_TESTS]
# By test_nsarm_configs.py; 8,376 M parameters would take 34 GB, so that none runs them.
BUILT_ALONE = {f"nsarm_8b_{name}" for name in ("stage1", "stage2", "inference")}
ON_ONE = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"),
    *("--trainer.strategy", "auto", "--trainer.precision", "32", "--trainer.logger", "false"),
)
# Built without memory for weights. The others read files or tensors' values as they are built, and
# are small, or narrow by the files they get here.
ON_META = ("casarbi_",)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `$ENLARGER_WEIGHTS` holds, and a narrow SD-Turbo."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.save(taef2_encoder().state_dict(), folder / "taef2_encoder.pth")
        torch.save(taef2_decoder().state_dict(), folder / "taef2_decoder.pth")
    save_sd(folder / "sd")
    return folder


def stands_in(name: str, weights: Path, bases: Path) -> tuple[str, ...]:
    """Arguments for networks that are published, of which nobody need have the files."""
    if name == "invsr_sd_turbo":
        return (*options(weights / "sd"), *training(weights / "sd"))
    if name == "latent_lpips":
        return ("--model.init_args.space.init_args.vae", str(weights / "sd"))
    if name.startswith("self_cascade_") and not name.startswith("self_cascade_64/"):
        found = [base for base in ("sdxl", "video") if base in name]
        return base_of(bases, found[0] if found else "sd21")
    return ()


def build(path: Path, enlarger: Enlarger, *more: str) -> EnlargerCLI:
    """The trainer, model, data and degradation of an experiment's own command, before its step."""
    made: list[EnlargerCLI] = []

    def stop(cli: EnlargerCLI) -> None:
        made.append(cli)
        raise SystemExit(0)

    verb = path.read_text().partition("main.py ")[2].split()[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnlargerCLI, "after_instantiate_classes", stop)
        patch.setattr("commands.cli.needed_files", lambda *_: {})  # published files, read later
        with pytest.raises(SystemExit) as stopped:
            enlarger(verb, "--config", path, *ON_ONE, *more)
    assert stopped.value.code == 0
    return made[0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if f"experiment/{name}.yaml" in ALIKE else ())
        for name in NAMES
        if name not in BUILT_ALONE
    ],
)
def test_is_built(
    name: str,
    enlarger: Enlarger,
    weights: Path,
    bases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(weights))
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    more = stands_in(name, weights, bases)
    with torch.device("meta" if name.startswith(ON_META) else "cpu"):
        cli = build(PATHS[f"experiment/{name}.yaml"], enlarger, *more)
    assert list(cli.model.parameters())
    assert cli.datamodule is not None


def test_what_a_marker_names_and_no_command_ran_is_seen(request: pytest.FixtureRequest) -> None:
    other = pytest.Function.from_parent(request.node.parent, name="x", callobj=lambda: None)
    other.add_marker(pytest.mark.runs("nowhere"))
    assert not_run(other) == ["nowhere"]
