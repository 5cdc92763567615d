"""`export`: exported weights give the same images, and what cannot be exported is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from commands.errors import ConfigurationError
from commands.export.export import ExportOptions, Origin, export
from commands.export.formats import exported_tensors
from commands.run.weights import find_weights
from files.weights import read_metadata, read_weights
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.space import KLSpace, PixelSpace
from lightning_modules.methods.diffusion import Diffusion
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.networks.liif import AnySize
from tests.lightning_modules.backbone.unets import CLASSES, WRAPPERS, inputs, small_kl, wrapped
from tests.quick import quick

Enlarger = Callable[..., None]
OUT = Path("runs/tiny/export")
TRAINED_WITH = "lightning_modules.Regression"
PHOTO = ("--data.init_args.predict",)


def edsr(scale: float) -> EDSR:
    torch.manual_seed(0)
    return EDSR(scale, 1, 8, global_skip=True)


def written(model: Any, folder: Path, **options: Any) -> Path:
    """Return the exported folder of a model without a run."""
    cls = f"{type(model).__module__}.{type(model).__qualname__}"
    config = {"model": {"class_path": cls}, "data": {"class_path": "datamodules.SRDataModule"}}
    out = folder / "out"
    export(model, ExportOptions(str(out), **options), Origin(folder / "run", config, None))
    return out


# ------------------------------------------------------------------------------------- safetensors


def test_the_weights_come_back_bit_for_bit(
    trained: Path, enlarger: Enlarger, photo_folder: Path
) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["tiling"] |= {"size": 8, "overlap": 0}
    config["trainer"]["precision"] = "bf16-mixed"
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    enlarger("export", trained)
    assert {path.name for path in OUT.iterdir()} == {"config.yaml", "model.safetensors"}
    checkpoint = find_weights(str(trained), 2)
    expected, found = read_weights(checkpoint), read_weights(OUT / "model.safetensors")
    assert expected.name.endswith("(EMA)")
    assert found.model == TRAINED_WITH
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(t, expected.tensors[name]) for name, t in found.tensors.items())

    about = read_metadata(OUT / "model.safetensors")
    assert about["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert about["weights"] == f"{checkpoint.name} (EMA)"
    network = json.loads(about["init_args"])["network"]
    assert network["init_args"]["channels"] == 8
    assert (about["step"], about["scale"], about["model"]) == ("5", "2.0", TRAINED_WITH)

    image = (*PHOTO, photo_folder / "5.png")
    run = ("--config", trained / "config.yaml", *image)
    enlarger("predict", *run, "--writer.folder", "by_run")
    for key, value in (("tiling.size", 12), ("trainer.precision", 32)):  # both have a say
        enlarger("predict", *run, f"--{key}", value, "--writer.folder", key)
        assert Path("by_run/5.png").read_bytes() != Path(key, "5.png").read_bytes()
    weights = ("--model.init_args.weights", OUT / "model.safetensors")
    enlarger(
        "predict", "--config", OUT / "config.yaml", *weights, *image, "--writer.folder", "by_file"
    )
    assert Path("by_run/5.png").read_bytes() == Path("by_file/5.png").read_bytes()
    assert find_weights(str(OUT), 2) == OUT / "model.safetensors"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    model, out = Regression(2.0, edsr), tmp_path / "out"
    out.mkdir()
    written(model, tmp_path)  # an empty folder counts as missing
    (out / "config.yaml").write_text("old")
    with pytest.raises(ConfigurationError, match=r"out exists: remove it"):
        written(model, tmp_path)
    assert (out / "config.yaml").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_nothing_of_the_training_is_needed(
    trained: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["trainer"] |= {"accelerator": "gpu", "devices": 8, "strategy": "ddp"}
    config["data"]["init_args"]["train"]["init_args"]["root"] = "nowhere"
    config["ckpt_path"] = "nowhere.ckpt"
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copytree(trained, "moved")
    monkeypatch.chdir("moved")
    enlarger("export", ".")
    assert Path("export/model.safetensors").is_file()


def test_frozen_parts_are_named_where_they_have_a_source() -> None:
    space = KLSpace(small_kl())
    denoiser = wrapped("image", in_channels=4, out_channels=4)
    model = Diffusion(1.0, denoiser, space)
    own = {n for n in model.state_dict() if n.startswith("space.")}
    assert own
    assert own <= exported_tensors(model).keys()  # or they would be lost
    space.source = "somewhere 0123456789abcdef"
    found = exported_tensors(model)
    assert not own & found.keys()
    assert {n for n in found if n.startswith("denoiser.unet.")}


# ---------------------------------------------------------------------------------------- diffusers


@pytest.mark.parametrize("kind", WRAPPERS)
@torch.no_grad()
def test_diffusers_reads_its_networks(kind: str, tmp_path: Path) -> None:
    space = KLSpace(small_kl()) if kind == "image" else PixelSpace()
    wide = {"in_channels": space.channels, "out_channels": space.channels}
    denoiser = wrapped(kind, **wide)
    out = written(Diffusion(1.0, denoiser, space), tmp_path, diffusers=True)
    z, t, text = inputs(kind, channels=space.channels)
    expected = denoiser(z, t, Condition(text=text))
    plain = CLASSES[kind][0].from_pretrained(out, subfolder="unet", low_cpu_mem_usage=False)
    assert torch.equal(plain(z, t, text).sample, expected)
    ours = WRAPPERS[kind](str(out))
    assert torch.equal(ours.eval()(z, t, Condition(text=text)), expected)
    assert (out / "vae").is_dir() == (kind == "image")
    if kind == "image":
        image = torch.rand(1, 3, 16, 16)
        again = KLSpace(str(out), "vae")
        assert torch.equal(again.encode(image), space.encode(image))


# --------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize(
    "network",
    quick([edsr, IMDN, lambda scale: AnySize(scale, lambda factor: EDSR(factor, 1, 8))], edsr),
)
@torch.no_grad()
def test_onnx_gives_the_same_images(network: Any, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Regression(2.0, network)
    out = written(model, tmp_path, onnx=True)
    session = runtime.InferenceSession(out / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map["model"] == TRAINED_WITH
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for count, *size in ((1, 24, 40), (3, 37, 29)):  # other sizes than the command checks
        lr = torch.rand(count, 3, *size)
        (found,) = session.run(None, {"lr": lr.numpy()})
        batch: Any = {"lr": lr, "size": (2 * size[0], 2 * size[1]), "key": ["a"] * count}
        expected = model.enlarge({**batch, "seed": torch.zeros(count, dtype=torch.int64)})["sr"]
        assert expected.std() > 0.01  # not all white
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


def test_several_passes_are_no_onnx(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Diffusion"):
        written(Diffusion(1.0, wrapped()), tmp_path, onnx=True)
    assert not list(tmp_path.iterdir())
