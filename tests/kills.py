"""Kills jobs, goes on with them, and compares what comes out with an undisturbed run, byte for byte.

    python tests/kills.py random --kills 20 --seed 0 --folder kills
    python tests/kills.py stops infer prepare train --folder stops

`random` runs commands as a user does and kills each at a moment drawn by the seed. `stops` ends a job at each place
where it opens a file for writing, makes a folder or renames something, one after the other, as `kill -9` would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from conftest import RATE, make_codec, make_model, steps_room
from library import write_ambience, write_rooms, write_scores

from silent2music import audio
from silent2music.config import DataConfig

ROOT = Path(__file__).parent.parent
KILLED = 9

RECIPE = """
[data]
seconds = 4.0
validation_share = 0.25
kinds = { steps = 1.0 }
[ambient]
dim = 32
n_layers = 1
n_global_tokens = 2
[decoder]
dim = 32
n_layers = 1
n_heads = 2
attention_window = 30
[training]
batch_size = 2
crop_seconds = 0.5
max_steps = 40
validate_every = 10
n_validation_pairs = 2
checkpoint_minutes = 0.0
mixed_precision = "no"
"""

# ---- what the jobs work on ----


def make_sources(folder: Path) -> Path:
    """Rooms, pairs, shards, a recipe, a codec and a model, all tiny."""
    from silent2music.codec import load_codec
    from silent2music.data.pairs import Pair, write_pairs
    from silent2music.data.shards import prepare

    codec = make_codec(folder / "codec_made")
    make_model(folder / "model", codec)
    for i in range(2):
        room = steps_room(0.5, interval=0.2 + 0.1 * i)
        audio.write(folder / "rooms" / ("sub" if i == 1 else ".") / f"r{i}.wav", audio.Waveform(room, RATE))
    pairs = []
    for i in range(6):
        room, t = steps_room(1.0, interval=0.2 + 0.05 * i), np.arange(RATE) / RATE
        music = 0.3 * np.sin(2 * np.pi * 220 * 2 ** (i / 4) * t)[None].astype(np.float32)
        audio.write(folder / "pairs" / f"{i}.silent.wav", audio.Waveform(room, RATE))
        audio.write(folder / "pairs" / f"{i}.music.wav", audio.Waveform(music, RATE))
        pairs.append(Pair(f"{i}.silent.wav", f"{i}.music.wav", split="validation" if i > 3 else "train"))
    write_pairs(folder / "pairs", pairs)
    prepare(folder / "pairs", folder / "shards", load_codec(codec))
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder but those that say when they were written; a log without its times."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = json.dumps([{**line, "time": 0} for line in lines]).encode()
        elif not path.name.startswith("events.out.tfevents"):
            found[name] = path.read_bytes()
    return found


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Names of files that are missing, too many, or other ones."""
    return sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))


# ---- commands, killed at random moments ----


def commands(sources: Path) -> dict[str, Callable[[Path], list[object]]]:
    """The words of each command for an output folder, as they are given for the first time and again."""
    loops = ["--loop", "2s", "--set", "ambience.candidates=2"]
    folders = {"ambience": "ambience", "scores": "scores", "rooms": "responses"}
    settings = [word for name, own in folders.items() for word in ("--set", f"data.{name}={sources / own}")]
    recipe, model, codec = sources / "recipe.toml", sources / "model", sources / "codec_made" / "codec"

    def train(out: Path) -> list[object]:
        resume = ["--resume"] if (out / "state.safetensors").exists() else []
        return ["train", recipe, "--shards", sources / "shards", "--codec", codec, "--out", out, *resume]

    found: dict[str, Callable[[Path], list[object]]] = {
        "infer": lambda out: ["infer", sources / "rooms", "--out", out, "--model", model, "--seed", 7],
        "ambience": lambda out: ["ambience", sources / "rooms", "--out", out, "--model", model, *loops],
        "build": lambda out: [
            *("data", "build", recipe, "--out", out, "--hours", 8 * 4 / 3600, "--seed", 3, "--workers", 2),
            *settings,
        ],
        "prepare": lambda out: ["data", "prepare", sources / "pairs", "--out", out, "--codec", codec],
        "train": train,
    }
    if shutil.which("fluidsynth") is None or not Path(DataConfig().soundfont[0]).is_file():
        del found["build"]
    return found


