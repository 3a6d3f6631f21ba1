"""The decoder under a sketch: columns and logits with it, and all as before without."""

import dataclasses

import pytest
import torch
from test_decoder import CONFIG, make_conditioning

from silent2music import sampling as sampling_module
from silent2music.config import SamplingConfig
from silent2music.decoder import Conditioning, Decoder, hold_last
from silent2music.errors import ConfigError
from silent2music.guide import BEFORE_ATTACK, Guide, sharpened
from silent2music.sampling import Nearness, generate_codes
from silent2music.stepping import PackedDecoder, Recorded, Stepper

SKETCHED = dataclasses.replace(CONFIG, takes_sketch=True)
SCALES = torch.linspace(0.0, 1.5, 11)


def make_decoder(takes_sketch: bool = True) -> Decoder:
    torch.manual_seed(0)
    config = SKETCHED if takes_sketch else CONFIG
    decoder = Decoder(config, torch.randn(3, 11, 5), SCALES).eval()
    with torch.no_grad():  # What starts at zero must take part, or the tests would not see it.
        decoder.embed_table.normal_(std=0.1)
        decoder.head.normal_(std=0.1)
        if decoder.guide is not None:
            decoder.guide.columns.weight.normal_(std=0.1)
            decoder.guide.slope.normal_(std=0.2)
    return decoder


def sketched(decoder: Decoder, room: Conditioning, given=None, seed: int = 5) -> Conditioning:
    b, s = room.mask.shape
    vectors = torch.randn(b, s, 5, generator=torch.Generator().manual_seed(seed))
    given = torch.ones(b, dtype=torch.bool) if given is None else torch.tensor(given)
    return dataclasses.replace(room, guide=decoder.guided(vectors, given))


def vectors_of(decoder: Decoder, codes: torch.Tensor) -> torch.Tensor:
    """The codec's vectors `[B, T, P]`, as `BundledCodec.vectors`."""
    books = decoder.guide.books
    first, later = books[0][codes[:, 0]], sum(books[k][codes[:, k]] for k in range(1, codes.shape[1]))
    return first + SCALES[codes[:, 0]][..., None] * later


def test_without_a_sketch_nothing_changes():
    decoder, plain = make_decoder(), make_decoder(takes_sketch=False)
    plain.load_state_dict({n: v for n, v in decoder.state_dict().items() if not n.startswith("guide.")})
    room = make_conditioning(2, 12)
    grid = decoder.pattern.apply(torch.randint(0, 11, (2, 3, 12)))
    none = sketched(decoder, room, given=[False, False])
    with torch.inference_mode():
        assert torch.equal(decoder(grid, none), plain(grid, room))
        sampling = SamplingConfig(guidance=1.5, top_k=0)
        codes = [generate_codes(PackedDecoder(d), room, room, sampling, [1, 2]) for d in (decoder, plain)]
    assert torch.equal(*codes)
    with pytest.raises(ConfigError, match="takes no sketch"):
        sketched(plain, room)


def test_a_row_without_a_sketch_is_as_without():
    decoder, room = make_decoder(), make_conditioning(2, 12)
    grid = decoder.pattern.apply(torch.randint(0, 11, (2, 3, 12)))
    with torch.inference_mode():
        mixed = decoder(grid, sketched(decoder, room, given=[True, False]))
        without = decoder(grid, room)
    torch.testing.assert_close(mixed[1], without[1])
    assert not torch.allclose(mixed[0], without[0])


@pytest.mark.parametrize(("guidance", "score_guidance"), [(1.0, 1.0), (1.7, 1.7), (1.0, 1.6), (1.5, 2.5)])
def test_step_equals_forward_under_room_and_sketch(guidance, score_guidance):
    decoder, room, null = make_decoder(), make_conditioning(2, 16), make_conditioning(2, 16, seed=3)
    both = sketched(decoder, room)
    codes = torch.randint(0, 11, (2, 3, 16))
    grid = decoder.pattern.apply(codes)
    adherence = 0.7
    with torch.inference_mode():
        columns = dataclasses.replace(room, frames=room.frames + both.guide.frames)
        logits = [decoder(grid, one) for one in (null, room, columns)]
        bias = decoder(grid, both) - logits[2]
        none, alone, with_sketch = logits
        expected = (
            none + guidance * (alone - none) + score_guidance * (with_sketch - alone) + adherence * bias
        )
        packed = PackedDecoder(decoder, "fp32")
        stepper = Stepper(packed, both, null, guidance, sketch_guidance=score_guidance)
        near = Nearness(packed, both.guide, adherence)
        frames = [hold_last(x, grid.shape[2]) for x in (room.frames, null.frames, both.guide.frames)]
        column = torch.full((2, 3), decoder.pattern.filler)
        for t in range(grid.shape[2]):
            if t < 16:
                near.begin(both.guide.vectors[:, t])
            stepper.ready(1)
            got = near.mask(stepper.step(column, *(x[:, t] for x in frames)))
            for k in range(3):
                if 0 <= t - k < 16:
                    torch.testing.assert_close(got[:, k], expected[:, k, t], atol=2e-4, rtol=1e-3)
            column = grid[:, :, t]
            near.write(column[..., None])


