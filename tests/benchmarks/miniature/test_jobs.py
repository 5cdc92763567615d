"""Commands that need one another: order, what is skipped, what a failure says, what is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.miniature import jobs as miniature_jobs
from benchmarks.miniature.jobs import Job, run_jobs

# A stand-in for the command line: notes its arguments, and fails where it should.
PROGRAM = """
import pathlib, sys
with pathlib.Path("said").open("a") as said:
    said.write(" ".join(sys.argv[1:]) + "\\n")
if "fail" in sys.argv:
    sys.exit("it went wrong")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "main.py").write_text(PROGRAM)
    monkeypatch.setattr(miniature_jobs, "REPOSITORY", tmp_path)
    monkeypatch.setattr(miniature_jobs, "LOOKS", 0.02)
    return tmp_path


def job(folder: Path, name: str, *arguments: str, needs: tuple[str, ...] = ()) -> Job:
    return Job(name, arguments, folder / name, needs)


def said(folder: Path) -> list[str]:
    return (folder / "said").read_text().splitlines()


def nothing(text: str) -> None:
    return


def test_each_comes_after_what_it_needs_and_only_once(folder: Path) -> None:
    jobs = [
        job(folder, "base", "fit", "base"),
        job(folder, "other", "fit", "other"),
        job(folder, "top", "test", "top", needs=("base", "other")),
    ]
    lines: list[str] = []
    run_jobs(jobs, 2, lines.append)
    assert sorted(said(folder)[:2]) == ["fit base", "fit other"]
    assert said(folder)[2:] == ["test top"]
    assert lines[-1] == "3 of 3 done"
    run_jobs(jobs, 2, nothing)
    assert len(said(folder)) == 3


def test_one_at_a_time(folder: Path) -> None:
    lines: list[str] = []
    run_jobs([job(folder, "a", "fit"), job(folder, "b", "fit")], 1, lines.append)
    assert "0 of 2 done, about 2 min left, running: a" in lines
    assert [line for line in lines if line.endswith("running: b")]


def test_what_is_left_is_estimated_from_what_is_done(folder: Path) -> None:
    done = Job("a", ("fit",), folder / "a", minutes=10)
    (folder / "a.json").write_text(
        json.dumps({"whole": True, "arguments": ["fit"], "inputs": "", "seconds": 1200.0})
    )
    lines: list[str] = []
    run_jobs([done, Job("b", ("fit",), folder / "b", minutes=30)], 1, lines.append)
    assert lines[0] == "1 of 2 done, about 60 min left, running: b"


def test_variables_reach_the_command(folder: Path) -> None:
    (folder / "main.py").write_text("import os; print(os.environ['CARS'])")
    fit = job(folder, "a", "fit")
    run_jobs([fit], 1, nothing, {"CARS": "there"})
    assert fit.output.read_text() == "there\n"


def test_another_argument_or_input_is_done_anew(folder: Path) -> None:
    run_jobs([Job("t", ("test", "1"), folder / "t", inputs=lambda: "x")], 1, nothing)
    run_jobs([Job("t", ("test", "2"), folder / "t", inputs=lambda: "x")], 1, nothing)
    run_jobs([Job("t", ("test", "2"), folder / "t", inputs=lambda: "y")], 1, nothing)
    run_jobs([Job("t", ("test", "2"), folder / "t", inputs=lambda: "y")], 1, nothing)
    assert said(folder) == ["test 1", "test 2", "test 2"]


def test_another_training_or_base_begins_afresh(folder: Path) -> None:
    """`main.py` would refuse to go on with other settings, and go on upon another base."""
    run_jobs([Job("f", ("fit",), folder / "f", inputs=lambda: "x")], 1, nothing)
    run_jobs([Job("f", ("fit", "more"), folder / "f", inputs=lambda: "x")], 1, nothing)
    run_jobs([Job("f", ("fit", "more"), folder / "f", inputs=lambda: "y")], 1, nothing)
    anew = "fit more --run.overwrite true"
    assert said(folder) == ["fit", anew, anew]


