"""The composer: events of a score, the network over them, and writing step by step."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from conftest import steps_room

from silent2music.acoustics import analyze
from silent2music.ambient import ambient_features
from silent2music.audio import Waveform
from silent2music.composer import Composer, Pages
from silent2music.composing import (
    CLASH,
    EMPTY_NOTE_SECONDS,
    EMPTY_SECONDS,
    LOWER,
    OPENING,
    RESTLESS_SECONDS,
    RETURN,
    STALE,
    STALE_SECONDS,
    Clash,
    Copying,
    Drawing,
    Heard,
    Known,
    NearEvents,
    Opening,
    Order,
    PackedComposer,
    Polyphony,
    Register,
    Repeats,
    Rests,
    Scribe,
    Stale,
    Together,
    Touch,
    write_frames,
)
from silent2music.config import AmbientConfig, ComposerConfig, ComposingConfig
from silent2music.errors import CheckpointError, ConfigError
from silent2music.notation import (
    BAR,
    BEAT,
    END,
    FIELDS,
    FIRST_PART,
    LENGTHS_SECONDS,
    NO_PITCH,
    SECTION,
    Memory,
    home_shift,
    moved,
    read_back,
    remembered,
    symbol_of,
    write_down,
)
from silent2music.score import Part, Score
from silent2music.signals import Signals, from_arrays
from silent2music.traits import SILENT_GAIN_DB, following_db
from silent2music.writing import Manuscript

RATE = 25.0
AMBIENT = AmbientConfig(dim=16, n_layers=1, n_mels=8, n_fft=512, n_global_tokens=2)
CONFIG = ComposerConfig(ambient=AMBIENT, dim=32, n_layers=2, n_heads=2, attention_window=30, writer_dim=24)
FEATURES = 2 * 8 + 20
SCALARS = 8 + 14


def make_composer(config: ComposerConfig = CONFIG) -> Composer:
    torch.manual_seed(0)
    composer = Composer(config).eval()
    with torch.no_grad():
        for weight in composer.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return composer


def make_score(seed: int = 0, seconds: float = 6.0, n: int = 40) -> Score:
    rng = np.random.default_rng(seed)
    parts = []
    for name, program, is_drum, role in (
        ("piano", 0, False, "melody"),
        ("piano", 0, False, "bass"),
        ("drums", 0, True, "percussion"),
    ):
        starts = np.sort(rng.uniform(0, seconds - 0.1, n // 3))
        ends = np.minimum(starts + rng.uniform(0.05, 2.0, len(starts)), seconds)
        pitches, velocities = rng.integers(30, 90, len(starts)), rng.integers(1, 128, len(starts))
        parts.append(Part(name, program, is_drum, role, starts, ends, pitches, velocities))
    beats = np.arange(0.2, seconds, 0.5)
    return Score(
        seconds,
        tuple(parts),
        gain_db=-np.linspace(0, 12, int(seconds * 10)),
        beat_seconds=beats,
        bar_seconds=beats[::4],
        boundary_seconds=np.array([seconds / 2]),
    )


def make_signals(n_frames: int, n_rows: int = 1, seed: int = 0) -> Signals:
    rng = np.random.default_rng(seed)
    rows = [
        from_arrays(
            {
                "room_frames": rng.standard_normal((n_frames, FEATURES)).astype(np.float32),
                "room_scalars": rng.standard_normal(SCALARS).astype(np.float32),
            },
            n_frames,
        )
        for _ in range(n_rows)
    ]
    return Signals.collate(rows)


# ---- events ----


def test_a_score_comes_back_from_events_within_the_grid() -> None:
    score = make_score()
    back = read_back(write_down(score, RATE), score.seconds, RATE, np.full(150, -3.0))
    assert {(p.program, p.is_drum, p.role) for p in back.parts} == {
        (p.program, p.is_drum, p.role) for p in score.parts
    }
    for part in score.parts:
        (own,) = [p for p in back.parts if (p.is_drum, p.role) == (part.is_drum, part.role)]
        assert sorted(own.pitches) == sorted(part.pitches)
        for start, end, pitch, velocity in zip(
            part.start_seconds, part.end_seconds, part.pitches, part.velocities, strict=True
        ):
            near = np.flatnonzero(
                (own.pitches == pitch) & (np.abs(own.start_seconds - start) <= 0.005 + 1e-9)
            )
            assert len(near) >= 1
            (index,) = near[:1]
            assert abs(int(own.velocities[index]) - int(velocity)) <= 4
            later = own.start_seconds[(own.pitches == pitch) & (own.start_seconds > start + 0.006)]
            wanted = min([end, *later])
            assert own.end_seconds[index] - start == pytest.approx(wanted - start, rel=0.11, abs=0.011)
    for name in ("beat_seconds", "bar_seconds", "boundary_seconds"):
        assert getattr(back, name) == pytest.approx(getattr(score, name), abs=0.005)
    assert back.gain_db == pytest.approx(np.full(60, -3.0))
    again = write_down(back, RATE)
    assert np.array_equal(again.fields[:, [0, 1, 2]], write_down(score, RATE).fields[:, [0, 1, 2]])


def test_events_are_in_the_order_that_is_drawn_in_and_none_is_there_twice() -> None:
    part = Part(
        "piano",
        0,
        False,
        "melody",
        np.array([1.0, 1.001, 1.01]),
        np.full(3, 2.0),
        np.array([60, 60, 55]),
        np.full(3, 64),
    )
    score = Score(
        2.0,
        (part,),
        beat_seconds=np.array([1.0]),
        bar_seconds=np.array([1.0]),
        boundary_seconds=np.array([1.0]),
    )
    written = write_down(score, RATE)
    melody = symbol_of("melody", 0, False)
    assert written.frames.tolist() == [25] * 4
    assert written.fields[:, 0].tolist() == [SECTION, BAR, melody, melody]
    assert written.fields[2:, 2].tolist() == [55, 60]


def test_transposing_leaves_drums_and_stays_in_range() -> None:
    written = write_down(make_score(), RATE)
    moved = written.transposed(5)
    drums = written.fields[:, 0] == symbol_of("percussion", 0, True)
    notes = (written.fields[:, 0] >= FIRST_PART) & ~drums
    assert np.array_equal(np.sort(moved.fields[drums, 2]), np.sort(written.fields[drums, 2]))
    assert np.array_equal(moved.fields[notes, 2], written.fields[notes, 2] + 5)


def test_memory_knows_what_sounds_and_where_in_the_bar_it_is() -> None:
    memory = Memory(RATE)
    melody = symbol_of("melody", 0, False)
    memory.advance(0)
    memory.write((BAR, 0, 0, 0, 0))
    memory.write((melody, 0, 60, int(np.abs(LENGTHS_SECONDS - 1.0).argmin()), 8))
    memory.advance(10)
    memory.write((BEAT, 0, 0, 0, 0))
    assert list(memory.held) == [(melody, 60)]
    bars = [memory.scalars()]
    memory.advance(15)
    bars.append(memory.scalars())
    assert bars[0] != bars[1]
    memory.advance(40)
    assert not memory.held
    indices, weights = memory.keys()
    assert len(indices) == 1 and 0 < weights[0] < 1  # the last note of the melody, faintly


def test_memory_of_a_crop_is_that_of_the_whole() -> None:
    written = write_down(make_score(), RATE)
    whole, crop = remembered(written, 0, 150, RATE), remembered(written, 60, 90, RATE)
    assert crop.keys == whole.keys[60:90]
    assert np.array_equal(crop.scalars, whole.scalars[60:90])
    assert crop.habits == [(row[0] - 60, *row[1:]) for row in whole.habits if 60 <= row[0] < 90]
    first, last = np.searchsorted(written.frames, (60, 90))
    assert crop.references == whole.references[first:last]
    assert crop.echoes == [(row[0] - first, *row[1:]) for row in whole.echoes if first <= row[0] < last]


def test_memory_of_habits() -> None:
    memory, cello = Memory(RATE), symbol_of("bass", 42, False)
    for frame, event in (
        (0, (BAR, 0, 0, 0, 0)),
        (0, (cello, 0, 40, 9, 3)),
        (0, (cello, 0, 47, 9, 3)),
        (50, (BAR, 0, 0, 0, 0)),
        (51, (cello, 0, 43, 9, 3)),
        (101, (cello, 0, 45, 9, 3)),
    ):
        memory.advance(frame)
        memory.write(event)
    # A bar lasts 50 frames: 43 began in frame 51.
    assert memory.voices(cello) == ((43, 43, 45), [(0, 43), (1, 40), (1, 47)])
    habits = dict(memory.habits())
    assert habits[cello] == [1.0] * 4
    # A bar was due a frame and a half ago.
    assert habits[BAR] == habits[BEAT] == [0.0, 1.0, 0.0, 0.0]
    memory.advance(126)
    assert memory.voices(symbol_of("melody", 0, False)) == ((NO_PITCH,) * 3, [])
    assert dict(memory.habits()[:1]) == {cello: [np.exp(-0.5), np.exp(-1 / 12), 0.0, 0.0]}
    memory.advance(64 * 64)
    assert cello not in dict(memory.habits())


# ---- the network ----


class Counting(Copying):
    """Copies events, and counts the nats of what it copies."""

    nats: dict[str, float]

    def __call__(self, field: str, logits: np.ndarray, before: tuple[int, ...]) -> int:
        value = super().__call__(field, logits, before)
        shifted = logits.astype(np.float64) - logits.max()
        self.nats[field] += float(np.log(np.exp(shifted).sum()) - shifted[value])
        return value


def test_likelihood_at_once_equals_that_of_writing_step_by_step() -> None:
    composer = make_composer()
    written = write_down(make_score(), RATE).transposed(home_shift(make_score()))
    signals = make_signals(150)
    with torch.inference_mode():
        conditioning = composer.condition(signals)
        pages = Pages.of([make_score()], [0], 150, RATE)
        states = composer.states(pages, conditioning)
        at_once = {name: float(nats.sum()) for name, (_, nats) in composer.field_nll(pages, states).items()}
        scribe = Scribe(PackedComposer(composer, "fp32"), conditioning, conditioning, 1.0)
        stepped = dict.fromkeys(FIELDS, 0.0)
        for index in range(conditioning.frames.shape[1]):
            here = Counting([tuple(event) for event in written.slice(index, index + 1).fields.tolist()])
            here.nats = stepped
            scribe.frame(here)
    assert at_once == pytest.approx(stepped, rel=1e-4, abs=1e-3)
    assert all(value > 0 for value in stepped.values())


def test_a_row_of_a_batch_equals_the_row_alone_and_a_crop_goes_on_from_what_was_before() -> None:
    composer = make_composer()
    scores, starts = [make_score(1), make_score(2)], [40, 0]
    signals = make_signals(60, 2)
    with torch.inference_mode():
        both = composer(Pages.of(scores, starts, 60, RATE), signals)
        for row in range(2):
            alone = composer(Pages.of([scores[row]], [starts[row]], 60, RATE), signals.rows([row]))
            for name in (*FIELDS, "gain"):
                assert float(both[name][row]) == pytest.approx(float(alone[name][0]), rel=1e-4)
        other = composer(Pages.of(scores, [0, 0], 60, RATE), signals)
    assert float(other["symbol"][0]) != pytest.approx(float(both["symbol"][0]), rel=1e-3)


def test_a_score_without_automation_teaches_no_loudness() -> None:
    composer, signals = make_composer(), make_signals(60, 2)
    scores = [make_score(1), dataclasses.replace(make_score(2), gain_db=np.zeros(0))]
    losses = composer(Pages.of(scores, [0, 0], 60, RATE), signals)
    assert [value > 0 for value in losses["gain"].tolist()] == [True, False]
    losses["gain"].sum().backward()
    assert all(x.grad is None or bool(x.grad.isfinite().all()) for x in composer.parameters())


def test_an_event_changes_what_is_expected_after_it_and_nothing_before() -> None:
    composer = make_composer()
    score = make_score()
    first = score.parts[0]
    changed = dataclasses.replace(
        score,
        parts=(
            dataclasses.replace(
                first, velocities=np.append(first.velocities[:-1], 128 - first.velocities[-1])
            ),
            *score.parts[1:],
        ),
    )
    frame = int(np.rint(first.start_seconds[-1] * 100)) // 4
    signals = make_signals(150)
    with torch.inference_mode():
        conditioning = composer.condition(signals)
        states = [composer.states(Pages.of([s], [0], 150, RATE), conditioning)[0] for s in (score, changed)]
    assert torch.equal(states[0][: frame + 1], states[1][: frame + 1])
    assert not torch.allclose(states[0][frame + 1 :], states[1][frame + 1 :])


def test_a_composer_comes_back_from_its_folder(tmp_path) -> None:
    composer = make_composer()
    composer.set_limits([make_score(seed) for seed in range(3)])
    composer.save_pretrained(tmp_path / "composer")
    again = Composer.from_pretrained(tmp_path / "composer")
    assert again.config == composer.config
    for name, value in composer.state_dict().items():
        assert torch.equal(
            again.state_dict()[name], value.half().to(value.dtype) if value.is_floating_point() else value
        )
    (tmp_path / "composer" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        Composer.from_pretrained(tmp_path / "composer")


# ---- writing ----


def written_by(composer, signals, composing, seed=0, blocks=None, precision=None, **options):
    packed = PackedComposer(composer, precision)
    with torch.inference_mode():
        given, null = composer.steer(signals)
    n_frames = signals.n_frames
    cuts = [0, *np.cumsum(blocks or [n_frames])]
    pieces = [(given.slice(a, b), null.slice(a, b)) for a, b in itertools.pairwise(cuts)]
    return list(write_frames(packed, pieces, composing, seed, **options))


SETTINGS = ComposingConfig(guidance=1.5)


def test_the_same_seed_writes_the_same_notes_whatever_the_blocks() -> None:
    composer, signals = make_composer(), make_signals(80)
    whole = written_by(composer, signals, SETTINGS)
    assert whole == written_by(composer, signals, SETTINGS, blocks=[1, 30, 9, 40])
    singly = written_by(composer, signals, SETTINGS, n_ahead=1)
    assert [events for events, _ in whole] == [events for events, _ in singly]
    assert whole != written_by(composer, signals, SETTINGS, seed=1)
    assert sum(len(events) for events, _ in whole) > 10


def test_another_room_changes_the_notes_and_guidance_one_is_no_guidance() -> None:
    composer = make_composer()
    plain = ComposingConfig(guidance=1.0)
    one, other = (written_by(composer, make_signals(80, seed=s), plain) for s in (0, 1))
    assert one != other
    near, own = (
        written_by(composer, make_signals(80), ComposingConfig(guidance=guidance), precision="fp32")
        for guidance in (1.0 + 1e-9, 1.0)
    )
    assert [events for events, _ in near] == [events for events, _ in own]
    assert [gain for _, gain in near] == pytest.approx([gain for _, gain in own], abs=1e-3)


def test_constraints_hold_for_what_is_written() -> None:
    composer = make_composer()
    composer.set_limits([make_score(seed) for seed in range(3)])
    composer.polyphony.fill_(3)
    frames = written_by(composer, make_signals(200), SETTINGS)
    written = Manuscript.of(frames).written()
    notes = written.fields[written.fields[:, 0] >= FIRST_PART]
    assert len(notes) > 20
    assert composer.known_symbols[notes[:, 0]].all()
    assert composer.known_pitches[notes[:, 0], notes[:, 2]].all()
    assert (torch.from_numpy(notes[:, 3]) <= composer.longest[notes[:, 0]]).all()
    for events, _ in frames:
        assert len({(symbol, pitch) for symbol, _, pitch, _, _ in events}) == len(events)
        assert [e[:1] + e[2:3] for e in events] == sorted(e[:1] + e[2:3] for e in events)
    memory = Memory(RATE)
    for frame, (events, _) in enumerate(frames):
        memory.advance(frame)
        for event in events:
            memory.write(event)
        assert len(memory.held) <= 3


def test_each_constraint_forbids_what_it_is_for() -> None:
    composer, memory = make_composer(), Memory(RATE)
    melody = symbol_of("melody", 0, False)
    order = Order(composer, memory, 0)
    order.write((melody, 0, 60, 0, 0))
    logits = np.zeros(FIELDS["symbol"], np.float32)
    order.mask("symbol", logits, ())
    assert logits[END] == 0 and np.isinf(logits[1:melody]).all() and np.isfinite(logits[melody:]).all()
    pitches = np.zeros(128, np.float32)
    order.mask("pitch", pitches, (melody, 0))
    assert np.isinf(pitches[:61]).all() and np.isfinite(pitches[61:]).all()

    composer.repeats.fill_(2)
    repeats = Repeats(composer, memory, 0)
    for _ in range(2):
        repeats.write((melody, 0, 60, 0, 0))
    pitches = np.zeros(128, np.float32)
    repeats.mask("pitch", pitches, (melody, 0))
    assert np.flatnonzero(np.isinf(pitches)).tolist() == [60]

    memory.advance(25)
    drums, harmony = symbol_of("percussion", 0, True), symbol_of("harmony", 0, False)
    for symbol, pitch in ((harmony, 60), (melody, 60), (drums, 36)):
        memory.write((symbol, 0, pitch, 0, 0))
    memory.advance(50)
    memory.write((harmony, 0, 72, 0, 0))  # in this frame, where it is `Order` that forbids it
    stale, pitch_then = Stale(composer, memory, 0), {60: -STALE * np.exp(-1.0 / STALE_SECONDS)}
    for symbol, expected in ((harmony, pitch_then), (melody, {}), (drums, {})):
        pitches = np.zeros(128, np.float32)
        stale.mask("pitch", pitches, (symbol, 0))
        assert {p: pitches[p] for p in np.flatnonzero(pitches).tolist()} == pytest.approx(expected)
    memory = Memory(RATE)
    for symbol, pitch in ((melody, 60), (drums, 40)):
        memory.write((symbol, 0, pitch, 20, 0))
    clash = Clash(composer, memory, 0)
    for symbol, classes in ((symbol_of("bass", 32, False), {1, 11}), (drums, set())):
        pitches = np.zeros(128, np.float32)
        clash.mask("pitch", pitches, (symbol, 0))
        assert {p % 12 for p in np.flatnonzero(pitches).tolist()} == classes
        assert set(pitches.tolist()) <= {0.0, -CLASH}
    register = Register(composer, memory, 0)
    for pitch in (60, 64, 62, 66):
        pitches = np.zeros(128, np.float32)
        register.mask("pitch", pitches, (melody, 0))
        assert not pitches.any(), "of so few notes no mean is known"
        for symbol in (melody, drums):
            register.write((symbol, 0, pitch, 0, 0))
    for symbol, octaves in ((melody, (np.arange(128) - 63 + LOWER) / 12), (drums, np.zeros(128))):
        pitches = np.zeros(128, np.float32)
        register.mask("pitch", pitches, (symbol, 0))
        assert pitches == pytest.approx(-RETURN * octaves**2, abs=1e-4)
    memory = Memory(RATE)

    composer.longest.fill_(3)
    lengths = np.zeros(FIELDS["length"], np.float32)
    Known(composer, memory, 0).mask("length", lengths, (melody, 0, 60))
    assert np.isinf(lengths[4:]).all() and np.isfinite(lengths[:4]).all()

    composer.polyphony.fill_(1)
    memory.write((melody, 0, 60, 20, 0))
    logits = np.zeros(FIELDS["symbol"], np.float32)
    Polyphony(composer, memory, 0).mask("symbol", logits, ())
    assert np.isfinite(logits[:FIRST_PART]).all() and np.isinf(logits[FIRST_PART:]).all()


def heard_of(samples: np.ndarray) -> tuple[Heard, np.ndarray]:
    """What the rules know of a recording at 24 kHz, and its levels."""
    room = Waveform(samples.astype(np.float32)[None], 24_000)
    profile, heard = analyze(room), Heard(AMBIENT.n_mels)
    features = ambient_features(room, profile, AMBIENT)
    known = {"room_frames": features.frames, "room_scalars": features.scalars}
    list(heard.hear([from_arrays(known, len(features.frames))], ()))
    return heard, np.array(profile.energy_dbfs)


def test_loudness_follows_the_room_by_the_rule_of_the_training_scores() -> None:
    heard, level = heard_of(steps_room(6.0)[0])
    low, high = np.percentile(level, [5, 95])
    mean = 10.0 * np.log10(np.mean(10.0 ** (level / 10.0)))
    wanted, relative = following_db(level, float(low), float(high), float(mean))
    assert wanted.max() <= 0.0 and np.ptp(wanted) > 5.0 and relative.min() >= -0.3
    given = np.array([loudness for loudness, *_ in heard._frames])[np.round(np.arange(60) * 2.5).astype(int)]
    assert np.corrcoef(given, wanted)[0, 1] > 0.95
    frames = [((), -1.0)] * len(heard._frames)
    own = [gain for _, gain in heard_of(steps_room(6.0)[0])[0].follow(frames, 0.0, RATE)]
    assert own == [-1.0] * len(frames)
    assert [gain for _, gain in heard.follow(frames, 1.0, RATE)][:10] != own[:10] and not heard._frames
    silent, _ = heard_of(np.zeros(48_000))
    assert {known[:2] for known in silent._frames} == {(SILENT_GAIN_DB, True)}
    nowhere = Heard(AMBIENT.n_mels)
    list(nowhere.hear([make_signals(3)], ("room",)))
    assert [known[:2] for known in nowhere._frames] == [(None, None)] * 3


def test_notes_on_events_of_a_room_without_a_pulse_are_struck_harder() -> None:
    clicks = 1e-4 * np.random.default_rng(0).standard_normal(10 * 24_000)
    times = [0.9, 1.52, 3.1, 3.56, 5.3, 8.8]
    for seconds in times:
        clicks[round(seconds * 24_000) :][:400] += 0.1 * np.exp(-np.arange(400) / 80.0)
    note = (symbol_of("melody", 0, False), 0, 60, 10, 8)
    n_frames = len(heard_of(clicks)[0]._frames)
    frames = [((note,), -1.0)] * n_frames
    struck = [
        events[0][4]
        for events, _ in heard_of(clicks)[0].follow(frames, 0.0, RATE, range(200, n_frames), False)
    ]
    assert [struck[round(seconds * RATE)] for seconds in times[:5]] == [9] * 5
    assert [struck[round(seconds * RATE)] for seconds in (1.2, 2.5, 2.9)] == [6] * 3
    assert set(struck[165:190]) == set(struck[200:]) == {8}, "far from all events, or given"
    marks = [(((BAR, 0, 0, 0, 0),), -1.0)] * n_frames
    assert list(heard_of(clicks)[0].follow(marks, 0.0, RATE, (), False)) == marks
    assert list(heard_of(clicks)[0].follow(frames, 0.0, RATE)) == frames
    soft = [(((*note[:4], velocity),), -1.0) for velocity in range(7) for _ in range(10)]
    struck = [events[0][4] for events, _ in heard_of(clicks)[0].follow(soft, 0.0, RATE, (), False)]
    assert struck[5::10][:6] == [0, 1, 2, 3, 4, 4], "no note vanishes"
    regular = heard_of(steps_room(6.0)[0])[0]
    frames = frames[: len(regular._frames)]
    assert list(regular.follow(frames, 0.0, RATE, (), False)) == frames, "where there is a pulse, it tells"


def test_notes_begin_rather_on_events_of_a_room_without_a_pulse_than_beside_them() -> None:
    clicks = 1e-4 * np.random.default_rng(0).standard_normal(10 * 24_000)
    times = [0.9, 1.52, 3.1, 3.56, 5.3, 8.8]
    for seconds in times:
        clicks[round(seconds * 24_000) :][:400] += 0.1 * np.exp(-np.arange(400) / 80.0)

    def gains(heard: Heard, field: str = "symbol") -> np.ndarray:
        found, near = [], NearEvents(heard)
        while heard._frames:
            logits = np.zeros(FIELDS[field], np.float32)
            near.mask(field, logits, ())
            assert not logits[:FIRST_PART].any() and len(set(logits[FIRST_PART:].tolist())) == 1
            found.append(float(logits[-1]))
            heard._go_on()
        return np.array(found)

    gained = gains(heard_of(clicks)[0])
    at = np.arange(len(gained)) / RATE
    apart = np.abs(at[:, None] - times).min(axis=1)
    assert (gained[apart < 0.02] > 0.0).all()
    assert (gained[(apart > 0.15) & (apart < 0.9)] < 0.0).all()
    assert not gained[apart > 1.1].any() and (apart > 1.1).any()
    assert not gains(heard_of(clicks)[0], "pitch").any()
    assert not gains(heard_of(steps_room(6.0)[0])[0]).any(), "where there is a pulse, it tells"


def test_parts_are_struck_about_as_hard_as_so_far_but_drums_and_given_notes() -> None:
    rng = np.random.default_rng(0)
    velocities = rng.integers(0, 16, 200).tolist()
    line, bass, drum = (
        symbol_of("melody", 0, False),
        symbol_of("bass", 32, False),
        symbol_of("harmony", 0, True),
    )
    frames = [
        (
            (
                (BEAT, 0, 0, 0, 0),
                *((symbol, 0, 60, 10, v) for symbol, v in ((line, velocity), (bass, 3), (drum, velocity))),
            ),
            0.0,
        )
        for velocity in velocities
    ]
    heard = heard_of(np.random.default_rng(1).standard_normal(10 * 24_000) * 1e-3)[0]
    given = range(20)
    found = [events for events, _ in heard.follow(frames, 0.0, RATE, given, touch=Touch())]
    assert [events[0] for events in found] == [frames[0][0][0]] * 200, "marks have no velocity"
    assert found[:20] == [events for events, _ in frames[:20]]
    struck = np.array([events[1][4] for events in found[20:]])
    assert all(events[2][4] == 3 for events in found), "each part has a touch of its own"
    assert [events[3][4] for events in found] == velocities
    assert 0.2 < struck.std() / np.std(velocities[20:]) < 0.45
    assert abs(struck.mean() - np.mean(velocities)) < 0.5, "no softer and no harder as a whole"
    assert np.corrcoef(struck, velocities[20:])[0, 1] > 0.8, "a hard note is still a hard one"


def test_where_there_is_nothing_notes_are_few_and_elsewhere_rests_are_short() -> None:
    memory, melody = Memory(RATE), symbol_of("melody", 0, False)
    hiss, _ = heard_of(0.001 * np.random.default_rng(0).standard_normal(96_000))
    steps, _ = heard_of(steps_room(6.0)[0])
    assert hiss.here()[1] and not steps.here()[1]

    def masked(rests: Rests, seconds: float) -> np.ndarray:
        logits = np.zeros(FIELDS["symbol"], np.float32)
        memory.advance(round(seconds * RATE))
        rests.mask("symbol", logits, ())
        return logits

    rests = Rests(hiss, memory, RATE)
    assert not masked(rests, 0.0).any()
    rests.write((melody, 0, 60, 0, 0))
    for seconds, allowed in ((0.0, False), (EMPTY_SECONDS - 0.1, False), (EMPTY_SECONDS, True)):
        logits = masked(rests, seconds)
        assert np.isfinite(logits[FIRST_PART:]).all() == allowed and not logits[:FIRST_PART].any()

    def longest(rests: Rests) -> float:
        logits = np.zeros(FIELDS["length"], np.float32)
        rests.mask("length", logits, (melody,))
        return float(LENGTHS_SECONDS[np.isfinite(logits)].max())

    assert longest(rests) < EMPTY_NOTE_SECONDS < longest(Rests(steps, memory, RATE))
    memory = Memory(RATE)
    rests = Rests(hiss, memory, RATE, may_be_empty=False)
    assert longest(rests) > EMPTY_NOTE_SECONDS
    rests.write((melody, 0, 60, 0, 0))
    assert not masked(rests, RESTLESS_SECONDS - 0.1).any()
    memory = Memory(RATE)
    rests = Rests(steps, memory, RATE)
    assert not masked(rests, RESTLESS_SECONDS - 0.1).any()
    later = masked(rests, RESTLESS_SECONDS + 2.0)
    assert (later[FIRST_PART:] > 5.0).all() and not later[:FIRST_PART].any()
    rests.write((melody, 0, 60, 0, 0))
    assert not masked(rests, RESTLESS_SECONDS + 2.0).any()


def test_before_the_first_note_a_frame_hardly_ends_without_one_where_the_room_sounds() -> None:
    melody = symbol_of("melody", 0, False)

    def lost(opening: Opening, field: str = "symbol") -> float:
        """By how many nats the end of a frame, or the first value of another field, is less likely; others are not."""
        logits = np.zeros(FIELDS[field], np.float32)
        opening.mask(field, logits, (melody,))
        assert not logits[1:].any(), "a note's marks are as likely beside it as they were"
        return -float(logits[0])

    assert END == 0
    opening = Opening(heard_of(steps_room(6.0)[0])[0])
    assert lost(opening) == OPENING and lost(opening, "pitch") == 0.0
    for event in ((BAR, 0, 0, 0, 0), None):
        opening.write(event)
        assert lost(opening) == OPENING
    opening.write((melody, 0, 60, 0, 0))
    opening.write(None)
    assert lost(opening) == 0.0
    hiss, silence = 0.001 * np.random.default_rng(0).standard_normal(96_000), np.zeros(96_000)
    for nothing in (hiss, silence):
        assert lost(Opening(heard_of(nothing)[0])) == 0.0
    nowhere = Heard(AMBIENT.n_mels)
    list(nowhere.hear([make_signals(3)], ("room",)))
    assert lost(Opening(nowhere)) == 0.0
    heard = heard_of(np.concatenate([np.zeros(72_000), steps_room(6.0)[0]]))[0]
    found = []
    for _ in range(150):
        found.append(lost(Opening(heard)))
        heard._go_on()
    assert not any(found[:70]) and found[-1] == OPENING, "a room that begins with silence is waited for"


def test_notes_begin_together_or_apart() -> None:
    memory, melody = Memory(RATE), symbol_of("melody", 0, False)
    together = Together(memory, RATE, frozenset([22]))

    def masked(frame: int, field: str = "symbol") -> np.ndarray:
        memory.advance(frame)
        logits = np.zeros(FIELDS[field], np.float32)
        together.mask(field, logits, (melody,))
        return np.isfinite(logits)

    assert masked(10).all() and masked(10, "place").all()
    together.write((melody, 2, 60, 5, 8))
    together.write(None)
    # More of the same chord, within a place.
    assert masked(10).all() and masked(10, "place").tolist() == [False, True, True, True]
    for frame, allowed in (
        (11, False),
        (12, False),
        (13, True),
        (19, True),
        (20, False),
        (21, False),
        (22, True),
    ):
        assert masked(frame)[FIRST_PART:].all() == allowed == masked(frame)[FIRST_PART:].any()
        assert masked(frame)[:FIRST_PART].all()


def test_drawing_follows_the_probabilities_and_cuts_the_unlikely_among_events_alone() -> None:
    logits = np.log(np.array([0.9, 0.06, 0.03, 0.01], np.float32))
    drawing = Drawing(ComposingConfig(top_p={"symbol": 0.5, "pitch": 0.95}), 0)
    symbols = np.bincount([drawing("symbol", logits, ()) for _ in range(4000)], minlength=4) / 4000
    assert symbols[END] == pytest.approx(0.9, abs=0.02)
    assert symbols[1] == pytest.approx(0.1, abs=0.02) and symbols[2] == symbols[3] == 0
    pitches = np.bincount([drawing("pitch", logits, (9, 0)) for _ in range(4000)], minlength=4) / 4000
    assert pitches[0] == pytest.approx(0.9 / 0.96, abs=0.02) and pitches[2] == 0
    assert Drawing(ComposingConfig(temperature=0.0), 0)("pitch", logits, (9, 0)) == 0
    assert drawing("pitch", np.full(4, -np.inf, np.float32), (9, 0)) is None


def test_a_score_that_was_begun_is_gone_on_with() -> None:
    composer, signals = make_composer(), make_signals(80)
    begun = write_down(make_score(), RATE)
    packed = PackedComposer(composer)
    with torch.inference_mode():
        given, null = composer.steer(signals)
    plain = dataclasses.replace(SETTINGS, constraints=())
    frames = [events for events, _ in write_frames(packed, [(given, null)], plain, 0, 3, begun, 50)]
    first = Manuscript.of((events, 0.0) for events in frames[:50]).written()
    assert np.array_equal(first.frames, begun.slice(0, 50).frames)
    notes = first.fields[:, 0] >= FIRST_PART
    assert np.array_equal(first.fields[notes], begun.slice(0, 50).fields[notes])
    assert sum(map(len, frames[50:])) > 0


def test_wrong_settings_are_named() -> None:
    composer, signals = make_composer(), make_signals(4)
    with pytest.raises(ConfigError, match="guidance"):
        written_by(composer, signals, ComposingConfig())
    with pytest.raises(ConfigError, match="'rhyme' is unknown; expected some of order"):
        written_by(composer, signals, ComposingConfig(guidance=1.0, constraints=("rhyme",)))
    with pytest.raises(ConfigError, match="top_p names 'tone'"):
        written_by(composer, signals, ComposingConfig(guidance=1.0, top_p={"tone": 0.5}))
    assert Copying([])("symbol", np.zeros(3, np.float32), ()) == END


def test_scores_are_heard_in_c_major_and_written_in_any_key() -> None:
    scale = [60, 62, 64, 65, 67, 69, 71, 72, 60]
    starts = np.arange(len(scale)) * 0.5
    for semitones in (-5, 0, 3):
        part = Part(
            "piano", 0, False, "melody", starts, starts + 0.5, np.array(scale) + semitones, np.full(9, 64)
        )
        assert home_shift(Score(5.0, (part,))) == -semitones
    assert home_shift(Score(5.0, ())) == 0
    composer, signals = make_composer(), make_signals(60)
    packed = PackedComposer(composer)
    with torch.inference_mode():
        conditioning = composer.steer(signals)
    free = dataclasses.replace(SETTINGS, constraints=("order",))
    home, other = (
        Manuscript.of(write_frames(packed, [conditioning], free, 0, shift)).written() for shift in (0, 2)
    )
    expected = [moved(tuple(event), 2) for event in home.fields.tolist()]
    assert sorted(expected) == sorted(map(tuple, other.fields.tolist()))
    assert len(home.fields) > 10


def test_an_instrument_keeps_to_its_range_in_every_key() -> None:
    composer = make_composer()
    melody, drums = symbol_of("melody", 0, False), symbol_of("percussion", 0, True)
    composer.known_pitches.zero_()
    composer.known_pitches[melody, 60:72] = True
    composer.known_pitches[drums, 36] = True
    for shift in (-6, 0, 5):
        rule = Known(composer, Memory(RATE), shift)
        allowed = {}
        for symbol in (melody, drums):
            logits = np.zeros(128, np.float32)
            rule.mask("pitch", logits, (symbol, 0))
            allowed[symbol] = np.flatnonzero(np.isfinite(logits))
        assert (allowed[melody] + shift).tolist() == list(range(60, 72))
        assert allowed[drums].tolist() == [36]
