"""From a method's table of rows to the commands of ``main.py`` that fill it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.miniature.jobs import REPOSITORY, Job
from benchmarks.miniature.spec import Consistency, Gate, Method, Row, Training
from commands.run.files import FOLDER, best_or_newest, fingerprint
from datamodules.sources.latents import ABOUT
from files.owned import write_whole

# What only a benchmark needs, and what docs pages show to users.
CONFIGS = ("benchmarks/configs/experiment/mini", "configs/experiment/mini")
SELF_SSIM = "benchmarks/configs/callbacks/mini_self_ssim.yaml"
SAME = "_same"  # behind the name of a row: its run on one LR at several scales
CONTROLLED = "configs/callbacks/quality.yaml"  # has bicubic beside PSNR


class Plan(NamedTuple):
    """What is asked for.

    name: Of the method.
    method: Its trainings and rows.
    runs: Folder of runs.
    data: File of the test data.
    seeds: Of what samples, consecutive.
    steps: Of each training, in place of those of its file; None to keep those.
    only: Rows that are to be tested; all, if empty.
    configs: Folders with a folder of files for each method.
    longer: Times the steps of each training; its schedule ends with them.
    device: Where it runs.
    """

    name: str
    method: Method
    runs: Path
    data: Path
    seeds: tuple[int, ...]
    steps: int | None = None
    only: tuple[str, ...] = ()
    configs: tuple[str, ...] = CONFIGS
    longer: int = 1
    device: str = "cpu"

    @property
    def rows(self) -> list[Row]:
        """The rows that are wanted."""
        return [row for row in self.method.rows if not self.only or row.name in self.only]

    @property
    def variant(self) -> str:
        """What differs from the normal training, for names of folders; empty for that one."""
        longer = [f"longer_{self.longer}"] if self.longer > 1 else []
        device = [self.device] if self.device != "cpu" else []
        return "_".join([*longer, *device])

    def measured(self) -> Plan:
        """The same of all rows that have been tested with these settings, wanted or not."""
        everything = self._replace(only=())
        done = {job.name for job in everything.jobs() if job.done()}
        names = tuple(row.name for row in everything.rows if f"test {row.name}" in done)
        return self._replace(only=names)

    @property
    def table(self) -> Path:
        """Folder of the rows' runs."""
        return self.runs / f"miniature_{self.name}"

    def run_of(self, row: str) -> Path:
        """The run's folder of a row."""
        return self.table / row

    def trained(self, training: str) -> Path:
        """The run's folder of a training, where the command line itself would put it."""
        method, name = self._owner(training)
        return self.runs / f"mini_{method}{'' if name == method else f'_{name}'}"

    def _place(self, training: str) -> Path:
        method, name = self._owner(training)
        return self._replace(name=method).table / "jobs" / f"fit_{name}"

    def _owner(self, training: str) -> tuple[str, str]:
        *_, method, name = (self.name, *training.split("/"))
        return method, name

    def jobs(self) -> list[Job]:
        """All commands, those that are needed first; the files of their test data are written."""
        wanted = self.rows
        trained = self._trained({n for row in wanted for n in _needs(row)} | {*self.method.always})
        fits = [self._train(training) for training in trained]
        tests = [self._test(row) for row in wanted]
        gate = self.method.gate
        if gate is not None and gate.training in {training.name for training in trained}:
            tests.insert(0, self._gate(gate))
        if (asked := self.method.consistency) is not None:
            tests += [self._agrees(row, asked) for row in wanted if row.name in asked.rows]
        return fits + tests

    def _trained(self, wanted: set[str]) -> list[Training]:
        for training in reversed(self.method.trainings):  # each comes after what it needs
            if training.name in wanted:
                wanted |= set(training.needs)
        return [training for training in self.method.trainings if training.name in wanted]

    def _train(self, training: Training) -> Job:
        config = self.config(training.config or training.name)
        run = self.trained(training.name)
        words = [training.verb, "--config", config, *self._filled(training.options)]
        if training.verb == "encode":
            words += ["--encode.out", str(run)]
        else:
            words += self._steps(training, config) if training.verb == "fit" else ()
            words += ["--run.root", str(self.runs), "--run.name", run.name]
        return Job(
            f"fit {training.name}",
            tuple(words),
            self._place(training.name),
            tuple(f"fit {name}" for name in training.needs),
            partial(self._inputs, training.needs, [config]),
            None if training.verb == "fit" else run,
        )

    def _steps(self, training: Training, config: str) -> tuple[str, ...]:
        asked = training.steps if self.steps is None else self.steps
        if asked is None and self.longer > 1:
            asked = read_whole(REPOSITORY / config)["trainer"]["max_steps"]
        return () if asked is None else _of_steps(config, asked * self.longer)

    def _test(self, row: Row) -> Job:
        data = self.table / "jobs" / f"{row.name}_data.yaml"
        write_data(self.data if row.data is None else REPOSITORY / row.data, data, row.scales)
        return self._tested(row, row.name, data, self.method.metrics, self.method.batches)

    def _agrees(self, row: Row, asked: Consistency) -> Job:
        data = REPOSITORY / asked.data
        return self._tested(row, f"{row.name}{SAME}", data, SELF_SSIM, asked.batches)

    def _tested(self, row: Row, name: str, data: Path, metrics: str, batches: int | None) -> Job:
        needs = tuple(_needs(row))
        files = [self.config(row.config)] if row.config else []
        words = [word for file in files for word in ("--config", file)]
        words += self._filled(row.options)
        if row.weights is not None:
            words += ["--model.init_args.weights", str(self.trained(row.weights))]
        if batches is not None:
            words += ["--trainer.limit_test_batches", str(batches)]
        read = [*files, metrics, str(data), *(o for o in row.options if o.endswith(".yaml"))]
        return Job(
            f"test {name}",
            (
                *("test", *words, "--data", str(data), "--trainer.callbacks", metrics),
                *("--run.root", str(self.table), "--run.name", name, "--trainer.logger", "false"),
                *("--seed_everything", str(self.seeds[0]), "--run.seeds", str(len(self.seeds))),
            ),
            self.table / "jobs" / f"test_{name}",
            tuple(f"fit {name}" for name in needs),
            partial(self._inputs, needs, read),
            self.run_of(name),
        )

    def _gate(self, gate: Gate) -> Job:
        config = self.config(gate.training)
        return Job(
            "test the gate",
            (
                *("test", "--config", config, "--data", gate.data),
                *("--data.init_args.scale", f"{gate.scale:g}", "--trainer.callbacks", CONTROLLED),
                *("--data.init_args.eval_batch_size", "1"),  # whole pictures
                *("--model.init_args.weights", str(self.trained(gate.training))),
                *("--run.root", str(self.table), "--run.name", "gate", "--trainer.logger", "false"),
            ),
            self.table / "jobs" / "test_gate",
            (f"fit {gate.training}",),
            partial(self._inputs, (gate.training,), [config, gate.data, CONTROLLED]),
            self.run_of("gate"),
        )

    def config(self, name: str) -> str:
        """The file of a training, or of a row; the method's own lies beside the folder."""
        inside = "" if "/" in name or name == self.name else f"{self.name}/"
        files = [f"{folder}/{inside}{name}.yaml" for folder in self.configs]
        return next((file for file in files if (REPOSITORY / file).is_file()), files[-1])

    def _filled(self, options: Sequence[str]) -> tuple[str, ...]:
        filled = list(options)
        for training in self.method.trainings:
            mark, run = f"{{{training.name}}}", str(self.trained(training.name))
            filled = [option.replace(mark, run) for option in filled]
        return tuple(filled)

    def _inputs(self, trainings: Sequence[str], files: Sequence[str]) -> str:
        """A digest of the weights and of the configuration files that a command reads."""
        found: list[Any] = [read_whole(REPOSITORY / file) for file in files]
        for name in trainings:
            checkpoint = best_or_newest(self.trained(name) / FOLDER)
            latents = self.trained(name) / ABOUT
            if checkpoint is not None:
                found.append(fingerprint(checkpoint[0]))
            else:
                found.append(
                    json.loads(latents.read_text(encoding="utf-8")) if latents.is_file() else None
                )
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def _needs(row: Row) -> list[str]:
    return list(dict.fromkeys((*row.needs, *((row.weights,) if row.weights else ()))))


