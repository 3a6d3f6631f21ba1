"""A training run, whatever it trains: its folder and log, its steps, the checkpoints that it is resumed from.

The random choices of a step are a function of the seed, the step and the process, so that a resumed run equals an
uninterrupted one. The state of a run is one file, which is replaced whole, so that a kill at any time leaves a state
whose parts are of one age: weights, averaged weights, the optimizers' moments, and in its metadata the step and the
settings.
"""

from __future__ import annotations

import atexit
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import torch
from torch import Tensor, nn

from silent2music.config import CodecTrainingConfig, TrainingConfig, to_dict
from silent2music.errors import CheckpointError, ConfigError, S2MError, require
from silent2music.files import claimed, remove_leavings, write_text
from silent2music.processes import StepProgress
from silent2music.weights import fill, read_metadata, read_weights, write_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_FILE = "log.jsonl"
LOG_EVERY = 20

Settings = TrainingConfig | CodecTrainingConfig


STATE_FILE = "state.safetensors"

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""

_OPTIMIZER = "optimizer."

Parts = Mapping[str, Mapping[str, Tensor]]
"""By name (`model`, `average`, ...): tensors as a `state_dict()` has them."""

Optimizers = Mapping[str, tuple[nn.Module, torch.optim.Optimizer]]
"""By name: an optimizer and the module whose parameters it updates."""


def write_state(
    file: Path, step: int, settings: Mapping[str, Any], tensors: Parts, optimizers: Optimizers
) -> None:
    """Write everything that resuming a run needs, replacing the file whole or not at all.

    Args:
        tensors: see `Parts`.
        optimizers: see `Optimizers`.
    """
    held = {f"{part}.{name}": value for part, own in tensors.items() for name, value in own.items()}
    for part, (module, optimizer) in optimizers.items():
        for name, parameter in module.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                held[f"{_OPTIMIZER}{part}.{key}.{name}"] = value
    # Under one key: of several the order in the file is chance, and the same state should be the same bytes.
    run = json.dumps({"step": step, "settings": dict(settings)})
    write_tensors(held, file, {"run": run})


def read_state(file: Path, tensors: Parts, optimizers: Optimizers) -> int:
    """Fill parts and optimizers, in place, with what `write_state` wrote; returns the step.

    Raises:
        CheckpointError: if the state is damaged, or was written with other sizes, naming the first tensor.
    """
    try:
        state = read_weights(file)
        step = int(json.loads(read_metadata(file)["run"])["step"])
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); copy it back from elsewhere, or begin a run in another folder."
        ) from error
    moments = {name: state.pop(name) for name in list(state) if name.startswith(_OPTIMIZER)}
    own = {f"{part}.{name}": value for part, found in tensors.items() for name, value in found.items()}
    try:
        fill(own, state, file)
    except CheckpointError as error:
        raise CheckpointError(
            f"The state in {file.parent} does not fit the recipe ({error}); resume with the settings that it was "
            "started with."
        ) from error
    for part, (module, optimizer) in optimizers.items():
        for name, parameter in module.named_parameters():
            found = {key: moments.get(f"{_OPTIMIZER}{part}.{key}.{name}") for key in _MOMENTS}
            kept = {key: value for key, value in found.items() if value is not None}
            if len(kept) == len(_MOMENTS):
                # The count of steps stays on the CPU, where AdamW keeps it.
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in kept.items()
                }
    return step


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the exponential moving average of a model's weights by one step.

    It forgets faster at the start (`(1 + step) / (10 + step)`, if that is less than `decay`), where there is little
    worth keeping.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight.detach(), 1.0 - decay)


def learning_rate(step: int, peak: float, warmup_steps: int, max_steps: int, floor: float = 0.02) -> float:
    """Linear warm-up, then half a cosine from `peak` down to `floor * peak` at `max_steps`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def resolved_precision(wanted: str) -> str:
    """The precision `bf16` or `no`; `auto` is bf16 where that is faster: on CUDA and on CPUs with AMX.

    With `avx512_bf16` alone, torch multiplies in bf16 at 0.5 to 0.7 times the speed of float32.

    Raises:
        ConfigError: on any other word.
    """
    if wanted not in ("auto", "bf16", "no"):
        raise ConfigError(f"training.mixed_precision is '{wanted}'; expected auto, bf16 or no.")
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # Absent before torch 2.10; without an answer, full precision is the safe choice.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("amx_bf16") else "no"


class Trained(Protocol):
    """What a run trains; `turned` says that what is held out has not been learned better for as long as is waited."""

    @property
    def turned(self) -> bool:
        """Whether the run is to end."""

    def update(self, step: int) -> dict[str, float]:
        """One step of the optimizers; losses and other figures by name."""

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on data that is not trained on, by name."""

    def state(self) -> tuple[Parts, Optimizers]:
        """What a checkpoint holds."""

    def save(self) -> None:
        """Write the averaged weights as the folder that the run is for."""


