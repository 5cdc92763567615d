"""From rows to commands: what they name, what they need, which data they get."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.miniature.__main__ import _said
from benchmarks.miniature.plan import Plan, read_whole, write_data
from benchmarks.miniature.rows import METHODS
from benchmarks.miniature.spec import BICUBIC, FILES, Claim, Generators, Method, Row, Training, load
from tests.conftest import REPO

CASARBI, INVSR = METHODS["casarbi"], METHODS["invsr"]
DATA = {
    "class_path": "datamodules.SRDataModule",
    "init_args": {
        "scale": 4,
        "train": {"class_path": "x"},
        "test": {
            "set_x4": {"class_path": "a"},
            "set_x2.7": {"class_path": "a", "init_args": {"scale": 2.7}},
            "set_x8": {"class_path": "a", "init_args": {"scale": 8}},
        },
    },
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(DATA))
    return path


def plan(tmp_path: Path, data: Path, method: Method = CASARBI, **more: Any) -> Plan:
    return Plan("casarbi", method, tmp_path / "runs", data, (3, 4), **more)


def after(arguments: tuple[str, ...], option: str) -> str:
    return arguments[arguments.index(option) + 1]


@pytest.mark.parametrize("name", METHODS)
def test_every_file_of_a_method_is_there(name: str) -> None:
    method = METHODS[name]
    found = Plan(name, method, Path("runs"), Path("data.yaml"), (0,))
    names = {t.config or t.name for t in method.trainings} | {
        r.config for r in method.rows if r.config
    }
    files = [found.config(name) for name in names] + [method.data, method.metrics]
    assert sorted(file for file in files if not (REPO / file).is_file()) == []


def test_latents_are_written_before_what_reads_them(tmp_path: Path) -> None:
    """By `encode`, into a folder of their own; the method's own file lies beside the others."""
    runs = tmp_path / "runs"
    found = Plan("invsr", INVSR, runs, REPO / INVSR.data, (0,), only=("middle",))
    jobs = {job.name: job for job in found.jobs()}
    assert list(jobs)[:4] == ["fit latents", "fit base", "fit mse", "fit middle"]
    assert jobs["fit latents"].arguments[0] == "encode"
    assert after(jobs["fit latents"].arguments, "--encode.out") == f"{runs}/mini_invsr_latents"
    urls = after(jobs["fit base"].arguments, "--data.init_args.train.init_args.urls")
    assert urls == f"{runs}/mini_invsr_latents/*.tar"
    middle = after(jobs["test middle"].arguments, "--model.init_args.sampling.middle_weights")
    assert middle == f"{runs}/mini_invsr_middle"
    assert found.config("invsr") == "configs/experiment/mini/invsr.yaml"
    assert found.trained("invsr") == runs / "mini_invsr"
    inputs = jobs["fit base"].inputs()
    Path(runs, "mini_invsr_latents").mkdir(parents=True)
    Path(runs, "mini_invsr_latents", "encode.json").write_text('{"samples": 1}')
    assert jobs["fit base"].inputs() != inputs


def test_what_another_miniature_trained_is_not_trained_again(tmp_path: Path) -> None:
    """Its job is the very same one: command, run and note."""
    runs = tmp_path / "runs"
    own = Plan("nsarm", METHODS["nsarm"], runs, REPO / METHODS["nsarm"].data, (0,))
    all_of = METHODS["comparison"]
    found = Plan("comparison", all_of, runs, REPO / all_of.data, (0,), only=("nsarm",))
    of_nsarm = {job.name: job for job in own.jobs()}
    jobs = {job.name: job for job in found.jobs()}
    for name in ("tokenizer", "latents", "base", "stage1", "stage2"):
        one, other = jobs[f"fit nsarm/{name}"], of_nsarm[f"fit {name}"]
        assert (one.arguments, one.place) == (other.arguments, other.place)
        assert one.inputs() == other.inputs()
    mapper = after(jobs["test nsarm"].arguments, "--model.init_args.mapper_weights")
    assert mapper == f"{runs}/mini_nsarm_stage1"


