"""The sketch: notes to the codec's vectors, whole and as they are written."""

from __future__ import annotations

import dataclasses
import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from silent2music.codec import load_codec
from silent2music.config import MOST_LEAD_MS, AmbientConfig, SketchConfig
from silent2music.errors import CheckpointError, ConfigError
from silent2music.notation import FIRST_PART, symbol_of
from silent2music.score import Part, Score
from silent2music.signals import from_arrays
from silent2music.sketch import (
    LIVE_NOTES_AHEAD,
    NOTES_AHEAD,
    Sketch,
    SketchNotes,
    sketch_score,
    sketch_stream,
)
from silent2music.writing import Manuscript

RATE = 25.0
AMBIENT = AmbientConfig(dim=16, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=1)


@pytest.fixture(scope="module")
def codec(codec_folder):
    return load_codec(codec_folder)


@pytest.fixture(scope="module")
def sketch(codec):
    """A small sketch of random weights, none of which is without effect."""
    torch.manual_seed(0)
    config = SketchConfig(
        ambient=AMBIENT,
        codec=codec.config,
        note_dim=32,
        n_harmonics=8,
        n_bands=8,
        dim=32,
        n_layers=2,
        room_dim=8,
    )
    made = Sketch(config, codec.components).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return made


def piece(seconds: float = 6.0, seed: int = 0, pitches=(48, 84), gain=True) -> list:
    """Events of frames as a composer writes them: chords on a harp, drums, and a note struck again before its end."""
    rng = np.random.default_rng(seed)
    frames = []
    for frame in range(round(seconds * RATE)):
        events = []
        if frame % 9 == 3:
            symbol = symbol_of("harmony", 46, False)
            for pitch in sorted(rng.choice(np.arange(*pitches), 2, replace=False).tolist()):
                events.append((symbol, int(rng.integers(4)), pitch, 18, int(rng.integers(16))))
        if frame % 7 == 0:
            events.append((symbol_of("melody", 73, False), 1, 72, 15, 9))
        if frame % 25 == 10:
            events.append((symbol_of("percussion", 0, True), 2, 38, 3, 12))
        frames.append((tuple(events), -6.0 * (0.5 + 0.5 * np.sin(frame / 20)) if gain else 0.0))
    return frames


def room_of(n_frames: int, value: float = 0.0):
    from silent2music.ambient import n_scalars

    return from_arrays({"room_scalars": np.full(n_scalars(AMBIENT), value, np.float32)}, n_frames)


def one_note(
    pitch: int, program: int = 0, is_drum: bool = False, start: float = 1.0, end: float = 2.0
) -> Score:
    notes = (np.array([start]), np.array([end]), np.array([pitch]), np.array([100]))
    return Score(8.0, (Part("x", program, is_drum, "", *notes),))


def test_a_stream_of_notes_equals_the_whole_score_bit_for_bit(sketch) -> None:
    frames = piece()
    score = Manuscript.of(frames).score(len(frames) / RATE, RATE, None)
    rooms = [room_of(40, 0.3), room_of(len(frames) - 40, -0.2)]
    told_early = Sketch(dataclasses.replace(sketch.config, leads_ms={"flute": MOST_LEAD_MS, "harp": 27.0}))
    told_early.load_state_dict(sketch.state_dict())
    for each, n in itertools.product((told_early.eval(), sketch), (1, 4)):
        streamed = torch.cat(list(sketch_stream(each, iter(frames), iter(rooms), n)), dim=1)
        whole = torch.cat(list(sketch_score(each, score, rooms, len(frames), n)), dim=1)
        assert streamed.shape == (1, len(frames), sketch.config.codec.n_components)
        assert torch.equal(streamed, whole)
    with torch.inference_mode():
        notes = SketchNotes.of([score], [0], 40, RATE, sketch.leads)
        batch = sketch(notes, room_of(40, 0.3))
    assert torch.allclose(batch[:, : 40 - sketch.ahead], whole[:, : 40 - sketch.ahead], atol=1e-4)


