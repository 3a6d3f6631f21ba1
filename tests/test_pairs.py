import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from silent2music.audio import Waveform, write
from silent2music.data.pairs import (
    MANIFEST,
    Pair,
    check,
    load_pair,
    music_files,
    read_pairs,
    score_of,
    silent_side,
    sounding_pairs,
    write_pairs,
)
from silent2music.errors import AudioError, DataError
from silent2music.score import Part, Score, write_midi

RATE = 8000


def noise(seconds: float, dbfs: float, seed: int = 0, rate: int = RATE) -> Waveform:
    samples = np.random.default_rng(seed).standard_normal((1, round(seconds * rate)))
    return Waveform((samples * 10 ** (dbfs / 20)).astype(np.float32), rate)


def put(
    folder: Path, name: str, seconds: float = 2.0, silent_dbfs: float = -60, music_dbfs: float = -20
) -> dict:
    """Write both sides of a pair and return its line."""
    write(folder / f"{name}.silent.wav", noise(seconds, silent_dbfs))
    write(folder / f"{name}.music.wav", noise(seconds, music_dbfs))
    return {"silent": f"{name}.silent.wav", "music": f"{name}.music.wav"}


def write_lines(folder: Path, lines: list) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / MANIFEST).write_text("\n".join(texts) + "\n")


names = st.text("abcäß/._ -", min_size=1, max_size=12)
seconds = st.none() | st.floats(0, 1e4, allow_nan=False)
labels = st.dictionaries(
    st.text(max_size=8), st.none() | st.integers() | st.lists(st.floats(-1, 1)), max_size=3
)


@settings(deadline=None)
@given(
    st.builds(
        Pair,
        names,
        st.none() | names,
        seconds,
        seconds,
        st.sampled_from(["train", "validation"]),
        labels,
        st.none() | names,
    )
)
def test_a_line_gives_back_its_pair(pair: Pair) -> None:
    values = json.loads(pair.to_line())
    assert "\n" not in pair.to_line()
    assert Pair(**values) == pair


def test_write_then_read_gives_the_same_pairs(tmp_path: Path) -> None:
    pairs = [
        Pair(
            "a.wav",
            "b.wav",
            labels={"kind": "room", "beats": np.array([0.5, 1.0]), "tempo_bpm": np.float32(72)},
        ),
        Pair("sub/ä.wav", "d.wav", 1.0, 9.5, "validation"),
    ]
    write_pairs(tmp_path, pairs)
    first, second = read_pairs(tmp_path)
    assert first.labels == {"kind": "room", "beats": [0.5, 1.0], "tempo_bpm": 72.0}
    assert first.kind == "room"
    assert second == pairs[1]
    assert second.id == "sub/ä.wav:d.wav@1.0-9.5"


def test_labels_that_are_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finite plain values"):
        write_pairs(tmp_path, [Pair("a", "b", labels={"tempo_bpm": float("nan")})])
    assert not (tmp_path / MANIFEST).exists()


def test_a_hand_written_manifest_needs_little(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b'\xef\xbb\xbf{"silent": "a.wav", "music": "b.wav"}\r\n\r\n')
    assert read_pairs(tmp_path) == [Pair("a.wav", "b.wav")]


def test_read_names_file_and_line(tmp_path: Path) -> None:
    write_lines(tmp_path, [{"silent": "a", "music": "b"}, "", {"silent": "a"}])
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 3: The key 'music' is missing"):
        read_pairs(tmp_path)
    with pytest.raises(DataError, match="expected a pair folder"):
        read_pairs(tmp_path / "nowhere")


def test_a_last_line_without_its_end_counts_and_half_a_line_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"silent": "a", "music": "b"}')
    assert read_pairs(tmp_path) == [Pair("a", "b")]
    with (tmp_path / MANIFEST).open("a") as file:
        file.write('\n{"silent": "c", "mu')
    with pytest.raises(DataError, match="line 2"):
        read_pairs(tmp_path)


