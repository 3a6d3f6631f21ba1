"""Import files for game engines: Godot's in Godot, the others as far as that goes without the engines."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rooms import RATE, steps_room
from test_cli import one_sentence

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.export.ambience.engines import ENGINES, IMPORTERS, WWISE_COLUMNS, write_engines

DOCUMENTED = {
    "Audio File",
    "Object Path",
    "Object Type",
    "Notes",
    "Event",
    "Switch Assignation",
    "Dialogue Event",
}
"""Headers of Wwise's tab delimited import, beside `Property[...]` and `Reference[...]`."""


def entry(file: str, **more: Any) -> dict[str, Any]:
    return {"file": file, "spatial": "stereo", "variation": 1, **more}


GRID = {
    "n_samples": 384_000, "sample_rate": 48_000, "seconds": 8.0, "bpm": 120.0, "bars": 4, "beats_per_bar": 4,
    "bar_samples": [0, 96_000, 192_000, 288_000], "key": "C major",
}  # fmt: skip
EXTRA = entry("hall_intro.wav", name="intro", kind="intro", entry=24_000, exit=216_000)
MANIFEST: dict[str, Any] = {
    "format": "silent2music-ambience",
    "version": 3,
    "rooms": [
        {
            "name": "hall", "folder": "sub/hall", "composed": True, "grid": GRID, "space": {"spatial": "stereo"},
            "files": [entry(f"hall_{x}_1.{s}", layer=x) for x in ("calm", "intense") for s in ("wav", "ogg")],
            "extras": [EXTRA],
        }
    ],
    "transitions": [{"from": "sub/hall", "to": "b", "folder": "transitions/hall_to_b", "files": [
        entry("transition_hall_to_b.wav", name="hall_to_b", kind="transition", entry=4_800, exit=200_000)]}],
}  # fmt: skip


