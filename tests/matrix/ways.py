"""The ways in which the pages promise that a recipe runs: a function each."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from safetensors.torch import load_file
from torch import Tensor

from datamodules.base import SRDataModule
from lightning_modules.base import Generator, ImageModel, SuperResolver
from lightning_modules.networks.running import Running
from tests.distributed.records import assert_same, newest
from tests.gpu.device import pretended_gpu
from tests.matrix.files import HUB, save_data, save_folder, save_weights
from tests.matrix.processes import Failed, command, last_line, start
from tests.matrix.recipes import RECIPES, SIDE, STEPS, Recipe, class_of


@dataclass
class Cell:
    """A recipe in its own folder, which is the working directory.

    Args:
        recipe: The recipe.
        root: The folder of all cells.
        way: Name of the way.
    """

    recipe: Recipe
    root: Path
    way: str

    @cached_property
    def folder(self) -> Path:
        return self.root / self.recipe.run / self.way

    @property
    def trained(self) -> Path:
        """The run of the way `train`: four steps on one process."""
        return self.root / self.recipe.run / "train" / "runs" / self.recipe.run

    @property
    def own(self) -> Path:
        """The run of this cell."""
        return Path("runs", self.recipe.run)

    def begin(self) -> None:
        """Make the folder: the recipe, its data, its weights, and the runs that it stands on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "runs").mkdir(parents=True)
        os.chdir(self.folder)
        os.environ["ENLARGER_DATA"] = str(self.folder / "data")
        os.environ["ENLARGER_BASE_SAMPLES"] = str(self.folder / "data")
        for name in {place.partition("/")[0] for place in (*HUB, "google/")}:
            Path(name).symlink_to(self.root / name)
        for other in RECIPES:
            if other.run in self.recipe.needs and other != self.recipe:
                place = self.root / other.run / "train" / "runs" / other.run
                Path("runs", other.run).symlink_to(place)
        content = self.recipe.small
        Path("recipe.yaml").write_text(yaml.safe_dump(content))
        save_data(content)

    def run(self, verb: str, *more: object, processes: int = 1) -> None:
        """Run a command with the recipe."""
        own = [] if verb == "encode" else ["--run.name", self.recipe.run]
        options = self.recipe.command[1:] if verb == self.recipe.verb else []
        words = [verb, "--config", "recipe.yaml", *options, *own, *more]
        number = len(list(Path().glob("*.log")))
        command(words, Path(f"{number:02}-{verb}.log").absolute(), processes)

    def fit(self, steps: int = STEPS, *more: object, processes: int = 1) -> dict[str, Any]:
        """Train up to a step; return the last checkpoint."""
        for path in Path().glob("watch.*.json"):
            path.unlink()
        self.run("fit", "--trainer.max_steps", steps, *more, processes=processes)
        checkpoint = newest(self.own)
        assert checkpoint["global_step"] >= steps, checkpoint["global_step"]
        assert_finite(checkpoint)
        return checkpoint

    def write(self, content: dict[str, Any]) -> None:
        """Replace the recipe."""
        Path("recipe.yaml").write_text(yaml.safe_dump(content))

    def changed(self) -> dict[str, Any]:
        """Return the content, for a way to change and write."""
        return yaml.safe_load(Path("recipe.yaml").read_text())


def assert_finite(checkpoint: dict[str, Any]) -> None:
    wrong = [name for name, x in checkpoint["state_dict"].items() if not x.isfinite().all()]
    assert not wrong, f"not finite: {wrong[:3]}"


def assert_close(cell: Cell, got: dict[str, Any]) -> None:
    """Assert that processes agree, and that a method without draws has one process's weights.

    A method that draws noise in training draws it for each process's part of the batch.
    """
    found = watched()
    assert len({each["weights"] for each in found}) == 1, "processes have other weights"
    if any(each["draws"] for each in found):
        return
    expected = newest(cell.trained)["state_dict"]
    far = distance(got["state_dict"], expected) / norm(expected)
    assert far <= TOLERANCE, f"weights differ by {far:.2g}"


