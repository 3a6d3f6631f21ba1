"""Composing for a recording: the model's data path to a score, and `s2m compose`."""

from __future__ import annotations

import json
import math
import shutil
from collections import deque
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import RATE, steps_room

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.composer import Composer
from silent2music.config import AmbientConfig, ComposerConfig, ComposingConfig
from silent2music.controls import Controls
from silent2music.errors import CheckpointError
from silent2music.model import Silent2Music
from silent2music.notation import nearest_lengths, symbol_of, write_down
from silent2music.score import Part, Score, read_midi, write_midi
from silent2music.writing import SUSTAINED_SECONDS, Frame, Manuscript, automation_of, noted, sustained

AMBIENT = AmbientConfig(dim=32, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=2)


def make_composer(ambient: AmbientConfig = AMBIENT) -> Composer:
    torch.manual_seed(0)
    composer = Composer(
        ComposerConfig(
            ambient=ambient,
            dim=32,
            n_layers=1,
            n_heads=2,
            attention_window=50,
            writer_dim=16,
            writer_layers=1,
        )
    )
    composer.set_limits([made_score()])
    with torch.no_grad():
        for name, weight in composer.named_parameters():
            if not name.startswith("habits."):  # which count much more
                weight.add_(0.1 * torch.randn_like(weight))
        composer.heads["symbol"].bias[0] += 2.0  # not a note in every frame
    return composer.eval()


def made_score(seconds: float = 1.0) -> Score:
    starts = np.array([0.0, 0.5])
    notes = (starts, starts + 0.4, np.array([60, 64]), np.array([80, 60]))
    drums = (starts, starts + 0.1, np.array([36, 38]), np.array([80, 60]))
    beats = np.arange(0, seconds, 0.5)
    return Score(
        seconds,
        (Part("harp", 46, False, "melody", *notes), Part("drums", 0, True, "percussion", *drums)),
        beat_seconds=beats,
        bar_seconds=beats[:1],
    )


def test_notes_last_until_their_parts_next_ones_if_these_begin_soon() -> None:
    rate, harp = 25.0, symbol_of("melody", 46, False)
    cello, drums = symbol_of("bass", 42, False), symbol_of("percussion", 0, True)
    short, whole, long = (int(nearest_lengths(seconds)[0]) for seconds in (0.2, 1.0, 4.0))
    frames = [((), -float(i)) for i in range(100)]
    # Begins, and how long it lasts by its last field: harp chords at 0, 1, 1.4 and 3.4 s; the others play once or twice.
    for at, event in (
        (0, (harp, 0, 60, short, 8)), (0, (harp, 0, 64, long, 8)), (0, (cello, 0, 40, short, 8)),
        (0, (drums, 0, 38, short, 8)), (25, (harp, 0, 60, short, 8)), (25, (drums, 0, 38, short, 8)),
        (35, (harp, 0, 62, short, 8)), (85, (harp, 0, 64, short, 8)),
    ):  # fmt: skip
        frames[at] = ((*frames[at][0], event), frames[at][1])

    def lengths(given: frozenset[int]) -> list[list[int]]:
        found = list(sustained(iter(frames), rate, given))
        assert [gain for _, gain in found] == [gain for _, gain in frames]
        for (own, _), (before, _) in zip(found, frames, strict=True):
            assert [(*e[:3], e[4]) for e in own] == [(*e[:3], e[4]) for e in before]
        return [[event[3] for event in found[at][0]] for at in (0, 25, 35, 85)]

    until_next = int(nearest_lengths(0.4)[0])
    assert lengths(frozenset()) == [[whole, long, short, short], [until_next, short], [short], [short]]
    assert lengths(frozenset({0, 25})) == [[short, long, short, short], [short, short], [short], [short]]
    most = np.full(len(frames), 0.3)
    found = [[e[3] for e in own] for own, _ in sustained(iter(frames), rate, frozenset(), most)]
    least = int(nearest_lengths(0.3)[0])
    assert [found[at] for at in (0, 25)] == [[least, long, short, short], [least, short]]
    # The cello's note may become longer for two seconds, until when all before the harp's third chord is known.
    taken = iter(frames)
    assert len(list(islice(sustained(taken, rate, frozenset()), 35))) == 35
    assert next(taken)[1] == -math.ceil(SUSTAINED_SECONDS * rate), "it waits for no more than it must"
    taken = iter(frames)
    next(sustained(taken, rate, frozenset({0})))
    assert next(taken)[1] == -1.0, "nor where nothing can become longer"


