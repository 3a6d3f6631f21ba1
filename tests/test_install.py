"""What each installation can do: the minimal one the main jobs, and what an extra brings is named where it lacks."""

from __future__ import annotations

import io
import json
import re
import tomllib
from pathlib import Path

import pytest
import soundfile
from elsewhere import Ran, run_without
from packaging.requirements import Requirement
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.errors import S2MError, require

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

NOT_MINIMAL = (
    *("torchaudio", "encodec", "transformers", "librosa", "accelerate"),
    *("huggingface_hub", "matplotlib", "mir_eval", "pyroomacoustics", "pyarrow", "tensorboard"),
    *("datasets", "jsonschema", "onnx", "onnxruntime", "openvino", "pandas", "pyloudnorm", "sklearn"),
)
"""What `infer`, `ambience` and `analyze` do without."""

CARD = {"torch", "torchaudio", "encodec", "transformers", "librosa", "soundfile", "accelerate", "typer"}


def requirements(lines: list[str]) -> dict[str, str]:
    """Bounds by package."""
    parsed = [Requirement(line) for line in lines]
    return {each.name: str(each.specifier) for each in parsed}


def test_the_minimal_list_is_a_part_of_the_dependencies() -> None:
    text = (ROOT / "requirements-minimal.txt").read_text(encoding="utf-8")
    minimal = requirements([line for line in text.splitlines() if line and not line.startswith("#")])
    core = requirements(PROJECT["dependencies"])
    assert minimal.items() <= core.items()
    assert not set(minimal) & set(NOT_MINIMAL)
    assert set(core) >= CARD
    assert set(core) - set(minimal) == CARD - {"torch", "soundfile", "typer"}


def test_all_is_every_extra_for_users() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all", "dev"}
    assert "silent2music[all]" in extras["dev"]


# ---- the minimal installation ----


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> tuple[Path, list[Ran]]:
    folder = tmp_path_factory.mktemp("minimal")
    audio.write(folder / "room.wav", audio.Waveform(steps_room(), RATE))
    model = ["--model", model_folder]
    short = ["--loop", "2s", "--set", "ambience.candidates=1"]
    loops = ["--layers", "calm,intense", "--spatial", "stereo", "--formats", "wav,flac,ogg"]
    commands = [
        ["infer", "room.wav", "-o", "out.flac", *model],
        ["infer", "room.wav", "--stream", "--seconds", 1, *model],
        ["ambience", "room.wav", "--out", "loops", *short, *loops, *model],
        ["ambience", "room.wav", "--out", "ambix", "--spatial", "ambix", *short, *model],
        ["analyze", "room.wav", "--json"],
    ]
    return folder, run_without([(NOT_MINIMAL, command) for command in commands], folder)


def test_infer_is_minimal(minimal) -> None:
    folder, (ran, *_) = minimal
    assert (ran.code, ran.said) == (0, "")
    assert audio.read(folder / "out.flac").seconds == 2.0
    assert (folder / "out.json").is_file()


def test_streaming_is_minimal(minimal) -> None:
    _, (_, ran, *_) = minimal
    assert (ran.code, ran.said) == (0, "")
    music, rate = soundfile.read(io.BytesIO(ran.out))
    assert len(music) == rate


def test_ambience_is_minimal(minimal) -> None:
    folder, (_, _, plain, ambix, _) = minimal
    assert (plain.code, ambix.code) == (0, 0), plain.said + ambix.said
    assert {path.suffix for path in (folder / "loops").rglob("*.*")} >= {".wav", ".flac", ".ogg"}
    assert list((folder / "ambix").rglob("*.wav"))


def test_analyze_is_minimal(minimal) -> None:
    _, (*_, ran) = minimal
    assert (ran.code, ran.said) == (0, "")
    assert json.loads(ran.out)["n_channels"] == 1


# ---- an extra that lacks ----


def test_require_names_the_package_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("json.decoder", "plot").JSONDecoder is json.JSONDecoder
    with pytest.raises(S2MError, match=r"^no_such_package is not installed; install it by: "):
        require("no_such_package.part", "plot")
    with pytest.raises(S2MError, match=r"pip install 'silent2music\[plot\]'$"):
        require("no_such_package", "plot")
    with pytest.raises(S2MError, match=r"pip install no_such_package$"):
        require("no_such_package")


