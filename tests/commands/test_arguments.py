"""Layers of configuration, what is saved of them, listings and short help."""

import datetime
import enum
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn

import main
from callbacks.metrics.base import Metric
from commands.arguments import listing
from commands.arguments.help import SHOWN, short_help
from commands.arguments.saved_config import as_yaml
from commands.interface.named import DEFAULT, expand_model_option, released
from commands.names import TOOLS
from datamodules.base import SRDataModule
from files.yaml import plain_yaml
from lightning_modules.base import ImageModel
from tests.conftest import REPO, words_of
from tests.quick import quick

# ----------------------------------------------------------------- what a later layer changes


@pytest.fixture
def printed(tiny, enlarger, capsys):
    """Return the configuration of tiny.yaml and what is typed after it."""

    def run(*typed):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            enlarger("fit --config tiny.yaml", *words_of(*typed), "--print_config")
        return yaml.safe_load(capsys.readouterr().out)

    return run


def test_a_file_of_data_replaces_all_earlier_data(printed):
    Path("data.yaml").write_text("{class_path: datamodules.SRDataModule, init_args: {scale: 2}}")
    arguments = printed("--data data.yaml")["data"]["init_args"]
    assert arguments["train"] is None
    assert arguments["test"] is None
    assert arguments["batch_size"] == 16  # by default; tiny.yaml has 4


def test_a_typed_key_changes_that_key(printed):
    config = printed("--data.init_args.val.photos.init_args.root b")
    source = config["data"]["init_args"]["val"]["photos"]["init_args"]
    assert source["root"] == "b"
    assert source["files"] == ["1.png", "2.png"]  # of tiny.yaml


def test_null_takes_a_class_away_beside_a_typed_key_of_a_group(printed):
    """As CasArbi's page types it, for the paper's process and for its base alone."""
    given = "--model.init_args"
    typed = f"{given}.process null {given}.network null {given}.sampling.solver posterior"
    config = printed(f"--config {REPO / 'configs/experiment/casarbi.yaml'} {typed}")
    arguments = config["model"]["init_args"]
    assert arguments["process"] is None
    assert arguments["network"] is None
    assert arguments["sampling"]["solver"] == "posterior"


@pytest.mark.parametrize("key", ["data.crops", "data.init_args.crops"])
def test_a_typed_group_keeps_its_keys_that_are_not_typed(printed, key):
    Path("more.yaml").write_text("data: {init_args: {crops: {per_image: 3}}}")
    config = printed(f"--config more.yaml --{key} '{{flips: false}}' --{key} '{{small: skip}}'")
    crops = config["data"]["init_args"]["crops"]
    assert crops["per_image"] == 3
    assert crops["flips"] is False
    assert crops["small"] == "skip"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        pytest.param("predict --data.predict x", DEFAULT, id="no name: the default"),
        pytest.param("predict --model imdn-x2 --data.predict x", "imdn-x2", id="a name"),
        pytest.param("predict --model=imdn-x2 --data.predict x", "imdn-x2", id="a name after ="),
    ],
)
def test_predict_replaces_the_name_of_a_released_model_by_its_class_and_scale(typed, name):
    """The parser knows classes alone, so these words are what it gets."""
    model = released()[name]
    expected = f"predict --run.name {name} --data datamodules.SRDataModule --model".split()
    expected += [json.dumps(model.model), "--data.predict", "x"]
    expected += ["--data.init_args.scale", str(model.scale)]
    assert expand_model_option(typed.split()) == expected


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("predict", id="no images"),
        pytest.param("predict --config a.yaml --data.predict x", id="a configuration"),
        pytest.param("predict --model my.Class --data.predict x", id="a class"),
        pytest.param("predict --model.class_path my.Class --data.predict x", id="a class by key"),
        pytest.param("fit --model my.Class", id="a class for fit"),
    ],
)
def test_a_command_other_than_predict_of_images_without_a_model_keeps_its_words(typed):
    """A released model in place of the user's own would enlarge his images unasked."""
    assert expand_model_option(typed.split()) == typed.split()


# ------------------------------------------------------- config.yaml of a run reproduces the run


class Word(enum.StrEnum):
    """An enum that is also text, as Lightning's."""

    STEP = "step"


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Policy:
    def __init__(self, times: int = 3):
        self.times = times


@dataclass
class Options:
    count: int = 1


