"""`s2m bench`: how fast, how soon, how much memory, and what stands between that and the limit.

Everything is measured in one process and one run, task after task and round after round, so that a machine that
slows down slows all of them; medians count. What starts a process (cold start, peak memory) runs the command
itself. Beside the decoder stands `transformers`' MusicGen of the same number of weights, codebooks and frame
rate, with random weights, since speed does not depend on them.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.conditioning import Conditioning
from silent2music.config import Precision, SamplingConfig
from silent2music.decoder import DelayPattern
from silent2music.evaluation.stages import one_thread
from silent2music.listening import embed, listen, span
from silent2music.model import Silent2Music
from silent2music.sampling import draw, generate_codes
from silent2music.stepping import PackedDecoder, Stepper

Report = dict[str, Any]
Progress = Callable[[str, int, int], None]

BATCHES = (1, 4, 16)
STEP_SECONDS = 4.0
"""Length of the music whose decoding steps are timed."""

COST_OF_CHILD = """
import os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
print()
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command from a small process and prints its seconds, its processor seconds and its peak memory in KiB: the
peak that Linux counts includes what the parent had when it forked."""

PIECE_SECONDS = 10.0
"""Length of the room, and of the music where the stages are timed."""

LARGE = 1024
"""Side of the square product and, squared, a 64th of the numbers read, by which the machine's rates are found."""

N_PARITY_COLUMNS = 100
PARITY_SEEDS = 4


@dataclass(frozen=True)
class BenchConfig:
    """How much is measured.

    Attributes:
        n_rounds: how often; medians are reported.
        seconds: lengths of music for the growth with duration, by the command itself.
        threads: numbers of torch threads to compare.
        musicgen: measure MusicGen beside the decoder.
    """

    n_rounds: int = 5
    seconds: tuple[float, ...] = (10.0, 60.0)
    threads: tuple[int, ...] = (1, 2)
    musicgen: bool = True


def bench(
    model_folder: Path, room: Waveform, config: BenchConfig | None = None, progress: Progress | None = None
) -> Report:
    """Measure a model.

    Args:
        model_folder: the model.
        room: what to make music for; repeated where it is too short.
        config: how much to measure; the defaults if not given.
        progress: called with the stage, steps done and steps in all.

    Returns:
        `stages`, `steps`, `batch`: per task the median wall and processor seconds and `times_real_time`;
        `first_audio_seconds`; `help_seconds`; `runs`: per length the command's seconds and peak memory; `limit`;
        `machine`.
    """
    config = config or BenchConfig()
    tell = progress or (lambda stage, done, total: None)
    with one_thread():
        model = Silent2Music.from_pretrained(model_folder)
        with torch.inference_mode():
            report: Report = {"model": model.config.name, "machine": machine()}
            report |= _interleaved(_tasks(model, room, config), config.n_rounds, tell)
            report["limit"] = limit(model)
            report["parity"] = parity(model, room)
    helps = [command_cost(["--help"])["seconds"] for _ in range(config.n_rounds)]
    report["help_seconds"] = float(np.median(helps))
    report["runs"] = {}
    shortest = min(config.seconds)
    rounds = [s for s in config.seconds for _ in range(config.n_rounds if s == shortest else 1)]
    measured: dict[float, list[dict[str, float]]] = {seconds: [] for seconds in config.seconds}
    for done, seconds in enumerate(rounds):
        measured[seconds].append(command_run(model_folder, room, seconds))
        tell("whole commands", done + 1, len(rounds))
    for seconds, runs in measured.items():
        report["runs"][f"{seconds:g}"] = {
            name: float(np.median([run[name] for run in runs])) for name in ("seconds", "peak_mib")
        }
    return report