def test_each_engine_gets_its_files_whole(tmp_path: Path) -> None:
    for _ in range(2):
        write_engines(tmp_path, MANIFEST, list(ENGINES))
    made = {p.relative_to(tmp_path / "engines").as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert made == {
        "unity/Silent2MusicRoom.cs", "unity/Editor/Silent2MusicImporter.cs", "unreal/import_silent2music.py",
        "godot/addons/silent2music/plugin.cfg", "godot/addons/silent2music/plugin.gd",
        "godot/addons/silent2music/importer.gd", "godot/ambience.s2m", "wwise/silent2music.tsv", "fmod/silent2music.js",
    }  # fmt: skip
    named = json.loads((tmp_path / "engines/godot/ambience.s2m").read_text())["manifest"]
    assert (tmp_path / "engines/godot" / named).resolve() == tmp_path.resolve() / "manifest.json"


def test_an_unknown_engine_gets_one_sentence(
    s2m, room_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    line = ("ambience", room_file, "--out", tmp_path / "out", "--model", model_folder, "--engines", "quake")
    code, _, said = s2m(*line)
    assert code == 1
    assert "--engines has 'quake'; expected some of unity, godot" in one_sentence(said)
    assert not (tmp_path / "out").exists()


def test_wwises_table_has_documented_columns_and_paths(tmp_path: Path) -> None:
    write_engines(tmp_path, MANIFEST, ["wwise"])
    text = (tmp_path / "engines/wwise/silent2music.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    for name in WWISE_COLUMNS:
        assert name in DOCUMENTED or re.fullmatch(r"(Property|Reference)\[\w+\]", name)
    types_of = {"Music Playlist Container", "Music Segment", "Music Track"}
    for row in rows:
        assert set(re.findall(r"<([^>]+)>", row["Object Path"])) <= types_of
        assert row["Object Path"].split("\\<")[-1].startswith(f"{row['Object Type']}>")
        assert bool(row["Audio File"]) == (row["Object Type"] == "Music Track")
    tracks = [row for row in rows if row["Audio File"]]
    assert [row["Audio File"] for row in tracks][:2] == [
        r"..\..\sub/hall\hall_calm_1.wav".replace("/", "\\"),
        r"..\..\sub\hall\hall_intense_1.wav",
    ]
    assert len(tracks) == 4, "two layers, the intro and the transition; OGG is not imported"
    segments = {row["Object Path"].rpartition(">")[2]: row for row in rows if not row["Audio File"]}
    assert segments["hall_1"]["Property[Tempo]"] == "120"
    assert segments["hall_1"]["Property[TimeSignatureUpper]"] == "4"
    assert "entry cue at 500.000 ms, exit cue at 4500.000 ms" in segments["intro"]["Notes"]


class Unreal(types.ModuleType):
    """What the script uses of Unreal's Python API, as it is documented; notes what is set."""

    def __init__(self) -> None:
        super().__init__("unreal")
        self.waves: dict[str, dict[str, Any]] = {}
        waves = self.waves

        class Properties:
            def __init__(self, values: dict[str, Any] | None = None) -> None:
                self.values = {} if values is None else values

            def set_editor_property(self, name: str, value: Any) -> None:
                self.values[name] = value

            def get_editor_property(self, name: str) -> Any:
                return self.values[name]

        class Tools:
            def import_asset_tasks(self, tasks: list[Properties]) -> None:
                for task in tasks:
                    name = f"{task.values['destination_path']}/{Path(task.values['filename']).stem}"
                    waves[name] = {"suffix": Path(task.values["filename"]).suffix}
                    task.values["imported_object_paths"] = [name]

        class Library:
            @staticmethod
            def load_asset(path: str) -> Properties:
                return Properties(waves[path])

            @staticmethod
            def set_metadata_tag(wave: Properties, name: str, value: str) -> None:
                assert isinstance(value, str)
                wave.values[name] = value

            @staticmethod
            def save_loaded_asset(wave: Properties) -> None:
                wave.values["saved"] = True

        self.AssetImportTask = Properties
        self.AssetToolsHelpers = types.SimpleNamespace(get_asset_tools=Tools)
        self.EditorAssetLibrary = Library
        self.log = self.log_warning = print


def test_unreals_script_sets_loops_layers_tempo_and_marks(tmp_path: Path, monkeypatch) -> None:
    unreal = Unreal()
    monkeypatch.setitem(sys.modules, "unreal", unreal)
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    source = (IMPORTERS / "unreal/import_silent2music.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))  # what Unreal 5.1 brings
    script: dict[str, Any] = {"__name__": "imported"}
    exec(compile(source, "import_silent2music.py", "exec"), script)
    assert script["import_ambience"](tmp_path / "manifest.json") == 6
    calm = unreal.waves["/Game/silent2music/sub/hall/hall_calm_1"]
    assert (calm["looping"], calm["S2M_Layer"], calm["S2M_Bpm"]) == (True, "calm", "120.0")
    intro = unreal.waves["/Game/silent2music/sub/hall/hall_intro"]
    assert (intro["looping"], intro["S2M_EntrySample"]) == (False, "24000")
    assert all(wave["saved"] for wave in unreal.waves.values())


FMOD = """
var calls = [];
function note(what) { return function () { calls.push([what].concat([].slice.call(arguments))); return thing(what); }; }
function thing(name) {
  return { addGroupTrack: note('track'), addMarkerTrack: note('markers'), addSound: note('sound'),
           addRegion: note('region'), addNamedMarker: note('marker'), timeline: 'timeline', length: 8,
           exists: function () { return true; }, open: function () {}, size: function () { return 0; },
           close: function () {}, readText: function () { return MANIFEST; } };
}
var run;
var studio = {
  system: { getFile: note('file'), getText: function () { return 'C:\\\\a\\\\manifest.json'; }, openMode: {} },
  menu: { addMenuItem: function (item) { run = item.execute; } },
  project: { importAudioFile: note('import'), regionLoopMode: { Looping: 1 },
             create: function (name) { var made = { kind: name }; calls.push(['create', made]); return made; },
             workspace: { addEvent: note('event') } } };
function alert() {}
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_fmods_script_makes_events_loops_and_markers(tmp_path: Path) -> None:
    script = (IMPORTERS / "fmod/silent2music.js").read_text(encoding="utf-8")
    program = f"var MANIFEST = {json.dumps(json.dumps(MANIFEST))};\n{FMOD}\n{script}\nrun();\n"
    program += (
        "console.log(JSON.stringify(calls.map(function (c) { return c.slice(0, 5).filter(function (x) {"
    )
    program += " return typeof x !== 'function'; }); })));"
    (tmp_path / "run.js").write_text(program, encoding="utf-8")
    done = subprocess.run(["node", tmp_path / "run.js"], capture_output=True, text=True, check=True)
    calls = json.loads(done.stdout)
    assert [c[1] for c in calls if c[0] == "event"] == ["hall_1", "hall_intro", "hall_to_b"]
    assert [c[1] for c in calls if c[0] == "track"] == ["calm", "intense", "intro", "transition"]
    assert [c[1:] for c in calls if c[0] == "region"] == [[0, 8, "Loop", 1]]
    assert ["marker", "Bar 2", 2] in calls and ["marker", "Entry", 0.5] in calls
    (tempo,) = [c[1] for c in calls if c[0] == "create"]
    assert (tempo["kind"], tempo["tempo"], tempo["timeSignatureNumerator"]) == ("TempoMarker", 120, 4)
    assert next(c[1] for c in calls if c[0] == "import") == "C:/a/sub/hall/hall_calm_1.wav"


@pytest.mark.skipif(shutil.which("mcs") is None, reason="mono's compiler is not installed")
def test_unitys_script_makes_a_looping_source_for_each_layer(tmp_path: Path) -> None:
    folder, program = tmp_path / "Assets/music", tmp_path / "import.exe"
    sounds = [
        "hall_calm_1.wav",
        "hall_calm_1.ogg",
        "hall_intense_1.wav",
        "hall_intense_1.ogg",
        "hall_intro.wav",
    ]
    for name in (*(f"sub/hall/{name}" for name in sounds), "transitions/hall_to_b/transition_hall_to_b.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    sources = [*IMPORTERS.glob("unity/**/*.cs"), Path(__file__).with_name("unity.cs")]
    subprocess.run(["mcs", f"-out:{program}", *sources], check=True)
    run = ["mono", program, tmp_path / "Assets"]
    done = subprocess.run([*run, folder / "manifest.json"], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    hall = "Assets/music/sub/hall"
    assert next(line for line in said if line.startswith("clip")) == f"clip {hall}/hall_calm_1.wav PCM False"
    assert [line for line in said if line.startswith("source")] == [
        f"source {layer} 1 stereo {hall}/hall_{layer}_1.{suffix} True False"
        for layer in ("calm", "intense")
        for suffix in ("wav", "ogg")
    ]
    assert f"asset {hall}/hall.asset 120 4 384000 4 True" in said
    assert [line for line in said if line.startswith("extra")] == [
        "extra intro 24000 216000",
        "extra hall_to_b 4800 200000",
    ]
    assert said[-1] == "log silent2music: 1 rooms imported from Assets/music."
    elsewhere = subprocess.run([*run, tmp_path / "manifest.json"], capture_output=True, text=True, check=True)
    assert "copy the ambience folder there first" in elsewhere.stdout


GODOT_PROJECT = """config_version=5
[audio]
driver/mix_rate=48000
[editor_plugins]
enabled=PackedStringArray("res://addons/silent2music/plugin.cfg")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("godot") is None, reason="godot, 4.3 or later, is not on the PATH")
def test_godot_imports_loops_layers_tempo_and_marks(s2m, sketched_folder: Path, tmp_path: Path) -> None:
    rooms, project = tmp_path / "rooms", tmp_path / "project"
    rooms.mkdir()
    for name in ("hall", "key's (1)"):
        audio.write(rooms / f"{name}.wav", Waveform(steps_room(4.0), RATE))
    line = "--loop 1bar --tempo 120 --layers calm,intense --extras stingers --engines godot --transitions all"
    line += ' --set ambience.candidates=1 --set ambience.formats=["wav","ogg"]'
    made = ("ambience", rooms, "--out", project / "ambience", "--model", sketched_folder, *line.split())
    assert s2m(*made)[0] == 0
    shutil.copytree(project / "ambience/engines/godot/addons", project / "addons")
    (project / "project.godot").write_text(GODOT_PROJECT, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("godot.gd"), project)
    said = ""
    for what in ("--import", "--script godot.gd"):
        line_of_godot = ["godot", "--headless", "--path", project, *what.split()]
        done = subprocess.run(
            line_of_godot, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}
        )
        said += done.stdout + done.stderr
    assert not re.findall(r"^.*(?:ERROR|WARNING).*$", said, re.MULTILINE)
    told = json.loads((project / "told.json").read_text(encoding="utf-8"))
    manifest = json.loads((project / "ambience/manifest.json").read_text(encoding="utf-8"))
    assert len(told) == 4, "two rooms, each as WAV and as OGG"
    for room in manifest["rooms"]:
        grid, folder = room["grid"], f"res://ambience/{room['folder']}"
        for suffix in ("wav", "ogg"):
            together = told[f"{folder}/{room['name']}_1_stereo_{suffix}.tres"]
            assert (together["layers"], together["layers_add"]) == (["calm", "intense"], True)
            assert together["grid"] == grid
            (way,) = [t for t in manifest["transitions"] if t["from"] == room["folder"]]
            marks = [(e["file"], e["entry"], e["exit"]) for e in (*room["extras"], *way["files"])]
            assert [(e["file"], e["entry"], e["exit"]) for e in together["extras"]] == marks
            for layer, stream in zip(together["layers"], together["streams"], strict=True):
                assert stream["path"] == f"{folder}/{room['name']}_{layer}_1.{suffix}"
                assert stream["volume"] == (0.0 if layer == "calm" else -60.0)
                if suffix == "wav":  # forwards, and not as QOA; Godot plays the end too
                    kept = [stream[n] for n in ("loop_mode", "format", "loop_begin", "loop_end")]
                    assert kept == [1, 1, 0, grid["n_samples"] - 1]
                else:
                    kept = [stream[n] for n in ("loop", "bpm", "bar_beats", "beat_count")]
                    assert kept == [True, pytest.approx(120.0), 4, 4]
                path = project / stream["path"].removeprefix("res://")
                played = np.fromfile(f"{path}.raw", np.float32).reshape(-1, 2).T[:, 2:]  # it interpolates
                file, n = audio.read(path).samples, grid["n_samples"]
                assert np.abs(played[:, :n] - file).max() < 2 / 2**15
                # Godot 4.6 leaves a WAV file's first sample out when it comes round (its issue 119778).
                again = [np.abs(played[:, n : n + 900] - file[:, k : 900 + k]).max() for k in (0, 1)]
                assert (min(again) if suffix == "wav" else again[0]) < 2 / 2**15


@pytest.mark.parametrize(("engine", "suffix", "broken"), [
    ("unity", "cs", b"class A { void b( { }"), ("godot", "gd", b"func a( {\n\tpass"),
])  # fmt: skip
def test_scripts_are_of_their_language(engine: str, suffix: str, broken: bytes) -> None:
    tree_sitter = pytest.importorskip("tree_sitter")
    name = {"cs": "c_sharp", "gd": "gdscript"}[suffix]
    language = pytest.importorskip(f"tree_sitter_{name}")
    parser = tree_sitter.Parser(tree_sitter.Language(language.language()))
    scripts = list(IMPORTERS.glob(f"{engine}/**/*.{suffix}"))
    assert len(scripts) == 2
    for path in scripts:
        assert not parser.parse(path.read_bytes()).root_node.has_error, path.name
    assert parser.parse(broken).root_node.has_error
