"""Every job of the command line, from data folders to an evaluated model, on tiny data.

Each line is driven as the README writes it, in a folder where `recipes/base` and its like are tiny; each uses what
those before it made. `test_readme` reads the lines here: a README command whose options no line has is an error.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import make_codec, make_sketched, reset_accelerate
from library import write_ambience, write_rooms, write_scores
from rooms import RATE, steps_room
from typer.testing import CliRunner

from silent2music import audio
from silent2music.cli import app
from silent2music.config import DataConfig
from silent2music.evaluation import bench, codec_bench
from silent2music.evaluation.originality import Melodies

SECONDS = 4.0
HOURS = 8 * SECONDS / 3600  # eight pairs

RECIPE = f"""
[run]
hours = {HOURS}
workers = 1
n_eval = 2

[data]
ambience = "ambience"
scores = "scores"
rooms = "responses"
seconds = {SECONDS}
validation_share = 0.3
kinds = {{room = 1.0, steps = 1.0}}

[codec]
n_fft = 960
n_components = 16
n_codebooks = 4
codebook_size = 32
griffin_lim_iterations = 2
decoder_layers = 1
correction_dim = 8

[codec_training]
objective = "magnitudes"
cached_minutes = 0.3
max_steps = 1
batch_size = 1
crop_seconds = 0.5
n_validation_crops = 1

[ambient]
dim = 32
n_layers = 1

[decoder]
dim = 32
n_layers = 1
n_heads = 2
attention_window = 100

[training]
batch_size = 2
crop_seconds = 1.0
max_steps = 2
validate_every = 2
n_validation_pairs = 1
"""

COMPOSER = """
trains = "composer"

[ambient]
dim = 32
n_layers = 1

[composer]
dim = 32
n_layers = 1
n_heads = 2
attention_window = 50
writer_dim = 16
writer_layers = 1

[training]
batch_size = 2
crop_seconds = 1.0
max_steps = 2
validate_every = 2
n_validation_pairs = 2
"""

SKETCH = """
trains = "sketch"

[ambient]
dim = 32
n_layers = 1

[sketch]
note_dim = 16
dim = 16
n_layers = 1

[training]
batch_size = 2
crop_seconds = 1.0
max_steps = 2
validate_every = 2
n_validation_pairs = 2
"""

LOFI = """
[tune]
parts = ["composer"]
rank = 8
seconds = 4.0
max_steps = 3
n_compared = 2
n_followed = 2

[training]
batch_size = 2
crop_seconds = 2.0
"""

PRESET = """
[ambience]
seconds = 2.0
bars = 1
layers = ["calm"]
candidates = 1
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth is not installed"),
    pytest.mark.skipif(
        not Path(DataConfig().soundfont[0]).is_file(), reason="FluidR3_GM.sf2 is not installed"
    ),
]


