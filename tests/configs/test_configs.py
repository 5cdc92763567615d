"""Everything under `configs/` parses, and every experiment runs, made small."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands.cli import EnlargerCLI
from datamodules.pack import __main__ as pack
from datamodules.sources.photos import PHOTOS
from tests.commands.conftest import Read
from tests.configs.blurred import save
from tests.configs.shipped import PATHS, content
from tests.conftest import REPO
from tests.lightning_modules.vgg19 import save_vgg19
from tests.quick import quick
from tests.reference.vqgan import VQGAN
from tests.stand_ins import stand_in

Enlarger = Callable[..., None]
CONFIGS = REPO / "configs"
FILES = sorted(PATHS)
EXPERIMENTS = [name for name in FILES if name.startswith("experiment/")]
# They stand after an experiment, which their first line names.
ABLATIONS = {
    name: re.findall(r"after (\w+\.yaml)", PATHS[name].read_text().splitlines()[0])
    for name in FILES
    if name.startswith("ablation/")
}
# The row of each test set of a paper, by its file under data/ and its preset under callbacks/.
PAPERS = [
    (found[0], preset)
    for line in (REPO / "docs/metrics.md").read_text().splitlines()
    if (found := re.findall(r"`--data configs/data/(\w+)\.yaml`", line))
    for preset in re.findall(r"`([\w-]+)`", line.rpartition(" | ")[2])
]
NO_HR = ("realset80", "rp60")  # whose only metrics need weights
BENCHMARK = CONFIGS / "experiment/benchmark.yaml"
# Those that stand on another run, or on data that no test here makes, have tests of their own,
# which name them in a marker `runs`; test_built.py builds them, and sees that none is forgotten.
OWN_TESTS = [
    n
    for n in EXPERIMENTS
    if re.search(r"/mini/|casarbi|latent_lpips|natural|sd_turbo|self_cascade|nsarm_8b", n)
]
TRAINED = [n for n in EXPERIMENTS if n not in OWN_TESTS and CONFIGS / n != BENCHMARK]
# Larger quickstart_gan.yaml, that one's data and degradation with quickstart.yaml's model, and
# variants of resshift_v2.yaml: those three are trained by quick tests.
VARIANTS = {
    *(f"experiment/{n}.yaml" for n in ("compact_x2", "realesrnet_x4plus", "realesrgan_x4plus")),
    "experiment/real_esrgan_quickstart.yaml",
    *(f"experiment/{n}.yaml" for n in ("resshift_journal", "swinir_real_x4")),
}
# Of OWN_TESTS, benchmarks' own, which differ little from users' files, and the same model on other
# data; built by slow tests.
ALIKE = {
    *(n for n in OWN_TESTS if "benchmarks" in PATHS[n].parts),
    *(f"experiment/mini/self_cascade/{n}.yaml" for n in ("attn_sf", "lora_r4", "lora_r32", "tf")),
    *(f"experiment/mini/self_cascade_video/{n}.yaml" for n in ("scalecrafter", "tf", "tuned")),
    *(f"experiment/mini/self_cascade/{n}.yaml" for n in ("direct", "finetune", "sd_sr", "sr")),
    *(f"experiment/mini/self_cascade/{n}.yaml" for n in ("scalecrafter", "tuned")),
    "experiment/mini/self_cascade_video/direct.yaml",
    *(f"experiment/mini/nsarm/{n}.yaml" for n in ("base", "latents", "stage1")),
    *(f"experiment/mini/{n}.yaml" for n in ("casarbi/base", "invsr/base", "invsr/latents")),
    *(f"experiment/{n}.yaml" for n in ("casarbi_base", "mini/resshift/pixel")),
    "experiment/resshift_natural.yaml",
    *(f"experiment/self_cascade_{n}.yaml" for n in ("64/base", "64/tf", "prompts")),
}

# A file of a group in its place; `{}` is the file, the rest comes from other shipped files.
MODEL, DATA = ("--model", "model/bicubic.yaml"), ("--data", "data/photos.yaml")
PLACES: dict[str, tuple[str, ...]] = {
    "backbone": (
        *("--model", "model/taef2_round_trip.yaml", *DATA, "--model.init_args.space", "{}"),
    ),
    "augment": (*MODEL, *DATA, "--data.init_args.crops.augment", "{}"),
    "callbacks": (*MODEL, *DATA, "--trainer.callbacks", "{}"),
    "data": (*MODEL, "--data", "{}"),
    "degradation": (*MODEL, *DATA, "--degradation", "{}"),
    "experiment": ("--config", "{}"),
    "logger": (*MODEL, *DATA, "--trainer.logger", "{}"),
    "model": (*DATA, "--model", "{}"),
    "trainer": (*MODEL, *DATA, "--trainer", "{}"),
}
RESSHIFT = (
    *("--data.init_args.crops.per_image", "4"),
    *("--model.init_args.network.multipliers", "[1,2]", "--model.init_args.network.width", "32"),
    *("--model.init_args.network.window", "4", "--model.init_args.network.swin_width", "48"),
    *("--model.init_args.space.channels", "[32,32,32]", "--model.init_args.space.entries", "16"),
    *("--data.init_args.val.photos.init_args.size", "32"),
)
# Small enough for seconds on a CPU; what each is for stays as it is shipped.
FEW_LAYERS = (  # of VGG19, from a file of them alone
    *("--model.init_args.losses.perceptual.init_args.layers", '{"conv1_2": 0.1, "conv2_2": 0.1}'),
    *(
        "--model.init_args.losses.perceptual.init_args.perceptual_weights",
        "$ENLARGER_WEIGHTS/vgg19.pth",
    ),
    *("--model.init_args.discriminator.init_args.width", "4"),
)
RRDB = ("--model.init_args.network.channels", "8", "--model.init_args.network.blocks", "1")
SMALL: dict[str, tuple[str, ...]] = {
    "compact": (
        *("--model.init_args.network.channels", "8", "--model.init_args.network.convolutions", "2"),
        *FEW_LAYERS,
    ),
    "evening": (
        *("--model.init_args.network.init_args.channels", "8"),
        *("--model.init_args.network.init_args.convolutions", "2"),
        *("--model.init_args.discriminator.init_args.width", "4"),
        *("--model.init_args.weights", "null"),
    ),
    "realesrnet": RRDB,
    "realesrgan": (*RRDB, *FEW_LAYERS, "--model.init_args.weights", "null"),
    "swinir": (
        *FEW_LAYERS,
        "--model.init_args.network.init_args.arguments",
        '{"window_size": 8, "embed_dim": 8, "depths": [2], "num_heads": [2], '
        '"upsampler": "nearest+conv"}',
    ),
    "edsr": ("--model.init_args.network.blocks", "1", "--model.init_args.network.channels", "8"),
    "quickstart": (
        *("--model.init_args.network.init_args.blocks", "1"),
        *("--model.init_args.network.init_args.channels", "8"),
    ),
    "resshift_v2": RESSHIFT,
    "resshift_journal": (*RESSHIFT, "--model.init_args.perceptual", "null"),
}
FIT = (
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--data.init_args.batch_size", "4", "--data.init_args.crop_size", "32"),
    *("--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"),
)
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
)


def in_place(name: str) -> list[str]:
    """Arguments in which the file stands where it belongs."""
    place = PLACES.get(name.partition("/")[0])
    if place is None:
        place = ("--config", f"experiment/{ABLATIONS[name][0]}", "--config", "{}")
    if CONFIGS / name == BENCHMARK:
        place = (*place, *MODEL)
    words = [word.replace("{}", name) for word in place]
    return [str(PATHS[word]) if word.endswith(".yaml") else word for word in words]


# ----------------------------------------------------------------------------------------- parsing


# What a quick test runs or builds is parsed there, with all files that it names.
QUICK = [n for n in EXPERIMENTS if n not in ALIKE and "resshift_journal" not in n]
PRESETS = [f"data/{data}.yaml" for data, _ in PAPERS]
PRESETS += [f"callbacks/{preset}.yaml" for _, preset in PAPERS]


def with_parts(names: Iterable[str]) -> set[str]:
    """Those files, and all that they stand on."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += [word for word in words_of(content(name)) if word in PATHS]
    return found


