"""`doctor` runs without most packages, and one failing check does not stop the others."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from commands.doctor import doctor
from commands.doctor.doctor import CHECKS, summary
from commands.doctor.lines import Line, Options, broken, guarded, look, ok
from commands.doctor.machine import CODEC_CHECKS, TORCH_CHECKS, VERSION_CHECKS
from commands.names import ABOUT
from tests.commands.torchvisions import fake_torchvision
from tests.conftest import REPO

Enlarger = Callable[..., None]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Shadow an installed module in processes that start from now on."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return lambda name, text: (folder / f"{name}.py").write_text(text) and None


def verdicts(out: str) -> dict[str, str]:
    """Return the verdict of each name."""
    rows = [re.match(r"(\w+) +(.+?)  +", row) for row in out.splitlines()[:-1]]
    return {row[2]: row[1] for row in rows if row is not None}


def in_a_process(script: str = "") -> tuple[int, str]:
    """Run `doctor` in a process of its own, after a line of Python; return status and output."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r})\n{script}\n"
    code += "import main; main.main(['doctor'])"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stdout


# ----------------------------------------------------------------------------------- the command


def test_all_is_well(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    small: dict[str, Any] = {"here": lambda options: [ok("here", "fine")], **CODEC_CHECKS}
    monkeypatch.setattr(doctor, "CHECKS", small)
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert list(verdicts(out)) == list(small)
    assert set(verdicts(out).values()) == {"ok"}
    assert out.splitlines()[-1] == "7 lines: 7 ok, 0 to look at, nothing is broken"
    assert list(tmp_path.iterdir()) == []


def test_a_failing_check_does_not_stop_the_others(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", CODEC_CHECKS)
    for name in ("cv2", "tifffile"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor")
    assert ended.value.code == 1
    out = capsys.readouterr().out
    bad = [name for name, verdict in verdicts(out).items() if verdict == "broken"]
    assert bad[:2] == ["16-bit PNG", "16-bit TIFF"]
    assert list(verdicts(out)) == list(CODEC_CHECKS)
    assert "import of cv2 halted" in out
    assert out.splitlines()[-1].endswith(f"{len(bad)} broken: {', '.join(bad)}")


def test_all_other_lines_are_printed_without_torch(fakes: Callable[[str, str], None]) -> None:
    fakes("torch", "raise OSError('libcudart.so.13: cannot open shared object file')\n")
    status, out = in_a_process()
    assert status == 1
    found = verdicts(out)
    for name in ("torch", "torchvision", "GPUs", "bf16", "weights"):
        assert found[name] == "broken", name
    assert found["Python"] != "broken"  # "look" in another environment than .venv
    for name in ("packages", "cores", "JPEG", "16-bit TIFF", "shards"):
        assert found[name] == "ok", name
    assert "OSError: libcudart.so.13: cannot open shared object file" in out


@pytest.mark.slow
def test_a_torchvision_of_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: Callable[[str, str], None]
) -> None:
    fake_torchvision(tmp_path / "fakes")
    names = [*TORCH_CHECKS, "torch and torchvision"]
    keep = f"from commands.doctor import doctor\nfor n in set(doctor.CHECKS) - {set(names)}: "
    _, out = in_a_process(f"{keep}doctor.CHECKS.pop(n)")
    found = verdicts(out)
    assert found["torch"] == found["bf16"] == "ok"
    assert found["torchvision"] == found["torch and torchvision"] == "broken"
    assert "operator torchvision::nms does not exist" in out


def test_ctrl_c(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(options: Options) -> Iterator[Line]:
        yield ok("first", "fine")
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "CHECKS", {"mine": stop})
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor")
    assert ended.value.code == 130
    assert capsys.readouterr().out == f"ok      {'first':<22}  fine\n"


# ------------------------------------------------------------------------------------ the options


def test_help(enlarger: Enlarger, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor", "--help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("one line each, with the fix", "--doctor.shards TARS", "exit status is 1"):
        assert part in text


def test_the_list_of_commands_has_it(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        enlarger("--help")
    assert ABOUT["doctor"] in " ".join(capsys.readouterr().out.split())


def test_a_near_name_is_proposed(refusal: Callable[..., str]) -> None:
    assert "did you mean 'doctor'?" in refusal("docter")


@pytest.mark.parametrize(
    "arguments", [["--doctor.shard", "a.tar"], ["--doctor.checksums", "1"], ["--doctor.wait", "5"]]
)
def test_a_wrong_option(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor", *arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_failed_import_points_here(monkeypatch: pytest.MonkeyPatch, enlarger: Enlarger) -> None:
    monkeypatch.setitem(sys.modules, "commands.cli", None)
    with pytest.raises(ImportError) as failed:
        enlarger("fit", "--print_config")
    assert "main.py doctor" in failed.value.__notes__[0]


# ------------------------------------------------------------------------------------------ lines


def failing(options: Options) -> Iterator[Line]:
    yield ok("first", "fine")
    raise ValueError("two\nlines")


def test_an_exception_of_a_check_is_a_line() -> None:
    found = list(guarded("mine", failing, Options()))
    assert found == [ok("first", "fine"), broken("mine", "ValueError: two lines")]


def test_a_missing_package_has_its_fix() -> None:
    def check(options: Options) -> Iterable[Line]:
        raise ModuleNotFoundError("No module named 'cv2'")

    (line,) = guarded("mine", check, Options())
    assert line.text.endswith("No module named 'cv2': pip install -c constraints.txt -e .")


def test_summary() -> None:
    lines = [ok("a", ""), look("b", ""), broken("c", ""), broken("c", "")]
    assert summary(lines) == "4 lines: 1 ok, 1 to look at, 2 broken: c"
    assert summary(lines[:2]) == "2 lines: 1 ok, 1 to look at, nothing is broken"


def test_no_checked_package_is_imported_first() -> None:
    """In a process without site-packages."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import commands.doctor.doctor;"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'yaml')])"
    )
    command = [sys.executable, "-S", "-c", script, str(REPO)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------- this machine


@pytest.mark.slow
def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, out = in_a_process()
    found = verdicts(out)
    for name in VERSION_CHECKS:
        assert name == "extras" or found[name] != "broken", name
    assert found["torch"] == found["torchvision"] == found["JPEG"] == "ok"
    assert bool(find_spec("av")) == ("writes and reads a frame" in out)
    assert set(CHECKS) >= {"weights", "shards", "GPUs"}
    assert list(tmp_path.iterdir()) == []
