"""A miniature of two rows, through the command line: trained, tested, reported, done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.miniature.__main__ import write
from benchmarks.miniature.jobs import run_jobs
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.spec import BICUBIC, Claim, Gate, Method, Row, Training
from tests.conftest import REPO

PHOTOS = "datamodules.Photos"
CONFIGS = REPO / "configs"
EXPERIMENT = {
    "model": {
        "class_path": "lightning_modules.Regression",
        "init_args": {
            "network": {
                "class_path": "lightning_modules.EDSR",
                "init_args": {"blocks": 1, "channels": 8, "global_skip": True},
            }
        },
    },
    "data": str(CONFIGS / "data/photos.yaml"),
    "degradation": str(CONFIGS / "degradation/bicubic.yaml"),
    "trainer": str(CONFIGS / "trainer/cpu_minutes.yaml"),
}
SMALL = (
    *("--data.init_args.batch_size", "2", "--data.init_args.crop_size", "32"),
    *("--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.num_sanity_val_steps", "0"),
    *("--data.init_args.workers", "0"),
)
TINY = Method(
    trainings=(Training("tiny", options=SMALL),),
    rows=(
        Row(
            *(BICUBIC, "bicubic", None),
            options=(
                *("--model", str(CONFIGS / "model/bicubic.yaml")),
                *("--degradation", str(CONFIGS / "degradation/bicubic.yaml")),
            ),
        ),
        Row("tiny", "tiny EDSR", "tiny", "tiny"),
    ),
    claims=(Claim("training helps", "tiny", BICUBIC),),
    data="",
    gate=Gate("tiny", str(CONFIGS / "data/photos.yaml"), "photos", 2.0, 50.0),
    shown=(BICUBIC, "tiny"),
    shown_scales=(2.0,),
)


def crops(path: Path) -> Path:
    squares = {
        "class_path": "datamodules.Crops",
        "init_args": {
            "source": {"class_path": PHOTOS, "init_args": {"names": ["coffee", "chelsea"]}},
            **{"size": 64, "per_image": 3, "scale": 2},
        },
    }
    content = {
        "class_path": "datamodules.SRDataModule",
        "init_args": {"scale": 2, "workers": 0, "test": {"photos_x2": squares}},
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_two_rows(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))  # the method's own
    data = crops(tmp_path / "data.yaml")
    plan = Plan("tiny", TINY, tmp_path / "runs", data, (0, 1), 2, (), (str(configs),))
    said: list[str] = []
    run_jobs(plan.jobs(), 2, said.append)
    assert said[-1] == "4 of 4 done"
    write(plan.measured(), ["tiny"], tmp_path / "results")
    written: dict[str, Any] = json.loads((tmp_path / "results/tiny_miniature.json").read_text())
    results = written["results"]
    photos = results["rows"]["tiny"]["sets"]["photos"]["x2"]
    together = results["rows"]["tiny"]["sets"]["all"]["x2"]
    assert photos["psnr"] == pytest.approx(together["psnr"])
    assert photos["swd"] == pytest.approx(together["swd"], rel=1e-4)  # of pictures as written
    assert photos["calls"] == 1
    assert not results["gate"]["open"]
    assert results["claims"][0]["judged"] == []
    assert len(results["images"]["x2"]) == 6
    assert (tmp_path / "results/tiny_miniature.png").is_file()

    again: list[str] = []
    run_jobs(plan.jobs(), 2, again.append)
    assert again == ["4 of 4 done"]

    longer = plan._replace(longer=2, device="cuda", runs=tmp_path / "longer")
    run_jobs(longer.jobs(), 2, said.append)
    write(longer.measured(), ["tiny", "--longer", "2"], tmp_path / "other")
    (file,) = (tmp_path / "other").iterdir()  # no picture, and no other name
    assert file.name == "tiny_miniature_longer_2_cuda.json"
    assert (longer.trained("tiny") / "checkpoints/step-000000004.ckpt").is_file()