class Desk:
    """A folder to work in, and the means to run a command line there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def drive(self, line: str, sound: bytes = b"") -> bytes:
        """Standard output of a command line, which must succeed."""
        with contextlib.chdir(self.folder):
            ran = CliRunner().invoke(app, shlex.split(line), input=sound)
        reset_accelerate()
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout_bytes


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    write_ambience(folder / "ambience")
    write_scores(folder / "scores")
    write_rooms(folder / "responses")
    for name, text in (
        ("base", RECIPE),
        ("codec", RECIPE),
        ("composer", COMPOSER),
        ("sketch", SKETCH),
        ("vr", PRESET),
    ):
        (folder / "recipes" / name).mkdir(parents=True)
        (folder / "recipes" / name / "recipe.toml").write_text(text, encoding="utf-8")
    for name in ("room.wav", "hall.wav", "rooms/a.wav", "rooms/deep/b.wav"):
        audio.write(folder / name, audio.Waveform(steps_room(), RATE))
    return Desk(folder)


# ---- pairs ----


@pytest.fixture(scope="module")
def pairs(desk: Desk) -> Path:
    desk.drive(
        f"data build recipes/base --out pairs --hours {HOURS} --seed 1 --workers 1"
        " --set data.ambience=ambience --set data.scores=scores --set data.rooms=responses"
    )
    return desk.folder / "pairs"


def test_data_build_check_and_stats(desk: Desk, pairs: Path) -> None:
    lines = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 8
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert desk.drive("data check pairs") == b""
    assert json.loads(desk.drive("data stats pairs --n 2 --json --plot pair.png"))
    desk.drive("data stats pairs --n 2")
    assert (desk.folder / "pair.png").read_bytes()[:4] == b"\x89PNG"


def test_data_build_without_sound(desk: Desk) -> None:
    desk.drive(
        f"data build recipes/base --out rooms --hours {HOURS} --seed 101 --silent-only"
        " --set data.ambience=ambience --set data.scores=scores --set data.rooms=responses"
    )
    assert list((desk.folder / "rooms").glob("train-*.parquet"))
    assert not list((desk.folder / "rooms").rglob("*.flac"))


def test_data_harvest(desk: Desk) -> None:
    """Room tone of three seconds, and ten of struck notes after it."""
    rng = np.random.default_rng(0)
    time = np.arange(13 * RATE) / RATE
    notes = 0.3 * np.sin(2 * np.pi * 440 * time) * 10 ** (-3 * (time % 0.5)) * (time >= 3)
    samples = (notes + 5e-4 * rng.standard_normal(time.size))[None].astype(np.float32)
    audio.write(desk.folder / "performance.flac", audio.Waveform(samples, RATE))
    said = desk.drive("data harvest performance.flac --out harvested --licence CC0 --author Tester")
    assert said == b"1 pairs harvested into harvested\n"


# ---- codec ----


@pytest.fixture(scope="module")
def codec(desk: Desk, pairs: Path) -> Path:
    desk.drive("codec fit pairs --out codec --recipe recipes/codec --hours 0.01 --set codec.n_codebooks=4")
    return desk.folder / "codec"


def test_codec_fit_train_and_roundtrip(desk: Desk, pairs: Path, codec: Path) -> None:
    desk.drive(
        "codec train recipes/codec pairs --validation pairs --start codec --out better --set codec_training.max_steps=1"
    )
    assert (desk.folder / "better" / "codec" / "config.json").is_file()
    desk.drive(
        "codec train recipes/codec pairs --validation pairs --start codec --correction better/codec --out grown"
        " --set codec_training.max_steps=1 --set codec_training.cached_minutes=1"
    )
    desk.drive("codec roundtrip room.wav back.wav --codec better/codec")
    assert audio.read(desk.folder / "back.wav").n_samples == 2 * RATE


@pytest.mark.slow
def test_codec_bench(desk: Desk, pairs: Path, codec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_bench, "SPEED_SECONDS", 0.5)
    monkeypatch.setattr(codec_bench, "SPEED_ROUNDS", 1)
    printed = desk.drive(
        "codec bench --codec fitted=codec --codec one=codec:1 --pairs pairs --families rooms --real rooms --out bench"
        " --limit 1 --seconds 1"
    )
    assert b"fitted" in printed
    assert (desk.folder / "bench" / "bench.md").is_file()


def test_codec_music(desk: Desk) -> None:
    desk.drive("codec music scores --out music --seed 1 --pieces 2")
    files = sorted((desk.folder / "music").rglob("*.flac"))
    assert [path.name for path in files] == ["mallets-0001.flac", "piano-0000.flac"]
    assert all(audio.read(path).seconds == 20.0 and audio.read(path).samples.any() for path in files)


def test_codec_fit_band_and_bench_band(desk: Desk, codec: Path) -> None:
    desk.drive("codec music scores --out wide --seed 1 --pieces 2 --set data.sample_rate=48000")
    shutil.copytree(codec, desk.folder / "extended")
    desk.drive("codec fit-band wide/train --codec extended --hours 0.01 --seed 1")
    assert (desk.folder / "extended" / "extension.safetensors").is_file()
    printed = desk.drive("codec bench-band extended --families wide --real rooms --out band --seconds 1")
    assert b"| **families** | 2 |" in printed
    assert (desk.folder / "band" / "band.json").is_file()


# ---- model ----


@pytest.fixture(scope="module")
def shards(desk: Desk, pairs: Path, codec: Path) -> Path:
    desk.drive("data prepare pairs --codec codec --out shards --codebooks 3 --workers 1")
    return desk.folder / "shards"


@pytest.fixture(scope="module")
def model(desk: Desk, shards: Path) -> Path:
    desk.drive("train recipes/base --shards shards --codec codec --out run")
    return desk.folder / "run" / "model"


def test_train_goes_on_and_plays_against_itself(desk: Desk, model: Path) -> None:
    first = (model / "model.safetensors").read_bytes()
    desk.drive(
        "train recipes/base --shards shards --codec codec --out run --resume --set training.max_steps=3"
    )
    assert (model / "model.safetensors").read_bytes() != first
    desk.drive(
        "train recipes/base --shards shards --codec codec --start run/model --out played"
        " --set training.selfplay_weight=1 --set training.learning_rate=3e-4 --set training.batch_size=2"
        " --set training.max_steps=1"
    )
    assert (desk.folder / "played" / "model" / "model.safetensors").is_file()


def test_validate(desk: Desk, model: Path) -> None:
    assert b"true" in desk.drive("validate --shards shards --model run/model --n 2")
    assert json.loads(desk.drive("validate --shards shards --model run/model --n 2 --json"))


def test_a_composer_is_trained_judged_and_composes(desk: Desk, pairs: Path, model: Path) -> None:
    desk.drive("train recipes/composer --shards shards --start run/model --out notes")
    folder = desk.folder / "composing"
    shutil.copytree(model, folder)
    shutil.copytree(desk.folder / "notes" / "composer", folder / "composer")
    soundfont = DataConfig().soundfont[0]
    printed = desk.drive(
        f"eval-scores --model composing --pairs pairs --soundfont {soundfont} --n 2 --workers 1"
    )
    assert b"true room first of 2" in printed and b"energy (measured) composer" in printed
    script = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "composer" / "melodies.py"))
    taught = script["write_melodies"](desk.folder / "shards", folder / "composer" / "melodies.npz")
    assert taught.names == Melodies.read(folder / "composer" / "melodies.npz").names and len(taught.names) > 1
    # Worker processes are driven elsewhere; each would load torch.
    found = desk.drive(
        f"eval-scores --model composing --pairs pairs --soundfont {soundfont} --n 2 --workers 1 --json"
    )
    assert json.loads(found)["n"] == 2
    assert b"as asked of another" in desk.drive(
        "eval-scores --controls tempo --model composing --pairs pairs --n 2 --seconds 1 --workers 1"
    )
    desk.drive("compose room.wav -o one.mid --musicxml --model composing")
    assert (desk.folder / "one.musicxml").is_file()
    desk.drive("compose room.wav -o ideas.mid --count 2 --seed 5 --model composing")
    desk.drive("compose room.wav -o longer.mid --continue one.mid --seconds 3 --model composing")
    assert {path.name for path in desk.folder.glob("*.mid")} == {
        "one.mid",
        "ideas.1.mid",
        "ideas.2.mid",
        "longer.mid",
    }


def test_a_sketch_is_trained(desk: Desk, pairs: Path, model: Path) -> None:
    desk.drive("train recipes/sketch --shards shards --start run/model --out sound")
    assert (desk.folder / "sound" / "sketch" / "model.safetensors").is_file()


def test_infer(desk: Desk, model: Path) -> None:
    desk.drive("infer room.wav --model run/model")
    desk.drive(
        "infer room.wav -o score.flac --seconds 1 --seed 7 --temperature 0.9 --guidance 2 --model run/model"
    )
    desk.drive("infer rooms/ --out made/ --seed 1 --force --model run/model")
    desk.drive(
        "infer room.wav -o idea.mp3 --seed 1 --count 2 --seconds 0:01 --loudness podcast --mono"
        " --sample-rate 44100 --fade-in 0.1 --fade-out 0.3 --model run/model"
    )
    assert audio.read(desk.folder / "room.music.wav").seconds == 2.0
    assert audio.read(desk.folder / "score.flac").seconds == 1.0
    assert (desk.folder / "made" / "deep" / "b.music.wav").is_file()
    assert audio.read(desk.folder / "idea.2.mp3").samples.shape == (1, 44_100)
    wav = desk.drive("infer room.wav -o - --model run/model")
    assert wav[:4] == b"RIFF" and len(wav) > 3 * 2 * 2 * 48_000
    desk.drive("infer room.wav --of room.music.wav --redo 0.5:1.2 -o other.wav --model run/model")
    assert json.loads((desk.folder / "other.json").read_text(encoding="utf-8"))["redone"][0]["end"] == 1.2


@pytest.mark.slow
@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
def test_the_example_is_tuned_heard_and_merged(desk: Desk) -> None:
    """The recipe `lofi-muted` as its README has it, with few and short pieces."""
    script = Path(__file__).parent.parent / "recipes" / "lofi-muted" / "make.py"
    words = [script, "--out", desk.folder / "lofi", "--pieces", 4, "--seconds", 12]
    subprocess.run([sys.executable, *map(str, words)], check=True)
    make_sketched(desk.folder / "tunable", make_codec(desk.folder))
    (desk.folder / "lofi-muted").mkdir()
    (desk.folder / "lofi-muted" / "recipe.toml").write_text(LOFI, encoding="utf-8")
    desk.drive(
        "tune lofi -o mylofi --recipe lofi-muted --minutes 10 --licence CC0-1.0 --prepare --model tunable"
    )
    said = desk.drive(
        "tune lofi -o mylofi --recipe lofi-muted --minutes 10 --licence CC0-1.0 --model tunable"
    ).decode()
    assert "To be tuned: composer of 'tiny' (low-rank changes, rank 8)." in said
    assert "mylofi: an adapter of 0." in said
    assert (desk.folder / "mylofi" / "before-after.html").stat().st_size > 10_000
    desk.drive("infer room.wav -o tuned.wav --adapter mylofi --model tunable")
    desk.drive("infer room.wav -o half.wav --adapter mylofi=0.5 --adapter mylofi=0.5 --model tunable")
    desk.drive("compose room.wav --adapter mylofi -o noted.mid --model tunable")
    desk.drive("merge mylofi -o merged --model tunable")
    desk.drive("infer room.wav -o merged.wav --model merged")
    # Two halves of one adapter are the whole of it.
    tuned, half = (audio.read(desk.folder / f"{name}.wav").samples for name in ("tuned", "half"))
    assert np.array_equal(tuned, half)


def test_score_clip(desk: Desk, model: Path, sketched_folder: Path) -> None:
    pytest.importorskip("av")
    from clips import make_clip, scene

    frames = [scene(np.random.default_rng(i // 10)).astype(np.uint8) for i in range(20)]
    make_clip(desk.folder / "scene.mp4", frames, sound=steps_room(0.8, 48_000))
    make_clip(desk.folder / "mute.mp4", frames)
    (desk.folder / "marks.edl").write_text("* LOC: 01:00:00:05 RED door\n", encoding="utf-8")
    desk.drive(
        "score-clip scene.mp4 -o scored.mov --under none --duck --loudness film --fade-in 00:00:00:12"
        " --cue marks.edl --timecode 01:00:00:00 --fps 29.97 --model run/model"
    )
    desk.drive("score-clip mute.mp4 -o mute.scored.mp4 --silent --cue 0:00.2=reveal --model run/model")
    shutil.copytree(sketched_folder, desk.folder / "scorer")
    desk.drive("score-clip scene.mp4 -o stemmed.mp4 --stems --model scorer")
    assert audio.read(desk.folder / "scored.wav").n_samples == round(0.8 * 48_000)
    assert (desk.folder / "mute.scored.mp4").is_file()


def test_perform(desk: Desk, sketched_folder: Path) -> None:
    soundfont = DataConfig().soundfont[0]
    desk.drive(
        f"perform scores/piece0.mid --soundfont {soundfont} --room room.wav -o tune.flac --seconds 0:03"
        " --seed 2 --loudness film --mono --sample-rate 44100 --fade-in 0.1 --fade-out 0.3"
    )
    assert audio.read(desk.folder / "tune.flac").samples.shape == (1, 3 * 44_100)
    printed = desk.drive(f"perform scores/piece0.mid --soundfont {soundfont} -o dry.wav --seconds 2 --json")
    assert json.loads(printed)["score"]["file"] == "piece0.mid"
    shutil.copytree(sketched_folder, desk.folder / "sketched", dirs_exist_ok=True)
    desk.drive("perform scores/piece0.mid -o alone.wav --model sketched --seconds 1")
    desk.drive("perform scores/piece0.mid --room room.wav --fit -o fitted.wav --model sketched --seconds 1")
    desk.drive(
        "perform scores/piece0.mid --room room.wav --adherence 8 --score-guidance 2 -o near.wav --model sketched"
        " --seconds 1 --guidance 2 --temperature 0.9 --top-k 50 --top-p 0.9"
    )
    desk.drive("infer room.wav --adherence 2 --score-guidance 1.5 -o played.wav --model sketched")
    desk.drive("infer room.wav --of played.wav --keep-melody -o around.wav --model sketched")
    desk.drive(
        "perform scores/piece0.mid -o staged.wav --stems --project dawproject --model sketched --seconds 1"
    )
    desk.drive(
        f"perform scores/piece0.mid --soundfont {soundfont} --room room.wav -o parts.wav --stems-by part --seconds 1"
    )
    desk.drive(
        "infer room.wav -o session.wav --stems --musicxml --project reaper --seconds 1 --model sketched"
    )
    desk.drive("infer room.wav -o heard.wav --count 2 --audition audition.html --seconds 1 --model sketched")
    made = ("staged.dawproject", "session.rpp", "session.musicxml", "session.mid", "audition.html")
    for name in ("alone.wav", "fitted.wav", "near.wav", "played.mid", *made):
        assert (desk.folder / name).is_file()
    desk.drive("analyze room.wav --music scores/piece0.mid --plot roll.png")
    assert (desk.folder / "roll.png").read_bytes()[:4] == b"\x89PNG"


def test_infer_streams_a_file_and_what_comes_in(desk: Desk, model: Path) -> None:
    wav = desk.drive("infer room.wav --stream --model run/model")
    assert wav[:4] == b"RIFF" and len(wav) == 44 + 2 * 2 * 2 * 48_000
    live = (32767 * np.clip(steps_room(), -1, 1)).astype("<i2").tobytes()
    assert len(desk.drive("infer - --stream --raw --model run/model", live)) == 2 * 2 * 2 * 48_000
    dry = desk.drive("infer - --stream --raw --mono --sample-rate 24000 --seconds 1 --model run/model", live)
    assert len(dry) == 2 * RATE


def test_demo_and_analyze(desk: Desk, model: Path) -> None:
    assert b"s2m-demo.wav" in desk.drive("demo --model run/model")
    desk.drive("analyze room.wav --plot room.png")
    lines = desk.drive("analyze room.wav rooms/ --json").splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["room.wav", "a.wav", "deep/b.wav"]
    desk.drive("analyze room.wav --music s2m-demo.wav --plot both.png")
    for name in ("room.png", "both.png"):
        assert (desk.folder / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ambience_and_its_check(desk: Desk, model: Path, sketched_folder: Path) -> None:
    desk.drive(
        "ambience rooms/ --out ambience-made/ --preset recipes/vr --contact-sheet sheet.png --model run/model"
    )
    assert (desk.folder / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    desk.drive(
        "ambience hall.wav --out halls/ --loop 1bars --layers calm --variations 1 --spatial ambix"
        " --loudness game --set ambience.candidates=1 --model run/model"
    )
    shutil.copytree(sketched_folder, desk.folder / "circular", dirs_exist_ok=True)
    (desk.folder / "key.toml").write_text('key = "C major"\n', encoding="utf-8")
    desk.drive(
        "ambience hall.wav --out circles/ --loop 1bars --tempo 120 --layers calm --extras stingers --transitions all"
        " --engines wwise --spatial ambix --order 2 --controls key.toml --model circular"
        " --set ambience.candidates=1 --set ambience.stingers=1"
    )
    assert json.loads(desk.drive("check-ambience ambience-made/ --json"))
    desk.drive("check-ambience ambience-made/")


def test_studio(desk: Desk, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command alone; its page is driven in `test_studio_page`."""
    uvicorn = pytest.importorskip("uvicorn", reason="gradio is not installed (extra studio)")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # which the studio sets for its process, and is here put back
    printed = desk.drive("studio --open --folder pieces --port 0 --model run/model").decode()
    assert opened[0].startswith("http://127.0.0.1:")
    assert opened[0] in printed


