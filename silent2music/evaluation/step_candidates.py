"""`s2m bench --candidates`: every way to run the decoding step, in one table with its errors against 32 bits.

What is not the default is measured all the same, so that the default is a choice by numbers: compilers and other
runtimes take over `pure_step.PureStep`. Steps are timed in one process, candidate after candidate and round after
round, with the attention's window full. How soon a candidate is ready is measured in a fresh process that has
loaded the model already, since every candidate needs that.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silent2music.audio import Waveform
from silent2music.conditioning import Conditioning
from silent2music.config import Precision, SamplingConfig
from silent2music.decoder import Decoder
from silent2music.evaluation import runtimes
from silent2music.evaluation.pure_step import PureStep, RingStepper, Run, StepState
from silent2music.evaluation.speed import COST_OF_CHILD, Progress, heard_in, machine
from silent2music.evaluation.stages import one_thread
from silent2music.model import Silent2Music
from silent2music.sampling import generate_codes
from silent2music.stepping import PackedDecoder, Stepper, best_precision

Report = dict[str, Any]
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a column `[1, K]`, its frame and the null frame `[1, D]`; guided logits `[1, K, V]`."""

N_STEPS = 320
"""Real steps on which logits are compared: longer than the attention's window of the shipped model."""

BLOCK_STEPS = 50
SLOW_SECONDS = 15.0
"""A candidate gets no more than this for its comparison, and a twentieth of it for a block; the report says of how
many steps the errors are."""


@dataclass(frozen=True)
class Subject:
    """What a candidate is built for.

    Attributes:
        model: its decoder is run.
        conditioning, null: of a room and of none, one row each.
        guidance: their mixture.
        folder: where `prepare` leaves what `load` finds.
    """

    model: Silent2Music
    conditioning: Conditioning
    null: Conditioning
    guidance: float
    folder: Path

    @property
    def decoder(self) -> Decoder:
        """The model's."""
        return self.model.decoder

    def state(self, dtype: torch.dtype = torch.float32) -> StepState:
        """Buffers of a new piece."""
        return StepState(self.decoder, self.conditioning, self.null, dtype)

    def pure(self) -> PureStep:
        """The step as a function of tensors."""
        return PureStep(self.decoder, self.guidance)