@pytest.mark.parametrize("rate", [50.0, 75.0])
def test_a_stream_of_shorter_frames_knows_its_notes_too(sketch, rate: float) -> None:
    own = sketch.config
    config = dataclasses.replace(
        own,
        ambient=dataclasses.replace(AMBIENT, frame_rate=rate),
        codec=dataclasses.replace(
            own.codec, hop=round(own.codec.sample_rate / rate / own.codec.frames_per_code)
        ),
        leads_ms={"flute": MOST_LEAD_MS},
    )
    other = Sketch(config).eval()
    other.load_state_dict(sketch.state_dict())
    frames = piece(gain=False)  # whose points are farther apart than what is known ahead
    score = Manuscript.of(frames).score(len(frames) / rate, rate, None)
    streamed = torch.cat(list(sketch_stream(other, iter(frames), [room_of(len(frames))])), dim=1)
    assert torch.equal(
        streamed, torch.cat(list(sketch_score(other, score, [room_of(len(frames))], len(frames))), dim=1)
    )


def test_live_sound_knows_each_note_where_it_begins(sketch, monkeypatch: pytest.MonkeyPatch) -> None:
    told_early = Sketch(dataclasses.replace(sketch.config, leads_ms={"flute": MOST_LEAD_MS, "harp": 27.0}))
    told_early.load_state_dict(sketch.state_dict())
    frames, begun = piece(), dict[int, list[int]]()
    enter = Sketch.enter_notes

    def entered(self, notes):
        begun.setdefault(ahead, []).append(int(notes.features[:, 1].sum()))
        return enter(self, notes)

    monkeypatch.setattr(Sketch, "enter_notes", entered)
    for ahead in (NOTES_AHEAD, LIVE_NOTES_AHEAD):
        list(sketch_stream(told_early.eval(), iter(frames), [room_of(len(frames))], 1, ahead))
    assert begun[LIVE_NOTES_AHEAD] == begun[NOTES_AHEAD] and sum(begun[NOTES_AHEAD]) == sum(
        symbol >= FIRST_PART for events, _ in frames for symbol, *_ in events
    )


def test_held_notes_swell_where_they_are_played_and_struck_ones_do_not(sketch) -> None:
    def level_db(pitch: int, program: int, leads, end: float = 8.0) -> np.ndarray:
        score = one_note(pitch, program, start=0.0, end=end)
        notes = SketchNotes.of([score], [0], 175, RATE, leads)
        return 10.0 / np.log(10.0) * notes.features[:, 0].numpy()

    written = level_db(60, 48, None)
    assert np.ptp(written) == np.ptp(level_db(60, 0, sketch.leads)) == 0.0
    moved = {pitch: level_db(pitch, 48, sketch.leads) - written for pitch in range(60, 73)}
    for pitch, gain_db in moved.items():
        assert np.abs(gain_db[:12]).max() < 0.1, "attacks are as they were"
        assert -7.1 < gain_db.min() < -6.9 and np.abs(np.diff(gain_db)).max() < 0.5, "by and by"
        np.testing.assert_allclose(gain_db[38:-63], gain_db[101:], atol=0.2, err_msg="again in 2.5 s")
        for begin in range(100):  # so that no partial stands still for 3 s
            assert np.ptp(gain_db[begin : begin + 75]) > 3.0, pitch
    assert np.abs(moved[60][[62, 124]]).max() < 0.1, "a C is back after each swell"
    np.testing.assert_allclose(moved[60], moved[72], atol=1e-3, err_msg="octaves share partials")
    assert np.abs(moved[60] - moved[67])[38:].max() < 0.55 * 7.0, "fifths share some"
    for chord in ((60, 64, 67), (60, 63, 67), (62, 65, 69), (60, 64, 67, 71)):
        power = sum(10.0 ** (moved[pitch][38:] / 10.0) for pitch in chord)
        assert np.ptp(10.0 * np.log10(power)) < 3.5, "a chord of thirds is nearly as loud all the time"
    ended = level_db(60, 48, sketch.leads, end=4.0)
    assert len(ended) > 105 and np.ptp(ended[100:]) < 1e-3, "what rings on does not swell"


