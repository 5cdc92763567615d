"""``config.yaml`` of a run reproduces it, whatever the defaults of its classes."""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from lightning.pytorch import Callback

import main
from commands.arguments.saved_config import as_yaml
from files.yaml import plain_yaml
from tests.conftest import REPO

Enlarger = Callable[..., None]
Refusal = Callable[..., str]
FIT = (
    *("fit", "--config", "tiny.yaml", "--run.name", "x", "--trainer.max_steps", "1"),
    *("--data.init_args.val", "null"),
)
LIGHTNING = "lightning.pytorch.callbacks"


class Word(enum.StrEnum):
    """An enum that is also text, as Lightning's."""

    STEP = "step"


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Policy:
    def __init__(self, times: int = 3) -> None:
        self.times = times


@dataclass
class Options:
    count: int = 1
    limit: float | None = None


POLICY, ONES, LAMBDA = Policy(), torch.ones(2), lambda x: x


class Odd(Callback):
    """Arguments with defaults of many types; only the constants are compared by identity."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012  (read by the tests)

    def __init__(
        self,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        dtype: torch.dtype = torch.float16,
        path: Path = Path("a b"),
        wait: datetime.timedelta = datetime.timedelta(minutes=3),
        anonymous: Callable[[float], float] = LAMBDA,
        function: Callable[[float], float] = math.sin,
        policy: Policy = POLICY,
        policies: list[Policy] = [POLICY],  # noqa: B006
        word: str = Word.STEP,
        mode: Mode = Mode.SLOW,
        options: Options = Options(2),  # noqa: B008
        number_as_text: str = "1e-4",
        infinite: float = math.inf,
        small: float = 1e-4,
        nothing: str | None = None,
        date: str = "2030-01-01",
        day: Any = datetime.date(2030, 1, 1),
        text: str = "Ünïcode ✓\n #2: ~",
        null: str = "null",
        yes: str = "yes",
        variable: str = "$HOME/x",
        layer: Any = torch.nn.ReLU,
        tensor: Any = ONES,
        pair: tuple[int, float] = (1, 2.5),
        untyped=POLICY,
    ) -> None:
        given = dict(locals())
        del given["self"]
        Odd.seen.append(given)


class Several(Callback):
    """Arguments with one or several values of a type that is written as text."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(
        self,
        paths: Path | list[Path] | None = None,
        by_name: Path | dict[str, Path] | None = None,
        wait: datetime.timedelta | dict[str, int] | None = None,
    ) -> None:
        Several.seen.append({"paths": paths, "by_name": by_name, "wait": wait})


CALLBACKS = [
    f"{{class_path: {LIGHTNING}.Timer, init_args: {{duration: '00:01:00:00'}}}}",
    f"{LIGHTNING}.LambdaCallback",
]
GIVEN = (
    f"policy: {{class_path: {__name__}.Policy, init_args: {{times: 9}}}}, wait: '0:10:00', "
    "mode: FAST, function: math.cos, options: {count: 7}, number_as_text: '1e5', infinite: -.inf"
)
SEVERAL = "{paths: [a, b], by_name: {c: d}, wait: {hours: 1}}"


class Again(NamedTuple):
    """A run, and the run that its saved configuration makes.

    one: Its configuration.
    two: That of the other run.
    text: The file of the first.
    """

    one: dict[str, Any]
    two: dict[str, Any]
    text: str


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Again:
    """Fit with callbacks of all kinds, then with the saved configuration under another name."""
    folder = tmp_path_factory.mktemp("again")
    text = (REPO / "tests" / "tiny.yaml").read_text().replace("PHOTOS", str(photo_folder))
    (folder / "tiny.yaml").write_text(text)
    own = (f"{__name__}.Odd", f"{{class_path: {__name__}.Odd, init_args: {{{GIVEN}}}}}")
    own += (f"{{class_path: {__name__}.Several, init_args: {SEVERAL}}}",)
    added = (word for one in (*CALLBACKS, *own) for word in ("--trainer.callbacks+", one))
    Odd.seen.clear()
    Several.seen.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main.main([*FIT, *added, "--trainer.max_time", "{hours: 1, minutes: 30}"])
        main.main(["fit", "--config", "runs/x/config.yaml", "--run.name", "y"])
    files = [folder / f"runs/{name}/config.yaml" for name in ("x", "y")]
    one, two = (yaml.safe_load(file.read_text()) for file in files)
    assert two["run"].pop("name") == "y"
    assert one["run"].pop("name") == "x"
    return Again(one, two, files[0].read_text())


