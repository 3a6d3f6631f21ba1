extends SceneTree
## Tells what the plug-in made of a folder, and plays each loop once and a little more.


func _init() -> void:
	var rooms: Dictionary = load("res://ambience/engines/godot/ambience.s2m").get_meta("rooms")
	var told := {}
	for room: String in rooms:
		for path: String in rooms[room]:
			told[path] = _together(load(path))
	FileAccess.open("res://told.json", FileAccess.WRITE).store_string(JSON.stringify(told))
	quit()


func _together(together: AudioStreamSynchronized) -> Dictionary:
	var told := {"streams": []}
	for name in together.get_meta_list():
		told[name] = together.get_meta(name)
	for index in together.stream_count:
		var stream: AudioStream = together.get_sync_stream(index)
		var own := {"path": stream.resource_path, "volume": together.get_sync_stream_volume(index)}
		for name in ["loop_mode", "loop_begin", "loop_end", "format", "loop", "bpm", "bar_beats", "beat_count"]:
			if name in stream:
				own[name] = stream.get(name)
		var playback := stream.instantiate_playback()
		playback.start(0.0)
		var played := PackedVector2Array()
		while played.size() < stream.get_length() * AudioServer.get_mix_rate() + 1000:
			played.append_array(playback.mix_audio(1.0, 512))
		FileAccess.open(stream.resource_path + ".raw", FileAccess.WRITE).store_buffer(played.to_byte_array())
		told["streams"].append(own)
	return told