@contextmanager
def open_run(config: Settings, out: Path, resume: bool, **options: Any) -> Iterator[Accelerator]:
    """The accelerator of a run, which holds the folder `out` within the block; seeds torch.

    Args:
        resume: whether `out` may hold a run.
        options: for `accelerate.Accelerator`.

    Raises:
        CheckpointError: if `out` holds a run and `resume` is not set, or none and it is.
        ConfigError: if the precision is unknown.
        S2MError: if another command writes to `out`, or it cannot be written any more.
    """
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    require("tensorboard", "train")  # accelerate would leave the log out and fail later
    accelerator = Accelerator(
        mixed_precision=resolved_precision(config.mixed_precision),
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
        **options,
    )
    if accelerator.num_processes > 1:
        # Not where a run ends: the next one of these processes, of the next part that is tuned, needs the group too, and
        # a process that left it while another one still waits in it would be waited for.
        atexit.register(accelerator.state.destroy_process_group)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(claimed(out))
            remove_leavings(out, alone=True)
        if (out / STATE_FILE).exists() and not resume:
            raise CheckpointError(
                f"{out} holds a run already; give --resume to go on, or choose another folder."
            )
        if resume and not (out / STATE_FILE).exists():
            raise CheckpointError(f"{out} has no state to resume from; start without --resume.")
        torch.manual_seed(config.seed)
        try:
            yield accelerator
        except OSError as error:
            raise S2MError(
                f"{out} cannot be written ({error.strerror or error}); make room, and go on from the last checkpoint "
                "with --resume."
            ) from error


def train_steps(
    trained: Trained,
    accelerator: Accelerator,
    config: Settings,
    out: Path,
    resume: bool,
    progress: StepProgress | None = None,
) -> None:
    """Train until `max_steps`, `max_minutes` or the held-out loss turns, with a checkpoint at the end and on the way.

    A run that is resumed after its end is saved again from its state, in case its folder was lost.

    Args:
        accelerator: from `open_run`.
        config, out, resume: as for `open_run`.

    Raises:
        CheckpointError: if the run is to be resumed and the state does not fit.
        ConfigError: if a figure is not finite.
    """
    step = read_state(out / STATE_FILE, *trained.state()) if resume else 0
    if accelerator.is_main_process:
        _forget_after(out / LOG_FILE, step)
    # TensorBoard names its files by the host, which is nobody's concern where a run is passed on.
    with mock.patch("socket.gethostname", return_value="host"):
        accelerator.init_trackers("tensorboard")
    begun = saved = time.monotonic()
    done = step >= config.max_steps or trained.turned
    if done and accelerator.is_main_process:
        trained.save()
    if step == 0 and accelerator.is_main_process and isinstance(config, TrainingConfig) and config.patience:
        _log(accelerator, out, 0, trained.validate())  # what is learned must beat what was there
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
        is_main = accelerator.is_main_process
        if is_main and (step % LOG_EVERY == 0 or done):
            _log(accelerator, out, step, figures)
        if step % config.validate_every == 0 or done:
            if is_main:
                _log(accelerator, out, step, trained.validate())
            done = done or _as_main(accelerator, trained.turned)
        if is_main and progress is not None:
            progress(step, config.max_steps)
        if not is_main:
            continue
        if done or now - saved > 60 * config.checkpoint_minutes:
            saved = now
            # A kill between the two leaves an older state, from which this folder is made again.
            trained.save()
            write_state(out / STATE_FILE, step, to_dict(config), *trained.state())
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()


def _forget_after(log: Path, step: int) -> None:
    """Remove what the log says of later steps, which a killed run did and this one does again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut by a kill
    write_text(log, "".join(kept))


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
