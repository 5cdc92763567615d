"""Self-Cascade's miniature as a newcomer types it, made smaller."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import main
from datamodules.pack import __main__ as pack
from tests.configs.shipped import content
from tests.configs.test_casarbi_configs import differences
from tests.conftest import REPO

MINI = REPO / "configs/experiment/mini"
BASE, FREE, TUNED = (
    MINI / f"{name}.yaml"
    for name in ("diffusion/automobiles", "self_cascade/tf", "self_cascade/tuned")
)
UNTRAINED = ("direct", "attn_sf", "scalecrafter")
TRAINED = ("finetune", "lora_r4", "lora_r32")
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
    *("--data.init_args.batch_size", "4", "--data.init_args.eval_batch_size", "2"),
)
FIT = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
MODEL = "--model.init_args"
OTHER = (  # settings than those of the files
    *(f"{MODEL}.upsampler", "lightning_modules.Full"),
    *(
        f"{MODEL}.upsampler.init_args.gated",
        "true",
        f"{MODEL}.upsampler.init_args.resize",
        "nearest",
    ),
    *(f"{MODEL}.attach", "block_out", f"{MODEL}.places", "[1,3]"),
    *(f"{MODEL}.base_size", "[16,16]", f"{MODEL}.stages", "[[24,24],[32,32]]"),
    *(f"{MODEL}.pivot_space", "rgb", f"{MODEL}.sampler.solver", "dpm_solver_2m"),
)
FEW = ("--model.init_args.sampler.steps", "4")


def test_one_base_and_one_way_of_sampling() -> None:
    base = content(REPO / "configs/model/diffusion_small.yaml")["init_args"]
    free, tuned = (content(path)["model"]["init_args"] for path in (FREE, TUNED))
    assert free["denoiser"]["init_args"]["network"] == base["denoiser"]["init_args"]["network"]
    assert (free["schedule"], free["clamp"]) == (base["schedule"], base["clamp"])
    assert differences(free, tuned) == {"upsampler", "optimizer", "lr_scheduler"}
    assert content(FREE)["data"] == content(TUNED)["data"] == content(BASE)["data"]
    steps = content(TUNED)["trainer"]["max_steps"]
    assert tuned["lr_scheduler"]["init_args"]["steps"] == steps


@pytest.fixture(scope="module")
def _trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("base")
    for part in ("train", "test"):
        (home / part).mkdir()
        for number in range(4):
            seed = number + 10 * (part == "test")
            pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / part / f"{part}{number}.png")
        arguments = [str(home / part), str(home / "cifar10")]
        assert pack.main([*arguments, "--name", f"{part}-automobile"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("ENLARGER_DATA", str(home))
        steps = ("--model.init_args.sampler.steps", "2")
        main.main(["fit", "--config", str(BASE), *RUN, *FIT, *steps])
    return home


@pytest.fixture
def mini(tmp_path: Path, _trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the data, in which the base was trained, as shipped."""
    home = tmp_path / "home"
    shutil.copytree(_trained_once, home)
    monkeypatch.chdir(home)
    monkeypatch.setenv("ENLARGER_DATA", str(home))
    return home


@pytest.mark.slow
@pytest.mark.runs("mini/self_cascade/tf", "mini/self_cascade/tuned")
def test_the_experiments(mini: Path, enlarger: Any) -> None:
    enlarger("test", "--config", FREE, *RUN, *FEW)
    found = json.loads(Path("runs/mini_self_cascade_tf/results.json").read_text())["results"]
    assert {entry["metric"] for entry in found} >= {"kid_thumb", "swd"}
    assert all(np.isfinite(entry["value"]) for entry in found)

    enlarger("fit", "--config", TUNED, *RUN, *FIT, *FEW)
    run = Path("runs/mini_self_cascade_tuned")
    stored = torch.load(run / "checkpoints/step-000000002.ckpt", weights_only=True)
    assert sum(tensor.numel() for tensor in stored["state_dict"].values()) == 1_932
    assert stored["cascade"]["ratio"] == 2.0
    assert stored["cascade"]["base"].startswith("runs/mini_diffusion_automobiles/")
    assert stored["frozen"] == {"denoiser": stored["cascade"]["base"]}
    enlarger("test", "--config", TUNED, *RUN, *FEW)
    assert json.loads((run / "results.json").read_text())["results"]

    # Images of nothing but their seeds, as many as one likes, and at another size.
    seeds = "datamodules.Seeds"
    asked = ("--data.init_args.predict", seeds, "--data.init_args.predict.init_args.count", 3)
    size = ("--data.init_args.predict.init_args.size", "[32,48]")
    enlarger("predict", "--config", TUNED, *RUN, *FEW, *asked, *size)
    files = sorted((run / "predict").glob("*.png"))
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    pixels = [np.asarray(Image.open(file)) for file in files]
    assert all(image.shape == (32, 48, 3) for image in pixels)
    assert not np.array_equal(pixels[0], pixels[1])