def test_instruments_are_told_earlier_or_later_by_their_names(sketch) -> None:
    leads = {"marimba": -12.0, "harp": 8.0, "flute": 36.0}
    other = Sketch(dataclasses.replace(sketch.config, leads_ms=leads)).eval()
    other.load_state_dict(sketch.state_dict())
    found = {}
    for program in (0, 12, 46, 73):
        notes = SketchNotes.of([one_note(60, program, start=1.02)], [20], 10, RATE, other.leads)
        (at,) = np.flatnonzero(notes.features[:, 1].numpy())
        # The frame in which it begins, and its place within that frame.
        found[program] = (20 + float(notes.rows[at]) + float(notes.features[at, 2])) / RATE
        assert 0.0 <= float(notes.features[at, 2]) < 1.0, (
            "a note begins within the frame that it is told to begin in"
        )
        assert int(notes.rows[at]) == at + int(notes.rows[0]) and at == 1, "it is known a frame before"
        middles = (20.5 + notes.rows.numpy()) / RATE
        ages = np.maximum(middles - found[program], 0.0)
        np.testing.assert_allclose(notes.features[:, 6], np.exp(-ages / 0.1), rtol=1e-4)
    assert found == pytest.approx({0: 1.014, 12: 1.032, 46: 1.012, 73: 0.984}, abs=1e-6)
    at_once = SketchNotes.of([one_note(60, 73, start=0.0)], [0], 10, RATE, other.leads)
    assert at_once.features[0, 1] == 1.0 and at_once.features[0, 2] == 0.0, "nothing begins before the music"
    latest = Sketch(dataclasses.replace(sketch.config, leads_ms={"marimba": -40.0})).leads
    short = SketchNotes.of([one_note(60, 12, start=1.0, end=1.01)], [20], 10, RATE, latest)
    assert short.features[0, 3] == 1.0 and short.features[0, 10] == 0.0, "it does not end before it begins"
    drawn = [
        torch.cat(list(sketch_score(s, one_note(60, 12), [room_of(80)], 80)), dim=1) for s in (sketch, other)
    ]
    assert not torch.equal(*drawn)
    for wrong, what in (({"theremin": 3.0}, "theremin"), ({"harp": 50.0}, "-40 to 40")):
        with pytest.raises(ConfigError, match=what):
            Sketch(dataclasses.replace(sketch.config, leads_ms=wrong))


def test_nothing_sounds_where_nothing_is_played(sketch) -> None:
    score = one_note(60, start=3.0, end=3.4)
    drawn = torch.cat(list(sketch_score(sketch, score, [room_of(200)], 200)), dim=1)[0]
    sounding = drawn.abs().sum(dim=1) > 0
    first, last = 75 - sketch.ahead, 85 + 30 + sketch.behind
    assert sounding[76:90].all()
    assert not sounding[:first].any() and not sounding[last + 1 :].any()
    empty = Score(8.0, ())
    assert not torch.cat(list(sketch_score(sketch, empty, [room_of(200)], 200)), dim=1).any()
    frames = [((), 0.0)] * 50
    assert not torch.cat(list(sketch_stream(sketch, frames, [room_of(50)])), dim=1).any()


