"""Loops: the grid they stand on, the seam in tokens and in sound, and the layers that steer them."""

from __future__ import annotations

import dataclasses
import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rooms import RATE, steps_room

from silent2music.acoustics import analyze
from silent2music.arrays import FloatArray
from silent2music.audio import Waveform, read, rms_dbfs
from silent2music.config import AmbienceConfig, SamplingConfig
from silent2music.errors import AudioError, ConfigError
from silent2music.export.ambience import loops
from silent2music.export.ambience.lap import LAYERS, PLAIN, Grid, parse_loop, plan_grid, room_lap, steered
from silent2music.export.ambience.loops import circular_sound, close_set, levelled, write_takes
from silent2music.export.ambience.seam import (
    SHARE_MARGIN,
    measure_seam,
    percentiles_at,
    place_figures,
    remarkable,
    stands_out,
)
from silent2music.export.ambience.writing import hearing, write_loops
from silent2music.export.delivery import lap_at_rate
from silent2music.export.space import Placement, omni
from silent2music.listening import listen_whole
from silent2music.model import Silent2Music
from silent2music.sampling import generate_codes
from silent2music.score import Part, Score

FRAME_RATE = 25.0


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Silent2Music:
    return Silent2Music.from_pretrained(model_folder)


def steps(seconds: float = 8.0, interval: float = 0.5) -> Waveform:
    return Waveform(steps_room(seconds, interval=interval), RATE)


def hiss(seconds: float = 3.0) -> Waveform:
    noise = np.random.default_rng(0).standard_normal((1, round(seconds * RATE)))
    return Waveform((1e-3 * noise).astype(np.float32), RATE)


# ---- the grid ----


def test_bars_decide_the_length_where_there_is_a_pulse() -> None:
    grid = plan_grid(analyze(steps()), AmbienceConfig(bars=2, seconds=3.0), FRAME_RATE, 300)
    assert (grid.bars, grid.n_frames, grid.n_samples) == (2, 100, 192_000)
    assert grid.bpm == pytest.approx(120.0)
    assert grid.bar_samples == (0, 96_000)
    assert len(grid.beat_frames) == 8


def test_seconds_decide_the_length_where_there_is_none() -> None:
    grid = plan_grid(analyze(hiss()), AmbienceConfig(bars=2, seconds=3.3333), FRAME_RATE, 300)
    assert (grid.bpm, grid.bars, grid.bar_samples) == (None, 0, (0,))
    assert grid.n_samples == round(3.3333 * 48_000)