def words_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from words_of(inner)


# The other files of these groups are parsed together: the n-th of each group in one command.
GROUPS = ("model", "data", "degradation", "trainer", "callbacks")
SEEN = with_parts([*QUICK, *PRESETS])
MEMBERS = {
    group: [name for name in FILES if name.startswith(f"{group}/") and name not in SEEN]
    or [next(name for name in FILES if name.startswith(f"{group}/"))]
    for group in GROUPS
}
TOGETHER = [
    tuple(names[number % len(names)] for names in MEMBERS.values())
    for number in range(max(map(len, MEMBERS.values())))
]
# An experiment is parsed where a quick test runs it, below, or builds it, in test_built.py.
ALONE = [
    *(name for name in FILES if name.partition("/")[0] not in (*GROUPS, "experiment")),
    *sorted(name for name in VARIANTS | ALIKE if "/mini/" not in name),
]
ALONE.remove("weights.yaml")


def reads(enlarger: Enlarger, tmp_path: Path, *words: str) -> None:
    def stop(cli: EnlargerCLI) -> None:
        raise Read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnlargerCLI, "before_instantiate_classes", stop)
        with pytest.raises(Read):
            enlarger("fit", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ALONE)
def test_parses(
    name: str, enlarger: Enlarger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reads(enlarger, tmp_path, *in_place(name))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(n, marks=pytest.mark.slow if number % 2 else ())
        for number, n in enumerate(TOGETHER)
    ],
    ids=" ".join,
)
def test_parts_parse(
    names: tuple[str, ...], enlarger: Enlarger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ("--model", "--data", "--degradation", "--trainer", "--trainer.callbacks")
    words = zip(keys, (str(PATHS[name]) for name in names), strict=True)
    reads(enlarger, tmp_path, *(word for pair in words for word in pair))


def test_the_readme_lists_each_experiment_once() -> None:
    text = (CONFIGS / "experiment/README.md").read_text()
    rows = re.findall(r"^\| \[`([^`]+)`\]\(([^)]+)\) \|", text, re.MULTILINE)
    assert all(shown == target for shown, target in rows)
    shipped = [n.removeprefix("experiment/") for n in EXPERIMENTS if "/mini/" not in n]
    assert sorted(shown for shown, _ in rows) == shipped


# ------------------------------------------------------------------------------------------ splits


def photos(source: dict[str, Any]) -> list[str]:
    if not source["class_path"].endswith(".Photos"):
        return []
    return list(source.get("init_args", {}).get("names") or PHOTOS)


def shared_scenes(names: list[str], held_out: list[str]) -> list[str]:
    """Scenes on both sides of a split, of which there should be none."""
    sides = ({re.sub("_(left|right)$", "", name) for name in side} for side in (names, held_out))
    return sorted(set.intersection(*sides))


def test_no_scene_is_on_two_sides() -> None:
    """Among them the stereo pair, whose images show the same garage."""
    for name in (name for name in FILES if name.startswith("data/")):
        data = content(name)["init_args"]
        train = photos(data["train"]) if "train" in data else []
        sides = ([*data.get(part, {}).values()] for part in ("val", "test"))
        val, test = ([n for source in side for n in photos(source)] for side in sides)
        assert shared_scenes(train, val + test) == [], name
        assert shared_scenes(val, test) == [], name


# ----------------------------------------------------------------------------------------- running


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `$ENLARGER_DATA` and `$ENLARGER_WEIGHTS` hold, small and made here."""
    root = tmp_path_factory.mktemp("data")
    for name in ("set5", "set14"):
        for scale in (2, 4):
            for side, size in (("hr", (48, 40)), ("lr", (48 // scale, 40 // scale))):
                save(root / name / f"x{scale}" / side / "image.png", size)
    save(root / "outputs" / "image.png", (48, 40), seed=2)
    _paper_sets(root)
    for number in range(4):
        save(root / "train" / f"{number}.png", (48, 40))
    assert pack.main([str(root / "train"), str(root / "shards")]) == 0
    # Tensors of Real-ESRGAN's compact network (SRVGGNetCompact), which spandrel reads.
    shapes = {0: (4, 3, 3, 3), 1: (4,), 2: (4, 4, 3, 3), 3: (4,), 4: (12, 4, 3, 3)}
    state = {f"body.{n}.weight": torch.full(shape, 0.01) for n, shape in shapes.items()}
    state |= {f"body.{n}.bias": torch.zeros(shapes[n][0]) for n in (0, 2, 4)}
    torch.save({"params": state}, root / "spandrel.pth")
    for name in ("DIV2K_train_HR", "Flickr2K/Flickr2K_HR", "OST"):
        save(root / name / "photo.png", (48, 40))
    layers = save_vgg19(root, ("conv1_1", "conv1_2", "conv2_1", "conv2_2"))
    layers.rename(root / "vgg19.pth")
    autoencoder = VQGAN((32, 32, 32), 16, 3).state_dict()
    torch.save({"state_dict": autoencoder}, root / "autoencoder_vq_f4.pth")
    return root


def _paper_sets(root: Path) -> None:
    """An image of each set that a paper's preset is for."""
    for name in ("imagenet_test", "imagenet_test_256", "realsr", "drealsr", "div2k_1024"):
        save(root / name / "hr/image.png", (48, 40))
        save(root / name / "lr/image.png", (12, 10))
    for name in ("realset80", "rp60"):
        save(root / name / "lr/image.png", (48, 40))  # x4: two blocks of NIQE
    save(root / "kodak24/image.png", (48, 40))
    save(root / "celeba_hq/x10/hr/face.png", (160, 160))
    save(root / "celeba_hq/x10/lr/face.png", (16, 16))
    save(root / "DIV2K_valid_HR/0801.png", (48, 40))
    save(root / "DIV2K_valid_LR_bicubic/X4/0801x4.png", (12, 10))


@pytest.fixture
def home(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(small_data))
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(small_data))
    return tmp_path


