"""Malformed and hostile input, made from a seed: a table of cases, each with what the command line must give for it.

Most cases begin with a good file, folder or setting, made here, in which one thing is wrong. What must come out is one
sentence that names what is wrong, or the right result; of bytes that were changed at random either will do.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rooms import steps_room

SEED = 24

RATE = 24_000
SECONDS, LONG_SECONDS = 2.0, 9.0

MARK = "executed"
"""The name of the file that a pickle or a script among the input would write, were it run."""

STOCK = "stock"
"""The folder of good things, beside the one that a case is run in."""

EITHER = "either"
"""One sentence or the right result."""

Setup = Callable[[Path], None]
"""Writes the input into the current folder."""


@dataclass(frozen=True)
class Case:
    """One command on hostile input.

    Attributes:
        name: of the kind and of the fault.
        command: words of the command line; `{stock}` is the folder of good things.
        setup: writes the input.
        gives: what must stand in the one sentence; or `EITHER`; or the seconds that `analyze` must find; or True where
            the command must succeed.
        needs: a program without which the case is left out.
        leaves: files that a refused command may make: the list of a folder, in which the refusal stands.
    """

    name: str
    command: tuple[str, ...]
    setup: Setup
    gives: str | float | bool = EITHER
    needs: str = ""
    leaves: tuple[str, ...] = ()


class Payload:
    """What a pickle must never be allowed to do."""

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return os.mkdir, (MARK,)


def written(name: str, data: bytes | str) -> Setup:
    """Writes one file."""

    def setup(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return setup


def both(*setups: Setup) -> Setup:
    """One after the other."""

    def setup(folder: Path) -> None:
        for one in setups:
            one(folder)

    return setup


def nothing(folder: Path) -> None:
    """There is no input beyond the command."""


def fifo(name: str) -> Setup:
    """A pipe that nobody writes to: whoever opens it waits for ever."""

    def setup(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return setup


def link(name: str, target: str) -> Setup:
    """A symbolic link."""

    def setup(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return setup


# ---- recordings ----


def sound(container: str, subtype: str, rate: int = RATE) -> Callable[[float], bytes]:
    """What makes a near-silent room of some seconds in one of libsndfile's formats."""

    def make(seconds: float) -> bytes:
        out = io.BytesIO()
        soundfile.write(out, steps_room(seconds, rate).T, rate, format=container, subtype=subtype)
        return out.getvalue()

    return make


FORMATS = {
    "wav": sound("WAV", "PCM_16"),
    "float.wav": sound("WAVEX", "FLOAT"),
    "aiff": sound("AIFF", "PCM_16"),
    "flac": sound("FLAC", "PCM_16"),
    "mp3": sound("MP3", "MPEG_LAYER_III"),
    "ogg": sound("OGG", "VORBIS"),
    "opus": sound("OGG", "OPUS"),
    "au": sound("AU", "PCM_16"),
    "w64": sound("W64", "PCM_16"),
    "rf64": sound("RF64", "PCM_16"),
    "caf": sound("CAF", "PCM_16"),
    "gsm.wav": sound("WAV", "GSM610", 8000),
}

HEADER_BYTES = 96
"""How much of a file is changed at random: its headers, and a little sound."""

ANALYZE = ("analyze", "--json")


def changed(
    data: bytes, rng: random.Random, n_changes: int, first: int = 0, last: int | None = None
) -> bytes:
    """Bytes of which some are others."""
    out = bytearray(data)
    for _ in range(n_changes):
        out[rng.randrange(first, min(len(out), len(out) if last is None else last))] = rng.randrange(256)
    return bytes(out)