def test_it_is_read_again_as_it_was(again: Again) -> None:
    assert again.one == again.two
    assert again.one["trainer"]["max_time"] == {"hours": 1, "minutes": 30}
    assert "serialize" not in again.text


def test_defaults_of_every_kind(again: Again) -> None:
    first, _, second, _ = Odd.seen
    for name in ("device", "policy", "anonymous", "tensor", "layer", "day", "word", "untyped"):
        assert first[name] is second[name], name
    same = first.keys() - {"tensor"}
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    saved = again.one["trainer"]["callbacks"][-3]["init_args"]
    assert saved["number_as_text"] == "1e-4"
    assert saved["variable"] == "$HOME/x"
    assert saved["text"] == "Ünïcode ✓\n #2: ~"
    assert not {"device", "policy", "anonymous", "tensor", "layer"} & saved.keys()


def test_values_that_are_given(again: Again) -> None:
    for seen in Odd.seen[1::2]:
        assert seen["policy"].times == 9
        assert seen["wait"] == datetime.timedelta(minutes=10)
        assert (seen["mode"], seen["function"]) == (Mode.FAST, math.cos)
        assert (seen["options"], seen["number_as_text"]) == (Options(7), "1e5")
        assert seen["infinite"] == -math.inf


def test_one_or_several_of_a_type_that_is_written_as_text(again: Again) -> None:
    given = {
        "paths": [Path("a"), Path("b")],
        "by_name": {"c": Path("d")},
        "wait": {"hours": 1},
    }
    assert Several.seen == [given, given]


@pytest.mark.parametrize(
    "text",
    ["1e4", "1.5e3", ".5e+1", "1:30.5", "0o17", "0x1f", "yes", "~", "", "2030-01-01", "a\n b", "#"],
)
def test_text_stays_text(text: str) -> None:
    again = plain_yaml(as_yaml({"key": text, text: [text]}))
    assert again == {"key": text, text: [text]}


@pytest.mark.parametrize("number", [1e-4, 1e22, math.inf, -math.inf, 0, -3, 2.0, True, None])
def test_numbers_stay_numbers(number: Any) -> None:
    again = plain_yaml(as_yaml([number]))
    assert again == [number]
    assert type(again[0]) is type(number)


def test_what_is_printed_can_be_read_too(
    tiny: Path,
    enlarger: Enlarger,
    configured: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    swa = f"{{class_path: {LIGHTNING}.StochasticWeightAveraging, init_args: {{swa_lrs: 1e-2}}}}"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        enlarger(*FIT, "--trainer.callbacks+", swa, "--trainer.max_epochs", "1", "--print_config")
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert "serialize" not in Path("printed.yaml").read_text()
    configured("fit", "--config", "printed.yaml")


def test_a_config_of_the_user_in_the_place_of_a_run_stays(tiny: Path, refusal: Refusal) -> None:
    Path("mine").mkdir()
    text = Path("tiny.yaml").read_text()
    Path("mine/config.yaml").write_text(text)
    place = ("--run.root", ".", "--run.name", "mine")
    sentence = refusal("fit", "--config", "mine/config.yaml", *place)
    assert "config.yaml was not written by fit, which would replace it" in sentence
    assert Path("mine/config.yaml").read_text() == text
