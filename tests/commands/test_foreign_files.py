"""A file with a fixed name of ours that another program wrote is refused, and stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.predict.predictions import NAME
from commands.run.directory import FIXED
from commands.run.folder_lock import HOLDER
from files.marks import MARKS
from files.owned import NotOursError, refuse_foreign, remove_file, write_whole

FOREIGN = {
    ".jsonl": '{"id": 1, "prompt": "a cat"}\n',
    ".json": '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}\n',
    ".csv": "a,b\n1,2\n",
}
PREDICT = (
    *("predict", "--config", "tiny.yaml", "--model", "lightning_modules.Bicubic"),
    *("--data.predict", "in", "--writer.folder", "out", "--run.name", "other"),
)


@pytest.mark.parametrize("name", [*FIXED, "out/predictions.jsonl"])
@pytest.mark.parametrize("text", ["", "\x00", None])
def test_every_writer_refuses_it(tmp_path: Path, name: str, text: str | None) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = FOREIGN[path.suffix] if text is None else text
    path.write_text(content)
    if content:
        for change in (lambda: write_whole(path, "ours"), lambda: remove_file(path)):
            with pytest.raises(NotOursError, match="Enlarger did not write it"):
                change()
        assert path.read_text() == content


@pytest.mark.parametrize("name", FIXED)
def test_a_run_refuses_it_before_any_work(
    tiny: Path, refusal: Callable[..., str], name: str
) -> None:
    path = Path("runs/tiny", name)
    path.parent.mkdir(parents=True)
    path.write_text(FOREIGN[path.suffix])
    for command in ("fit", "test"):
        assert f"{path} exists, and Enlarger did not write it" in refusal(
            command, "--config", "tiny.yaml"
        )
    assert [path.name for path in Path("runs").rglob("*") if path.is_file()] == [path.name]


def test_what_the_commands_write_is_ours(
    tiny: Path, photo_folder: Path, enlarger: Callable[..., None]
) -> None:
    Path("in").symlink_to(photo_folder)
    fit = ("fit", "--config", "tiny.yaml", "--trainer.max_steps", 2, "--trainer.val_check_interval")
    enlarger(*fit, 2)
    enlarger("test", "--config", "tiny.yaml")
    enlarger(*PREDICT)
    found = [path for path in Path().rglob("*") if any(n.fullmatch(path.name) for n, _ in MARKS)]
    names = {path.name for path in found}
    written = {Path(name).name for name in FIXED} - {"weights.json"}  # of weights that fit in part
    assert names >= written | {NAME}
    for path in found:
        refuse_foreign(path)


def test_nothing_is_written_through_a_link(
    tiny: Path, photo_folder: Path, refusal: Callable[..., str]
) -> None:
    Path("in").symlink_to(photo_folder)
    Path("out").mkdir()
    Path("target").mkdir()
    Path("out", NAME).symlink_to("../target/mine")
    assert f"{NAME} is a link" in refusal(*PREDICT)
    assert list(Path("target").iterdir()) == []


def test_the_lock_is_not_written_through_a_link(
    tiny: Path, photo_folder: Path, enlarger: Callable[..., None]
) -> None:
    Path("in").symlink_to(photo_folder)
    Path("out").mkdir()
    Path("mine").write_text("mine")
    Path("out", HOLDER).symlink_to("../mine")
    enlarger(*PREDICT)
    assert Path("mine").read_text() == "mine"
