@tool
extends EditorImportPlugin
## Imports an ambience.s2m, which names the manifest.json of s2m ambience. For Godot 4.3 and later; run in 4.6.
##
## Copy the whole folder of s2m ambience into a project, its engines/godot/addons to the project's top, and switch the
## plug-in on. For each room, variation and format it saves an AudioStreamSynchronized of the looping layers beside the
## room's files, with the grid and the extras as metadata. The imported ambience.s2m lists them by room, as metadata
## "rooms". Of AmbiX the fold-downs are imported.


func _get_importer_name() -> String:
	return "silent2music.ambience"


func _get_visible_name() -> String:
	return "silent2music ambience"


func _get_recognized_extensions() -> PackedStringArray:
	return PackedStringArray(["s2m"])


func _get_save_extension() -> String:
	return "tres"


func _get_resource_type() -> String:
	return "Resource"


func _get_preset_count() -> int:
	return 0


func _get_import_options(_path: String, _preset: int) -> Array[Dictionary]:
	return []


func _get_option_visibility(_path: String, _option: StringName, _options: Dictionary) -> bool:
	return true


func _get_priority() -> float:
	return 1.0


func _get_import_order() -> int:
	return 100


func _import(
	source_file: String,
	save_path: String,
	_options: Dictionary,
	_platform_variants: Array[String],
	gen_files: Array[String]
) -> Error:
	var named: Variant = JSON.parse_string(FileAccess.get_file_as_string(source_file))
	if not named is Dictionary or not named.has("manifest"):
		push_error("%s does not name a manifest." % source_file)
		return ERR_PARSE_ERROR
	var path: String = source_file.get_base_dir().path_join(named["manifest"]).simplify_path()
	var manifest: Variant = JSON.parse_string(FileAccess.get_file_as_string(path))
	if not manifest is Dictionary or manifest.get("format") != "silent2music-ambience":
		push_error("%s is no manifest of s2m ambience." % path)
		return ERR_PARSE_ERROR
	var root: String = path.get_base_dir()
	var rooms := {}
	for room: Dictionary in manifest["rooms"]:
		rooms[room["folder"]] = _room(root, room, manifest.get("transitions", []), gen_files)
	var ambience := Resource.new()
	ambience.set_meta("rooms", rooms)
	return ResourceSaver.save(ambience, "%s.%s" % [save_path, _get_save_extension()])


func _room(root: String, room: Dictionary, transitions: Array, gen_files: Array[String]) -> Array[String]:
	var grid: Dictionary = room["grid"]
	var folder: String = root.path_join(room["folder"])
	var sets := {}
	for file: Dictionary in room["files"]:
		var suffix: String = file["file"].get_extension()
		if file["spatial"] == "ambix" or not suffix in ["wav", "ogg"]:
			continue  # Godot reads two channels at most, and no FLAC.
		var stream := _loop(folder.path_join(file["file"]), grid)
		if stream != null:
			var key := "%s_%d_%s_%s" % [room["name"], file["variation"], file["spatial"], suffix]
			sets.get_or_add(key, []).append([file["layer"], stream])
	var saved: Array[String] = []
	for key: String in sets:
		var layers: Array = sets[key]
		var together := AudioStreamSynchronized.new()
		together.stream_count = mini(layers.size(), AudioStreamSynchronized.MAX_STREAMS)
		for index in together.stream_count:
			together.set_sync_stream(index, layers[index][1])
			# The calmest layer sounds, the others wait to be faded in.
			together.set_sync_stream_volume(index, 0.0 if index == 0 else -60.0)
		together.set_meta("layers", layers.map(func(layer: Array) -> String: return layer[0]))
		together.set_meta("grid", grid)
		together.set_meta("layers_add", room["composed"])
		together.set_meta("extras", _extras(folder, room["extras"]) + _leaving(root, room, transitions))
		var path := folder.path_join(key + ".tres")
		if ResourceSaver.save(together, path) == OK:
			gen_files.append(path)
			saved.append(path)
	return saved


## A loop, imported anew with options that make it one: they stay with the file, what is set of a loaded stream does not.
func _loop(path: String, grid: Dictionary) -> AudioStream:
	var options := {}
	if path.get_extension() == "wav":
		# Godot plays the end too. QOA, its default, has more noise in a file's first milliseconds than in the rest.
		options = {"edit/loop_mode": 2, "edit/loop_begin": 0, "edit/loop_end": int(grid["n_samples"]) - 1}
		options["compress/mode"] = 0
	else:
		options = {"loop": true, "loop_offset": 0.0}
		if grid["bpm"] != null:
			options["bpm"] = grid["bpm"]
			options["bar_beats"] = int(grid["beats_per_bar"])
			options["beat_count"] = int(grid["bars"]) * int(grid["beats_per_bar"])
	append_import_external_resource(path, options)
	var stream: AudioStream = load(path) as AudioStream
	if stream == null:
		push_warning("%s is missing or no sound that Godot reads." % path)
	return stream


func _extras(folder: String, entries: Array) -> Array:
	var found := []
	for entry: Dictionary in entries:
		var extra := entry.duplicate()
		extra["path"] = folder.path_join(entry["file"])
		found.append(extra)
	return found


func _leaving(root: String, room: Dictionary, transitions: Array) -> Array:
	var found := []
	for transition: Dictionary in transitions:
		if transition["from"] == room["folder"]:
			found.append_array(_extras(root.path_join(transition["folder"]), transition["files"]))
	return found