POLICY = Policy()
ONES = torch.ones(2)
LAMBDA = lambda x: x  # noqa: E731


class Odd(Callback):
    """Arguments with defaults of many types."""

    made: list[dict[str, Any]] = []  # noqa: RUF012  (read by the test)

    def __init__(
        self,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        path: Path = Path("a b"),
        wait: datetime.timedelta = datetime.timedelta(minutes=3),
        anonymous: Callable[[float], float] = LAMBDA,
        function: Callable[[float], float] = math.sin,
        policy: Policy = POLICY,
        word: str = Word.STEP,
        mode: Mode = Mode.SLOW,
        options: Options = Options(2),  # noqa: B008
        number_as_text: str = "1e-4",
        infinite: float = math.inf,
        text: str = "Ünïcode ✓\n #2: ~",
        variable: str = "$HOME/x",
        layer: Any = torch.nn.ReLU,
        tensor: Any = ONES,
        untyped=POLICY,
        paths: Path | list[Path] | None = None,
        hours: datetime.timedelta | dict[str, int] | None = None,
    ):
        arguments = dict(locals())
        del arguments["self"]
        Odd.made.append(arguments)


GIVEN = f"""
class_path: {__name__}.Odd
init_args:
  policy: {{class_path: {__name__}.Policy, init_args: {{times: 9}}}}
  wait: '0:10:00'
  mode: FAST
  function: math.cos
  options: {{count: 7}}
  number_as_text: '1e5'
  infinite: -.inf
  paths: [a, b]
  hours: {{hours: 1}}
"""
LIGHTNING = "lightning.pytorch.callbacks"
TIMER = f"{{class_path: {LIGHTNING}.Timer, init_args: {{duration: '00:01:00:00'}}}}"


def run_twice(enlarger, *options):
    """Run `fit`, and again by the config.yaml that it saved; return the first configuration."""
    Odd.made.clear()
    short = "--data.val null --trainer.max_steps 1 --trainer.callbacks+"
    enlarger(f"fit --config tiny.yaml --run.name first {short}", *options)
    enlarger("fit --config runs/first/config.yaml --run.name second")
    first = plain_yaml(Path("runs/first/config.yaml").read_text())
    second = plain_yaml(Path("runs/second/config.yaml").read_text())
    assert second == {**first, "run": {**first["run"], "name": "second"}}
    assert "serialize" not in str(first)  # jsonargparse's text for what it cannot write
    return first


def test_the_saved_configuration_has_times_and_callbacks_of_lightning(tiny, enlarger):
    callbacks = [f"{LIGHTNING}.LambdaCallback", "--trainer.callbacks+", TIMER]
    config = run_twice(enlarger, *callbacks, "--trainer.max_time", "{hours: 1, minutes: 30}")
    assert config["trainer"]["max_time"] == {"hours": 1, "minutes": 30}


def test_a_run_by_its_saved_configuration_has_the_same_defaults_of_a_callback(tiny, enlarger):
    config = run_twice(enlarger, f"{__name__}.Odd")

    defaults, again = Odd.made  # in the first run and in the second
    for name in defaults.keys() - {"tensor"}:  # whose == is no bool
        assert again[name] == defaults[name], name
    # These have no text that YAML could hold, so they are left out and are the defaults again.
    without_text = ("policy", "anonymous", "tensor", "layer", "untyped")
    for name in without_text:
        assert again[name] is defaults[name], name
    saved = config["trainer"]["callbacks"][-1]["init_args"]
    assert saved["number_as_text"] == "1e-4"
    assert saved["variable"] == "$HOME/x"  # another machine has another HOME
    assert not {"device", *without_text} & saved.keys()


def test_a_run_by_its_saved_configuration_has_the_same_given_arguments_of_callbacks(tiny, enlarger):
    """Those of `GIVEN`, each of another type than text or a number."""
    run_twice(enlarger, GIVEN)
    for arguments in Odd.made:
        assert arguments["policy"].times == 9
        assert arguments["wait"] == datetime.timedelta(minutes=10)
        assert arguments["mode"] == Mode.FAST
        assert arguments["function"] == math.cos
        assert arguments["options"] == Options(7)
        assert arguments["number_as_text"] == "1e5"
        assert arguments["infinite"] == -math.inf
        assert arguments["paths"] == [Path("a"), Path("b")]
        assert arguments["hours"] == {"hours": 1}