def test_seconds_move_the_tempo_so_that_bars_fill_them() -> None:
    grid = plan_grid(analyze(steps()), AmbienceConfig(seconds=4.1), FRAME_RATE, 300)
    assert (grid.bars, grid.n_samples) == (2, 196_800)
    assert grid.bpm == pytest.approx(8 * 60 / 4.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"seconds": 5.0},
            r"holds 2\.5\d? bars of 4 beats at 1\d\d\.\d bpm.*ask for .* s \(2bars\) or .* s \(3bars\)",
        ),
        (
            {"bars": 3, "beats_per_bar": 30},
            r"1 bars at 120\.0 bpm, which is 15\.00 s, is longer than the model can hold together",
        ),
        ({"bars": 1, "beats_per_bar": 2}, r"too short; expected at least 2 s, or 2bars"),
        # Neither the whole bars below nor those above may be advised where they would be refused.
        (
            {"seconds": 9.0, "beats_per_bar": 25},
            r"move the tempo by 39 %, more than 6 %; set ambience\.beats_per",
        ),
        ({"seconds": 9.0, "beats_per_bar": 14}, r"; ask for 7\.0\d s \(1bars\)\.$"),
        (
            {"seconds": 14.0},
            r"A loop of 14 s is longer than the model can hold together; expected at most 12 s",
        ),
        ({"bars": 1, "beats_per_bar": 2}, "too short; expected at least 2 s"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(AudioError, match=words):
        plan_grid(analyze(steps()), AmbienceConfig(**settings), FRAME_RATE, 300)


@pytest.mark.parametrize(("asked", "bars"), [(6, 6), (7, 3), (8, 4), (16, 4), (1000, 3)])
def test_bars_that_are_too_long_are_halved_until_they_fit(asked: int, bars: int) -> None:
    grid = plan_grid(analyze(steps()), AmbienceConfig(bars=asked), FRAME_RATE, 300)
    assert (grid.bars, grid.n_frames) == (bars, 50 * bars)


@pytest.mark.parametrize("seconds", [2.5, 3.3, 4.5, 5.0, 6.7, 9.1, 11.4])
@pytest.mark.parametrize("beats", [3, 4, 5, 7, 11])
def test_what_is_advised_is_not_refused(seconds: float, beats: int) -> None:
    profile, config = analyze(steps()), AmbienceConfig(seconds=seconds, beats_per_bar=beats)
    try:
        plan_grid(profile, config, FRAME_RATE, 300)
    except AudioError as error:
        advised = re.findall(r"([\d.]+) s \((\d+)bars\)", str(error))
        assert advised or "beats_per_bar" in str(error)
        for length, bars in advised:
            exact = dataclasses.replace(config, seconds=float(length))
            assert plan_grid(profile, exact, FRAME_RATE, 300).bars == int(bars)
            assert plan_grid(
                profile, dataclasses.replace(config, bars=int(bars)), FRAME_RATE, 300
            ).bars == int(bars)


def test_loop_lengths_are_read() -> None:
    assert parse_loop("4 bars") == {"bars": 4}
    assert parse_loop("7.25") == {"seconds": 7.25, "bars": 0}
    for text in ("0bars", "1.5bars", "long", "-3s"):
        with pytest.raises(ConfigError, match="expected seconds such as"):
            parse_loop(text)


@pytest.mark.parametrize("seconds", [3.0, 8.0])
def test_a_lap_has_the_rooms_beats_on_its_grid(seconds: float) -> None:
    """Also where the room has fewer beats than the lap."""
    room = steps(seconds, interval=0.47)
    grid = Grid(100, FRAME_RATE, 192_000, 48_000, 120.0, 2, 4)
    lap = room_lap(room, analyze(room), grid, RATE)
    assert lap.n_samples == 96_000
    envelope = np.square(lap.samples[0].reshape(8, -1))
    # A step begins every half second, and lasts a tenth of that.
    assert (envelope[:, :2_400].sum(axis=1) > 0.8 * envelope.sum(axis=1)).all()


def test_a_laps_end_leads_into_its_beginning() -> None:
    t = np.arange(5 * RATE) / RATE
    rising = Waveform((1e-3 * 2.0**t * np.random.default_rng(0).standard_normal(len(t)))[None], RATE)
    grid = Grid(75, FRAME_RATE, 144_000, 48_000, None, 0, 4)
    lap = room_lap(rising, analyze(rising), grid, RATE).samples
    assert abs(rms_dbfs(lap[:, -240:]) - rms_dbfs(lap[:, :240])) < 2.0
    assert rms_dbfs(lap[:, -8_000:-7_000]) - rms_dbfs(lap[:, :1_000]) > 12.0


# ---- the seam ----


def test_the_seam_of_a_whole_number_of_cycles_is_like_any_other_place() -> None:
    noise = np.random.default_rng(3).standard_normal(2 * RATE).astype(np.float32)
    spectrum = np.fft.rfft(noise) * (np.arange(RATE + 1) < 3_000)
    whole = np.fft.irfft(spectrum).astype(np.float32)  # periodic by construction
    percentiles = [measure_seam(np.roll(whole, 999 * i), RATE) for i in range(40)]
    inside = [p for p in percentiles if p.excess() == 0]
    assert len(inside) > 20
    cut = whole[: RATE + 777]
    assert measure_seam(cut * np.linspace(1, 3, len(cut), dtype=np.float32), RATE).derivative > 0.95


def test_places_have_the_figures_of_known_signals() -> None:
    step = np.full(RATE, 0.1, np.float32)
    step[: RATE // 2] = 0.2
    jump, _, derivative = place_figures(step, RATE)
    assert jump[0] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert jump[50] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert np.delete(jump, [0, 1, 49, 50, 51, 99]).max() < 1e-6
    assert derivative[0] == pytest.approx(0.1)
    assert remarkable(step, RATE, np.array([0, 12_000])).min() > 0.9


def test_where_a_loop_rests_dither_is_no_figure() -> None:
    """Half of the loop is silence but for the last digits of 24 bits: no place in it is unlike the others."""
    rng = np.random.default_rng(6)
    sound = 2.0**-23 * rng.uniform(-1, 1, 2 * RATE)
    sound[:RATE] += 0.1 * rng.standard_normal(RATE)
    places = [
        measure_seam(sound.astype(np.float32), RATE, at)
        for at in range(RATE + 2_000, 2 * RATE - 2_000, 7_001)
    ]
    assert all(
        len({getattr(p, name) for p in places}) == 1 for name in ("level_jump", "spectral_flux", "derivative")
    )
    assert max(p.excess() for p in places) == 0


def test_a_place_stands_out_by_its_figures_or_by_an_onset_that_the_music_has_not() -> None:
    rng = np.random.default_rng(5)
    struck = 0.01 * rng.standard_normal(2 * RATE).astype(np.float32)
    for begin in (0.5, 1.4):
        struck[round(begin * RATE) :][:4_000] += 0.2 * rng.standard_normal(4_000).astype(np.float32)
    assert measure_seam(struck, RATE, at=RATE // 2).level_jump > 0.95
    there, turned = measure_seam(struck, RATE, at=RATE // 2), measure_seam(np.roll(struck, -RATE // 2), RATE)
    assert dataclasses.replace(there, onset=0.0) == dataclasses.replace(turned, onset=0.0)
    assert there.onset > 0 < turned.onset
    assert stands_out([struck], RATE, 0.25, is_struck=False) > 0.5
    assert 0 < stands_out([struck], RATE, 0.25, is_struck=True) < 0.1  # its level jumps still
    assert stands_out([struck] * 2, RATE, 0.25, False) == 2 * stands_out([struck], RATE, 0.25, False)
    plain = [at for at in np.linspace(0.1, 0.9, 17) if stands_out([struck], RATE, float(at), False) == 0]
    assert plain
    assert all(abs(at - 0.25) > 0.02 and abs(at - 0.7) > 0.02 for at in plain)
    remarked = remarkable(struck, RATE, np.round(np.array([0.25, *plain]) * 2 * RATE).astype(np.int64))
    assert remarked[0] > 0.9 > remarked[1:].min()


class _Tone:
    """A codec whose every code is the same tone, its phase going on without regard to laps."""

    sample_rate, frame_rate = RATE, FRAME_RATE

    def __init__(self, hz: float) -> None:
        self.hz = hz

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        t = torch.arange(codes.shape[2] * 960, dtype=torch.float64) / RATE
        return (0.5 * torch.sin(2 * torch.pi * self.hz * t)).float()[None, None]


@pytest.mark.parametrize("hz", [220.13, 440.31, 1000.2])
def test_a_tone_that_does_not_fit_the_lap_is_closed_without_a_dip(hz: float) -> None:
    lap = circular_sound(_Tone(hz), torch.zeros(4, 75, dtype=torch.int64))  # type: ignore[arg-type]
    assert len(lap) == 72_000
    levels = [rms_dbfs(np.roll(lap, 1_200)[None, i : i + 1_200]) for i in range(0, 72_000, 1_200)]
    assert max(levels) - min(levels) < 1.0
    steps_inside = np.abs(np.diff(lap)).max()
    assert abs(lap[0] - lap[-1]) <= steps_inside
    # All of it is one tone, a whole number of cycles near the one asked for.
    spectrum = np.abs(np.fft.rfft(lap))
    assert abs(spectrum.argmax() / 3.0 - hz) < 0.5
    assert spectrum.max() ** 2 > 0.98 * np.square(spectrum).sum()


def test_a_closed_lap_played_three_times_has_no_onset_at_its_seam() -> None:
    from librosa.onset import onset_detect

    codec = _Tone(440.31)
    lap = circular_sound(codec, torch.zeros(4, 75, dtype=torch.int64))  # type: ignore[arg-type]
    cut = codec.decode(torch.zeros(1, 4, 75))[0, 0].numpy()
    onsets = []
    for sound in (lap, cut):
        lap_with_onset = sound.copy()
        lap_with_onset[30_000:36_000] *= 1.9  # in the music, so that there is something to find
        found = onset_detect(y=np.tile(lap_with_onset, 3), sr=RATE, units="time")
        onsets.append([t for t in found if min(abs(t - 3.0), abs(t - 6.0)) < 0.05])
        assert any(abs(t - 1.25) < 0.05 for t in found)
    closed, bare = onsets
    assert closed == []
    assert len(bare) == 2


@pytest.mark.parametrize("lap_seconds", [2.0, 2.04, 5.96])
def test_a_levelled_lap_leads_into_itself(lap_seconds: float) -> None:
    n = round(lap_seconds * RATE)
    tone = np.sin(2.0 * np.pi * 500.0 * np.arange(n) / RATE)
    level_db = np.interp(np.arange(n) / n, [0.0, 0.2, 0.5, 1.0], [-20.0, -10.0, -30.0, -20.0])
    sound = (tone * 10.0 ** (level_db / 20.0)).astype(np.float32)
    steps = np.random.default_rng(0).choice([-2.0, 2.0], int(np.ceil(lap_seconds * 10.0)))
    circle = Score(2.0 * lap_seconds, (), gain_db=np.minimum(np.cumsum(steps) - 20.0, 0.0))

    def gains_db(done: FloatArray, of: FloatArray) -> FloatArray:
        return 10.0 * np.log10(
            np.square(done.reshape(-1, 240)).mean(1) / np.square(of.reshape(-1, 240)).mean(1)
        )

    own = gains_db(levelled(sound, circle, RATE, goes_round=True), sound)
    assert np.ptp(own) > 3.0
    # As it goes on after many laps, whose first frames come after their last ones.
    laps = np.tile(sound, 13)
    later = gains_db(levelled(laps, circle, RATE), laps)[-3 * len(own) : -len(own)]
    np.testing.assert_allclose(later[: len(own)], own, atol=0.1)
    np.testing.assert_allclose(later[len(own) :], own, atol=0.1)
    # The last frame's gain is where the first one's begins: no step that is wider than those within.
    assert abs(own[0] - own[-1]) <= np.abs(np.diff(own)).max() + 0.1
    # A lap that begins later in the circle is the same lap, turned.
    shift = round(0.6 * RATE)
    turned = levelled(np.roll(sound, -shift), circle, RATE, 0.6, goes_round=True)
    np.testing.assert_allclose(np.roll(gains_db(turned, np.roll(sound, -shift)), shift // 240), own, atol=0.2)
    wrong = levelled(np.roll(sound, -shift), circle, RATE, 0.0, goes_round=True)
    assert np.abs(np.roll(gains_db(wrong, np.roll(sound, -shift)), shift // 240) - own).max() > 1.0
    assert levelled(sound, None, RATE) is sound and levelled(sound, Score(4.0, ()), RATE) is sound


def test_composed_loops_are_levelled(sketched_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Silent2Music.from_pretrained(sketched_folder)
    grid, lap = at_codec_rate(steps())
    steps_db = np.random.default_rng(0).choice([-12.0, 0.0], int(np.ceil(grid.lap_seconds * 10.0)))
    notes = np.array([0.0, 1.0]), np.array([0.5, 1.5]), np.array([60, 64]), np.array([80, 80])
    circle = Score(2.0 * grid.lap_seconds, (Part("harp", 46, False, "melody", *notes),), gain_db=steps_db)

    closed: list[FloatArray] = []

    def noted(*given: Any) -> FloatArray:
        closed.append(circular_sound(*given))
        return closed[-1]

    monkeypatch.setattr(loops, "circular_sound", noted)
    monkeypatch.setattr(loops, "MAX_FOLDS", 1)
    monkeypatch.setattr(loops, "MAX_TAILS", 1)

    def made(score: Score) -> tuple[FloatArray, FloatArray, loops.Loop]:
        (take,) = write_takes(model, lap, grid, PLAIN, SamplingConfig(), [5], [as_it_is], circles=[score])
        (loop,) = close_set(model, [take], 2)
        return take.sound, model.codec.decode(take.codes[None])[0, 0].cpu().numpy(), loop

    sound, decoded, _ = made(dataclasses.replace(circle, gain_db=np.zeros(0)))
    np.testing.assert_array_equal(sound, decoded)
    sound, decoded, loop = made(circle)
    np.testing.assert_array_equal(sound, levelled(decoded, circle, RATE))
    assert np.abs(sound - decoded).max() > 0.1 * np.abs(decoded).max()
    # So is the lap that is closed, from its fold on, which is then turned.
    expected = levelled(closed[-1], circle, RATE, loop.fold_frame / FRAME_RATE, goes_round=True)
    assert np.abs(expected - closed[-1]).max() > 0.1 * np.abs(expected).max()
    found = np.roll(loop.samples, round((loop.begin_frame - loop.fold_frame) % grid.n_frames * 960))
    np.testing.assert_array_equal(found, expected)


def test_silence_is_closed_to_silence() -> None:
    lap = circular_sound(_Tone(0.0), torch.zeros(4, 75, dtype=torch.int64))  # type: ignore[arg-type]
    assert not lap.any()
    assert measure_seam(lap, RATE).excess() == 0


def test_a_prefix_is_kept_and_the_rest_follows_it(model: Silent2Music) -> None:
    packed, sampling = model.packed_decoder(), SamplingConfig(guidance=1.5)
    with torch.inference_mode():
        room, null = model.steer(listen_whole(steps(2.0), 2.0, model.config))
        free = generate_codes(packed, room, null, sampling, [1])
        same = generate_codes(packed, room, null, sampling, [1], prefix=free[:, :, :30])
        other = generate_codes(packed, room, null, sampling, [1], prefix=31 - free[:, :, :30])
    assert torch.equal(free, same)
    assert torch.equal(other[:, :, :30], 31 - free[:, :, :30])
    assert not torch.equal(other[:, :, 30:], free[:, :, 30:])


def as_it_is(samples: FloatArray) -> list[FloatArray]:
    return [samples]


def at_codec_rate(room: Waveform) -> tuple[Grid, Waveform]:
    """A lap of some two seconds whose files have the codec's rate."""
    profile = analyze(room)
    grid = plan_grid(profile, AmbienceConfig(bars=1, seconds=2.2), FRAME_RATE, 60)
    grid = dataclasses.replace(grid, n_samples=grid.n_frames * 960, sample_rate=RATE)
    return grid, room_lap(room, profile, grid, RATE)


@pytest.mark.parametrize("room", [steps(), hiss()], ids=["pulse", "no pulse"])
def test_a_loop_closes_like_the_music_it_is_cut_from(
    model: Silent2Music, room: Waveform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "MAX_STARTS", 2)
    grid, lap = at_codec_rate(room)
    takes = [
        take
        for seeds in ([5, 6], [7])
        for take in write_takes(model, lap, grid, PLAIN, SamplingConfig(), seeds, [as_it_is] * len(seeds))
    ]
    first, second, third = made = close_set(model, takes, 4)
    again = close_set(model, takes, 4)
    n = grid.n_frames * 960
    begins = set()
    for take, loop, same in zip(takes, made, again, strict=True):
        assert loop.take is take
        assert np.array_equal(loop.samples, same.samples)
        assert loop.samples.shape == (n,)
        for at, frame in ((0.0, loop.begin_frame), (loop.fold, loop.fold_frame)):
            out = stands_out([loop.samples], RATE, at, take.is_struck_at(frame))
            assert out <= loop.stands_out + 1e-9
        # Far from the fold it is the take, and at the same place of it in all loops.
        fold = round(loop.fold * n)
        piece = np.roll(loop.samples, -fold)[n // 4 : n // 2]
        spectra = np.fft.rfft(take.sound, 2 * len(take.sound)), np.fft.rfft(piece, 2 * len(take.sound))
        found = int(np.fft.irfft(spectra[0] * spectra[1].conj())[: len(take.sound)].argmax()) - n // 4
        begins.add((found - fold) % n)
    assert len(begins) == 1
    assert not grid.bars or np.abs(960 * grid.beat_frames - begins.pop()).min() <= 1.0
    assert not np.array_equal(first.samples, second.samples)
    assert not np.array_equal(first.samples, third.samples)


def test_a_loop_begins_on_its_bar_line_where_that_is_between_two_codec_frames() -> None:
    grid = Grid(375, FRAME_RATE, 375 * 960, RATE, 96.0, 6, 4)
    clicks = np.zeros(grid.n_samples, np.float32)
    clicks[np.array(grid.bar_samples)] = 1.0
    nothing: Any = None
    ends = np.full(2, 2.0)
    part = Part("viola", 41, False, "", np.array([0.0, 14.99]), ends + 14.99, np.full(2, 60), np.full(2, 80))
    take = loops.Take(
        nothing, nothing, torch.zeros(1, 750), np.tile(clicks, 2), np.tile(clicks, 2), np.zeros(grid.n_samples),
        grid, SamplingConfig(), as_it_is, Score(30.0, (part,)),
    )  # fmt: skip
    assert [take.is_struck_at(frame) for frame in (0.0, 1.25, 2.5, 373.0, 375.0, 577.5)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip
    fold = 200
    circle = loops.Loop(np.roll(clicks, -fold * 960), take, fold, fold, 0.0, 0.0, 0.0)
    starts = loops._choose_starts([circle], grid)
    assert sorted(starts) == [0.0, 62.5, 125.0, 187.5, 250.0, 312.5]
    for start in starts:
        loop = loops._begun_at(start, circle)
        assert np.array_equal(np.flatnonzero(loop.samples), grid.bar_samples)
        assert loop.fold == pytest.approx((fold - start) % 375 / 375)


def test_the_fold_that_is_not_heard_is_taken(model: Silent2Music, monkeypatch: pytest.MonkeyPatch) -> None:
    """All endings of the first fold are heard, and the first one of the second."""
    grid, lap = at_codec_rate(hiss())
    (take,) = write_takes(model, lap, grid, PLAIN, SamplingConfig(), [5], [as_it_is])
    monkeypatch.setattr(loops, "MAX_FOLDS", 3)
    judged = iter([0.3] * loops.MAX_TAILS + [0.2, 0.0] + [0.0] * 10)
    monkeypatch.setattr(loops, "stands_out", lambda *_: next(judged))
    folds: list[int] = []
    written = loops._write_tails

    def write_tails(*given: Any) -> Any:
        folds.append(given[2])
        return written(*given)

    monkeypatch.setattr(loops, "_write_tails", write_tails)
    (loop,) = close_set(model, [take], 6)
    assert len(set(folds)) == 2
    assert loop.stands_out == 0
    assert loop.fold_frame == folds[1]
    judged = iter([0.3, 0.3, 0.1] + [0.3] * 100)
    folds.clear()
    (loop,) = close_set(model, [take], 3)
    assert len(folds) == loops.MAX_FOLDS
    assert loop.stands_out > 0
    assert loop.fold_frame == folds[0]


@pytest.mark.parametrize(("spatial", "order"), [("mono", 1), ("stereo", 1), ("ambix", 2)])
def test_what_a_loop_is_judged_by_is_what_its_file_holds(tmp_path: Path, spatial: str, order: int) -> None:
    config = AmbienceConfig(spatial=spatial, order=order, lufs=-30.0, fold_downs=False)
    grid = Grid(75, FRAME_RATE, 144_000, 48_000, None, 0, 4)
    samples = 1e-3 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    samples[RATE:] *= 1e-3  # it rests, where levels decide what is silence
    codec: Any = types.SimpleNamespace(extension=None, sample_rate=RATE)
    where = Placement(20.0, 5.0, 0.3, 0.4)
    (heard,) = hearing(config, grid, where, codec, 7, config.lufs)(samples)
    nothing: Any = None
    take = loops.Take(
        nothing, nothing, nothing, nothing, nothing, np.zeros(300), grid, SamplingConfig(seed=7), nothing
    )
    loop = loops.Loop(samples, take, 0, 25, 0.0, 0.0, 0.0)
    (file,), _ = write_loops(f"{tmp_path}/a", {("loop", 1): [(loop, where)]}, None, grid, config, 7, {})
    held = omni(read(tmp_path / file["file"]), spatial).samples[0]
    assert rms_dbfs(held - heard) < rms_dbfs(held) - 50.0
    for own in (file["seam"], *file["folds"]):
        figures = [own[name] for name in ("level_jump", "spectral_flux", "derivative")]
        assert figures == pytest.approx(percentiles_at(heard, 48_000, own["sample"]), abs=SHARE_MARGIN)


def test_resampling_is_exact_in_length_and_keeps_the_seam() -> None:
    t = np.arange(48_000) / RATE
    tone = np.sin(2 * np.pi * 441.0 * t).astype(np.float32)
    for n_samples in (96_000, 88_200, 95_961):
        there = lap_at_rate(tone, None, n_samples)
        expected = np.sin(2 * np.pi * 882 * np.arange(n_samples) / n_samples)
        assert len(there) == n_samples
        assert np.abs(there - expected).max() < 1e-3


# ---- layers ----


def test_layers_hear_a_calmer_or_a_busier_room() -> None:
    room = steps()
    profile = analyze(room)
    heard = {name: steered(room, profile.events, layer) for name, layer in LAYERS.items()}
    assert np.array_equal(heard["medium"].samples, room.samples)
    levels = [rms_dbfs(heard[name].samples) for name in ("calm", "medium", "intense")]
    assert levels[0] < levels[1] - 8.0 < levels[2] - 16.0
    n_events = {name: len(analyze(sound).events) for name, sound in heard.items()}
    assert n_events["calm"] < 0.6 * n_events["medium"] <= n_events["intense"]


def test_a_layer_multiplies_the_guidance(model: Silent2Music) -> None:
    room = steps()
    profile = analyze(room)
    grid = plan_grid(profile, AmbienceConfig(bars=1), FRAME_RATE, 60)
    lap = room_lap(room, profile, grid, RATE)
    calm, intense = (
        write_takes(model, lap, grid, LAYERS[name], SamplingConfig(guidance=2.0), [0], [as_it_is])[0]
        for name in ("calm", "intense")
    )
    assert (calm.sampling.guidance, intense.sampling.guidance) == (1.5, 3.0)
    assert not torch.equal(calm.codes, intense.codes)