def start(words: list[object]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "silent2music.cli", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(words: list[object]) -> float:
    """Run a command to its end; gives the seconds from the first thing that it wrote."""
    out, process = Path(str(words[words.index("--out") + 1])), start(words)
    begun = _first_written(out, process)
    said = process.communicate()[1].decode()
    if process.returncode:
        raise AssertionError(f"{' '.join(map(str, words))} gave {process.returncode}: {said}")
    return time.monotonic() - begun


def _first_written(out: Path, process: subprocess.Popen[bytes]) -> float:
    while process.poll() is None and not out.exists():
        time.sleep(0.005)
    return time.monotonic()


def kill_at_random(sources: Path, folder: Path, n_kills: int, seed: int) -> Iterator[str]:
    """Kill each command in turn, at a moment between its first writing and its end; a sentence on each kill."""
    rng = random.Random(seed)
    found = commands(sources)
    expected, seconds = {}, {}
    names = [name for _ in range(n_kills) for name in found][:n_kills]
    for name in dict.fromkeys(names):
        seconds[name] = finish(found[name](folder / "whole" / name))
        expected[name] = contents(folder / "whole" / name)
        assert expected[name]
    for number, name in enumerate(names, 1):
        out, n_tries, longest = folder / f"{number}-{name}", 0, seconds[name]
        while True:
            shutil.rmtree(out, ignore_errors=True)
            process, n_tries = start(found[name](out)), n_tries + 1
            _first_written(out, process)
            after = rng.uniform(0, longest)
            time.sleep(after)
            if process.poll() is None:
                break
            process.communicate()
            longest /= 2  # it had ended before
        process.kill()
        process.communicate()
        finish(found[name](out))
        wrong = differences(contents(out), expected[name])
        if wrong:
            raise AssertionError(f"kill {number}, {name} after {after:.2f} s: {', '.join(wrong)} differ")
        shutil.rmtree(out)
        yield f"{number:>3} {name:<9} killed {after:.2f} s after it began to write, and the same in the end"


# ---- jobs, stopped at each place where they write ----


def jobs(sources: Path) -> dict[str, Callable[[Path], None]]:
    """Functions that do a job, or go on with it, in a folder."""
    # What training loads as it runs: each child process would load it anew, twenty times as long as it works.
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401

    from silent2music.codec import load_codec
    from silent2music.config import load_recipe
    from silent2music.data.shards import prepare
    from silent2music.export.infer import infer_many, plan
    from silent2music.export.models import LazyModel
    from silent2music.training.loop import train

    model, codec = LazyModel(sources / "model", "cpu"), load_codec(sources / "codec_made" / "codec")
    assert model.model  # loaded once for all
    recipe = load_recipe(sources / "recipe.toml")
    short = replace(recipe, training=replace(recipe.training, max_steps=2, validate_every=2))

    def infer(out: Path) -> None:
        made = list(infer_many(plan([sources / "rooms"], 7, folder=out), model, folder=out))
        assert [outcome.reason for outcome in made if outcome.status == "failed"] == []

    def train_short(out: Path) -> None:
        is_begun = (out / "state.safetensors").exists()
        train(short, sources / "shards", sources / "codec_made" / "codec", out, resume=is_begun)

    return {
        "infer": infer,
        "prepare": lambda out: (prepare(sources / "pairs", out, codec, pairs_per_shard=3), None)[1],
        "train": train_short,
    }


@dataclass
class Stop:
    """An audit hook that ends the process at the n-th place where something below a folder is written."""

    folder: str
    n: int
    seen: int = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(set(str(mode or "")) & set("wa+x")) or bool(
                int(str(flags)) & (os.O_WRONLY | os.O_RDWR)
            )
        else:
            path, writes = arguments[0] if arguments else None, event in ("os.rename", "os.mkdir")
        if writes and isinstance(path, str | os.PathLike) and str(path).startswith(self.folder):
            self.seen += 1
            if self.seen == self.n:
                os._exit(KILLED)


def in_child(job: Callable[[Path], None], out: Path, stop: int = 0) -> int:
    """Do a job in a process of its own, stopped at the `stop`-th place; gives its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if stop:
                sys.addaudithook(Stop(str(out), stop))
            job(out)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stop_everywhere(name: str, job: Callable[[Path], None], folder: Path) -> str:
    """Stop a job at each place in turn and go on with it; a sentence on how many there were."""
    whole = folder / f"{name}-whole"
    assert in_child(job, whole) == 0
    expected, stop = contents(whole), 0
    while True:
        stop, out = stop + 1, folder / f"{name}-{stop}"
        code = in_child(job, out, stop)
        assert code in (0, KILLED), (name, stop)
        if code == KILLED:
            for record in out.rglob("*.music.json"):
                # What has come to its place is whole, and music comes before its record.
                assert record.with_suffix(".wav").read_bytes() and json.loads(record.read_bytes())
            assert in_child(job, out) == 0, (name, stop)
        wrong = differences(contents(out), expected)
        assert not wrong, (name, stop, wrong)
        shutil.rmtree(out)
        if code == 0:
            return f"{name}: stopped at {stop - 1} places, and the same in the end"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("how", choices=("random", "stops"))
    parser.add_argument("names", nargs="*", help="with stops: the jobs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder = given.folder.absolute()
    sources = make_sources(folder / "sources")
    if given.how == "random":
        write_ambience(sources / "ambience")
        write_scores(sources / "scores")
        write_rooms(sources / "responses")
        for sentence in kill_at_random(sources, folder, given.kills, given.seed):
            print(sentence, flush=True)
        return
    found = jobs(sources)
    for name in given.names or found:
        print(stop_everywhere(name, found[name], folder), flush=True)


if __name__ == "__main__":
    main()