def test_load_cuts_both_sides_alike(tmp_path: Path) -> None:
    ramp = np.linspace(0, 0.5, 4 * RATE, dtype=np.float32)[None]
    write(tmp_path / "a.wav", Waveform(ramp * np.float32(0.01), RATE))
    write(tmp_path / "b.wav", Waveform(np.repeat(ramp, 2, axis=0), RATE))
    silent, music = load_pair(tmp_path, Pair("a.wav", "b.wav", 1.0, 3.0))
    assert silent.samples.shape == (1, 2 * RATE)
    assert music.samples.shape == (2, 2 * RATE)
    np.testing.assert_allclose(music.samples[0], ramp[0, RATE : 3 * RATE], atol=1e-6)
    with pytest.raises(AudioError, match="lie inside"):
        load_pair(tmp_path, Pair("a.wav", "b.wav", 1.0, 5.0))


def test_a_good_folder_has_no_fault(tmp_path: Path) -> None:
    source = {"path": "x.wav", "licence": "CC0", "author": "A"}
    room = {"path": "church.wav", "licence": "CC0", "author": "A", "role": "room"}
    train, held_out = put(tmp_path, "a"), put(tmp_path, "b")
    train["labels"] = {"sources": [source, room], "score": "one.mid", "anything": {"else": 1}}
    held_out |= {
        "split": "validation",
        "labels": {"sources": [room], "score": "two.mid"},
        "start": 0.5,
        "end": 2,
    }
    write_lines(tmp_path, [train, held_out])
    assert check(tmp_path) == []


def test_check_finds_all_planted_faults_in_one_pass(tmp_path: Path) -> None:
    source = {"path": "x.wav", "licence": "CC0", "author": "A"}
    good = put(tmp_path, "good") | {"labels": {"sources": [source], "score": "one.mid"}}
    other = put(tmp_path, "other")
    planted: list[tuple[object, set[str]]] = [
        (good, set()),
        ('{"silent": "a.wav", ', {"malformed-json"}),
        ('{"silent": "a.wav", "music": "b.wav", "start": NaN}', {"malformed-json"}),
        ({"silent": "good.silent.wav"}, {"missing-key"}),
        (put(tmp_path, "c") | {"colour": "red"}, {"unknown-key"}),
        (put(tmp_path, "d") | {"start": "0:30"}, {"wrong-type"}),
        (other | {"silent": "../x.wav"}, {"outside-folder"}),
        (other | {"silent": "/etc/passwd"}, {"outside-folder"}),
        (other | {"silent": "nowhere.wav"}, {"missing-file"}),
        (put(tmp_path, "text"), {"unreadable"}),
        (put(tmp_path, "nan"), {"unreadable"}),
        (put(tmp_path, "long"), {"lengths-differ"}),
        (put(tmp_path, "loud", silent_dbfs=-30), {"silent-side-loud"}),
        (put(tmp_path, "mute", music_dbfs=-70), {"music-side-silent"}),
        (put(tmp_path, "e") | {"start": 1.5, "end": 1.0}, {"bad-range"}),
        (put(tmp_path, "f") | {"end": 9}, {"range-outside-audio"}),
        (put(tmp_path, "g") | {"split": "test"}, {"unknown-split"}),
        (good, {"duplicate"}),
        (put(tmp_path, "m") | {"silent": "./good.silent.wav", "split": "validation"}, {"file-in-two-splits"}),
        (
            put(tmp_path, "h") | {"split": "validation", "labels": {"sources": [source]}},
            {"source-in-two-splits"},
        ),
        (
            put(tmp_path, "i") | {"split": "validation", "labels": {"score": "one.mid"}},
            {"score-in-two-splits"},
        ),
        (put(tmp_path, "j") | {"labels": {"sources": [{"path": "y.wav"}]}}, {"no-licence"}),
        (put(tmp_path, "k", silent_dbfs=-30, music_dbfs=-70), {"silent-side-loud", "music-side-silent"}),
    ]
    (tmp_path / "text.music.wav").write_text("no audio at all")
    soundfile.write(tmp_path / "nan.silent.wav", np.full(2 * RATE, np.nan), RATE, subtype="FLOAT")
    write(tmp_path / "long.silent.wav", noise(2.06, -60), force=True)
    write_lines(tmp_path, [line for line, _ in planted])

    faults = check(tmp_path)

    found: dict[int, set[str]] = {}
    for fault in faults:
        found.setdefault(fault.line, set()).add(fault.what)
    expected = {line: what for line, (_, what) in enumerate(planted, 1) if what}
    assert found == expected
    assert len({fault.what for fault in faults}) >= 12
    assert all(fault.message.endswith((".", "?")) for fault in faults)


