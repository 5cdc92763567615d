"""A generator's miniature: what its numbers are, what is said of them, and what is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.miniature import generators as miniature_generators
from benchmarks.miniature.generators import WEAK, _seeds, _trained, gate_of, markdown
from benchmarks.miniature.jobs import REPOSITORY, Job, Note
from benchmarks.miniature.numbers import FAILS, HOLDS, OPEN
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.rows import METHODS
from benchmarks.miniature.samples import (
    References,
    Samples,
    Set,
    difference,
    features,
    folder_of,
    kept,
    kernel_resampled,
    near_of,
    trained_on,
)
from benchmarks.miniature.sheet import Panel, chart, sheet
from benchmarks.miniature.spec import Generators
from callbacks.metrics.fid import polynomial_mmd
from tests.quick import quick

N = 12
SELF_CASCADE = METHODS["self_cascade"]
assert isinstance(SELF_CASCADE, Generators)


def pictures(seed: int, level: float = 1.0, count: int = N) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return 0.5 + level * (torch.rand(count, 3, 32, 32, generator=draws) - 0.5)


def set_of(images: torch.Tensor) -> Set:
    return features(images, [str(number) for number in range(len(images))], 16)


@pytest.fixture(scope="module")
def known() -> References:
    return References(
        set_of(pictures(0)), near_of(pictures(1, count=40)), set_of(pictures(2)).thumbnails
    )


@pytest.mark.slow
def test_samples_of_the_same_kind_are_closer(known: References) -> None:
    same, flat = (Samples([set_of(pictures(5, level))], known) for level in (1.0, 0.3))
    for metric in ("swd", "swd_2", "swd_3"):
        apart = difference(same, flat, metric)
        assert apart.verdict == HOLDS
        assert difference(flat, same, metric).verdict == FAILS
        assert difference(same, same, metric).verdict == OPEN
    assert same.numbers()["memorised"][0] == pytest.approx(1, abs=0.1)


def test_a_mean_over_seeds_has_less_spread(known: References) -> None:
    one = Samples([set_of(pictures(5))], known)
    three = Samples([set_of(pictures(seed)) for seed in (5, 6, 7)], known)
    assert len(three.numbers()["swd"]) == 3
    assert three.resamples("kid_base").std() < one.resamples("kid_base").std()


def test_whole_sets_have_the_number_itself(known: References) -> None:
    """Weights of 1 are no resampling."""
    samples, reference = set_of(pictures(8)).thumbnails, known.base
    other = set_of(pictures(9)).thumbnails
    ones = np.ones((1, N))
    a, b = (float(kernel_resampled(x, reference, ones)[0]) for x in (samples, other))
    expected = polynomial_mmd(samples, reference) - polynomial_mmd(other, reference)
    assert a - b == pytest.approx(expected)


def test_frames_of_a_clip_are_resampled_together() -> None:
    frames = 4
    sets = [features(pictures(seed), [str(n) for n in range(N)], 16, frames) for seed in (0, 5)]
    near = near_of(pictures(1, count=40))
    known = References(sets[0], near, set_of(pictures(2)).thumbnails, frames)
    assert Samples([sets[1]], known).n == N // frames
    by_clip = known.weights.reshape(-1, N // frames, frames)
    assert (by_clip == by_clip[:, :, :1]).all()
    assert (by_clip[:, :, 0].sum(1) == N // frames).all()
    assert known.weights.std() > 0
    whole = features(pictures(0), [str(n) for n in range(N)], 16).patches.shape[2]
    assert sets[0].patches.shape[2] == whole // frames


def test_clips_that_are_trained_on(tmp_path: Path) -> None:
    """All frames, of the clip that evaluation would show of each photograph."""
    save(tmp_path / "photos", pictures(3, count=2))
    folder = {
        "class_path": "datamodules.Folder",
        "init_args": {"root": f"{tmp_path}/photos"},
    }
    moving = {"source": folder, "side": 16, "frames": 3}
    train = {"class_path": "datamodules.MovingCrops", "init_args": moving}
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump({"init_args": {"scale": 2, "train": train}}))
    found = trained_on(data)
    assert found.shape == (6, 3, 16, 16)
    assert not torch.equal(found[0], found[3])


@pytest.mark.parametrize(("level", "opens"), [(1.0, True), (0.3, False)])
def test_the_gate(level: float, opens: bool) -> None:
    base = torch.nn.functional.avg_pool2d(pictures(3), 2)
    base = 0.5 + level * (base - 0.5)
    gate = gate_of(base, pictures(0), pictures(1, count=40), SELF_CASCADE)
    assert gate["open"] is opens
    assert gate["n"] == N


def test_jobs_of_self_cascade(tmp_path: Path) -> None:
    data = Path(SELF_CASCADE.data)
    plan = Plan("self_cascade", SELF_CASCADE, tmp_path, data.absolute(), (0,), only=("tuned",))
    jobs = {job.name: job for job in plan.jobs()}
    assert list(jobs) == ["fit base", "fit samples", "fit tuned", "test tuned"]
    base, samples, tuned, test = jobs.values()
    assert "configs/experiment/mini/diffusion/automobiles.yaml" in base.arguments
    assert base.arguments[base.arguments.index("--trainer.max_steps") + 1] == "7000"
    schedule = "--model.init_args.lr_scheduler.init_args.steps"
    assert base.arguments[base.arguments.index(schedule) + 1] == "7000"
    assert samples.arguments[0] == "predict"
    place = str(tmp_path / "mini_self_cascade_base")
    assert all(place in job.arguments for job in (samples, tuned, test))
    assert samples.made == tmp_path / "mini_self_cascade_samples"


def planned(name: str, folder: Path) -> dict[str, Job]:
    method = METHODS[name]
    jobs = Plan(name, method, folder, Path(method.data).absolute(), (0,)).jobs()
    tests = [job.name for job in jobs if job.name.startswith("test")]
    assert tests == [f"test {row.name}" for row in method.rows]
    assert all((REPOSITORY / file).is_file() for job in jobs for file in files_of(job))
    return {job.name: job for job in jobs}


def test_all_that_clips_need_is_planned(tmp_path: Path) -> None:
    jobs = planned("self_cascade_video", tmp_path)
    assert str(tmp_path / "mini_self_cascade_video_base") in jobs["test tf"].arguments
    asked = jobs["test scalecrafter"].arguments
    tau, steps = (
        int(asked[asked.index(f"--model.init_args.{key}") + 1])
        for key in ("patch.init_args.tau", "sampler.steps")
    )
    assert tau / steps == 20 / 50


@pytest.mark.parametrize(
    "name", quick(["self_cascade", "self_cascade_video"], "self_cascade_video")
)
def test_the_commands_have_keys_that_are_there(
    name: str,
    tmp_path: Path,
    enlarger: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(REPOSITORY)
    for job in planned(name, tmp_path).values():
        with pytest.raises(SystemExit) as ended:
            enlarger(*job.arguments, "--print_config")
        told = capsys.readouterr()
        assert ended.value.code in (None, 0), f"{job.name}: {told.err}"
        assert "model:" in told.out


def test_all_that_the_miniature_needs_is_planned(tmp_path: Path) -> None:
    jobs = planned("self_cascade", tmp_path)
    sr, bicubic = (jobs[name].arguments for name in ("test sd_sr", "test bicubic"))
    assert str(tmp_path / "mini_self_cascade_sr") in sr
    assert bicubic[bicubic.index("--model.init_args.upscaler_weights") + 1] == "null"


def files_of(job: Job) -> list[str]:
    named = zip(job.arguments, job.arguments[1:], strict=False)
    return [value for key, value in named if key == "--config"]


def test_a_seed_without_samples_is_told(tmp_path: Path) -> None:
    plan = Plan("self_cascade", SELF_CASCADE, tmp_path, Path(SELF_CASCADE.data), (0, 1))
    for seed in plan.seeds:
        folder_of(plan.run_of("tf"), str(seed)).mkdir(parents=True)
    assert len(_seeds(plan, plan.run_of("tf"))) == 2
    folder_of(plan.run_of("tf"), "1").rmdir()
    with pytest.raises(ValueError, match=r"is not there, where tf keeps its samples of a seed"):
        _seeds(plan, plan.run_of("tf"))


def test_only_what_was_trained_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Low-rank updates keep their factor, and EDSR the mean of its pictures, as buffers."""
    plan = Plan("self_cascade", SELF_CASCADE, tmp_path, Path(SELF_CASCADE.data), (0,))
    weight = torch.nn.Parameter(torch.zeros(3, 5))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    tensors = {"layer": weight.detach(), "factor": torch.ones(())}
    content = {"state_dict": tensors, "optimizer_states": [optimizer.state_dict()]}
    path = tmp_path / "step-000000001.ckpt"
    torch.save({**content, "global_step": 1}, path)
    monkeypatch.setattr(miniature_generators, "best_or_newest", lambda _: (path, "newest"))
    assert _trained(plan, "lora_r4", Note())["parameters"] == 15


