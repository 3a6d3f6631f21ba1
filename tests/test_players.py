"""Who plays, and how much, where nobody says: ensembles of training scores for rooms that are alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import RATE, steps_room
from test_compose import make_composer

from silent2music.acoustics import PROFILE_SCALARS
from silent2music.audio import Waveform
from silent2music.composer import ENSEMBLES
from silent2music.config import ComposingConfig
from silent2music.controls import Controls
from silent2music.model import Silent2Music
from silent2music.notation import DRUMS, END, Memory, symbol_of
from silent2music.players import IS_NOTE, N_ALIKE, PROGRAM_OF, Ensemble, Players, choose, gather, rule_of
from silent2music.score import Part, Score
from silent2music.signals import from_arrays

QUIET, LOUD = np.full(len(PROFILE_SCALARS), -1.0), np.full(len(PROFILE_SCALARS), 1.0)
HOW = ComposingConfig(seed=1)


def played(*players: tuple[int, bool], n: int = 4) -> Score:
    """A score of two seconds in which each plays some notes at once."""
    starts = np.arange(n) * 2.0 / n
    notes = (starts, starts + 0.1, np.full(n, 60), np.full(n, 80))
    return Score(2.0, tuple(Part("", program, is_drum, "melody", *notes) for program, is_drum in players))


def signals(room: np.ndarray):
    return from_arrays({"room_scalars": np.concatenate([np.zeros(16), room])}, 50)


@pytest.fixture(scope="module")
def composer():
    composer = make_composer()
    quiet, loud = (
        played((46, False)),
        played((46, False), (0, True)),
    )
    gather(
        composer,
        [played(n=0), *[quiet] * N_ALIKE, *[loud] * N_ALIKE],
        [QUIET] * (N_ALIKE + 1) + [LOUD] * N_ALIKE,
    )
    return composer


def test_an_ensemble_says_who_plays_how_much() -> None:
    found = Ensemble.of(played((46, False), (0, True)))
    assert np.flatnonzero(found.programs).tolist() == [46, DRUMS]
    assert (found.notes_hz, found.onsets_hz) == (4.0, 2.0)
    assert Ensemble.of(played(n=0)) is None


def test_a_room_has_the_ensemble_of_rooms_like_it(composer) -> None:
    for room, players, notes_hz in ((QUIET, [46], 2.0), (LOUD, [46, DRUMS], 4.0)):
        for seed in range(4):
            found = choose(composer, signals(room), ComposingConfig(seed=seed), Controls())
            assert np.flatnonzero(found.programs).tolist() == players and found.notes_hz == notes_hz


def test_only_rooms_with_nothing_in_them_have_next_to_no_music() -> None:
    """Steady rain is nearest to a hiss, but is played to."""
    hiss, rain, loud = np.zeros(len(PROFILE_SCALARS)), np.zeros(len(PROFILE_SCALARS)), LOUD
    hiss[PROFILE_SCALARS.index("energy_range")] = 1.5 / 20.0
    rain[PROFILE_SCALARS.index("energy_range")] = 3.0 / 20.0
    note = (np.array([3.0]), np.array([4.0]), np.array([60]), np.array([80]))
    few = Score(20.0, (Part("", 8, False, "melody", *note),))
    several = make_composer()
    several.known_symbols[symbol_of("melody", 8, False)] = True
    gather(several, [few] * N_ALIKE + [played((46, False))], [hiss] * N_ALIKE + [loud])
    for room, player in ((hiss, 8), (rain, 46)):
        found = choose(several, signals(room), HOW, Controls())
        assert np.flatnonzero(found.programs).tolist() == [player]


def test_there_is_none_without_a_room_or_scores_or_where_none_is_wanted(composer) -> None:
    assert choose(composer, from_arrays({}, 50), HOW, Controls()) is None
    assert choose(make_composer(), signals(LOUD), HOW, Controls()) is None
    assert choose(composer, signals(LOUD), ComposingConfig(ensembles=False), Controls()) is None


def test_the_user_s_wish_comes_first(composer) -> None:
    # Listed instruments play as much as those do who are among them; where there are none, nothing is said of it.
    listed = choose(composer, signals(LOUD), HOW, Controls.of({"instruments": "piano, harp"}))
    assert np.flatnonzero(listed.programs).tolist() == [0, 46] and listed.notes_hz == 2.0
    assert choose(composer, signals(LOUD), HOW, Controls.of({"instruments": "piano"})) is None
    barred = choose(composer, signals(LOUD), HOW, Controls.of({"without": "drums"}))
    assert np.flatnonzero(barred.programs).tolist() == [46]
    # Who is asked for many notes plays many anyway.
    dense = choose(composer, signals(QUIET), HOW, Controls.of({"density": 0.62}))
    assert np.flatnonzero(dense.programs).tolist() == [46, DRUMS] and dense.notes_hz == 4.0
    # Chords are played by several at a time, lines by somebody beside others, and neither by drums.
    several = make_composer()
    gather(
        several,
        [played((0, True)), played((46, False)), played((46, False), (0, False))],
        [LOUD, LOUD, QUIET],
    )
    melody = [[0.0, 0.5, 60, 80]]
    for wish in ({"chords": "C"}, {"melody": melody}):
        found = choose(several, signals(LOUD), HOW, Controls.of(wish))
        assert np.flatnonzero(found.programs).tolist() == [0, 46]


def test_who_played_goes_on(composer) -> None:
    found = choose(composer, signals(QUIET), HOW, Controls(), begun=played((0, True), n=8))
    assert np.flatnonzero(found.programs).tolist() == [DRUMS] and found.notes_hz == 4.0


def test_only_those_play_who_are_chosen(composer, sketched_folder) -> None:
    model = Silent2Music.from_pretrained(sketched_folder)
    room = Waveform(steps_room(3.0), RATE)
    both, alone = make_composer(), make_composer()
    gather(alone, [played((46, False))], [QUIET])
    for own, programs in ((both, {46, DRUMS}), (alone, {46})):
        model.composer = own
        score = model.compose(room, seed=2)
        assert {DRUMS if p.is_drum else p.program for p in score.parts if len(p.pitches)} == programs


@pytest.mark.parametrize("chord_size", [1.0, 3.0])
def test_chords_come_to_be_as_large_as_wanted(composer, chord_size) -> None:
    memory, rng, everybody = Memory(25.0), np.random.default_rng(0), np.ones(129, np.float32)
    amounts = Ensemble(everybody, 6.0, 6.0 / chord_size, 3.0, 0.1)
    rule = Players(
        [everybody], np.zeros(1, np.int64), np.array([amounts.onsets_hz]), amounts, composer, memory, 0
    )
    note = symbol_of("melody", 46, False)
    sizes = []
    for frame in range(1000):
        memory.advance(frame)
        n_notes = 0
        while n_notes < 20:
            logits = np.full(len(composer.known_symbols), -30.0)
            logits[END], logits[note] = 0.0, -2.0 if not n_notes else 0.0
            rule.mask("symbol", logits, ())
            if rng.random() >= 1.0 / (1.0 + np.exp(logits[END] - logits[note])):
                break
            rule.write((note, 0, 60, 5, 8))
            n_notes += 1
        rule.write(None)
        sizes.append(n_notes)
    played_hz = sum(sizes) / 40.0
    found = np.mean([size for size in sizes if size])
    assert played_hz == pytest.approx(6.0, rel=0.25)
    assert found == pytest.approx(chord_size, abs=0.35)


def test_who_has_not_played_for_long_comes_in_and_no_more_notes_are_written(composer) -> None:
    memory = Memory(25.0)
    programs = np.zeros(129, np.float32)
    programs[[46, DRUMS]] = 1.0
    amounts = Ensemble(programs, 2.0, 2.0, 2.0, 0.1)
    what = ([programs], np.zeros(1, np.int64), np.array([2.0]), amounts, composer, memory, 0)
    rule = Players(*what)
    harp, drums = symbol_of("melody", 46, False), symbol_of("percussion", 0, True)
    assert composer.known_symbols[[harp, drums]].all()

    def shares(seconds: float, rule: Players) -> tuple[float, float]:
        memory.advance(round(25.0 * seconds))
        logits = np.full(len(composer.known_symbols), -30.0)
        logits[END], logits[harp], logits[drums] = 0.0, -2.0, -6.0
        rule.mask("symbol", logits, ())
        harp_share, drum_share = np.exp(logits[[harp, drums]])
        return drum_share / (harp_share + drum_share), np.log(harp_share + drum_share)

    early, _ = shares(1.0, rule)
    for kept_to in (amounts, None):  # as a whole piece has, or as a density is asked for
        asked = Players(*what[:3], kept_to, *what[4:], at_once=True)
        assert shares(1.0, asked)[0] < 0.05, "neither has played"
        asked.write((harp, 0, 60, 5, 8))
        assert shares(1.2, asked)[0] > 0.5
    for played in (harp, drums):
        rule.write((played, 0, 60, 5, 8))
        rule.write(None)
    for seconds in np.arange(1.2, 11.0, 0.2):
        memory.advance(round(25.0 * seconds))
        rule.write((harp, 0, 60, 5, 8))
        rule.write(None)
    late, in_all = shares(11.0, rule)
    assert early < 0.05 and late > 0.9
    assert in_all == pytest.approx(np.log(np.exp(-2.0) + np.exp(-6.0)), abs=0.01)


def test_ensembles_are_saved_with_the_composer(composer, tmp_path) -> None:
    composer.save_pretrained(tmp_path)
    again = type(composer).from_pretrained(tmp_path)
    for name in ENSEMBLES:
        assert torch.equal(getattr(again, name), getattr(composer, name))


def test_after_a_cue_others_play_and_then_the_first_again() -> None:
    several = make_composer()
    several.known_symbols[:] = True
    pairs = [played((46, False), (71, False)), played((0, False), (42, False), n=8)]
    gather(several, [score for score in pairs for _ in range(N_ALIKE)], [LOUD] * 2 * N_ALIKE)
    wished = Controls.of({"cues": ["0.4", "1.2"]})
    found = choose(several, signals(LOUD), HOW, wished)
    assert found.other is not None and not (found.programs * found.other.programs).any()
    assert np.flatnonzero(found.everybody).tolist() == [0, 42, 46, 71]
    assert found.tell(signals(LOUD)).whole["instruments"].sum() == 4
    assert choose(several, signals(LOUD), HOW, Controls()).other is None
    memory = Memory(25.0)
    rule = rule_of(found, wished, 50, 25.0)(several, memory, 0)
    symbols = {program: symbol_of("melody", program, False) for program in (0, 42, 46, 71)}
    for seconds, playing in (
        (0.0, found),
        (0.36, found),
        (0.4, found.other),
        (1.16, found.other),
        (1.2, found),
    ):
        memory.advance(round(seconds * 25))
        logits = np.zeros(len(several.known_symbols), np.float32)
        rule.mask("symbol", logits, ())
        may = {program for program, symbol in symbols.items() if np.isfinite(logits[symbol])}
        assert may == set(np.flatnonzero(playing.programs).tolist()), seconds


def test_those_who_are_asked_for_take_turns_at_cues(composer) -> None:
    everybody = make_composer()
    everybody.known_symbols[:] = True
    gather(everybody, [played((46, False), (0, False)), played((46, False))], [LOUD, QUIET])
    wish = {"instruments": "harp, piano, drums", "cues": ["0.4"]}
    found = choose(everybody, signals(LOUD), HOW, Controls.of(wish))
    assert np.flatnonzero(found.everybody).tolist() == [0, 46, DRUMS]
    # Drums play on, of the others one at a time.
    assert np.flatnonzero(found.programs * found.other.programs).tolist() == [DRUMS]
    assert found.programs.sum() == found.other.programs.sum() == 2
    unknown = choose(
        everybody, signals(LOUD), HOW, Controls.of({"instruments": "flute, oboe", "cues": ["0.4"]})
    )
    assert unknown.other is not None and unknown.notes_hz == 4.0
    for wish in ({"instruments": "harp, drums", "cues": ["0.4"]}, {"instruments": "harp, piano"}):
        assert choose(everybody, signals(LOUD), HOW, Controls.of(wish)).other is None


def test_nobody_is_chosen_whom_the_composer_does_not_know() -> None:
    several = make_composer()
    several.known_symbols[:] = True
    pairs = [played((46, False), (42, False)), played((71, False), (72, False))]
    gather(several, [score for score in pairs for _ in range(N_ALIKE)], [LOUD] * 2 * N_ALIKE)
    cued = Controls.of({"cues": ["0.4"]})
    assert choose(several, signals(LOUD), HOW, cued).other is not None
    several.known_symbols[IS_NOTE & (PROGRAM_OF >= 71)] = False
    found = choose(several, signals(LOUD), HOW, cued)
    assert np.flatnonzero(found.programs).tolist() == [42, 46] and found.other is None


def test_a_tempo_has_somebody_who_strikes() -> None:
    several = make_composer()
    several.known_symbols[:] = True
    pairs = [played((42, False), (71, False)), played((0, False), (42, False))]
    gather(several, [score for score in pairs for _ in range(N_ALIKE)], [LOUD] * 2 * N_ALIKE)
    for seed in range(4):
        found = choose(several, signals(LOUD), ComposingConfig(seed=seed), Controls(tempo=90.0))
        assert np.flatnonzero(found.programs).tolist() == [0, 42]
    drawn = [choose(several, signals(LOUD), ComposingConfig(seed=seed), Controls()) for seed in range(8)]
    assert any(not found.programs[0] for found in drawn)