@dataclass(frozen=True)
class Candidate:
    """One way to run the step.

    Attributes:
        name: as in the table.
        load: makes it ready to step from the start of a piece.
        prepare: what has to be done once on a machine, or once for all of them, before `load`.
        packages: that it needs beside the dependencies of this package.
        compiles: needs a C++ compiler where `prepare` runs.
        same: computes the same function; false for what only bounds the others.
    """

    name: str
    load: Callable[[Subject], Step]
    prepare: Callable[[Subject], None] | None = None
    packages: tuple[str, ...] = ()
    compiles: bool = False
    same: bool = True

    def lacks(self) -> str | None:
        """The sentence that says what is not here, if anything."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if absent:
            return f"needs {' and '.join(absent)}; pip install 'silent2music[bench]'"
        if self.compiles and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            return "needs a C++ compiler; none was found on the path"
        return None


def _eager(dtype: torch.dtype) -> Callable[[Subject], Step]:
    def load(subject: Subject) -> Step:
        state, pure = subject.state(dtype), subject.pure().to(dtype)
        return RingStepper(state, lambda: pure(*state.tensors())).step

    return load


def _packed(precision: Precision | None = None, guided: bool = True) -> Callable[[Subject], Step]:
    def load(subject: Subject) -> Step:
        packed = PackedDecoder(subject.decoder, precision)
        return Stepper(packed, subject.conditioning, subject.null, subject.guidance if guided else 1.0).step

    return load


def _two_passes(subject: Subject) -> Step:
    packed = PackedDecoder(subject.decoder)
    with_room, without = (Stepper(packed, c, c, 1.0).step for c in (subject.conditioning, subject.null))

    def step(column: Tensor, frame: Tensor, null_frame: Tensor) -> Tensor:
        null = without(column, null_frame, null_frame)
        return torch.lerp(null, with_room(column, frame, frame), subject.guidance)

    return step


def _runtime(build: Callable[[Path, StepState], Run]) -> Callable[[Subject], Step]:
    def load(subject: Subject) -> Step:
        state = subject.state()
        return RingStepper(state, build(subject.folder, state)).step

    return load


def _compiled(subject: Subject) -> Step:
    state = subject.state()
    return RingStepper(state, runtimes.compiled(subject.pure(), state)).step


def _compile_once(subject: Subject) -> None:
    with torch.inference_mode():
        _first_step(subject, _compiled)


def _prepared(make: Callable[[PureStep, StepState, Path], None]) -> Callable[[Subject], None]:
    return lambda subject: make(subject.pure(), subject.state(), subject.folder)


def candidates() -> list[Candidate]:
    """All of them; the name of the default says so."""
    own = best_precision(torch.device("cpu"))
    packed: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    weights: tuple[tuple[str, runtimes.Weights], ...] = (
        ("fp32", "fp32"),
        ("fp16 weights", "fp16"),
        ("int8 weights", "int8"),
    )
    onnx, ort, ov = ("onnx", "onnxscript"), ("onnxruntime",), ("openvino",)
    return [
        Candidate("module, fp32", _eager(torch.float32)),
        Candidate("module, bf16", _eager(torch.bfloat16)),
        *(
            Candidate(f"packed, {p}{' (default)' if p == own else ''}", _packed(p))
            for p in packed
            if fbgemm or p == "fp32"
        ),
        Candidate("default, guidance in two passes", _two_passes),
        Candidate("default, no guidance", _packed(guided=False), same=False),
        Candidate("torch.compile, fp32", _compiled, _compile_once, compiles=True),
        Candidate(
            "AOTInductor, fp32", _runtime(runtimes.aoti), _prepared(runtimes.compile_aoti), compiles=True
        ),
        Candidate(
            "ONNX Runtime, fp32",
            _runtime(runtimes.onnx_runtime("fp32")),
            _prepared(runtimes.export_onnx),
            onnx + ort,
        ),
        Candidate(
            "ONNX Runtime, int8 dynamic",
            _runtime(runtimes.onnx_runtime("int8")),
            _prepared(runtimes.quantise_onnx),
            onnx + ort,
        ),
        *(
            Candidate(
                f"OpenVINO, {name}",
                _runtime(runtimes.open_vino),
                _prepared(runtimes.convert_open_vino(held)),
                onnx + ov,
            )
            for name, held in weights
        ),
    ]


def compare(
    model_folder: Path,
    room: Waveform,
    n_rounds: int = 5,
    progress: Progress | None = None,
    names: Sequence[str] | None = None,
) -> Report:
    """Measure the candidates.

    Args:
        model_folder: the model.
        room: whose music is stepped through.
        n_rounds: blocks of steps of each candidate; medians are reported.
        progress: called with the stage, steps done and steps in all.
        names: of the candidates to measure; all by default.

    Returns:
        `model`, `machine`, `n_rounds`, and `candidates`: for each name either `missing`, why it was not measured,
        or `steps_per_second`, `once_seconds` (to prepare: export, compile), `ready_seconds` (in a fresh process,
        imports to first step), `extra_mib` of peak memory over a process that only loaded the model, `disk_mib`
        of what was prepared, `package_mib` of what was installed for it, and for the same function as fp32's
        `largest_logit_error`, `rms_logit_error`, `argmax_differs` (share of tokens) and `n_compared` steps.
    """
    tell = progress or (lambda stage, done, total: None)
    chosen = [c for c in candidates() if names is None or c.name in names]
    with one_thread(), tempfile.TemporaryDirectory() as name:
        return _compare(model_folder, room, n_rounds, tell, chosen, Path(name))


def _compare(
    model_folder: Path, room: Waveform, n_rounds: int, tell: Progress, chosen: Sequence[Candidate], work: Path
) -> Report:
    model = Silent2Music.from_pretrained(model_folder)
    with torch.inference_mode():
        real = RealSteps(model, room)
    loaded_only = _fresh_process("", model_folder, work)["peak_mib"]
    rows: Report = {}
    steps: dict[str, Step] = {}
    for done, candidate in enumerate(chosen):
        tell("made ready", done, len(chosen))
        folder = work / f"candidate-{done}"
        folder.mkdir()
        with _compiler_cache(folder / runtimes.CACHE):
            rows[candidate.name], step = _made_ready(
                candidate, real.subject(folder), model_folder, loaded_only
            )
        if step is not None:
            steps[candidate.name] = step
    with torch.inference_mode():
        for done, (name, step) in enumerate(steps.items()):
            tell("compared", done, len(steps))
            found, seconds = real.errors(step)
            rows[name] |= found if _by_name(chosen, name).same else {}
            rows[name]["block_steps"] = max(2, min(BLOCK_STEPS, int(SLOW_SECONDS / 20 / seconds)))
        rates: dict[str, list[float]] = {name: [] for name in steps}
        for done in range(n_rounds):
            for name, step in steps.items():
                n = rows[name]["block_steps"]
                start = time.perf_counter()
                for _ in range(n):
                    step(*real.arguments(-1))
                rates[name].append(n / (time.perf_counter() - start))
            tell("rounds", done + 1, n_rounds)
    for name, values in rates.items():
        rows[name]["steps_per_second"] = float(np.median(values))
    about = {"model": model.config.name, "machine": machine(), "frame_rate": model.codec.frame_rate}
    return {**about, "n_rounds": n_rounds, "candidates": rows}


def _by_name(chosen: Sequence[Candidate], name: str) -> Candidate:
    return next(candidate for candidate in chosen if candidate.name == name)


def _made_ready(
    candidate: Candidate, subject: Subject, model_folder: Path, loaded_only: float
) -> tuple[Report, Step | None]:
    """Prepare a candidate, have a fresh process load it, and load it here; its figures, or what is missing."""
    lacking = candidate.lacks()
    if lacking is not None:
        return {"missing": lacking}, None
    start = time.perf_counter()
    try:
        if candidate.prepare is not None:
            candidate.prepare(subject)
        once = time.perf_counter() - start
        ready = _fresh_process(candidate.name, model_folder, subject.folder)
        with torch.inference_mode():
            step = candidate.load(subject)
    except Exception as error:  # A runtime may fail in ways of its own; the others are measured all the same.
        lines = str(error).strip().splitlines() or [""]
        return {"missing": f"failed: {type(error).__name__}: {lines[-1][:200]}"}, None
    return {
        "once_seconds": once if candidate.prepare is not None else 0.0,
        "ready_seconds": ready["seconds"],
        "extra_mib": ready["peak_mib"] - loaded_only,
        "disk_mib": _mib(path for path in subject.folder.rglob("*") if path.is_file()),
        "package_mib": sum(_package_mib(name) for name in candidate.packages if name in runtimes.RUNTIMES),
    }, step


class RealSteps:
    """The steps of a piece that the model made, and the logits that the whole decoder gives in fp32.

    Args:
        model: the one that made it.
        room: what it heard.
    """

    def __init__(self, model: Silent2Music, room: Waveform) -> None:
        self.model, self.guidance = model, model.config.guidance
        self.heard = heard_in(model, room, N_STEPS / model.codec.frame_rate)
        self.null = model.null(self.heard)
        settings = SamplingConfig(guidance=self.guidance)
        codes = generate_codes(model.packed_decoder(), self.heard, self.null, settings, [0])
        self.grid = model.decoder.pattern.apply(codes)[..., :N_STEPS]
        with_room, without = (model.decoder(self.grid, c) for c in (self.heard, self.null))
        self.exact = torch.lerp(without, with_room, self.guidance)[0]
        self.valid = model.decoder.pattern.valid(N_STEPS)[:, :N_STEPS]

    def subject(self, folder: Path) -> Subject:
        """For a candidate whose files are to lie in `folder`."""
        return Subject(self.model, self.heard, self.null, self.guidance, folder)

    def arguments(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the step of column t is given."""
        column = self.grid[..., t - 1] if t else torch.full_like(self.grid[..., 0], self.filler)
        return column, self.heard.frames[:, t], self.null.frames[:, t]

    @property
    def filler(self) -> int:
        """The token before the first."""
        return self.model.decoder.pattern.filler

    def errors(self, step: Step) -> tuple[Report, float]:
        """What a candidate at the start of a piece gets wrong, and the seconds that a step took it."""
        found: list[Tensor] = []
        start = time.perf_counter()
        while len(found) < N_STEPS and time.perf_counter() - start < SLOW_SECONDS:
            found.append(step(*self.arguments(len(found)))[0].clone())
        seconds = (time.perf_counter() - start) / len(found)
        logits, exact = torch.stack(found, dim=1), self.exact[:, : len(found)]
        valid = self.valid[:, : len(found)]
        error = (logits - exact)[valid]
        differs = (logits.argmax(dim=-1) != exact.argmax(dim=-1))[valid]
        return {
            "largest_logit_error": float(error.abs().max()),
            "rms_logit_error": float(error.square().mean().sqrt()),
            "argmax_differs": float(differs.float().mean()),
            "n_compared": len(found),
        }, seconds


