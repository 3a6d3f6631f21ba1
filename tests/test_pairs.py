import json
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
    read_pairs,
    write_pairs,
)
from silent2music.errors import AudioError, DataError

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
@given(st.builds(Pair, names, names, seconds, seconds, st.sampled_from(["train", "validation"]), labels))
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
