"""How commands end: in one sentence, or with the status of what ended them."""

import subprocess
import sys

import pytest

import main
from commands import cli
from tests.conftest import REPO

FIT = "fit --config tiny.yaml"


def test_a_configuration_that_cannot_be_opened_is_refused_with_the_systems_reason(trained, refusal):
    """It is not called damaged."""
    config = trained / "config.yaml"
    config.unlink()
    config.symlink_to(config.name)  # to itself
    assert "symbolic links" in refusal(f"{FIT} --run.change true")


@pytest.mark.parametrize("has_output", [True, False])
def test_a_broken_pipe_other_than_stdout_is_no_success(monkeypatch, has_output):
    """A command whose stdout is closed, as by `head`, ends well; one that failed must not."""

    def write_to_another_pipe(words):
        raise BrokenPipeError

    monkeypatch.setattr("commands.migrate.main", write_to_another_pipe)
    with open("/dev/null", "w") as output:  # which can be written
        monkeypatch.setattr(sys, "stdout", output if has_output else None)
        with pytest.raises(BrokenPipeError):
            main.main(["migrate", "a.yml"])


def test_a_deleted_working_directory_is_named(tmp_path):
    command = f"rmdir {tmp_path} && exec {sys.executable} {REPO / 'main.py'} list methods"
    ended = subprocess.run(command, shell=True, cwd=tmp_path, text=True, capture_output=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the working directory was deleted")


def test_system_exit_of_a_callback_keeps_its_status_in_several_processes(monkeypatch):
    def leave(args, commands):
        raise SystemExit(7)

    monkeypatch.setattr(cli, "EnlargerCLI", leave)
    monkeypatch.setattr(cli, "is_distributed", lambda: True)
    monkeypatch.setattr(cli, "_exit_alone", pytest.fail)  # as after an error
    with pytest.raises(SystemExit, match="7"):
        cli.run(["fit"], {}, debug=False)