def machine() -> Report:
    """What it was measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@dataclass(frozen=True)
class _Task:
    """Something to time: `run` makes `seconds` of audio, on so many threads."""

    group: str
    name: str
    seconds: float
    run: Callable[[], object]
    n_threads: int = 1


def _interleaved(tasks: Sequence[_Task], n_rounds: int, tell: Progress) -> Report:
    """Every task once in each round, after a first time that does not count; medians by group and name."""
    walls: dict[int, list[tuple[float, float]]] = {i: [] for i in range(len(tasks))}
    for r in range(n_rounds + 1):
        for i, task in enumerate(tasks):
            torch.set_num_threads(task.n_threads)
            wall, cpu = time.perf_counter(), time.process_time()
            task.run()
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            if r:
                walls[i].append(spent)
        tell("rounds", r + 1, n_rounds + 1)
    torch.set_num_threads(1)
    report: Report = {}
    for i, task in enumerate(tasks):
        wall, cpu = (float(np.median(values)) for values in zip(*walls[i], strict=True))
        figures = {"wall_seconds": wall, "cpu_seconds": cpu, "times_real_time": task.seconds / wall}
        report.setdefault(task.group, {})[task.name] = figures
    return report


def _tasks(model: Silent2Music, room: Waveform, config: BenchConfig) -> list[_Task]:
    """All that is timed inside the process."""
    settings = SamplingConfig(guidance=model.config.guidance)
    take = span(room, 0, round(PIECE_SECONDS * room.sample_rate))
    heard = heard_in(model, take, STEP_SECONDS)
    null = model.null(heard)
    packed = model.packed_decoder()
    codes = generate_codes(packed, heard, null, settings, [0])
    conditioned = [
        _Task("stages", "conditioning", PIECE_SECONDS, lambda: heard_in(model, take, PIECE_SECONDS))
    ]
    codec = [_Task("stages", "codec", STEP_SECONDS, lambda: model.codec.decode(codes))]
    whole = [_Task("stages", "whole", PIECE_SECONDS, lambda: model.generate(take, settings))]
    first = [_Task("stages", "first audio", 0.0, lambda: next(model.stream(take, settings)))]
    steps = [
        _Task(
            "steps",
            f"{packed.precision}, {n} thread{'s' if n > 1 else ''}",
            STEP_SECONDS,
            lambda: generate_codes(packed, heard, null, settings, [0]),
            n,
        )
        for n in config.threads
    ]
    plain = dataclasses.replace(settings, guidance=1.0)
    steps.append(
        _Task(
            "steps",
            f"{packed.precision}, no guidance",
            STEP_SECONDS,
            lambda: generate_codes(packed, heard, null, plain, [0]),
        )
    )
    for precision in _other_precisions(packed.precision):
        other = PackedDecoder(model.decoder, precision)
        run = _coded(other, heard, null, settings, 1)
        steps.append(_Task("steps", precision, STEP_SECONDS, run))
    batches = [
        _Task("batch", str(b), b * STEP_SECONDS, _coded(packed, heard, null, settings, b)) for b in BATCHES
    ]
    musicgen = [_Task("steps", "MusicGen", STEP_SECONDS, musicgen_steps(model))] if config.musicgen else []
    return [*conditioned, *steps, *musicgen, *codec, *whole, *first, *batches]


def heard_in(model: Silent2Music, room: Waveform, seconds: float) -> Conditioning:
    """The conditioning of a room."""
    parts = list(embed(model.ambient, listen(room, seconds, model.config.ambient)))
    frames = torch.cat([part.frames for part in parts], dim=1)
    mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    return Conditioning(frames, mask, parts[0].tokens, parts[0].tokens_mask)


def _coded(
    packed: PackedDecoder, heard: Conditioning, null: Conditioning, settings: SamplingConfig, b: int
) -> Callable[[], object]:
    """Decoding steps of a batch of `b` rows."""
    rows, nulls = (
        Conditioning(*(part.expand(b, *part.shape[1:]) for part in dataclasses.astuple(c)))
        for c in (heard, null)
    )
    return lambda: generate_codes(packed, rows, nulls, settings, range(b))


def _other_precisions(own: Precision) -> list[Precision]:
    """What the step may be computed in on this processor, its own left out."""
    fbgemm: list[Precision] = (
        ["fp16", "int8"] if "fbgemm" in torch.backends.quantized.supported_engines else []
    )
    every: list[Precision] = ["fp32", *fbgemm, "bf16"]
    return [precision for precision in every if precision != own]


def musicgen_steps(model: Silent2Music) -> Callable[[], object]:
    """`STEP_SECONDS` of tokens from `transformers`' MusicGen decoder of the same sizes, guidance and sampling.

    Its forward with its own cache, and the loop around it as lean as here: `generate` adds to that.
    """
    from silent2music._torchaudio import ensure_torchaudio

    ensure_torchaudio()
    from transformers import MusicgenForCausalLM, logging
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    logging.set_verbosity_error()
    sizes, settings = model.config.decoder, SamplingConfig(guidance=model.config.guidance)
    filler = sizes.codebook_size
    decoder = MusicgenForCausalLM(
        MusicgenDecoderConfig(
            vocab_size=sizes.codebook_size,
            num_codebooks=sizes.n_codebooks,
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.n_layers,
            ffn_dim=4 * sizes.dim,
            num_attention_heads=sizes.n_heads,
            audio_channels=1,
            pad_token_id=filler,
            bos_token_id=filler,
        )
    ).eval()
    n_columns = round(STEP_SECONDS * model.codec.frame_rate) + sizes.n_codebooks - 1
    heard = torch.randn(2, model.config.ambient.n_global_tokens, sizes.dim)

    def run() -> None:
        cache, noise = None, torch.Generator().manual_seed(0)
        column = torch.full((1, sizes.n_codebooks), filler)
        for _ in range(n_columns):
            both = column.expand(2, -1).reshape(-1, 1)
            out = decoder(both, encoder_hidden_states=heard, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            with_room, without = out.logits.view(2, sizes.n_codebooks, -1)
            logits = without + settings.guidance * (with_room - without)
            uniform = torch.rand(logits.shape, generator=noise)
            column = draw(logits[None], settings, uniform[None])[..., 0]

    def quietly() -> None:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            run()  # its cache's argument is about to get another name

    return quietly


# ---- what could be ----


def limit(model: Silent2Music) -> Report:
    """The least time of a step: its weights and keys read once, its multiply-adds at the rate of a large product.

    Both rates are measured here, on one thread. Whichever is the larger time is the limit.
    """
    sizes, packed = model.config.decoder, model.packed_decoder()
    n_bytes_each = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}[packed.precision]
    n_weights = sum(w.numel() for block in model.decoder.blocks for w in block.parameters())
    n_weights += sizes.n_codebooks * sizes.codebook_size * sizes.dim
    rows = 2
    n_keys = 2 * rows * sizes.n_layers * sizes.attention_window * sizes.dim
    n_bytes = n_weights * n_bytes_each + 4 * n_keys
    n_products = rows * (n_weights - sizes.n_codebooks * sizes.codebook_size * sizes.dim // 2) + n_keys
    large, square = torch.ones(64 * LARGE**2), torch.randn(LARGE, LARGE)
    read = large.numel() * 4 / _least(large.sum)
    rate = LARGE**3 / _least(lambda: square @ square)
    return {
        "bytes_per_step": n_bytes,
        "multiply_adds_per_step": n_products,
        "bytes_per_second": read,
        "multiply_adds_per_second": rate,
        "step_seconds": max(n_bytes / read, n_products / rate),
        "times_real_time": 1.0 / model.codec.frame_rate / max(n_bytes / read, n_products / rate),
    }


def _least(function: Callable[[], object], n: int = 5) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def parity(model: Silent2Music, room: Waveform) -> Report:
    """What each precision does to the logits and to the loss of the model's own music, fp32 being right.

    `nll` is in nats a token under the room alone, with the interval of `PARITY_SEEDS` pieces.
    """
    heard = heard_in(model, room, N_PARITY_COLUMNS / model.codec.frame_rate)
    null = model.null(heard)
    settings = SamplingConfig(guidance=model.config.guidance)
    pattern = model.decoder.pattern
    pieces = [
        generate_codes(model.packed_decoder(), heard, null, settings, [seed]) for seed in range(PARITY_SEEDS)
    ]
    report: Report = {}
    exact: list[torch.Tensor] = []
    for precision in ("fp32", *_other_precisions("fp32")):
        packed = PackedDecoder(model.decoder, precision)
        logits = [_forced(packed, heard, null, codes, pattern) for codes in pieces]
        exact = exact or logits
        losses = [_nll(own, codes, pattern) for own, codes in zip(logits, pieces, strict=True)]
        errors = torch.cat([(a - b).flatten() for a, b in zip(logits, exact, strict=True)])
        report[precision] = {
            "largest_logit_error": float(errors.abs().max()),
            "rms_logit_error": float(errors.square().mean().sqrt()),
            "nll": float(np.mean(losses)),
            "nll_interval": [float(np.min(losses)), float(np.max(losses))],
        }
    return report


def _forced(
    packed: PackedDecoder, heard: Conditioning, null: Conditioning, codes: torch.Tensor, pattern: DelayPattern
) -> torch.Tensor:
    """Logits `[K, T', V]` of given codes, step by step."""
    grid = pattern.apply(codes)
    stepper = Stepper(packed, heard, null, guidance=1.0)
    column = torch.full_like(grid[:, :, 0], pattern.filler)
    out = []
    for t in range(grid.shape[2]):
        frame = heard.frames[:, min(t, heard.frames.shape[1] - 1)]
        out.append(stepper.step(column, frame, frame)[0].clone())
        column = grid[:, :, t]
    return torch.stack(out, dim=1)


def _nll(logits: torch.Tensor, codes: torch.Tensor, pattern: DelayPattern) -> float:
    grid = pattern.apply(codes)[0]
    valid = pattern.valid(codes.shape[2])
    of_token = logits.log_softmax(dim=-1).gather(-1, grid.clamp_max(logits.shape[-1] - 1)[..., None])[..., 0]
    return -float(of_token[valid].mean())


# ---- the command itself ----


def command_run(
    model_folder: Path, room: Waveform, seconds: float, room_seconds: float = PIECE_SECONDS
) -> dict[str, float]:
    """`command_cost` of `s2m infer`.

    Args:
        model_folder: the model.
        room: the recording, of which the command is given `room_seconds`, repeated if it is shorter.
        seconds: of music.
        room_seconds: of recording.
    """
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "room.wav"
        write_room(recording, room, room_seconds)
        arguments = [
            "infer",
            str(recording),
            "-o",
            str(Path(folder) / "out.wav"),
            "--model",
            str(model_folder),
        ]
        arguments += ["--seconds", str(seconds), "--device", "cpu"]
        return command_cost(arguments)


def write_room(path: Path, room: Waveform, seconds: float) -> None:
    """A recording of any length, block by block: the room's first `seconds`, repeated if it is shorter."""
    n_samples = round(seconds * room.sample_rate)
    starts = range(0, n_samples, round(PIECE_SECONDS * room.sample_rate))
    blocks = (span(room, start, min(start + starts.step, n_samples)).samples for start in starts)
    audio.write_blocks(path, blocks, room.sample_rate, room.n_channels)


def command_cost(arguments: Sequence[str]) -> dict[str, float]:
    """`s2m` with some arguments in a fresh process: wall seconds from start to end, processor seconds, peak MiB."""
    command = [sys.executable, "-c", COST_OF_CHILD, sys.executable, "-m", "silent2music.cli", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, cpu, peak_kib = done.stdout.split()[-3:]
    return {"seconds": float(seconds), "cpu_seconds": float(cpu), "peak_mib": int(peak_kib) / 1024}


def growth(runs: Mapping[str, Mapping[str, float]]) -> Iterable[tuple[float, float, float]]:
    """Length, seconds of work for each further second since the shortest, and peak memory in MiB."""
    lengths = sorted((float(name), figures) for name, figures in runs.items())
    first_length, first = lengths[0]
    for length, figures in lengths[1:]:
        yield length, (figures["seconds"] - first["seconds"]) / (length - first_length), figures["peak_mib"]
