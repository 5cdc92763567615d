"""Option files of BasicSR and traiNNer-redux become configurations that the parser takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lightning_modules
from commands.errors import ConfigurationError
from commands.migrate import Migration, main, table
from files.yaml import plain_yaml

# What the authors' classes have no working default of.
WINDOWS = {"upsampler": "pixelshuffle", "window_size": 8}
NEEDED = {"ATD": WINDOWS, "DRCT": WINDOWS, "swinir": WINDOWS, "SAFMN": {"dim": 36}}
L1 = {"type": "L1Loss", "loss_weight": 1}
PAIRS = """
name: pairs
model_type: SRModel
scale: 2
num_gpu: 2
datasets:
  train: {name: DIV2K, type: PairedImageDataset, dataroot_gt: hr, dataroot_lq: lr,
          filename_tmpl: '{}x2', gt_size: 96, batch_size_per_gpu: 8}
network_g: {type: EDSR, num_in_ch: 3, num_feat: 32, num_block: 4, upscale: 2, img_range: 255.}
path: {pretrain_network_g: ~}
train:
  optim_g: {type: Adam, lr: !!float 1e-4, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingRestartLR, periods: [500], restart_weights: [1]}
  total_iter: 500
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
  warmup_iter: 10
"""
DEGRADED = """
name: degraded
scale: 4
use_amp: true
amp_bf16: true
high_order_degradation: true
gt_usm: true
blur_prob: 0.5
resize_range: [0.4, 1.5]
resize_mode_list: [bilinear, lanczos]
jpeg_prob: 0.5
datasets:
  train: {name: HR, type: realesrgandataset, dataroot_gt: [a, b], lq_size: 32,
          kernel_range: [5, 17], accum_iter: 3}
network_g: {type: swinir_s}
network_d: {type: dunet}
train:
  ema_decay: 0.99
  use_moa: true
  moa_augs: [none, cutmix, cutblur]
  moa_probs: [0.4, 0.3, 0.3]
  total_iter: 1000
  losses:
    - {type: charbonnierloss, loss_weight: 0.5}
    - {type: cosimloss, loss_weight: 1.0}
    - {type: ldlloss, loss_weight: 1.0}
    - {type: distsloss, loss_weight: 0}
    - {type: charbonnierloss, loss_weight: 0.25}
    - {type: ganloss, gan_type: lsgan, loss_weight: 0.1}
