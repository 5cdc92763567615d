"""Everything under `configs/` parses; tests/matrix runs the experiments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands.cli import EnlargerCLI
from datamodules.sources.photos import PHOTOS
from tests.commands.conftest import Read
from tests.configs.blurred import save
from tests.configs.shipped import PATHS, content
from tests.conftest import REPO
from tests.quick import quick
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
    "network": (
        *(*DATA, "--data.init_args.scale", "4"),
        *("--model", "lightning_modules.Regression", "--model.init_args.network", "{}"),
    ),
    "trainer": (*MODEL, *DATA, "--trainer", "{}"),
}
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


# What tests/matrix or a paper's test runs is parsed there, with all files that it names.
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
SEEN = with_parts([*EXPERIMENTS, *PRESETS])
MEMBERS = {
    group: [name for name in FILES if name.startswith(f"{group}/") and name not in SEEN]
    or [next(name for name in FILES if name.startswith(f"{group}/"))]
    for group in GROUPS
}
TOGETHER = [
    tuple(names[number % len(names)] for names in MEMBERS.values())
    for number in range(max(map(len, MEMBERS.values())))
]
TABLES = ("migrating.yaml", "needs.yaml", "weights.yaml")  # no configurations
ALONE = [name for name in FILES if name.partition("/")[0] not in (*GROUPS, "experiment", *TABLES)]


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
    _paper_sets(root)
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


def results(run: str) -> list[dict[str, Any]]:
    measured = json.loads(Path("runs", run, "results.json").read_text())["results"]
    assert measured
    assert all(np.isfinite(entry["value"]) for entry in measured)
    return list(measured)


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
        assert measured == {"niqe"}
    else:
        assert measured >= ({"psnr"} if "liif" in callbacks else {"psnr", "ssim"})


def test_the_papers_presets_have_a_test_set() -> None:
    expected = {"liif-div2k", "idm-faces", "invsr-imagenet", "resshift", "nsarm-real"}
    assert {preset for _, preset in PAPERS} == expected