def watched() -> list[dict[str, Any]]:
    """Return what `Watch` wrote of each process of the latest training."""
    return [json.loads(path.read_text()) for path in sorted(Path().glob("watch.*.json"))]


def norm(tensors: dict[str, Tensor]) -> float:
    return float(sum(x.double().square().sum() for x in tensors.values())) ** 0.5


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return norm({name: one[name].double() - other[name].double() for name in one})


# -------------------------------------------------------------------------------------- the ways


def train(cell: Cell) -> None:
    """The recipe's own command in one process: finite weights, shards or results."""
    build(cell)
    if cell.recipe.verb == "fit":
        cell.fit()
        return
    cell.run(cell.recipe.verb)
    if cell.recipe.verb == "encode":
        assert list(cell.own.glob("*.tar"))
    elif not metrics_are_off(cell):
        assert measured(cell), "no results"


def metrics_are_off(cell: Cell) -> bool:
    """Whether all metrics of a recipe are off because their weights are not here."""
    said = Path("01-test.0.log").read_text()
    given = cell.recipe.shipped["trainer"]["callbacks"]
    return said.count(" is off, no number will appear: ") == len(given)


def build(cell: Cell) -> None:
    """Write the weights that the recipe names, those of its model before the first step."""
    from commands import cli

    def stop(made: Any) -> None:
        save_weights(made.model, cell.recipe.small)
        raise SystemExit(0)

    def act() -> None:
        import main

        cli.EnlargerCLI.after_instantiate_classes = stop
        cli.needed_files = lambda *_: {}
        options = cell.recipe.command[1:]
        main.main([cell.recipe.verb, "--config", "recipe.yaml", *options])

    run_apart(act, "build")


def run_apart(act: Callable[[], None], name: str) -> None:
    """Run a function in a process of its own, which must succeed."""
    log = Path(f"{name}.log").absolute()
    if any(start(act, log)):
        raise Failed(name, [1], last_line(log.with_suffix(".0.log")))


def resume(cell: Cell) -> None:
    """Stopped after two of four steps: the same bits."""
    cell.fit(2)
    assert_same(cell.fit(), newest(cell.trained))


def ddp(cell: Cell) -> None:
    """Training on two processes: the weights of training on one."""
    assert_close(cell, cell.fit(processes=2))


def to_one(cell: Cell) -> None:
    """Two steps on two processes, two on one."""
    cell.fit(2, processes=2)
    assert_close(cell, cell.fit())


def to_two(cell: Cell) -> None:
    """Two steps on one process, two on two."""
    cell.fit(2)
    assert_close(cell, cell.fit(processes=2))


def fsdp(cell: Cell) -> None:
    """Without EMA, as its page says: trains, also further on one process; or is refused."""
    without_ema(cell)
    try:
        cell.fit(2, *FSDP, processes=2)
    except Failed as failed:
        refuse_others(cell, failed)
        return
    assert_close(cell, cell.fit())


def without_ema(cell: Cell) -> None:
    """Leave out the callback that FSDP refuses."""
    content = cell.changed()
    given = content["trainer"].get("callbacks") or []
    content["trainer"]["callbacks"] = [c for c in given if class_of(c) != "EMA"]
    cell.write(content)


def refuse_others(cell: Cell, failed: Failed) -> None:
    """Raise a failure that is no refusal before the first step."""
    is_refusal = set(failed.statuses) == {2} and failed.why.startswith("error: ")
    if not is_refusal or list(cell.own.glob("checkpoints/*")):
        raise failed


def afresh(cell: Cell, steps: int, *options: object, processes: int = 1) -> dict[str, Any]:
    """Train from the start; return the last checkpoint."""
    shutil.rmtree(cell.own, ignore_errors=True)
    return cell.fit(steps, *options, processes=processes)


