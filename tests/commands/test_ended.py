"""How commands end: in one sentence, or with the status of what ended them."""

import subprocess
import sys
from unittest.mock import Mock

import pytest

import main
from commands import cli
from tests.conftest import REPO


def test_a_configuration_that_cannot_be_opened_is_refused_with_the_systems_reason(trained, refusal):
    """The file may be intact, so the message does not say to restore it."""
    config = trained / "config.yaml"
    config.unlink()
    config.symlink_to(config.name)  # to itself
    sentence = refusal("fit --config tiny.yaml --run.change true")
    assert "symbolic links" in sentence  # "Too many levels of symbolic links"
    assert "damaged" not in sentence


@pytest.mark.parametrize("has_stdout", [True, False])
def test_a_broken_pipe_other_than_stdout_is_no_success(monkeypatch, has_stdout):
    """Only a BrokenPipeError of stdout ends a command with status 0, as of `main.py list | head`.

    Here it comes from elsewhere: stdout still takes what is written, or a service has none.
    """
    monkeypatch.setattr("commands.migrate.main", Mock(side_effect=BrokenPipeError))
    with open("/dev/null", "w") as open_stdout:
        monkeypatch.setattr(sys, "stdout", open_stdout if has_stdout else None)
        with pytest.raises(BrokenPipeError):
            main.main(["migrate", "a.yml"])


def test_a_deleted_working_directory_is_named(tmp_path):
    command = f"rmdir {tmp_path} && exec {sys.executable} {REPO / 'main.py'} list methods"
    ended = subprocess.run(command, shell=True, cwd=tmp_path, text=True, capture_output=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the working directory was deleted")


def test_system_exit_from_a_users_code_keeps_its_status_in_several_processes(monkeypatch):
    """It is no error, after which a process would leave at once (`_exit_alone`) with a status of 1.

    The stand-in for the whole command leaves as a callback would.
    """
    monkeypatch.setattr(cli, "EnlargerCLI", Mock(side_effect=SystemExit(7)))
    monkeypatch.setattr(cli, "is_distributed", lambda: True)
    monkeypatch.setattr(cli, "_exit_alone", pytest.fail)
    with pytest.raises(SystemExit, match="7"):
        cli.run(["fit"], {}, debug=False)