# ---- evaluation ----


def test_eval(desk: Desk, pairs: Path, model: Path) -> None:
    desk.drive(
        "eval --quick --model run/model --pairs pairs --n 2 --seconds 2 --temperature 0.9 --top-k 50"
        " --guidance 3 --precision fp32 --workers 1 --out t09"
    )
    desk.drive("eval --outputs pairs/audio --pairs pairs --out theirs --workers 1 --n 2")
    desk.drive("eval --rooms rooms --pairs pairs --n 2 --seconds 2 --out real --model run/model --workers 1")
    for name in ("t09", "theirs", "real"):
        assert (desk.folder / name / "report.md").is_file()


@pytest.mark.slow
def test_run_does_all_of_it_and_keeps_what_is_there(desk: Desk, pairs: Path) -> None:
    shutil.copytree(pairs, desk.folder / "runs" / "base" / "pairs")
    desk.drive(
        "run recipes/base --out runs/base --stages pairs,codec,tokens,model,eval --set data.ambience=ambience"
        " --set data.scores=scores --set data.rooms=responses"
    )
    assert (desk.folder / "runs" / "base" / "model" / "report.md").is_file()


@pytest.mark.slow
def test_bench(desk: Desk, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEP_SECONDS", 0.2), ("BATCHES", (2,)), ("PIECE_SECONDS", 0.6)):
        monkeypatch.setattr(bench, name, value)
    printed = desk.drive("bench --out speed --rounds 1 --model run/model --room room.wav").decode()
    report = json.loads((desk.folder / "speed" / "speed.json").read_text(encoding="utf-8"))
    names = {"conditioning", "steps", "steps of MusicGen", "codec", "whole", "steps, 2 rows"}
    assert set(report["stages"]) == names
    assert all(f["seconds"] > 0 and f["times_real_time"] > 0 for f in report["stages"].values())
    assert 0 < report["first_audio_seconds"] < report["command_seconds"]
    assert (desk.folder / "speed" / "speed.md").read_text(encoding="utf-8") == printed
    assert "as fast as those of MusicGen" in printed and "| steps, 2 rows |" in printed
    assert {line.count("|") for line in printed.splitlines() if line.startswith("|")} == {4}