def sgd(cell: Cell, *options: object, processes: int = 2, within: float = 0.01) -> None:
    """By plain gradient descent: DDP and FSDP move the weights as one process does.

    Adam would hide a wrong factor of the gradients. With draws, which each process has its own of,
    FSDP is compared with DDP.

    Args:
        cell: The cell.
        options: Of all trainings.
        processes: Number of processes.
        within: Greatest difference, as a share of how far the weights moved.
    """
    without_ema(cell)
    content = cell.changed()
    model = content["model"]["init_args"]
    model["optimizer"] = SGD
    model.pop("lr_scheduler", None)
    content["trainer"].pop("gradient_clip_val", None)  # which would hide a factor, too
    content["trainer"].pop("precision", None)  # FSDP rounds gradients to bfloat16, too
    for given in (model, model.get("training", {})):
        given.pop("clip", None)
        if "discriminator" in given:
            given["discriminator_optimizer"] = SGD
    cell.write(content)
    alone = afresh(cell, 2, *options)
    (found,) = watched()
    ddp = afresh(cell, 2, *options, processes=processes)
    pairs = [] if found["draws"] else [(ddp, alone)]
    try:
        pairs.append((afresh(cell, 2, *options, *FSDP, processes=processes), ddp))
    except Failed as failed:
        refuse_others(cell, failed)
    for got, expected in pairs:
        far = distance(got["state_dict"], expected["state_dict"]) / found["moved"]
        assert far <= within, f"weights differ by {far:.2g} of what they moved"


def accumulate_sgd(cell: Cell) -> None:
    """As `sgd`, four batches a step."""
    sgd(cell, *accumulation(cell))


def bf16_sgd(cell: Cell) -> None:
    """As `sgd`, in bfloat16, which has 8 bits."""
    sgd(cell, "--trainer.precision", "bf16-mixed", within=0.1)


def three(cell: Cell) -> None:
    """As `sgd`, on three processes."""
    sgd(cell, "--data.init_args.batch_size", 6, processes=3)


def fsdp_resume(cell: Cell) -> None:
    """Stopped after two of four steps, and continued by FSDP: the same bits."""
    without_ema(cell)
    whole = afresh(cell, STEPS, *FSDP, processes=2)
    afresh(cell, 2, *FSDP, processes=2)
    assert_same(cell.fit(STEPS, *FSDP, processes=2), whole)


def sigterm(cell: Cell) -> None:
    """A SIGTERM to one of several processes within training: the same bits after a new start."""
    options = ("--trainer.limit_val_batches", 0)  # a validation would stop without a checkpoint
    content = cell.changed()
    stopping = cell.changed()
    stopping["trainer"]["callbacks"][-1]["init_args"] = {"stop": 1}
    for processes in (1, 2):
        cell.write(content)
        whole = afresh(cell, STEPS, *options, processes=processes)
        cell.write(stopping)
        with pytest.raises(Failed) as stopped:
            afresh(cell, STEPS, *options, processes=processes)
        assert set(stopped.value.statuses) == {128 + signal.SIGTERM}, stopped.value
        assert 0 < newest(cell.own)["global_step"] < STEPS
        assert_same(cell.fit(STEPS, *options, processes=processes), whole)


def workers(cell: Cell) -> None:
    """Two workers that read data: the bits of training without workers."""
    assert_same(cell.fit(STEPS, "--data.init_args.workers", 2), newest(cell.trained))


def accumulate(cell: Cell) -> None:
    """In bfloat16, four batches a step, where an epoch has another number: finite weights."""
    cell.fit(2, "--trainer.precision", "bf16-mixed", *accumulation(cell))


def accumulation(cell: Cell) -> tuple[str, int]:
    """Return the option of four batches a step."""
    from lightning_modules.adversarial import Adversarial

    kind = type_of(cell.recipe.small["model"]["class_path"])
    option = "--trainer.accumulate_grad_batches"
    if issubclass(kind, Adversarial):
        option = f"--model.init_args.{kind.group}accumulate"
    return option, 4


def compiled(cell: Cell) -> None:
    """With `compile: true` wherever a class takes it.

    Traced and differentiated as by `inductor`, whose machine code would take a minute a recipe.
    """
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    content = cell.changed()
    for _, given in compilable(content["model"]):
        given["compile"] = True
    cell.write(content)
    cell.fit(2)


