"""A copy is caught by name in any key and at another tempo, and what is new is far."""

import numpy as np
import pytest

from silent2music.audio import Waveform
from silent2music.evaluation import originality
from silent2music.evaluation.features import music_features

RATE = 24_000


def melody(seed: int, seconds: float = 15.0, transpose: int = 0, stretch: float = 1.0) -> Waveform:
    """Random plucked notes with a rhythm of their own."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(int(seconds * stretch * RATE))
    start = 0.1
    while start < seconds - 0.8:
        t = np.arange(int(0.6 * RATE)) / RATE
        hz = 220.0 * 2 ** ((rng.integers(0, 24) + transpose) / 12)
        first = int(start * stretch * RATE)
        tone = 0.3 * np.sin(2 * np.pi * hz * t) * np.exp(-t / 0.2)
        n = min(t.size, samples.size - first)
        samples[first : first + n] += tone[:n]
        start += rng.choice([0.2, 0.4, 0.6])
    return Waveform(np.clip(samples, -1, 1)[None].astype(np.float32), RATE)


def prints(*pieces: Waveform, late: bool = False) -> list[np.ndarray]:
    return [originality.fingerprint(music_features(piece), late) for piece in pieces]


@pytest.fixture(scope="module")
def library() -> dict[str, np.ndarray]:
    return {f"piece {i}": p for i, p in enumerate(prints(*(melody(i) for i in range(6))))}


@pytest.mark.parametrize(("transpose", "stretch"), [(0, 1.0), (5, 1.0), (0, 1.2)])
def test_a_copy_is_caught_by_name(library: dict[str, np.ndarray], transpose: int, stretch: float) -> None:
    (copy,) = prints(melody(3, transpose=transpose, stretch=stretch))
    found = originality.nearest([copy], library)
    news = [originality.nearest([p], library) for p in prints(*(melody(s) for s in range(20, 26)))]
    assert found.name == "piece 3"
    reference = [n.distance for n in news]
    assert found.distance < originality.near_limit(reference)
    assert found.distance < 0.7 * min(reference)


def test_identity_is_nearest_of_all(library: dict[str, np.ndarray]) -> None:
    found = originality.nearest([library["piece 2"]], library)
    assert found.name == "piece 2"
    assert found.distance == pytest.approx(0.0, abs=1e-6)


def test_a_copy_cut_between_two_frames_is_found_by_late_frames(library: dict[str, np.ndarray]) -> None:
    whole = melody(4)
    half_a_frame = round(0.5 / originality.RATE_HZ * RATE)
    cut = Waveform(np.ascontiguousarray(whole.samples[:, 2 * RATE + half_a_frame :]), RATE)
    (on_time,), (late,) = prints(cut), prints(cut, late=True)
    found, alone = originality.nearest([on_time, late], library), originality.nearest([on_time], library)
    assert found.name == "piece 4"
    assert found.distance < 0.5 * alone.distance


def test_an_empty_library_has_no_nearest(library: dict[str, np.ndarray]) -> None:
    assert originality.nearest([library["piece 0"]], {}) == (1.0, "")


def test_alignment_by_hand() -> None:
    # The query is columns 2 and 3 of the piece: cost 0 there; all else costs 1.
    costs = np.ones((1, 2, 5))
    costs[0, 0, 2] = costs[0, 1, 3] = 0.0
    assert originality._aligned(costs).tolist() == [0.0]
    costs[0, 1, 3] = 0.5
    assert originality._aligned(costs).tolist() == [0.25]


def test_longest_shared_run() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 1024, 300) for _ in range(4)]
    own = rng.integers(0, 1024, 200)
    own[50:87] = rows[2][100:137]
    own[49], own[87] = rows[2][99] + 1, rows[2][137] + 1
    assert originality.longest_shared_run(own, rows) == 37
    assert originality.longest_shared_run(rows[1], rows) == 300
    assert originality.longest_shared_run(own, []) == 0