def test_comparisons_that_train_differ_in_nothing_else() -> None:
    whole, four, many = (
        content(MINI / f"self_cascade/{name}.yaml") for name in ("finetune", "lora_r4", "lora_r32")
    )
    tuned = content(TUNED)
    assert differences(four["model"]["init_args"], many["model"]["init_args"]) == {"rank"}
    rate = {"optimizer.init_args.lr", "lr_scheduler.init_args.final"}
    other = {"rank", "upsampler", "pivot_strength", "denoiser.init_args.flags.frozen", *rate}
    for experiment in (whole, four, many):
        changed = differences(tuned["model"]["init_args"], experiment["model"]["init_args"])
        assert changed <= other
        parts = ({k: v for k, v in e.items() if k != "model"} for e in (tuned, experiment))
        assert next(parts) == next(parts)
    network = [m["model"]["init_args"]["denoiser"]["init_args"] for m in (tuned, whole, four)]
    assert network[0]["network"] == network[1]["network"] == network[2]["network"]
    assert [part["flags"]["frozen"] for part in network] == [True, False, True]


@pytest.mark.slow
@pytest.mark.runs("mini/self_cascade/{name}")
@pytest.mark.parametrize("name", UNTRAINED)
def test_comparisons_without_training(name: str, mini: Path, enlarger: Any) -> None:
    config = MINI / f"self_cascade/{name}.yaml"
    expected = {"pivot_strength"} if name == "direct" else {"pivot_strength", "patch"}
    free, other = (content(path) for path in (FREE, config))
    changed = differences(free["model"]["init_args"], other["model"]["init_args"])
    assert {key.partition(".")[0] for key in changed} == expected
    assert {**free, "model": 0} == {**other, "model": 0}
    enlarger("test", "--config", config, *RUN, *FEW)
    results = json.loads(Path(f"runs/mini_self_cascade_{name}/results.json").read_text())["results"]
    assert all(np.isfinite(entry["value"]) for entry in results)


@pytest.mark.slow
@pytest.mark.runs("mini/self_cascade/sr", "mini/self_cascade/sd_sr")
def test_the_sample_enlarged(mini: Path, enlarger: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config, upscaler = (MINI / f"self_cascade/{name}.yaml" for name in ("sd_sr", "sr"))
    free, other = (content(path) for path in (FREE, config))
    assert differences(free["model"]["init_args"], other["model"]["init_args"]) <= {
        *("upscaler", "upscaler_weights", "pivot_strength")
    }
    assert {**free, "model": 0} == {**other, "model": 0}
    trained = content(REPO / "configs/model/edsr_small.yaml")["init_args"]["network"]
    assert other["model"]["init_args"]["upscaler"]["init_args"]["network"] == trained
    with pytest.raises(SystemExit):
        enlarger("test", "--config", config, *RUN, *FEW)
    assert "runs/mini_self_cascade_sr" in capsys.readouterr().err
    enlarger("fit", "--config", upscaler, *RUN, *FIT)
    enlarger("test", "--config", config, *RUN, *FEW)
    results = json.loads(Path("runs/mini_self_cascade_sd_sr/results.json").read_text())["results"]
    assert all(np.isfinite(entry["value"]) for entry in results)
    bicubic = (f"{MODEL}.upscaler", "lightning_modules.Bicubic")
    none = (f"{MODEL}.upscaler_weights", "null", "--run.name", "bicubic")
    enlarger("test", "--config", config, *RUN, *FEW, *bicubic, *none)
    assert json.loads(Path("runs/bicubic/results.json").read_text())["results"]


@pytest.mark.runs("mini/self_cascade/{name}")
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_comparisons_that_train(name: str, mini: Path, enlarger: Any) -> None:
    config, run = MINI / f"self_cascade/{name}.yaml", Path(f"runs/mini_self_cascade_{name}")
    four = ("--trainer.max_steps", 4, "--trainer.limit_val_batches", 0)
    short = ("--trainer.max_steps", 2, "--trainer.limit_val_batches", 0)
    enlarger("fit", "--config", config, *RUN, *short, *FEW, "--run.name", "whole", *four)
    enlarger("fit", "--config", config, *RUN, *short, *FEW)
    enlarger("fit", "--config", config, *RUN, *short, *FEW, *four)  # goes on
    stored = [
        torch.load(folder / "checkpoints/step-000000004.ckpt", weights_only=True)["state_dict"]
        for folder in (run, Path("runs/whole"))
    ]
    assert stored[0].keys() == stored[1].keys()
    assert all(torch.equal(tensor, stored[1][key]) for key, tensor in stored[0].items())
    assert any("lora_" in key for key in stored[0]) == name.startswith("lora")
    assert any(key.endswith("conv_in.weight") for key in stored[0]) == (name == "finetune")
    enlarger("test", "--config", config, *RUN, *FEW)
    found = json.loads((run / "results.json").read_text())["results"]
    assert all(np.isfinite(entry["value"]) for entry in found)


@pytest.mark.slow
def test_another_base_is_refused(
    mini: Path, enlarger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    enlarger("fit", "--config", TUNED, *RUN, *FIT, *FEW, *OTHER)
    (file,) = Path("runs/mini_self_cascade_tuned/checkpoints").glob("step-000000002.ckpt")
    facts = torch.load(file, weights_only=True)["cascade"]
    assert (facts["places"], facts["ratio"]) == (["block1", "middle"], 32 / 24)
    other = ("--run.name", "other", "--seed_everything", 1)
    enlarger("fit", "--config", BASE, *RUN, *FIT, "--model.init_args.sampler.steps", 2, *other)
    base = ("--model.init_args.denoiser_weights", "runs/other")
    with pytest.raises(SystemExit):
        enlarger("test", "--config", TUNED, *RUN, *FEW, *OTHER, *base)
    assert "was trained with denoiser from runs/mini_diffusion_auto" in capsys.readouterr().err