def small(name: str) -> tuple[str, ...]:
    return next((words for start, words in SMALL.items() if run_of(name).startswith(start)), ())


def run_of(name: str) -> str:
    """What a run of the experiment is called: its path, with underscores."""
    return "_".join(Path(name).with_suffix("").parts[1:])


def results(run: str) -> list[dict[str, Any]]:
    measured = json.loads(Path("runs", run, "results.json").read_text())["results"]
    assert measured
    assert all(np.isfinite(entry["value"]) for entry in measured)
    return list(measured)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in VARIANTS else ()) for name in TRAINED],
)
def test_trains_and_tests(name: str, enlarger: Enlarger, home: Path) -> None:
    """Two steps and a validation; then one image of each test set."""
    command = ("--config", PATHS[name], *RUN, *small(name))
    enlarger("fit", *command, *FIT)
    ranking = json.loads(Path("runs", run_of(name), "checkpoints/best.json").read_text())
    assert ranking["monitor"] == "val/psnr"
    kept = content(name).get("checkpoint", {}).get("keep_best", 1)
    assert ranking["best"] == ["step-000000002.ckpt"][:kept]
    enlarger("test", *command, "--trainer.limit_test_batches", 1)
    measured = results(run_of(name))
    assert {entry["metric"] for entry in measured} >= {"psnr", "ssim"}
    assert "step-000000002.ckpt" in measured[0]["checkpoint"]