def save(folder: Path, images: torch.Tensor) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


def test_pictures_of_a_folder_and_their_sheet(tmp_path: Path) -> None:
    save(tmp_path / "a", pictures(0, count=3))
    found, names = kept(tmp_path / "a")
    assert names == ["00", "01", "02"]
    assert (found - pictures(0, count=3)).abs().max() < 0.003
    files = sorted((tmp_path / "a").iterdir())
    paper = np.asarray(sheet([("one", files), ("two", files[:2])]))
    assert paper.shape == (2 * 100, 170 + 3 * 100, 3)
    first = np.asarray(Image.open(files[0]))
    assert np.array_equal(paper[100:196:3, 170:266:3], first)


def test_curves_are_drawn() -> None:
    panels = [Panel("SWD", {"a": [[10, 2.0], [100, 1.0]], "b": [[10, 1.5]]}), Panel("empty", {})]
    drawn = np.asarray(chart(panels))
    assert (drawn[:, :440] != 255).any()
    assert (drawn[:, 440:] == 255).all()


NUMBERS = {"swd": 1.5, "swd_std": 0.02, "kid_base": 0.0021, "repetition": 0.1, "memorised": 1.02}
APART = {"metric": "kid_base", "n": 300, "difference": -0.004, "interval": [-0.006, -0.002]}
REPORT: dict[str, Any] = {
    **{"command": "python -m benchmarks.miniature self_cascade", "commit": "c", "seed": 0},
    "machine": {"cpu": "a processor", "cores": 2},
    "results": {
        **{"seeds": [0, 1, 2], "steps": None, "samples": 300, "side": 16, "note": "A note."},
        "frames": 1,
        "trainings": {"tuned": {"parameters": 1932, "steps": 340, "seconds": 700.4}},
        "evaluations": {"tuned": {"seconds": 60.0}},
        "gate": {
            **{"open": True, "n": 300, "margin": 1.5},
            **{"reached": {"swd": 2.0}, "real": {"swd": 1.6}},
        },
        "rows": {
            "tf": {"label": "free", "training": None, "numbers": NUMBERS, "cost": {}},
            "tuned": {
                **{"label": "tuned", "training": "tuned", "numbers": NUMBERS},
                "cost": {"seconds": 1.234, "calls": 86},
            },
        },
        "real": {"swd": 0.4},
        "claims": [
            {
                **{"claim": "it wins", "better": "tuned", "than": "tf"},
                "judged": [{**APART, "verdict": HOLDS}],
            }
        ],
        "curves": {},
    },
}


