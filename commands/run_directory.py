"""A run lives in one directory: what it was started with, if it may go on, its best weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import yaml
from jsonargparse import Namespace

from callbacks.image_file import why_no_folder
from commands.checkpoint_files import (
    FOLDER,
    best_or_newest,
    checksum_of,
    is_whole,
    list_checkpoints,
    newest_whole,
    remove_unfinished,
)
from commands.errors import ConfigurationError
from commands.run_lock import alone_in
from commands.saved_config import without_placeholders
from files.owned import move_aside
from files.paths import expand_path

log = logging.getLogger(__name__)

# What may differ when a run goes on: it changes neither the weights nor what is compared.
FREE = (
    "run",
    "checkpoint",
    "writer",
    "tiling",
    "config",
    "ckpt_path",
    "weights_only",
    *(
        f"trainer.{key}"
        for key in (
            *("accelerator", "devices", "num_nodes", "strategy", "plugins", "model_registry"),
            *("logger", "log_every_n_steps", "profiler", "detect_anomaly", "barebones"),
            *("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "max_time"),
            *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"),
            *("limit_test_batches", "limit_predict_batches"),
        )
    ),
    *(f"data.init_args.{key}" for key in ("workers", "eval_batch_size", "test", "predict")),
)
# Groups that each config.yaml of a run has.
WRITTEN = {"seed_everything", "trainer", "model", "data", "run", "checkpoint"}
WRITE = ("fit", "check", "validate", "test")  # into a run, or ask whether one can
GROWING = ("trainer.max_steps", "trainer.max_epochs")  # may only become larger


@dataclass
class RunOptions:
    """Where the run is kept, and what to do when it exists.

    Args:
        root: Folder of all runs.
        name: The run's folder in it; by default the experiment file's, from the folder
            ``experiment`` on: ``mini_casarbi_base`` for ``experiment/mini/casarbi/base.yaml``.
        change: Go on although the configuration differs from the one the run was started with.
        overwrite: Start afresh; a run of this name is moved aside.
        seeds: In ``validate`` and ``test``: evaluate a stochastic method so many times, with the
            noise of seed_everything, seed_everything + 1, ...; results are mean and deviation.
        preflight_minutes: With several processes: how long each waits for the others, before it
            says who is missing.
        heartbeat_seconds: With several processes: time between two signs of life.
        lost_after_seconds: With several processes: one that gave no sign for so long is lost, and
            the others end with status 75, to be started again.

    Raises:
        ValueError: Times that do not fit together.
    """

    root: str = "runs"
    name: str | None = None
    change: bool = False
    overwrite: bool = False
    seeds: int = 1
    preflight_minutes: float = 10.0
    heartbeat_seconds: float = 10.0
    lost_after_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"run.seeds is {self.seeds}; it must be at least 1")
        for key in ("preflight_minutes", "heartbeat_seconds"):
            if getattr(self, key) <= 0:
                raise ValueError(f"run.{key} is {getattr(self, key)}; it must be above 0")
        if self.lost_after_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                f"run.lost_after_seconds is {self.lost_after_seconds:g}; it must be at least three "
                f"times run.heartbeat_seconds {self.heartbeat_seconds:g}, or one late sign of life "
                "ends the run"
            )


def experiment_name(config: Namespace) -> str:
    """The name of a run that was given none.

    Args:
        config: Of the command.
    """
    if config.config:
        # Files of configs/experiment/mini/casarbi and the like may have the same names.
        parts = Path(str(config.config[0])).with_suffix("").parts
        return "_".join(parts[_after_last(parts, "experiment") :])
    return str(config.model.class_path).rpartition(".")[2].lower()


def run_folder(root: str, name: str) -> Path:
    """Where a run lies.

    Args:
        root: ``run.root``, as typed.
        name: ``run.name``.

    Raises:
        ConfigurationError: It would lie where all runs are, or above: to move it aside would move
            them all; or elsewhere, where nobody looks for runs. Or there is no root.
        ValueError: The root is empty, or has a variable that is not set.
    """
    if root == "null":  # as typed, which is text to the parser
        raise ConfigurationError(
            "run.root is null: leave it out for the folder runs, or name a folder"
        )
    above = Path(expand_path(root, "run.root"))
    if above.resolve().is_relative_to((above / name).resolve()):
        raise ConfigurationError(
            f"run.name is {name!r}, which is no folder of its own in {above}, where all runs are: "
            "give the run a name"
        )
    # By its text: a run that is a link to another disk lies in the folder all the same.
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == "..":
        raise ConfigurationError(
            f"run.name is {name!r}, which leads out of {above}, where all runs are: give run.root "
            "instead (--run.root FOLDER --run.name NAME)"
        )
    return above / name


class RunDirectory:
    """The directory of one run.

    Args:
        path: The directory; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / FOLDER
        self.config_file = path / "config.yaml"

    def check_place(self, command: str) -> None:
        """Refuse a place where the run cannot be written, before any work.

        Args:
            command: ``fit`` and so on; some write elsewhere.

        Raises:
            ConfigurationError: It is no folder, or must not be written.
        """
        if command in WRITE and (problem := why_no_folder(self.path, to_write=True)):
            raise ConfigurationError(
                f"the run is to lie in {self.path}, and {problem}; set another run.root or run.name"
                + (
                    f", and --model.init_args.weights {self.path} to use what it has learned"
                    if self.path.is_dir()
                    else ""
                )
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Train here and keep others from it; what killed ones left half written is removed.

        Raises:
            TemporaryError: Another process trains here.
        """
        with alone_in(self.path):
            remove_unfinished(self.path)
            yield

    def move_aside(self) -> None:
        """Rename an existing run, so that nothing of it is lost."""
        if self.path.exists():
            log.warning("the run in %s was moved to %s", self.path, move_aside(self.path))

    def check(self, config: dict[str, Any], change: bool) -> None:
        """Refuse to go on with another configuration than the run was started with.

        Args:
            config: The configuration now.
            change: Whether to accept the differences.

        Raises:
            ConfigurationError: Naming every difference and the ways out; or the file with the
                configuration then is damaged, or somebody else's.
        """
        if self.config_file.is_dir():  # training would end where it writes that file
            raise ConfigurationError(
                f"{self.config_file} is a folder, and what the run was started with is written "
                "into a file of that name: move it away"
            )
        if not self.config_file.exists():
            return
        if not list_checkpoints(self.checkpoints):
            self._refuse_other_config()
            return
        try:
            then = self._started_with("go on without that comparison (--run.change true)")
        except ConfigurationError as error:
            if not change:
                raise
            log.warning("--run.change: going on although %s", error)
            return
        now = _flat(config)
        differences = []
        for key in sorted(then.keys() | now.keys()):
            old, new = then.get(key, "unset"), now.get(key, "unset")
            if old == new:
                continue
            line = f"{key}: {old} -> {new}"
            if _is_free(key) or (key in GROWING and _grows(old, new)):
                log.info("changed on resume: %s", line)
            else:
                differences.append(line)
        if differences and change:
            log.warning("--run.change: going on with %s", "; ".join(differences))
        elif differences:
            raise ConfigurationError(
                f"the run in {self.path} was started with another configuration:\n  "
                + "\n  ".join(differences)
                + "\nPut it back, or go on with it (--run.change true), or take another name "
                "(--run.name NAME), "
                "or start afresh (--run.overwrite true)"
            )

    def _refuse_other_config(self) -> None:
        try:
            content = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, yaml.YAMLError):
            content = {}
        if content is not None and not (isinstance(content, dict) and content.keys() >= WRITTEN):
            raise ConfigurationError(
                f"{self.config_file} was not written by fit, which would replace it by all that "
                "the run is started with: move it away, or take another run.root or run.name"
            )

    def resume_from(self, given: str | None = None) -> Path | None:
        """The newest undamaged checkpoint, else the given one, or None for a new run.

        The run's own come first, so that the same command goes on where the run stands.

        Args:
            given: ``ckpt_path``, a checkpoint of another run to begin with.

        Raises:
            ConfigurationError: There are checkpoints, but all of them are damaged; or the given one
                is one of them, or is needed and no whole file.
        """
        own = newest_whole(self.checkpoints)
        if own is None and list_checkpoints(self.checkpoints):
            raise ConfigurationError(
                f"all checkpoints in {self.checkpoints} are damaged: start afresh with "
                "--run.overwrite true"
            )
        if own is None or given is None:
            return own or self.begin_from(given)
        self._refuse_own(given)
        log.info("the run has checkpoints of its own: it goes on from them, not from %s", given)
        return own

    def begin_from(self, given: str | None) -> Path | None:
        """The checkpoint that a new run begins with, or None.

        Args:
            given: ``ckpt_path``.

        Raises:
            ConfigurationError: It is not there, damaged, or of this very run.
        """
        if given is None:
            return None
        self._refuse_own(given)
        path = Path(given)
        if not path.is_file():
            raise ConfigurationError(f"ckpt_path is {given}, and there is no such file")
        # One that was copied without its checksum can still be seen to have been cut short.
        if not (is_whole(path) if checksum_of(path).is_file() else is_zipfile(path)):
            raise ConfigurationError(
                f"ckpt_path is {given}, which is damaged or no checkpoint: name another one"
            )
        return path

    def _refuse_own(self, given: str) -> None:
        if Path(given).resolve().parent == self.checkpoints.resolve():
            raise ConfigurationError(
                f"ckpt_path is {given}, a checkpoint of the run itself, which goes on from its "
                "newest without being told: leave ckpt_path out, or, to go back to this one, take "
                "another --run.name"
            )

    def trained_weights(self) -> tuple[Path, str] | None:
        """The best checkpoint, else the newest, and why it was chosen; None where there is none."""
        return best_or_newest(self.checkpoints)

    def trained_config(self) -> dict[str, Any]:
        """The configuration that ``fit`` was run with, flat; empty where it never was.

        Raises:
            ConfigurationError: The file with it is damaged.
        """
        if not self.config_file.exists():
            return {}
        return self._started_with("name the weights to use with --ckpt_path FILE")

    def _started_with(self, mend: str) -> dict[str, Any]:
        # What another program or a full disk left there may be anything: no YAML, no text, or YAML
        # in which nothing is set, against which all keys would seem to be new.
        try:
            content = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (IsADirectoryError, ValueError, RecursionError, yaml.YAMLError):
            content = None
        if not isinstance(content, dict) or not content:
            raise ConfigurationError(
                f"{self.config_file}, which says what the run was started with, is damaged: put it "
                f"back, or {mend}"
            )
        return _flat(without_placeholders(content))


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, dict) and config:
        flat: dict[str, Any] = {}
        for key, value in config.items():
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: config}


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _grows(old: Any, new: Any) -> bool:
    if new in (-1, None):  # no limit
        return True
    return isinstance(old, int) and old != -1 and isinstance(new, int) and new >= old


def _after_last(parts: tuple[str, ...], name: str) -> int:
    inner = [number + 1 for number, part in enumerate(parts[:-1]) if part == name]
    return inner[-1] if inner else -1