def test_a_longer_training_has_more_steps_and_nothing_else(tmp_path: Path, data: Path) -> None:
    """A schedule ends with them; a training with steps of its own has so many times those."""
    first = {job.name: job for job in plan(tmp_path, data).jobs()}
    longer = {job.name: job for job in plan(tmp_path, data, longer=10).jobs()}
    base, cascade = longer["fit base"].arguments, longer["fit cascade"].arguments
    schedule = "--model.init_args.lr_scheduler.init_args"
    for arguments, key in ((base, "T_max"), (cascade, "steps")):
        assert after(arguments, "--trainer.max_steps") == "30000"
        assert after(arguments, f"{schedule}.{key}") == "30000"
    assert f"{schedule}.warm_up" not in cascade
    assert longer["test cascade"].arguments == first["test cascade"].arguments
    resshift = METHODS["resshift"]
    own = Plan("resshift", resshift, tmp_path, data, (0,), only=("taef2_long",), longer=2)
    fit = {job.name: job for job in own.jobs()}["fit taef2_long"]
    assert after(fit.arguments, "--trainer.max_steps") == "8000"


@pytest.mark.parametrize("name", METHODS)
def test_every_training_can_be_longer(name: str, tmp_path: Path) -> None:
    method = METHODS[name]
    given = Plan(name, method, tmp_path, REPO / method.data, (0,), longer=3)
    for job in given.jobs():
        if job.arguments[0] == "fit":
            assert int(after(job.arguments, "--trainer.max_steps")) % 3 == 0


def test_variants_have_names_of_their_own(tmp_path: Path, data: Path) -> None:
    """Of runs and of the report: those of the normal training are kept."""
    given = ({}, {"longer": 10}, {"device": "cuda"}, {"longer": 10, "device": "cuda"})
    assert [plan(tmp_path, data, **more).variant for more in given] == [
        *("", "longer_10", "cuda", "longer_10_cuda")
    ]


def test_jobs_come_after_what_they_need(tmp_path: Path, data: Path) -> None:
    jobs = plan(tmp_path, data, replace(CASARBI, rows=tuple(_all_scales()))).jobs()
    before: set[str] = set()
    for job in jobs:
        assert before.issuperset(job.needs)
        before.add(job.name)
    trained, rows, asked = CASARBI.trainings, CASARBI.rows, CASARBI.consistency
    assert asked is not None
    assert len(before) == len(jobs) == len(trained) + len(rows) + len(asked.rows) + 1


def test_only_what_a_row_needs_is_trained(tmp_path: Path, data: Path) -> None:
    names = [job.name for job in plan(tmp_path, data, only=("single",)).jobs()]
    assert names == ["fit base_wide", "fit single", "test single", "test single_same"]
    names = [job.name for job in plan(tmp_path, data, only=("base_direct",)).jobs()]
    assert names == ["fit base", "test the gate", "test base_direct", "test base_direct_same"]


def test_what_a_row_is_tested_with(tmp_path: Path, data: Path) -> None:
    test = plan(tmp_path, data, only=("single",)).jobs()[-2]
    runs = tmp_path / "runs"
    assert after(test.arguments, "--model.init_args.base_weights") == str(
        runs / "mini_casarbi_base_wide"
    )
    assert after(test.arguments, "--model.init_args.weights") == str(runs / "mini_casarbi_single")
    assert after(test.arguments, "--seed_everything") == "3"
    assert after(test.arguments, "--run.seeds") == "2"
    assert test.made == runs / "miniature_casarbi" / "single"


def test_fewer_steps_shorten_the_schedule_too(tmp_path: Path, data: Path) -> None:
    base, cascade, *_ = plan(tmp_path, data, only=("cascade",), steps=50).jobs()
    schedule = "--model.init_args.lr_scheduler.init_args"
    for arguments, key in ((base.arguments, "T_max"), (cascade.arguments, "steps")):
        assert after(arguments, "--trainer.max_steps") == "50"
        assert after(arguments, f"{schedule}.{key}") == "50"
    assert after(cascade.arguments, f"{schedule}.warm_up") == "0"


def test_some_scales_of_the_data(tmp_path: Path, data: Path) -> None:
    write_data(data, tmp_path / "some.yaml", (4.0, 8.0))
    content = yaml.safe_load((tmp_path / "some.yaml").read_text())
    assert list(content["init_args"]["test"]) == ["set_x4", "set_x8"]
    assert "train" not in content["init_args"]
    with pytest.raises(ValueError, match="no test source at the scales"):
        write_data(data, tmp_path / "none.yaml", (3.0,))


