"""A training run, whatever it trains: its folder and log, its steps, the checkpoints that it is resumed from.

The random choices of a step are a function of the seed, the step and the process, so that a resumed run equals an
uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import torch

from silent2music.config import CodecTrainingConfig, TrainingConfig, to_dict
from silent2music.errors import CheckpointError, ConfigError, require
from silent2music.training.state import (
    STATE_FILE,
    Optimizers,
    Parts,
    read_state,
    resolved_precision,
    write_state,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_FILE = "log.jsonl"
LOG_EVERY = 20

Settings = TrainingConfig | CodecTrainingConfig


class Trained(Protocol):
    """What a run trains."""

    def update(self, step: int) -> dict[str, float]:
        """One step of the optimizers; losses and other figures by name."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on data that is not trained on, by name."""
        ...

    def state(self) -> tuple[Parts, Optimizers]:
        """What a checkpoint holds."""
        ...

    def save(self) -> None:
        """Write the averaged weights as the folder that the run is for."""
        ...


def open_run(config: Settings, out: Path, resume: bool, **options: Any) -> Accelerator:
    """The accelerator of a run in the folder `out`, with TensorBoard's log; seeds torch.

    Args:
        config: of the loop.
        out: where state, log and events go.
        resume: whether `out` may hold a run.
        options: for `accelerate.Accelerator`.

    Raises:
        CheckpointError: if `out` holds a run and `resume` is not set.
        ConfigError: if the precision is unknown.
    """
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    if (out / STATE_FILE).exists() and not resume:
        raise CheckpointError(f"{out} holds a run already; give --resume to go on, or choose another folder.")
    require("tensorboard", "train")  # accelerate would leave the log out and fail later
    accelerator = Accelerator(
        mixed_precision=resolved_precision(config.mixed_precision),
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
        **options,
    )
    # TensorBoard names its files by the host, which is nobody's concern where a run is passed on.
    with mock.patch("socket.gethostname", return_value="host"):
        accelerator.init_trackers("tensorboard")
    torch.manual_seed(config.seed)
    return accelerator


def train_steps(
    trained: Trained, accelerator: Accelerator, config: Settings, out: Path, resume: bool
) -> None:
    """Train until `max_steps` or `max_minutes`, whichever is first, with a checkpoint at the end and on the way.

    Args:
        trained: what is trained.
        accelerator: from `open_run`.
        config, out, resume: as for `open_run`.

    Raises:
        CheckpointError: if the run is to be resumed and `out` has no state that fits.
        ConfigError: if a figure is not finite.
    """
    step = read_state(out / STATE_FILE, *trained.state()) if resume else 0
    begun = saved = time.monotonic()
    done = step >= config.max_steps
    while not done:
        torch.manual_seed(config.seed * 1_000_003 + step * 1009 + accelerator.process_index)
        figures = trained.update(step)
        if not all(map(math.isfinite, figures.values())):
            section = "training" if isinstance(config, TrainingConfig) else "codec_training"
            raise ConfigError(
                f"The loss is not finite at step {step}; lower {section}.learning_rate "
                f"(now {config.learning_rate}) and resume from the last checkpoint."
            )
        step += 1
        now = time.monotonic()
        is_over = config.max_minutes > 0 and _as_main(accelerator, (now - begun) / 60 >= config.max_minutes)
        done = is_over or step >= config.max_steps
        if not accelerator.is_main_process:
            continue
        if step % LOG_EVERY == 0 or done:
            _log(accelerator, out, step, figures)
        if step % config.validate_every == 0 or done:
            _log(accelerator, out, step, trained.validate())
        if done or now - saved > 60 * config.checkpoint_minutes:
            saved = now
            # A kill between the two leaves an older state, from which this folder is made again.
            trained.save()
            write_state(out / STATE_FILE, step, to_dict(config), *trained.state())
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _as_main(accelerator: Accelerator, answer: bool) -> bool:
    """The main process's answer, in every process: each has its own clock, and one that went on would wait for ever."""
    if accelerator.num_processes == 1:
        return answer
    from accelerate.utils import broadcast

    return bool(broadcast(torch.tensor([answer], device=accelerator.device)))


def _log(accelerator: Accelerator, out: Path, step: int, values: Mapping[str, float]) -> None:
    """Figures to TensorBoard and, as a line, to `log.jsonl`."""
    accelerator.log(values, step=step)
    with (out / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
