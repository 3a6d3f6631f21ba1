"""`s2m bench`: how fast each stage is on this machine, beside the decoder of MusicGen of the same size.

Everything runs in one process on one thread, task after task and round after round, so that a machine that slows
down slows all of them; medians count. The whole command runs in a process of its own. MusicGen is that of
`transformers` with the same number of weights, codebooks and frames a second, and random weights: speed does not
depend on them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.decoder import Conditioning
from silent2music.errors import require
from silent2music.evaluation.report import check_report, table
from silent2music.export import provenance
from silent2music.files import atomic_path
from silent2music.listening import listen_whole, span
from silent2music.model import Silent2Music
from silent2music.processes import Progress, one_thread
from silent2music.sampling import draw, generate_codes

PIECE_SECONDS = 10.0
"""Length of the room, and of the music of whole runs."""

STEP_SECONDS = 4.0
"""Length of the music whose decoding steps are timed."""

BATCHES = (4, 16)
"""Rows of a batch of steps."""

STEPS, MUSICGEN = "steps", "steps of MusicGen"
FIRST_AUDIO, COMMAND = "first audio", "command"

Task = tuple[float, Callable[[], object]]
"""Seconds of audio that are made, and what makes them."""


def bench(
    model_folder: Path,
    room: Waveform,
    out: Path,
    n_rounds: int = 5,
    force: bool = False,
    progress: Progress | None = None,
) -> str:
    """Measure a model and write `speed.json` and `speed.md`.

    The first holds `machine`; `stages`, for each task its `seconds` and `times_real_time`; `first_audio_seconds` of a
    stream whose model is loaded; `command_seconds` of `s2m infer`, from its start to its end.

    Args:
        room: what to make music for; its first `PIECE_SECONDS`, repeated if it is shorter.
        out: folder for the report, made if missing.
        n_rounds: how often; medians are reported.
        force: replace a report that is there; if not, it is an error before minutes of measuring.

    Returns:
        The text of `speed.md`.

    Raises:
        AudioError: if there is a report and `force` is not set, or the folder cannot be written.
    """
    require("transformers")
    check_report(out, "speed", force)
    with (
        atomic_path(out / "speed.json", force) as figures,
        atomic_path(out / "speed.md", force) as readable,
        tempfile.TemporaryDirectory() as folder,
    ):
        room = span(room, 0, round(PIECE_SECONDS * room.sample_rate))
        model = Silent2Music.from_pretrained(model_folder)
        with one_thread(), torch.inference_mode():
            tasks = _tasks(model, room)
            runs = {name: run for name, (_, run) in tasks.items()}
            runs[COMMAND] = _command(model_folder, room, Path(folder))
            spent = median_seconds(runs, n_rounds, progress or (lambda stage, done, total: None))
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        report = {
            "model": model.config.name,
            "versions": provenance.versions(),
            "machine": machine,
            "first_audio_seconds": spent.pop(FIRST_AUDIO),
            "command_seconds": spent.pop(COMMAND),
            "stages": {k: {"seconds": v, "times_real_time": tasks[k][0] / v} for k, v in spent.items()},
        }
        text = _text(report)
        figures.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        readable.write_text(text + "\n", encoding="utf-8")
    return text


def median_seconds(
    tasks: Mapping[str, Callable[[], object]], n_rounds: int, tell: Progress
) -> dict[str, float]:
    """Median seconds of every task; each runs once in each round, after a warm-up run that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    for done in range(n_rounds + 1):
        for name, run in tasks.items():
            start = time.perf_counter()
            run()
            spent[name].append(time.perf_counter() - start)
        tell("rounds", done + 1, n_rounds + 1)
    return {name: float(np.median(seconds[1:])) for name, seconds in spent.items()}