def test_energy_appears_at_the_harmonics_of_a_note(codec) -> None:
    torch.manual_seed(0)
    config = SketchConfig(
        ambient=AMBIENT, codec=codec.config, note_dim=16, n_harmonics=4, n_bands=4, dim=16, n_layers=1
    )
    made = Sketch(config, codec.components).eval()
    levels = torch.full((1, made.n_levels), -30.0)
    levels[:, : 4 * codec.config.frames_per_code] = -4.0
    bin_hz = codec.config.sample_rate / codec.config.n_fft
    for pitch in (57, 64, 88):
        notes = SketchNotes.of([one_note(pitch)], [30], 1, RATE)
        spectrum = made.compressed_spectra(notes, levels)[0].view(codec.config.frames_per_code, -1)[0]
        at = [round(440.0 * 2 ** ((pitch - 69) / 12) * h / bin_hz) for h in (1, 2, 3, 4)]
        between = [(a + b) // 2 for a, b in itertools.pairwise(at)]
        assert spectrum[at].min() > 5 * spectrum[between].max()
    # A drum has no harmonics, and a softer note less of them.
    drum = SketchNotes.of([one_note(60, is_drum=True)], [30], 1, RATE)
    assert made.compressed_spectra(drum, levels).max() < 0.05
    loud, soft = (
        Score(8.0, (dataclasses.replace(one_note(60).parts[0], velocities=np.array([v])),)) for v in (120, 40)
    )
    found = [
        float(made.compressed_spectra(SketchNotes.of([s], [30], 1, RATE), levels).max()) for s in (loud, soft)
    ]
    # Amplitudes are as squares of velocities (9.5 dB a factor of 3 twice), here to the power of the codec.
    assert found[0] / found[1] == pytest.approx(9.0**codec.config.power, rel=0.02)


def test_the_future_beyond_the_lookahead_changes_nothing(sketch) -> None:
    frames, other = piece(), piece(seed=1)
    cut = 80
    mixed = [*frames[:cut], *other[cut:]]
    signals = [room_of(len(frames))]
    own, theirs = (torch.cat(list(sketch_stream(sketch, f, signals)), dim=1) for f in (frames, mixed))
    assert torch.equal(own[:, : cut - sketch.ahead], theirs[:, : cut - sketch.ahead])
    assert not torch.equal(own[:, cut:], theirs[:, cut:])
    # The first vectors are there as soon as so many frames are known.
    given = 0

    def told():
        nonlocal given
        for frame in frames:
            given += 1
            yield frame

    next(sketch_stream(sketch, told(), signals, 1))
    assert given == sketch.ahead + 1
    assert sketch.ahead <= 7 and sketch.behind <= 25


def test_pedal_and_volume_of_a_file_are_heard() -> None:
    part = one_note(60, start=1.0, end=1.6).parts[0]
    pedal = dataclasses.replace(
        part,
        control_seconds=np.array([0.5, 0.6, 3.0]),
        control_numbers=np.array([64, 7, 64]),
        control_values=np.array([127, 50, 0]),
    )
    plain, held = (SketchNotes.of([Score(8.0, (p,))], [0], 200, RATE) for p in (part, pedal))
    assert int(held.rows.max()) - int(plain.rows.max()) == round(1.4 * RATE)
    # Half the volume is 12 dB less.
    difference = float((plain.features[0] - held.features[0])[0])
    assert difference == pytest.approx(np.log(10.0) * 1.2, abs=0.02)


def test_files_are_kept_whole_and_bad_ones_named(sketch, tmp_path) -> None:
    sketch.save_pretrained(tmp_path / "sketch")
    again = Sketch.from_pretrained(tmp_path / "sketch")
    assert again.config == sketch.config
    notes, signals = SketchNotes.of([one_note(60)], [0], 60, RATE), room_of(60)
    with torch.inference_mode():
        assert torch.allclose(again(notes, signals), sketch(notes, signals), atol=1e-2)
    weights = tmp_path / "sketch" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        Sketch.from_pretrained(tmp_path / "sketch")
    (tmp_path / "sketch" / "config.json").write_text('{"dim": 0}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"sketch\.dim is 0"):
        Sketch.from_pretrained(tmp_path / "sketch")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Sketch.from_pretrained(tmp_path / "nothing")


def test_tones_are_heard_to_begin_10_db_below_their_maximum() -> None:
    script = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "sketch" / "attacks.py"))
    score, rate = script["tune"](0, (40, 80), (0.3, 0.5, 0.7), (84,), 8), script["RATE"]
    (part,) = score.parts
    t = np.arange(round(score.seconds * rate)) / rate
    for attack, expected in ((0.0, 0.0), (0.05, 15.8), (0.1, 31.6)):  # amplitude rises linearly
        sound = np.zeros(len(t))
        for start, pitch in zip(part.start_seconds, part.pitches, strict=True):
            age = t - start
            height = np.minimum(age.clip(0) / max(attack, 1e-6), 1.0) * np.exp(
                -age.clip(0) / 0.2 * (attack == 0.0)
            )
            height *= age < script["LASTING_SECONDS"]
            sound += height * np.sin(2 * np.pi * 440.0 * 2.0 ** ((pitch - 69) / 12) * age)
        found = script["attacks"](sound, score)
        assert found == pytest.approx(expected, abs=4.0)
        late = script["attacks"](np.pad(sound, (round(0.03 * rate), 0)), score)
        assert late - found == pytest.approx(30.0, abs=1.0)
    assert np.isnan(script["attacks"](np.full(len(t), 0.1), score)).all()
