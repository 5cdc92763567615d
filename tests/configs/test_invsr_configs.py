"""InvSR's experiments: its miniature as a newcomer types it, its paper's run, and its test sets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
from datamodules.pack import __main__ as pack
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests.configs.blurred import save
from tests.configs.shipped import PATHS, content
from tests.configs.test_casarbi_configs import differences
from tests.conftest import REPO
from tests.small_sd import options, save_sd, training
from tests.stand_ins import stand_in

Enlarger = Callable[..., None]
CONFIGS = REPO / "configs"
EXPERIMENTS = CONFIGS / "experiment"
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
)
STEPS = ("--trainer.max_steps", "2", "--data.init_args.batch_size", "2")
FIT = (
    *STEPS,
    *("--trainer.val_check_interval", "2", "--data.init_args.eval_batch_size", "1"),
    *("--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"),
)
PAPER = EXPERIMENTS / "invsr_sd_turbo.yaml"
ONLY_TRAINING = ("training", "lr_scheduler")


def at(name: str) -> Path:
    return PATHS[f"experiment/mini/{name}.yaml"]


# ----------------------------------------------------------------------------------- the miniature


def test_schedules_end_with_the_run_and_all_have_one_base() -> None:
    base = content(at("invsr/base"))["model"]["init_args"]["denoiser"]["init_args"]
    for name in ("invsr", "invsr/base"):
        found = content(at(name))
        schedule = found["model"]["init_args"]["lr_scheduler"]["init_args"]
        assert schedule["steps"] == found["trainer"]["max_steps"]
        if denoiser := found["model"]["init_args"].get("denoiser"):
            assert denoiser["init_args"]["network"] == base["network"]


@pytest.fixture(scope="module")
def _mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which latents were written and the base was trained, as shipped."""
    folder = tmp_path_factory.mktemp("mini")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(taef2_encoder().state_dict(), folder / "taef2_encoder.pth")
        torch.save(taef2_decoder().state_dict(), folder / "taef2_decoder.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ENLARGER_WEIGHTS", str(folder))
        patch.setenv("ENLARGER_DATA", str(folder))
        for number in range(4):
            save(folder / f"bsds400/{number}.png", (96, 80), number)
        typed(at("invsr/latents"), *RUN, "--encode.crops_per_image", "1")
        typed(at("invsr/base"), *RUN, *STEPS)
    return folder


