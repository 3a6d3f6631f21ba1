import pytest
import torch
from test_decoder import make_conditioning, make_decoder

from silent2music.config import SamplingConfig
from silent2music.decoder import CELL_QUANTILE, Conditioning, DelayPattern
from silent2music.errors import ConfigError
from silent2music.sampling import Cells, TokenLoop, draw, generate_codes
from silent2music.stepping import PackedDecoder


def null_of(conditioning: Conditioning) -> Conditioning:
    g = torch.Generator().manual_seed(5)
    frame, tokens = torch.randn(32, generator=g), torch.randn(2, 32, generator=g)
    return Conditioning(
        frame.expand_as(conditioning.frames), conditioning.mask, tokens.expand_as(conditioning.tokens)
    )


def run(seeds, guidance=2.0, seed_room=1, n=10, **settings):
    conditioning = make_conditioning(1, n, seed_room)
    if len(seeds) > 1:
        other = make_conditioning(1, n, 99)
        conditioning = Conditioning(
            torch.cat([conditioning.frames, other.frames]),
            torch.cat([conditioning.mask, other.mask]),
            torch.cat([conditioning.tokens, other.tokens]),
        )
    sampling = SamplingConfig(guidance=guidance, **settings)
    return generate_codes(PackedDecoder(make_decoder()), conditioning, null_of(conditioning), sampling, seeds)


def test_draw_follows_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(20_000, 3)
    noise = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(draw(logits, SamplingConfig(top_k=0), noise)[:, 0], minlength=3) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.2]), atol=0.015, rtol=0)


def test_top_k_and_top_p_leave_the_likeliest():
    logits = torch.log(torch.tensor([0.05, 0.5, 0.3, 0.15])).expand(2000, 4)
    noise = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0))
    assert set(draw(logits, SamplingConfig(top_k=2), noise)[:, 0].tolist()) == {1, 2}
    assert set(draw(logits, SamplingConfig(top_k=0, top_p=0.6), noise)[:, 0].tolist()) == {1, 2}
    assert set(draw(logits, SamplingConfig(temperature=0), noise)[:, 0].tolist()) == {1}


def test_several_draws_are_distinct_and_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(20_000, 3)
    noise = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = draw(logits, SamplingConfig(top_k=0), noise, n_draws=8)
    assert torch.equal(drawn.sort(dim=1).values, torch.tensor([0, 1, 2]).expand(20_000, 3))
    # What comes first of those that are left is a draw among those: without token 0, 3 to 2.
    second = drawn[drawn[:, 0] == 0, 1]
    assert float((second == 1).float().mean()) == pytest.approx(0.6, abs=0.015)


def reach_of(codes, decoder):
    """How far the codes of `[K, T]` lead away from the first codebook's, `[K - 1, T]`."""
    codebook = torch.arange(1, len(codes))[:, None]
    return decoder.refinements()[codebook, codes[1:]].cumsum(dim=0).norm(dim=-1)


def test_drawn_codes_stay_in_their_cells():
    conditioning, decoder = make_conditioning(2, 60), make_decoder()
    sampling = SamplingConfig(guidance=1.0, top_k=0)

    def reaches():
        codes = generate_codes(PackedDecoder(decoder), conditioning, conditioning, sampling, [3, 4])
        return torch.cat([reach_of(row, decoder) for row in codes], dim=1)

    free = reaches()
    decoder.cell_radii[1:] = torch.tensor([2.5, 2.8])
    held = reaches()
    beyond = (free > decoder.cell_radii[1:, None]).float().mean(dim=1)
    assert float(beyond.min()) > 0.2
    assert not (held > decoder.cell_radii[1:, None]).any()


def test_cells_take_the_first_that_fits_and_else_the_nearest():
    decoder = make_decoder()
    decoder.cell_radii[1:] = torch.tensor([2.0, 2.0])
    norms = decoder.refinements()[1, :11].norm(dim=-1)
    order = norms.argsort()
    inside, outside = order[norms[order] <= 2.0], order[norms[order] > 2.0]
    cells = Cells(PackedDecoder(decoder), 1)
    drawn = torch.stack([outside[0], inside[-1], inside[0]]).expand(1, 3, 3)
    assert cells.write(drawn)[0, :2, 0].tolist() == [int(outside[0]), int(inside[-1])]
    cells = Cells(PackedDecoder(decoder), 1)
    drawn = torch.stack([outside[2], outside[0], outside[1]]).expand(1, 3, 3)
    assert int(cells.write(drawn)[0, 1, 0]) == int(outside[0])


def test_radii_are_measured_on_codes():
    decoder = make_decoder()
    codes = torch.randint(0, 11, (3, 4000), generator=torch.Generator().manual_seed(0))
    decoder.set_cell_radii(codes)
    reach = reach_of(codes, decoder)
    share = (reach <= decoder.cell_radii[1:, None]).float().mean(dim=1)
    torch.testing.assert_close(share, torch.full((2,), CELL_QUANTILE), atol=0.02, rtol=0)
    assert decoder.cell_radii[0] == float("inf")


def test_the_seed_decides():
    assert torch.equal(run([3]), run([3]))
    assert not torch.equal(run([3]), run([4]))


def test_the_room_decides():
    assert not torch.equal(run([3]), run([3], seed_room=2))


def test_a_row_is_the_same_alone_and_in_a_batch():
    assert torch.equal(run([3])[0], run([3, 8])[0])


