"""`doctor` runs where hardly anything else does, and one failing check does not stop the others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import main
from commands import doctor
from commands.doctor import PARTS, Processes, summary
from commands.doctor_lines import Line, Options, broken, guarded, heard, look, ok
from commands.parser import DESCRIPTIONS
from tests.commands.torchvisions import fake_torchvision
from tests.conftest import REPO

Enlarger = Callable[..., None]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave only these parts, and a trivial check of this process."""

    def keep(*names: str) -> None:
        monkeypatch.setattr(doctor, "PARTS", {name: PARTS[name] for name in names})
        small: dict[str, Any] = {"here": lambda options: [ok("here", "fine")]}
        monkeypatch.setattr(doctor.doctor_versions, "CHECKS", small)
        monkeypatch.setattr(doctor.doctor_machine, "CHECKS", {})

    return keep


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a module in front of an installed one, for processes that start from now on."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return lambda name, text: (folder / f"{name}.py").write_text(text) and None


def verdicts(out: str) -> dict[str, str]:
    """What was said of each name."""
    rows = [re.match(r"(\w+) +(.+?)  +", row) for row in out.splitlines()[:-1]]
    return {row[2]: row[1] for row in rows if row is not None}


# ----------------------------------------------------------------------------------- the command


def test_what_is_well(
    only: Callable[..., None], enlarger: Enlarger, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    only("codecs")
    enlarger("doctor")  # status 0
    out = capsys.readouterr().out
    names = ["here", *PARTS["codecs"]]
    assert list(verdicts(out)) == names
    assert set(verdicts(out).values()) == {"ok"}
    assert out.splitlines()[-1] == "7 lines: 7 ok, 0 to look at, nothing is broken"
    assert list(tmp_path.iterdir()) == []


def test_a_part_goes_on_behind_the_check_that_kills_it(
    only: Callable[..., None], fakes: Callable[[str, str], None], enlarger: Enlarger,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    only("codecs")
    fakes("cv2", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    fakes("tifffile", "import sys\nsys.stderr.write('no room\\n')\nimport os\nos._exit(3)\n")
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor")
    assert ended.value.code == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    bad = ["16-bit PNG", "16-bit TIFF"]
    if find_spec("av"):  # H.264 needs OpenCV, too
        bad.append("H.264")
    assert [name for name, verdict in found.items() if verdict == "broken"] == bad
    assert list(found) == ["here", *PARTS["codecs"]]
    assert "died of SIGSEGV" in out
    assert "ended with status 3, after 'no room'" in out
    assert out.splitlines()[-1].endswith(f"{len(bad)} broken: {', '.join(bad)}")


def test_without_torch_everything_else_is_told(
    fakes: Callable[[str, str], None], enlarger: Enlarger, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, and quickly, because nothing heavy can be imported."""
    fakes("torch", "raise OSError('libcudart.so.13: cannot open shared object file')\n")
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor")
    assert ended.value.code == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    for name in ("torch", "torchvision", "GPUs", "bf16", "gloo", "lightning", "weights"):
        assert found[name] == "broken", name
    assert found["Python"] != "broken"  # "look" in another environment than .venv
    for name in ("packages", "cores", "JPEG", "16-bit TIFF", "shards"):
        assert found[name] == "ok", name
    assert found["training"] == "look"
    assert "OSError: libcudart.so.13: cannot open shared object file" in out


def test_a_part_that_does_not_end(
    only: Callable[..., None], fakes: Callable[[str, str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    only("codecs")
    monkeypatch.setattr(doctor, "LIMIT", 1.0)
    fakes("numpy", "import time\ntime.sleep(600)\n")
    monkeypatch.setitem(doctor.PARTS, "codecs", {"JPEG": PARTS["codecs"]["JPEG"]})
    with Processes([], str(tmp_path)) as processes:
        (line,) = processes.tried("codecs")
    assert line == broken("JPEG", "its process did not end within 1 s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_it(
    fakes: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its processes, theirs, and the folder."""
    note, folder = tmp_path / "numbers", tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    fakes("torch", "raise ImportError('none')\n")
    fakes(
        "numpy",
        "import os, time\n"
        "child = os.fork()\n"
        f"if child: open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{child}} ')\n"
        "time.sleep(600)\n",
    )
    command = [sys.executable, str(REPO / "main.py"), "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (note.exists() and note.read_text().endswith(" ")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert list(folder.iterdir()) == []
    deadline = time.monotonic() + 60
    while any(runs(int(one)) for one in note.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(number: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_torchrun_s_variables_do_not_reach_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    assert "RANK" in doctor._environment("nodes", "folder")
    left = doctor._environment("training", "folder")
    assert not [name for name in left if name.startswith(doctor.LAUNCHERS)]
    assert left["PATH"] == os.environ["PATH"]


def test_a_rank_that_is_not_the_first_of_its_machine_is_silent(
    only: Callable[..., None], enlarger: Enlarger, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    only("nodes", "codecs")
    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(Processes, "tried", lambda self, part: asked.append(part) or [])
    enlarger("doctor")
    assert asked == ["nodes", "farewell"]
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------ the options


def test_help(enlarger: Enlarger, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor", "--help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("one line each, with the mend", "--doctor.shards TARS", "exit status is 1"):
        assert part in text
    assert "--part" not in text


def test_the_list_of_commands_has_it(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        enlarger("--help")
    assert DESCRIPTIONS["doctor"] in " ".join(capsys.readouterr().out.split())


def test_a_near_name_is_proposed(refusal: Callable[..., str]) -> None:
    assert "did you mean 'doctor'?" in refusal("docter")


@pytest.mark.parametrize("arguments", [["--doctor.shard", "a.tar"], ["--doctor.checksums", "1"]])
def test_a_wrong_option(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        enlarger("doctor", *arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_an_import_that_fails_points_here(
    monkeypatch: pytest.MonkeyPatch, enlarger: Enlarger
) -> None:
    monkeypatch.setitem(sys.modules, "commands.run", None)
    with pytest.raises(ImportError) as failed:
        enlarger("fit")
    assert "main.py doctor" in failed.value.__notes__[0]


# ------------------------------------------------------------------------------------------ lines


def failing(options: Options) -> Iterator[Line]:
    yield ok("first", "fine")
    raise ValueError("two\nlines")


def test_what_a_check_raises_is_a_line() -> None:
    found = list(guarded("mine", failing, Options()))
    assert found == [ok("first", "fine"), broken("mine", "ValueError: two lines")]


def test_a_package_that_is_missing_has_its_mend() -> None:
    def check(options: Options) -> Iterable[Line]:
        raise ModuleNotFoundError("No module named 'cv2'")

    (line,) = guarded("mine", check, Options())
    assert line.text.endswith("No module named 'cv2': pip install -c constraints.txt -e .")


def test_what_a_dying_process_said_is_heard() -> None:
    text = '{"begins": "a"}\n{"verdict": "ok", "name": "a", "text": "b"}\n{"ended": "a"}\n'
    assert heard(text + '{"begins": "c"}\n{"verdi') == ([ok("a", "b")], "c", ["a"])


def test_summary() -> None:
    lines = [ok("a", ""), look("b", ""), broken("c", ""), broken("c", "")]
    assert summary(lines) == "4 lines: 1 ok, 1 to look at, 2 broken: c"
    assert summary(lines[:2]) == "2 lines: 1 ok, 1 to look at, nothing is broken"


def test_signals_have_names() -> None:
    assert doctor._ending(-signal.SIGKILL) == "died of SIGKILL"
    assert doctor._ending(-99) == "died of signal 99"


def test_nothing_that_is_judged_is_imported() -> None:
    """In a process without site-packages."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import commands.doctor;"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'yaml')])"
    )
    command = [sys.executable, "-S", "-c", script, str(REPO)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- all of it, really


@pytest.mark.slow
def test_this_machine(
    enlarger: Enlarger, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    enlarger("doctor")
    out = capsys.readouterr().out
    assert "4 steps of quickstart on" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_torchvision_of_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enlarger: Enlarger,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fake_torchvision(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "PARTS", {name: PARTS[name] for name in ("torch", "training")})
    with pytest.raises(SystemExit):
        main.main(["doctor"])
    out = capsys.readouterr().out
    found = verdicts(out)
    assert found["torch"] == found["bf16"] == "ok"
    assert found["torchvision"] == found["torch and torchvision"] == found["lightning"] == "broken"
    assert "operator torchvision::nms does not exist" in out
