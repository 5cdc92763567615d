"""`export`: exported weights give the same images, and what cannot be exported is refused."""

import hashlib
import json
import shutil
from pathlib import Path

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
from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.networks.liif import AnySize
from lightning_modules.networks.rrdb import RRDBNet, SRVGGNetCompact
from tests.lightning_modules.backbone.unets import CLASSES, WRAPPERS, inputs, small_kl, wrapped
from tests.make import pairs, uniform
from tests.quick import quick

OUT = Path("runs/tiny/export")
TRAINED_WITH = "lightning_modules.Regression"


def edsr(scale):
    torch.manual_seed(0)
    return EDSR(scale, blocks=1, channels=8, global_skip=True)


def export_model(model, folder, **options):
    """Export a model without a run; return the folder."""
    cls = f"{type(model).__module__}.{type(model).__qualname__}"
    config = {"model": {"class_path": cls}, "data": {"class_path": "datamodules.SRDataModule"}}
    out = folder / "out"
    export(model, ExportOptions(str(out), **options), Origin(folder / "run", config, file=None))
    return out


# ------------------------------------------------------------------------------------- safetensors


def test_exported_weights_are_the_averages_of_the_best_checkpoint(trained, enlarger):
    enlarger("export", trained)

    expected = read_weights(find_weights(str(trained), scale=2))
    exported = read_weights(OUT / "model.safetensors")
    assert {path.name for path in OUT.iterdir()} == {"config.yaml", "model.safetensors"}
    assert find_weights(str(OUT), scale=2) == OUT / "model.safetensors"
    assert expected.name.endswith("(EMA)")
    assert exported.model == TRAINED_WITH
    torch.testing.assert_close(exported.tensors, expected.tensors, rtol=0, atol=0)


def test_metadata_of_exported_weights_name_their_checkpoint_method_and_arguments(trained, enlarger):
    """The file can be loaded, and traced to its run, without the folder that it was exported to."""
    enlarger("export", trained)

    checkpoint = find_weights(str(trained), scale=2)
    metadata = read_metadata(OUT / "model.safetensors")
    assert metadata["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert metadata["weights"] == f"{checkpoint.name} (EMA)"
    assert metadata["model"] == TRAINED_WITH
    assert metadata["step"] == "5"  # the best checkpoint is that of the first epoch
    assert metadata["scale"] == "2.0"
    network = json.loads(metadata["init_args"])["network"]
    assert network["init_args"]["channels"] == 8


def test_export_refuses_a_folder_with_files_and_leaves_them(tmp_path):
    model = Regression(2.0, edsr)
    out = tmp_path / "out"
    out.mkdir()  # an empty folder counts as missing
    export_model(model, tmp_path)
    (out / "config.yaml").write_text("old")
    with pytest.raises(ConfigurationError, match=r"out exists: remove it"):
        export_model(model, tmp_path)
    assert (out / "config.yaml").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_export_needs_no_gpus_images_or_place_of_the_training(trained, enlarger, monkeypatch):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["trainer"] |= {"accelerator": "gpu", "devices": 8, "strategy": "ddp"}
    config["data"]["init_args"]["train"]["init_args"]["root"] = "nowhere"
    config["ckpt_path"] = "nowhere.ckpt"
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copytree(trained, "moved")
    monkeypatch.chdir("moved")
    enlarger("export .")
    assert Path("export/model.safetensors").is_file()


def test_frozen_parts_are_exported_unless_they_have_a_source():
    """A part whose weights were loaded from a `source` is loaded from it again."""
    space = KLSpace(small_kl())
    model = Diffusion(1.0, wrapped("image", in_channels=4, out_channels=4), space)
    of_space = {name for name in model.state_dict() if name.startswith("space.")}
    assert of_space
    assert of_space <= exported_tensors(model).keys()  # or they would be lost

    space.source = "somewhere 0123456789abcdef"

    exported = exported_tensors(model)
    assert not of_space & exported.keys()
    assert any(name.startswith("denoiser.unet.") for name in exported)


# ---------------------------------------------------------------------------------- other programs


@pytest.mark.parametrize("kind", WRAPPERS)
@torch.no_grad()
def test_diffusers_and_our_wrapper_read_an_exported_unet(kind, tmp_path):
    denoiser = wrapped(kind)  # ours around a small U-Net of diffusers, for images or for video
    z, t, text = inputs(kind)
    expected = denoiser(z, t, Condition(text=text))

    out = export_model(Diffusion(1.0, denoiser, PixelSpace()), tmp_path, diffusers=True)

    of_diffusers, _ = CLASSES[kind]
    plain = of_diffusers.from_pretrained(out, subfolder="unet", low_cpu_mem_usage=False)
    assert torch.equal(plain(z, t, text).sample, expected)
    ours = WRAPPERS[kind](str(out)).eval()
    assert torch.equal(ours(z, t, Condition(text=text)), expected)
    assert not (out / "vae").exists()  # pixels have no autoencoder


@torch.no_grad()
def test_the_autoencoder_of_a_latent_method_is_exported_for_diffusers_too(tmp_path):
    space = KLSpace(small_kl(latent_channels=4))
    denoiser = wrapped("image", in_channels=4, out_channels=4)
    out = export_model(Diffusion(1.0, denoiser, space), tmp_path, diffusers=True)
    image = uniform(1, 3, 16, 16)
    assert torch.equal(KLSpace(str(out), subfolder="vae").encode(image), space.encode(image))


def any_size(scale):
    return AnySize(scale, edsr)


@pytest.mark.parametrize("network", quick([edsr, IMDN, any_size], edsr))
@torch.no_grad()
def test_onnx_gives_the_same_images(network, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Regression(2.0, network)

    out = export_model(model, tmp_path, onnx=True)

    session = runtime.InferenceSession(out / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map["model"] == TRAINED_WITH
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for count, size in ((1, (24, 40)), (3, (37, 29))):  # not the size that export traced
        batch = pairs(size, scale=2, count=count)
        expected = model.enlarge(batch)["sr"]
        (sr,) = session.run(output_names=None, input_feed={"lr": batch["lr"].numpy()})
        assert expected.std() > 0.01  # not all white
        torch.testing.assert_close(torch.from_numpy(sr), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(
    ("network", "depth"), [(RRDBNet, {"blocks": 2}), (SRVGGNetCompact, {"convolutions": 2})]
)
@torch.no_grad()
def test_spandrel_reads_an_exported_network(network, depth, scale, tmp_path):
    spandrel = pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    torch.manual_seed(0)
    model = RealESRGAN(scale, network=lambda scale: network(scale, channels=8, **depth))

    out = export_model(model, tmp_path, community=True)

    descriptor = spandrel.ModelLoader().load_from_file(out / "network.safetensors")
    lr = torch.rand(1, 3, 12, 16)
    expected = model(lr, (12 * scale, 16 * scale)).clamp(0, 1)
    assert descriptor.scale == scale
    torch.testing.assert_close(descriptor(lr).clone(), expected, rtol=0, atol=1e-5)