def test_lengths_may_differ_by_50_ms(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(2.049, -60))
    write(tmp_path / "b.wav", noise(2.0, -20, rate=44_100))
    write_lines(tmp_path, [{"silent": "a.wav", "music": "b.wav"}])
    assert check(tmp_path) == []


def test_a_link_out_of_the_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    line = put(folder, "a")
    (folder / "a.silent.wav").rename(tmp_path / "elsewhere.wav")
    (folder / "a.silent.wav").symlink_to(tmp_path / "elsewhere.wav")
    write_lines(folder, [line])
    assert [fault.what for fault in check(folder)] == ["outside-folder"]


def test_an_empty_manifest_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("\n")
    assert [fault.what for fault in check(tmp_path)] == ["empty"]
    with pytest.raises(DataError, match="expected a pair folder"):
        check(tmp_path / "nowhere")


# ---- scores, and pairs without sound ----


def put_score(folder: Path, name: str, length: float = 2.0) -> str:
    """Write a score of one note and return its file's name."""
    note = Part("piano", 0, False, "", np.array([0.5]), np.array([1.5]), np.array([60]), np.array([80]))
    write_midi(folder / f"{name}.mid", Score(length, (note,)))
    return f"{name}.mid"


def test_a_pair_without_sound_is_a_pair(tmp_path: Path) -> None:
    line = {**put(tmp_path, "a"), "score": put_score(tmp_path, "a")}
    write_lines(tmp_path, [line, {**put(tmp_path, "b"), "music": None, "score": put_score(tmp_path, "b")}])
    with_sound, without = read_pairs(tmp_path)
    assert check(tmp_path) == []
    assert sounding_pairs(tmp_path) == [with_sound]
    assert music_files(tmp_path) == [tmp_path / "a.music.wav"]
    assert without.id == "b.silent.wav:b.mid"
    assert json.loads(without.to_line())["music"] is None
    assert silent_side(tmp_path, without).seconds == 2.0
    with pytest.raises(DataError, match="has no music"):
        load_pair(tmp_path, without)


def test_the_score_of_a_pair_is_cut_as_its_sides_are(tmp_path: Path) -> None:
    line = {**put(tmp_path, "a"), "score": put_score(tmp_path, "a"), "start": 1.0, "end": 1.8}
    write_lines(tmp_path, [line])
    (pair,) = read_pairs(tmp_path)
    score = score_of(tmp_path, pair)
    assert score is not None and score.seconds == pytest.approx(0.8)
    assert score.parts[0].end_seconds == pytest.approx([0.5], abs=1e-3)
    assert score_of(tmp_path, replace(pair, score=None)) is None


@pytest.mark.parametrize(
    ("change", "what", "message"),
    [
        ({"music": None}, "wrong-type", "or a score where there is no music"),
        ({"music": None, "score": ""}, "wrong-type", "expected the path of an audio file"),
        ({"score": 3}, "wrong-type", "'score' is 3; expected the path of a MIDI file"),
        ({"score": "../a.mid"}, "outside-folder", "'score' is '../a.mid'"),
        ({"score": "gone.mid"}, "missing-file", "The score 'gone.mid' is not there"),
        ({"score": "a.silent.wav"}, "unreadable", "cannot be read as MIDI"),
        ({"score": "long.mid"}, "lengths-differ", "The score lasts 3.00 s"),
    ],
)
def test_faults_of_scores_are_named(tmp_path: Path, change: dict, what: str, message: str) -> None:
    put_score(tmp_path, "long", 3.0)
    write_lines(tmp_path, [{**put(tmp_path, "a"), **change}])
    faults = check(tmp_path)
    assert what in {fault.what for fault in faults}
    assert any(message in fault.message for fault in faults), faults


def test_a_score_is_in_one_split_alone(tmp_path: Path) -> None:
    score = put_score(tmp_path, "shared")
    lines = [
        {**put(tmp_path, "a"), "score": score},
        {**put(tmp_path, "b"), "score": score, "split": "validation"},
    ]
    write_lines(tmp_path, lines)
    assert [fault.what for fault in check(tmp_path)] == ["file-in-two-splits"]