# Text that YAML would read as a number, a time, a truth, nothing, a date or a comment.
TEXTS = ["1e4", "1.5e3", ".5e+1", "1:30.5", "0o17", "yes", "~", "", "2030-01-01", "a\n b", "#"]
OTHERS = [1e-4, 1e22, math.inf, -math.inf, 0, -3, 2.0, True, None]


@pytest.mark.parametrize("value", [*TEXTS, *OTHERS])
def test_values_and_keys_that_are_saved_as_yaml_are_read_as_the_same_values(value):
    content = {"key": value, str(value): [value]}
    again = plain_yaml(as_yaml(content))
    assert again == content
    assert type(again["key"]) is type(value)


# -------------------------------------------------------------------------------- help and listing


@pytest.mark.parametrize("command", quick(SHOWN, "fit", "predict", "export"))
def test_the_short_help_names_options_that_exist(tiny, configured, command):
    """It is written by hand, to be shown without torch: an option that is renamed would stay."""
    config = configured(f"{command} --config tiny.yaml")
    options = set(config.keys(branches=True))
    # Short forms: data.scale is data.init_args.scale, and so on.
    options |= {f"data.{name}" for name in inspect.signature(SRDataModule).parameters}
    options |= {f"model.{name}" for name in inspect.signature(ImageModel).parameters}
    options |= {"data.train.root"}  # of datamodules.Folder
    options |= {"RUN", "debug", "print_config"}  # no keys of the configuration
    assert set(SHOWN[command]) <= options
    for key in SHOWN[command]:
        typed = key if key == "RUN" else f"--{key}"
        assert f"  {typed} " in short_help(command)


@pytest.mark.parametrize("name", sorted(TOOLS.keys() - {"list"}))
def test_a_tool_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: main.py {name} ")


def public_classes():
    """The classes that configurations may name, by name."""
    classes = {}
    for room in listing.ROOMS:
        module = import_module(room)
        for name in module.__all__:
            exported = getattr(module, name)
            if inspect.isclass(exported) and not inspect.isabstract(exported):
                classes[f"{room}.{name}"] = exported
    # An exception, an exception and a base: no configuration names these.
    for name in ("datamodules.UnreadableImage", "callbacks.TooSmall", "callbacks.Perceptual"):
        del classes[name]
    return classes


def test_main_py_list_has_each_public_class_that_can_be_built_once():
    """It reads the sources without importing them: a base class that it misses hides a class."""
    kinds = listing.HINTS.keys() - {"experiments", "weights"}  # which are no classes
    listed = [entry.name for kind in kinds for entry in listing.entries(kind)]
    classes = [name for name in listed if not name.endswith(".yaml")]  # networks are files, too
    assert sorted(classes) == sorted(public_classes())


def test_the_modules_whose_first_argument_is_the_scale_are_listed_as_networks():
    """`model.network` of a configuration takes such modules alone.

    Methods take the scale first, too, and are listed as methods: they derive from `ImageModel`.
    """
    expected = set()
    for name, cls in public_classes().items():
        first = next(iter(inspect.signature(cls).parameters), "")
        is_module = name.startswith("lightning_modules.") and issubclass(cls, nn.Module)
        if is_module and first == "scale" and not issubclass(cls, ImageModel):
            expected.add(name)

    listed = {entry.name for entry in listing.entries("networks")}

    # Files of configs/network are listed as networks, too.
    assert {name for name in listed if not name.endswith(".yaml")} == expected


def test_all_metrics_and_nothing_else_are_listed_as_metrics():
    """Other callbacks, such as EMA, stand in the same package."""
    expected = {name for name, cls in public_classes().items() if issubclass(cls, Metric)}
    assert {entry.name for entry in listing.entries("metrics")} == expected


def test_yaml_merges_and_keys_of_two_types_are_no_repeated_keys():
    """Files with a key that is there twice are refused, and these must not be."""
    assert plain_yaml("{<<: {x: 1}, <<: {y: 2}}") == {"x": 1, "y": 2}
    assert plain_yaml("{1: number, '1': text}") == {1: "number", "1": "text"}


def test_a_key_that_a_file_has_twice_is_refused(tiny, refusal):
    Path("twice.yaml").write_text("trainer: {max_steps: 1}\ntrainer: {max_epochs: 1}\n")

    sentence = refusal("fit --config tiny.yaml --config twice.yaml")

    assert "the key 'trainer' is there twice" in sentence
