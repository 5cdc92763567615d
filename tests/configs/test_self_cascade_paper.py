"""The runs of Self-Cascade's paper, on networks of their bases' layouts that are narrow."""

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
import yaml
from PIL import Image

pytest.importorskip("transformers")

from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel

from lightning_modules.controls.larger import cascade_sizes, count_stages
from tests.conftest import REPO
from tests.lightning_modules.backbone.texts import save_text_encoder
from tests.small_sd import VAE

Enlarger = Callable[..., None]
EXPERIMENTS = REPO / "configs/experiment"
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
    *("--model.init_args.sampler.steps", "3"),
)
FIT = (
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--data.init_args.batch_size", "2"),
)
WIDTHS = {"norm_num_groups": 4, "layers_per_block": 2}
SD21 = WIDTHS | {  # four resolutions
    **{"sample_size": 64, "block_out_channels": (8, 8, 16, 16), "use_linear_projection": True},
    **{"attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 8},
}
SDXL = WIDTHS | {  # three, the first without attention
    **{"sample_size": 128, "block_out_channels": (8, 8, 16), "use_linear_projection": True},
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    **{"attention_head_dim": (1, 1, 2), "transformer_layers_per_block": (1, 1, 2)},
    **{"cross_attention_dim": 16, "addition_embed_type": "text_time"},
    **{"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 5},
}
VIDEO = WIDTHS | {
    **{"sample_size": 32, "block_out_channels": (8, 8, 16, 16), "attention_head_dim": 4},
    "cross_attention_dim": 8,
}
IMAGES = [
    ("sd21", "sd21", 64, 128, 1024),
    ("sd21_2048", "sd21", 64, 256, 2048),
    ("sdxl", "sdxl", 64, 128, 2048),
]
ASPECTS = [(1536, 3072), (3072, 1536)]  # height and width; the file has the first
BASES: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "sd21": (UNet2DConditionModel, SD21, False),
    "sdxl": (UNet2DConditionModel, SDXL, True),
    "video": (UNet3DConditionModel, VIDEO, False),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the bases in diffusers' layout."""
    folder = tmp_path_factory.mktemp("bases")
    for name, (kind, config, two) in BASES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kind(**config).save_pretrained(folder / name / "unet")
            AutoencoderKL(**VAE).save_pretrained(folder / name / "vae")
        for second in (False, True)[: 1 + two]:
            save_text_encoder(folder / name, second)
    return folder


def base_of(folder: Path, name: str) -> tuple[str, ...]:
    place, parts = str(folder / name), "--model.init_args"
    return (
        *(f"{parts}.denoiser.init_args.network", place, f"{parts}.space.init_args.vae", place),
        *(f"{parts}.encoder.init_args.path", place),
    )


def shard(path: Path, members: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            content = value.encode() if isinstance(value, str) else png(*value)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def png(seed: int, side: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, which is also where the data lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)
    return tmp_path


def captioned(home: Path, name: str, side: int, count: int = 2) -> None:
    members: dict[str, Any] = {}
    for n in range(count):
        members |= {f"{n}.png": (n, side), f"{n}.txt": "a b"}
    shard(home / f"captioned/{name}.tar", members)


@pytest.mark.runs("self_cascade_{base}")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "base", "size", "side", "shown"), IMAGES)
def test_images(
    name: str,
    base: str,
    size: int,
    side: int,
    shown: int,
    home: Path,
    bases: Path,
    enlarger: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At an eighth of their sizes, SDXL at a sixteenth."""
    config = EXPERIMENTS / f"self_cascade_{base}.yaml"
    shipped = yaml.safe_load(config.read_text())["model"]["init_args"]
    assert shown / shipped["base_size"] == side / size
    captioned(home, "train-0", side, 4)
    captioned(home, f"test-{shown}-0", side)
    data = ("--data", REPO / f"configs/data/captioned_{shown}.yaml") if base != "sdxl" else ()
    small = (*data, *RUN, *base_of(bases, base), "--model.init_args.base_size", str(size))
    small = (*small, "--run.name", f"self_cascade_{name}")
    crop = ("--data.init_args.crop_size", str(side))
    enlarger("fit", "--config", config, *small, *crop, *FIT)
    run = Path(f"runs/self_cascade_{name}")
    stored = torch.load(run / "checkpoints/step-000000002.ckpt", weights_only=True)
    assert sum(tensor.numel() for tensor in stored["state_dict"].values()) == 1_932
    skips = [2, 5, 7, 8] if base == "sdxl" else [2, 5, 8, 11]
    assert stored["cascade"]["places"] == [f"skip{n}" for n in skips]
    assert stored["cascade"]["ratio"] == 2
    # Without Inception's weights, which are not here, the columns of the tables are off.
    drift = ("--trainer.callbacks", REPO / "configs/callbacks/selfcascade-drift.yaml")
    levels = ("--trainer.callbacks.levels", "2") if side < 256 else ()
    enlarger("test", "--config", config, *small, *crop, *drift, *levels)
    off = {record.args[0] for record in caplog.records if "is off, no number" in record.message}
    assert off == {"fid_r", "kid_r", "pfid_r", "pkid_r", "fid_b", "kid_b"}
    results = json.loads((run / "results.json").read_text())["results"]
    assert {entry["metric"] for entry in results} >= {"swd"}
    assert all(np.isfinite(entry["value"]) for entry in results)


@pytest.mark.slow
@pytest.mark.runs("self_cascade_prompts")
@pytest.mark.parametrize("size", ASPECTS)
def test_other_aspects(size: tuple[int, int], home: Path, bases: Path, enlarger: Any) -> None:
    config = EXPERIMENTS / "self_cascade_prompts.yaml"
    content = yaml.safe_load(config.read_text())
    asked = content["data"]["init_args"]["test"]["prompts"]["init_args"]["size"]
    assert tuple(asked) == ASPECTS[0]
    assert count_stages((512, 512), size) == len(cascade_sizes((512, 512), size)) - 1 == 3
    (home / "captioned").mkdir()
    (home / "captioned/prompts.txt").write_text("a b\n\nb\n")
    small = (*RUN, *base_of(bases, "sd21"), "--model.init_args.base_size", "64")
    eighth = json.dumps([side // 8 for side in size])
    enlarger(
        *("test", "--config", config, *small),
        *("--data.init_args.test.prompts.init_args.size", eighth),
    )
    enlarger(
        *("predict", "--config", config, *small),
        *("--data.init_args.predict", "datamodules.Prompts"),
        *("--data.init_args.predict.init_args.file", "captioned/prompts.txt"),
        *("--data.init_args.predict.init_args.size", eighth),
    )
    images = sorted(Path("runs/self_cascade_prompts/predict").glob("*.png"))
    assert [np.asarray(Image.open(path)).shape for path in images] == [
        (size[0] // 8, size[1] // 8, 3)
    ] * 2


@pytest.mark.slow
def test_what_it_is_compared_with(
    home: Path, bases: Path, enlarger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page has it: the same experiment without tuning or of Direct, and base samples."""
    calls, forward = list[str](), UNet2DConditionModel.forward

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append("")
        return forward(self, *arguments, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    captioned(home, "test-1024-0", 128)
    small = (*RUN, *base_of(bases, "sd21"), "--model.init_args.base_size", "64")
    config, data = EXPERIMENTS / "self_cascade_sd21.yaml", REPO / "configs/data"
    direct = ("--model", REPO / "configs/model/direct.yaml")
    test = ("test", "--config", config)
    free = ("--model.init_args.tuning.upsampler", "null", "--run.name", "free")
    found = {}
    for name, asked in {"free": (*free, *small), "direct": (*direct, *small)}.items():
        calls.clear()
        enlarger(*test, *asked, "--trainer.callbacks", "callbacks.Guard", "--run.name", name)
        found[name] = len(calls)
    images = 2
    assert found == {"direct": 3 * images, "free": 6 * images}  # 667, 334, 1: all below 700
    (home / "prompts.txt").write_text("a b\nb\n")
    enlarger(
        *("predict", *direct, "--data", data / "captioned_1024.yaml", *small),
        *("--data.init_args.scale", "1", "--seed_everything", "1000"),
        *("--run.name", "base_samples"),
        *("--data.init_args.predict", "datamodules.Prompts"),
        *("--data.init_args.predict.init_args.file", "prompts.txt"),
        *("--data.init_args.predict.init_args.size", "64"),
    )
    images = sorted(Path("runs/base_samples/predict").glob("*.png"))
    assert [np.asarray(Image.open(path)).shape for path in images] == [(64, 64, 3)] * 2


@pytest.mark.slow
@pytest.mark.runs("self_cascade_video")
def test_video(home: Path, bases: Path, enlarger: Any) -> None:
    config = EXPERIMENTS / "self_cascade_video.yaml"
    for part in ("train", "test"):
        members: dict[str, Any] = {}
        for name in "ab":
            members |= {f"{name}.{n}.png": (n, 128) for n in range(5)}
            members[f"{name}.txt"] = name
        shard(home / f"clips/{part}-0.tar", members)
    few = [
        word
        for source in ("train", "val.clips", "test.clips")
        for key, value in (("frames", "3"), ("stride", "2"), ("side", "128"))
        for word in (f"--data.init_args.{source}.init_args.{key}", value)
    ]
    small = (*RUN, *base_of(bases, "video"), "--model.init_args.base_size", "64", *few)
    crop = ("--data.init_args.crop_size", "128")
    enlarger("fit", "--config", config, *small, *crop, *FIT)
    run = Path("runs/self_cascade_video")
    stored = torch.load(run / "checkpoints/step-000000002.ckpt", weights_only=True)
    assert sum(tensor.numel() for tensor in stored["state_dict"].values()) == 1_932
    enlarger("test", "--config", config, *small, *crop)
    results = json.loads((run / "results.json").read_text())["results"]
    assert any("flicker" in entry["metric"] for entry in results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "model", "base"),
    [
        *(("self_cascade_sd21", "finetune", "sd21"), ("self_cascade_sd21", "lora", "sd21")),
        ("self_cascade_video", "finetune_video", "video"),
        ("self_cascade_video", "lora_video", "video"),
    ],
)
def test_what_is_fine_tuned(
    experiment: str, model: str, base: str, home: Path, bases: Path, enlarger: Any
) -> None:
    """As the pages have it: the experiment of Self-Cascade with another model."""
    small = (*RUN, *base_of(bases, base), "--model.init_args.base_size", "64")
    if base == "video":
        members = {f"{name}.{n}.png": (n, 128) for name in "ab" for n in range(5)}
        shard(home / "clips/train-0.tar", {**members, "a.txt": "a", "b.txt": "b"})
        few = (("frames", "3"), ("stride", "2"), ("side", "128"))
        small += tuple(w for k, v in few for w in (f"--data.init_args.train.init_args.{k}", v))
    else:
        captioned(home, "train-0", 128)
    enlarger(
        *("fit", "--config", EXPERIMENTS / f"{experiment}.yaml"),
        *("--model", REPO / f"configs/model/{model}.yaml", *small, *FIT),
        *("--data.init_args.crop_size", "128", "--data.init_args.val", "null"),
        *("--checkpoint.monitor", "null", "--run.name", model),
    )
    stored = torch.load(f"runs/{model}/checkpoints/step-000000002.ckpt", weights_only=True)
    low_rank = [".lora_" in name for name in stored["state_dict"] if name != "factor"]
    assert low_rank == [model.startswith("lora")] * len(low_rank) != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "base"), [("self_cascade_sdxl", "sdxl"), ("scalecrafter_sdxl", "sdxl")]
)
def test_models(model: str, base: str, home: Path, bases: Path, enlarger: Any) -> None:
    """All names that ScaleCrafter's file has are SDXL's."""
    captioned(home, "test-2048-0", 128)
    enlarger(
        *("test", "--model", REPO / f"configs/model/{model}.yaml", *RUN, *base_of(bases, base)),
        *("--data", REPO / "configs/data/captioned_2048_x2.yaml", "--run.name", model),
        *("--degradation", REPO / "configs/degradation/bicubic.yaml"),
        *("--data.init_args.train", "null", "--model.init_args.base_size", "64"),
        *("--trainer.callbacks", REPO / "configs/callbacks/generator.yaml"),
    )
    assert json.loads(Path(f"runs/{model}/results.json").read_text())["results"]


