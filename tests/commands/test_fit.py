"""`enlarger.fit` and `enlarger.data`: runs in Python are resumed, ranked and named as runs are."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image

import enlarger
from callbacks import EMA, PSNR
from callbacks.results.files import read_file
from callbacks.results.results import Results
from commands.run.files import file_hash, newest_whole
from datamodules import Folder
from lightning_modules import EDSR, Regression
from tests.commands.test_resume import assert_equal

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
RGB = np.random.default_rng(0).integers(0, 256, (48, 20, 3), dtype=np.uint8)


def save_images(folder, level=0):
    """Write four images in a new folder, named by it."""
    folder.mkdir()
    for number in range(4):
        Image.fromarray(RGB | np.uint8(level)).save(folder / f"{folder.name}{number}.png")
    return folder


def edsr(**settings):
    return Regression(2, network=EDSR(2, blocks=1, channels=4), **settings)


def data(train, val=None):
    return enlarger.data(train, scale=2, val=val, crop_size=16, batch_size=2, workers=0)


def test_fit_continues_a_run_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    photos = save_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)

    def fit(steps, run):
        torch.manual_seed(0)
        ema = EMA(decay=0.5)
        model = enlarger.fit(
            edsr(), data(photos), callbacks=[ema], max_steps=steps, run=run, **QUIET
        )
        # In the end, the model has the averages.
        assert_equal(dict(model.module.named_parameters()), ema.state_dict()["weights"])
        return model.module.state_dict()

    uninterrupted = fit(steps=4, run=None)
    fit(steps=3, run="x")
    resumed = fit(steps=4, run="x")
    with_nothing_to_do = fit(steps=4, run="x")

    assert_equal(resumed, uninterrupted)
    assert_equal(with_nothing_to_do, uninterrupted)


def test_lightnings_trainer_loads_the_trained_weights_of_a_checkpoint_of_fit(tmp_path, monkeypatch):
    """They are not the averages (EMA), which the model has that fit returns."""
    photos = save_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    ema = EMA(decay=0.5)
    averaged = enlarger.fit(edsr(), data(photos), callbacks=[ema], max_steps=4, run="x", **QUIET)

    path = newest_whole(tmp_path / "runs/x/checkpoints")
    weights = torch.load(path)["state_dict"]
    model = edsr()
    images = enlarger.data(photos, scale=2, val=photos, workers=0)
    trainer = Trainer(enable_model_summary=False, **QUIET)
    trainer.validate(model, images, ckpt_path=path, weights_only=True, verbose=False)

    assert path.name == "step-000000004.ckpt"
    assert_equal(model.state_dict(), weights)
    layer = "network.head.0.weight"
    assert not torch.equal(averaged.module.state_dict()[layer], weights[layer])


def test_scores_of_fit_on_other_validation_images_are_not_compared(tmp_path):
    """The best of one set would be better than all of a harder one, whatever was learnt since."""
    easy = save_images(tmp_path / "easy")
    hard = save_images(tmp_path / "hard", level=128)

    def compared(max_steps, val):
        """Train on; return the steps whose scores are compared with that of the newest one."""
        settings = {"callbacks": [PSNR()], "max_steps": max_steps, **QUIET}
        enlarger.fit(edsr(), data(easy, val), run=tmp_path / "run", **settings)
        scores = json.loads((tmp_path / "run/checkpoints/best.json").read_text())["scores"]
        # Names are step-000000002.ckpt and so on.
        measured_on = {int(name[5:14]): score["measured"] for name, score in scores.items()}
        return [step for step, on in measured_on.items() if on == measured_on[max_steps]]

    assert compared(max_steps=2, val=easy) == [2]
    assert compared(max_steps=4, val=easy) == [2, 4]
    assert compared(max_steps=6, val=hard) == [6]
    shutil.copy(easy / "easy0.png", hard / "hard0.png")  # another image of that name
    assert compared(max_steps=8, val=hard) == [8]


def test_fit_goes_on_with_the_learning_rate_of_a_checkpoint_and_warns_of_another(tmp_path, caplog):
    photos = save_images(tmp_path / "photos")
    for max_steps, lr in ((2, 1e-3), (4, 1e-3), (6, 1e-5)):
        assert "goes on with" not in caplog.text
        model = edsr(optimizer=partial(torch.optim.Adam, lr=lr))
        enlarger.fit(model, data(photos), max_steps=max_steps, run=tmp_path / "run", **QUIET)
    assert "goes on with the checkpoint's lr 0.001, not 1e-05" in caplog.text


def test_results_after_training_have_the_files_name_but_not_its_hash(tmp_path, photo_folder):
    """Else they would pass for numbers of the published file with which the training began.

    The same holds for a checkpoint of that training, which Lightning loads by ``ckpt_path``.
    """
    file = str(tmp_path / "a.pth")
    torch.save(edsr().state_dict(), file)
    images = data(photo_folder)
    images.test = {"test": Folder(str(photo_folder))}
    settings = {"max_steps": 1, "default_root_dir": tmp_path, **QUIET}
    trainer = Trainer(callbacks=[PSNR(), Results()], enable_checkpointing=False, **settings)
    model = edsr(weights=file)

    trainer.test(model, images, verbose=False)
    trainer.fit(model, images)
    trainer.test(model, images, verbose=False)
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    trainer.test(edsr(weights=file), images, verbose=False, ckpt_path=tmp_path / "b.ckpt")

    # The last two tests are of equal weights, so they have one row.
    before, after = read_file(tmp_path / "results.json")
    assert before.checkpoint == file
    assert before.sha256 == file_hash(Path(file))
    assert after.checkpoint == f"{file}, trained on"
    assert after.sha256 is None