@pytest.mark.parametrize("guidance", [1.0, 1.6])
def test_recorded_steps_draw_the_same_bit_for_bit(guidance, monkeypatch):
    decoder, room, null = make_decoder(), make_conditioning(2, 50), make_conditioning(2, 50, seed=3)
    decoder.cell_radii[1:] = torch.tensor([2.5, 2.8])
    decoder.rest_loudness[1], decoder.rest_limits[1] = decoder.first_loudness().median(), 2
    sampling = SamplingConfig(guidance=guidance, score_guidance=1.0, adherence=0.5, top_k=0)
    calls = []
    monkeypatch.setattr(Recorded, "__call__", lambda *a, call=Recorded.__call__: calls.append(a) or call(*a))
    for given in (room, sketched(decoder, room, given=[True, False])):
        drawn = []
        for n_unrecorded in (0, 20, 10**6):
            monkeypatch.setattr(sampling_module, "UNRECORDED", n_unrecorded)
            drawn.append(generate_codes(PackedDecoder(decoder), given, null, sampling, [1, 2]))
            assert bool(calls) == (n_unrecorded < 50)
            calls.clear()
        assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[2])


def test_the_bias_prefers_the_entry_nearest_to_what_is_left():
    """For the vectors of some codes, each of those codes, given the ones before it."""
    decoder = make_decoder()
    codes = torch.randint(3, 11, (2, 3, 9), generator=torch.Generator().manual_seed(1))
    guide = decoder.guided(vectors_of(decoder, codes), torch.ones(2, dtype=torch.bool))
    bias = decoder.guide.bias(codes, guide)
    books, left = decoder.guide.books, vectors_of(decoder, codes)
    for k in range(3):
        scale = 1.0 if k == 0 else SCALES[codes[:, 0]][..., None, None]
        error = (left[:, :, None] - scale * books[k]).square().sum(dim=-1)
        assert torch.equal(bias[:, k].argmax(dim=-1), error.argmin(dim=-1))
        left = left - (1.0 if k == 0 else scale[..., 0]) * books[k][codes[:, k]]
    assert torch.equal(bias[:, 2].argmax(dim=-1), codes[:, 2])


def test_codes_keep_to_the_sketch_the_closer_the_more_they_adhere():
    decoder, room = make_decoder(), make_conditioning(2, 60)
    both = sketched(decoder, room)
    packed = PackedDecoder(decoder)

    def error(adherence: float) -> float:
        sampling = SamplingConfig(guidance=1.0, score_guidance=1.0, adherence=adherence, top_k=0)
        codes = generate_codes(packed, both, room, sampling, [1, 2])
        return float((vectors_of(decoder, codes) - both.guide.vectors).square().mean())

    errors = [error(adherence) for adherence in (0.0, 1.0, 20.0)]
    assert errors[0] > errors[1] > errors[2]


def test_where_the_sketch_is_zero_the_codes_are_those_of_silence_for_as_long_as_it_lasts():
    decoder, room = make_decoder(), make_conditioning(2, 60)
    silence = decoder.guide.energies.argmin(dim=1)[:, None]
    decoder.rest_loudness.fill_(float(decoder.first_loudness()[silence[0]]) + 1e-4)
    decoder.rest_limits.fill_(3.0)
    vectors = torch.randn(2, 60, 5, generator=torch.Generator().manual_seed(5))
    vectors[:, 20:50] = 0.0
    given = dataclasses.replace(room, guide=decoder.guided(vectors, torch.tensor([True, False])))
    sampling = SamplingConfig(guidance=1.0, score_guidance=1.0, adherence=1.0)
    codes = generate_codes(PackedDecoder(decoder), given, room, sampling, [1, 2])
    is_silence = (codes == silence).all(dim=1)
    assert is_silence[0, 20:50].all()
    assert not is_silence[0, :20].all() and not is_silence[0, 50:].all()
    assert not is_silence[1].all()  # without a sketch nothing is said to be silent


def test_a_column_sees_the_sketch_of_its_frame_and_no_later_than_ahead():
    decoder, room = make_decoder(), make_conditioning(1, 16)
    grid = decoder.pattern.apply(torch.randint(0, 11, (1, 3, 16)))
    vectors, given = torch.randn(1, 16, 5), torch.ones(1, dtype=torch.bool)
    moved = vectors.clone()
    moved[:, 9] += 1.0
    with torch.inference_mode():
        a, b = (
            decoder(grid, dataclasses.replace(room, guide=decoder.guided(v, given))) for v in (vectors, moved)
        )
        whole = decoder.guided(vectors, given).frames
        part = decoder.guided(vectors[:, 2:12], given, begin=2, end=8).frames
    torch.testing.assert_close(a[:, :, :7], b[:, :, :7])
    assert not torch.allclose(a[:, :, 7], b[:, :, 7])
    torch.testing.assert_close(part, whole[:, 4:10])


def test_attacks_of_a_sketch_are_sharpened_in_whatever_stretches_it_comes() -> None:
    levels = torch.tensor([1.0, 1.0, 2.0, 2.0, 1.0, 0.3, 0.3, 3.0, 4.0])
    vectors = levels[None, :, None].expand(1, -1, 4)
    guide = Guide(vectors, torch.zeros(1, len(levels), 2), torch.ones(1, dtype=torch.bool))
    expected = levels * torch.tensor([1, BEFORE_ATTACK, 1, 1, 1, 1, BEFORE_ATTACK, 1, 1])
    assert torch.equal(sharpened(guide, vectors, 0).vectors[0, :, 0], expected)
    for begin, end in ((0, 2), (2, 7), (7, 9)):
        known = vectors[:, max(0, begin - 1) : end + 1]
        own = sharpened(guide.slice(begin, end), known, min(begin, 1))
        assert torch.equal(own.vectors[0, :, 0], expected[begin:end])
