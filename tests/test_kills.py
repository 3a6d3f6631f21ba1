"""Jobs that are killed and gone on with give what an undisturbed run gives; signals leave nothing temporary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import contents, start
from rooms import RATE, steps_room

from silent2music import audio

SCRIPT = Path(__file__).with_name("kills.py")

posix = pytest.mark.skipif(os.name == "nt", reason="processes are forked, and told to end by signals")


def run(folder: Path, *words: object) -> list[str]:
    """The sentences of the script."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, words), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@posix
@pytest.mark.parametrize("names", ["prepare", pytest.param("infer train", marks=pytest.mark.slow)])
def test_stopped_wherever_it_writes_a_job_gives_the_same(tmp_path: Path, names: str) -> None:
    sentences = run(tmp_path, "stops", *names.split())
    assert [sentence.split(":")[0] for sentence in sentences] == names.split()
    assert all(int(sentence.split()[3]) >= 5 for sentence in sentences), sentences


@pytest.mark.slow
def test_killed_at_random_commands_give_the_same(tmp_path: Path) -> None:
    assert len(run(tmp_path, "random", "--kills", 3, "--seed", 1)) == 3


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_what_is_finished_and_nothing_else(
    name: str, tmp_path: Path, model_folder: Path
) -> None:
    for i in range(2):
        audio.write(tmp_path / "rooms" / f"{i}.wav", audio.Waveform(steps_room(0.5), RATE))
    words = ["infer", tmp_path / "rooms", "--out", tmp_path / "out", "--model", model_folder]
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # what is ignored here, as under nohup, would be there
    process = start([*words, "--seconds", 3000])  # longer than anybody waits
    signal.signal(number, before)
    while process.poll() is None and not list((tmp_path / "out").glob(".s2m-*.wav")):
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1].decode()
    assert (process.returncode, said) == (130, "Interrupted; what was finished is whole.\n")
    assert not (tmp_path / "out").exists() or contents(tmp_path / "out") == {}
