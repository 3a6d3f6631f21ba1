"""Baselines (retrieved and rule-based music) and anchors (noise) that a model's figures stand beside."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.config import DataConfig, from_dict
from silent2music.data.pairs import Pair, load_pair
from silent2music.errors import DataError, S2MError
from silent2music.evaluation.features import SAMPLE_RATE
from silent2music.evaluation.notes import onset_times
from silent2music.evaluation.pieces import (
    EvalConfig,
    Inspected,
    Item,
    first_seconds,
    inspect,
    inspect_made,
    read_music,
)
from silent2music.evaluation.stages import Stages
from silent2music.files import read_json
from silent2music.score import Score

log = logging.getLogger(__name__)

HALL_RT60_SECONDS = 1.4
GRAIN_SECONDS = 0.05
NOISE_DBFS = -18.0


def retrieved(
    folder: Path, items: Sequence[Item], training: Sequence[Pair], config: EvalConfig, stages: Stages
) -> list[Inspected | None]:
    """Baseline by retrieval: for each room the music of the training pair whose room is most similar."""
    if not training:
        return [None] * len(items)
    vectors = stages.run("training rooms", partial(_training_room, folder, config.seconds), training)
    distances = [np.linalg.norm(np.stack(vectors) - _room_vector(item.profile), axis=1) for item in items]
    nearest = [int(np.argmin(those)) for those in distances]
    used = sorted(set(nearest))
    jobs = [partial(read_music, folder, training[i], config.seconds) for i in used]
    pieces = dict(zip(used, stages.run("retrieval", inspect_made, jobs), strict=True))
    return [pieces[i] for i in nearest]


def _training_room(folder: Path, seconds: float | None, pair: Pair) -> DoubleArray:
    return _room_vector(analyze(first_seconds(load_pair(folder, pair)[0], seconds)))


def _room_vector(profile: AcousticProfile) -> DoubleArray:
    """A room as a vector of figures on comparable scales, for nearest-neighbour search."""
    energy = np.asarray(profile.energy_dbfs, np.float64)
    return np.array(
        [
            profile.level_dbfs / 10.0,
            np.log2(max(profile.spectral_centroid_hz, 20.0)),
            profile.spectral_tilt_db_per_octave / 3.0,
            profile.rt60_seconds or 0.5,
            np.log2(1.0 + 60.0 * len(profile.events) / profile.seconds),
            3.0 * bool(profile.pulse_seconds),
            np.log2(profile.tempo_bpm / 100.0) * 3.0 if profile.tempo_bpm else 0.0,
            energy.std() / 5.0,
            len(profile.boundaries) / profile.seconds * 30.0,
        ]
    )


def arranged(
    folder: Path, items: Sequence[Item], config: EvalConfig, stages: Stages
) -> list[Inspected | None]:
    """Baseline by rule: the factory's arranger for some rooms, if the scores are given or named by the folder."""
    made: list[Inspected | None] = [None] * len(items)
    data = _built_with(folder)
    if data is None:
        return made
    named = config.scores or data.scores
    soundfont = next(iter(soundfonts_of(folder)), Path(DataConfig().soundfont[0]))
    scores = sorted(file for place in named for file in Path(place).rglob("*.mid"))
    if not scores or not soundfont.is_file():
        message = (
            "The arranger is left out: %s (relative to the current folder) or %s is not here; give --scores."
        )
        log.warning(message, ", ".join(map(str, named)), soundfont)
        return made
    # Partners together, so that there is a null, and spread over the items, so that every kind has a share.
    n_twos = max(1, min(config.n_arranged, len(items)) // 2)
    chosen = [i for k in np.linspace(0, len(items) // 2 - 1, n_twos).astype(int) for i in (2 * k, 2 * k + 1)]
    jobs = [partial(_arrange, items[i].profile, scores, soundfont, (config.seed, 2, i)) for i in chosen]
    for i, piece in zip(chosen, stages.run("arranger", inspect_made, jobs), strict=True):
        made[i] = piece
    return made


def _built_with(folder: Path) -> DataConfig | None:
    """The settings that a pair folder was built with, where it says so."""
    try:
        return from_dict(DataConfig, read_json(folder / "build.json")["data"])
    except (OSError, ValueError, KeyError, TypeError, S2MError):
        return None


def soundfonts_of(folder: Path) -> list[Path]:
    """The soundfonts of a pair folder that are here, by their paths or beside the usual one; else that one, if here."""
    usual = Path(DataConfig().soundfont[0])
    data = _built_with(folder)
    named = [Path(name) for name in data.soundfont] if data else []
    found = [next((p for p in (path, usual.parent / path.name) if p.is_file()), None) for path in named]
    here = [path for path in found if path is not None]
    return here or [path for path in (usual,) if path.is_file()]


def played_scores(
    items: Sequence[Item],
    composed: Sequence[Score],
    soundfonts: Sequence[Path],
    config: EvalConfig,
    stages: Stages,
) -> dict[str, list[Inspected | None]]:
    """Baseline `composer`: composed scores as `s2m perform` plays them by fluidsynth; and the real ones, `played`.

    Each room has one of the soundfonts for both. Onsets and sections are taken from the notes.
    """
    found: dict[str, list[Inspected | None]] = {}
    for name, scores in (("composer", composed), ("played", [item.score for item in items])):
        jobs = [
            (item.profile, score, soundfonts[i % len(soundfonts)], config.seed + i // 2)
            for i, (item, score) in enumerate(zip(items, scores, strict=True))
        ]
        found[name] = stages.run(f"fluidsynth: {name}", _played, jobs)
    return found


def _played(job: tuple[AcousticProfile, Score | None, Path, int]) -> Inspected | None:
    """A score by fluidsynth in a room's reverberation, measured."""
    from silent2music.export.delivery import in_front
    from silent2music.export.performing import in_room
    from silent2music.factory.rendering import play

    room, score, soundfont, seed = job
    if score is None:
        return None
    sound = play(score, soundfont, SAMPLE_RATE, reverb=False, seconds=room.seconds)
    pieces = [piece.samples for piece in in_room(sound, in_front(room), seed)]
    found = inspect(Waveform(np.clip(np.concatenate(pieces, axis=1), -1.0, 1.0), SAMPLE_RATE))
    features = replace(
        found.features, onset_seconds=onset_times(score), boundary_seconds=score.boundary_seconds
    )
    return replace(found, features=features)


def _arrange(
    room: AcousticProfile, scores: Sequence[Path], soundfont: Path, seed: Sequence[int]
) -> Waveform | None:
    """Music by rule: a score arranged to what `acoustics` measured of the room, and rendered.

    The kind is told from the profile: `steps` with a pulse, `hall` where it reverberates, else `room`.

    Args:
        seed: of the draw of the score and of all that the arranger leaves open.

    Returns:
        None if none of a few scores could be arranged.
    """
    from silent2music.factory.arrangement import SceneTruth
    from silent2music.factory.arranging import arrange
    from silent2music.factory.rendering import render
    from silent2music.factory.scores import load_score

    rng = np.random.default_rng(seed)
    strengths = np.array([event.strength_db for event in room.events], np.float64)
    reverberant = (room.rt60_seconds or 0.0) >= HALL_RT60_SECONDS
    truth = SceneTruth(
        kind="steps" if room.pulse_seconds else "hall" if reverberant else "room",
        seconds=room.seconds,
        event_seconds=np.array([event.seconds for event in room.events], np.float64),
        event_strengths=np.clip(strengths / 30.0, 0.1, 1.0),
        beat_seconds=np.asarray(room.pulse_seconds, np.float64),
        boundary_seconds=np.array([boundary.seconds for boundary in room.boundaries], np.float64),
        energy_db=np.asarray(room.energy_dbfs, np.float64),
        rt60_seconds=room.rt60_seconds,
        level_dbfs=room.level_dbfs,
    )
    for _ in range(8):
        try:
            arrangement = arrange(load_score(scores[int(rng.integers(len(scores)))]), truth, rng)
        except DataError:
            # Too short or without notes after the voice is dropped: another one serves.
            continue
        return render(arrangement, soundfont)
    return None


def anchors_of(
    music: Sequence[Waveform], config: EvalConfig, stages: Stages
) -> dict[str, list[Inspected | None]]:
    """Anchors that must score badly, noise and shuffled grains of the real music."""
    return {
        name: stages.run(
            name,
            inspect_made,
            [partial(make, real, (config.seed, 3, i)) for i, real in enumerate(music)],
        )
        for name, make in {"noise": _white_noise, "grains": _shuffled_grains}.items()
    }


def _white_noise(music: Waveform, seed: Sequence[int]) -> Waveform:
    """White noise at `NOISE_DBFS`, as long as the music, which every quality metric must score badly."""
    noise = np.random.default_rng(seed).standard_normal((1, music.n_samples))
    samples = noise * 10.0 ** (NOISE_DBFS / 20.0)
    return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), music.sample_rate)


def _shuffled_grains(music: Waveform, seed: Sequence[int]) -> Waveform:
    """The music cut into grains of 50 ms, in random order: its timbres without their order in time."""
    size = round(GRAIN_SECONDS * music.sample_rate)
    samples = music.mono().samples
    n_grains = max(1, samples.shape[1] // size)
    grains = samples[:, : n_grains * size].reshape(1, n_grains, -1)
    order = np.random.default_rng(seed).permutation(n_grains)
    return Waveform(np.ascontiguousarray(grains[:, order].reshape(1, -1)), music.sample_rate)