def test_require_names_what_a_package_lacks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_package\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(S2MError, match=r"half_installed \(which needs no_such_package\) is not installed"):
        require("half_installed", "eval")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, codec_folder: Path) -> Path:
    """A folder of what the commands below are given: they must say what lacks before they look for it long."""
    folder = tmp_path_factory.mktemp("sources")
    audio.write(folder / "room.wav", audio.Waveform(steps_room(), RATE))
    (folder / "pairs").mkdir()
    lines = []
    for split in ("train", "validation"):
        for number in range(2):
            names = [f"{split}{number}.{side}.wav" for side in ("silent", "music")]
            for name, level in zip(names, (-60, -20), strict=True):
                sound = audio.Waveform(steps_room(level_dbfs=level), RATE)
                audio.write(folder / "pairs" / name, sound)
            lines.append(json.dumps({"silent": names[0], "music": names[1], "split": split}) + "\n")
    (folder / "pairs" / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "recipe.toml").write_text("", encoding="utf-8")
    return folder


NEEDED_BY = [
    ("plot", "matplotlib", "analyze room.wav --plot room.png"),
    ("plot", "matplotlib", "ambience room.wav --out loops --contact-sheet sheet.png --model MODEL"),
    ("train", "pyroomacoustics", "data build recipe.toml --out built --hours 0.1"),
    ("train", "pyroomacoustics", "codec music scores --out music"),
    ("train", "pyarrow", "data prepare pairs --codec CODEC --out shards"),
    ("train", "tensorboard", "codec train recipe.toml pairs --out run --start CODEC"),
    ("eval", "mir_eval", "eval --pairs pairs --out report --model MODEL"),
    ("eval", "mir_eval", "data stats pairs"),
    ("eval", "matplotlib", "eval --pairs pairs --out report --quick --model MODEL"),
    ("provenance", "c2pa", "infer room.wav --sign room.wav --certificate room.wav --model MODEL"),
    ("studio", "gradio", "studio --folder pieces"),
    ("tune", "peft", "tune pairs -o mymodel --model MODEL"),
    (None, "accelerate", "train recipe.toml --shards shards --codec CODEC --out run"),
    (None, "accelerate", "codec train recipe.toml pairs --out run --start CODEC"),
    (None, "librosa", "check-ambience loops"),
    (None, "symusic", "perform recipe.toml --soundfont room.wav -o out.wav"),
]
"""Extra, package, and a command that needs it; of no extra is what a minimal installation lacks of the core."""


@pytest.fixture(scope="module")
def refusals(sources: Path, model_folder: Path, codec_folder: Path) -> list[Ran]:
    named = {"MODEL": model_folder, "CODEC": codec_folder}
    commands = [
        ([package], [named.get(word, word) for word in line.split()]) for _, package, line in NEEDED_BY
    ]
    return run_without(commands, sources)


@pytest.mark.parametrize("number", range(len(NEEDED_BY)), ids=[" ".join(n[1:]) for n in NEEDED_BY])
def test_what_lacks_is_named_in_one_sentence(refusals: list[Ran], number: int) -> None:
    extra, package, _ = NEEDED_BY[number]
    how = rf"'silent2music\[{extra}\]'" if extra else package
    ran = refusals[number]
    assert re.fullmatch(rf"{package}[^\n]* is not installed[^\n]* pip install {how}", ran.said), ran.said
    assert (ran.code, ran.out) == (1, b"")


def test_every_extra_has_a_command_that_misses_it() -> None:
    extras = (
        {extra for extra, *_ in NEEDED_BY if extra}
        | {
            "hub",
            "video",
            "transcribe",
            "text",
        }
    )  # by the library alone, below; by formats: test_decoding; by what goes on without: test_benchmark, test_words
    assert extras == set(PROJECT["optional-dependencies"]) - {"all", "dev"}


def test_a_hub_name_without_the_hub_is_named_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import silent2music
    from silent2music import errors

    def absent(module: str) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(errors, "import_module", absent)
    with pytest.raises(S2MError, match=r"huggingface_hub is not installed.*'silent2music\[hub\]'"):
        silent2music.load("someone/some-model", download=True)
