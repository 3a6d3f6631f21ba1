"""A sketch of the sound of a score: notes and the room's global signals regressed to the vectors of the bundled codec.

```
each note that sounds or rings ──► small network ──► levels of its harmonics and of bands of noise, and a vector
levels ──► spectrum (the window's kernel at each harmonic, energies summed) ──► ** 0.4 ──► components ──► vectors
vectors, summed vectors of the notes, the room ──► convolutions along frames ──► what is missing, added
```
Regression gives a mean over all ways in which the notes may sound, so decoded as it is it has the notes and blurs the
rest. What is known of a note at a frame is its past alone, up to a few frames ahead, so that notes can be sketched as
they are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.config import ModelConfig, SketchConfig
from silent2music.correction import mel_hats
from silent2music.errors import ConfigError
from silent2music.notation import (
    DRUMS,
    FIRST_PART,
    INSTRUMENT_NAMES,
    LENGTHS_SECONDS,
    N_PLACES,
    N_PROGRAMS,
    N_VELOCITIES,
    STRIKES,
    Event,
    gain_of_frames,
    part_of,
)
from silent2music.score import ENERGY_RATE_HZ, EXPRESSION, Part, Score
from silent2music.signals import Embedder, Signals
from silent2music.weights import WEIGHTS_FILE, fill, load_module, read_weights, save_module

RING_SECONDS = 1.2
"""How long after its end a note is still known by itself; what rings longer, the convolutions remember."""

NOTES_AHEAD = 2
"""Frames that must be written after one before its notes are known: a note is told up to a frame early and is heard in
the frame before, since windows overlap; and the loudness automation is a curve of 10 points a second."""

LIVE_NOTES_AHEAD = 1
"""As `NOTES_AHEAD` for live sound. The loudness automation is held for the frame that is not waited for, and of a note
that is told a frame early it is not known in the frame before that it is about to begin."""

STREAM_FRAMES = 16
"""Frames that `sketch_stream` computes at once: weights are read and operations begun once for all of them."""

N_FAMILIES = N_PROGRAMS // 8 + 1
"""The instrument families of General MIDI, and drums."""

UNKNOWN_SHARE = 0.1
"""Share of the programs that are known in a training step by their family alone, as one that is not in the pairs is."""

SUSTAIN, VOLUME, VOLUME_START = 64, 7, 100
"""Controllers of MIDI, and the value of the second where a file says nothing."""

LEAD_MS, HELD_LEAD_MS = 6, 18
"""A sketch that is played is told that notes which are struck or plucked, and others, begin so much earlier, since they
are heard so long after. `SketchConfig.leads_ms` has other leads of single programs."""

SWELL_DB, SWELL_SECONDS, STEADY_SECONDS = 7.0, 2.5, 0.5
"""Held notes that are played sink by the first and return in the time of the second, over and over, as a bow or a breath
goes on: from an age of the third on, and as deep as that a second later. The mean that a sketch has learned holds them
quite still, and a partial that stands still whistles."""

SWELL_TURNS = 1.0 / 6.0
"""So much of a swell a note is ahead of one a semitone below. Of notes that begin together octaves swell together and
fifths nearly so, since they share partials; thirds swell apart, so that a chord of them is about as loud all the time and
its swells are not levelled."""

N_FEATURES = 14
FREE_DIM = 32
PITCH_STEP = 4
"""Semitones between the points from which a pitch's embedding is interpolated, beside its own part."""

POWER_FLOOR = 1e-12
LOG_POWER_START, LOG_NOISE_START = -9.0, -14.0
LOG_POWER_MOST = 4.0
LEAST_VELOCITY = 1.0