def write_data(source: Path, target: Path, scales: Sequence[float] | None) -> None:
    """Write a file of test data that has some of another's scales, and no training.

    Args:
        source: A file of ``configs/data``.
        target: Where to.
        scales: Those that are kept; all by default.

    Raises:
        ValueError: Nothing is left.
    """
    data = yaml.safe_load(source.read_text(encoding="utf-8"))
    arguments = data["init_args"]
    kept = {
        name: test
        for name, test in arguments.get("test", {}).items()
        if scales is None or _scale_of(test, arguments["scale"]) in scales
    }
    if not kept:
        raise ValueError(f"{source} has no test source at the scales {scales}")
    arguments = {k: v for k, v in arguments.items() if k not in ("train", "val", "scales")}
    data["init_args"] = {**arguments, "test": kept}
    write_whole(target, yaml.safe_dump(data, sort_keys=False))


def _scale_of(source: dict[str, Any], default: float) -> float:
    return float(source.get("init_args", {}).get("scale") or default)


def read_whole(path: Path) -> Any:
    """A configuration file with those it names in their places; comments do not matter.

    Args:
        path: The file.
    """

    def with_files(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_files(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [with_files(inner) for inner in value]
        named = path.parent / value if isinstance(value, str) and value.endswith(".yaml") else None
        return read_whole(named) if named is not None and named.is_file() else value

    return with_files(yaml.safe_load(path.read_text(encoding="utf-8")))


def _of_steps(config: str, steps: int) -> tuple[str, ...]:
    """Options for another number of steps, also in the schedule that is to end with them."""
    options = ["--trainer.max_steps", str(steps)]
    model = read_whole(REPOSITORY / config)["model"].get("init_args", {})
    arguments = (model.get("lr_scheduler") or {}).get("init_args", {})
    for key in ("T_max", "steps"):
        if key in arguments:
            options += [f"--model.init_args.lr_scheduler.init_args.{key}", str(steps)]
    if arguments.get("warm_up", 0) >= steps:
        options += ["--model.init_args.lr_scheduler.init_args.warm_up", "0"]
    return tuple(options)
