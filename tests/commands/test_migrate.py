"""Option files of BasicSR and traiNNer-redux become configurations that the parser takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from commands.errors import ConfigurationError
from commands.migrate import main
from docs.make_migrating import PAGE, page

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
        return "\n".join([*comments[1:], capsys.readouterr().out])

    return migrate


def test_pairs(migrated: Callable[[str], str]) -> None:
    text = migrated(PAIRS)
    assert text.startswith("# train.warmup_iter: 10  -- ")
    assert "class_path: lightning_modules.Regression" in text
    for line in ("lr_suffix: x2", "batch_size: 16", "channels: 32", "T_max: 500"):
        assert line in text


def test_a_discriminator_and_degradations(migrated: Callable[[str], str]) -> None:
    text = migrated(DEGRADED)
    for comment in (
        "# jpeg_prob: 0.5",
        "cosimloss  -- none",
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


def test_another_file(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text("model: 1", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is no option file"):
        main([str(file)])


def test_the_page_has_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
