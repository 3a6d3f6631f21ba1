"""What the silent side is made of: names, licences, splits, one-shots and rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from library import RATE, clicks, noise_bed, response, write_ambience, write_rooms

from silent2music.errors import DataError
from silent2music.factory.rooms import measured_rt60, prepared_response, simulated_room
from silent2music.factory.sources import (
    BED,
    EVENT,
    cut_shots,
    held_out,
    open_library,
    read_licences,
    roles_of,
    source_of,
)


@pytest.mark.parametrize(
    ("path", "kind", "role"),
    [
        ("berklee/footsteps_long_1.mp3", "steps", EVENT),
        ("berklee/plastic_bottle_stairs_1.mp3", "steps", EVENT),
        ("esc10/clock-tick/1-21934-A.ogg", "steps", EVENT),
        ("esc10/sea-waves/1-28135-A.ogg", "weather", BED),
        ("berklee/train3.mp3", "machine", BED),
        ("berklee/rain+thunder1.mp3", "weather", BED),
        ("berklee/waterpump_electric.mp3", "machine", BED),
        ("blanket/coffee-shop.ogg", "street", BED),
    ],
)
def test_names_say_kind_and_role(path: str, kind: str, role: str) -> None:
    roles = roles_of(path)
    assert roles is not None
    assert kind in roles[0]
    assert roles[1] == role


def test_a_train_is_no_rain_and_an_unknown_name_is_nothing() -> None:
    roles = roles_of("train.ogg")
    assert roles is not None
    assert "weather" not in roles[0]
    assert roles_of("holiday.wav") is None


def test_trailing_numbers_are_one_source_and_other_names_are_not() -> None:
    assert source_of("a/fan_1a.mp3") == source_of("a/fan_1.mp3") == source_of("a/fan.mp3")
    assert source_of("a/background_noise_1_2.mp3") == source_of("a/background_noise_1.mp3")
    assert source_of("a/radiator_long-1.mp3") == source_of("a/radiator_long_2.mp3")
    assert source_of("a/stairs+metal1.mp3") != source_of("a/stairs+sticks1.mp3")
    assert source_of("rain/1-17367-A.ogg", "x") == source_of("rain/1-17368-B.ogg", "x")
    assert source_of("rain/1-17367-A.ogg", "x") != source_of("rain/1-17367-A.ogg", "y")


def test_held_out_leaves_something_on_both_sides_and_does_not_move_with_new_names() -> None:
    names = [f"n{i}" for i in range(30)]
    aside = held_out([names], 0.1)
    assert len(aside) == 3
    assert held_out([["only"]], 0.5) == set()
    assert len(held_out([["one", "two"]], 0.01)) == 1
    assert held_out([names], 0.0) == set()
    assert len(held_out([[*names, "new"]], 0.1) & aside) >= 2


def test_shots_begin_at_the_onsets_that_were_there() -> None:
    rng = np.random.default_rng(0)
    onsets = np.array([0.4, 1.1, 1.5, 2.6])
    samples = clicks(rng, 3.5, onsets).astype(np.float32)
    shots = cut_shots(samples)
    found = np.array([(shot.start + shot.attack) / RATE for shot in shots])
    assert len(found) == 4
    np.testing.assert_allclose(found, onsets, atol=0.003)
    assert all(0.05 <= (shot.stop - shot.start) / RATE <= 0.61 for shot in shots)


def test_steady_noise_and_silence_have_no_shots() -> None:
    assert cut_shots(noise_bed(np.random.default_rng(1), 3.0, 1000).astype(np.float32)) == ()
    assert cut_shots(np.zeros(3 * RATE, np.float32)) == ()
    assert cut_shots(np.zeros(10, np.float32)) == ()


@pytest.mark.parametrize("rt60", [0.3, 0.8, 2.5])
def test_rt60_of_an_exponential_decay(rt60: float) -> None:
    assert measured_rt60(response(rt60).astype(np.float32)) == pytest.approx(rt60, rel=0.08)


@pytest.mark.parametrize("rt60", [0.25, 1.0, 3.5])
def test_simulated_room_has_about_the_reverberation_asked_for(rt60: float) -> None:
    found = simulated_room(np.random.default_rng(3), rt60)
    assert measured_rt60(found) == pytest.approx(rt60, rel=0.3)
    assert np.square(found).sum() == pytest.approx(1.0, rel=0.05)


def test_prepared_response_starts_with_its_direct_sound() -> None:
    late = np.concatenate([1e-4 * np.ones(3000), response(0.5)]).astype(np.float32)
    prepared = prepared_response(late)
    assert np.abs(prepared).argmax() <= RATE // 1000
    assert np.square(prepared).sum() == pytest.approx(1.0, rel=0.02)


def test_library_splits_by_source_and_refuses_what_has_no_licence(tmp_path: Path) -> None:
    ambience, rooms = write_ambience(tmp_path / "ambience"), write_rooms(tmp_path / "rooms")
    library = open_library(ambience, rooms, tmp_path / "cache", n_simulated=4)
    assert library.refused == ("rain_unlicensed.wav",)
    assert len(library.rooms) == 6
    assert {round(r.rt60_seconds, 1) for r in library.rooms if r.credit} == {0.5, 2.0}
    train, validation = library.split(0.2)
    assert not {c.source for c in train.clips} & {c.source for c in validation.clips}
    assert not {r.name for r in train.rooms} & {r.name for r in validation.rooms}
    assert len(train.clips) + len(validation.clips) == len(library.clips)
    for part in (train, validation):
        assert part.find("weather", BED)
        assert part.find("steps", EVENT)
        assert [r for r in part.rooms if r.credit]


def test_a_cached_library_is_the_same_library(tmp_path: Path) -> None:
    ambience = write_ambience(tmp_path / "ambience")
    first = open_library(ambience, None, tmp_path / "cache", n_simulated=2)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    second = open_library(ambience, None, tmp_path / "cache", n_simulated=2)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert second.clips == first.clips
    clip = second.find("steps", EVENT)[0]
    np.testing.assert_array_equal(second.audio(clip), first.audio(clip))
    assert np.sqrt(np.mean(np.square(second.audio(clip)))) == pytest.approx(1.0, rel=1e-2)


def test_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no index\.tsv"):
        read_licences(tmp_path)
    (tmp_path / "index.tsv").write_text("file\tlicense\na.wav\tCC0\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected at least path and licence"):
        read_licences(tmp_path)


def test_licences_of_a_page_by_headings(tmp_path: Path) -> None:
    page = (
        "# Files\n\n### St. Mary’s.wav\n\nBy: [Some Lab](https://example.org), York\n\n"
        "This work is provided under a Creative Commons Attribution 4.0 International License.\n"
        "\n### other.wav\n\nAll rights unclear.\n"
    )
    (tmp_path / "X-LICENSE.md").write_text(page, encoding="utf-8")
    credits = read_licences(tmp_path)
    assert list(credits) == ["St. Mary's.wav"]
    assert credits["St. Mary's.wav"].licence.startswith("Creative Commons Attribution")
    assert credits["St. Mary's.wav"].author == "Some Lab, York"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere holds no index\.tsv"):
        open_library(tmp_path / "nowhere", None, tmp_path / "cache")
