"""`s2m perform`: a score played with a soundfont, in a room."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.audio import Waveform, rms_dbfs
from silent2music.config import DataConfig, DeliveryConfig, SamplingConfig
from silent2music.errors import AudioError, DataError
from silent2music.export.performing import in_room, perform
from silent2music.export.space import Placement
from silent2music.factory.rendering import PIECE_SECONDS, RING_SECONDS, play
from silent2music.score import PITCH_BEND, Part, Score, write_midi

SOUNDFONT = Path(os.environ.get("S2M_SOUNDFONT", DataConfig().soundfont[0]))

needs_synthesiser = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUNDFONT.is_file(),
    reason="needs the command fluidsynth and a General MIDI soundfont (Debian: fluidsynth fluid-soundfont-gm)",
)


def part(starts, length=0.4, pitch=69, program=0, controls=(), is_drum=False, name="p") -> Part:
    starts = np.asarray(starts, np.float64)
    n = len(starts)
    seconds, numbers, values = np.array(controls, np.float64).reshape(-1, 3).T
    return Part(
        name,
        program,
        is_drum,
        "",
        starts,
        starts + length,
        np.full(n, pitch),
        np.full(n, 90),
        seconds.copy(),
        numbers.astype(np.int64),
        values.astype(np.int64),
    )


def played(score: Score, **options) -> np.ndarray:
    """`[2, N]` at `RATE`, without reverberation."""
    pieces = play(score, SOUNDFONT, RATE, reverb=False, **options)
    return np.concatenate([piece.samples for piece in pieces], axis=1)


def loudest_hz(samples: np.ndarray, begin: float, end: float) -> float:
    piece = samples.mean(axis=0)[int(begin * RATE) : int(end * RATE)]
    return float(np.argmax(np.abs(np.fft.rfft(piece * np.hanning(piece.size)))) * RATE / piece.size)


@pytest.fixture
def tune(tmp_path: Path) -> Path:
    notes = part(np.arange(0.0, 2.0, 0.5))
    write_midi(tmp_path / "tune.mid", Score(2.0, (notes, part([0.25], pitch=38, is_drum=True, name="kit"))))
    return tmp_path / "tune.mid"


@pytest.fixture
def room(tmp_path: Path) -> Path:
    audio.write(tmp_path / "room.wav", Waveform(steps_room(), RATE))
    return tmp_path / "room.wav"


@needs_synthesiser
def test_music_and_record_say_what_was_played(tune: Path, room: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.flac"
    record = perform(
        tune, out, SOUNDFONT, room, DeliveryConfig(lufs=-20.0), seconds=3.0, sampling=SamplingConfig(seed=5)
    )
    music = audio.read(out)
    assert (music.n_channels, music.sample_rate, music.n_samples) == (2, 48_000, 144_000)
    assert audio.integrated_lufs(music) == pytest.approx(-20.0, abs=0.1)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    assert record["score"]["notes"] == 5 and record["score"]["parts"] == ["p", "kit"]
    assert record["performer"]["soundfont"] == SOUNDFONT.name
    assert record["input"]["file"] == "room.wav" and record["room"]["seconds"] == 2.0
    assert str(tmp_path) not in (tmp_path / "out.json").read_text(encoding="utf-8")
    # The same command gives the same bytes; another seed another room.
    again, other = (tmp_path / name for name in ("again.flac", "other.flac"))
    perform(
        tune, again, SOUNDFONT, room, DeliveryConfig(lufs=-20.0), seconds=3.0, sampling=SamplingConfig(seed=5)
    )
    perform(
        tune, other, SOUNDFONT, room, DeliveryConfig(lufs=-20.0), seconds=3.0, sampling=SamplingConfig(seed=6)
    )
    np.testing.assert_array_equal(audio.read(again).samples, music.samples)
    assert not np.array_equal(audio.read(other).samples, music.samples)


@needs_synthesiser
def test_without_room_or_length_it_ends_when_the_last_note_has_died_away(tune: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    record = perform(tune, out, SOUNDFONT, delivery=DeliveryConfig(mono=True, sample_rate=22_050))
    music = audio.read(out)
    assert (music.n_channels, music.sample_rate) == (1, 22_050)
    assert 2.0 <= music.seconds < 2.0 + RING_SECONDS
    tail = music.samples[:, -22_050 // 10 :]
    assert rms_dbfs(tail) < rms_dbfs(music.samples) - 40.0
    assert record["input"] is None and record["room"] is None


@needs_synthesiser
def test_an_organ_that_is_held_to_the_end_rings_out_and_silence_before_the_end_stays() -> None:
    held = played(Score(1.0, (part([0.0], length=1.0, program=48),)))
    assert held.shape[1] > 1.0 * RATE
    early = played(Score(6.0, (part([0.0], length=0.1, pitch=76, program=115),)))
    assert early.shape[1] == 6 * RATE


@needs_synthesiser
def test_pieces_are_one_piece_of_music() -> None:
    """What comes in pieces is what a pass without cuts gives, through the borders between them too."""
    seconds = PIECE_SECONDS + 2.0
    notes = part(np.arange(0.1, seconds - 0.4, 0.37), program=19, length=0.36)
    score = Score(seconds, (notes,), gain_db=np.linspace(-20.0, 0.0, round(10 * seconds)))
    sizes = [piece.n_samples for piece in play(score, SOUNDFONT, RATE, reverb=False, seconds=seconds)]
    assert sizes == [round(PIECE_SECONDS * RATE), 2 * RATE]
    music = played(score, seconds=seconds)
    steps = np.abs(np.diff(music, axis=1)).max(axis=0)
    border = round(PIECE_SECONDS * RATE)
    assert steps[border - 2 : border + 2].max() < 1.2 * steps[border - 2000 : border + 2000].max()
    first, last = (rms_dbfs(music[:, i * RATE : (i + 2) * RATE]) for i in (0, int(seconds) - 2))
    assert last - first == pytest.approx(17.0, abs=3.0)  # the automation


@needs_synthesiser
def test_notes_that_decay_are_brought_nearer_to_the_loudness_that_is_asked_for() -> None:
    plucked = part(np.arange(0.0, 8.0, 1.0), length=0.9, program=24)

    def levels(score: Score) -> np.ndarray:
        """In dB, of tenths of a second."""
        power = np.square(played(score, seconds=8.0)).mean(axis=0).reshape(-1, RATE // 10).mean(axis=1)
        return 10.0 * np.log10(power + 1e-12)

    own = levels(Score(8.0, (plucked,)))
    asked = levels(Score(8.0, (plucked,), gain_db=np.zeros(80)))
    loud, falling = own > np.median(own) + 3.0, (own < np.median(own) - 3.0) & (own > own.max() - 25.0)
    assert loud.sum() > 8 and falling.sum() > 8
    apart, left = (levels[loud].mean() - levels[falling].mean() for levels in (own, asked))
    assert 0.4 * apart < left < 0.7 * apart


@needs_synthesiser
def test_every_instrument_of_many_and_two_kits_are_heard() -> None:
    """More than a synthesiser has channels: the music is the sum of what each pass plays of it."""
    instruments = [
        part([0.0], length=1.5, pitch=p, program=40 + p % 12, name=f"{p}") for p in range(40, 80, 2)
    ]
    kits = [part([1.6], is_drum=True, pitch=38, program=p, name=f"kit {p}") for p in (0, 25)]
    music = played(Score(2.0, (*instruments, *kits)), seconds=2.0)
    first = played(Score(2.0, (*instruments[:15], kits[0])), seconds=2.0)
    rest = played(Score(2.0, (*instruments[15:], kits[1])), seconds=2.0)
    np.testing.assert_allclose(music, first + rest, atol=1e-6)
    for sound in (first, rest):
        assert rms_dbfs(sound[:, :RATE]) > -50.0
        assert rms_dbfs(sound[:, int(1.6 * RATE) :]) > -50.0


@needs_synthesiser
def test_controllers_of_a_file_are_played() -> None:
    plain = played(Score(3.0, (part([0.0], length=0.3),)), seconds=3.0)
    pedal = played(Score(3.0, (part([0.0], length=0.3, controls=[(0.0, 64, 127)]),)), seconds=3.0)
    late = slice(RATE, 2 * RATE)
    assert rms_dbfs(pedal[:, late]) > rms_dbfs(plain[:, late]) + 20.0
    flat, bent = (
        played(Score(3.0, (part([0.0], length=2.5, program=73, controls=[(0.0, PITCH_BEND, bend)]),)))
        for bend in (0, 8191)
    )
    ratio = loudest_hz(bent, 0.5, 2.0) / loudest_hz(flat, 0.5, 2.0)
    assert ratio == pytest.approx(2.0 ** (2 / 12), rel=0.01)
    for pan, side in ((0, 1.0), (127, -1.0)):
        left, right = played(Score(3.0, (part([0.0], controls=[(0.0, 10, pan)]),)), seconds=3.0)
        assert side * (rms_dbfs(left) - rms_dbfs(right)) > 5.0


def test_a_room_adds_diffuse_sound_and_keeps_the_image() -> None:
    time = np.arange(3 * RATE) / RATE
    left = np.where(time < 1.0, np.random.default_rng(0).standard_normal(time.size) * 0.1, 0.0)
    sound = np.stack([left, np.zeros_like(left)]).astype(np.float32)
    where = Placement(azimuth_degrees=0.0, elevation_degrees=0.0, diffuse_share=0.3, rt60_seconds=1.0)

    def whole(cuts: list[int]) -> np.ndarray:
        pieces = (Waveform(piece, RATE) for piece in np.split(sound, cuts, axis=1))
        return np.concatenate([piece.samples for piece in in_room(pieces, where, seed=1)], axis=1)

    music = whole([])
    np.testing.assert_array_equal(whole([100, 4097, 50_000]), music)
    assert music.shape == sound.shape
    during, after = slice(RATE // 10, RATE), slice(int(1.1 * RATE), int(1.4 * RATE))
    assert rms_dbfs(music[:1, during]) > rms_dbfs(music[1:, during]) + 3.0
    assert rms_dbfs(music[:, after]) > -60.0
    # After the sound only the room is heard, on both sides alike.
    assert rms_dbfs(music[:1, after]) == pytest.approx(rms_dbfs(music[1:, after]), abs=2.0)


def test_what_cannot_be_played_is_said_before_any_work(tune: Path, tmp_path: Path) -> None:
    font = tmp_path / "gone.sf2"
    with pytest.raises(AudioError, match=r"expected one of \.wav"):
        perform(tune, tmp_path / "out.txt", font)
    (tmp_path / "out.wav").write_bytes(b"mine")
    with pytest.raises(AudioError, match=r"out\.wav exists already"):
        perform(tune, tmp_path / "out.wav", font)
    with pytest.raises(AudioError, match="does not say that silent2music made it"):
        perform(tune, tmp_path / "out.wav", font, force=True)
    write_midi(tmp_path / "rest.mid", Score(2.0, ()))
    with pytest.raises(DataError, match="holds no notes"):
        perform(tmp_path / "rest.mid", tmp_path / "new.wav", font)
    write_midi(tmp_path / "long.mid", Score(80_000.0, (part([70_000.0]),)))
    with pytest.raises(AudioError, match="longer than a WAV file can be"):
        perform(tmp_path / "long.mid", tmp_path / "new.wav", font)
    with pytest.raises(AudioError, match=r"music for long\.mid are 22\.2 hours, .*; give --force"):
        perform(tmp_path / "long.mid", tmp_path / "new.flac", font)
    with pytest.raises(DataError, match=r"gone\.sf2 does not exist|fluidsynth is not installed"):
        perform(tune, tmp_path / "new.wav", font)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mid", "out.wav", "rest.mid", "tune.mid"]