SMALL = EXPERIMENTS / "self_cascade_64"


def narrow(name: str, home: Path) -> str:
    """A file of the run on a GPU with a network of a sixteenth of its widths."""
    config = yaml.safe_load((SMALL / f"{name}.yaml").read_text())
    network = config["model"]["init_args"]["denoiser"]["init_args"]["network"]
    network["block_out_channels"] = [n // 16 for n in network["block_out_channels"]]
    network |= {"norm_num_groups": 4, "attention_head_dim": 2, "layers_per_block": 1}
    for key in ("data", "degradation"):
        config[key] = str((SMALL / config[key]).resolve())
    config["trainer"] |= {"callbacks": None, "precision": "32"}
    path = home / SMALL.name / f"{name}.yaml"  # by which the marker `runs` knows it
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.slow
@pytest.mark.runs(*(f"self_cascade_64/{name}" for name in ("base", "tuned", "tf")))
def test_the_larger_miniature_for_a_gpu(home: Path, enlarger: Enlarger) -> None:
    """64 px to 128, and from the same base to 256: sixteen times the pixels."""
    for part in ("train", "test"):
        members = {f"{n}.png": (n, 128) for n in range(4)}
        shard(home / "lsun_bedroom_128" / f"{part}-000.tar", members)
    run = (*RUN[:-2], "--data.init_args.eval_batch_size", "2", "--run.root", "runs")
    few = ("--model.init_args.sampler.steps", "2")
    enlarger("fit", "--config", narrow("base", home), *run, *FIT, *few, "--run.name", "base")
    base = ("--model.init_args.denoiser_weights", "runs/base", *RUN[-2:])
    enlarger("fit", "--config", narrow("tuned", home), *run, *FIT, *base, "--run.name", "tuned")
    free = ("--config", narrow("tf", home), *run, *base, "--run.name", "tf")
    enlarger("test", *free)
    seeds = (
        *(
            "--data.init_args.predict",
            "datamodules.Seeds",
            "--data.init_args.scale",
            "4",
        ),
        *("--data.init_args.predict.init_args.count", "1"),
        *("--data.init_args.predict.init_args.size", "256"),
    )
    enlarger("predict", *free, *seeds)
    with Image.open(next(Path("runs/tf/predict").glob("*.png"))) as image:
        assert image.size == (256, 256)


def test_its_files_are_of_one_base() -> None:
    base, free, tuned = (
        yaml.safe_load((SMALL / f"{name}.yaml").read_text())["model"]["init_args"]
        for name in ("base", "tf", "tuned")
    )
    networks = [each["denoiser"]["init_args"]["network"] for each in (base, free, tuned)]
    assert networks[0] == networks[1] == networks[2]
    assert base["schedule"] == free["schedule"] == tuned["schedule"]
