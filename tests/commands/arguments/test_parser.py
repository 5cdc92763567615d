"""Values that are set twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPO

CONFIGS = REPO / "configs"


@pytest.fixture
def parsed(
    enlarger: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return the configuration of a command."""
    monkeypatch.setenv("ENLARGER_DATA", "data")

    def run(*arguments: object) -> Any:
        with pytest.raises(SystemExit) as ended:
            enlarger(*arguments, "--print_config")
        got = capsys.readouterr()
        assert ended.value.code in (None, 0), got.err
        return yaml.safe_load(got.out)

    return run


def test_a_file_stands_in_place_of_the_experiment_s(parsed: Any) -> None:
    """Nothing of the experiment remains, whether the class is the same or another."""
    experiment = CONFIGS / "experiment/self_cascade_sd21.yaml"
    model, metrics = CONFIGS / "model/direct.yaml", CONFIGS / "callbacks/generator.yaml"
    alone = parsed("test", "--model", model, "--trainer.callbacks", metrics)
    over = parsed("test", "--config", experiment, "--model", model, "--trainer.callbacks", metrics)
    for command in (alone, over):
        command["model"]["init_args"].pop("scale", None)  # the data's, which one of them has
    assert over["model"] == alone["model"]
    assert over["model"]["class_path"] == "lightning_modules.Direct"
    assert over["trainer"]["callbacks"] == alone["trainer"]["callbacks"]


def test_metrics_of_one_class_do_not_inherit(parsed: Any, tmp_path: Path) -> None:
    other = tmp_path / "metrics.yaml"
    other.write_text("- callbacks.PSNR\n")
    first = ("test", "--trainer.callbacks", CONFIGS / "callbacks/quality.yaml")
    arguments = {
        callback["class_path"]: callback["init_args"]
        for callback in parsed(*first, "--trainer.callbacks", other)["trainer"]["callbacks"]
    }
    assert list(arguments) == ["callbacks.PSNR"]
    assert arguments["callbacks.PSNR"]["control"] is False


def test_options_after_a_file_change_it(parsed: Any) -> None:
    weights = ("--model.init_args.sampler.guidance", "3")
    found = parsed("test", "--model", CONFIGS / "model/direct.yaml", *weights)
    assert found["model"]["init_args"]["sampler"]["guidance"] == 3
    assert found["model"]["init_args"]["base_size"] == 512


def test_what_is_merged_may_be_set_again(parsed: Any, tmp_path: Path) -> None:
    """A key merged by `<<` is not a repeated key."""
    (tmp_path / "merged.yaml").write_text(
        "trainer:\n  <<: &few {max_steps: 3, log_every_n_steps: 2}\n  max_steps: 4\n"
        "run: {<<: {name: a}, name: b}\n"
    )
    found = parsed("test", "--config", tmp_path / "merged.yaml")
    assert found["trainer"]["log_every_n_steps"] == 2
    assert found["run"]["name"] == "b"