@pytest.fixture(scope="module")
def composing_folder(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("composing") / "model"
    shutil.copytree(model_folder, folder)
    make_composer().save_pretrained(folder / "composer")
    return folder


@pytest.fixture(scope="module")
def model(composing_folder):
    return Silent2Music.from_pretrained(composing_folder)


def frames_of(model, room, **options):
    return list(model.compose_frames(room, ComposingConfig(seed=3), **options))


def test_a_score_is_as_long_as_its_room_or_as_asked_for_and_its_seed_decides_it(model) -> None:
    room = Waveform(steps_room(3.0), RATE)
    score = model.compose(room, seed=3)
    assert score.seconds == 3.0 and score.n_notes > 5
    assert {part.name for part in score.parts} <= {"harp", "drums"}
    assert len(score.gain_db) == 30 and (score.gain_db <= 0).all()
    again, other = (write_down(model.compose(room, seed=seed), 25.0) for seed in (3, 4))
    assert np.array_equal(write_down(score, 25.0).fields, again.fields)
    assert not np.array_equal(again.fields, other.fields)
    assert model.compose(room, 4.5, seed=3).seconds == 4.5


def test_frames_as_they_come_are_the_whole_whatever_pieces_the_room_is_heard_in(model, monkeypatch) -> None:
    room = Waveform(steps_room(4.0), RATE)
    whole = frames_of(model, room)
    assert len(whole) == 100
    monkeypatch.setattr("silent2music.listening.PIECE_STEPS", 7)
    pieces = frames_of(model, room)
    assert [events for events, _ in pieces] == [events for events, _ in whole]
    early = model.compose_frames(room, ComposingConfig(seed=3))
    assert [next(early)[0] for _ in range(10)] == [events for events, _ in whole[:10]]


def test_in_a_room_without_a_pulse_notes_begin_rather_on_its_events(model, monkeypatch) -> None:
    clicks = 1e-4 * np.random.default_rng(0).standard_normal(6 * RATE)
    times = [0.9, 1.52, 3.1, 3.56, 5.3]
    for seconds in times:
        clicks[round(seconds * RATE) :][:400] += 0.1 * np.exp(-np.arange(400) / 80.0)
    room = Waveform(clicks[None].astype(np.float32), RATE)

    def apart(nats: float) -> float:
        """Mean seconds of notes from the nearest event."""
        monkeypatch.setattr("silent2music.composing.TO_EVENT", nats)
        scores = [model.compose(room, seed=seed) for seed in range(4)]
        starts = np.concatenate([part.start_seconds for score in scores for part in score.parts])
        return float(np.abs(starts[:, None] - times).min(axis=1).mean())

    assert apart(4.0) < 0.6 * apart(0.0)


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"mood": ((0.0, -0.4, 0.5),)},
        {"melody": ((1.0, 1.5, 60, 80),)},
        {"tempo": 90.0},
        {"density": ((0.0, 0.3),)},
    ],
)
def test_music_begins_soon_unless_a_wish_says_when(model, monkeypatch, wish) -> None:
    room = Waveform(steps_room(6.0), RATE)
    asked = Controls(**wish) if wish else None

    def first(nats: float) -> float:
        """Mean seconds until the first note."""
        monkeypatch.setattr("silent2music.composing.OPENING", nats)
        scores = [model.compose(room, seed=seed, asked=asked) for seed in range(4)]
        starts = [min((part.start_seconds[0] for part in score.parts), default=6.0) for score in scores]
        return float(np.mean(starts))

    soon, late = first(20.0), first(-20.0)
    if set(wish) <= {"mood"}:
        assert soon < 0.04 and late > 1.0
    else:
        assert soon == late


def test_live_sound_is_composed_for_as_it_comes(model) -> None:
    room = Waveform(steps_room(2.0), RATE)
    step = RATE // 25
    heard = 0

    def chunks():
        nonlocal heard
        for begin in range(0, room.n_samples, step):
            heard += 1
            yield Waveform(room.slice(begin, begin + step), RATE)

    waits = [heard for _ in model.compose_frames(chunks())]
    assert len(waits) == 50
    # Once there is enough to measure, each frame is composed when it has been heard.
    assert waits[-20:] == list(range(31, 51))


def test_without_the_room_no_room_matters(model) -> None:
    rooms = [Waveform(steps_room(2.0, interval=interval), RATE) for interval in (0.3, 0.55)]
    blind = [[e for e, _ in frames_of(model, room, without=("room",))] for room in rooms]
    heard = [[e for e, _ in frames_of(model, room)] for room in rooms]
    assert blind[0] == blind[1] and heard[0] != heard[1]


def test_a_model_without_a_composer_says_so_and_one_of_other_features_is_refused(
    model_folder, tmp_path
) -> None:
    plain = Silent2Music.from_pretrained(model_folder)
    with pytest.raises(
        CheckpointError, match=r"'tiny' has no composer; give a model folder with composer/ in it"
    ):
        plain.compose(Waveform(steps_room(), RATE))
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    make_composer(AmbientConfig(dim=32, n_layers=1, n_mels=8, n_fft=512)).save_pretrained(folder / "composer")
    with pytest.raises(CheckpointError, match=r"ambient.n_mels 8 and the model with 16"):
        Silent2Music.from_pretrained(folder)


