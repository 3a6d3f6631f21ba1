"""Metrics: analytic answers, identity best, empty input warned of and worst, bad input named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silent2music.audio import Waveform
from silent2music.evaluation import following, quality, statistics
from silent2music.evaluation.features import GRID_HZ, SAMPLE_RATE, power_spectrum
from silent2music.keys import MAJOR_PROFILE

NONE = np.zeros(0)
times = st.lists(st.floats(0.0, 60.0), min_size=1, max_size=40).map(lambda t: np.sort(np.array(t)))


class TestOnsets:
    def test_counts_by_hand(self) -> None:
        # Two of four events meet one of three notes each; one note serves one event only.
        reference = np.array([1.0, 2.0, 3.0, 3.04])
        estimated = np.array([1.049, 3.02, 5.0])
        scores = following.onset_scores(reference, estimated)
        assert scores.hit_rate == pytest.approx(2 / 4)
        assert scores.precision == pytest.approx(2 / 3)
        assert scores.f_measure == pytest.approx(4 / 7)

    def test_window_ends_at_50_ms(self) -> None:
        assert following.onset_scores(np.array([1.0]), np.array([1.0499])).hit_rate == 1.0
        assert following.onset_scores(np.array([1.0]), np.array([1.0501])).hit_rate == 0.0

    @settings(max_examples=30, deadline=None)
    @given(times)
    def test_identity_is_best(self, onsets: np.ndarray) -> None:
        assert following.onset_scores(onsets, onsets) == (1.0, 1.0, 1.0)
        assert following.loris_beat_scores(onsets, onsets, 61.0) == (1.0, 1.0)

    @pytest.mark.parametrize("pair", [(NONE, np.array([1.0])), (np.array([1.0]), NONE), (NONE, NONE)])
    def test_empty_warns_and_is_worst(self, pair: tuple[np.ndarray, np.ndarray]) -> None:
        with pytest.warns(UserWarning, match="empty"):
            assert following.onset_scores(*pair) == (0.0, 0.0, 0.0)
        with pytest.warns(UserWarning, match="empty"):
            assert following.loris_beat_scores(*pair, 10.0) == (0.0, 0.0)

    @pytest.mark.parametrize("bad", [[2.0, 1.0], [-1.0], [np.nan], [[1.0]]])
    def test_bad_times_are_named(self, bad: list[float]) -> None:
        with pytest.raises(ValueError, match="estimated times must be"):
            following.onset_scores(np.array([1.0]), np.array(bad))

    def test_loris_counts_a_bin_once(self) -> None:
        # Bins of the reference: 0, 2, 3; of the music: 0, 3, 4, 5 (two onsets in bin 0 count once).
        scores = following.loris_beat_scores(
            np.array([0.1, 2.5, 3.9]), np.array([0.2, 0.8, 3.0, 4.5, 5.5]), 6.0
        )
        assert scores == pytest.approx((2 / 4, 2 / 3))


class TestTempo:
    @pytest.mark.parametrize(
        ("estimated", "expected"),
        [
            (100.0, (1, 1, 1, 1)),
            (104.0, (1, 1, 1, 1)),
            (107.0, (0, 1, 0, 1)),
            (50.0, (0, 0, 1, 1)),
            (212.0, (0, 0, 0, 1)),
            (150.0, (0, 0, 0, 0)),
        ],
    )
    def test_against_100_bpm(self, estimated: float, expected: tuple[int, ...]) -> None:
        assert following.tempo_agreement(100.0, estimated) == expected

    def test_unknown_warns_and_is_worst(self) -> None:
        with pytest.warns(UserWarning, match="estimated tempo is not known"):
            assert following.tempo_agreement(100.0, None) == (0.0, 0.0, 0.0, 0.0)

    def test_impossible_is_named(self) -> None:
        with pytest.raises(ValueError, match="finite and positive, got 0"):
            following.tempo_agreement(0.0, 100.0)


class TestEnergy:
    def test_a_delay_is_found_and_scores_one(self) -> None:
        curve = np.random.default_rng(0).normal(-40.0, 5.0, 200)
        late = following.energy_correlation(curve[7:], curve[:-7])
        assert late.pearson == pytest.approx(1.0)
        assert late.spearman == pytest.approx(1.0)
        assert late.lag_seconds == pytest.approx(0.7)

    def test_pearson_by_hand(self) -> None:
        x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 2.0, 1.0, 3.0])
        found = following.energy_correlation(x, y, max_lag_seconds=0.0)
        assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
        assert found.spearman == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)

    def test_spearman_ignores_a_monotone_map(self) -> None:
        curve = np.random.default_rng(1).normal(0.0, 1.0, 100)
        found = following.energy_correlation(curve, np.exp(curve))
        assert found.spearman == pytest.approx(1.0)
        assert found.pearson < 0.999

    def test_silence_counts_as_the_bottom_of_the_range(self) -> None:
        curve = np.repeat([-20.0, -40.0, -20.0], 20)
        rest = np.where(curve < -30, -300.0, curve)
        assert following.energy_correlation(curve, rest).pearson == pytest.approx(1.0)

    @pytest.mark.parametrize("flat", [NONE, np.full(50, -60.0)])
    def test_nothing_to_follow_warns_and_scores_zero(self, flat: np.ndarray) -> None:
        with pytest.warns(UserWarning, match="too short or constant"):
            assert following.energy_correlation(flat, np.arange(50.0)) == (0.0, 0.0, 0.0)

    def test_not_finite_is_named(self) -> None:
        with pytest.raises(ValueError, match="reference curve"):
            following.energy_correlation(np.array([0.0, -np.inf, 1.0]), np.arange(3.0))


class TestBoundaries:
    def test_counts_by_hand(self) -> None:
        scores = following.boundary_scores(np.array([10.0, 20.0]), np.array([10.4, 22.5, 25.0]), 30.0)
        assert scores.hit_rate == pytest.approx(1 / 2)
        assert scores.precision == pytest.approx(1 / 3)
        wide = following.boundary_scores(np.array([10.0, 20.0]), np.array([10.4, 22.5, 25.0]), 30.0, 3.0)
        assert wide.f_measure == pytest.approx(2 * 2 / 5)

    def test_identity_is_best_and_the_ends_do_not_count(self) -> None:
        inside = np.array([4.0, 8.0])
        assert following.boundary_scores(inside, inside, 10.0) == (1.0, 1.0, 1.0)
        assert following.boundary_scores(inside, np.array([0.0, 10.0]), 10.0) == (0.0, 0.0, 0.0)

    def test_none_warns_and_is_worst(self) -> None:
        with pytest.warns(UserWarning, match="reference times are empty"):
            assert following.boundary_scores(NONE, np.array([4.0]), 10.0) == (0.0, 0.0, 0.0)


class TestRetrieval:
    def test_ranks_and_scores_by_hand(self) -> None:
        similarities = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.8, 0.7, 0.6]])
        assert following.ranks(similarities).tolist() == [1.0, 2.0, 3.0]
        scores = following.retrieval_scores(similarities)
        assert scores["recall_at_1"] == pytest.approx(1 / 3)
        assert scores["recall_at_5"] == 1.0
        assert scores["mean_reciprocal_rank"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
        assert scores["chance_mean_reciprocal_rank"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)

    def test_a_judge_without_opinion_is_at_the_middle(self) -> None:
        assert following.ranks(np.ones((32, 32))).tolist() == [16.5] * 32

    def test_identity_is_best(self) -> None:
        scores = following.retrieval_scores(np.eye(32))
        assert list(scores.values())[:3] == [1.0, 1.0, 1.0]
        assert scores["chance_recall_at_1"] == pytest.approx(1 / 32)

    def test_empty_and_bad(self) -> None:
        with pytest.warns(UserWarning, match="empty"):
            scores = following.retrieval_scores(np.zeros((0, 0)))
            assert list(scores.values())[:3] == [0.0, 0.0, 0.0]
        with pytest.raises(ValueError, match=r"must be \[n, n\]"):
            following.retrieval_scores(np.zeros((2, 3)))


class TestDistances:
    def test_frechet_of_gaussians(self) -> None:
        # Exactly known moments: +-a on each axis has mean 0 and variance 2 a^2 per axis (n = 4, ddof 1 gives 2/3).
        corners = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        shifted = 2.0 * corners + np.array([3.0, 4.0])
        variance = 2.0 / 3.0
        expected = 25.0 + 2 * (variance + 4 * variance - 2 * np.sqrt(4 * variance**2))
        assert quality.frechet_distance(corners, shifted) == pytest.approx(expected)
        assert quality.frechet_distance(corners, corners) == pytest.approx(0.0, abs=1e-9)

    def test_kernel_is_about_zero_for_one_source_and_large_for_two(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(400, 5)), rng.normal(size=(400, 5))
        same, other = quality.kernel_distance(a, b), quality.kernel_distance(a, b + 1.0)
        assert abs(same) < 0.3
        assert other > 20 * abs(same)
        assert quality.kernel_distance(a, a) < same

    def test_kernel_by_hand(self) -> None:
        # Bandwidth 1: k = exp(-d^2 / 2). Within: one pair each at distance 1 and 2; across: 3, 5, 2, 4.
        a, b = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
        k = lambda d: np.exp(-(d**2) / 2)  # noqa: E731
        expected = 100 * (k(1) + k(2) - 2 * (k(3) + k(5) + k(2) + k(4)) / 4)
        assert quality.kernel_distance(a, b, bandwidth=1.0) == pytest.approx(expected)

    @pytest.mark.parametrize("distance", [quality.frechet_distance, quality.kernel_distance])
    def test_too_few_rows_warn_and_are_infinitely_far(self, distance) -> None:  # type: ignore[no-untyped-def]
        with pytest.warns(UserWarning, match="fewer than two rows"):
            assert distance(np.zeros((5, 3)), np.zeros((1, 3))) == float("inf")
        with pytest.raises(ValueError, match="differ in width"):
            distance(np.zeros((5, 3)), np.zeros((5, 2)))


class TestFaults:
    def test_silent_share(self) -> None:
        assert quality.silent_share(np.array([-70.0, -50.0, -61.0, -20.0])) == 0.5
        with pytest.warns(UserWarning, match="empty"):
            assert quality.silent_share(NONE) == 1.0

    def test_clipping_needs_a_run(self) -> None:
        assert quality.clipping_share(np.array([0.0, 1.0, 0.0, -1.0, 0.0])) == 0.0
        assert quality.clipping_share(np.array([0.0, 1.0, 1.0, -1.0, 0.0, 0.0])) == 0.5
        with pytest.warns(UserWarning, match="empty"):
            assert quality.clipping_share(NONE) == 1.0

    def test_dc_offset(self) -> None:
        tone = np.sin(2 * np.pi * np.arange(4800) / 48)
        assert quality.dc_offset_dbfs(tone + 0.1) == pytest.approx(-20.0, abs=1e-6)
        assert quality.dc_offset_dbfs(tone) == pytest.approx(-120.0)

    def test_flatness_of_noise_and_tone(self) -> None:
        rng = np.random.default_rng(0)
        # Exponentially distributed power has a geometric mean of exp(-gamma), gamma being Euler's constant.
        noise = rng.exponential(size=(2000, 50))
        assert quality.spectral_flatness(noise) == pytest.approx(np.exp(-np.euler_gamma), abs=0.01)
        tone = np.full((2000, 50), 1e-9)
        tone[100] = 1.0
        assert quality.spectral_flatness(tone) < 1e-4
        assert quality.spectral_flatness(np.ones((10, 5))) == pytest.approx(1.0)

    def test_key_clarity(self) -> None:
        profile = np.roll(MAJOR_PROFILE, 4)
        assert quality.key_clarity(np.tile(profile[:, None], 9)) == pytest.approx(1.0)
        assert quality.key_clarity(np.ones((12, 9))) == 0.0
        with pytest.warns(UserWarning, match="empty"):
            assert quality.key_clarity(np.zeros((12, 9))) == 0.0
        with pytest.raises(ValueError, match=r"\[12, frames\]"):
            quality.key_clarity(np.ones((11, 9)))

    def test_repetition_of_a_loop_and_of_chance(self) -> None:
        rng = np.random.default_rng(0)
        free = rng.uniform(size=(12, 400))
        assert quality.repetition(np.tile(free[:, :80], 5), rate_hz=20.0) == pytest.approx(1.0)
        assert quality.repetition(free, rate_hz=20.0) < 0.2
        assert quality.repetition(np.tile(free[:, :1], 400), rate_hz=20.0) == 1.0

    def test_a_partial_stands_still_only_while_level_and_pitch_do(self) -> None:
        def longest(frequency: np.ndarray, gain: np.ndarray) -> float:
            phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
            music = Waveform((gain * np.sin(phase))[None].astype(np.float32), SAMPLE_RATE)
            return quality.longest_still_partial(power_spectrum(music), *GRID_HZ)

        t = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
        tone, loud = np.full(t.size, 440.0), np.full(t.size, 0.3)
        assert longest(tone, loud) == pytest.approx(5.0, abs=0.2)
        # A decay of 6 dB a second is within 3 dB for half a second, a glide of a semitone a second within 25 cents for
        # a quarter.
        assert longest(tone, loud * 10 ** (-6 * t / 20)) == pytest.approx(0.5, abs=0.15)
        assert longest(440.0 * 2 ** (t / 12), loud) == pytest.approx(0.25, abs=0.15)
        assert longest(np.where(t % 1 < 0.5, 440.0, 660.0), loud) == pytest.approx(0.5, abs=0.25)
        with pytest.warns(UserWarning, match="empty"):
            assert quality.longest_still_partial(np.zeros((2049, 9)), *GRID_HZ) == 0.0

    def test_spectra_are_alike_where_nothing_changes(self) -> None:
        held = np.tile(np.eye(8)[:, :1], 80)
        assert quality.spectral_likeness(held, rate_hz=20.0) == pytest.approx(1.0)
        turned = np.repeat(np.eye(8), 10, axis=1)
        assert quality.spectral_likeness(turned, rate_hz=10.0) == 0.0
        with pytest.raises(ValueError, match="must be"):
            quality.spectral_likeness(-held, rate_hz=20.0)


class TestStatistics:
    def test_interval_of_a_mean(self) -> None:
        # Normal theory: 1.96 / sqrt(400) = 0.098 either way.
        values = np.random.default_rng(0).normal(1.0, 1.0, 400)
        found = statistics.bootstrap_mean(values)
        assert found["mean"] == pytest.approx(values.mean())
        assert found["high"] - found["low"] == pytest.approx(2 * 0.098, rel=0.12)
        assert found == statistics.bootstrap_mean(values)
        assert found["excludes_zero"]

    def test_pairing_removes_what_items_share(self) -> None:
        rng = np.random.default_rng(0)
        item = rng.normal(0.0, 10.0, 50)
        found = statistics.paired_difference(item + 0.5 + rng.normal(0, 0.1, 50), item)
        assert found["low"] > 0.4
        assert found["high"] < 0.6

    def test_identity_does_not_exclude_zero(self) -> None:
        values = np.arange(10.0)
        assert not statistics.paired_difference(values, values)["excludes_zero"]

    def test_nothing_warns(self) -> None:
        with pytest.warns(UserWarning, match="no items"):
            assert statistics.bootstrap_mean(NONE)["n"] == 0
        with pytest.raises(ValueError, match="equal lengths"):
            statistics.paired_difference(np.zeros(2), np.zeros(3))
        with pytest.raises(ValueError, match="equal lengths"):
            statistics.bootstrap_ratio(np.ones(2), np.ones(3))

    def test_a_ratio_of_what_is_proportional_is_known(self) -> None:
        values = np.arange(1.0, 9.0)
        found = statistics.bootstrap_ratio(3.0 * values, values)
        assert found["mean"] == found["low"] == pytest.approx(3.0) == found["high"]