def test_what_it_made_before_is_moved_aside(folder: Path) -> None:
    made = folder / "row"
    made.mkdir()
    (made / "results.json").write_text("of other weights")
    run_jobs([Job("t", ("test",), folder / "t", made=made)], 1, nothing)
    assert not made.exists()
    (aside,) = folder.glob("row.*")
    assert (aside / "results.json").read_text() == "of other weights"


def test_a_failure_says_what_and_where(folder: Path) -> None:
    jobs = [job(folder, "bad", "fit", "fail"), job(folder, "top", "test", needs=("bad",))]
    with pytest.raises(RuntimeError, match=r"bad ended with status 1.*bad\.log.*\nit went wrong"):
        run_jobs(jobs, 2, nothing)
    assert not jobs[0].done()
    assert said(folder) == ["fit fail"]


def test_seconds_of_an_interrupted_training_count(folder: Path) -> None:
    fit = job(folder, "f", "fit")
    note = {"whole": False, "arguments": ["fit"], "inputs": "", "seconds": 1000.0, "commit": None}
    (folder / "f.json").write_text(json.dumps(note))
    run_jobs([fit], 1, nothing)
    assert 1000 <= fit.note().seconds < 1100
    test = job(folder, "t", "test")
    (folder / "t.json").write_text(json.dumps(note))
    run_jobs([test], 1, nothing)
    assert test.note().seconds < 100


# Half a second of CPU time in a child's child, which a busy machine may take long for.
WORK = """
import subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.5: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
"""


@pytest.mark.slow
def test_cpu_seconds_are_those_of_all_it_started(folder: Path) -> None:
    (folder / "main.py").write_text(WORK)
    fit, test = job(folder, "f", "fit"), job(folder, "t", "test")
    run_jobs([fit, test], 1, nothing)
    for cost in (fit.note().cost(), test.note().cost()):
        assert cost["cpu_seconds"] >= 0.5
        assert cost["cpu_seconds"] <= cost["seconds"] + 0.2  # one process at a time


def test_cpu_seconds_of_an_interrupted_training_count_where_they_were_noted(folder: Path) -> None:
    note = {"whole": False, "arguments": ["fit"], "inputs": "", "seconds": 1000.0, "commit": None}
    for name, noted in (("known", {"cpu_seconds": 600.0}), ("older", {})):
        (folder / f"{name}.json").write_text(json.dumps({**note, **noted}))
    known, older = job(folder, "known", "fit"), job(folder, "older", "fit")
    run_jobs([known, older], 1, nothing)
    assert 600 <= (known.note().cpu_seconds or 0) < 700
    assert older.note().cpu_seconds is None


def test_cpu_seconds_of_what_is_ended_are_kept(folder: Path) -> None:
    waits = f"import pathlib, time\n{WORK}"
    (folder / "main.py").write_text(waits + "pathlib.Path('done').touch(); time.sleep(600)\n")
    fit = job(folder, "f", "fit")

    def interrupt(text: str) -> None:
        while not (folder / "done").is_file():
            time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([fit], 1, interrupt)
    assert not fit.note().whole
    assert (fit.note().cpu_seconds or 0) >= 0.5


def test_a_broken_note_counts_as_none(folder: Path) -> None:
    (folder / "f.json").write_text('{"whole": tru')
    assert not job(folder, "f", "fit").done()


def test_a_job_before_what_it_needs_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="top needs base before it"):
        run_jobs([job(folder, "top", "test", needs=("base",))], 1, nothing)


@pytest.mark.parametrize(("asked", "had"), [(None, "1"), ("2", "2")])
def test_threads_do_not_follow_from_how_many_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, had: str
) -> None:
    """Sums of several threads are in another order, and a training's numbers others."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    program = (
        "import os, pathlib; pathlib.Path('threads').write_text(os.environ['OMP_NUM_THREADS'])"
    )
    (folder / "main.py").write_text(program)
    run_jobs([job(folder, "a", "fit")], 1, nothing)
    assert (folder / "threads").read_text() == had
