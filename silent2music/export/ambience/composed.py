"""The loops of a room by a model that composes and plays: circular scores, their layers and parts, and extras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.audio import Waveform
from silent2music.config import AmbienceConfig, ComposingConfig, SamplingConfig
from silent2music.controls import Controls
from silent2music.errors import ConfigError
from silent2music.export import provenance
from silent2music.export.ambience.circle import (
    LAYERED_DENSITY,
    as_file,
    compose_circle,
    layered,
    n_onsets,
    places_of,
    single_parts,
    turned,
)
from silent2music.export.ambience.extras import Stage, around_entry, extras_of, write_extra
from silent2music.export.ambience.lap import LAYERS, PLAIN, Grid
from silent2music.export.ambience.loops import Hear, close_set, write_takes
from silent2music.export.ambience.writing import Voices, sums_lufs
from silent2music.export.space import Placement
from silent2music.model import Silent2Music
from silent2music.processes import StepProgress
from silent2music.score import Score, midi_bytes

NOT_OF_LOOPS = ("cues", "ending", "melody", "chord_seconds")
"""Wishes for pieces with a beginning and an end."""


@dataclass(frozen=True)
class Composed:
    """What was composed for a room, and how it sounds.

    Attributes:
        loops: by layer and variation, the voices of each file.
        layers: for each variation its circles by layer, from where the files begin.
        places: where single parts stand, by the names of `circle.single_parts`; of AmbiX alone.
        begin_bar: bar of the room's lap with which the files begin.
    """

    loops: Mapping[tuple[str, int], Voices]
    layers: Sequence[Mapping[str, Score]]
    places: Mapping[str, Placement]
    begin_bar: int

    def circle(self) -> Score:
        """All notes of the first variation."""
        layers = list(self.layers[0].values())
        return dataclasses.replace(layers[0], parts=tuple(part for own in layers for part in own.parts))


def check_wishes(asked: Controls | None) -> None:
    """Refuse wishes that a loop cannot have.

    Raises:
        ConfigError: naming the first.
    """
    for name in NOT_OF_LOOPS:
        if asked is not None and getattr(asked, name):
            raise ConfigError(
                f"{name} cannot be asked of a loop, which has no beginning and no end; leave it out."
            )


def compose_room(
    model: Silent2Music,
    lap: Waveform,
    grid: Grid,
    config: AmbienceConfig,
    seeds: Sequence[int],
    where: Placement,
    hear_at: Callable[[float | None], Hear],
    asked: Controls | None = None,
    progress: StepProgress | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Composed:
    """Compose and play a room's loops.

    All variations have the key and the instruments of the first, so that a game may change between them at bar lines.

    Args:
        seeds: one for each variation.
        hear_at: what will be heard at a loudness in LUFS, by which a loop is judged; see `hearing`. A layer is heard at
            that of the sum up to it, some 2 LU above its own but for the first.
        tell: called with what a user should know.
    """
    names = [name for name in LAYERS if name in config.layers]
    asked = asked or Controls()
    if names and not asked.density_points:
        asked = dataclasses.replace(asked, density=((0.0, LAYERED_DENSITY),))
    key = None if asked.tonality else int(np.random.default_rng(seeds[0]).integers(-6, 6))
    scores: list[dict[str, Score]] = []
    for seed in seeds:
        circle = compose_circle(model, lap, grid, ComposingConfig(seed=seed, transposition=key), asked)
        if not scores and circle.parts and not asked.instruments:
            band = tuple(dict.fromkeys(part.name for part in circle.parts))
            asked = dataclasses.replace(asked, instruments=band)
        scores.append(layered(circle, names, grid) if names else {"loop": circle})
        if names and not all(own.parts for own in scores[-1].values()):
            tell("too few notes were composed for layers; another seed, or a higher density, may have more")
    in_parts = config.spatial == "ambix"
    circles = [circle for layers in scores for circle in layers.values()]
    places = places_of(circles, where) if in_parts else {}
    jobs = [
        (name, variation, place, voice, hear_at(None if in_parts else lufs))
        for variation, layers in enumerate(scores, start=1)
        for (name, circle), lufs in zip(layers.items(), sums_lufs(config.lufs, len(layers)), strict=True)
        for place, voice in ((in_parts and single_parts(circle)) or {"": circle}).items()
    ]
    sampling = SamplingConfig(temperature=config.temperature, guidance=config.guidance)
    voices, hears = [voice for *_, voice, _ in jobs], [hear for *_, hear in jobs]
    own_seeds = [seeds[variation - 1] for _, variation, *_ in jobs]
    takes = write_takes(model, lap, grid, PLAIN, sampling, own_seeds, hears, progress, voices)
    closed = close_set(model, takes, config.candidates)
    loops: dict[tuple[str, int], list[Any]] = {}
    for (name, variation, place, *_), loop in zip(jobs, closed, strict=True):
        loops.setdefault((name, variation), []).append((loop, places.get(place, where)))
    begin = closed[0].begin_frame % grid.n_frames
    begin_bar = round(begin / grid.n_frames * grid.bars) % grid.bars
    begin_seconds = begin_bar * grid.bar_seconds
    layers = [{name: turned(own, begin_seconds) for name, own in one.items()} for one in scores]
    return Composed(loops, layers, places, begin_bar)


def write_scores(stem: str, composed: Composed, grid: Grid) -> list[dict[str, Any]]:
    """Write a MIDI file for each variation, as `STEM_VARIATION.mid`; gives their entries in the manifest."""
    entries = []
    for variation, layers in enumerate(composed.layers, start=1):
        score, path = as_file(layers, grid), Path(f"{stem}_{variation}.mid")
        path.write_bytes(midi_bytes(score))
        entries.append(
            {
                "file": path.name,
                "sha256": provenance.sha256(path),
                "variation": variation,
                "key": score.key or None,
                "onsets": {name: n_onsets(circle) for name, circle in layers.items()},
                "begin_bar": composed.begin_bar,
            }
        )
    return entries


def write_extras(
    stem: str, composed: Composed, lap: Waveform, grid: Grid, stage: Stage, tag: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Perform and write the pieces beside a room's loops; gives their entries in the manifest."""
    circle, layers = composed.circle(), composed.layers[0]
    begun = Waveform(
        np.roll(lap.samples, -round(composed.begin_bar / grid.bars * lap.n_samples), axis=1), lap.sample_rate
    )
    entries = []
    for extra in extras_of(circle, layers, grid, stage.config):
        entries += write_extra(stem, extra, around_entry(begun, extra), stage, tag)
    return entries