def test_other_settings_in_any_file_are_other_inputs(tmp_path: Path, data: Path) -> None:
    configs = tmp_path / "configs"
    (configs / "casarbi").mkdir(parents=True)
    method = Method(
        trainings=(Training("base"),),
        rows=(Row(BICUBIC, "bicubic", None), Row("base", "base", "base", "base")),
        claims=(),
        data="",
    )
    inner = configs / "model.yaml"
    inner.write_text("init_args: {width: 8}")
    (configs / "casarbi/base.yaml").write_text("model: ../model.yaml # a file\n")
    fit = plan(tmp_path, data, method, configs=(str(configs),)).jobs()[0]
    first = fit.inputs()
    inner.write_text("# other words\ninit_args: {width: 8}")
    assert fit.inputs() == first
    inner.write_text("init_args: {width: 16}")
    assert fit.inputs() != first
    assert read_whole(configs / "casarbi/base.yaml") == {"model": {"init_args": {"width": 16}}}


def test_a_name_that_is_not_there_is_refused() -> None:
    bicubic = Row(BICUBIC, "bicubic", None)
    with pytest.raises(ValueError, match="row 'a' names 'tall'; there are base"):
        Method((Training("base"),), (bicubic, Row("a", "", "base", "tall")), (), "")
    with pytest.raises(ValueError, match="claim 'x' names 'b'"):
        Method((), (bicubic,), (Claim("x", BICUBIC, "b"),), "")
    with pytest.raises(ValueError, match="row 'a' names 'none'"):
        Method((), (bicubic, Row("a", "", None, control="none")), (), "")


TABLE = """
title: Tiny
data: data.yaml
words: {small: &small --model.init_args.width 8}
trainings: [{name: base, options: [*small, "--seed_everything 1"]}]
rows:
  - {name: bicubic, label: bicubic}
  - {name: base, label: ours, config: base, weights: base, scales: [2, 2.7]}
claims: [{text: it helps, better: base, than: bicubic}]
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TABLE)
    training = Training("base", options=("--model.init_args.width", "8", "--seed_everything", "1"))
    rows = (
        Row(BICUBIC, "bicubic"),
        Row("base", "ours", "base", "base", scales=(2.0, 2.7)),
    )
    claims = (Claim("it helps", "base", BICUBIC),)
    assert load(path) == Method((training,), rows, claims, "data.yaml", title="Tiny")
    path.write_text(f"kind: generators\nframes: 4\n{TABLE}")
    assert load(path) == Generators((training,), rows, claims, "data.yaml", title="Tiny", frames=4)
    other = tmp_path / "other.yaml"
    other.write_text(TABLE.replace("trainings: [", "borrows: tiny\ntrainings: ["))
    assert [training.name for training in load(other).trainings] == ["tiny/base", "base"]


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("title: Tiny", "titel: Tiny", "titel"),
        ("better: base, than", "beter: base, than", "beter"),
        ("label: ours, ", "", "label"),
        ("scales: [2, 2.7]", "scales: [x2]", "x2"),
        ("weights: base", "weights: tall", "row 'base' names 'tall'; there are base"),
        ("title: Tiny", "kind: videos", "kind is 'videos'; expected super-resolvers or generators"),
    ],
)
def test_a_mistake_in_a_file_is_refused(tmp_path: Path, was: str, now: str, message: str) -> None:
    path = tmp_path / "tiny.yaml"
    assert TABLE.count(was) == 1
    path.write_text(TABLE.replace(was, now))
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        load(path)
    assert message in str(raised.value)


def test_every_file_is_a_method() -> None:
    assert sorted(METHODS) == sorted(path.stem for path in FILES.iterdir())


def test_a_report_names_no_place_of_a_machine() -> None:
    words = ["casarbi", "--runs", "/there", "--seeds", "0", "1", "--jobs=2", "--steps", "9"]
    assert _said(words) == ["casarbi", "--seeds", "0", "1", "--steps", "9"]


def _all_scales() -> list[Row]:
    return [replace(row, scales=None) for row in CASARBI.rows]
