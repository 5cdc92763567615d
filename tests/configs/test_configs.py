"""Everything under `configs/` parses, and has the sizes that it states; tests/matrix runs it."""

import json
import re
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lightning_modules
from commands.cli import EnlargerCLI
from datamodules.sources.photos import PHOTOS
from files.yaml import plain_yaml
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.spandrel import Spandrel
from lightning_modules.optimisation import adam
from tests.commands.conftest import Read
from tests.conftest import REPO
from tests.make import quiet, uniform
from tests.matrix.recipes import whole
from tests.quick import quick
from tests.stand_ins import stand_in

CONFIGS = REPO / "configs"
ON_ONE_CPU = """--trainer.accelerator cpu --trainer.devices 1 --trainer.logger false
    --trainer.enable_progress_bar false"""


def files_of(group):
    return sorted((CONFIGS / group).rglob("*.yaml"))


# ----------------------------------------------------------------------------------------- parsing

MODEL = f"--model {CONFIGS}/model/bicubic.yaml"
DATA = f"--data {CONFIGS}/data/photos.yaml"
TAEF2 = f"--model {CONFIGS}/model/taef2_round_trip.yaml"
# The place of a group's file, which follows; the rest comes from other shipped files.
PLACES = {
    "model": f"{DATA} --model",
    "data": f"{MODEL} --data",
    "degradation": f"{MODEL} {DATA} --degradation",
    "trainer": f"{MODEL} {DATA} --trainer",
    "callbacks": f"{MODEL} {DATA} --trainer.callbacks",
    "backbone": f"{TAEF2} {DATA} --model.init_args.space",
    "augment": f"{MODEL} {DATA} --data.init_args.crops.augment",
    "logger": f"{MODEL} {DATA} --trainer.logger",
    "network": f"{DATA} --data.scale 4 --model lightning_modules.Regression --model.network",
}
COMMANDS = [f"{place} {file}" for group, place in PLACES.items() for file in files_of(group)]
for file in files_of("ablation"):  # its first line names the experiment that it follows
    experiment = re.findall(r"after (\w+\.yaml)", file.read_text().splitlines()[0])[0]
    COMMANDS.append(f"--config {CONFIGS}/experiment/{experiment} --config {file}")


@pytest.mark.parametrize("options", quick(COMMANDS, *COMMANDS[::4]))
def test_each_shipped_configuration_is_parsed(options, enlarger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EnlargerCLI, "before_instantiate_classes", Mock(side_effect=Read))
    with pytest.raises(Read):
        enlarger(f"fit {options}")
    assert not list(tmp_path.iterdir())


def test_the_readme_lists_each_experiment_once():
    folder = CONFIGS / "experiment"
    text = (folder / "README.md").read_text()
    rows = re.findall(r"^\| \[`([^`]+)`\]\(([^)]+)\) \|", text, re.MULTILINE)
    shipped = [file.relative_to(folder).as_posix() for file in files_of("experiment")]
    assert sorted(name for name, _ in rows) == [n for n in shipped if not n.startswith("mini/")]
    assert all(name == target for name, target in rows)


# -------------------------------------------------------------------------------- data and metrics


def scenes(*sources):
    """The scenes of the photographs that sources read; both images of a stereo pair show one."""
    names = []
    for source in sources:
        if source and source["class_path"].endswith(".Photos"):
            names += source.get("init_args", {}).get("names") or PHOTOS
    return {re.sub("_(left|right)$", "", name) for name in names}


@pytest.mark.parametrize("file", files_of("data"), ids=lambda file: file.stem)
def test_training_validation_and_test_share_no_scene(file):
    data = whole(file)["init_args"]
    train = scenes(data.get("train"))
    val = scenes(*(data.get("val") or {}).values())
    test = scenes(*(data.get("test") or {}).values())
    assert not train & val
    assert not train & test
    assert not val & test


def papers():
    """The sets of papers in docs/metrics.md: each file under data/ and preset under callbacks/."""
    for line in (REPO / "docs/metrics.md").read_text().splitlines():
        for data in re.findall(r"^\|.* `(\w+)\.yaml` \|", line):
            presets = line.rpartition(" | ")[2]
            for preset in re.findall(r"`([\w-]+)`", presets):
                yield data, preset


