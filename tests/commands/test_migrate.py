"""Option files of BasicSR and traiNNer-redux become configurations that the parser takes."""

from pathlib import Path

import pytest

import lightning_modules
from commands.migrate import Migration, main, table
from files.yaml import plain_yaml

OPTIONS = Path(__file__).with_name("options")


@pytest.fixture
def migrated(enlarger, capsys, tmp_path, monkeypatch):
    """Return the comments of a migrated option file, and what the parser makes of it."""
    monkeypatch.chdir(tmp_path)

    def migrate(file):
        main([str(OPTIONS / file)])
        written = capsys.readouterr().out
        Path("ours.yaml").write_text(written)
        with pytest.raises(SystemExit, match="0"):
            enlarger("fit --config ours.yaml --print_config")
        comments = [line for line in written.splitlines() if line.startswith("# ")]
        return comments, capsys.readouterr().out

    return migrate


def test_pairs(migrated):
    comments, config = migrated("basicsr.yml")
    assert comments[0] == "# this trains something else: train.warmup_iter 10"
    assert any(comment.startswith("# train.warmup_iter: 10  -- ") for comment in comments)
    for line in (
        "class_path: lightning_modules.Regression",
        "lr_suffix: x2",
        "batch_size: 16",
        "channels: 32",
        "T_max: 500",
    ):
        assert line in config


def test_a_discriminator_and_degradations(migrated):
    comments, config = migrated("redux.yml")
    for lost in ("network_d dunet", "train.losses.cosimloss", "jpeg_prob 0.5", "moa_augs cutmix"):
        assert lost in comments[0]
    for part in (
        "# jpeg_prob: 0.5",
        "# train.losses.cosimloss: {loss_weight: 1, type: cosimloss}  -- none",
        "cutmix  -- only",
        "# network_d.type: dunet",
    ):
        assert any(part in comment for comment in comments)
    assert not any("distsloss" in comment for comment in comments)  # its weight is 0
    for line in (
        "class_path: lightning_modules.RealESRGAN",
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
        assert line in config


@pytest.mark.parametrize(
    ("words", "architecture", "expected"),
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
def test_a_network_has_the_defaults_of_its_program(words, architecture, expected):
    """What a file leaves out means what it means to the program that the file was written for."""
    network = plain_yaml(f"{{type: {words}}}")
    migration = Migration({"scale": 4, "network_g": network, "train": {}})
    described = migration.config["model.init_args.network"]["init_args"]
    assert described["architecture"] == architecture
    assert described["arguments"].items() >= expected.items()
    assert not {"unshuffle_mod", "fast", "img_range"} & described["arguments"].keys()


def migration_of(network, **options):
    return Migration({"scale": 4, "network_g": {"type": network}, **options})


def test_a_degradation_has_the_defaults_of_its_program():
    files = {"type": "realesrgandataset", "dataroot_gt": "hr"}
    options = {"high_order_degradation": True, "datasets": {"train": files}}
    key = "degradation.init_args.first.kernel_size"
    of_redux = migration_of("compact", **options)
    of_basicsr = migration_of("compact", model_type="SRModel", **options)
    assert of_redux.config[key] == [5, 17]
    assert key not in of_basicsr.config


def test_losses_and_averages_are_read_by_the_names_that_the_program_reads():
    l1 = {"type": "L1Loss", "loss_weight": 0.5}
    train = {"pixel_opt": l1, "artifacts_opt": l1, "my_opt": l1, "ema_decay": 0.9, "ema_power": 0.7}
    migration = migration_of("MSRResNet", train=train)
    losses = {key.rpartition(".")[2] for key in migration.config if ".losses." in key}
    assert losses == {"l1", "ldl"}
    assert any("train.my_opt" in other for other in migration.others)
    (comment,) = migration.comments["trainer"]
    assert comment.startswith("train.ema_power:")


def test_metrics_are_of_rgb_unless_the_file_says_otherwise():
    psnr = {"type": "calculate_psnr"}
    ssim = {"type": "calculate_ssim", "test_y_channel": True}
    migration = migration_of("MSRResNet", val={"metrics": {"psnr": psnr, "ssim": ssim}})
    callbacks = migration.config["trainer.callbacks"]
    assert [callback["init_args"]["color"] for callback in callbacks] == ["rgb", "y"]


@pytest.mark.parametrize(("milestone", "lost"), [(100, []), (99, ["train.scheduler MultiStepLR"])])
def test_a_schedule_that_ends_before_its_first_milestone_is_constant(milestone, lost):
    """So the discriminator loses nothing."""
    train = {
        "total_iter": 100,
        "scheduler": {"type": "MultiStepLR", "milestones": [milestone], "gamma": 0.5},
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla"},
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1},
    }
    network_d = {"type": "UNetDiscriminatorSN"}
    assert migration_of("RRDBNet", train=train, network_d=network_d).others == lost


# What the authors' classes have no working default of.
WINDOWS = {"upsampler": "pixelshuffle", "window_size": 8}
NEEDED = {"ATD": WINDOWS, "DRCT": WINDOWS, "swinir": WINDOWS, "SAFMN": {"dim": 36}}


@pytest.mark.slow
@pytest.mark.parametrize("name", table()["classes"]["networks"])
def test_every_network_can_be_built(name):
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    migration = Migration({"scale": 4, "network_g": {"type": name, **NEEDED.get(name, {})}})
    described = migration.config["model.init_args.network"]
    make = getattr(lightning_modules, described["class_path"].rpartition(".")[2])
    assert make(4, **described["init_args"]).scale == 4