@dataclass(frozen=True)
class SketchNotes:
    """The notes of B stretches of scores, one row for each frame in which one sounds, rings or is about to begin.

    Attributes:
        rows: `[N]` int64, `row * T + frame`.
        programs, pitches: `[N]` int64, `notation.DRUMS` for drums.
        features: `[N, N_FEATURES]` float32: onset and place, age, time since the end, velocity, loudness.
        n_rows, n_frames: B and T.
    """

    rows: Tensor
    programs: Tensor
    pitches: Tensor
    features: Tensor
    n_rows: int
    n_frames: int

    def to(self, device: torch.device | str) -> SketchNotes:
        """The same on another device."""
        names = ("rows", "programs", "pitches", "features")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @classmethod
    def of(
        cls,
        scores: Sequence[Score],
        starts: Sequence[int],
        n_frames: int,
        frame_rate: float,
        leads: DoubleArray | None = None,
    ) -> SketchNotes:
        """Frames `start` to before `start + n_frames` of each score; what is beyond the end of one is silent.

        Args:
            scores: B of them.
            starts: in codec frames.
            n_frames: T.
            frame_rate: in Hz.
            leads: `[129]` seconds by which a program's notes begin earlier, for a sketch that is played, whose held
                notes swell, too; None for notes as they are.
        """
        parts = []
        for row, (score, start) in enumerate(zip(scores, starts, strict=True)):
            gain = gain_of_frames(score, start, start + n_frames, frame_rate)
            parts.append(_in_frames(_notes_of(score), gain, start, frame_rate, leads, row * n_frames))
        return cls._joined(parts, len(parts), n_frames)

    @classmethod
    def _joined(
        cls, parts: Sequence[tuple[IntArray, IntArray, IntArray, FloatArray]], n_rows: int, n_frames: int
    ) -> SketchNotes:
        rows, programs, pitches, features = (
            torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)
        )
        return cls(rows, programs, pitches, features, n_rows, n_frames)


def _notes_of(score: Score) -> DoubleArray:
    """Notes `[n, 5]`: program, pitch, start, end and velocity, in the order in which they begin.

    The sustain pedal holds notes, and volume and expression of a single part count as velocity. A note that is cut by the
    end of the score does not end.
    """
    found = [np.zeros((0, 5))]
    for part in score.parts:
        ends = _sustained(part)
        program = np.full(len(ends), DRUMS if part.is_drum else part.program)
        loudness = part.velocities * _level(part, VOLUME, VOLUME_START) * _level(part, EXPRESSION, 127)
        ends = np.where(ends >= score.seconds - 1e-6, np.inf, ends)
        found.append(np.stack([program, part.pitches, part.start_seconds, ends, loudness], axis=1))
    return _by_start(np.concatenate(found))


def _by_start(notes: DoubleArray) -> DoubleArray:
    return notes[np.lexsort(notes.T[[4, 3, 1, 0, 2]])]


def _sustained(part: Part) -> DoubleArray:
    """Ends of a part's notes, those under the sustain pedal held until it is let go."""
    own = part.control_numbers == SUSTAIN
    times, is_down = part.control_seconds[own], part.control_values[own] >= 64
    if not is_down.any():
        return part.end_seconds
    released = np.append(times[~is_down], np.inf)
    index = np.searchsorted(times, part.end_seconds, "right") - 1
    held = (index >= 0) & is_down[np.maximum(index, 0)]
    later = released[np.searchsorted(times[~is_down], part.end_seconds, "right")]
    return np.where(held, later, part.end_seconds)


def _level(part: Part, number: int, usual: int) -> DoubleArray:
    """Value of a controller at each note's start, 1 where it is as usual."""
    own = part.control_numbers == number
    values = np.append(usual, part.control_values[own])
    return np.asarray(
        values[np.searchsorted(part.control_seconds[own], part.start_seconds, "right")] / usual, np.float64
    )


def _leads(leads_ms: Mapping[str, float]) -> DoubleArray:
    """Seconds `[129]` by which the notes of programs are told earlier, by the names of some of them."""
    found = np.where(STRIKES, LEAD_MS, HELD_LEAD_MS) / 1000.0
    for name, lead in leads_ms.items():
        if name not in INSTRUMENT_NAMES:
            raise ConfigError(f"sketch.leads_ms names '{name}'; expected instruments of General MIDI.")
        found[INSTRUMENT_NAMES.index(name)] = lead / 1000.0
    return found


