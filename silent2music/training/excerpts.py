"""Excerpts of music that codecs are trained on: drawn from files, or coded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from silent2music import audio
from silent2music.bundled_codec import BundledCodec
from silent2music.errors import AudioError, DataError

EXCERPT_SECONDS = 8.0
"""Length of an excerpt of coded music: much longer than a crop, so that few crops touch its ends."""

EXCERPTS_PER_FILE = 2
"""Excerpts of coded music taken from a file at a time, since reading it takes most of the time."""

EQUALISED_SHARE = 0.5
"""Of the excerpts of coded music, where equalisers are asked for."""

_SOUND_FILE, _CODES_FILE, _KEY_FILE = "sound.npy", "codes.npy", "coded.json"


def crops(
    files: Sequence[Path], n_crops: int, n_samples: int, rate: int, rng: np.random.Generator, quiet_db: float
) -> Tensor:
    """Random excerpts `[n_crops, n_samples]`, four from each file drawn, some attenuated.

    Args:
        n_crops: B.
        n_samples: N; a shorter file is followed by silence.
        rate: in Hz.
        quiet_db: half of the excerpts get a gain between this and 0 dB.

    Raises:
        DataError: if twenty files in a row cannot be read.
    """
    found: list[Tensor] = []
    n_failed = 0
    while len(found) < n_crops:
        if not files or n_failed == 20:
            raise DataError(f"None of {n_failed} files could be read as music; check the paths.")
        try:
            samples = audio.read(files[int(rng.integers(len(files)))], mono=True).resampled(rate).samples[0]
        except AudioError:
            n_failed += 1
            continue
        n_failed = 0
        for _ in range(min(4, n_crops - len(found))):
            start = int(rng.integers(max(1, len(samples) - n_samples + 1)))
            gain = audio.db_to_gain(quiet_db * rng.random()) if rng.random() < 0.5 else 1.0
            crop = torch.from_numpy(samples[start : start + n_samples] * np.float32(gain))
            found.append(functional.pad(crop, (0, n_samples - len(crop))))
    return torch.stack(found)


def random_equalisers(n_rows: int, n_bins: int, spread_db: float, rng: np.random.Generator) -> Tensor:
    """Smooth random gains of amplitude, `[n_rows, n_bins]`, bins evenly spaced from 0 Hz on.

    In dB a sum of five cosines along a scale that is nearly logarithmic in frequency, the slowest a tilt.

    Args:
        spread_db: standard deviation of the gain of a bin, over all that are drawn.
    """
    scale = np.log1p(np.arange(n_bins) * (20.0 / n_bins)) / np.log1p(20.0)
    waves = np.cos(np.pi * np.arange(1, 6)[:, None] * scale)
    shares = np.sqrt(2.0 / np.arange(1, 6) / np.sum(1.0 / np.arange(1, 6)))
    decibels = spread_db * (rng.standard_normal((n_rows, 5)) * shares) @ waves
    return torch.from_numpy(10.0 ** (decibels / 20.0)).float()


def _equalised(sound: Tensor, spread_db: float, rng: np.random.Generator) -> Tensor:
    """Samples `[B, N]`, each row through one of `random_equalisers`, and quieter if it would clip."""
    spectrum = torch.fft.rfft(sound)
    spectrum = spectrum * random_equalisers(len(sound), spectrum.shape[1], spread_db, rng)
    changed: Tensor = torch.fft.irfft(spectrum, n=sound.shape[1])
    return changed / changed.abs().amax(1, keepdim=True).clamp(min=1.0)


class CodedMusic:
    """Excerpts of music with their codes, memory-mapped from disk.

    Attributes:
        sound: `[n, N]` int16.
        codes: `[n, K, T]` int16, `N = T * samples_per_code`.
    """

    def __init__(self, folder: Path) -> None:
        self.sound: NDArray[np.int16] = np.load(folder / _SOUND_FILE, mmap_mode="r")
        self.codes: NDArray[np.int16] = np.load(folder / _CODES_FILE, mmap_mode="r")

    def crops(self, rows: Sequence[int], start: int, n_frames: int) -> tuple[Tensor, Tensor]:
        """Codes `[B, K, n_frames]` int64 and samples `[B, N]` of B excerpts, from codec frame `start` on."""
        span = self.sound.shape[1] // self.codes.shape[2]
        stop = start + n_frames
        codes = self.codes[rows, :, start:stop].astype(np.int64)
        sound = self.sound[rows, start * span : stop * span].astype(np.float32) / 32768.0
        return torch.from_numpy(codes), torch.from_numpy(sound)


def code_music(
    codec: BundledCodec,
    files: Sequence[Path],
    minutes: float,
    seed: int,
    folder: Path,
    equaliser_db: float = 0.0,
) -> CodedMusic:
    """Cut excerpts of music and encode them into a folder, unless it holds them already.

    An hour takes 175 MB on disk. Files are visited in a random order, again from the first if they are too few.

    Args:
        equaliser_db: spread of the random equalisers that half of the excerpts go through before they are coded.

    Raises:
        DataError: if the files cannot be read.
    """
    paths = hashlib.sha256("\n".join(map(str, files)).encode()).hexdigest()[:16]
    key = {"checksum": codec.token_checksum(), "minutes": minutes, "seed": seed, "files": paths}
    key |= {"equaliser_db": equaliser_db} if equaliser_db else {}
    try:
        if json.loads((folder / _KEY_FILE).read_text(encoding="utf-8")) == key:
            return CodedMusic(folder)
    except (OSError, ValueError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _KEY_FILE).unlink(missing_ok=True)  # until the arrays are whole they are nobody's
    rng = np.random.default_rng(seed)
    n_frames = round(EXCERPT_SECONDS * codec.frame_rate)
    n_samples = n_frames * codec.config.samples_per_code
    n_excerpts = max(1, round(60.0 * minutes / EXCERPT_SECONDS))
    made = np.lib.format.open_memmap  # an array on disk, written row by row
    sound = made(folder / _SOUND_FILE, "w+", np.int16, (n_excerpts, n_samples))
    codes = made(folder / _CODES_FILE, "w+", np.int16, (n_excerpts, codec.n_codebooks, n_frames))
    order = [files[i] for i in rng.permutation(len(files))]
    for i in range(0, n_excerpts, EXCERPTS_PER_FILE):
        rows = slice(i, min(i + EXCERPTS_PER_FILE, n_excerpts))
        visited = order[i // EXCERPTS_PER_FILE % max(1, len(order)) :][:1]
        found = crops(visited, rows.stop - i, n_samples, codec.sample_rate, rng, 0.0)
        if equaliser_db and rng.random() < EQUALISED_SHARE:
            found = _equalised(found, equaliser_db, rng)
        sound[rows] = (found * 32767.0).round().clamp(-32768, 32767).short().numpy()
        heard = torch.from_numpy(sound[rows].astype(np.float32) / 32768.0)
        codes[rows] = codec.encode(heard[:, None].to(codec.components.device)).cpu().short().numpy()
    sound.flush()
    codes.flush()
    (folder / _KEY_FILE).write_text(json.dumps(key) + "\n", encoding="utf-8")
    return CodedMusic(folder)