def test_guidance_one_is_the_conditioned_model_and_zero_the_null():
    conditioning = make_conditioning(1, 6)
    null = null_of(conditioning)
    greedy = {"temperature": 0.0}
    plain = generate_codes(
        PackedDecoder(make_decoder()), conditioning, null, SamplingConfig(guidance=1.0, **greedy), [0]
    )
    nearly = generate_codes(
        PackedDecoder(make_decoder()), conditioning, null, SamplingConfig(guidance=1.0 + 1e-6, **greedy), [0]
    )
    assert torch.equal(plain, nearly)
    without = generate_codes(
        PackedDecoder(make_decoder()), conditioning, null, SamplingConfig(guidance=0.0, **greedy), [0]
    )
    alone = generate_codes(
        PackedDecoder(make_decoder()), null, null, SamplingConfig(guidance=1.0, **greedy), [0]
    )
    assert torch.equal(without, alone)


def test_progress_counts_every_frame():
    seen = []
    conditioning = make_conditioning(1, 5)
    generate_codes(
        PackedDecoder(make_decoder()),
        conditioning,
        null_of(conditioning),
        SamplingConfig(guidance=1.25),
        [0],
        lambda *a: seen.append(a),
    )
    assert seen == [(i + 1, 5) for i in range(5)]


def test_codes_are_codes():
    codes = run([1], n=8)
    assert codes.shape == (1, 3, 8)
    assert int(codes.min()) >= 0 and int(codes.max()) < 11


def test_constraints_are_chosen_by_name():
    """Switched off, weights with limits draw as weights without."""
    conditioning, decoder = make_conditioning(1, 40), make_decoder()

    def drawn(**settings):
        sampling = SamplingConfig(guidance=1.0, top_k=0, **settings)
        return generate_codes(PackedDecoder(decoder), conditioning, conditioning, sampling, [3])

    free = drawn()
    decoder.cell_radii[1:] = torch.tensor([2.5, 2.8])
    assert torch.equal(drawn(constraints=()), free)
    assert torch.equal(drawn(constraints=("rests",)), free)
    assert torch.equal(drawn(constraints=("cells",)), drawn())
    assert not torch.equal(drawn(), free)
    with pytest.raises(ConfigError, match=r"'cell' is unknown; expected some of cells, rests"):
        drawn(constraints=("cell",))


def test_guidance_must_be_a_number_where_no_model_gives_it():
    conditioning = make_conditioning(1, 4)
    with pytest.raises(ConfigError, match="guidance is not given"):
        generate_codes(PackedDecoder(make_decoder()), conditioning, conditioning, SamplingConfig(), [0])


class Counter:
    """A model of one codebook, and a constraint: token t + 1 follows t, and 3 is skipped."""

    pattern, codebook_size, device, n_candidates = DelayPattern(1, filler=6), 6, torch.device("cpu"), 2
    state: tuple[torch.Tensor, ...] = ()
    n_ready = 0

    def ready(self, n_columns: int) -> None:
        self.n_ready += n_columns

    def step(self, column: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        following = torch.where(column == 6, 0, (column + 1) % 6)
        return torch.nn.functional.one_hot(following, 6).float() + bias

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        logits[..., 3] = float("-inf")
        return logits

    def write(self, candidates: torch.Tensor) -> torch.Tensor:
        self.seen = candidates.shape[-1]
        return candidates


def test_another_model_is_written_by_the_same_loop():
    """Greedy: 0, 1, 2, and instead of 3 what is likeliest besides."""
    counter = Counter()
    loop = TokenLoop(counter, SamplingConfig(temperature=0), [0], [counter])
    bias = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.1])
    written = torch.cat([loop.push(bias.expand(1, n, 6)) for n in (1, 3, 2)], dim=2)
    assert written[0, 0].tolist() == [0, 1, 2, 5, 0, 1]
    assert (counter.seen, counter.n_ready) == (2, 6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**setting)


def longest_rest(codes, quiet):
    """Longest run of `[B, K, T]` whose first codes are quiet."""
    longest = 0
    for row in codes[:, 0]:
        lasted = 0
        for code in row.tolist():
            lasted = lasted + 1 if quiet[code] else 0
            longest = max(longest, lasted)
    return longest


def test_music_comes_back_from_a_rest_in_time():
    conditioning, decoder = make_conditioning(2, 80), make_decoder()
    quiet = decoder.first_loudness() <= decoder.first_loudness().sort().values[8]
    with torch.no_grad():
        decoder.bias[0, quiet] += 8.0  # a model that likes to be quiet
    sampling = SamplingConfig(guidance=1.0, top_k=0)

    def drawn():
        return generate_codes(PackedDecoder(decoder), conditioning, conditioning, sampling, [3, 4])

    free = drawn()
    assert longest_rest(free, quiet) > 20
    decoder.rest_loudness[1] = decoder.first_loudness()[quiet].max()
    decoder.rest_limits[1] = 7
    held = drawn()
    assert longest_rest(held, quiet) == 7
    # Until the first rest would last too long nothing is changed.
    for free_row, held_row in zip(free, held, strict=True):
        n_same = int((free_row[0] == held_row[0]).int().cumprod(0).sum())
        assert 7 <= n_same < 80
        assert quiet[free_row[0, n_same - 7 : n_same + 1]].all()


def test_rests_are_measured_on_pieces():
    decoder = make_decoder()
    order = decoder.first_loudness().argsort()
    quiet, loud = int(order[0]), int(order[-1])
    # 99 rests of two frames and one of nine: 2 is what 97 % of them do not exceed.
    piece = ([quiet] * 2 + [loud] * 40) * 99 + [quiet] * 9 + [loud]
    decoder.set_rests([torch.tensor([piece] * 3)] * 2)
    # No rounding makes a code quiet or loud: the threshold lies halfway to the next.
    loudness = decoder.first_loudness()[order]
    torch.testing.assert_close(decoder.rest_loudness[:2], loudness[:2].mean().expand(2))
    assert decoder.rest_limits[:2].tolist() == [2.0, 2.0]
    assert decoder.rest_limits[3] > 1000  # all is as quiet as that