def benchmark(model: str, *more: Any) -> tuple[Any, ...]:
    """Arguments that measure a shipped model."""
    return ("test", "--config", BENCHMARK, "--model", CONFIGS / f"model/{model}.yaml", *RUN, *more)


def preset(data: str, callbacks: str) -> tuple[Any, ...]:
    """Arguments for a set and a paper's metrics."""
    file = CONFIGS / f"callbacks/{callbacks}.yaml"
    return ("--data", CONFIGS / f"data/{data}.yaml", "--trainer.callbacks", file)


@pytest.mark.parametrize(("data", "callbacks"), quick(PAPERS, *NO_HR, "drealsr"))
def test_a_test_set_of_a_paper(
    data: str, callbacks: str, enlarger: Enlarger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bicubic, and with other weights for published ones, of which a fresh clone has none."""
    if data in NO_HR:
        stand_in(home / "weights", monkeypatch)
    enlarger(*benchmark("bicubic", *preset(data, callbacks)))
    measured = {entry["metric"] for entry in results("benchmark")}
    if data in NO_HR:
        variance = {"robustness_niqe_variance"} if callbacks == "nsarm-real" else set()
        assert measured == {"niqe"} | variance
    else:
        assert measured >= ({"psnr"} if "liif" in callbacks else {"psnr", "ssim"})


def test_the_papers_presets_have_a_test_set() -> None:
    expected = {"liif-div2k", "idm-faces", "invsr-imagenet", "resshift", "nsarm-real"}
    assert {preset for _, preset in PAPERS} == expected