def test_the_page() -> None:
    text = markdown(REPORT, "self_cascade")
    assert "| tuned | 1,932 | 340 | 700 | 1.500 ± 0.020 | - | - | 2.1 | - | 0.100 | 1.020 |" in text
    assert "| 86 | 1.23 |" in text
    assert "| it wins (tuned - free) | KID-thumb, base | -4.0 (-6.0 to -2.0) | **holds** |" in text
    assert "it is 1.25 times: passed." in text
    closed = {**REPORT, "results": {**REPORT["results"]}}
    closed["results"]["gate"] = {**REPORT["results"]["gate"], "open": False}
    text = markdown(closed, "self_cascade")
    assert text.count(WEAK) == 2
    assert "holds" not in text


def test_the_page_has_cpu_time_where_it_was_noted() -> None:
    text = markdown(REPORT, "self_cascade")
    assert "| training, s |" in text
    assert ", 12 minutes of training and 1 of evaluation, " in text
    tuned = {**REPORT["results"]["trainings"]["tuned"], "cpu_seconds": 480.2}
    results = {**REPORT["results"], "trainings": {"tuned": tuned}}
    text = markdown({**REPORT, "results": results}, "self_cascade")
    assert "| training, CPU s |" in text
    assert "| tuned | 1,932 | 340 | 480 |" in text
    assert ", 12 minutes of training and 1 of evaluation, " in text  # of the rest it is not known
    results["evaluations"] = {"tuned": {"seconds": 60.0, "cpu_seconds": 120.0}}
    text = markdown({**REPORT, "results": results}, "self_cascade")
    assert ", 8 CPU minutes of training and 2 of evaluation, " in text


def test_the_page_of_clips() -> None:
    numbers = {"swd": 1.5, "flicker": 2.25, "flicker_std": 0.5}
    row = {**REPORT["results"]["rows"]["tuned"], "numbers": numbers}
    rows, real = {"rows": {"tuned": row}, "claims": []}, {"swd": 1.0, "flicker": 1.75}
    pictures, clips = (
        markdown(
            {**REPORT, "results": {**REPORT["results"], **rows, "real": real, "frames": n}}, "x"
        )
        for n in (1, 8)
    )
    assert "300 samples a row, clips of 8 frames, of 3 seeds each: the mean, and the " in clips
    assert "| 2.250 ± 0.500 | 86 | 1.23 |" in clips
    assert "| 1.750 | - | - |" in clips
    assert "s a clip" in clips
    assert "nearest the" not in clips
    assert "nearest the" in pictures
    assert "flicker" not in pictures