def compilable(model: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the classes within a model that can be compiled, and where that is set."""
    found = []
    for path, given in classes(model):
        kind = type_of(path)
        if isinstance(kind, type) and issubclass(kind, Running):
            found.append((path, given))
        elif "flags" in inspect.signature(kind).parameters:
            found.append((path, given.setdefault("flags", {})))
    return found


def evaluate(cell: Cell) -> None:
    """Each command that uses a run, with finite numbers.

    `validate` on two processes has the numbers of one; `predict` writes files, and the same ones
    with weights of `export`.
    """
    take_run(cell)
    data = cell.recipe.small["data"]["init_args"]
    if data.get("val"):
        # A limit is of batches of each process: two measure more images.
        cell.run("validate", "--trainer.limit_val_batches", 1.0)
        one = measured(cell)
        cell.run("validate", "--trainer.limit_val_batches", 1.0, processes=2)
        both = measured(cell)
        assert_equal(one, both)
    if data.get("test") and cell.recipe.verb != "test":  # which was the way `train`
        cell.run("test")
        measured(cell)
    kind = type_of(cell.recipe.small["model"]["class_path"])
    makes_images = issubclass(kind, SuperResolver | Generator)  # other than a metric
    if not makes_images or not take_inputs(cell):
        return
    cell.run("predict", "--writer.folder", "run")
    files = outputs("run")
    assert files
    if not cell.recipe.trains:
        return
    cell.run("export")
    export = cell.own / "export"
    weights = load_file(export / "model.safetensors")
    assert all(x.isfinite().all() for x in weights.values() if x.is_floating_point())
    own = ["--model.weights", str(export), "--run.name", "exported", "--writer.folder", "exported"]
    cell.run("predict", *own)
    assert outputs("exported") == files, "other outputs with the exported weights"


def take_run(cell: Cell) -> None:
    if cell.trained.is_dir():  # a test whose metrics are all off leaves no run
        shutil.copytree(cell.trained, cell.own)


def assert_equal(one: dict[str, float], both: dict[str, float]) -> None:
    assert one.keys() == both.keys(), (one, both)
    for name, value in one.items():
        assert abs(both[name] - value) <= 1e-4 * max(1, abs(value)), (name, value, both[name])


def take_inputs(cell: Cell) -> bool:
    """Have `predict` enlarge or make three images; False if the recipe has none."""
    content = cell.changed()
    given = inputs(cell)
    if given is None:
        return False
    content["data"]["init_args"]["predict"] = given
    cell.write(content)
    return True


def test(cell: Cell) -> None:
    """On two processes: the numbers of one."""
    take_run(cell)
    cell.run("test")
    one = measured(cell)
    assert one
    (cell.own / "results.json").unlink()
    cell.run("test", processes=2)
    assert_equal(one, measured(cell))


def predict(cell: Cell) -> None:
    """On two processes: the files of one."""
    take_run(cell)
    assert take_inputs(cell)
    cell.run("predict", "--writer.folder", "one")
    cell.run("predict", "--writer.folder", "two", processes=2)
    assert outputs("one")
    assert outputs("two") == outputs("one")


def encode(cell: Cell) -> None:
    """On two processes: the samples of one."""
    for name, processes in (("one", 1), ("two", 2)):
        cell.run("encode", "--encode.out", name, processes=processes)
    assert members("one")
    assert members("two") == members("one")


def members(folder: str) -> dict[str, bytes]:
    """Return the contents of all members of the shards in a folder."""
    found = {}
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def outputs(folder: str) -> dict[str, bytes]:
    """Return the contents of the images and clips that `predict` wrote."""
    places = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".png", ".mp4"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in places}


def inputs(cell: Cell) -> Any:
    """Return three inputs of `predict`."""
    content = cell.recipe.small
    data = content["data"]["init_args"]
    if "predict" in data:
        return data["predict"]
    if issubclass(type_of(content["model"]["class_path"]), Generator):
        frames = [given["frames"] for _, given in classes(data) if "frames" in given]
        size = {"size": data.get("crop_size", SIDE), "frames": frames[0] if frames else None}
        if "encoder" in content["model"]["init_args"]:
            Path("prompts.txt").write_text("a red car\na\nb\n")
            return {
                "class_path": "datamodules.Prompts",
                "init_args": {"file": "prompts.txt", **size},
            }
        return {"class_path": "datamodules.Seeds", "init_args": {"count": 3, **size}}
    if "encoder" in content["model"].get("init_args", {}):
        return None  # an image of a folder has no caption
    save_folder(Path("inputs"), round(SIDE / data["scale"]))
    return "inputs"


def measured(cell: Cell) -> dict[str, float]:
    """Return the finite results so far, by set and metric."""
    path = cell.own / "results.json"
    if not path.is_file():
        return {}
    results = json.loads(path.read_text())["results"]
    wrong = [entry["metric"] for entry in results if not abs(entry["value"]) < float("inf")]
    assert not wrong, f"not finite: {wrong}"
    return {f"{e.get('split')} {e.get('dataset')} {e['metric']}": e["value"] for e in results}


def lightning(cell: Cell) -> None:
    """A user's own `LightningCLI`, and a plain `Trainer` with what it made."""
    content = cell.changed()
    data, model = content["data"]["init_args"], content["model"]["init_args"]
    model["scale"], data["seed"] = data["scale"], 0
    if degradation := content.get("degradation"):
        data["degradation"] = {
            **degradation,
            "init_args": {**degradation.get("init_args", {}), "scale": data["scale"]},
        }
    for path, given in classes(content["model"]):
        for name, parameter in inspect.signature(type_of(path)).parameters.items():
            if name.endswith("_weights") and isinstance(parameter.default, str):
                given.setdefault(name, parameter.default)
        with_files(given, data["scale"])
    plain = {
        "model": content["model"],
        "data": content["data"],
        "trainer": {**content["trainer"], "max_steps": 2, "logger": False},
    }
    Path("plain.yaml").write_text(yaml.safe_dump(plain))

    def act() -> None:
        made = LightningCLI(
            *(ImageModel, SRDataModule),
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            args=["--config", "plain.yaml"],
        )
        made.trainer.fit(made.model, datamodule=made.datamodule)
        assert made.trainer.global_step >= 2
        trainer = Trainer(
            max_steps=4,
            limit_val_batches=content["trainer"].get("limit_val_batches"),
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
        )
        trainer.fit(made.model, datamodule=made.datamodule)
        assert all(p.isfinite().all() for p in made.model.parameters())

    run_apart(act, "cli")


def with_files(given: dict[str, Any], scale: float) -> None:
    """Put files in place of runs and names, which plain Lightning does not look up."""
    from commands.run.weights import find_weights

    for key, value in given.items():
        is_weights = key in ("weights", "vgg16") or key.endswith("_weights")
        if is_weights and isinstance(value, str):
            given[key] = str(find_weights(value, scale, key))
        elif isinstance(value, dict):
            with_files(value, scale)


def gpu(cell: Cell) -> None:
    """On the pretended GPU: two steps, and the weights of two steps on a CPU."""
    cell.fit(2)
    expected = newest(cell.own)
    words = ["fit", "--config", "recipe.yaml", "--run.name", "gpu", "--trainer.max_steps", "2"]

    def act() -> None:
        import main

        with pretended_gpu():
            main.main([*words, "--trainer.accelerator", "gpu"])

    run_apart(act, "gpu")
    got = newest(Path("runs/gpu"))
    assert_finite(got)
    if not json.loads(Path("watch.0.json").read_text())["draws"]:
        far = distance(got["state_dict"], expected["state_dict"]) / norm(expected["state_dict"])
        assert far <= 1e-2, f"weights differ by {far:.2g}"


def type_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def classes(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return all class paths within a content, with their arguments, which may be changed."""
    found: list[tuple[str, dict[str, Any]]] = []
    if isinstance(value, dict):
        if "class_path" in value:
            found.append((value["class_path"], value.setdefault("init_args", {})))
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        found += classes(inner)
    return found


TOLERANCE = 1e-4
FSDP = ("--trainer.strategy", "fsdp")
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
WAYS: dict[str, Callable[[Cell], None]] = {
    "train": train,
    "ddp": ddp,
    "evaluate": evaluate,
    "fsdp": fsdp,
    "lightning": lightning,
    "gpu": gpu,
    "accumulate": accumulate,
    "resume": resume,
    "2to1": to_one,
    "1to2": to_two,
    "compile": compiled,
    "sgd": sgd,
    "+accum": accumulate_sgd,
    "+bf16": bf16_sgd,
    "three": three,
    "fsdp2fsdp": fsdp_resume,
    "sigterm": sigterm,
    "workers": workers,
    "test": test,
    "predict": predict,
    "encode": encode,
}


EACH = ("train", "evaluate")  # ways that every recipe meets
TWO_PROCESSES = ("ddp", "fsdp", "2to1", "1to2", "sgd")
HALVES = ("2to1", "1to2")
PAIRS = ("ddp", "resume", "lightning")  # ways in which model and data may disturb each other
# Ways whose mechanism does not know the method: a few recipes of different kinds meet them.
FEW = {
    "+accum": ("edsr_shards", "quickstart_gan", "mini/resshift/pixel"),
    "+bf16": ("edsr_shards", "quickstart_gan", "mini/diffusion/photographs"),
    "three": ("edsr_shards", "quickstart_gan"),
    "fsdp2fsdp": ("edsr_shards", "quickstart_gan", "mini/nsarm/stage2"),
    "sigterm": ("edsr_folder", "quickstart_gan", "mini/self_cascade/tuned"),
    "workers": ("edsr_folder", "edsr_shards", "mini/nsarm/stage1", "mini/casarbi/cascade"),
    "test": ("edsr_shards", "mini/casarbi/cascade", "mini/self_cascade/direct"),
    "predict": ("edsr_shards", "mini/invsr", "mini/self_cascade_video/direct"),
    "encode": ("mini/invsr/latents", "mini/nsarm/latents"),
}


def left_out(cell: Cell) -> str:
    """Return why a recipe does not meet a way; "" if it does."""
    recipe, way = cell.recipe, cell.way
    if way == "train" or way in FEW:
        return ""
    if not recipe.trains and (way != "evaluate" or recipe.verb == "encode"):
        return f"its command is {recipe.verb}: nothing is trained"
    trainer = recipe.shipped.get("trainer", {})
    if way == "evaluate" and trainer.get("limit_val_batches") == 0 and not recipe.predicts:
        return "its limit_val_batches is 0: it is only the base of other recipes"
    if way in TWO_PROCESSES and trains_batch_norm(recipe.small["model"]):
        return "it trains a batch norm, whose statistics several processes do not share: refused"
    if way == "compile" and not compilable(recipe.small["model"]):
        return "none of its classes is compiled"
    if way not in EACH and recipe not in chosen(way):
        return "another recipe of its family, of the same class of model, meets it"
    return ""


def trains_batch_norm(model: Any) -> bool:
    """Whether a model is the autoencoder of principal components, not one in its latents."""
    paths = [path for path, _ in classes(model)]
    return paths[0] == "lightning_modules.Autoencoder" and any("PCA" in path for path in paths)


@functools.cache
def chosen(way: str) -> list[Recipe]:
    """Return a recipe of each family for a way; the n-th way takes the n-th of a family.

    A family has one class of model, and in some ways also one of data. One half of the families
    changes from two processes to one, the other from one to two.
    """
    families: dict[Any, list[Recipe]] = {}
    for recipe in RECIPES:
        if recipe.trains:
            families.setdefault(key_of(recipe, way), []).append(recipe)
    if way == "compile":  # which takes minutes of a larger one
        return [min(members, key=lambda r: "mini" not in r.name) for members in families.values()]
    number = list(WAYS).index(way)
    found = [members[number % len(members)] for members in families.values()]
    return found[HALVES.index(way) :: 2] if way in HALVES else found


def key_of(recipe: Recipe, way: str) -> Any:
    """Return by what recipes are of one family in a way."""
    if way == "compile":
        return tuple(sorted({path for path, _ in compilable(recipe.small["model"])}))
    return recipe.family if way in PAIRS else recipe.family[0]
