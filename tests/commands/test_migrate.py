"""Option files of BasicSR and traiNNer-redux become configurations that the parser takes."""

from pathlib import Path

import pytest

import lightning_modules
from commands.migrate import Migration, main, table
from files.yaml import plain_yaml

OPTIONS = Path(__file__).with_name("options")
NETWORKS = plain_yaml((OPTIONS / "networks.yaml").read_text())


@pytest.mark.parametrize("name", ["basicsr", "redux", "gan"])
def test_an_option_file_becomes_a_configuration_that_fit_takes(name, enlarger, capsys):
    """``main.py migrate options/NAME.yml`` prints ``options/NAME.ours.yaml``, which fit takes."""
    ours = OPTIONS / f"{name}.ours.yaml"

    main([str(OPTIONS / f"{name}.yml")])

    assert capsys.readouterr().out == ours.read_text()
    with pytest.raises(SystemExit, match="0"):
        enlarger("fit --print_config --config", ours)


@pytest.mark.parametrize("row", NETWORKS, ids=lambda row: row["of"]["type"])
def test_a_network_becomes_spandrels_with_the_defaults_of_the_program_of_its_option_file(row):
    """With other defaults it would be another network, which cannot load the weights.

    A row of networks.yaml is ``{of: {type: span}, architecture: SPAN, with: {norm: false}}``:
    traiNNer-redux writes names in small letters, and its SPAN has no norm, other than Spandrel's.
    """
    migration = Migration({"scale": 4, "network_g": row["of"], "train": {}})
    network = migration.config["model.init_args.network"]["init_args"]
    assert network["architecture"] == row["architecture"]
    assert network["arguments"].items() >= row["with"].items()
    # Arguments of BasicSR and traiNNer-redux in some rows, which no class of Spandrel takes.
    assert not {"unshuffle_mod", "fast", "img_range"} & network["arguments"].keys()


def test_a_degradation_has_the_defaults_of_its_program():
    """A file of BasicSR, which has a `model_type`, gives all numbers: there are no defaults."""
    redux = {
        "scale": 4,
        "network_g": {"type": "compact"},
        "high_order_degradation": True,
        "resize_range": [0.2, 1.4],
        "datasets": {"train": {"type": "realesrgandataset", "dataroot_gt": "hr"}},
    }
    basicsr = {**redux, "model_type": "RealESRGANModel"}
    first = "degradation.init_args.first."
    for options in (redux, basicsr):
        assert Migration(options).config[f"{first}resize"] == [0.2, 1.4]
    assert Migration(redux).config[f"{first}kernel_size"] == [5, 17]  # traiNNer-redux's default
    assert f"{first}kernel_size" not in Migration(basicsr).config


# Arguments without which the authors' classes fail.
WINDOWS = {"upsampler": "pixelshuffle", "window_size": 8}
NEEDED = {"ATD": WINDOWS, "DRCT": WINDOWS, "swinir": WINDOWS, "SAFMN": {"dim": 36}}


@pytest.mark.slow
@pytest.mark.parametrize("name", table()["classes"]["networks"])
def test_every_network_that_migrate_knows_can_be_built(name):
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    migration = Migration({"scale": 4, "network_g": {"type": name, **NEEDED.get(name, {})}})
    described = migration.config["model.init_args.network"]
    make = getattr(lightning_modules, described["class_path"].rpartition(".")[2])
    assert make(4, **described["init_args"]).scale == 4
