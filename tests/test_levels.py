"""Loudness of loops: by the standard, by a second implementation, and where a gating block lies on the gate."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from silent2music import audio
from silent2music.audio import LoudnessMeter, Waveform, gate
from silent2music.export.ambience.writing import (
    GATE_MARGIN_LU,
    LAYER_STEP_LU,
    adding_up,
    in_24_bits,
    levelled_set,
    loudness_of,
    off_the_gate,
)

RATE = 48_000


def struck(seconds: float = 3.93, seed: int = 0) -> np.ndarray:
    """A loop of two strokes that decay by 25 dB a second, `[2, N]`."""
    t = np.arange(round(seconds * RATE)) / RATE
    level = sum((t >= s) * a * 10 ** (-25 * np.maximum(t - s, 0) / 20) for s, a in ((0.5, 0.3), (2.5, 0.04)))
    noise = np.random.default_rng(seed).standard_normal((2, len(t)))
    return (level * noise).clip(-1, 1).astype(np.float32)


def above_gate(samples: np.ndarray) -> np.ndarray:
    meter = LoudnessMeter(RATE, len(samples))
    meter.add(samples)
    blocks = meter.blocks()
    return blocks - gate(blocks)


def on_the_gate(samples: np.ndarray) -> np.ndarray:
    """The same with its end brought to where one block lies on the gate."""
    low, high = -12.0, 12.0
    bend = np.interp(np.arange(samples.shape[1]) / RATE, [0.0, 0.6, 1.0, 3.93], [0.0, 0.0, 1.0, 1.0])
    block = int(np.argmin(np.abs(above_gate(samples)[8:14]))) + 8
    for _ in range(40):
        middle = (low + high) / 2
        bent = samples * (10 ** (bend * middle / 20)).astype(np.float32)
        low, high = (middle, high) if above_gate(bent)[block] < 0 else (low, middle)
    return bent


def test_no_block_is_left_on_the_gate() -> None:
    loop = on_the_gate(struck())
    assert np.abs(above_gate(loop)).min() < 0.01
    louder, softer = (
        loudness_of(loop * (1 + e * np.linspace(0, 1, loop.shape[1])), RATE) for e in (2e-3, -2e-3)
    )
    assert abs(louder - softer) > 0.2  # one meter's truth, by the last digit
    clear = off_the_gate(loop, RATE)
    assert np.abs(above_gate(clear)).min() >= GATE_MARGIN_LU
    change_db = 20 * np.log10(np.abs(clear[loop != 0] / loop[loop != 0]))
    assert 0.05 < np.abs(change_db).max() < 0.7


def test_a_loop_whose_gate_decides_nothing_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    dense = (0.1 * rng.standard_normal((1, 10 * RATE))).astype(np.float32)
    assert off_the_gate(dense, RATE) is dense
    assert not off_the_gate(np.zeros((4, RATE), np.float32), RATE).any()


def test_each_layer_raises_the_loudness_of_those_before_it() -> None:
    """However soft it was made, and though what sounds in the pauses of another can make a sum read lower."""
    rng = np.random.default_rng(0)
    bed = (0.05 * rng.standard_normal((2, round(3.93 * RATE)))).astype(np.float32)
    late = np.roll(struck(seed=2), RATE, axis=1)
    for layers, lufs in (([struck(), bed, late], -24.0), ([struck(), 0.02 * bed, 0.02 * late], -40.0)):
        targets = adding_up(layers, RATE, lufs)
        held, quiet = levelled_set(layers, RATE, targets, -1.0, adds=True)
        assert not any(quiet)
        sums = [loudness_of(own, RATE) for own in np.cumsum(held, axis=0)]
        assert sums[-1] == pytest.approx(lufs, abs=0.1)
        assert np.diff(sums) == pytest.approx(LAYER_STEP_LU, abs=0.2)
    silent = np.zeros_like(bed)
    held, quiet = levelled_set([silent, bed], RATE, adding_up([silent, bed], RATE, -40.0), -1.0, adds=True)
    assert quiet == [True, False] and not held[0].any()
    assert loudness_of(held[1], RATE) == pytest.approx(-40.0, abs=0.05)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_ffmpeg_finds_the_same_loudness_and_a_peak_below_the_limit(tmp_path: Path, suffix: str) -> None:
    swelling = 0.1 * np.random.default_rng(0).standard_normal((1, 3 * RATE)) * np.linspace(0.1, 1, 3 * RATE)
    loops = [(loop, -24.0, -1.0) for loop in (struck(), on_the_gate(struck(seed=1)), struck(2.0, seed=2))]
    loops += [(np.repeat(swelling, n, axis=0).astype(np.float32), -14.0, -3.0) for n in (1, 2)]
    for seed, (loop, lufs, true_peak) in enumerate(loops):
        (levelled,), _ = levelled_set([loop], RATE, [lufs], true_peak)
        path = tmp_path / f"{seed}.{suffix}"
        audio.write(path, Waveform(in_24_bits(levelled, seed), RATE))
        command = ["ffmpeg", "-hide_banner", "-nostats", "-i", path, "-af"]
        command += ["ebur128=peak=true:metadata=1,ametadata=print:key=lavfi.r128.I:file=-", "-f", "null", "-"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        found = float(re.findall(r"lavfi\.r128\.I=(\S+)", said.stdout)[-1])
        peak = float(re.findall(r"Peak:\s+(\S+) dBFS", said.stderr)[-1])
        assert loudness_of(audio.read(path).samples, RATE) == pytest.approx(found, abs=0.02)
        assert suffix == "ogg" or found == pytest.approx(lufs, abs=0.03)
        assert suffix == "ogg" or peak < true_peak + 0.05  # one decimal is printed


@pytest.mark.slow
def test_the_limiter_leaves_no_block_on_the_gate() -> None:
    """At loudnesses so high that it takes most of the first stroke, and with it lowers the gate."""
    loop = struck()
    bend = np.interp(np.arange(loop.shape[1]) / RATE, [0.0, 0.6, 1.0, 3.93], [0.0, 0.0, 1.0, 1.0])
    for lufs in (-14.0, -12.0):
        for end_db in np.arange(-3.0, 3.0, 0.5):
            bent = loop * (10 ** (bend * end_db / 20)).astype(np.float32)
            (levelled,), _ = levelled_set([bent], RATE, [lufs], -1.0)
            assert off_the_gate(levelled, RATE) is levelled
            assert audio.true_peak_dbtp(Waveform(levelled, RATE)) < -1.0
