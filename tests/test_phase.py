"""The short-time transform, phases from magnitudes, and rebuilding piece by piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from silent2music.phase import estimate_phases, griffin_lim, inverse_stft, rebuild, stft

RATE = 24_000


def sine(frequency_hz: float, seconds: float = 1.0, amplitude: float = 0.5) -> Tensor:
    """`[1, N]`."""
    t = torch.arange(round(seconds * RATE)) / RATE
    return amplitude * torch.sin(2 * torch.pi * frequency_hz * t)[None]


def burst(onset_seconds: float) -> Tensor:
    """Noise that starts at once and dies away with a time constant of 0.1 s in energy, `[1, 24000]`."""
    onset = round(onset_seconds * RATE)
    noise = torch.randn(1, RATE, generator=torch.Generator().manual_seed(2))
    noise[:, :onset] = 0.0
    noise[:, onset:] *= torch.exp(-torch.arange(RATE - onset) / (0.2 * RATE))
    return 0.1 * noise


def rebuilt(audio: Tensor, n_fft: int = 1920, hop: int = 480, n_iterations: int = 4) -> tuple[Tensor, float]:
    """Sound from the magnitudes of a sound, and the energy share in which their magnitudes differ."""
    magnitudes = stft(audio, n_fft, hop).abs()
    result = torch.cat(list(rebuild([magnitudes], n_fft, hop, n_iterations)), dim=1)
    error = (stft(result, n_fft, hop).abs() - magnitudes).square().sum() / magnitudes.square().sum()
    return result, float(error)


def test_a_sine_has_its_amplitude_as_magnitude() -> None:
    spectrum = stft(sine(1000.0, amplitude=0.3), 1920, 480)
    assert spectrum.shape == (1, 50, 961)
    middle = spectrum[0, 20:30].abs()
    assert middle.argmax(-1).eq(80).all()
    assert torch.allclose(middle[:, 80], torch.tensor(0.3), atol=1e-3)


@pytest.mark.parametrize(("n_fft", "hop"), [(1920, 480), (960, 480), (480, 120)])
def test_inverse_stft_undoes_stft(n_fft: int, hop: int) -> None:
    audio = torch.randn(2, 8 * n_fft, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(inverse_stft(stft(audio, n_fft, hop), n_fft, hop), audio, atol=1e-4)


@pytest.mark.parametrize("frequency_hz", [55.0, 440.0, 1003.7, 5000.0])
def test_a_held_tone_is_rebuilt_from_its_estimate_alone(frequency_hz: float) -> None:
    audio = sine(frequency_hz, 2.0)
    result, error = rebuilt(audio, n_iterations=0)
    assert error < 0.01
    middle = slice(RATE // 2, 3 * RATE // 2)
    assert abs(float(result[0, middle].std() / audio[0, middle].std()) - 1.0) < 0.03


def test_a_chord_keeps_a_steady_level() -> None:
    """Wrong phases make held notes rough: the level would waver from one 20 ms to the next."""
    audio = sine(440.0, 2.0, 0.2) + sine(659.3, 2.0, 0.2) + sine(1109.0, 2.0, 0.1)
    result, error = rebuilt(audio)
    assert error < 0.002
    wavering = [x[0, 4800:-4800].reshape(-1, 480).square().mean(1).log().std() for x in (audio, result)]
    assert wavering[1] < wavering[0] + 0.1


@pytest.mark.parametrize("onset_seconds", [0.3, 0.52, 0.733])
def test_an_onset_stays_where_it_was(onset_seconds: float) -> None:
    result, _ = rebuilt(burst(onset_seconds))
    envelope = result[0].reshape(-1, 120).square().mean(1).sqrt()  # every 5 ms
    reached = int((envelope > 0.5 * envelope.max()).float().argmax()) * 0.005
    assert -0.010 <= reached - onset_seconds <= 0.010
    early = result[0, : round((onset_seconds - 0.020) * RATE)].square().sum()
    assert early < 0.02 * result.square().sum()


def test_projections_bring_magnitudes_nearer() -> None:
    audio = burst(0.2) + sine(330.0, amplitude=0.1)
    errors = [rebuilt(audio, n_iterations=n)[1] for n in (0, 2, 8)]
    assert errors[0] > errors[1] > errors[2]


def test_rows_of_a_batch_do_not_meet() -> None:
    magnitudes = stft(torch.cat([sine(440.0), sine(660.0)]), 960, 240).abs()
    both = griffin_lim(magnitudes, estimate_phases(magnitudes, 960, 240)[0], 960, 240, 3)
    alone = griffin_lim(magnitudes[1:], estimate_phases(magnitudes[1:], 960, 240)[0], 960, 240, 3)
    assert torch.allclose(both[1:], alone, atol=1e-6)


def test_estimates_carry_over_a_cut() -> None:
    magnitudes = stft(burst(0.5) + sine(440.0), 960, 240).abs()
    whole, _ = estimate_phases(magnitudes, 960, 240)
    first, carry = estimate_phases(magnitudes[:, :40], 960, 240, None, magnitudes[:, 40:41])
    second, _ = estimate_phases(magnitudes[:, 40:], 960, 240, carry)
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-5)


@pytest.mark.parametrize("lengths", [[1], [1] * 100, [99, 1], [30, 2, 68], [100]])
def test_blocks_change_nothing(lengths: list[int]) -> None:
    audio = (burst(0.5) + sine(440.0))[:, : 240 * sum(lengths)]
    magnitudes = stft(audio, 960, 240).abs()
    whole = torch.cat(list(rebuild([magnitudes], 960, 240, 2)), dim=1)
    pieces = torch.cat(list(rebuild(magnitudes.split(lengths, dim=1), 960, 240, 2)), dim=1)
    assert pieces.shape == whole.shape == audio.shape
    assert torch.allclose(pieces, whole, atol=1e-5)


def test_silence_stays_silent_and_nothing_gives_nothing() -> None:
    assert rebuilt(torch.zeros(1, 9600))[0].eq(0.0).all()
    assert list(rebuild([], 960, 240, 2)) == []
