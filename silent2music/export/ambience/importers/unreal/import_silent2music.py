"""Written by s2m ambience. Run it in the Unreal editor (5.1 or later, Python Editor Script Plugin):

    py "C:/ambience/engines/unreal/import_silent2music.py"

It imports all sounds of the manifest two folders above to /Game/silent2music, sets loops, and notes layer, tempo, bars,
entry and exit as metadata of each Sound Wave. Bars are also cue points of the files, which Unreal imports itself.
"""

import json
import re
import sys
from pathlib import Path

import unreal

DESTINATION = "/Game/silent2music"


def import_ambience(manifest_path, destination=DESTINATION):
    """Import a folder of s2m ambience; returns how many Sound Waves there are."""
    root = Path(manifest_path).resolve().parent
    manifest = json.loads(Path(manifest_path).read_text(encoding="utf-8"))
    if manifest.get("format") != "silent2music-ambience":
        raise ValueError(f"{manifest_path} is no manifest of s2m ambience.")
    n_waves = 0
    for room in manifest["rooms"]:
        grid = room["grid"]
        shared = {
            "S2M_Room": room["folder"],
            "S2M_Bpm": grid["bpm"],
            "S2M_Bars": grid["bars"],
            "S2M_BeatsPerBar": grid["beats_per_bar"],
            "S2M_BarSamples": " ".join(map(str, grid["bar_samples"])),
            "S2M_Key": grid["key"],
            "S2M_LayersAdd": room["composed"],
        }
        for file in room["files"]:
            own = {"S2M_Layer": file["layer"], "S2M_Variation": file["variation"]}
            n_waves += _import(root, room["folder"], file, destination, True, {**shared, **own})
        for file in room["extras"]:
            n_waves += _import(root, room["folder"], file, destination, False, {**shared, **_marks(file)})
    for transition in manifest["transitions"]:
        own = {"S2M_From": transition["from"], "S2M_To": transition["to"]}
        for file in transition["files"]:
            n_waves += _import(root, transition["folder"], file, destination, False, {**own, **_marks(file)})
    unreal.log(f"silent2music: {n_waves} sounds imported to {destination}.")
    return n_waves


def _marks(file):
    return {
        "S2M_Name": file["name"],
        "S2M_Kind": file["kind"],
        "S2M_EntrySample": file["entry"],
        "S2M_ExitSample": file["exit"],
    }


def _import(root, folder, file, destination, looping, tags):
    path = root / folder / file["file"]
    if path.suffix == ".flac":
        return 0  # Unreal imports WAV, OGG and AIFF
    package = "/".join(re.sub(r"[^A-Za-z0-9_]", "_", part) for part in Path(folder).parts)
    task = unreal.AssetImportTask()
    task.set_editor_property("filename", str(path))
    task.set_editor_property("destination_path", f"{destination}/{package}")
    task.set_editor_property("automated", True)
    task.set_editor_property("replace_existing", True)
    task.set_editor_property("save", True)
    unreal.AssetToolsHelpers.get_asset_tools().import_asset_tasks([task])
    imported = list(task.get_editor_property("imported_object_paths"))
    for asset_path in imported:
        wave = unreal.EditorAssetLibrary.load_asset(asset_path)
        wave.set_editor_property("looping", looping)
        if file["spatial"] == "ambix":
            wave.set_editor_property("is_ambisonics", True)
        for name, value in tags.items():
            unreal.EditorAssetLibrary.set_metadata_tag(wave, name, "" if value is None else str(value))
        unreal.EditorAssetLibrary.save_loaded_asset(wave)
    if not imported:
        unreal.log_warning(f"{path} was not imported.")
    return len(imported)


if __name__ == "__main__":
    beside = Path(__file__).resolve().parents[2] / "manifest.json"
    import_ambience(sys.argv[1] if len(sys.argv) > 1 else beside)
