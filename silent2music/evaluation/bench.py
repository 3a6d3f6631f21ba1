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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.decoder import Conditioning
from silent2music.errors import AudioError
from silent2music.evaluation.stages import Progress, one_thread
from silent2music.listening import listen_whole, span
from silent2music.model import Silent2Music
from silent2music.sampling import draw, generate_codes

PIECE_SECONDS = 10.0
"""Length of the room, and of the music of whole runs."""

STEP_SECONDS = 4.0
"""Length of the music whose decoding steps are timed."""

BATCHES = (1, 4, 16)

Task = tuple[str, str, float, Callable[[], object]]
"""Group, name, seconds of audio made, and what makes them."""


def bench(
    model_folder: Path,
    room: Waveform,
    n_rounds: int = 5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model.

    Args:
        model_folder: the model.
        room: what to make music for; its first `PIECE_SECONDS`, repeated if it is shorter.
        n_rounds: how often; medians are reported.
        progress: called with the stage, rounds done and rounds in all.

    Returns:
        `machine`; `stages` and `batch`: for each task `wall_seconds`, `cpu_seconds` and `times_real_time`;
        `first_audio_seconds` of a stream whose model is loaded; `command_seconds` of `s2m infer`, start and all.
    """
    tell = progress or (lambda stage, done, total: None)
    room = span(room, 0, round(PIECE_SECONDS * room.sample_rate))
    model = Silent2Music.from_pretrained(model_folder)
    with one_thread(), torch.inference_mode():
        timed = _interleaved(_tasks(model, room), n_rounds, tell)
    first = timed.pop("first audio")["stream"]["wall_seconds"]
    return {
        "model": model.config.name,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        **timed,
        "first_audio_seconds": first,
        "command_seconds": command_seconds(model_folder, room, n_rounds),
    }


def _interleaved(tasks: Sequence[Task], n_rounds: int, tell: Progress) -> dict[str, Any]:
    """Every task once in each round, after a first time that does not count; medians by group and name."""
    spent: list[list[tuple[float, float]]] = [[] for _ in tasks]
    for done in range(n_rounds + 1):
        for (_, _, _, run), times in zip(tasks, spent, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        tell("rounds", done + 1, n_rounds + 1)
    found: dict[str, Any] = {}
    for (group, name, seconds, _), times in zip(tasks, spent, strict=True):
        wall, cpu = np.median(times[1:], axis=0).tolist()
        figures = {"wall_seconds": wall, "cpu_seconds": cpu, "times_real_time": seconds / wall}
        found.setdefault(group, {})[name] = figures
    return found


def _tasks(model: Silent2Music, room: Waveform) -> list[Task]:
    """All that is timed inside the process."""
    settings, packed = model.resolved(), model.packed_decoder()
    heard, null = _conditioning(model, room, STEP_SECONDS)
    codes = generate_codes(packed, heard, null, settings, [0])

    def steps(n_rows: int) -> Callable[[], object]:
        rows, nulls = (one.expand(n_rows) for one in (heard, null))
        return lambda: generate_codes(packed, rows, nulls, settings, range(n_rows))

    return [
        ("stages", "conditioning", PIECE_SECONDS, lambda: _conditioning(model, room, PIECE_SECONDS)),
        ("stages", "steps", STEP_SECONDS, steps(1)),
        ("stages", "MusicGen's steps", STEP_SECONDS, musicgen_steps(model)),
        ("stages", "codec", STEP_SECONDS, lambda: model.codec.decode(codes)),
        ("stages", "whole", PIECE_SECONDS, lambda: model.generate(room, settings)),
        ("first audio", "stream", 0.0, lambda: next(model.stream(room, settings))),
        *(("batch", str(n), n * STEP_SECONDS, steps(n)) for n in BATCHES),
    ]


def _conditioning(model: Silent2Music, room: Waveform, seconds: float) -> tuple[Conditioning, Conditioning]:
    """What the decoder is told of a room, and of none."""
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


def command_seconds(model_folder: Path, room: Waveform, n_runs: int) -> float:
    """Median seconds of `s2m infer` on a room in a fresh process, from its start to its end."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        recording, music = Path(folder) / "room.wav", Path(folder) / "music.wav"
        audio.write(recording, room)
        command = [sys.executable, "-m", "silent2music.cli", "infer", str(recording), "-o", str(music)]
        command += ["--model", str(model_folder), "--device", "cpu", "--force"]
        for _ in range(n_runs):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def write_bench(report: dict[str, Any], folder: Path, force: bool = False) -> str:
    """Write `speed.json` and `speed.md` to a folder and return the text of the second.

    Raises:
        AudioError: if one exists and `force` is not set, or the folder cannot be written.
    """
    text = table(report)
    for name, content in (("speed.json", json.dumps(report, indent=2)), ("speed.md", text)):
        with audio.atomic_path(folder / name, force) as path:
            path.write_text(content + "\n", encoding="utf-8")
    return text


def refuse_existing(folder: Path) -> None:
    """Say before minutes of measuring what writing would say after them.

    Raises:
        AudioError: if the folder has a report already.
    """
    for path in (folder / "speed.json", folder / "speed.md"):
        if path.exists():
            raise AudioError(f"{path} exists already; give --force to replace it or choose another folder.")


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    machine, stages = report["machine"], report["stages"]
    lines = [
        f"{report['model']} on {machine['cores']} cores ({machine['capability']}), torch {machine['torch']}, one thread",
        "",
        "| | times real time | by processor time | ms a second of music |",
        "|---|---:|---:|---:|",
    ]
    for name, figures in (stages | {f"steps, {n} rows": f for n, f in report["batch"].items()}).items():
        rate, busy = figures["times_real_time"], figures["wall_seconds"] / figures["cpu_seconds"]
        lines.append(f"| {name} | {rate:.1f} | {rate * busy:.1f} | {1000 / rate:.1f} |")
    ratio = stages["steps"]["times_real_time"] / stages["MusicGen's steps"]["times_real_time"]
    return "\n".join(
        [
            *lines,
            "",
            f"The decoder's steps are {ratio:.1f} times as fast as MusicGen's of the same size.",
            "",
            f"First audio of a warm stream after {1000 * report['first_audio_seconds']:.0f} ms; "
            f"`s2m infer` of {PIECE_SECONDS:g} s takes {report['command_seconds']:.2f} s, its start included.",
        ]
    )
