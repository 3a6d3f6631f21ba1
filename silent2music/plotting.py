"""Pictures, by matplotlib without pyplot, so that no display is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from silent2music.acoustics import AcousticProfile
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.errors import AudioError, DataError, require
from silent2music.export.provenance import picture_metadata
from silent2music.files import atomic_path
from silent2music.score import ENERGY_RATE_HZ, Score

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
MAX_COLUMNS = 2000
"""Spectra in a picture at most: more cannot be seen, and hours must not fill the memory."""
N_FFT = 1024


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure`, in inches.

    Raises:
        S2MError: if matplotlib is not installed, which the extra `[plot]` brings.
    """
    return require("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path | str) -> None:
    """Write a figure as PNG, PDF or SVG by the path's suffix; an existing file is replaced, whole or not at all.

    Raises:
        AudioError: on another suffix or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise AudioError(
            f"{path} has the suffix '{path.suffix}'; expected a picture, {', '.join(PICTURE_SUFFIXES)}."
        )
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, dpi=110, metadata=picture_metadata(path))


def plot_profile(room: Waveform, profile: AcousticProfile, path: Path | str) -> None:
    """Draw a recording's spectrogram, events, pulse, energy and boundaries on one picture, and `save` it.

    Args:
        profile: `acoustics.analyze` of it.
        path: a PNG, PDF or SVG file.
    """
    figure = new_figure(12, 6.5)
    spectrogram, marks, energy = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1.1, 1.3]}
    )
    draw_spectrogram(figure, spectrogram, room)
    _draw_marks(marks, profile)
    _draw_energy(energy, profile)
    for axes in (spectrogram, marks, energy):
        for boundary in profile.boundaries:
            axes.axvline(boundary.seconds, color="tab:red", linestyle="--", linewidth=1.5)
        axes.set_xlim(0, profile.seconds)
    figure.suptitle(_title(profile), fontsize=10)
    save(figure, path)


def plot_pair(silent: Waveform, music: Waveform, labels: Mapping[str, Any], path: Path | str) -> None:
    """Draw the spectrograms of a room and of its music with events, notes and boundaries, and both levels.

    Args:
        silent: the near-silent side; music: the other; both over the same seconds.
        labels: of the pair; events and boundaries are measured where the labels do not have them.
        path: a PNG, PDF or SVG file.
    """
    from silent2music.acoustics import analyze
    from silent2music.evaluation.features import music_features

    figure = new_figure(12, 7)
    profile, features = analyze(silent), music_features(music)
    events = labels.get("event_seconds", [event.seconds for event in profile.events])
    boundaries = labels.get("boundaries", [boundary.seconds for boundary in profile.boundaries])
    room, played, level = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    for axes, side, title in ((room, silent, "room"), (played, music, "music")):
        draw_spectrogram(figure, axes, side)
        axes.set_title(title)
    for axes, times, name, colour, top in (
        (room, events, "events", "cyan", 1.0),
        (played, features.onset_seconds, "onsets", "cyan", 1.0),
        (played, labels.get("beats", []), "beats", "lime", 0.9),
    ):
        # Heights in shares of the axes.
        axes.vlines(times, top - 0.08, top, colour, label=name, transform=axes.get_xaxis_transform())
    for curve, rate_hz, name in (
        (profile.energy_dbfs, profile.curve_rate_hz, "room"),
        (features.energy_db, ENERGY_RATE_HZ, "music"),
    ):
        level.plot((np.arange(len(curve)) + 0.5) / rate_hz, curve, label=name)
    level.set(xlabel="s", ylabel="dBFS", xlim=(0, max(silent.seconds, music.seconds)))
    for axes in (room, played, level):
        for boundary in boundaries:
            axes.axvline(boundary, color="tab:red", linestyle="--")
        axes.legend(loc="lower right")
    caption = labels.get("caption", "")
    figure.suptitle(f"{labels.get('kind', 'pair')}{': ' + caption if caption else ''}")
    save(figure, path)


def plot_score(score: Score, path: Path | str, room: AcousticProfile | None = None) -> None:
    """Draw a score as a piano roll: parts in colours, bars, boundaries and cues, over a room's events if one is given.

    Args:
        path: a PNG, PDF or SVG file.
        room: `acoustics.analyze` of the recording that the music belongs to.
    """
    figure = new_figure(12, 6.5 if room is not None else 5)
    roll, *others = np.atleast_1d(
        figure.subplots(
            2 if room is not None else 1, 1, sharex=True, height_ratios=(3, 1)[: 1 + (room is not None)]
        )
    )
    for number, part in enumerate(score.parts):
        colour, label = f"C{number % 10}", f"{part.name or f'program {part.program}'} {part.role}".strip()
        # Loud notes are opaque; a drum's end says nothing, so that it is a dot.
        shades = np.clip(part.velocities / 127.0, 0.25, 1.0)
        if part.is_drum:
            roll.scatter(part.start_seconds, part.pitches, s=10, color=colour, alpha=shades, label=label)
        else:
            ends = np.maximum(part.end_seconds, part.start_seconds + 0.02)
            lines = roll.hlines(
                part.pitches, part.start_seconds, ends, color=colour, linewidth=2.5, label=label
            )
            lines.set_alpha(shades)
    for times, style in (
        (score.bar_seconds, {"color": "0.85", "linewidth": 0.7, "zorder": 0}),
        (score.boundary_seconds, {"color": "tab:red", "linestyle": "--", "linewidth": 1.5}),
        ([cue.seconds for cue in score.cues], {"color": "tab:purple", "linewidth": 1.5}),
    ):
        for time in times:
            for axes in (roll, *others):
                axes.axvline(time, **style)
    for cue in score.cues:
        roll.text(cue.seconds, 1.0, cue.name, transform=roll.get_xaxis_transform(), rotation=30, fontsize=8)
    roll.set(ylabel="MIDI pitch", xlim=(0, score.seconds))
    if score.parts:
        roll.legend(loc="upper right", fontsize=8)
    for axes in others:
        _draw_room_under(axes, score, cast(AcousticProfile, room))
    (roll, *others)[-1].set_xlabel("s")
    figure.suptitle(", ".join(part for part in (score.key, f"{score.n_notes} notes") if part), fontsize=10)
    save(figure, path)


def _draw_room_under(axes: Any, score: Score, room: AcousticProfile) -> None:
    """Draw a room's energy and events, and the loudness automation that follows them."""
    curve = np.array(room.energy_dbfs)
    axes.plot(
        (np.arange(curve.size) + 0.5) / room.curve_rate_hz, curve, color="black", linewidth=1.0, label="room"
    )
    times = [event.seconds for event in room.events]
    axes.vlines(times, 0.0, 0.2, "tab:cyan", label="events", transform=axes.get_xaxis_transform())
    axes.set_ylabel("dBFS")
    if len(score.gain_db):
        loudness = axes.twinx()
        centres = (np.arange(len(score.gain_db)) + 0.5) / ENERGY_RATE_HZ
        loudness.plot(centres, score.gain_db, color="tab:orange", linewidth=1.0)
        loudness.set_ylabel("music, dB", color="tab:orange")
    axes.legend(loc="lower right", fontsize=8)


def plot_losses(log: Path, path: Path | str) -> None:
    """Draw the losses of a training run: of its batches, and of held-out music under its own room, another and none.

    Args:
        log: the run's `log.jsonl`.
        path: a PNG, PDF or SVG file.

    Raises:
        DataError: if the log cannot be read.
    """
    try:
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{log} cannot be read ({error}); expected the log of a training run.") from error
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    styles: dict[str, tuple[str, dict[str, Any]]] = {
        "loss": ("training", {"color": "0.75", "linewidth": 1.0}),
        "validation_true": ("held out, its own room", {"color": "tab:blue", "marker": "o"}),
        "validation_shuffled": ("held out, another room", {"color": "tab:red", "marker": "s"}),
        "validation_dropped": ("held out, no room", {"color": "tab:orange", "marker": "^"}),
    }
    for name, (label, style) in styles.items():
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    axes.set_xlabel("step")
    axes.set_ylabel("nats a token")
    axes.legend()
    axes.grid(alpha=0.3)
    save(figure, path)


def _title(profile: AcousticProfile) -> str:
    tempo = "no pulse" if profile.tempo_bpm is None else f"{profile.tempo_bpm:.1f} bpm"
    decay = "no decay found" if profile.rt60_seconds is None else f"RT60 {profile.rt60_seconds:.2f} s"
    return (
        f"{profile.level_dbfs:.1f} dBFS, floor {profile.noise_floor_dbfs:.1f} dBFS, "
        f"{len(profile.events)} events, {tempo}, {decay}, {len(profile.boundaries)} boundaries"
    )


def _spectrogram_db(sound: Waveform) -> DoubleArray:
    """Power in dB re full scale of at most `MAX_COLUMNS` spectra spread over the recording, `[bins, columns]`."""
    mono = sound.downmix().samples[0]
    mono = np.pad(mono, (0, max(0, N_FFT - mono.size)))
    n_columns = int(min(MAX_COLUMNS, max(1, (mono.size - N_FFT) // (N_FFT // 4) + 1)))
    starts = np.linspace(0, mono.size - N_FFT, n_columns).astype(np.int64)
    window = np.hanning(N_FFT)
    frames = mono[starts[:, None] + np.arange(N_FFT)].astype(np.float64)
    frames = (frames - mono.mean(dtype=np.float64)) * window
    power = np.abs(np.fft.rfft(frames, axis=1) / (window.sum() / 2)) ** 2
    return np.asarray(10 * np.log10(power + 1e-14).T, dtype=np.float64)


def draw_spectrogram(
    figure: Any, axes: Any, sound: Waveform, range_dbfs: tuple[float, float] | None = None
) -> None:
    """Draw a spectrogram over a frequency scale that is linear to 500 Hz and logarithmic above.

    Args:
        figure: gets a colour bar beside `axes`, which are drawn on.
        range_dbfs: of the colours; from the quiet to the loud parts of the sound if None.
    """
    power_db = _spectrogram_db(sound)
    hz = np.linspace(0, sound.sample_rate / 2, power_db.shape[0])
    edges = np.linspace(0, sound.seconds, power_db.shape[1] + 1)
    hz_edges = np.concatenate([[0.0], (hz[:-1] + hz[1:]) / 2, [hz[-1]]])
    low, high = range_dbfs or np.percentile(power_db, [5, 99.8])
    mesh = axes.pcolormesh(edges, hz_edges, power_db, vmin=low, vmax=max(high, low + 1), cmap="magma")
    mesh.set_rasterized(True)
    axes.set_yscale("symlog", linthresh=500)
    axes.set_ylim(0, min(12_000, sound.sample_rate / 2))
    ticks = [t for t in (0, 250, 500, 1000, 2000, 4000, 8000) if t < sound.sample_rate / 2]
    axes.set_yticks(ticks, [f"{t}" for t in ticks])
    axes.set_ylabel("Hz")
    figure.colorbar(mesh, ax=axes, label="dBFS", pad=0.01)


def _draw_marks(axes: Any, profile: AcousticProfile) -> None:
    """Draw events as stems whose height is strength and whose darkness is confidence, over beats as lines."""
    for beat in profile.pulse_seconds:
        axes.axvline(beat, color="tab:green", linewidth=0.8, alpha=0.35 + 0.6 * profile.pulse_confidence)
    times = [e.seconds for e in profile.events]
    strengths = [e.strength_db for e in profile.events]
    colours = [(0.12, 0.27, 0.6, 0.25 + 0.75 * e.confidence) for e in profile.events]
    axes.vlines(times, 0, strengths, colors=colours, linewidth=1.8)
    axes.scatter(times, strengths, c=colours if colours else None, s=12)
    axes.set_ylim(0, max([20.0, *strengths]) * 1.1)
    axes.set_ylabel("event dB\n(pulse: green)")


def _draw_energy(axes: Any, profile: AcousticProfile) -> None:
    energy = np.array(profile.energy_dbfs)
    axes.plot((np.arange(energy.size) + 0.5) / profile.curve_rate_hz, energy, color="black", linewidth=1.0)
    axes.axhline(profile.noise_floor_dbfs, color="grey", linestyle=":", linewidth=1.0)
    axes.set_ylim(min(profile.noise_floor_dbfs, energy.min()) - 3, energy.max() + 3)
    axes.set_ylabel("dBFS\n(boundaries: red)")
    axes.set_xlabel("s")
