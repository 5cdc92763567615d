"""Mistakes of users are answered by words that name the fix; a bug keeps its traceback."""

import json
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.commands import plugins_with_bugs
from tests.conftest import REPO
from tests.make import files_of

FIT = "fit --config tiny.yaml"
PLUGINS = plugins_with_bugs.__name__
TABLE = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())


@pytest.mark.parametrize(("typed", "words"), TABLE["typed"].items())
def test_a_mistake_in_a_command_gets_its_rows_answer(tiny, refusal, monkeypatch, typed, words):
    """A row of refusals.yaml is what is typed after `fit --config tiny.yaml`, or a whole command.

    ``--model.network.chanels 3: did you mean 'channels'?``
    """
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)
    sentence = refusal(f"{FIT} {typed}" if typed.startswith("--") else typed)
    assert words in sentence
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize(("typed", "words"), TABLE["trained"].items())
def test_a_mistake_for_a_trained_run_is_refused_and_changes_no_file(trained, refusal, typed, words):
    """Such as ``--run.overwrite true --data.train.root missing: missing``, typed after FIT.

    If the refusal came later, the old run would have been moved aside already.
    """
    before = files_of(trained)
    assert words in refusal(f"{FIT} {typed}")
    assert files_of(trained) == before
    assert list(Path("runs").iterdir()) == [trained]


@pytest.mark.parametrize("row", TABLE["files"], ids=lambda row: row["words"])
def test_a_mistake_in_a_file_is_refused_and_changes_no_file(tiny, refusal, row):
    """Such as ``{files: {importing.py: import torhc}, typed: --model importing.Method}``.

    Its `words` are "No module named 'torhc'".
    """
    for name, content in row["files"].items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    typed = row["typed"]
    assert row["words"] in refusal(f"{FIT} {typed}" if typed.startswith("--") else typed)
    for name, content in row["files"].items():
        assert Path(name).read_text() == content


@pytest.mark.parametrize("digits", ["0x" + "f" * 5000, "9" * 5000], ids=["hexadecimal", "decimal"])
def test_a_number_too_long_to_be_printed_is_refused(tiny, refusal, digits):
    Path("more.yaml").write_text(f"data: {{batch_size: {digits}}}")
    assert "4300 digits" in refusal(f"{FIT} --config more.yaml")


def test_broken_training_images_are_skipped_and_counted(tiny, photo_folder, enlarger, caplog):
    """Workers read them, and this process counts."""
    shutil.copytree(photo_folder, "photos")
    Path("photos/0.png").write_bytes(Path("photos/1.png").read_bytes()[:1000])
    data = "--data.train.root photos --data.val null --data.workers 2"
    enlarger(f"{FIT} {data} --trainer.max_steps 5")
    # Five steps are an epoch, in which each image is read.
    assert "skipped a training image, unreadable (1 so far)" in caplog.text
    assert Path("runs/tiny/checkpoints/step-000000005.ckpt").is_file()


# --------------------------------------------------------------------------- the user's own code


@pytest.mark.parametrize(
    ("mistake", "workers", "error"),
    [("raise", 0, ValueError), ("zero", 2, ZeroDivisionError), ("attribute", 0, AttributeError)],
    ids=["in the main process", "in a DataLoader worker", "in the constructor"],
)
def test_an_error_in_a_users_dataset_keeps_its_traceback(tiny, enlarger, mistake, workers, error):
    """A sentence alone, or errors of the parser around it, would hide the line with the bug."""
    source = json.dumps({"class_path": f"{PLUGINS}.Mistaken", "init_args": {"mistake": mistake}})
    command = f"{FIT} --data.val null --data.workers {workers} --data.train"
    with pytest.raises(error) as raised:
        enlarger(command, source)
    assert "plugins_with_bugs.py" in "".join(traceback.format_exception(raised.value, chain=False))


def test_an_error_of_lightning_is_one_sentence_or_under_debug_raised(tiny, enlarger, refusal):
    command = f"{FIT} --trainer.callbacks+ {PLUGINS}.LogsWhereItMayNot"
    assert "self.log" in refusal(command)
    with pytest.raises(MisconfigurationException):
        enlarger(f"{command} --debug")


# ------------------------------------------------------------------------ before torch is imported


@pytest.mark.parametrize(
    ("typed", "answer"),
    [("", "the commands are fit, validate"), ("prdict", "did you mean 'predict'?")],
)
def test_a_typo_is_answered_without_torch(typed, answer):
    """Whose import takes seconds."""
    code = f"""
import sys, main
try:
    main.main({typed.split()})
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "2 False\n"  # status 2; torch is not imported
    assert answer in done.stderr
