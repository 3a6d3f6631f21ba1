import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import full_disk

from silent2music.acoustics import analyze
from silent2music.ambient import ambient_features, n_features, n_scalars
from silent2music.audio import Waveform, read, write
from silent2music.codec import BundledCodec
from silent2music.config import AmbientConfig, CodecConfig
from silent2music.data.pairs import Pair, write_pairs
from silent2music.data.shards import Batch, PairDataset, batches, prepare, read_meta
from silent2music.errors import AudioError, DataError
from silent2music.files import claimed
from silent2music.score import Part, Score, write_midi
from silent2music.training.codec import fit_codec

RATE = 8000
AMBIENT = AmbientConfig(sample_rate=RATE, n_mels=8, n_fft=256)
N_PAIRS = 7


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> BundledCodec:
    """The bundled codec, small, fitted on noise of changing level."""
    file = tmp_path_factory.mktemp("codec") / "noise.wav"
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0.01, 0.3, 60), RATE // 4)
    write(file, Waveform((rng.standard_normal(level.size) * level)[None].astype(np.float32), RATE))
    config = CodecConfig(
        sample_rate=RATE, n_fft=320, hop=160, n_components=12, n_codebooks=3, codebook_size=32
    )
    return fit_codec([file], config, n_iterations=2)


def side(number: int, gain: float, seconds: float, rate: int, n_channels: int = 1) -> Waveform:
    rng = np.random.default_rng(number)
    samples = rng.standard_normal((n_channels, round(seconds * rate))) * rng.uniform(0.3, 1)
    return Waveform((gain * samples).astype(np.float32), rate)


def pair_names(number: int) -> tuple[str, str]:
    return f"{number}.silent.flac", f"{number}.music.flac"


def put_audio(folder: Path, number: int) -> None:
    seconds = 2.0 + 0.33 * number
    silent, music = pair_names(number)
    write(folder / silent, side(number, 1e-3, seconds + 0.02, RATE), force=True)
    write(folder / music, side(number + 100, 0.1, seconds, 11_025, n_channels=2), force=True)


