"""Circular scores: closed, turned, divided into layers and parts, and the extras made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from silent2music.audio import Waveform
from silent2music.config import AmbienceConfig, ComposingConfig
from silent2music.controls import Controls
from silent2music.errors import AudioError
from silent2music.export.ambience import circle as circles
from silent2music.export.ambience.circle import (
    as_file,
    compose_circle,
    from_file,
    layered,
    n_onsets,
    places_of,
    repeated_circle,
    single_parts,
    turned,
)
from silent2music.export.ambience.extras import attack_near, extras_of, transition
from silent2music.export.ambience.lap import Grid
from silent2music.export.space import Placement
from silent2music.score import Part, Score, midi_bytes, parse_midi

GRID = Grid(200, 25.0, 384_000, 48_000, 120.0, 4, 4)
WHERE = Placement(0.0, 0.0, 0.2, 0.5)


def part(starts, lengths, pitches, name="piano", role="harmony", is_drum=False) -> Part:
    starts = np.asarray(starts, float)
    ends = starts + np.broadcast_to(lengths, starts.shape)
    pitches = np.broadcast_to(pitches, starts.shape).astype(np.int64)
    return Part(name, 0, is_drum, role, starts, ends, pitches, np.full(len(starts), 80))


def circle_of(*parts: Part) -> Score:
    return Score(2 * GRID.lap_seconds, parts, key="C major")


class Composer:
    """Stands for a model: gives a score whatever is asked, and notes what was."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts

    def compose(self, room: Waveform, seconds: float, composing: ComposingConfig, **options) -> Score:
        self.asked, self.seconds = options["asked"], seconds
        return Score(seconds, self.parts, gain_db=np.linspace(-20.0, 0.0, round(10 * seconds)))


LAP = Waveform(np.zeros((1, 8 * 24_000), np.float32), 24_000)


def composed(*parts: Part, asked: Controls | None = None) -> tuple[Score, Composer]:
    model = Composer(parts)
    return compose_circle(model, LAP, GRID, ComposingConfig(), asked), model


def test_a_circle_begins_where_the_second_lap_is_like_the_first() -> None:
    # Bars of 2 s. From bar 3 on each bar is as a lap before, so that there the end leads on.
    pitches = [60, 61, 62, 63, 70, 71, 66, 63, 70]
    made, model = composed(part(2.0 * np.arange(9), 1.0, pitches))
    assert model.seconds == 18.0
    assert (model.asked.tempo, model.asked.metre) == (120.0, "4/4")
    (own,) = made.parts
    assert own.start_seconds.tolist() == [0.0, 2.0, 4.0, 6.0]
    # Bars 3 to 6 of what was composed, each at its place in the lap.
    assert own.pitches.tolist() == [70, 71, 66, 63]
    assert made.gain_db[0] == pytest.approx(np.interp(8.0, np.arange(180) / 10, np.linspace(-20, 0, 180)))


def test_notes_ring_over_the_end_until_they_are_struck_again() -> None:
    made, _ = composed(part([7.0, 9.0, 15.0, 17.0], [3.0, 3.0, 3.0, 1.0], [50, 50, 50, 50]))
    (own,) = made.parts
    # The note at 7 s lasts until the one at 1 s of the next lap.
    assert own.start_seconds.tolist() == [1.0, 7.0]
    assert own.end_seconds.tolist() == [4.0, 9.0]
    (thrice,) = repeated_circle(made, 3).parts
    assert thrice.start_seconds.tolist() == [1.0, 7.0, 9.0, 15.0, 17.0, 23.0]
    assert thrice.end_seconds.tolist() == [4.0, 9.0, 12.0, 17.0, 20.0, 24.0]
    (begun,) = turned(made, 6.0).parts
    assert begun.start_seconds.tolist() == [1.0, 3.0]
    assert begun.end_seconds.tolist() == [3.0, 6.0]


def test_chords_that_do_not_go_round_are_refused() -> None:
    with pytest.raises(
        AudioError, match="3 chords, a bar each, do not go round in 4 bars; give --loop 3bars"
    ):
        composed(part([0.0], 1.0, 60), asked=Controls(chords=("Am", "F", "C")))


def test_a_circle_survives_its_file() -> None:
    made = circle_of(
        part([0.0, 7.5], 1.0, 60), part(np.arange(0, 8, 0.5), 0.1, 38, "drums", "percussion", True)
    )
    layers = layered(made, ["calm", "medium", "intense"], GRID)
    score = parse_midi(midi_bytes(as_file(layers, GRID)), "file")
    assert score.seconds == pytest.approx(8.0)
    assert score.bar_seconds.tolist() == pytest.approx([0.0, 2.0, 4.0, 6.0])
    again = from_file(score)
    assert {p.name for p in again.parts} == {"piano", "drums"}
    assert n_onsets(again) == n_onsets(made)


