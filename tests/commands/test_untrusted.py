"""No data and no file of the working directory is run, configures, or is replaced."""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from callbacks.predict.predictions import NAME
from commands.run.directory import FIXED
from files.marks import mark_of
from files.own_modules import OWN, import_own
from files.owned import NotOursError, refuse_foreign, remove_file, write_whole
from tests.conftest import REPO, words_of
from tests.quick import quick

# ------------------------------------------------------------------------ data is no configuration

STREAM = """class_path: datamodules.Stream
init_args: {samples: 1, urls: "pipe:touch RAN; cat /dev/null", allow_pipes: true}
"""


@pytest.fixture
def evil(tiny, bicubic):
    """A working directory with an image that is a configuration, whose commands must not run."""
    Path("a.jpg").write_text(STREAM)
    Path("pipe:touch RAN;.tar").touch()
    yield tiny
    assert not Path("RAN").exists()


def test_an_image_that_is_text_is_unusable(evil, refusal, caplog):
    refusal("predict --config bicubic/tiny.yaml --data.predict a.jpg")
    assert not list(Path("runs").rglob("*.png"))
    assert "unusable, left out: a.jpg: " in caplog.text


@pytest.mark.parametrize(("given", "expected"), [("a.jpg", "a.jpg"), ("[a.jpg]", ["a.jpg"])])
def test_the_name_of_an_image_is_not_read_as_a_configuration(evil, configured, given, expected):
    Path("more.yaml").write_text(f"data: {{init_args: {{predict: {given}}}}}\n")
    predict = "predict --config bicubic/tiny.yaml"
    in_file = configured(f"{predict} --config more.yaml")
    typed = configured(f"{predict} --data.predict {given}")
    assert in_file.data.init_args.predict == expected
    assert typed.data.init_args.predict == expected


SHARDS = "--data.init_args.train datamodules.Shards --data.init_args.train.urls"


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("--config a.jpg", id="a configuration"),
        pytest.param("--data.init_args.train a.jpg", id="a class"),
        pytest.param("--data.init_args.val '{x: a.jpg}'", id="a class by name"),
        pytest.param("--model a.jpg", id="a model"),
        pytest.param("--trainer.callbacks [a.jpg]", id="a list of classes"),
        pytest.param("--trainer a.jpg", id="a group"),
        pytest.param(f"{SHARDS} *.tar", id="a shard whose name is a pipe"),
    ],
)
def test_fit_refuses_an_image_or_shard_with_a_command_in_it_and_runs_nothing(evil, refusal, typed):
    """The command in the text of a.jpg, and in the shard's name, makes the file RAN."""
    refusal(f"fit --config tiny.yaml {typed}")
    assert not Path("RAN").exists()


# ------------------------------------------------------------------- nothing in the folder is run

# A finder that answers nothing, in each Python process of a command, also in those that it starts:
# it writes a script of each name that is asked for, before Python looks for it. The names of the
# standard library were imported before it: they are written, too.
TRACER = """
import importlib, os, sys
class Tracer:
    def find_spec(self, name, path=None, target=None):
        if path is None:
            write(name)
            importlib.invalidate_caches()
def write(name):
    script = os.path.join({folder!r}, name + ".py")
    if name != "mine" and name != "blocks" and not os.path.exists(script):
        with open(script, "w") as file:
            file.write("open({ran!r}, 'a').write(__name__ + chr(10))\\n")
for name in sys.stdlib_module_names:
    write(name)
sys.meta_path.insert(0, Tracer())
"""
MINE = """
import importlib
from degradations.base import Stage
from blocks import half


class Half(Stage):
    '''Darken.'''

    def draw(self, draws, shape):
        return {}

    def forward(self, x, params):
        assert importlib.import_module("blocks").half is half
        return half(x)
"""
MODEL = "--model lightning_modules.Bicubic --data datamodules.SRDataModule"
HALF = "--degradation degradations.Pipeline --degradation.stages '[{class_path: mine.Half}]'"
COMMANDS = [
    f"predict {MODEL} --data.scale 2 --data.predict a.png",
    f"fit --config tiny.yaml --trainer.max_steps 2 --data.workers 1 {HALF}",
    "pack PHOTOS packed --workers 2",
    "check",
]