def make_pairs(n_pairs: int = N_PAIRS) -> list[Pair]:
    return [
        Pair(*pair_names(i), split="validation" if i == 3 else "train", labels={"kind": "room", "beats": [i]})
        for i in range(n_pairs)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair folder; tests that change something copy it."""
    root = tmp_path_factory.mktemp("pairs")
    for number in range(N_PAIRS):
        put_audio(root, number)
    write_pairs(root, make_pairs())
    return root


@pytest.fixture(scope="module")
def prepared(folder: Path, codec: BundledCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    report = prepare(folder, out, codec, AMBIENT, pairs_per_shard=4)
    assert (report.n_prepared, report.n_kept, report.faults) == (N_PAIRS, 0, ())
    return out


def whole_rows(folder: Path, split: str = "train") -> list[Batch]:
    """All recordings of a prepared split."""
    dataset = PairDataset(folder, split)
    return [dataset.crop(i) for i in range(len(dataset))]


def room_of(example: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Ambient frames `[T, F]` and scalars `[Q]` of an example."""
    signals = example.signals
    assert all(signals.present[name].all() for name in ("room_frames", "room_scalars"))
    return signals.along["room_frames"][0].numpy(), signals.whole["room_scalars"][0].numpy()


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_a_row_is_what_codec_and_features_say(folder: Path, prepared: Path, codec: BundledCodec) -> None:
    dataset = PairDataset(prepared, "train")
    assert dataset.ids == [":".join(pair_names(i)) for i in (0, 1, 2, 4, 5, 6)]
    for index, number in enumerate((0, 1, 2, 4, 5, 6)):
        silent, music = (read(folder / name) for name in pair_names(number))
        codes = codec.encode(torch.from_numpy(music.mono().resampled(RATE).samples)[None])[0].numpy()
        n_frames = int(np.ceil(round(music.seconds, 6) * 25))
        room = Waveform(silent.samples[:, : round(music.seconds * RATE)], RATE)
        features = ambient_features(room, analyze(room), AMBIENT)

        example = dataset.crop(index)
        frames, scalars = room_of(example)

        assert example.codes.shape == (1, 3, n_frames)
        np.testing.assert_array_equal(example.codes[0], codes)
        assert frames.shape == (n_frames, n_features(AMBIENT))
        np.testing.assert_allclose(frames, features.frames[:n_frames], rtol=1e-3, atol=1e-4)
        assert scalars.shape == (n_scalars(AMBIENT),)
        np.testing.assert_allclose(scalars, features.scalars, rtol=1e-3, atol=1e-4)
        assert (example.kinds, example.starts) == (("room",), (0,))
        assert dataset.seconds[index] == pytest.approx(music.seconds)


def test_meta_states_codec_and_controls(prepared: Path, codec: BundledCodec) -> None:
    meta = read_meta(prepared)
    assert meta["codec_checksum"] == codec.token_checksum()
    assert meta["frame_rate"] == 25.0
    assert (meta["n_codebooks"], meta["codebook_size"]) == (3, 32)
    assert meta["controls"] == ["room_frames", "room_scalars"]
    counts = [len(PairDataset(prepared, split)) for split in ("train", "validation")]
    shards = [len(list(prepared.glob(f"{split}-*.parquet"))) for split in ("train", "validation")]
    assert (counts, shards) == ([6, 1], [2, 1])


def test_shards_of_the_first_codebooks(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    prepare(folder, tmp_path, codec, AMBIENT, n_codebooks=2)
    meta = read_meta(tmp_path)
    assert (meta["n_codebooks"], meta["codec_checksum"]) == (2, codec.token_checksum(2))
    for two, three in zip(whole_rows(tmp_path), whole_rows(prepared), strict=True):
        np.testing.assert_array_equal(two.codes, three.codes[:, :2])


def test_features_come_at_the_rate_of_the_codec(folder: Path, tmp_path: Path) -> None:
    config = CodecConfig(
        sample_rate=RATE,
        n_fft=320,
        hop=160,
        frames_per_code=1,
        n_components=12,
        n_codebooks=2,
        codebook_size=16,
    )
    codec = fit_codec(sorted(folder.glob("*.music.flac")), config, n_iterations=1)
    prepare(folder, tmp_path, codec)
    dataset = PairDataset(tmp_path, "train")
    assert dataset.meta["frame_rate"] == 50.0
    assert dataset.crop(0).codes.shape[2] == len(room_of(dataset.crop(0))[0])


def test_an_event_stays_on_its_codec_frame(tmp_path: Path, codec: BundledCodec) -> None:
    event = 1.52
    for name, gain, floor in (("a.wav", 0.01, 1e-4), ("b.wav", 0.5, 1e-3)):
        noise = np.random.default_rng(0).standard_normal(3 * RATE)
        samples = floor * noise
        burst = slice(round(event * RATE), round((event + 0.04) * RATE))
        samples[burst] = 0.3 * gain * noise[burst]
        write(tmp_path / name, Waveform(samples[None].astype(np.float32), RATE))
    write_pairs(tmp_path, [Pair("a.wav", "b.wav"), Pair("a.wav", "b.wav", 0.6, 3.0)])
    prepare(tmp_path, tmp_path / "out", codec, AMBIENT)
    whole, cut = whole_rows(tmp_path / "out")
    for example, second in ((whole, event), (cut, event - 0.6)):
        frame = round(second * 25)
        assert room_of(example)[0][:, : 2 * AMBIENT.n_mels].mean(axis=1).argmax() == frame
        power = codec.magnitudes(codec.vectors(example.codes))[0].square().sum(-1)
        assert int(power.argmax()) // codec.config.frames_per_code == frame


def with_scores(folder: Path, out: Path) -> Path:
    """The pair folder with a note every quarter of a second in each score; pair 0 has none, 1 and 3 have no sound."""
    shutil.copytree(folder, out)
    pairs = []
    for number, pair in enumerate(make_pairs()):
        if number > 0:
            starts = np.arange(0.0, 1.9, 0.25)
            pitches = np.full(len(starts), 60 + number)
            notes = Part("piano", 0, False, "melody", starts, starts + 0.2, pitches, pitches)
            write_midi(out / f"{number}.mid", Score(60.0 if number == 5 else 2.0, (notes,)))
            pair = replace(pair, score=f"{number}.mid")
        pairs.append(replace(pair, music=None) if number in (1, 3) else pair)
    write_pairs(out, pairs)
    return out


def test_shards_carry_scores_and_pairs_without_sound(
    folder: Path, codec: BundledCodec, prepared: Path, tmp_path: Path
) -> None:
    pairs, out = with_scores(folder, tmp_path / "pairs"), tmp_path / "out"
    report = prepare(pairs, out, codec, AMBIENT)
    assert (report.n_prepared, report.faults) == (N_PAIRS, ())
    # Only what is asked for is needed.
    assert len(PairDataset(out, "train")) == 5
    scored, both = (PairDataset(out, "train", needs=needs) for needs in (("score",), ("codes", "score")))
    assert [name[0] for name in scored.ids] == ["1", "2", "4", "5", "6"]
    assert [name[0] for name in both.ids] == ["2", "4", "5", "6"]
    assert len(PairDataset(out, "validation", needs=("score",))) == 1
    with pytest.raises(DataError, match="no pair with codes in the split 'validation'"):
        PairDataset(out, "validation")
    # Signals and length are those of the pair with sound, or of the whole silent side.
    with_sound = {example.ids[0]: example for example in whole_rows(prepared)}
    for index in range(len(both)):
        example = both.crop(index)
        assert torch.equal(example.codes, with_sound[example.ids[0]].codes)
        (score,) = example.scores
        np.testing.assert_allclose(score.parts[0].start_seconds, np.arange(0.0, 1.9, 0.25), atol=1e-3)
        assert score.parts[0].pitches[0] == 60 + int(example.ids[0][0])
        assert score.seconds == pytest.approx(example.codes.shape[2] / 25)
    silent = scored.crop(0)
    assert silent.ids == ("1.silent.flac:1.mid",)
    assert silent.codes.shape == (1, 0, silent.signals.n_frames)
    assert silent.signals.n_frames == round(2.35 * 25)


def test_the_score_of_a_crop_is_on_its_time(folder: Path, codec: BundledCodec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(with_scores(folder, tmp_path / "pairs"), out, codec, AMBIENT)
    crops = PairDataset(out, "train", 1.0, seed=2, needs=("score",))
    starts = set()
    for index in range(len(crops)):
        for epoch in range(4):
            crop = crops.crop(index, epoch)
            (score,), begin = crop.scores, crop.starts[0] / 25
            starts.add(crop.starts[0])
            assert score.seconds == 1.0
            onsets = np.arange(0.0, 1.9, 0.25)
            heard = onsets[(onsets + 0.2 > begin + 1e-3) & (onsets < begin + 1.0 - 1e-3)]
            found = np.concatenate([part.start_seconds for part in score.parts]) if score.parts else []
            np.testing.assert_allclose(found, np.maximum(heard - begin, 0.0), atol=1e-3)
    assert len(starts) > 5
    batch = next(batches(crops, 3, epoch=0))
    assert len(batch.scores) == 3


def test_crops_are_a_function_of_seed_epoch_and_index(prepared: Path) -> None:
    dataset, whole = PairDataset(prepared, "train", 1.0, seed=5), whole_rows(prepared)
    starts = []
    for epoch in range(20):
        for index in range(len(dataset)):
            crop, full = dataset.crop(index, epoch), whole[index]
            assert crop.codes.shape[2] == 25
            (start,) = crop.starts
            np.testing.assert_array_equal(crop.codes, full.codes[:, :, start : start + 25])
            np.testing.assert_array_equal(room_of(crop)[0], room_of(full)[0][start : start + 25])
            np.testing.assert_array_equal(room_of(crop)[1], room_of(full)[1])
            starts.append(start)
    again = PairDataset(prepared, "train", 1.0, seed=5)
    assert starts == [again.crop(i, e).starts[0] for e in range(20) for i in range(len(again))]
    other = PairDataset(prepared, "train", 1.0, seed=6)
    assert starts != [other.crop(i, e).starts[0] for e in range(20) for i in range(len(other))]
    first = [start for start in starts[::6]]
    assert set(first) <= set(range(26)) and len(set(first)) > 8, "crops of a 2 s pair cover its 26 places"


def all_batches(dataset: PairDataset) -> list[tuple]:
    """What the batches of an epoch hold."""
    found = []
    for batch in batches(dataset, 3, epoch=2):
        own = [getattr(batch.signals, axis) for axis in ("along", "whole", "present")]
        own = [{name: values.tolist() for name, values in signals.items()} for signals in own]
        found.append((batch.ids, batch.starts, batch.codes.tolist(), own))
    return found


def test_the_layout_of_the_shards_changes_nothing(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    prepare(folder, tmp_path / "out", codec, AMBIENT, pairs_per_shard=1)
    assert len(shard_bytes(tmp_path / "out")) == N_PAIRS
    reference, found = (all_batches(PairDataset(out, "train", 1.0)) for out in (prepared, tmp_path / "out"))
    assert len(reference) == 2
    assert found == reference


def test_a_large_set_takes_no_memory_and_gives_the_same(
    folder: Path, codec: BundledCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow, datasets = pytest.importorskip("pyarrow"), pytest.importorskip("datasets")
    prepare(folder, tmp_path / "out", codec, AMBIENT, pairs_per_shard=2)
    size = sum(len(data) for data in shard_bytes(tmp_path / "out").values())
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found, taken = [], []
    for limit in (size, 0):
        monkeypatch.setattr("silent2music.data.shards.LARGE_BYTES", limit)
        before = pyarrow.total_allocated_bytes()
        dataset = PairDataset(tmp_path / "out", "train", 1.0)
        taken.append(pyarrow.total_allocated_bytes() - before)
        found.append(all_batches(dataset))
    assert found[1] == found[0]
    assert taken[0] > size / 2
    assert taken[1] < taken[0] / 20


def test_workers_change_no_byte(folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path) -> None:
    threads = os.environ.get("OMP_NUM_THREADS")
    report = prepare(folder, tmp_path / "out", codec, AMBIENT, workers=2, pairs_per_shard=4)
    assert report.n_prepared == N_PAIRS
    assert shard_bytes(tmp_path / "out") == shard_bytes(prepared)
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_processes_of_a_launcher_change_no_byte(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, n_prepared = tmp_path / "out", []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (1, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        with ExitStack() as others:  # at work, too
            for other in {0, 1, 2} - {rank}:
                others.enter_context(claimed(out, other, 3))
            n_prepared.append(prepare(folder, out, codec, AMBIENT, pairs_per_shard=4).n_prepared)
    assert sum(n_prepared) == N_PAIRS and min(n_prepared) > 0
    assert shard_bytes(out) == shard_bytes(prepared)
    assert not (out / "plan.json").exists()


def test_a_process_that_comes_when_the_others_have_ended_leaves_nothing_undone(
    folder: Path, codec: BundledCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    shutil.copytree(folder, pairs)
    for number in (1, 5):
        (pairs / pair_names(number)[1]).write_text("no audio", encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "4")
    faults = []
    for rank in ("0", "1", "2", "3", "3"):
        monkeypatch.setenv("RANK", rank)
        faults.append(prepare(folder=pairs, out=out, codec=codec, ambient=AMBIENT, pairs_per_shard=1).faults)
    assert [len(found) for found in faults] == [2, 2, 2, 2, 2], "each plans the faulty pairs anew"
    assert not (out / "plan.json").exists()


def test_torchs_threads_are_left_as_they_were(
    folder: Path, codec: BundledCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: set_to[-1] if set_to else 5)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    prepare(folder, tmp_path / "out", codec, AMBIENT)
    assert 1 in set_to and set_to[-1] == 5


class DyingCodec:
    """The codec it is given, until it is asked for one pair too many."""

    def __init__(self, codec: BundledCodec, n_calls: int) -> None:
        self.codec, self.n_calls = codec, n_calls

    def __getattr__(self, name: str) -> object:
        return getattr(self.codec, name)

    def encode(self, audio: torch.Tensor, n_codebooks: int = 0) -> torch.Tensor:
        self.n_calls -= 1
        if self.n_calls < 0:
            raise KeyboardInterrupt
        return self.codec.encode(audio, n_codebooks)


def test_two_at_once_double_nothing_and_a_refused_one_claims_nothing(
    folder: Path, codec: BundledCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with claimed(out), pytest.raises(AudioError, match="out is being written by another command"):
        prepare(folder, out, codec, AMBIENT)
    with pytest.raises(DataError, match=r"expected the same, set ambient\.frame_rate"):
        prepare(folder, out, codec, replace(AMBIENT, frame_rate=50.0))
    with pytest.raises(DataError, match="cannot be read"):
        prepare(tmp_path, out, codec, AMBIENT)
    monkeypatch.setattr("silent2music.data.shards._encode_pair", lambda job, item: f"{item[0].id}: bad")
    with pytest.raises(DataError, match="None of the 7 pairs"):
        prepare(folder, out, codec, AMBIENT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_whole_shards_and_one_sentence(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    with full_disk(), pytest.raises(AudioError, match=r"train-00000\.parquet cannot be written"):
        prepare(folder, tmp_path / "out", codec, AMBIENT, pairs_per_shard=4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["meta.json", "plan.json"]
    prepare(folder, tmp_path / "out", codec, AMBIENT, pairs_per_shard=4)
    assert shard_bytes(tmp_path / "out") == shard_bytes(prepared)


def test_a_folder_that_vanishes_while_it_is_prepared_is_named(
    folder: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def vanish(done: int, total: int) -> None:
        if done == 5:
            shutil.rmtree(out)

    with pytest.raises(DataError, match="out was removed or changed while it was written"):
        prepare(folder, out, codec, AMBIENT, pairs_per_shard=4, progress=vanish)


def test_a_killed_run_goes_on_where_it_was(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, out, DyingCodec(codec, 5), AMBIENT, pairs_per_shard=4)  # type: ignore[arg-type]
    assert list(shard_bytes(out)) == ["train-00000.parquet"], "four of five encoded pairs were a full shard"
    (out / ".s2m-left.parquet").write_bytes(b"half")
    report = prepare(folder, out, codec, AMBIENT, pairs_per_shard=4)
    assert (report.n_prepared, report.n_kept) == (N_PAIRS - 4, 4)
    assert shard_bytes(out) == shard_bytes(prepared)
    assert not (out / ".s2m-left.parquet").exists()
    report = prepare(folder, out, DyingCodec(codec, 0), AMBIENT)  # type: ignore[arg-type]
    assert (report.n_prepared, report.n_kept) == (0, N_PAIRS)


def test_a_damaged_shard_is_rebuilt(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    out = shutil.copytree(prepared, tmp_path / "out")
    shard = out / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    report = prepare(folder, out, codec, AMBIENT, pairs_per_shard=4)
    assert (report.n_prepared, report.n_kept) == (4, 3)
    assert PairDataset(out).ids == PairDataset(prepared).ids


def test_a_set_can_be_prepared_while_it_grows_and_changes(
    folder: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    root, out = shutil.copytree(folder, tmp_path / "pairs"), tmp_path / "out"

    def run() -> tuple[int, int, int]:
        report = prepare(root, out, codec, AMBIENT, pairs_per_shard=2)
        return report.n_prepared, report.n_kept, len(report.faults)

    (root / pair_names(5)[1]).unlink()
    write_pairs(root, make_pairs(6))
    assert run() == (5, 0, 1)
    put_audio(root, 5)
    write_pairs(root, make_pairs(7))
    assert run() == (2, 5, 0)
    assert len(set(PairDataset(out).ids)) == 6

    pairs = make_pairs(7)
    pairs[0] = replace(pairs[0], labels={"kind": "hall"})
    write_pairs(root, pairs)
    assert run() == (2, 5, 0), "the shard of the changed pair held two"
    assert PairDataset(out).kinds.count("hall") == 1

    write_pairs(root, pairs[:4])
    run()
    assert len(PairDataset(out, "train")) == 3


def test_a_bad_pair_is_named_and_the_others_are_prepared(
    folder: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    root = shutil.copytree(folder, tmp_path / "pairs")
    (root / pair_names(1)[0]).write_text("no audio")
    steps: list[tuple[int, int]] = []
    report = prepare(root, tmp_path / "out", codec, AMBIENT, progress=lambda *step: steps.append(step))
    assert report.n_prepared == N_PAIRS - 1
    assert len(report.faults) == 1 and report.faults[0].startswith("1.silent.flac:1.music.flac: ")
    assert "6 pairs prepared, 0 kept" in str(report) and "left out: 1.silent.flac" in str(report)
    assert steps == [(i, N_PAIRS) for i in range(1, N_PAIRS + 1)]
    write_pairs(root, make_pairs()[1:2])
    with pytest.raises(DataError, match=r"None of the 1 pairs .* cannot be read as audio"):
        prepare(root, tmp_path / "other", codec, AMBIENT)


def test_what_does_not_fit_is_refused(
    folder: Path, prepared: Path, codec: BundledCodec, tmp_path: Path
) -> None:
    other = BundledCodec(codec.config)
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: prepare(folder, prepared, other, AMBIENT), "was prepared with codec_checksum"),
        (lambda: prepare(folder, prepared, codec, replace(AMBIENT, n_mels=9)), "feature_settings"),
        (
            lambda: prepare(folder, tmp_path, codec, replace(AMBIENT, frame_rate=50.0)),
            "set ambient.frame_rate",
        ),
        (lambda: PairDataset(tmp_path), "s2m data prepare"),
        (lambda: PairDataset(prepared, "test"), "no shard of the split 'test'"),
        (lambda: PairDataset(prepared, controls=["tempo"]), "without the control 'tempo'"),
    ]
    for call, message in refusals:
        with pytest.raises(DataError, match=message):
            call()
    (tmp_path / "meta.json").write_text('{"format": 0}')
    with pytest.raises(DataError, match="does not state format"):
        read_meta(tmp_path)


def test_collate_pads_at_the_end_and_says_where(prepared: Path) -> None:
    dataset = PairDataset(prepared, "train", 2.5)
    examples = [dataset.crop(i) for i in range(len(dataset))]
    batch = Batch.collate(examples)
    mask, frames = batch.signals.mask, batch.signals.along["room_frames"]
    assert batch.codes.shape == (6, 3, 63 if examples[-1].codes.shape[2] > 62 else 62)
    assert batch.codes.dtype == torch.int64
    assert (frames.dtype, mask.dtype) == (torch.float32, torch.bool)
    assert batch.signals.whole["room_scalars"].dtype == torch.float32
    assert mask.sum(dim=1).tolist() == [example.codes.shape[2] for example in examples]
    assert not mask[0].all() and mask[-1].all()
    assert (frames[~mask] == 0).all()
    for row, example in enumerate(examples):
        length = example.codes.shape[2]
        np.testing.assert_array_equal(batch.codes[row, :, :length], example.codes[0])
        np.testing.assert_array_equal(frames[row, :length], room_of(example)[0])
    assert batch.kinds == ("room",) * 6
    assert batch.to("cpu").ids == batch.ids


def test_batches_share_out_an_epoch_and_resume_it(prepared: Path) -> None:
    dataset = PairDataset(prepared, "train", 1.0, seed=3)
    ranks = [[b.ids for b in batches(dataset, 1, epoch=4, rank=r, world_size=2)] for r in range(2)]
    assert [len(ids) for ids in ranks] == [3, 3]
    assert sorted(i for rank in ranks for (i,) in rank) == dataset.ids
    whole = [b.ids for b in batches(dataset, 2, epoch=4)]
    assert [b.ids for b in batches(dataset, 2, epoch=4, start=1)] == whole[1:]
    assert whole != [b.ids for b in batches(dataset, 2, epoch=5)]
    assert list(batches(dataset, 7, epoch=0)) == []