@pytest.mark.parametrize("names", [["calm", "intense"], ["calm", "medium", "intense"]])
@pytest.mark.parametrize("seed", range(8))
def test_layers_add_onsets_each(seed: int, names: list[str]) -> None:
    rng = np.random.default_rng(seed)
    made = circle_of(
        *(
            part(np.unique(rng.integers(0, 64, rng.integers(6, 40)) / 8), 0.2, 60, name, role)
            for name, role in (
                ("cello", "bass"),
                ("piano", "harmony"),
                ("flute", "melody"),
                ("drums", "percussion"),
            )
        )
    )
    layers = layered(made, names, GRID)
    assert sum(own.n_notes for own in layers.values()) == made.n_notes
    counts, parts = [], []
    for name in names:
        parts += layers[name].parts
        counts.append(n_onsets(circle_of(*parts)))
    assert counts[0] > 0 and (np.diff(counts) > 0).all()
    assert all(len(layers[name].parts) for name in names)


def test_layers_of_drums_alone_are_divided_too() -> None:
    made = circle_of(part(np.arange(0, 8, 0.25), 0.1, 38, "drums", "percussion", True))
    layers = layered(made, ["calm", "medium", "intense"], GRID)
    counts = [own.n_notes for own in layers.values()]
    assert counts == sorted(counts) and sum(counts) == 32
    assert (layers["calm"].parts[0].start_seconds % 2.0 == 0).any(), "the bar lines come first"


def test_layers_of_nothing_are_nothing() -> None:
    """A room in which nothing happens may be given no note."""
    found = layered(circle_of(), ["calm", "intense"], GRID)
    assert [score.parts for score in found.values()] == [(), ()]


def test_parts_stand_around_the_listener() -> None:
    made = circle_of(part([0.0], 1.0, 36, "cello", "bass"), part([0.0], 1.0, 90, "flute", "melody"))
    places = places_of([made], Placement(170.0, 0.0, 0.2, 0.5))
    assert set(places) == set(single_parts(made)) == {"cello bass", "flute melody"}
    assert places["flute melody"].azimuth_degrees == 170.0
    assert places["cello bass"].azimuth_degrees == -130.0
    assert places["flute melody"].elevation_degrees > 0 > places["cello bass"].elevation_degrees


def test_extras_land_on_their_marks() -> None:
    made = circle_of(
        part(np.arange(0, 8, 0.5), 0.4, 60), part(np.arange(0, 8, 1.0), 0.9, 43, "cello", "bass")
    )
    config = AmbienceConfig(extras=("stingers", "intro", "ending"), stingers=4)
    found = {extra.name: extra for extra in extras_of(made, {"loop": made}, GRID, config)}
    assert list(found) == ["stinger_1", "stinger_2", "stinger_3", "stinger_4", "intro", "ending"]
    for extra in found.values():
        assert 1.0 <= extra.begin < extra.entry < extra.exit <= extra.end <= extra.score.seconds
        starts = np.concatenate([p.start_seconds for p in extra.score.parts])
        assert np.abs(starts - extra.entry).min() < 1e-6
        assert starts.min() >= extra.begin
        if extra.kind == "stinger":
            assert 1.0 <= extra.end - extra.begin <= 4.0
        else:
            n_bars = (extra.exit - extra.entry) / 2.0
            assert n_bars == pytest.approx(round(n_bars))
    chord = {int(p) % 12 for own in found["ending"].score.parts for p in own.pitches[own.start_seconds > 3.0]}
    assert chord == {0, 4, 7}
    other = Grid(150, 25.0, 288_000, 48_000, 80.0, 2, 4)
    slow = Score(12.0, (part([0.0, 3.0], 1.0, 62),), key="D major")
    extra = transition("a_to_b", (made, GRID), (slow, other))
    assert extra.exit - extra.entry == pytest.approx(2.0 + 3.0)


def test_an_attack_is_found_to_a_millisecond() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(48_000) / 48_000
    for late in (-0.031, 0.0, 0.0123):
        after = np.maximum(t - 0.5 - late, 0.0)
        sound = 0.3 * (after > 0) * np.exp(-after / 0.2) * np.sin(2 * np.pi * 500 * after)
        sound = (sound + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)
        assert attack_near(sound, 48_000, 0.5) == pytest.approx(0.5 + late, abs=1.5e-3)
    pytest.importorskip("librosa")
    from silent2music.export.ambience.check import landing

    assert landing(sound, 48_000, 24_000) == pytest.approx(0.0123, abs=6e-3)


def test_the_tempo_of_a_draft_is_brought_into_range(monkeypatch: pytest.MonkeyPatch) -> None:
    for interval, bpm in ((0.25, 120.0), (0.5, 120.0), (1.5, 80.0)):

        class Drafting:
            def compose(self, room, seconds, seed, interval=interval) -> Score:
                return Score(seconds, (), beat_seconds=np.arange(0, seconds, interval))

        assert circles.own_tempo(Drafting(), LAP, 0) == pytest.approx(bpm)


def test_importers_ship_with_the_package() -> None:
    root = Path(circles.__file__).with_name("importers")
    assert {p.name for p in root.iterdir()} >= {"unity", "godot", "unreal", "fmod"}