def recordings(rng: random.Random) -> Iterator[Case]:
    """Files of sound whose headers were changed at random, or that were cut."""
    for suffix, make in FORMATS.items():
        good, name = make(SECONDS), f"room.{suffix}"
        yield Case(f"recording/{suffix} as it is", (*ANALYZE, name), written(name, good), SECONDS)
        for number in range(5):
            data = changed(good, rng, rng.choice((1, 1, 2, 4, 16)), 0, HEADER_BYTES)
            yield Case(
                f"recording/{suffix} with another header, {number}", (*ANALYZE, name), written(name, data)
            )
        data = changed(good, rng, 20, HEADER_BYTES)
        yield Case(f"recording/{suffix} with other sound", (*ANALYZE, name), written(name, data))
        long = make(LONG_SECONDS)
        cut = long[: len(long) * 2 // 3]
        yield Case(f"recording/{suffix} cut", (*ANALYZE, name), written(name, cut), -LONG_SECONDS * 2 / 3)
        cut = good[: rng.randrange(5, 24)]
        yield Case(f"recording/{suffix} cut in its header", (*ANALYZE, name), written(name, cut), r"^room\.")


def wave(
    data: bytes = b"",
    rate: int = RATE,
    n_channels: int = 1,
    bits: int = 16,
    codec: int = 1,
    data_size: int | None = None,
    align: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A WAV file with the values given, whatever they are."""
    data = data or np.int16(32767 * steps_room(SECONDS, RATE)[0]).tobytes()
    align = n_channels * bits // 8 if align is None else align
    size = len(data) if data_size is None else data_size
    form = struct.pack("<HHIIHH", codec, n_channels, rate, rate * align % 2**32, align % 2**16, bits)
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(2**32 - 1, len(body) + size)) + body + data


def float_samples(value: float) -> bytes:
    """2 s of samples of which one has a value that none should have."""
    samples = steps_room(SECONDS, RATE)[0].copy()
    samples[1000] = value
    return samples.astype("<f4").tobytes()


def sparse(name: str, head: bytes, size: int) -> Setup:
    """A file of a size that it takes no disk for: zeros after its head."""

    def setup(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.write(head)
            file.truncate(size)

    return setup


def odd_recordings(rng: random.Random) -> Iterator[Case]:
    """WAV files with values that no recorder writes, and what is no sound at all."""
    floats = {"bits": 32, "codec": 3}
    many = np.zeros((4000, 255), "<i2")
    many[:, 7] = np.int16(32767 * steps_room(0.5, 8000)[0])
    files: dict[str, tuple[bytes, str | float]] = {
        "rate of 0 Hz": (wave(rate=0), r"^room\.wav "),
        "rate of 1 Hz": (wave(rate=1), r"1 Hz; expected"),
        "rate of 50 Hz": (wave(rate=50), r"50 Hz; expected"),
        "rate of 2 GHz": (wave(rate=2**31 - 1), r"Hz; expected"),
        "rate of 4 GHz": (wave(rate=2**32 - 1), r"^room\.wav "),
        "no channels": (wave(n_channels=0), r"^room\.wav "),
        "65,535 channels": (wave(n_channels=65_535), r"^room\.wav "),
        "255 channels, one alive": (wave(many.tobytes(), rate=8000, n_channels=255), 0.5),
        "0 bits": (wave(bits=0), EITHER),
        "7 bits": (wave(bits=7), EITHER),
        "65,535 bits": (wave(bits=65_535), EITHER),
        "frames of 0 bytes": (wave(align=0), EITHER),
        "an unknown codec": (wave(codec=0xFFFE), r"^room\.wav "),
        "a length of 0": (wave(data_size=0), SECONDS),
        "the length of a pipe": (wave(data_size=2**32 - 1), SECONDS),
        "sox's length of a pipe": (wave(data_size=0x7FFFF000), SECONDS),
        "half a sample at the end": (wave() + b"\x01", SECONDS),
        "NaN": (wave(float_samples(float("nan")), **floats), "not finite"),
        "Inf": (wave(float_samples(float("-inf")), **floats), "not finite"),
        "samples of 1e38": (wave(float_samples(1e38), **floats), "expected about 1 at full scale"),
        "a chunk of 4 GiB first": (wave(before=b"junk" + b"\xff" * 4), r"^room\.wav "),
        "a thousand empty chunks": (wave(before=b"junk\0\0\0\0" * 1000), SECONDS),
        "no samples": (wave(b"\0\0")[:44], EITHER),
        "bytes of nothing": (bytes(100_000), "cannot be read as audio"),
        "one byte": (b"R", r"^room\.wav "),
        "text": (b"this is no sound\n" * 100, "cannot be read as audio"),
        "a web page": (b"<!DOCTYPE html><html>" + bytes(500), "cannot be read as audio"),
        "a picture": (b"\x89PNG\r\n\x1a\n" + rng.randbytes(5000), "cannot be read as audio"),
        "a pickle": (pickle.dumps(Payload()), "cannot be read as audio"),
        "noise": (rng.randbytes(200_000), r"^room\.wav "),
    }
    for name, (data, gives) in files.items():
        yield Case(f"recording/wav, {name}", (*ANALYZE, "room.wav"), written("room.wav", data), gives)
    for suffix in ("mp3", "mp4", "raw", "flac", "opus", ""):
        name = f"room.{suffix}".rstrip(".")
        setup = written(name, rng.randbytes(100_000))
        yield Case(f"recording/noise as '{suffix}'", (*ANALYZE, name), setup, EITHER)
    heads = {
        "mp3": b"\xff\xfb\x90\x00",
        "mp4": b"\0\0\0\x20ftypisom",
        "ogg": b"OggS\0\x02",
        "flac": b"fLaC\0\0\0\x22",
    }
    for suffix, head in heads.items():
        setup = written(f"room.{suffix}", head + rng.randbytes(50_000))
        yield Case(f"recording/noise after the head of {suffix}", (*ANALYZE, f"room.{suffix}"), setup, EITHER)
    id3 = b"ID3\x04\0\0\x7f\x7f\x7f\x7f"
    yield Case(
        "recording/ID3 of 256 MB", (*ANALYZE, "room.mp3"), written("room.mp3", id3 + bytes(5000)), r"^room\."
    )
    yield Case(
        "recording/10,000 ID3 tags", (*ANALYZE, "room.mp3"), written("room.mp3", b"ID3\x04" + bytes(6) * 9999)
    )
    yield Case(
        "recording/pipe", (*ANALYZE, "room.wav"), fifo("room.wav"), "is no file but a pipe or a device"
    )
    yield Case(
        "recording/device", (*ANALYZE, "room.wav"), link("room.wav", "/dev/zero"), "a pipe or a device"
    )
    yield Case(
        "recording/link to itself", (*ANALYZE, "room.wav"), link("room.wav", "room.wav"), r"^room\.wav "
    )
    yield Case(
        "recording/link to nowhere", (*ANALYZE, "room.wav"), link("room.wav", "no.wav"), "does not exist"
    )
    yield Case("recording/name of 300 letters", (*ANALYZE, "a" * 300), nothing, r"^'aaa")
    for word in ("-o", "--out", "--model"):
        command = ("infer", "{stock}/room.wav", "--model", "{stock}/model", "--seconds", "1", word, "a" * 300)
        yield Case(f"recording/music of 300 letters, {word}", command, nothing, r"aaa.* (long|check)")
    yield Case("recording/empty", (*ANALYZE, "room.wav"), written("room.wav", b""), "is empty")
    for rate, n_channels in ((48_000, 64), (8_000, 255)):
        head = wave(b"\0\0", rate=rate, n_channels=n_channels, data_size=2**32 - 1)
        size = 44 + 2 * n_channels * rate * 2
        setup = sparse("room.wav", head, size)
        yield Case(f"recording/{n_channels} channels of 2 s", (*ANALYZE, "room.wav"), setup, 2.0)


# ---- settings ----

AMBIENCE = ("ambience", "{stock}/room.wav", "--model", "{stock}/model", "--out", "out")
TRAIN = ("train", "recipe.toml", "--shards", "{stock}/shards", "--codec", "{stock}/codec", "--out", "out")
FIT = ("codec", "fit", "{stock}/music.wav", "--out", "out")

NESTED = 100_000


def settings_files() -> Iterator[Case]:
    """Presets and recipes that are no TOML or JSON, or hold what no setting is."""
    files: dict[str, tuple[str, bytes, str | bool]] = {
        "a date": ("p.toml", b"[ambience]\nlicence = 2026-11-26\n", "ambience.licence"),
        "a date elsewhere": ("p.toml", b"when = 1979-05-27T07:32:00Z\n", "Unknown setting 'when'"),
        "Latin-1": ("p.toml", "[ambience]\nlicence = 'für alle'\n".encode("latin-1"), r"p\.toml.*UTF-8"),
        "UTF-16": ("p.toml", "[ambience]\nseconds = 8.0\n".encode("utf-16"), r"p\.toml.*UTF-8"),
        "UTF-8 with a mark": ("p.toml", "\ufeff[ambience]\nlufs = 7\n".encode(), "ambience.lufs"),
        "NUL": ("p.toml", b"[ambience]\nlicence = 'a\0b'\n", r"p\.toml is malformed"),
        "NUL by its number": (
            "p.json",
            b'{"ambience": {"licence": "a\\u0000b"}}',
            "ambience.licence",
        ),
        "a surrogate": ("p.json", b'{"ambience": {"licence": "\\ud800"}}', r"p\.json"),
        "nested lists": ("p.json", b"[" * NESTED + b"]" * NESTED, r"p\.json is malformed"),
        "nested objects": ("p.json", b'{"a":' * NESTED, r"p\.json is malformed"),
        "nested tables": (
            "p.toml",
            b"[" + b".".join([b"a"] * 5000) + b"]\nb = 1\n",
            r"p\.toml|Unknown setting",
        ),
        "nested arrays": ("p.toml", b"a = " + b"[" * NESTED, r"p\.toml is malformed"),
        "half an object": ("p.json", b'{"ambience": {', r"p\.json is malformed"),
        "a list": ("p.json", b"[1, 2]", r"p\.json holds"),
        "a number": ("p.json", b"7", r"p\.json holds"),
        "nothing": ("p.json", b"", r"p\.json is malformed"),
        "NaN": ("p.json", b'{"ambience": {"lufs": NaN}}', r"p\.json is malformed"),
        "Infinity": ("p.json", b'{"ambience": {"seconds": Infinity}}', r"p\.json is malformed"),
        "1e999": ("p.json", b'{"ambience": {"seconds": 1e999}}', "ambience.seconds is inf"),
        "a number of 5000 digits": (
            "p.json",
            b'{"ambience": {"bars": ' + b"9" * 5000 + b"}}",
            r"p\.json is malformed",
        ),
        "a number of 400 digits": (
            "p.json",
            b'{"ambience": {"seconds": 1' + b"0" * 400 + b"}}",
            "ambience.seconds",
        ),
        "400 digits of bars": ("p.json", b'{"ambience": {"bars": 1' + b"0" * 400 + b"}}", "ambience.bars"),
        "a key of a megabyte": ("p.json", b'{"' + b"k" * 2**20 + b'": 1}', "Unknown setting"),
        "a key with line ends": ("p.json", b'{"a\\nb\\u001b[2J": 1}', "Unknown setting"),
        "a value of a megabyte": (
            "p.json",
            b'{"ambience": {"bars": "' + b"v" * 2**20 + b'"}}',
            "ambience.bars",
        ),
        "64 MB": ("p.json", b'{"a": "' + bytes(2**26) + b'"}', r"p\.json .*expected"),
        "a program": ("p.py", f"import os; os.mkdir('{MARK}')\n".encode(), r"p\.py is malformed"),
        "a pickle": ("p.json", pickle.dumps(Payload()), r"p\.json"),
        "a table where a value is expected": ("p.json", b'{"ambience": {"bars": {"a": 1}}}', "ambience.bars"),
        "a value where a table is expected": ("p.json", b'{"ambience": 7}', "'ambience' is 7"),
        "null": ("p.json", b'{"ambience": {"bars": null}}', "ambience.bars"),
        "true": ("p.json", b'{"ambience": {"bars": true}}', "ambience.bars"),
        "text in a list of numbers": ("p.json", b'{"seanet": {"ratios": [8, "5"]}}', "seanet.ratios"),
    }
    for name, (file, data, gives) in files.items():
        yield Case(f"settings/{name}", (*AMBIENCE, "--preset", file), written(file, data), gives)
    yield Case("settings/pipe", (*AMBIENCE, "--preset", "p.toml"), fifo("p.toml"), r"p\.toml .*expected")
    yield Case("settings/device", (*AMBIENCE, "--preset", "/dev/zero"), nothing, r"/dev/zero .*expected")
    yield Case("settings/folder", (*AMBIENCE, "--preset", "."), nothing, r"recipe\.toml")


BAD_VALUES = (
    ("ambience", "seconds", ("0", "-1", "inf", "nan", "1e9", "'long'")),
    ("ambience", "bars", ("-1", "1000000000", "1.5")),
    ("ambience", "beats_per_bar", ("0", "1000000000")),
    ("ambience", "variations", ("0", "1000000000")),
    ("ambience", "candidates", ("-1", "0", "1000000000")),
    ("ambience", "temperature", ("-1", "inf", "1e39")),
    ("ambience", "guidance", ("nan", "1e39", "-1")),
    ("ambience", "lufs", ("0", "-1000", "nan")),
    ("ambience", "layers", ("['loud']", "5", "[1]")),
    ("training", "learning_rate", ("inf", "-1", "nan", "1e9")),
    ("training", "gradient_clip", ("nan", "0", "-1")),
    ("training", "batch_size", ("-1", "0", "1000000000", "1.5")),
    ("training", "max_steps", ("-1", "1e3", "inf")),
    ("training", "ema_decay", ("2", "-0.1", "nan")),
    ("training", "crop_seconds", ("inf", "0", "1e9")),
    ("training", "control_dropout", ("{room = 2.0}", "{room = nan}", "7")),
    ("decoder", "dim", ("0", "-1", "1000000", "1000000000", "319")),
    ("decoder", "n_layers", ("0", "1000000")),
    ("decoder", "n_heads", ("0", "7", "1000000000")),
    ("decoder", "ffn_multiple", ("inf", "1e-9", "1e9")),
    ("decoder", "codebook_size", ("1000000000", "0")),
    ("decoder", "attention_window", ("0", "1000000000")),
    ("ambient", "n_mels", ("0", "1000000000")),
    ("ambient", "kernel_size", ("0", "4", "1000000000")),
    ("ambient", "n_fft", ("0", "1", "1000000000")),
    ("ambient", "lookahead_seconds", ("inf", "-1")),
)
CODEC_VALUES = (
    ("n_fft", ("0", "1", "1000000000")),
    ("hop", ("0", "7", "1000000000")),
    ("n_components", ("0", "1000000000")),
    ("n_codebooks", ("-1", "1000000000")),
    ("codebook_size", ("0", "1000000000")),
    ("power", ("0", "2", "nan")),
    ("sample_rate", ("0", "1000000000")),
    ("griffin_lim_iterations", ("-1", "1000000000")),
)


def values_of_settings() -> Iterator[Case]:
    """`--set` with values out of range or of another type."""
    for section, key, values in BAD_VALUES:
        for value in values:
            words = ("--set", f"{section}.{key}={value}")
            recipe = written("recipe.toml", "[training]\nbatch_size = 1\n")
            command, setup = (AMBIENCE, nothing) if section == "ambience" else (TRAIN, recipe)
            yield Case(f"value/{section}.{key}={value}", (*command, *words), setup, key)
    for key, values in CODEC_VALUES:
        for value in values:
            yield Case(f"value/codec.{key}={value}", (*FIT, "--set", f"codec.{key}={value}"), nothing, key)
    for ratios in ("[0]", "[-1]", "[]", "[1000000000, 1000000000]", "[1.5]", "7"):
        words = ("--set", f"seanet.ratios={ratios}")
        yield Case(f"value/seanet.ratios={ratios}", (*FIT, *words), nothing, "seanet.ratios")
    for override in (
        "data.validation_share=2",
        "data.kinds={room=-1}",
        "data.seconds=nan",
        "=1",
        "a",
        "ambience",
    ):
        yield Case(f"value/{override}", (*AMBIENCE, "--set", override), nothing, override.partition("=")[0])


# ---- options ----

INFER = ("infer", "{stock}/room.wav", "--model", "{stock}/model", "--seconds", "1", "-o", "out.wav")


def options() -> Iterator[Case]:
    """Options of commands with values out of range."""
    for option, values in {
        "--temperature": ("inf", "nan", "-1", "1e39"),
        "--guidance": ("inf", "nan", "-1", "1e39"),
        "--top-k": ("-1", str(10**30)),
        "--top-p": ("0", "nan", "1.5", "-1"),
        "--seconds": ("nan", "-1", "0", "inf", "-inf", "long"),
        "--seed": ("-1", str(2**63), str(10**30), "x"),
        "--track": ("0", "-1", "99"),
        "--channel": ("0", "2", str(10**30)),
        "--control": ("tempo", "nothing=1", "=", "room=7"),
        "--device": ("tpu", "", "cuda:99"),
        "--model": ("", "no", "{stock}/room.wav", "m" * 300),
    }.items():
        for value in values:
            yield Case(f"option/{option} {value[:40]!r}", (*INFER, option, value), nothing, r".")
    yield Case("option/infer ''", ("infer", ""), nothing, "empty")
    yield Case(
        "option/infer with an empty --out", ("infer", "{stock}/room.wav", "--out", ""), nothing, "empty"
    )
    yield Case("option/analyze ''", ("analyze", ""), nothing, "empty")
    yield Case(
        "option/hours",
        ("codec", "fit", "{stock}/music.wav", "--out", "out", "--hours", "nan"),
        nothing,
        "hours",
    )


# ---- models and codecs ----


def copied(what: str, *then: Setup) -> Setup:
    """A copy of a good folder, named as it is, in which something is then changed."""

    def setup(folder: Path) -> None:
        shutil.copytree(folder.parent / STOCK / what, folder / what)
        both(*then)(folder)

    return setup


def edited(name: str, path: str, value: Any) -> Setup:
    """A JSON file with another value at a path of keys; `del` removes it."""

    def setup(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        *tables, key = path.split(".")
        table = values
        for step in tables:
            table = table[step]
        if value == "del":
            del table[key]
        else:
            table[key] = value
        (folder / name).write_text(json.dumps(values), encoding="utf-8")

    return setup


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Setup:
    """A file with other bytes."""

    def setup(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return setup


def tensors_of(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Setup:
    """A safetensors file with other tensors."""

    def setup(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / name
        tensors = change(load_file(file))
        file.unlink()
        save_file(tensors, file)

    return setup


def _first(tensors: dict[str, Any], make: Callable[[Any], Any]) -> dict[str, Any]:
    """Tensors of which the first of several values is made another."""
    name = next(n for n in sorted(tensors) if tensors[n].numel() > 1 and tensors[n].is_floating_point())
    return {**tensors, name: make(tensors[name].clone())}


def _filled(value: float) -> Callable[[Any], Any]:
    def fill(tensor: Any) -> Any:
        tensor.view(-1)[0] = value
        return tensor

    return fill


def safetensors_header(values: Any) -> bytes:
    """A safetensors file that is nothing but a header."""
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text


def no_files(file: str, name: str) -> Iterator[tuple[str, Setup, str]]:
    """What may stand in the place of a file."""
    yield "a folder", both(lambda f: (f / file).unlink(), lambda f: (f / file).mkdir()), name
    yield "a pipe", both(lambda f: (f / file).unlink(), fifo(file)), name
    yield "a device", link(file, "/dev/zero"), name
    yield "missing", lambda f: (f / file).unlink(), name


def weights_files(rng: random.Random, where: str) -> Iterator[tuple[str, Setup, str]]:
    """What may be wrong with a file of weights, and what must be said."""
    import torch

    file = f"{where}/model.safetensors"
    name = r"model\.safetensors"
    yield "cut in half", bytes_of(file, lambda data: data[: len(data) // 2]), name
    yield "cut in its header", bytes_of(file, lambda data: data[:20]), name
    yield "empty", written(file, b""), name
    yield "a header of 2^63 bytes", written(file, struct.pack("<Q", 2**63 - 1) + b"{}"), name
    yield "a header of 90 MB", written(file, struct.pack("<Q", 90 * 2**20) + b"{}"), name
    yield "no tensors", written(file, safetensors_header({})), name
    yield "nested", written(file, struct.pack("<Q", NESTED) + b"[" * NESTED), name
    huge = {"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}
    yield "a tensor of an exabyte", written(file, safetensors_header(huge) + bytes(4)), name
    yield "a pickle", written(file, pickle.dumps(Payload())), name
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps(Payload()))
    yield "a torch archive", written(file, archive.getvalue()), name
    yield "NaN", tensors_of(file, lambda found: _first(found, _filled(float("nan")))), "not finite"
    yield "Inf", tensors_of(file, lambda found: _first(found, _filled(float("inf")))), "not finite"
    yield "whole numbers", tensors_of(file, lambda found: _first(found, lambda t: t.to(torch.int8))), "int8"
    yield (
        "8-bit floats",
        tensors_of(file, lambda found: _first(found, lambda t: t.to(torch.float8_e5m2))),
        "float8",
    )
    yield "another shape", tensors_of(file, lambda found: _first(found, lambda t: t[:1])), "shape"
    yield "one missing", tensors_of(file, lambda found: dict(sorted(found.items())[1:])), "missing from"
    yield "one more", tensors_of(file, lambda found: {**found, "x": torch.zeros(1)}), "not known"
    yield "foreign weights", tensors_of(file, lambda _: {"w": torch.zeros(3)}), name
    yield from no_files(file, name)
    for number in range(8):
        seed = rng.randrange(2**32)

        def flip(data: bytes, seed: int = seed) -> bytes:
            own = random.Random(seed)
            return changed(data, own, own.choice((1, 2, 8)), 0, 8 + int.from_bytes(data[:4], "little"))

        yield f"another header, {number}", bytes_of(file, flip), EITHER


def config_files(where: str) -> Iterator[tuple[str, Setup, str]]:
    """What may be wrong with a folder's `config.json`, whatever it is the config of."""
    file, name = f"{where}/config.json", r"config\.json"
    yield "empty", written(file, b""), name
    yield "a list", written(file, b"[]"), name
    yield "cut", bytes_of(file, lambda data: data[: len(data) // 2]), name
    yield "UTF-16", bytes_of(file, lambda data: data.decode().encode("utf-16")), name
    yield "nested", written(file, b"[" * NESTED), name
    yield from no_files(file, name)


MODEL_VALUES = {
    "decoder.dim": (0, -1, 10**6, 10**9, 33, "32", 32.5, None, [32], 64),
    "decoder.n_layers": (0, 10**6, 2),
    "decoder.n_heads": (0, 10**9, 3),
    "decoder.codebook_size": (0, 10**9, 64),
    "decoder.n_codebooks": (0, 10**9, 5, 3),
    "decoder.attention_window": (0, 10**9, "50"),
    "decoder.rope_base": (0, 1e999, -1.0),
    "decoder.ffn_multiple": (0, 1e999, 1e9),
    "ambient.frame_rate": (0, 24.0, 1e999, 10**9),
    "ambient.n_mels": (0, 10**9, 17),
    "ambient.n_fft": (0, 10**9, 3),
    "ambient.sample_rate": (0, 10**9),
    "ambient.lookahead_seconds": (1e999, -1, 10**9),
    "ambient.kernel_size": (0, 10**9, 8),
    "ambient": (7, None, {"colour": "red"}),
    "guidance": ("strong", 1e999, -1, 1e39, None),
    "controls": (["x"], "room_frames", [1], 7),
    "codec_checksum": ("0" * 16, 7),
    "unknown": (1,),
}
CODEC_FOLDER_VALUES = {
    "kind": ("x", 7, None, ["bundled"], {}, "seanet", "encodec"),
    "settings": (7, None, {}, "del"),
    "settings.n_fft": (0, 10**9, 961, "960"),
    "settings.hop": (0, 10**9, 7),
    "settings.n_components": (0, 10**9, 17),
    "settings.codebook_size": (10**9, 33),
    "settings.n_codebooks": (10**9, 5),
    "settings.frames_per_code": (0, 10**9),
    "settings.decoder_layers": (10**9, 1),
    "settings.griffin_lim_iterations": (10**9, -1),
    "settings.sample_rate": (0, 1, 10**9),
    "checksum": ("0" * 16, None, "del"),
}

ROUNDTRIP = ("codec", "roundtrip", "{stock}/room.wav", "out.wav", "--codec", "codec")


def folders(rng: random.Random) -> Iterator[Case]:
    """Model and codec folders with wrong files and values."""
    infer = ("infer", "{stock}/room.wav", "--model", "model", "--seconds", "1", "-o", "out.wav")
    for what, command, values in (("model", infer, MODEL_VALUES), ("codec", ROUNDTRIP, CODEC_FOLDER_VALUES)):
        for name, setup, gives in weights_files(rng, what):
            yield Case(f"{what}/weights, {name}", command, copied(what, setup), gives)
        for name, setup, gives in config_files(what):
            yield Case(f"{what}/config, {name}", command, copied(what, setup), gives)
        for path, found in values.items():
            for value in found:
                setup = copied(what, edited(f"{what}/config.json", path, value))
                # Sizes that could be meant are told by the weights, all others by the name of the setting.
                yield Case(
                    f"{what}/{path} = {value}", command, setup, r"config|weights|expected|Weight|codec"
                )
    model = copied("model", lambda f: shutil.rmtree(f / "model/codec"))
    yield Case("model/no codec", infer, model, "codec")
    yield Case("model/codec is a file", infer, both(model, written("model/codec", "x")), "codec")


def extensions(rng: random.Random) -> Iterator[Case]:
    """What may be wrong with what continues a codec's sound above 12 kHz."""
    from safetensors.numpy import save

    from silent2music.bandwidth import EXTENSION_FILE, HIGH_HZ, N_LOW_BANDS

    name, file = r"extension\.safetensors", f"codec/{EXTENSION_FILE}"
    good = np.zeros((2 * N_LOW_BANDS + 1, len(HIGH_HZ) - 1), np.float16)
    files: dict[str, tuple[bytes, str | bool]] = {
        "good": (save({"weights": good}), True),
        "cut": (save({"weights": good})[:-10], name),
        "empty": (b"", name),
        "a pickle": (pickle.dumps(Payload()), name),
        "NaN": (save({"weights": good + np.float16("nan")}), "finite"),
        "another shape": (save({"weights": good[:7]}), "shape"),
        "another name": (save({"a\nb" * 999: good}), name),
        "with more": (save({"weights": good, **{f"w{i}": good for i in range(99)}}), name),
        "a tensor of an exabyte": (
            safetensors_header({"weights": {"dtype": "F16", "shape": [10**18], "data_offsets": [0, 4]}}),
            name,
        ),
    }
    for number in range(4):
        files[f"another header, {number}"] = changed(save({"weights": good}), rng, 3, 0, 80), EITHER
    for what, (data, gives) in files.items():
        yield Case(f"extension/{what}", ROUNDTRIP, copied("codec", written(file, data)), gives)
    for what, setup in {
        "a pipe": fifo(file),
        "a device": link(file, "/dev/zero"),
        "a folder": lambda folder: (folder / file).mkdir(),
    }.items():
        yield Case(f"extension/{what}", ROUNDTRIP, copied("codec", setup), name)


def encodec_folders() -> Iterator[Case]:
    """Folders of EnCodec: whose weights are a pickle, whose config is absurd, whose name is a hub's."""
    config = {"model_type": "encodec", "architectures": ["EncodecModel"]}
    text = json.dumps(config)
    torch_pickle = pickle.dumps(Payload())
    for folder in ("codec", "encodec_24khz", "facebook/encodec_24khz"):
        setup = both(
            written(f"{folder}/config.json", text), written(f"{folder}/pytorch_model.bin", torch_pickle)
        )
        command = (*ROUNDTRIP[:-1], folder)
        yield Case(f"encodec/pickle in {folder}", command, setup, r"pytorch_model\.bin")
    for key, value in {
        "num_filters": 10**9,
        "hidden_size": -1,
        "upsampling_ratios": [0],
        "codebook_size": 10**9,
        "sampling_rate": 0,
        "num_lstm_layers": 10**6,
        "audio_channels": "two",
        "auto_map": {"AutoModel": "evil.Evil"},
    }.items():
        weights = written("codec/model.safetensors", safetensors_header({}))
        program = written("codec/evil.py", f"import os; os.mkdir('{MARK}')\nclass Evil: pass\n")
        setup = both(written("codec/config.json", json.dumps({**config, key: value})), weights, program)
        yield Case(f"encodec/{key} = {value}", ROUNDTRIP, setup, "codec")


def names_of_models() -> Iterator[Case]:
    """Names that are no folder: nothing is looked up on the network unless that was asked for."""
    said = "--download"
    for name in ("facebook/musicgen-small", "bert", "encodec_24khz"):
        commands = {
            "infer": ("infer", "{stock}/room.wav", "-o", "out.wav", "--model", name),
            "stream": ("infer", "{stock}/room.wav", "--stream", "--model", name),
            "demo": ("demo", "-o", "out.wav", "--model", name),
            "ambience": ("ambience", "{stock}/room.wav", "--out", "out", "--model", name),
            "validate": ("validate", "--shards", "{stock}/shards", "--model", name),
            "bench": ("bench", "--out", "out", "--model", name),
            "eval": ("eval", "--out", "out", "--pairs", "{stock}/pairs", "--model", name),
            "eval of rooms": ("eval", "--out", "out", "--rooms", "{stock}/pairs", "--model", name),
            "roundtrip": ("codec", "roundtrip", "{stock}/room.wav", "out.wav", "--codec", name),
            "prepare": ("data", "prepare", "{stock}/pairs", "--out", "out", "--codec", name),
            "train": ("train", "base", "--shards", "{stock}/shards", "--codec", name, "--out", "out"),
            "start": (*TRAIN[:1], "base", *TRAIN[2:], "--start", name),
            "codec bench": (
                "codec",
                "bench",
                "--codec",
                f"a={name}",
                "--pairs",
                "{stock}/pairs",
                "--out",
                "out",
            ),
        }
        for what, command in commands.items():
            yield Case(f"network/{what} with {name}", command, nothing, said)
    for name in ("https://example.com/model", "../../etc", "a b/c", "/no/such/folder", "a/b/c", "-"):
        command = ("infer", "{stock}/room.wav", "-o", "out.wav", "--model", name, "--download")
        yield Case(f"network/no name, {name}", command, nothing, "is no")


# ---- pairs and shards ----

PREPARE = ("data", "prepare", "pairs", "--codec", "{stock}/codec", "--out", "out")
CHECK = ("data", "check", "pairs")
LINE = {"silent": "a.wav", "music": "b.wav"}


def pair_lines() -> Iterator[tuple[str, bytes]]:
    """Lines of `pairs.jsonl` that must be refused by their number."""

    def text(**values: Any) -> bytes:
        return json.dumps({**LINE, **values}).encode()

    yield "no JSON", b"{silent: a}"
    yield "a number", b"7"
    yield "nested", b"[" * NESTED
    yield "nested labels", b'{"silent": "a.wav", "music": "b.wav", "labels": ' + b'{"a":' * NESTED
    yield "a line of 20 MB", text(labels={"caption": "x" * 20_000_000})
    yield "half a character", text()[:-2] + b"\xc3"
    yield (
        "Latin-1",
        json.dumps({"silent": "f\xfcr.wav", "music": "b.wav"}, ensure_ascii=False).encode("latin-1"),
    )
    yield "NUL bytes", bytes(100)
    yield "NUL in a name", text(silent="a\0.wav")
    yield "a surrogate in a name", text(music="\ud800.wav")
    yield "a surrogate in a label", text(labels={"kind": "\udfff"})
    yield "a line end in a name", text(silent="a\n.wav")
    yield "an absolute path", text(silent="/etc/passwd")
    yield "a drive", text(silent="C:/a.wav")
    yield "a share", text(silent="\\\\host\\a.wav")
    yield "a path upwards", text(music="../b.wav")
    yield "a path upwards inside", text(music="x/../../b.wav")
    yield "an empty name", text(silent="")
    yield "a list for a name", text(silent=["a.wav"])
    yield "an unknown key", text(colour="red")
    yield "a missing key", b'{"silent": "a.wav"}'
    yield "text for a time", text(start="0")
    yield "true for a time", text(end=True)
    yield "NaN", b'{"silent": "a.wav", "music": "b.wav", "start": NaN}'
    yield "1e999", b'{"silent": "a.wav", "music": "b.wav", "end": 1e999}'
    yield "a number of 5000 digits", b'{"silent": "a.wav", "music": "b.wav", "end": ' + b"9" * 5000 + b"}"
    yield "a number of 400 digits", b'{"silent": "a.wav", "music": "b.wav", "end": ' + b"9" * 400 + b"}"
    yield "a range backwards", text(start=1.0, end=0.5)
    yield "a negative time", text(start=-1)
    yield "an unknown split", text(split="test")
    yield "a list for a split", text(split=["train"])
    yield "labels that are a list", text(labels=[])
    yield "a source without a licence", text(labels={"sources": [{"path": "x"}]})
    yield "sources that are text", text(labels={"sources": "x"})
    yield "a role that is a list", text(labels={"sources": [{"path": "x", "licence": "CC0", "role": []}]})


def pairs_with(line: bytes) -> Setup:
    """A copy of the good pairs with another line after the first one."""

    def setup(folder: Path) -> None:
        copied("pairs")(folder)
        manifest = folder / "pairs/pairs.jsonl"
        first = manifest.read_bytes().split(b"\n")[0]
        manifest.write_bytes(first + b"\n" + line + b"\n")

    return setup


def outside(folder: Path) -> None:
    """The silent sides are links to files outside the folder."""
    for side in (folder / "pairs").rglob("*silent*.wav"):
        shutil.move(side, folder / side.name)
        side.symlink_to(folder / side.name)


def pairs() -> Iterator[Case]:
    """Pair folders with lines and files that are wrong."""
    for name, line in pair_lines():
        yield Case(f"pairs/prepare, {name}", PREPARE, pairs_with(line), r"pairs\.jsonl, line 2: ")
    for name, line in list(pair_lines())[::4]:
        yield Case(f"pairs/check, {name}", CHECK, pairs_with(line), "pairs has")
    yield Case("pairs/empty", PREPARE, copied("pairs", written("pairs/pairs.jsonl", b"")), "holds no pair")
    yield Case(
        "pairs/check, empty", CHECK, copied("pairs", written("pairs/pairs.jsonl", b"\n")), "pairs has 1 fault"
    )
    yield Case("pairs/UTF-16", PREPARE, copied("pairs", bytes_of("pairs/pairs.jsonl", _utf16)), "line 1: ")
    yield Case("pairs/pipe", PREPARE, fifo("pairs/pairs.jsonl"), r"pairs\.jsonl cannot be read")
    yield Case(
        "pairs/device", PREPARE, link("pairs/pairs.jsonl", "/dev/zero"), r"pairs\.jsonl cannot be read"
    )
    yield Case(
        "pairs/folder", PREPARE, lambda f: (f / "pairs/pairs.jsonl").mkdir(parents=True), "cannot be read"
    )
    yield Case("pairs/link that leads out", PREPARE, copied("pairs", outside), "links out of the folder")
    yield Case("pairs/check, link that leads out", CHECK, copied("pairs", outside), "pairs has")
    fit = ("codec", "fit", "pairs", "--out", "out")
    yield Case(
        "pairs/fit to an absolute path", fit, pairs_with(b'{"silent": "a", "music": "/etc/passwd"}'), "line 2"
    )
    for what in ("stats", "check"):
        yield Case(f"pairs/{what} without a folder", ("data", what, "no"), nothing, r"pairs\.jsonl")


def _utf16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")


def shard(change: Callable[[Path], None]) -> Setup:
    """A copy of the good shards of which one is changed."""
    return copied("shards", lambda folder: change(folder / "shards/validation-00000.parquet"))


def table_of(change: Callable[[Any], Any]) -> Setup:
    """The same with another table in it."""

    def setup(file: Path) -> None:
        from pyarrow import parquet

        table = parquet.read_table(file)
        parquet.write_table(change(table), file)

    return shard(setup)


def _column_as(name: str, make: Callable[[Any, int], Any]) -> Callable[[Any], Any]:
    """A table with another column of a name, made from the old one's values."""

    def change(table: Any) -> Any:
        column = make(table[name], len(table))
        return table.set_column(table.schema.get_field_index(name), name, column)

    return change


def shards(rng: random.Random) -> Iterator[Case]:
    """Shards that are cut, changed or lack columns, and a `meta.json` that is wrong."""
    import pyarrow as arrow

    validate = ("validate", "--shards", "shards", "--model", "{stock}/model")
    again = ("data", "prepare", "{stock}/pairs", "--codec", "{stock}/codec", "--out", "shards")
    name = r"validation-00000\.parquet"
    faults: dict[str, tuple[Setup, str]] = {
        "cut": (shard(lambda f: f.write_bytes(f.read_bytes()[:-100])), name),
        "empty": (shard(lambda f: f.write_bytes(b"")), name),
        "noise": (shard(lambda f: f.write_bytes(b"PAR1" + rng.randbytes(5000) + b"PAR1")), name),
        "no codes": (table_of(lambda table: table.drop_columns(["codes"])), name),
        "no id": (table_of(lambda table: table.drop_columns(["id"])), name),
        "no features": (table_of(lambda table: table.drop_columns(["signal.room_frames"])), name),
        "codes of text": (table_of(_column_as("codes", lambda c, n: arrow.array(["x"] * n))), name),
        "codes of 8 bits": (
            table_of(_column_as("codes", lambda c, n: c.combine_chunks().cast(arrow.list_(arrow.int32())))),
            name,
        ),
        "codes missing": (
            table_of(_column_as("codes", lambda c, n: arrow.nulls(n, arrow.list_(arrow.int16())))),
            "no pair with codes",
        ),
        "codes too high": (table_of(_column_as("codes", _codes_as(99))), name),
        "codes below 0": (table_of(_column_as("codes", _codes_as(-1))), name),
        "too few codes": (table_of(_column_as("codes", lambda c, n: arrow.array([[1]] * n, c.type))), name),
        "frames of a million": (
            table_of(_column_as("n_frames", lambda c, n: arrow.array([10**6] * n, arrow.int32()))),
            name,
        ),
        "frames below 0": (
            table_of(_column_as("n_frames", lambda c, n: arrow.array([-1] * n, c.type))),
            name,
        ),
        "features not finite": (table_of(_column_as("signal.room_frames", _not_finite)), name),
        "too few features": (
            table_of(
                _column_as("signal.room_frames", lambda c, n: arrow.array([[np.float16(1)]] * n, c.type))
            ),
            name,
        ),
    }
    for number in range(6):
        place, value = rng.random(), rng.randrange(1, 256)

        def flip(file: Path, place: float = place, value: int = value) -> None:
            data = bytearray(file.read_bytes())
            data[4 + int(place * 0.9 * (len(data) - 8))] ^= value
            file.write_bytes(bytes(data))

        faults[f"flipped, {number}"] = (shard(flip), EITHER)
    for what, (setup, gives) in faults.items():
        yield Case(f"shards/validate, {what}", validate, setup, gives)
        yield Case(f"shards/prepared again, {what}", again, setup, True)
    for key, value in {
        "format": 99,
        "frame_rate": "fast",
        "n_codebooks": 10**9,
        "codebook_size": -1,
        "controls": 7,
        "codec_checksum": "del",
        "feature_settings": [],
    }.items():
        setup = copied("shards", edited("shards/meta.json", key, value))
        yield Case(f"shards/meta.json, {key} = {value}", validate, setup, r"meta\.json|parquet|codec")
    for what, data in (("empty", b""), ("a list", b"[]"), ("nested", b"[" * NESTED), ("Latin-1", b'"\xfc"')):
        setup = copied("shards", written("shards/meta.json", data))
        yield Case(f"shards/meta.json, {what}", validate, setup, r"meta\.json")
        yield Case(f"shards/meta.json of prepare, {what}", again, setup, r"meta\.json")
    setup = copied("shards", lambda f: (f / "shards/meta.json").unlink(), fifo("shards/meta.json"))
    yield Case("shards/meta.json is a pipe", validate, setup, r"meta\.json")


def _codes_as(value: int) -> Callable[[Any, int], Any]:
    def make(column: Any, n_rows: int) -> Any:
        import pyarrow as arrow

        return arrow.array([np.full(len(row), value, np.int16) for row in column.to_pylist()], column.type)

    return make


def _not_finite(column: Any, n_rows: int) -> Any:
    import pyarrow as arrow

    return arrow.array([np.full(len(row), np.nan, np.float16) for row in column.to_pylist()], column.type)


# ---- scores and soundfonts ----


def midi(
    ticks: int = 480, body: bytes = b"", n_tracks: int = 1, kind: int = 0, length: int | None = None
) -> bytes:
    """A MIDI file with the values given, whatever they are."""
    body += b"\x00\xff\x2f\x00"
    head = b"MThd" + struct.pack(">IHHH", 6, kind, n_tracks, ticks)
    return head + b"MTrk" + struct.pack(">I", len(body) if length is None else length) + body


def notes(count: int = 64, ticks: int = 480) -> bytes:
    """Quarters one after another."""
    step = bytes((0x80 | ticks >> 7, ticks & 0x7F))
    return b"".join(
        bytes((0, 0x90, 60 + i % 12, 80)) + step + bytes((0x80, 60 + i % 12, 0)) for i in range(count)
    )


def scores(rng: random.Random) -> Iterator[Case]:
    """MIDI files and soundfonts that are no music; the synthesiser plays them for the codec."""
    command = ("codec", "music", "scores", "--out", "out", "--pieces", "1")
    index = written("scores/index.tsv", "path\tlicence\tauthor\na.mid\tCC0\tTester\n")
    good = midi(body=notes())
    longest = b"\xff\xff\xff\x7f"
    files: dict[str, tuple[bytes, str | bool]] = {
        "good": (good, True),
        "0 ticks a quarter": (midi(0, notes()), r"a\.mid"),
        "SMPTE time": (midi(0xE728, notes()), EITHER),
        "a note of 210 million quarters": (
            midi(1, b"\x00\x90\x3c\x50" + longest + b"\x80\x3c\x00" + notes(8)),
            r"a\.mid",
        ),
        "a note of 3000 quarters": (
            midi(480, b"\x00\x90\x3c\x50\xd7\xe0\x00\x80\x3c\x00" + notes(64)),
            EITHER,
        ),
        "notes after 268 million ticks": (midi(480, longest + b"\x90\x3c\x50\x60\x80\x3c\x00"), EITHER),
        "nothing": (b"", r"a\.mid"),
        "text": (b"no music\n" * 100, r"a\.mid"),
        "no notes": (midi(), r"a\.mid"),
        "cut": (good[: len(good) // 2], EITHER),
        "cut in its header": (good[:12], r"a\.mid"),
        "a track of 4 GiB": (midi(body=notes(), length=2**32 - 1), EITHER),
        "65,535 tracks": (midi(body=notes(), n_tracks=65_535), EITHER),
        "a tempo of 0": (midi(body=b"\x00\xff\x51\x03\0\0\0" + notes()), EITHER),
        "a metre of 0/1": (midi(body=b"\x00\xff\x58\x04\0\0\x18\x08" + notes()), EITHER),
        "a metre of 255 over 2^255": (midi(body=b"\x00\xff\x58\x04\xff\xff\x18\x08" + notes()), EITHER),
        "running status from nothing": (midi(body=b"\x00\x3c\x40"), r"a\.mid"),
        "noise": (b"MThd\0\0\0\x06\0\0\0\x01\x01\xe0MTrk\0\0\x10\0" + rng.randbytes(4096), EITHER),
    }
    for number in range(6):
        files[f"changed, {number}"] = (changed(good, rng, 3, 8, 60), EITHER)
    for name, (data, gives) in files.items():
        setup = both(index, written("scores/a.mid", data))
        yield Case(f"midi/{name}", command, setup, gives, "fluidsynth")
    sound_font = b"RIFF" + struct.pack("<I", 1000) + b"sfbk"
    for name, data in {
        "empty": b"",
        "text": b"no soundfont",
        "noise": rng.randbytes(10_000),
        "the head of a soundfont": sound_font + bytes(992),
        "a soundfont cut in its list": sound_font
        + b"LIST"
        + struct.pack("<I", 100)
        + b"INFOifil\x04\0\0\0\x02\0",
        "a recording": wave(),
    }.items():
        setup = both(index, written("scores/a.mid", good), written("bad.sf2", data))
        words = ("--set", "data.soundfont=bad.sf2")
        yield Case(f"soundfont/{name}", (*command, *words), setup, r"bad\.sf2", "fluidsynth")
    setup = both(index, written("scores/a.mid", good))
    for name in ("no.sf2", ".", "/dev/zero"):
        words = ("--set", f"data.soundfont={name}")
        yield Case(f"soundfont/{name}", (*command, *words), setup, "soundfont", "fluidsynth")


# ---- what earlier runs left ----


def leftovers() -> Iterator[Case]:
    """Manifests and records in the output folder that were not written by this program, or not wholly."""
    command = ("infer", "rooms", "--out", "out", "--model", "{stock}/model", "--seconds", "1")

    def room(folder: Path) -> None:
        (folder / "rooms").mkdir()
        shutil.copy(folder.parent / STOCK / "room.wav", folder / "rooms/a.wav")

    line = b'{"key": "b.music.wav", "room": "b.wav"}\n'
    for name, data in {
        "half a character": line + b'{"key": "c\xc3',
        "NUL": line + bytes(50),
        "nested": line + b"[" * NESTED + b"\n",
        "a surrogate": line + b'{"key": "\\ud800.wav"}\n',
        "a key that is a list": line + b'{"key": [1]}\n',
        "NaN": line + b'{"key": "a.music.wav", "seconds": NaN}\n',
        "UTF-16": line.decode().encode("utf-16"),
    }.items():
        setup = both(room, written("out/manifest.jsonl", data))
        yield Case(f"manifest/{name}", command, setup, True)
    for name, data in {
        "empty": b"",
        "nested": b"[" * NESTED,
        "a list": b"[]",
        "half": b'{"output": {"file"',
        "NUL": bytes(100),
        "no UTF-8": b"\xff\xfe{",
    }.items():
        setup = both(room, written("out/a.music.json", data))
        listed = ("manifest.jsonl", ".s2m-lock")
        yield Case(f"record/{name}", command, setup, r"a\.music\.json exists already", leaves=listed)
        build = ("data", "build", "base", "--out", "pairs", "--hours", "0.001")
        for word in ("ambience", "scores"):
            build = (*build, "--set", f"data.{word}={{stock}}/pairs")
        yield Case(f"build.json/{name}", build, written("pairs/build.json", data), r"build\.json")
        made = both(room, written("loops/manifest.json", data))
        yield Case(f"manifest.json/{name}", ("check-ambience", "loops"), made, "loops")


def cases(seed: int = SEED) -> list[Case]:
    """All of them, the same for the same seed."""
    rng = random.Random(seed)
    return [
        *recordings(rng),
        *odd_recordings(rng),
        *settings_files(),
        *values_of_settings(),
        *options(),
        *folders(rng),
        *extensions(rng),
        *encodec_folders(),
        *names_of_models(),
        *pairs(),
        *shards(rng),
        *scores(rng),
        *leftovers(),
    ]