def _in_frames(
    notes: DoubleArray,
    gain_db: FloatArray,
    begin: int,
    frame_rate: float,
    leads: DoubleArray | None,
    first_row: int = 0,
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Columns of `SketchNotes` for frames from `begin` on, as many as there is loudness automation of.

    Arguments as for `SketchNotes.of`.
    """
    end = begin + len(gain_db)
    ring = round(RING_SECONDS * frame_rate)
    if leads is not None:
        notes = notes.copy()
        notes[:, 2] = np.maximum(notes[:, 2] - leads[notes[:, 0].astype(np.int64)], 0.0)
        notes[:, 3] = np.maximum(notes[:, 3], notes[:, 2])
    # Rounding must not move an onset into the frame before.
    onset = np.floor(notes[:, 2] * frame_rate + 1e-6)
    last = np.maximum(onset + 1, np.ceil(notes[:, 3] * frame_rate - 1e-6)) + ring
    low, high = np.maximum(onset - 1, begin), np.minimum(last, end)
    there = high > low
    notes, onset, low = notes[there], onset[there], low[there].astype(np.int64)
    counts = high[there].astype(np.int64) - low
    index = np.repeat(np.arange(len(notes)), counts)
    frame = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts) + low[index]
    program, pitch, start, end_seconds, velocity = notes[index].T
    programs, middle = program.astype(np.int64), (frame + 0.5) / frame_rate
    gain = gain_db[frame - begin]
    if leads is not None:
        held = np.minimum(middle, end_seconds) - start
        depth_db = np.where(STRIKES[programs], 0.0, SWELL_DB * np.clip(held - STEADY_SECONDS, 0.0, 1.0))
        gain = gain - depth_db * np.sin(np.pi * (held / SWELL_SECONDS + pitch * SWELL_TURNS)) ** 2
    age, since = np.maximum(middle - start, 0.0), np.maximum(middle - end_seconds, 0.0)
    begins, is_before, ended = frame == onset[index], frame < onset[index], since > 0.0
    place = start * frame_rate - frame
    loud = np.log(np.maximum(velocity, LEAST_VELOCITY) / 127.0)
    features = np.stack(
        [
            # Logarithm of the power, as a synthesiser of General MIDI takes it from velocity and expression.
            4.0 * loud + gain * (math.log(10.0) / 10.0),
            begins, begins * place, is_before, is_before * place, ~ended & ~is_before,
            np.exp(-age / 0.1), np.exp(-age / 0.4), np.exp(-age / 1.6), np.minimum(age, 4.0) / 4.0,
            ended * np.exp(-since / 0.15), ended * np.exp(-since / 0.6),
            loud + 0.5, gain / 20.0,
        ],
        axis=1,
    )  # fmt: skip
    order = np.argsort(frame, kind="stable")
    columns = (first_row + frame - begin, program, pitch)
    row, programs, pitches = (column[order].astype(np.int64) for column in columns)
    return row, programs, pitches, features[order].astype(np.float32)


class NoteEmbedder(nn.Module):
    """Embeds each note in each of its frames, at width E.

    An instrument is embedded as its family plus what is its own, which starts at nothing, and a pitch as what is
    interpolated between every few semitones plus its own part, so that those that were never heard are near their kin.
    """

    hats: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.family = nn.Embedding(N_FAMILIES, dim)
        self.program = nn.Embedding(N_PROGRAMS, dim)
        self.pitch = nn.Embedding(2 * 128, dim)
        points = torch.arange(0, 128 + PITCH_STEP, PITCH_STEP)
        hats = (1.0 - (torch.arange(128)[:, None] - points).abs() / PITCH_STEP).clamp(min=0.0)
        self.register_buffer("hats", hats, persistent=False)
        self.near = nn.Parameter(0.5 * torch.randn(2, len(points), dim))
        self.free = nn.Embedding(N_PROGRAMS * 128, FREE_DIM)
        self.from_free = nn.Linear(FREE_DIM, dim, bias=False)
        nn.init.normal_(self.family.weight, std=0.5)
        for table in (self.program, self.pitch, self.free):
            nn.init.zeros_(table.weight)
        self.features = nn.Linear(N_FEATURES, 2 * dim)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.GELU())

    def forward(self, notes: SketchNotes) -> Tensor:
        """Vectors `[N, E]`."""
        programs, pitches = notes.programs, notes.pitches
        is_drum = programs == DRUMS
        own = self.program(programs) + self.from_free(self.free(programs * 128 + pitches))
        if self.training:
            # Drums are no family of others.
            known = torch.rand(N_PROGRAMS, device=programs.device) >= UNKNOWN_SHARE
            own = own * (known[programs] | is_drum)[:, None]
        # As a table, since there are fewer pitches than notes.
        table = self.pitch.weight + (self.hats @ self.near).flatten(0, 1)
        scale, shift = self.features(notes.features).chunk(2, dim=-1)
        x = self.family(programs // 8) + own + functional.embedding(pitches + 128 * is_drum, table)
        mixed: Tensor = self.mix(x * (1 + scale) + shift)
        return mixed


class SketchLayer(nn.Module):
    """A ConvNeXt block (Liu et al., 2022) that sees more frames before than after, scaled and shifted by the room."""

    def __init__(self, dim: int, room_dim: int, behind: int, ahead: int) -> None:
        super().__init__()
        self.behind, self.ahead = behind, ahead
        self.along = nn.Conv1d(dim, dim, behind + 1 + ahead, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.room = nn.Linear(room_dim, 2 * dim)
        self.widen = nn.Linear(dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.room.weight)
        nn.init.zeros_(self.room.bias)

    def forward(self, x: Tensor, room: Tensor) -> Tensor:
        """Of `x` `[B, behind + T + ahead, D]` and the room `[B, T or 1, R]` the middle `[B, T, D]`."""
        scale, shift = self.room(room).chunk(2, dim=-1)
        y = self.norm(self.along(x.transpose(1, 2)).transpose(1, 2)) * (1 + scale) + shift
        out: Tensor = x[:, self.behind : x.shape[1] - self.ahead] + self.narrow(
            functional.gelu(self.widen(y))
        )
        return out


class Sketch(nn.Module):
    """Regresses notes and the room's global signals to the vectors of the bundled codec.

    Args:
        config: sizes, and the codec's settings.
        components: `[P, F]` of the codec, from which the projection of the notes' spectra starts.

    Attributes:
        behind: frames of context before a frame, beyond what `SketchNotes` say of single notes.
        ahead: frames that must be known after a frame for its vector, the notes' onsets included.
        leads: `[129]` seconds by which the notes of programs, and of drums, are told earlier when they are played.
    """

    bands: Tensor
    places: Tensor

    def __init__(self, config: SketchConfig, components: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        codec = config.codec
        if codec.frames_per_code * codec.hop / codec.sample_rate != 1.0 / config.ambient.frame_rate:
            raise ConfigError(
                f"The sketch's room has {config.ambient.frame_rate} frames a second and its codec {codec.frame_rate}; "
                "expected the same."
            )
        n_bins, width, dim = codec.n_fft // 2 + 1, config.note_dim, config.dim
        room = ModelConfig(controls=config.controls, ambient=config.ambient)
        self.embedder = Embedder(room, config.room_dim)
        self.notes = NoteEmbedder(width)
        self.n_levels = codec.frames_per_code * (config.n_harmonics + config.n_bands)
        self.levels = nn.Linear(width, self.n_levels)
        nn.init.normal_(self.levels.weight, std=0.02)
        nn.init.constant_(self.levels.bias, LOG_NOISE_START)
        nn.init.constant_(self.levels.bias[: config.n_harmonics * codec.frames_per_code], LOG_POWER_START)
        self.project = nn.Linear(codec.frames_per_code * n_bins, codec.n_components, bias=False)
        if components is not None:
            with torch.no_grad():
                self.project.weight.copy_(components)
        self.enter = nn.Linear(width, dim)
        self.enter_vectors = nn.Linear(codec.n_components, dim)
        ahead = [
            config.ahead // config.n_layers + (i < config.ahead % config.n_layers)
            for i in range(config.n_layers)
        ]
        self.layers = nn.ModuleList(SketchLayer(dim, config.room_dim, config.behind, n) for n in ahead)
        self.leave = nn.Linear(dim, codec.n_components)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.behind, self.ahead = config.n_layers * config.behind, config.ahead + NOTES_AHEAD
        # Of a note that begins later a stream knows nothing.
        self.leads = np.minimum(_leads(config.leads_ms), 1.0 / config.ambient.frame_rate)
        self.register_buffer("bands", mel_hats(config.n_bands, n_bins, codec.sample_rate), persistent=False)
        pitches = 440.0 * 2.0 ** ((torch.arange(128) - 69) / 12)
        places = (
            pitches[:, None] * torch.arange(1, config.n_harmonics + 1) * (codec.n_fft / codec.sample_rate)
        )
        self.register_buffer("places", places, persistent=False)

    def forward(self, notes: SketchNotes, signals: Signals) -> Tensor:
        """Vectors `[B, T, P]` float32 of T frames; where nothing sounds or rings they are exactly zero.

        Args:
            notes: of T frames.
            signals: of the same; of them the room's global values count, and the mask.
        """
        x, vectors, sounding = self.enter_notes(notes)
        room = self.room(signals)
        keep = signals.mask[..., None].to(x.dtype)
        for layer in self._layers():
            x = layer(functional.pad(x * keep, (0, 0, layer.behind, layer.ahead)), room)
        audible = _near(functional.pad(sounding, (self.behind, self.config.ahead)), self.reach)
        return self.leave_with(x, vectors, audible * keep[..., 0])

    def room(self, signals: Signals) -> Tensor:
        """What the layers are told of the room, `[B, 1, room_dim]`."""
        tokens: Tensor = self.embedder(signals.slice(0, 1)).tokens
        return tokens.sum(dim=1, keepdim=True)

    def _layers(self) -> list[SketchLayer]:
        return cast(list[SketchLayer], list(self.layers))

    @property
    def reach(self) -> int:
        """Frames that the layers see of a frame's surroundings, itself included."""
        return self.behind + 1 + self.config.ahead

    def enter_notes(self, notes: SketchNotes) -> tuple[Tensor, Tensor, Tensor]:
        """Input of the layers `[B, T, D]`, the vectors of the notes' own spectra `[B, T, P]`, and `[B, T]`: 1 where
        any note is, else 0."""
        n_rows, n_frames = notes.n_rows, notes.n_frames
        own = self.notes(notes)
        vectors = self.project(self.compressed_spectra(notes, self.levels(own)))
        summed = own.new_zeros(n_rows * n_frames, own.shape[1]).index_add(0, notes.rows, own)
        sounding = vectors.new_zeros(n_rows * n_frames, dtype=torch.float32)
        sounding[notes.rows] = 1.0
        x = self.enter(summed) + self.enter_vectors(vectors)
        x, vectors = (part.view(n_rows, n_frames, -1) for part in (x, vectors))
        return x, vectors, sounding.view(n_rows, n_frames)

    def leave_with(self, x: Tensor, vectors: Tensor, audible: Tensor) -> Tensor:
        """The sketch `[B, T, P]` of the layers' output, the notes' own vectors, and where anything is audible."""
        out: Tensor = (self.leave(x).float() + vectors.float()) * audible[..., None]
        return out

    def compressed_spectra(self, notes: SketchNotes, levels: Tensor) -> Tensor:
        """Compressed magnitudes `[B * T, F]` of the notes' harmonics and noise, their energies summed.

        A harmonic is the window's own spectrum (periodic Hann, in bins `sinc(q) / (1 - q ** 2)`) at its place.

        Args:
            notes: N of them.
            levels: `[N, n_levels]` logarithms of powers, before velocity and loudness automation.
        """
        codec, device_type = self.config.codec, levels.device.type
        n_slots, n_bins = notes.n_rows * notes.n_frames, codec.n_fft // 2 + 1
        per_code, n_harmonics = codec.frames_per_code, self.config.n_harmonics
        with torch.autocast(device_type, enabled=False):
            powers = (levels.float() + notes.features[:, :1]).clamp(max=LOG_POWER_MOST).exp()
            powers = powers.view(len(levels), self.n_levels // per_code, per_code)
            noise = powers.new_zeros(n_slots, self.config.n_bands * per_code)
            noise = noise.index_add(0, notes.rows, powers[:, n_harmonics:].flatten(1))
            spread = noise.view(n_slots, -1, per_code).transpose(1, 2) @ self.bands
            places = self.places[notes.pitches]
            there = ((places < n_bins - 2.5) & (notes.programs != DRUMS)[:, None]).nonzero(as_tuple=True)
            place = places[there]
            nearest = place.floor()
            # Not quite on a bin, where the formula has no value.
            beside = (place - nearest).clamp(1e-3, 1.0 - 1e-3)
            sine = torch.sin(math.pi * beside) / math.pi
            first = notes.rows[there[0]] * n_bins
            tones = powers[there]
            power = tones.new_zeros(n_slots * n_bins, per_code)
            for offset in (-1, 0, 1, 2):
                q = beside - offset
                kernel = sine / (q * (1.0 - q.square()))
                # Below the first bin the spectrum goes on mirrored.
                at = first + (nearest.long() + offset).abs()
                power = power.index_add(0, at, tones * kernel.square()[:, None])
            power = power.view(n_slots, n_bins, per_code).transpose(1, 2) + spread
            half = codec.power / 2
            out: Tensor = (power + POWER_FLOOR).pow(half).flatten(1) - POWER_FLOOR**half
            return out

    def note_powers(self, notes: SketchNotes) -> Tensor:
        """Powers `[B, T]` of the notes' own spectra; 0 where none sounds or rings."""
        silent = POWER_FLOOR ** (self.config.codec.power / 2)
        spectra = self.compressed_spectra(notes, self.levels(self.notes(notes)))
        powers = (spectra + silent).pow(2 / self.config.codec.power) - POWER_FLOOR
        out: Tensor = powers.clamp_min(0.0).sum(dim=1).view(notes.n_rows, notes.n_frames)
        return out

    # ---- files ----

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.leave.bias.device

    def own_state(self) -> dict[str, Tensor]:
        """The state dict."""
        return self.state_dict()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a sketch folder: weights in 16 bits and `config.json`."""
        save_module(self, self.config, folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Sketch:
        """Load a folder written by `save_pretrained`.

        Raises:
            CheckpointError: on a missing, truncated or mismatching file, named.
        """
        return load_module(cls, SketchConfig, folder)

    def load_weights(self, folder: Path) -> None:
        """Load the weights of a sketch folder of the same sizes.

        Raises:
            CheckpointError: on a missing, damaged or mismatching file, naming the field.
        """
        fill(self.state_dict(), read_weights(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)


def _near(sounding: Tensor, reach: int) -> Tensor:
    """`[B, T]`: 1 where any of `reach` frames of `sounding` `[B, T + reach - 1]` is, else 0."""
    return functional.max_pool1d(sounding[:, None], reach, stride=1)[:, 0]


# ---- frame by frame ----


class _Painter:
    """Computes the sketch a fixed number of frames at a time, what layers need of earlier frames kept.

    Since all is computed in pieces of one size, vectors are the same bit for bit however the notes come.
    """

    def __init__(self, sketch: Sketch, n_frames: int) -> None:
        self._sketch, self._n = sketch, n_frames
        config, device = sketch.config, sketch.device
        layers = sketch._layers()
        # Of each layer's input what it still needs; what is before the first frame is zero.
        self._inputs = [torch.zeros(1, la.behind + la.ahead, config.dim, device=device) for la in layers]
        self._vectors = torch.zeros(1, config.ahead, config.codec.n_components, device=device)
        self._sounding = torch.zeros(1, sketch.reach - 1, device=device)
        self._rooms = torch.zeros(1, config.ahead, config.room_dim, device=device)
        self.n_entered = 0

    def paint(self, notes: SketchNotes, rooms: Tensor, n_total: int | None) -> Tensor:
        """Vectors `[1, n, P]` that the next frames complete, `config.ahead` before them.

        Args:
            notes: of the next `n_frames`.
            rooms: `[1, n_frames, room_dim]`.
            n_total: frames of the piece, if its end is known; what is entered after it is ignored.
        """
        sketch, n = self._sketch, self._n
        x, vectors, sounding = sketch.enter_notes(notes.to(sketch.device))
        rooms = torch.cat([self._rooms, rooms], dim=1)
        vectors = torch.cat([self._vectors, vectors], dim=1)
        sounding = torch.cat([self._sounding, sounding], dim=1)
        first = self.n_entered  # frame of the next input's first
        for i, layer in enumerate(sketch._layers()):
            frames = torch.arange(first, first + n, device=x.device)
            keep = (frames >= 0) & (frames < (first + n if n_total is None else n_total))
            x = torch.cat([self._inputs[i], x * keep[None, :, None]], dim=1)
            self._inputs[i] = x[:, n:]
            first -= layer.ahead
            last = rooms.shape[1] - (self.n_entered - first)
            x = layer(x, rooms[:, last - n : last])
        out = sketch.leave_with(x, vectors[:, :n], _near(sounding, sketch.reach))
        self._vectors, self._rooms, self._sounding = vectors[:, n:], rooms[:, n:], sounding[:, n:]
        self.n_entered += n
        return out[:, max(0, -first) : n if n_total is None else max(0, min(n, n_total - first))]


class _Notes:
    """Notes that are written frame by frame, as `SketchNotes.of` has them of the score that `read_back` gives."""

    def __init__(self, frame_rate: float, leads: DoubleArray) -> None:
        self._rate, self._leads = frame_rate, leads
        self._symbols = np.zeros(0, np.int64)
        self._notes = np.zeros((0, 5))
        self._gains: list[float] = []
        self._first_gain = 0
        self.n_known = 0

    def write(self, events: Sequence[Event], gain: float) -> None:
        """Add a frame."""
        symbols, rows = [], []
        for symbol, place, pitch, length, velocity in events:
            if symbol < FIRST_PART:
                continue
            start = (self.n_known * N_PLACES + place) / (self._rate * N_PLACES)
            program = part_of(symbol)[1]
            # A part that strikes a pitch again ends it.
            again = (self._symbols == symbol) & (self._notes[:, 1] == pitch)
            self._notes[again, 3] = np.minimum(self._notes[again, 3], start)
            symbols.append(symbol)
            loudness = (velocity * 2 + 1) * 64 // N_VELOCITIES
            rows.append((program, pitch, start, start + float(LENGTHS_SECONDS[length]), loudness))
        if rows:
            self._symbols = np.append(self._symbols, symbols)
            self._notes = np.concatenate([self._notes, np.array(rows, np.float64)])
        self._gains.append(gain)
        self.n_known += 1

    def frames(self, begin: int, n_frames: int) -> SketchNotes:
        """The next frames; those before are forgotten."""
        there = self._notes[:, 3] > begin / self._rate - RING_SECONDS - 1.0
        self._symbols, self._notes = self._symbols[there], self._notes[there]
        gain = self._gain(begin, n_frames)
        columns = _in_frames(_by_start(self._notes), gain, begin, self._rate, self._leads)
        return SketchNotes._joined([columns], 1, n_frames)

    def _gain(self, begin: int, n_frames: int) -> FloatArray:
        """Loudness automation of frames, by way of a score's curve of 10 points a second."""
        n_old = max(0, begin - 8 - self._first_gain)
        self._gains, self._first_gain = self._gains[n_old:], self._first_gain + n_old
        at = np.arange(begin, begin + n_frames) / self._rate
        low = int(at[0] * ENERGY_RATE_HZ)
        high = min(
            int(at[-1] * ENERGY_RATE_HZ) + 2, math.ceil(self.n_known / self._rate * ENERGY_RATE_HZ - 1e-6)
        )
        points = np.arange(low, max(high, low + 1)) / ENERGY_RATE_HZ
        known = np.arange(self._first_gain, self._first_gain + len(self._gains)) / self._rate
        return np.interp(at, points, np.interp(points, known, self._gains)).astype(np.float32)


def sketch_stream(
    sketch: Sketch,
    frames: Iterable[tuple[Sequence[Event], float]],
    signals: Iterable[Signals],
    n_frames: int = STREAM_FRAMES,
    notes_ahead: int = NOTES_AHEAD,
) -> Iterator[Tensor]:
    """The sketch of notes as they are written, as soon as it can be: at most `sketch.ahead + n_frames - 1` frames later.

    It equals bit for bit what `sketch_score` gives of the whole score, whichever way the signals are cut.

    Args:
        sketch: in eval mode.
        frames: events of one codec frame after another and the loudness there in dB, as `Silent2Music.compose_frames`
            gives them.
        signals: of successive stretches, one row; the room's global values of each count for its frames, the last for
            all that follow.
        n_frames: computed at once. With 1 nothing is waited for, as is best for live sound, at several times the cost.
        notes_ahead: frames that are waited for, at least 1; with fewer than `NOTES_AHEAD` loudness, and what comes before
            an attack, are not quite those of the whole score.

    Yields:
        `[1, n, P]`, joined as many frames as were written.
    """
    notes = _Notes(sketch.config.ambient.frame_rate, sketch.leads)

    def known() -> Iterator[SketchNotes | int]:
        done = 0
        for events, gain in frames:
            notes.write(events, gain)
            while notes.n_known >= done + n_frames + notes_ahead:
                yield notes.frames(done, n_frames)
                done += n_frames
        n_total = notes.n_known
        yield n_total
        while done < n_total + sketch.config.ahead:
            yield notes.frames(done, n_frames)
            done += n_frames

    yield from _painted(sketch, known(), signals, n_frames)


def sketch_score(
    sketch: Sketch, score: Score, signals: Iterable[Signals], n_total: int, n_frames: int = STREAM_FRAMES
) -> Iterator[Tensor]:
    """The sketch of a whole score, piece by piece at constant memory; arguments and result as of `sketch_stream`.

    Args:
        sketch, signals, n_frames: as there.
        score: what is played.
        n_total: codec frames to give; after the end of the score it rings out.
    """
    rate = sketch.config.ambient.frame_rate
    notes = _notes_of(score)

    def known() -> Iterator[SketchNotes | int]:
        yield n_total
        for begin in range(0, n_total + sketch.config.ahead, n_frames):
            gain = gain_of_frames(score, begin, begin + n_frames, rate)
            columns = _in_frames(notes, gain, begin, rate, sketch.leads)
            yield SketchNotes._joined([columns], 1, n_frames)

    yield from _painted(sketch, known(), signals, n_frames)


@torch.inference_mode()
def _painted(
    sketch: Sketch, known: Iterator[SketchNotes | int], signals: Iterable[Signals], n_frames: int
) -> Iterator[Tensor]:
    """Vectors of successive notes of `n_frames` each, among which the number of all frames is told once."""
    painter, rooms = _Painter(sketch, n_frames), _rooms(sketch, signals)
    n_total: int | None = None
    for piece in known:
        if isinstance(piece, int):
            n_total = piece
            continue
        room = torch.cat([next(rooms) for _ in range(n_frames)], dim=1)
        found = painter.paint(piece, room, n_total)
        if found.shape[1]:
            yield found


def _rooms(sketch: Sketch, signals: Iterable[Signals]) -> Iterator[Tensor]:
    """What the layers are told of the room `[1, 1, room_dim]`, frame by frame without end."""
    room: Tensor | None = None
    for piece in signals:
        room = sketch.room(piece.to(sketch.device))
        yield from chain.from_iterable([room] for _ in range(piece.n_frames))
    while room is not None:
        yield room
