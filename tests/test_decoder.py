import pytest
import torch

from silent2music import stepping
from silent2music.config import DecoderConfig
from silent2music.decoder import Conditioning, Decoder, DelayPattern, hold_last
from silent2music.errors import ConfigError
from silent2music.stepping import PackedDecoder, Stepper

CONFIG = DecoderConfig(
    dim=32,
    n_layers=2,
    n_heads=2,
    attention_window=6,
    dropout=0.0,
    n_codebooks=3,
    codebook_size=11,
    codebook_dim=5,
)


def make_decoder(seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    decoder = Decoder(CONFIG, torch.randn(3, 11, 5)).eval()
    with torch.no_grad():  # What starts at zero must take part, or the tests would not see it.
        decoder.embed_table.normal_(std=0.1)
        decoder.head.normal_(std=0.1)
    return decoder


def make_conditioning(b: int, s: int, seed: int = 1) -> Conditioning:
    g = torch.Generator().manual_seed(seed)
    return Conditioning(
        frames=torch.randn(b, s, 32, generator=g),
        mask=torch.ones(b, s, dtype=torch.bool),
        tokens=torch.randn(b, 2, 32, generator=g),
    )


@pytest.mark.parametrize("n_frames", [1, 2, 9])
def test_delay_undo_is_the_inverse_of_apply(n_frames):
    pattern = DelayPattern(4, filler=99)
    codes = torch.randint(0, 99, (2, 4, n_frames))
    grid = pattern.apply(codes)
    assert grid.shape == (2, 4, n_frames + 3)
    assert torch.equal(pattern.undo(grid), codes)
    frame = torch.arange(n_frames + 3)[None] - torch.arange(4)[:, None]
    assert torch.equal(grid != 99, ((frame >= 0) & (frame < n_frames)).expand(2, -1, -1))


def test_codebook_k_of_frame_t_stands_in_column_t_plus_k():
    codes = torch.arange(12).view(1, 3, 4)
    grid = DelayPattern(3, filler=-1).apply(codes)
    for k in range(3):
        for t in range(4):
            assert grid[0, k, t + k] == codes[0, k, t]


@pytest.mark.parametrize("n_at_once", [1, 3])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_step_equals_forward_beyond_the_attention_window_and_a_block_of_rotations(
    n_at_once, guidance, monkeypatch
):
    monkeypatch.setattr(stepping, "ROTATION_BLOCK", 7)
    decoder, conditioning, null = make_decoder(), make_conditioning(2, 20), make_conditioning(2, 20, seed=3)
    grid = decoder.pattern.apply(torch.randint(0, 11, (2, 3, 20)))
    with torch.inference_mode():
        with_room, without = decoder(grid, conditioning), decoder(grid, null)
        expected = without + guidance * (with_room - without)
        stepper = Stepper(PackedDecoder(decoder, "fp32"), conditioning, null, guidance)
        frames, null_frames = (hold_last(c.frames, grid.shape[2]) for c in (conditioning, null))
        column = torch.full((2, 3), decoder.pattern.filler)
        for t in range(grid.shape[2]):
            if t % n_at_once == 0:
                stepper.ready(n_at_once)
            logits = stepper.step(column, frames[:, t], null_frames[:, t])
            torch.testing.assert_close(logits, expected[:, :, t], atol=2e-5, rtol=1e-4)
            column = grid[:, :, t]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.02), ("bf16", 0.2)])
def test_packed_weights_stay_near_the_exact_ones(precision, tolerance):
    if precision == "fp16" and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no FBGEMM on this processor")
    decoder, conditioning = make_decoder(), make_conditioning(2, 4)
    grid = decoder.pattern.apply(torch.randint(0, 11, (2, 3, 2)))
    with torch.inference_mode():
        expected = decoder(grid, conditioning)[:, :, 0]
        stepper = Stepper(PackedDecoder(decoder, precision), conditioning, conditioning, 1.0)
        column = torch.full((2, 3), decoder.pattern.filler)
        frame = conditioning.frames[:, 0]
        stepper.ready(1)
        error = (stepper.step(column, frame, frame) - expected).abs().max()
    assert 0 < error < tolerance


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match=r"'fp8' is unknown.*fp16"):
        PackedDecoder(make_decoder(), "fp8")


def test_a_column_depends_on_earlier_columns_only():
    decoder, conditioning = make_decoder(), make_conditioning(1, 12)
    grid = decoder.pattern.apply(torch.randint(0, 11, (1, 3, 12)))
    other = grid.clone()
    other[:, :, 7] = (other[:, :, 7] + 1) % 11
    with torch.inference_mode():
        a, b = decoder(grid, conditioning), decoder(other, conditioning)
    torch.testing.assert_close(a[:, :, :8], b[:, :, :8])
    assert not torch.allclose(a[:, :, 8], b[:, :, 8])


def test_conditioning_of_frame_t_meets_column_t():
    decoder, conditioning = make_decoder(), make_conditioning(1, 12)
    grid = decoder.pattern.apply(torch.randint(0, 11, (1, 3, 12)))
    moved = conditioning.frames.clone()
    moved[:, 5] += 1.0
    changed = Conditioning(moved, conditioning.mask, conditioning.tokens)
    with torch.inference_mode():
        a, b = decoder(grid, conditioning), decoder(grid, changed)
    torch.testing.assert_close(a[:, :, :5], b[:, :, :5])
    assert not torch.allclose(a[:, :, 5], b[:, :, 5])


def test_the_window_ends_what_a_layer_sees():
    config = DecoderConfig(**(CONFIG.__dict__ | {"n_layers": 1}))
    torch.manual_seed(0)
    decoder = Decoder(config, torch.randn(3, 11, 5)).eval()
    conditioning = make_conditioning(1, 16)
    grid = torch.randint(0, 11, (1, 3, 16))
    other = grid.clone()
    other[:, :, 2] = (other[:, :, 2] + 1) % 11  # seen as the input of column 3
    with torch.inference_mode():
        a, b = decoder(grid, conditioning), decoder(other, conditioning)
    assert not torch.allclose(a[:, :, 8], b[:, :, 8])
    torch.testing.assert_close(a[:, :, 9:], b[:, :, 9:])


def test_logits_start_from_the_codebook_vectors():
    torch.manual_seed(0)
    vectors = torch.randn(3, 11, 5)
    vectors[:, 4] = vectors[:, 3]
    decoder = Decoder(CONFIG, vectors).eval()
    with torch.inference_mode():
        logits = decoder(torch.randint(0, 11, (1, 3, 4)), make_conditioning(1, 4))
    torch.testing.assert_close(logits[..., 3], logits[..., 4])
    assert not torch.allclose(logits[..., 3], logits[..., 5])


def test_wrong_codebooks_are_named():
    with pytest.raises(ConfigError, match=r"\(3, 12, 5\).*\(3, 11, 5\)"):
        Decoder(CONFIG, torch.randn(3, 12, 5))


def test_a_width_that_does_not_split_is_named():
    with pytest.raises(ConfigError, match="does not split"):
        Decoder(DecoderConfig(**(CONFIG.__dict__ | {"n_heads": 3})), torch.randn(3, 11, 5))