@pytest.fixture
def mini(_mini: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It as the working directory."""
    monkeypatch.chdir(_mini)
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(_mini))
    monkeypatch.setenv("ENLARGER_DATA", str(_mini))
    return _mini


def typed(path: Path, *more: str) -> None:
    """Run the command in a file's first line, with more behind it."""
    _, script, *words = shlex.split(path.read_text().splitlines()[0].removeprefix("# "))
    assert script == "main.py"
    main.main([str(REPO / word) if word.endswith(".yaml") else word for word in words] + [*more])


@pytest.mark.slow
@pytest.mark.runs("mini/invsr", "mini/invsr/latents", "mini/invsr/base")
def test_a_miniature_runs(mini: Path) -> None:
    typed(at("invsr"), *RUN, *FIT)
    stored = torch.load("runs/mini_invsr/checkpoints/step-000000002.ckpt", weights_only=True)
    parts = {key.partition(".")[0] for key in stored["state_dict"]}
    assert parts == {"predictor", "discriminator"}
    assert len(stored["optimizer_states"]) == len(parts)
    assert "denoiser" in stored["frozen"]


@pytest.mark.slow
def test_the_miniature_is_tested(
    mini: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENLARGER_DATA", str(mini / "data"))
    for folder in ("set14/x4/hr", "kodak24"):
        save(mini / "data" / folder / "image.png", (192, 192))
    if not Path("runs/mini_invsr").is_dir():
        typed(at("invsr"), *RUN, *FIT)
    enlarger(
        *("test", "--config", at("invsr"), *RUN, "--model.init_args.sampling.steps", 3),
        *("--trainer.limit_test_batches", 1),
    )
    found = json.loads(Path("runs/mini_invsr/results.json").read_text())["results"]
    assert {entry["dataset"] for entry in found} == {"set14", "kodak"}
    assert all(np.isfinite(entry["value"]) for entry in found)


# ------------------------------------------------------------------------------------- the paper


def test_the_run_is_the_model_and_what_training_needs() -> None:
    model, run = content(CONFIGS / "model/invsr.yaml"), content(PAPER)["model"]
    run["init_args"]["denoiser"]["init_args"]["flags"].pop("gradient_checkpointing")
    run["init_args"]["denoiser"]["init_args"]["flags"].pop("dtype")
    assert differences(model, run) == {f"init_args.{name}" for name in ONLY_TRAINING}


def test_the_constants_of_the_paper() -> None:
    """Section 8 of its description; those that the classes have by default are tested there."""
    run, data = content(PAPER), content(CONFIGS / "data/invsr_train.yaml")["init_args"]
    assert run["trainer"]["max_steps"] == 100_000
    assert run["model"]["init_args"]["lr_scheduler"]["init_args"] == {
        "warm_up": 2000,
        "released": True,
    }
    averaged = {"class_path": "callbacks.EMA", "init_args": {"first": 1}}
    quality = content(CONFIGS / "callbacks/quality.yaml")
    assert run["trainer"]["callbacks"] == [
        averaged if callback == "callbacks.EMA" else callback for callback in quality
    ]
    assert (data["scale"], data["batch_size"], data["crop_size"]) == (4, 64, 512)
    assert data["crops"]["flips"] is False  # which would transpose, too


@pytest.fixture(scope="module")
def _paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small SD-Turbo and the data, in which the run has been."""
    folder = tmp_path_factory.mktemp("paper")
    save_sd(folder / "sd")
    data = folder / "data"
    for number in range(4):
        save(data / f"images/{number}.png", (80, 72), number)
    for name in ("lsdir", "ffhq_20k"):
        assert pack.main([str(data / "images"), str(data / name)]) == 0
    for name in ("imagenet_test", "realsr"):
        save(data / name / "hr/image.png", (96, 80))
        save(data / name / "lr/image.png", (24, 20))
    save(data / "realset80/lr/image.png", (48, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ENLARGER_DATA", str(data))
        main.main([*fit(), *options(folder / "sd"), *training(folder / "sd")])
    return folder


@pytest.fixture
def paper(_paper: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It as the working directory."""
    monkeypatch.chdir(_paper)
    monkeypatch.setenv("ENLARGER_DATA", str(_paper / "data"))
    return _paper


def fit() -> list[str]:
    small = ("--data.init_args.crop_size", "64", "--data.init_args.val.photos.init_args.size", "64")
    return ["fit", "--config", str(PAPER), *RUN, *FIT, *small]


@pytest.mark.slow
@pytest.mark.runs("invsr_sd_turbo")
def test_the_paper_s_run(paper: Path, enlarger: Enlarger) -> None:
    run = Path("runs/invsr_sd_turbo")
    stored = torch.load(run / "checkpoints/step-000000002.ckpt", weights_only=True)
    assert {key.partition(".")[0] for key in stored["state_dict"]} == {"predictor", "discriminator"}
    assert stored["frozen"].keys() == {"denoiser", "space", "prompt", "perceptual"}
    assert stored["lr_schedulers"][0]["_last_lr"] == [pytest.approx(5e-5 * 2 / 2000)]
    assert stored["callbacks"]["EMA"]["decay"] == 0.999

    # Where it only samples, what only training needs may be missing.
    command = ("--config", PAPER, *RUN, *options(paper / "sd"))
    judge = ("--model.init_args.training.discriminator", "null")
    enlarger("test", *command, *judge, "--trainer.limit_test_batches", 1)
    found = json.loads((run / "results.json").read_text())["results"]
    assert {"psnr", "ssim"} <= {entry["metric"] for entry in found}
    save(paper / "image.png", (24, 17))
    enlarger(
        *("predict", *command, *training(paper / "sd"), "--writer.folder", paper / "made"),
        *("--data.init_args.predict", paper / "image.png"),
    )
    with Image.open(next((paper / "made").glob("*.png"))) as written:
        assert written.size == (96, 68)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "color_fix"), [("imagenet_test", True), ("realsr", True), ("realset80", False)]
)
def test_the_paper_s_test_sets(
    name: str,
    color_fix: bool,
    paper: Path,
    enlarger: Enlarger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the page has it; the run's weights, and a NIQE, for the released ones."""
    assert f"--data configs/data/{name}.yaml" in (REPO / "docs/methods/invsr.md").read_text()
    path = EXPERIMENTS / "benchmark.yaml"
    fixed = ("--model.init_args.color_fix", "wavelet") if color_fix else ()
    stand_in(paper / "weights", monkeypatch)
    enlarger(
        *("test", "--config", path, "--model", CONFIGS / "model/invsr.yaml", *RUN, *fixed),
        *("--data", CONFIGS / f"data/{name}.yaml", "--run.name", f"invsr_{name}"),
        *("--trainer.callbacks", CONFIGS / "callbacks/invsr-imagenet.yaml"),
        *(*options(paper / "sd"), "--model.init_args.weights", "runs/invsr_sd_turbo"),
    )
    found = json.loads(Path(f"runs/invsr_{name}/results.json").read_text())["results"]
    assert {"psnr", "ssim"} <= {e["metric"] for e in found} or name == "realset80"
    assert "niqe" in {e["metric"] for e in found} or name != "realset80"
    for entry in found:
        assert np.isfinite(entry["value"])
        assert ("wavelet" in json.dumps(entry)) == color_fix


# -------------------------------------------------------------------------- what may be missing


@pytest.mark.slow
def test_each_thing_that_is_missing_is_one_sentence(
    paper: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files first, all of them at once; then what the hub has."""
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(paper))
    sd = options(paper / "sd")
    command = (*fit(), "--run.name", "other")
    prompt = (
        f"model.init_args.prompt.init_args.path is '{paper}/invsr_prompt.safetensors'",
        "python main.py prompt",
    )
    perceptual = (
        "model.init_args.training.perceptual_weights is 'latent-lpips-sd-turbo': "
        "vgg16_sdturbo_lpips",
        f"put it into {paper}",
    )
    asked = {
        command: ("2 things are missing", *prompt, *perceptual),
        (*command, *sd): perceptual,
        (*command, *sd[4:], *training(paper / "sd")): (
            "model.init_args.denoiser.init_args.network: cannot load stabilityai/sd-turbo (unet)",
            "`hf download stabilityai/sd-turbo`",
        ),
    }
    for arguments, sentences in asked.items():
        with pytest.raises(SystemExit) as stopped:
            main.main(list(arguments))
        assert stopped.value.code == 2
        printed = capsys.readouterr().err.partition("error: ")[2]
        assert "Traceback" not in printed
        missing = [f for f in (prompt[0], perceptual[0]) if f in sentences]
        assert len(printed.strip().splitlines()) == (3 if len(missing) == 2 else 1)
        for sentence in sentences:
            assert sentence in printed