# ---- fresh processes ----


def _fresh_process(name: str, model_folder: Path, folder: Path) -> dict[str, float]:
    """Seconds until the first step is done in a process that has the model, and its peak memory in MiB."""
    command = f"from {__name__} import in_fresh_process; in_fresh_process(*__import__('sys').argv[1:])"
    arguments = [sys.executable, "-c", command, name, str(model_folder), str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", COST_OF_CHILD, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found, _, _, peak = done.stdout.split()[-4:]
    return {"seconds": float(json.loads(found)), "peak_mib": int(peak) / 1024}


def in_fresh_process(name: str, model_folder: str, folder: str) -> None:
    """Print the seconds that a prepared candidate takes to its first step; with no name, only load the model."""
    torch.set_num_threads(1)
    model = Silent2Music.from_pretrained(Path(model_folder))
    config = model.config
    tokens = torch.zeros(1, config.ambient.n_global_tokens, config.decoder.dim)
    mask = torch.ones(1, 1, dtype=torch.bool)
    nothing = Conditioning(torch.zeros(1, 1, config.decoder.dim), mask, tokens, mask.expand(tokens.shape[:2]))
    subject = Subject(model, nothing, nothing, config.guidance, Path(folder))
    start = time.perf_counter()
    if name:
        with torch.inference_mode():
            _first_step(subject, _by_name(candidates(), name).load)
    print(json.dumps(time.perf_counter() - start))


def _first_step(subject: Subject, load: Callable[[Subject], Step]) -> None:
    config, frames = subject.decoder.config, subject.null.frames[:, 0]
    load(subject)(torch.full((1, config.n_codebooks), config.codebook_size), frames, frames)


@contextmanager
def _compiler_cache(folder: Path) -> Iterator[None]:
    """Compile anew, and let the fresh processes find what was compiled."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# ---- sizes ----


def _mib(files: Iterator[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 2**20


def _package_mib(name: str) -> float:
    """What an installed package takes on the disk."""
    from importlib.metadata import files

    located = (Path(str(file.locate())) for file in files(name) or ())
    return _mib(path for path in located if path.is_file())
