"""How the commands of the pages are checked: what `make docs-commands` relies on."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPO
from tests.docs import commands, stand_in
from tests.docs.blocks import QUICKSTART, Block, blocks, files, inline, pages
from tests.docs.folder import make_folder, runs_before
from tests.docs.parsed import parsed, split

PAGE = """# Page
```bash
python main.py fit
```

<!-- checked: parse, needs two machines -->
```bash
torchrun main.py fit
```
"""
TEXT = """# `make` is no command in a heading: `make nothing`
`make test`, `make test` again, and `SEED=1 python -m
benchmarks.photographs --only NAME | OTHER`; and `main.py fit ... --run.name a`.
```
$ python main.py test --config ... \\
  --run.name b
make this an output
```
`--run.name NAME`, `--signal=USR1` of SLURM, `docker run`, `python -m a.b`, `main.py compare`
and `--x ...`.
"""
ROOMS = "benchmarks|callbacks|commands|datamodules|degradations|lightning_modules"
A_COMMAND = rf"(?:{'|'.join(stand_in.PROGRAMS)}|main\.py) [\w.~/-]+"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_block_says_how_it_is_checked(page: Path) -> None:
    for block in blocks(page):
        assert block.how in ("run", "parse", "test")
        assert block.how != "test" or commands.tested(block) == "ok"
    comments = re.findall(r"^<!-- checked:", page.read_text(), re.MULTILINE)
    assert len(comments) == sum(block.how != "run" for block in blocks(page))


def test_blocks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.blocks.REPO", tmp_path)
    (tmp_path / "a.md").write_text(PAGE)
    assert list(blocks(tmp_path / "a.md")) == [
        Block("a.md", 3, "python main.py fit\n", "run", ""),
        Block("a.md", 8, "torchrun main.py fit\n", "parse", "needs two machines"),
    ]
    (tmp_path / "a.md").write_text(PAGE.replace("parse, needs", "needs"))
    with pytest.raises(ValueError, match=r"a.md:8: the comment says 'needs two machines'"):
        list(blocks(tmp_path / "a.md"))


def test_commands_and_options_in_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.blocks.REPO", tmp_path)
    (tmp_path / "a.md").write_text(TEXT)
    assert [(block.line, block.how, block.text) for block in inline(tmp_path / "a.md")] == [
        (2, "parse", "make test"),
        (2, "parse", "SEED=1 python -m benchmarks.photographs --only NAME"),
        (3, "parse", f"python main.py fit --config {QUICKSTART} --run.name a"),
        (5, "parse", f"python main.py test --config {QUICKSTART} --run.name b"),
        (9, "option", "--run.name NAME"),
        (9, "parse", "docker run"),
        (9, "parse", "python -m a.b --help"),
        (9, "parse", "python main.py compare --help"),
        (10, "option", "--x"),
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_no_command_is_left_unfound(page: Path) -> None:
    """Looked for another way: in all code of the text, and at the start of lines of all fences."""
    found = " ".join(block.text.replace("\\\n", " ") for block in [*blocks(page), *inline(page)])
    text = re.sub(r"^#.*$", "", page.read_text(), flags=re.MULTILINE)
    looks = []
    for number, part in enumerate(re.split(r"^ *(?:```|~~~)", text, flags=re.MULTILINE)):
        if number % 2:
            looks += re.findall(rf"^\W*((?:\w+=\S* )*{A_COMMAND})", part, re.MULTILINE)
        else:
            for code in re.findall(r"(?<!`)`+([^`]+)`", part):
                looks += re.findall(rf"(?:^|\s)({A_COMMAND})", " ".join(code.split()))
    words = " ".join(found.split())
    assert not [command for command in looks if command.removesuffix(" ...") not in words]


def test_a_test_that_reads_nothing_off_the_page() -> None:
    for test, said in (
        ("tests/no.py", "there is no such test"),
        ("tests/test_readme.py", "the test does not read the blocks of method.md"),
        ("tests/docs/test_plugins.py", "ok"),
    ):
        assert commands.tested(Block("docs/plugins/method.md", 1, "make", "test", test)) == said


def test_files_that_a_page_shows() -> None:
    shown = files(REPO / "docs" / "plugins" / "degradation.md")
    assert set(shown) == {"my_sr/banding.py", "banding.yaml"}


@pytest.mark.parametrize(
    ("typed", "parse", "how", "run"),
    [
        ("python main.py fit --config a.yaml", True, "parsed", ""),
        ("python main.py fit --config a.yaml", False, "run small", "--trainer.max_steps 2"),
        ("python main.py fit --config a.yaml", False, "run small", "_batches 1 --config a.yaml"),
        ("python main.py fit --model.help lightning_modules.x.Y", False, "run", ".x.Y"),
        ("python main.py doctor", False, "run", "doctor"),
        ("python main.py export runs/a", False, "run", "export runs/a"),
        ("torchrun --nnodes 2 main.py fit --config a.yaml", False, "parsed", ""),
        ("srun .venv/bin/python main.py doctor", False, "parsed", ""),
        ("sbatch docs/train.sbatch a.yaml --run.name b", True, "parsed", ""),
        ("python main.py pack a b", False, "run", "main.py pack a b"),
        ("python main.py app runs/a", False, "parsed", ""),
        ("python -m datamodules.pack a b", False, "run", "-m datamodules.pack a b"),
        ("python main.py pack a b --name c", True, "parsed", ""),
        ("python docs/make_degradations.py", True, "compiled", "ast.parse"),
        ("make test", False, "make -n", "-n test"),
        ("pip install -e .[s3]", False, "extras are there", "-c"),
        ("hf auth login", True, "--help", "hf auth login --help"),
        ("ffmpeg -i clip.mp4 frames/%06d.png", True, "left to the reader", ""),
        ("docker build -t enlarger .", True, "left to the reader", ""),
        ("docker run --rm enlarger doctor", True, "parsed", ""),
    ],
)
def test_what_is_run(typed: str, parse: bool, how: str, run: str) -> None:
    program, *args = typed.split()
    said, words = stand_in.command(program, args, parse)
    assert said == how
    assert run in " ".join(words)
    assert bool(words) == (how not in ("parsed", "left to the reader"))


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("python ~/enlarger/main.py fit --config a.yaml", "main.py fit --config a.yaml"),
        ("torchrun --nnodes 2 main.py check", "torchrun --nnodes 2 main.py check"),
        ("srun .venv/bin/python main.py doctor", "main.py doctor"),
        (
            "sbatch docs/train.sbatch a.yaml --run.name b",
            "main.py fit --config a.yaml --run.name b",
        ),
        ("sbatch docs/pack.sbatch a b --name c", "main.py pack a b --name c"),
        ("docker build -t enlarger .", ""),
        (
            "docker run --rm -v a:b enlarger:cuda fit --config /enlarger/configs/a.yaml",
            "main.py fit --config configs/a.yaml",
        ),
        ("python -m datamodules.pack a b", "-m datamodules.pack a b"),
        ("python docs/make_degradations.py", ""),
        ("make test", ""),
    ],
)
def test_what_is_parsed(typed: str, parsed: str) -> None:
    program, *args = typed.split()
    assert stand_in.parsed_words(program, args) == parsed.split()


def test_options_whose_value_is_the_readers() -> None:
    assert split("--run.name NAME --data.init_args.scale 3") == (
        ["--data.init_args.scale", "3"],
        ["run.name"],
    )
    assert split("--a '{b: [1, 2]}'") == (["--a", "{b: [1, 2]}"], [])
    assert split("--model.help CLASS --tiling... --config configs/NAME.yaml --seed n") == (
        [],
        ["model", "tiling", "config", "seed"],
    )
    assert split("") == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "option", "said"),
    [
        (f"main.py fit --config {QUICKSTART}", "--run.name NAME --data.init_args.scale 3", "ok"),
        (f"main.py fit --config {QUICKSTART}", "--data.init_args.scala 3", "'data.init_args.scala"),
        (f"main.py fit --config {QUICKSTART}", "--run.nome", "there is no run.nome"),
        (f"main.py fit --config {QUICKSTART}", "--model.network.help CLASS", "ok"),
        (f"main.py fit --config {QUICKSTART}", "--model.nettwork.help CLASS", "no model.nettwork"),
        ("main.py fit --model.help lightning_modules.Regression", "", "ok"),
        ("main.py fit --model.help lightning_modules.resshift.Reshift", "", "Reshift"),
        ("main.py doctor --doctor.weight 5", "", "--doctor.weight"),
        ("torchrun --nnodes 2 main.py check --run.name a", "", "ok"),
        ("torchrun --nodes 2 main.py check --run.name a", "", "--nodes"),
        ("-m datamodules.pack a b", "--name c --workers", "ok"),
        ("main.py pack a", "", "required: OUT"),
        ("main.py pack a b c", "", "3 paths where SOURCE and OUT"),
        ("main.py pack a b", "--nome cars", "unknown arguments: --nome cars"),
        ("main.py niqe fit my/photos --out a.npz", "--out", "ok"),
        ("main.py niqe fit my/photos", "", "required: --out"),
        ("-m datamodules.pack a b", "--nome", "there is no nome"),
        ("-m benchmarks.photographs --only NAME", "", "ok"),
        ("-m benchmarks.photographs --only nome", "", "invalid choice: 'nome'"),
    ],
)
def test_parsed(words: str, option: str, said: str) -> None:
    assert said in parsed(words.split(), REPO, {}, option)


def test_runs_that_a_page_begins_with() -> None:
    names = {"export": {"quickstart", "noise"}, "predict": {"quickstart"}, "data": set()}
    for page, runs in names.items():
        assert runs_before(REPO / "docs" / f"{page}.md") == runs
    assert runs_before(REPO / "README.md") == {"quickstart"}  # of `make demo`


def test_an_extra_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="there is no extra s4"):
        stand_in.command("pip", ["install", "-e", ".[s4]"], False)


@pytest.mark.slow
def test_a_block_is_run_in_a_folder_like_a_checkout(tmp_path: Path) -> None:
    page = REPO / "docs" / "plugins" / "degradation.md"
    make_folder(tmp_path, page)
    checks = commands.Checks(tmp_path)
    assert (tmp_path / "main.py").resolve() == REPO / "main.py"
    assert (tmp_path / "my_sr" / "banding.py").is_file()
    assert len(list((tmp_path / "my" / "photos").iterdir())) == 12
    assert list((tmp_path / "my" / "shards").glob("*.tar"))

    def results(text: str) -> list[tuple[str, str]]:
        block = Block("docs/a.md", 1, text, "run", "")
        return [(row.how, row.result) for row in checks.check(block)]

    good = "python -c 'print(1)'"
    assert results(good) == [("run", "ok")]
    assert results("make clean") == [("make -n", "ok")]  # by make itself, not by its stand-in again
    assert results("ls my/photos") == [("run", "ok")]
    assert results(f"{good}\nls nowhere") == [("run", "ok"), ("run", results("ls nowhere")[0][1])]
    assert "nowhere" in results("ls nowhere")[0][1]
    assert results("python -c 'raise SystemExit(3)'") == [("run", "status 3")]
    assert results("python -c 'print(5); raise SystemExit(3)'") == [("run", "5")]


def test_a_block_that_takes_too_long_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LONGEST", 1)
    checks = commands.Checks(tmp_path)
    block = Block("docs/a.md", 1, "sleep 600 & echo $! > child; sleep 600", "run", "")
    assert checks.run(block)[0] == "not done in 1 s"
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("what the block had begun goes on")


def test_every_module_that_is_named_as_a_command_runs() -> None:
    """Of numbers with a commit, the command is the one of that commit."""
    named = set()
    for path in [*pages(), REPO / "Makefile", *REPO.glob("[a-z]*/**/*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "commit" not in line:
                named.update(re.findall(rf"python -m ((?:{ROOMS})(?:\.\w+)+)", line))
    assert len(named) > 5
    for name in named:
        file = REPO / name.replace(".", "/")
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
        assert 'if __name__ == "__main__":' in file.read_text(encoding="utf-8"), name