@pytest.fixture
def folder(tiny, photo_folder):
    """A working directory with an image and a class of the user's."""
    Image.new("RGB", (24, 24)).save("a.png")
    Path("mine.py").write_text(MINE)
    Path("blocks.py").write_text("def half(x):\n    return x / 2\n")
    Path("PHOTOS").symlink_to(photo_folder)
    return tiny


@pytest.mark.parametrize("command", quick(COMMANDS, COMMANDS[2]))
def test_no_script_in_the_working_directory_is_imported_for_a_library(
    folder, tmp_path_factory, command
):
    """Each module that the command looks for has a script of its name there that notes its run."""
    site = tmp_path_factory.mktemp("site")
    ran = folder / "RAN"
    (site / "sitecustomize.py").write_text(TRACER.format(folder=str(folder), ran=str(ran)))
    done = subprocess.run(
        [sys.executable, REPO / "main.py", *words_of(command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("*.py"))) > 300  # the standard library has 300 names
    assert not ran.exists(), ran.read_text()


def test_a_users_module_finds_the_module_beside_it_and_a_library_does_not(folder, monkeypatch):
    """`mine` imports `blocks` beside it. A library that imports that name must not run the file."""
    monkeypatch.setattr(OWN, "folder", str(folder))
    for name in ("mine", "blocks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("blocks")  # by this test, as by a library
    assert find_spec("blocks") is None
    import_own("mine")  # which imports blocks
    assert sys.modules["blocks"].half(2) == 1


# ------------------------------------------------------------- files of others with names of ours

FOREIGN = {
    ".jsonl": '{"id": 1, "prompt": "a cat"}\n',
    ".json": '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}\n',
    ".csv": "a,b\n1,2\n",
}
PREDICT = """predict --config tiny.yaml --model lightning_modules.Bicubic --run.name other
    --writer.folder out"""


@pytest.mark.parametrize("name", [*FIXED, "out/predictions.jsonl"])
@pytest.mark.parametrize("is_text", [False, True])
def test_no_file_of_another_program_is_replaced_or_removed(tmp_path, name, is_text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = FOREIGN[path.suffix] if is_text else "\x00"
    path.write_text(content)
    with pytest.raises(NotOursError, match="Enlarger did not write it"):
        write_whole(path, "ours")
    with pytest.raises(NotOursError, match="Enlarger did not write it"):
        remove_file(path)
    assert path.read_text() == content


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_run_refuses_a_foreign_file_before_any_work(tiny, refusal, verb, name):
    path = Path("runs/tiny", name)
    path.parent.mkdir(parents=True)
    path.write_text(FOREIGN[path.suffix])
    sentence = refusal(f"{verb} --config tiny.yaml")
    assert f"{path} exists, and Enlarger did not write it" in sentence
    assert [file for file in Path("runs").rglob("*") if file.is_file()] == [path]
    assert path.read_text() == FOREIGN[path.suffix]


def test_the_files_that_commands_write_are_known_as_ours(trained, photo_folder, enlarger):
    """`refuse_foreign` raises for others: a command could not replace what it wrote before."""
    enlarger("test --config tiny.yaml")
    enlarger(f"{PREDICT} --data.predict {photo_folder}")
    written = [path for path in Path().rglob("*") if mark_of(path.name) is not None]
    assert {path.name for path in written} >= {"best.json", "results.json", "images.json", NAME}
    for path in written:
        refuse_foreign(path)


def test_predict_does_not_write_through_a_symbolic_link(tiny, photo_folder, refusal):
    Path("out").mkdir()
    Path("target").mkdir()
    Path("out", NAME).symlink_to("../target/mine")
    assert f"{NAME} is a link" in refusal(f"{PREDICT} --data.predict {photo_folder}")
    assert list(Path("target").iterdir()) == []