def test_a_model_is_saved_with_its_composer_and_plays_as_without(model, model_folder, tmp_path) -> None:
    model.save_pretrained(tmp_path / "again")
    again = Silent2Music.from_pretrained(tmp_path / "again")
    for name, value in model.composer.state_dict().items():
        assert torch.equal(again.composer.state_dict()[name], value), name
    assert not any(name.startswith("composer.") for name in model.own_state())
    room = Waveform(steps_room(1.0), RATE)
    plain = Silent2Music.from_pretrained(model_folder)
    again = Silent2Music.from_pretrained(tmp_path / "again")
    assert np.array_equal(again.generate(room).samples, plain.generate(room).samples)
    # Music for the room alone leaves the composer unread.
    assert again._modules["composer"] is None and again.composer is not None


def test_the_command_writes_scores_with_their_records(s2m, room_file, composing_folder, tmp_path) -> None:
    out = tmp_path / "made" / "room.mid"
    out.parent.mkdir()
    options = ("--model", composing_folder, "--seed", 3, "--json")
    code, said, complaint = s2m("compose", room_file, "-o", out, *options, "--count", 2)
    assert code == 0, complaint
    records = [json.loads(line) for line in said.splitlines()]
    assert [record["output"]["file"] for record in records] == ["room.1.mid", "room.2.mid"]
    for number, record in enumerate(records, start=1):
        path = out.with_name(f"room.{number}.mid")
        score = read_midi(path)
        assert score.seconds == pytest.approx(2.0, abs=0.01)
        assert score.n_notes == record["output"]["notes"] > 0
        assert record["settings"]["seed"] == 2 + number
        assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == record
    first = out.with_name("room.1.mid").read_bytes()
    assert s2m("compose", room_file, "-o", out, *options)[0] == 0
    assert out.read_bytes() == first
    code, _, complaint = s2m("compose", room_file, "-o", out, *options)
    assert code == 1 and "room.mid exists already; give --force" in complaint
    assert s2m("compose", room_file, "-o", out, *options, "--force")[0] == 0


def test_the_command_goes_on_from_a_score(s2m, room_file, composing_folder, tmp_path) -> None:
    write_midi(tmp_path / "sketch.mid", made_score())
    options = ("--model", composing_folder, "--continue", tmp_path / "sketch.mid")
    code, _, complaint = s2m("compose", room_file, "-o", tmp_path / "room.mid", *options)
    assert code == 0, complaint
    score = read_midi(tmp_path / "room.mid")
    (harp,) = [part for part in score.parts if part.name == "harp"]
    assert harp.start_seconds[:2] == pytest.approx([0.0, 0.5], abs=0.006)
    assert harp.pitches[:2].tolist() == [60, 64]
    assert max(part.start_seconds.max() for part in score.parts) > 1.0
    code, _, complaint = s2m("compose", room_file, "-o", tmp_path / "b.mid", *options, "--seconds", 0.5)
    assert code == 1 and "lasts 1.0 s and the score is to last 0.5 s; give --seconds with more" in complaint
    assert not (tmp_path / "b.mid").exists() and not (tmp_path / "b.json").exists()


def test_the_command_says_what_is_wrong(s2m, room_file, model_folder, composing_folder, tmp_path) -> None:
    code, _, complaint = s2m("compose", room_file, "-o", tmp_path / "a.mid", "--model", model_folder)
    assert code == 1 and "has no composer" in complaint
    code, _, complaint = s2m("compose", room_file, "-o", tmp_path / "a.wav", "--model", composing_folder)
    assert code == 1 and "suffix '.wav'; expected one of .mid, .midi" in complaint
    code, _, complaint = s2m("compose", tmp_path / "no.wav", "--model", composing_folder)
    assert code == 1 and "no.wav" in complaint
    assert not list(tmp_path.glob("a.*"))
    audio.write(tmp_path / "silence.wav", Waveform(np.zeros((1, RATE), np.float32), RATE))
    code, _, complaint = s2m(
        "compose", tmp_path / "silence.wav", "-o", tmp_path / "s.mid", "--model", composing_folder
    )
    assert code == 0, complaint


@pytest.mark.parametrize("frame_rate", [25.0, 50.0, 75.0])
def test_loudness_is_known_as_music_goes_on_as_its_score_has_it(frame_rate: float) -> None:
    rng = np.random.default_rng(0)
    composed = [((), float(db)) for db in -20.0 * rng.random(round(3.5 * frame_rate))]
    manuscript, queue = Manuscript(), deque[Frame]()
    frames = noted(noted(composed, manuscript), queue)
    known, found = automation_of(queue, frame_rate), []
    for frame, _ in enumerate(frames):
        while len(found) / 10.0 <= (frame - 1) / frame_rate:
            found.append(next(known))
        assert len(queue) <= frame_rate / 10.0 + 3.0, "what is played is let go"
    found.append(next(known))
    score = manuscript.score(3.5, frame_rate, None)
    assert len(found) >= 35
    np.testing.assert_allclose(found[:35], score.gain_db, atol=1e-9)