def _tasks(model: Silent2Music, room: Waveform) -> dict[str, Task]:
    """The tasks that are timed inside this process."""
    settings, packed = model.resolved(), model.packed_decoder()
    heard, null = _conditioning(model, room, STEP_SECONDS)
    codes = generate_codes(packed, heard, null, settings, [0])

    def steps(n_rows: int) -> Task:
        rows, nulls = (one.expand(n_rows) for one in (heard, null))
        return n_rows * STEP_SECONDS, lambda: generate_codes(packed, rows, nulls, settings, range(n_rows))

    return {
        "conditioning": (PIECE_SECONDS, lambda: _conditioning(model, room, PIECE_SECONDS)),
        STEPS: steps(1),
        MUSICGEN: (STEP_SECONDS, musicgen_steps(model)),
        "codec": (STEP_SECONDS, lambda: model.codec.decode(codes)),
        "whole": (PIECE_SECONDS, lambda: model.generate(room, settings)),
        FIRST_AUDIO: (0.0, lambda: next(model.stream(room, settings))),
        **{f"{STEPS}, {n} rows": steps(n) for n in BATCHES},
    }


def _conditioning(model: Silent2Music, room: Waveform, seconds: float) -> tuple[Conditioning, Conditioning]:
    """Conditioning under a room, and the null of classifier-free guidance."""
    return model.steer(listen_whole(room, seconds, model.config).to(model.device))


def musicgen_steps(model: Silent2Music) -> Callable[[], object]:
    """`STEP_SECONDS` of tokens from `transformers`' MusicGen decoder of the same sizes, guidance and sampling.

    Its forward with its own cache, and the loop around it as lean as here: `generate` adds to that.
    """
    from silent2music._torchaudio import ensure_torchaudio

    ensure_torchaudio()
    from transformers import MusicgenForCausalLM, logging
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    logging.set_verbosity_error()
    sizes, settings = model.config.decoder, model.resolved()
    filler = sizes.codebook_size
    config = MusicgenDecoderConfig(
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
    decoder = MusicgenForCausalLM(config).eval()
    n_columns = round(STEP_SECONDS * model.codec.frame_rate) + sizes.n_codebooks - 1
    heard = torch.randn(2, model.config.ambient.n_global_tokens, sizes.dim)

    def run() -> None:
        cache, noise = None, torch.Generator().manual_seed(0)
        column = torch.full((1, sizes.n_codebooks), filler)
        # The argument of its cache is about to get another name.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            for _ in range(n_columns):
                both = column.expand(2, -1).reshape(-1, 1)
                out = decoder(both, encoder_hidden_states=heard, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                with_room, without = out.logits.view(2, sizes.n_codebooks, -1)
                logits = without + settings.guidance * (with_room - without)
                column = draw(logits[None], settings, torch.rand(logits.shape, generator=noise)[None])[..., 0]

    return run


def _command(model_folder: Path, room: Waveform, folder: Path) -> Callable[[], object]:
    """`s2m infer` on a room in a fresh process, from its start to its end."""
    audio.write(folder / "room.wav", room)
    command = [sys.executable, "-m", "silent2music.cli", "infer", str(folder / "room.wav")]
    command += ["-o", str(folder / "music.wav"), "--model", str(model_folder), "--device", "cpu", "--force"]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _text(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    machine, rates = report["machine"], {k: v["times_real_time"] for k, v in report["stages"].items()}
    rows = [[name, f"{rate:.1f}", f"{1000 / rate:.1f}"] for name, rate in rates.items()]
    return "\n\n".join(
        [
            f"{report['model']} on {machine['cores']} cores ({machine['capability']}), torch {machine['torch']}, "
            "one thread",
            table(["", "times real time", "ms a second of music"], rows),
            f"The steps are {rates[STEPS] / rates[MUSICGEN]:.1f} times as fast as those of MusicGen of the same size. "
            f"First audio of a warm stream after {1000 * report['first_audio_seconds']:.0f} ms; `s2m infer` of "
            f"{PIECE_SECONDS:g} s takes {report['command_seconds']:.2f} s, its start included.",
        ]
    )