PAPERS = list(papers())
NO_HR = ("realset80", "rp60")
SETS = ("imagenet_test", "imagenet_test_256", "realsr", "drealsr", "div2k_1024")
LARGE = (48, 40)  # width and height; four times as large, it has the two blocks that NIQE needs
SMALL = (12, 10)  # its LR at x4


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory, with an image of each set in `$ENLARGER_DATA`."""
    data = tmp_path / "data"
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)

    def save(name, size):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(path)

    for name in SETS:
        save(f"{name}/hr/image.png", LARGE)
        save(f"{name}/lr/image.png", SMALL)
    for name in NO_HR:
        save(f"{name}/lr/image.png", LARGE)
    save("celeba_hq/x10/hr/face.png", (160, 160))
    save("celeba_hq/x10/lr/face.png", (16, 16))
    save("DIV2K_valid_HR/0801.png", LARGE)
    save("DIV2K_valid_LR_bicubic/X4/0801x4.png", SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(data))
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(data))
    return tmp_path


@pytest.mark.parametrize(("data", "callbacks"), quick(PAPERS, *NO_HR, "drealsr"))
def test_bicubic_is_measured_on_each_set_of_a_paper(data, callbacks, enlarger, home, monkeypatch):
    """A row of docs/metrics.md names the data, and as `callbacks` the metrics of the paper."""
    if data in NO_HR:
        stand_in(home / "weights", monkeypatch)  # a random model of NIQE, which needs no HR
    metrics = f"--trainer.callbacks {CONFIGS}/callbacks/{callbacks}.yaml"
    options = f"{MODEL} --data {CONFIGS}/data/{data}.yaml {metrics} --data.workers 0 {ON_ONE_CPU}"
    enlarger(f"test --config {CONFIGS}/experiment/benchmark.yaml {options}")
    results = json.loads(Path("runs/benchmark/results.json").read_text())["results"]
    values = {entry["metric"]: entry["value"] for entry in results}
    assert np.isfinite([*values.values()]).all()
    # Of the preset's metrics; those whose weights are not here are left out.
    if data in NO_HR:
        assert set(values) == {"niqe"}
    elif callbacks == "liif-div2k":  # LIIF's tables have PSNR alone
        assert set(values) == {"psnr"}
    else:
        assert {"psnr", "ssim"} <= set(values)


def test_docs_metrics_names_a_test_set_for_the_preset_of_each_paper():
    """These presets of configs/callbacks have the metrics of a paper's tables.

    The test above has one case for each row of that page: it would not miss one that is not there.
    """
    expected = {"liif-div2k", "idm-faces", "invsr-imagenet", "resshift", "nsarm-real"}
    assert {preset for _, preset in PAPERS} == expected


# ------------------------------------------------------------------------------------------ sizes


def millions(network):
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.fixture
def model_of(tmp_path, monkeypatch, enlarger):
    """Return the model of a command, as it makes it, without memory for its weights."""
    models = []

    def stop(cli):
        models.append(cli.model)
        raise SystemExit(0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EnlargerCLI, "after_instantiate_classes", stop)
    monkeypatch.setattr("commands.cli.needed_files", lambda *_: {})  # published files, read later

    def make(options):
        with torch.device("meta"), pytest.raises(SystemExit, match="0"):
            enlarger(f"fit {options} {ON_ONE_CPU}")
        return models[-1]

    return make


def test_stage_one_of_nsarm_has_the_sizes_of_its_paper(model_of):
    """NSARM, arXiv 2510.00820: a mapper of 385.1 M parameters in the latents of Infinity-8B."""
    experiment = f"--config {CONFIGS}/experiment/nsarm_8b_stage1.yaml"
    model = model_of(f"{experiment} --trainer.strategy auto --trainer.precision 32")
    assert type(model).__name__ == "NSARMStageOne"
    assert round(millions(model.mapper), 1) == 385.1
    assert round(millions(model.space), 1) == 81.6  # Infinity-8B's autoencoder, 81.62 M
    # The mapper takes images of 256 pixels alone, and predicts the first seven scales.
    assert model.scales.latents[:7] == model.mapper.grids
    assert model.tile == 256


# Parameters of the networks that take the released weights; the paper rounds them to 2 and 8
# billion. Of 1024 px, the autoencoders make latents of 1024 / 16 and 1024 / 8.
INFINITY = [("2b", 2204.6, 64), ("8b", 8375.8, 128)]


@pytest.mark.parametrize(("name", "m_parameters", "latent_side"), quick(INFINITY, "2b"))
def test_infinity_has_the_size_and_tokens_of_its_paper(model_of, name, m_parameters, latent_side):
    no_t5 = "--model.init_args.encoder null"  # its weights would be downloaded
    model = model_of(f"--model {CONFIGS}/model/infinity_{name}.yaml {DATA} {no_t5}")
    assert round(millions(model.transformer), 1) == m_parameters
    # Sides of the paper's 13 scales; a token of the last one is 1024 / 64 = 16 pixels wide.
    grids = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
    tokens = model.space.scales((latent_side, latent_side)).tokens
    assert tokens == sum(side**2 for side in grids)


def network_of(file):
    """A network of configs/network at x4, in a method that trains it."""
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    preset = plain_yaml(file.read_text())
    kind = getattr(lightning_modules, preset["class_path"].rpartition(".")[2])
    torch.manual_seed(0)
    return quiet(Regression(4, partial(kind, **preset["init_args"])))  # without a trainer


each_network = pytest.mark.parametrize("file", files_of("network"), ids=lambda file: file.stem)


@pytest.mark.slow
@each_network
def test_a_network_has_the_parameters_that_the_first_line_of_its_file_states(file):
    stated = re.search(r": ([\d.]+) M parameters", file.read_text())[1]
    assert f"{millions(network_of(file)):.2f}" == stated


@pytest.mark.slow
@each_network
def test_a_trained_network_is_exported_in_the_layout_that_spandrel_reads(file, tmp_path):
    model = network_of(file)
    lr = uniform(2, 3, 8, 8)  # batch norms need two
    batch = {"hr": uniform(2, 3, 32, 32), "lr": lr, "size": (32, 32)}
    optimizer = adam(model.parameters())
    for _ in range(2):  # other weights than those of the constructor
        model.training_step(batch, 0).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)  # or DDP would refuse it
        optimizer.step()
        optimizer.zero_grad()

    exported = {name: t.contiguous().clone() for name, t in model.network.community().items()}
    save_file(exported, tmp_path / "a.safetensors")
    loaded = Spandrel(4, str(tmp_path / "a.safetensors"))
    with torch.no_grad():
        expected = model.eval()(lr).clamp(0, 1)
        torch.testing.assert_close(loaded(lr), expected, atol=1e-4, rtol=0)