val: {val_enabled: false, val_freq: 100}
"""


@pytest.fixture
def migrated(
    enlarger: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], str]:
    """Return the comments of a migrated option file, and what the parser makes of it."""
    monkeypatch.chdir(tmp_path)

    def migrate(text: str) -> str:
        Path("theirs.yml").write_text(text, encoding="utf-8")
        main(["theirs.yml"])
        written = capsys.readouterr().out
        Path("ours.yaml").write_text(written, encoding="utf-8")
        with pytest.raises(SystemExit, match="0"):
            enlarger("fit", "--config", "ours.yaml", "--print_config")
        comments = [line for line in written.splitlines() if line.startswith("# ")]
        return "\n".join([*comments, capsys.readouterr().out])

    return migrate


def test_pairs(migrated: Callable[[str], str]) -> None:
    text = migrated(PAIRS)
    assert text.startswith("# this trains something else: train.warmup_iter 10\n# Made of")
    assert "# train.warmup_iter: 10  -- " in text
    assert "class_path: lightning_modules.Regression" in text
    for line in ("lr_suffix: x2", "batch_size: 16", "channels: 32", "T_max: 500"):
        assert line in text


def test_a_discriminator_and_degradations(migrated: Callable[[str], str]) -> None:
    text = migrated(DEGRADED)
    for lost in ("network_d dunet", "train.losses.cosimloss", "jpeg_prob 0.5", "moa_augs cutmix"):
        assert lost in text.splitlines()[0]
    assert "distsloss" not in text.splitlines()[0]
    for comment in (
        "# jpeg_prob: 0.5",
        "# train.losses.cosimloss: {loss_weight: 1, type: cosimloss}  -- none",
        "cutmix  -- only",
        "# network_d.type: dunet",
    ):
        assert comment in text
    assert "distsloss" not in text  # its weight is 0
    assert "class_path: lightning_modules.RealESRGAN" in text
    for line in (
        "sharpen: true",
        "charbonnier_:",
        "class_path: lightning_modules.LDL",
        "kind: lsgan",
        "class_path: datamodules.CutBlur",
        "val_check_interval: 300",
        "accumulate: 3",
        "crop_size: 128",
        "precision: bf16-mixed",
        "decay: 0.99",
    ):
        assert line in text


def network_of(words: str, **options: Any) -> tuple[str, dict[str, Any]]:
    network = plain_yaml(f"{{type: {words}}}")
    migration = Migration({"scale": 4, "network_g": network, "train": {}, **options})
    described = migration.config["model.init_args.network"]["init_args"]
    return described["architecture"], described["arguments"]


@pytest.mark.parametrize(
    ("words", "architecture", "arguments"),
    [
        ("RCAN, img_range: 255., num_feat: 32", "RCAN", {"rgb_range": 255, "n_resblocks": 16}),
        ("rcan", "RCAN", {"norm": False}),
        ("span", "SPAN", {"feature_channels": 52, "norm": False}),
        ("SPAN", "SPAN", {"num_in_ch": 3}),
        ("realplksr, upsampler: dysample", "RealPLKSR", {"dysample": True, "layer_norm": True}),
        ("mosr, upsampler: pixelshuffle", "MoSR", {"upsampler": "ps"}),
        ("HAT, in_chans: 3, embed_dim: 180", "HAT", {"embed_dim": 180}),
        ("DAT, split_size: [8, 32]", "DAT", {"split_size": [8, 32]}),
        ("dat, unshuffle_mod: false", "DAT", {"split_size": [8, 32]}),
        ("ATD", "ATD", {"category_size": 128}),
        ("realcugan, pro: true, fast: false", "UpCunet4x", {"pro": True}),
    ],
)
def test_their_defaults(words: str, architecture: str, arguments: dict[str, Any]) -> None:
    """What a file leaves out means what it means to the program that the file was written for."""
    found, given = network_of(words)
    assert found == architecture
    assert given.items() >= arguments.items()
    assert not {"unshuffle_mod", "fast", "img_range"} & given.keys()


def test_defaults_of_a_degradation() -> None:
    files = {"type": "realesrgandataset", "dataroot_gt": "hr"}
    options = {"high_order_degradation": True, "datasets": {"train": files}}
    network = {"type": "compact"}
    redux = Migration({"scale": 4, "network_g": network, **options})
    assert redux.config["degradation.init_args.first.kernel_size"] == [5, 17]
    theirs = Migration({"scale": 4, "network_g": network, "model_type": "SRModel", **options})
    assert "degradation.init_args.first.kernel_size" not in theirs.config


def test_losses_and_averages_by_the_names_that_are_read() -> None:
    l1 = {"type": "L1Loss", "loss_weight": 0.5}
    train = {"pixel_opt": l1, "artifacts_opt": l1, "my_opt": l1, "ema_decay": 0.9, "ema_power": 0.7}
    migration = Migration({"scale": 4, "network_g": {"type": "MSRResNet"}, "train": train})
    losses = {key.rpartition(".")[2] for key in migration.config if ".losses." in key}
    assert losses == {"l1", "ldl"}
    assert any("train.my_opt" in what for what in migration.others)
    assert [line.partition(" ")[0] for line in migration.comments["trainer"]] == [
        "train.ema_power:"
    ]


def test_metrics_are_of_rgb_unless_the_file_says_otherwise() -> None:
    psnr, ssim = {"type": "calculate_psnr"}, {"type": "calculate_ssim", "test_y_channel": True}
    options = {"scale": 4, "network_g": {"type": "MSRResNet"}}
    migration = Migration({**options, "val": {"metrics": {"psnr": psnr, "ssim": ssim}}})
    colors = [each["init_args"]["color"] for each in migration.config["trainer.callbacks"]]
    assert colors == ["rgb", "y"]


def test_a_schedule_that_ends_before_its_first_milestone() -> None:
    """It is constant, so the discriminator loses nothing."""
    gan = {"type": "GANLoss", "gan_type": "vanilla"}
    others = []
    for milestone in (100, 99):
        schedule = {"type": "MultiStepLR", "milestones": [milestone], "gamma": 0.5}
        train = {"total_iter": 100, "scheduler": schedule, "gan_opt": gan, "pixel_opt": L1}
        options = {"scale": 4, "network_g": {"type": "RRDBNet"}, "train": train}
        options["network_d"] = {"type": "UNetDiscriminatorSN"}
        others.append(Migration(options).others)
    assert others == [[], ["train.scheduler MultiStepLR"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", table()["classes"]["networks"])
def test_every_network_can_be_built(name: str) -> None:
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    options = {"scale": 4, "network_g": {"type": name, **NEEDED.get(name, {})}}
    described = Migration(options).config["model.init_args.network"]
    make = getattr(lightning_modules, described["class_path"].rpartition(".")[2])
    assert make(4, **described["init_args"]).scale == 4


def test_another_file(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text("model: 1", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is no option file"):
        main([str(file)])
