"""The filters are those of scipy and pyloudnorm, whose import they spare."""

from __future__ import annotations

import numpy as np
import pytest

from silent2music.filters import Biquads, high_pass, k_weighting, mel_filters, oversampled

RATES = (8_000, 24_000, 44_100, 192_000)


@pytest.mark.parametrize("sample_rate", RATES)
def test_high_pass_is_butterworths(sample_rate: int) -> None:
    from scipy.signal import butter

    ((b, a),) = high_pass(25.0, sample_rate)
    expected = butter(2, 25.0, "highpass", fs=sample_rate, output="sos")[0]
    assert np.concatenate([b, a]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sample_rate", RATES)
def test_k_weighting_is_that_of_pyloudnorm(sample_rate: int) -> None:
    from pyloudnorm import Meter

    expected = Meter(sample_rate, filter_class="DeMan")._filters.values()
    for (b, a), stage in zip(k_weighting(sample_rate), expected, strict=True):
        assert b == pytest.approx(stage.b, abs=1e-12)
        assert a == pytest.approx(stage.a, abs=1e-12)


@pytest.mark.parametrize("block", [7, 64, 1000, 9000])
def test_biquads_go_on_from_block_to_block_as_scipy_filters_the_whole(block: int) -> None:
    from scipy.signal import sosfilt

    samples = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32)
    sections = [*high_pass(25.0, 44_100), *k_weighting(44_100)]
    filtered = Biquads(sections, 2)
    pieces = [filtered(samples[:, i : i + block]) for i in range(0, 9000, block)]
    expected = sosfilt([np.concatenate(section) for section in sections], samples.astype(np.float64))
    assert np.concatenate(pieces, axis=1) == pytest.approx(expected, abs=1e-10)


def test_biquads_leave_their_input_as_it_was() -> None:
    samples = np.ones((1, 10))
    Biquads(high_pass(25.0, 8_000), 1)(samples)
    assert (samples == 1.0).all()


@pytest.mark.parametrize("n_samples", [1, 7, 3001])
def test_oversampling_is_scipys_to_the_bit(n_samples: int) -> None:
    from scipy.signal import resample_poly

    samples = np.random.default_rng(0).standard_normal((2, n_samples)).astype(np.float32)
    new = oversampled(samples)
    assert new.shape == (2, 4, n_samples)
    assert (new.transpose(0, 2, 1).reshape(2, -1) == resample_poly(samples, 4, 1, axis=1)).all()


@pytest.mark.parametrize("n_mels", [24, 64, 128])
def test_no_mel_band_is_empty_if_none_may_be(n_mels: int) -> None:
    assert (mel_filters(24_000, 512, n_mels, low_hz=40.0, no_empty=True).max(axis=1) >= 0.5).all()
    assert (mel_filters(24_000, 512, 128, low_hz=40.0).max(axis=1) == 0).any()


@pytest.mark.parametrize(("scale", "htk"), [("htk", True), ("slaney", False)])
@pytest.mark.parametrize("low_hz", [0.0, 40.0, 1500.0])
def test_mel_filters_are_librosas(scale: str, htk: bool, low_hz: float) -> None:
    import librosa

    expected = librosa.filters.mel(
        sr=24_000, n_fft=2048, n_mels=40, fmin=low_hz, fmax=11_500, htk=htk, norm="slaney", dtype=np.float64
    )
    filters = mel_filters(24_000, 2048, 40, low_hz, 11_500.0, scale, norm="area")  # type: ignore[arg-type]
    assert filters == pytest.approx(expected, abs=1e-12)
    assert mel_filters(24_000, 2048, 40, low_hz, norm="sum").sum(axis=1) == pytest.approx(1.0)
    assert mel_filters(24_000, 2048, 40, low_hz).max() <= 1.0
