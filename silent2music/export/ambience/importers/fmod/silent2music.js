// Written by s2m ambience. Put it into the Scripts folder of FMOD Studio (2.02 or later), choose Scripts > Reload, then
// silent2music > Import manifest. For each room it makes an event with a track for each layer, a loop region, a tempo
// marker, a marker for each bar, and an event for each extra with markers at its entry and exit.

(function () {
    function read(path) {
        var file = studio.system.getFile(path);
        if (!file.exists()) {
            throw new Error(path + " does not exist.");
        }
        file.open(studio.system.openMode.ReadOnly);
        var text = file.readText(file.size());
        file.close();
        return text;
    }

    function sound(event, track, path) {
        var asset = studio.project.importAudioFile(path);
        if (!asset) {
            throw new Error(path + " cannot be imported.");
        }
        var instrument = track.addSound(event.timeline, "SingleSound", 0, asset.length);
        instrument.audioFile = asset;
        return instrument;
    }

    function tempo(event, track, grid) {
        if (!grid.bpm) {
            return;
        }
        var marker = studio.project.create("TempoMarker");
        marker.position = 0;
        marker.tempo = grid.bpm;
        marker.timeSignatureNumerator = grid.beats_per_bar;
        marker.timeSignatureDenominator = 4;
        marker.markerTrack = track;
        marker.timeline = event.timeline;
    }

    function importRoom(folder, room) {
        var variations = {};
        room.files.forEach(function (file) {
            var key = file.variation + (file.spatial === room.space.spatial ? "" : "_" + file.spatial);
            (variations[key] = variations[key] || []).push(file);
        });
        Object.keys(variations).forEach(function (key) {
            var event = studio.project.workspace.addEvent(room.name + "_" + key, false);
            var taken = {};
            variations[key].forEach(function (file) {
                // Of several formats of a layer the first one is taken.
                if (!taken[file.layer]) {
                    taken[file.layer] = true;
                    sound(event, event.addGroupTrack(file.layer), folder + "/" + room.folder + "/" + file.file).looping = true;
                }
            });
            var markers = event.addMarkerTrack();
            markers.addRegion(0, room.grid.seconds, "Loop", studio.project.regionLoopMode.Looping);
            tempo(event, markers, room.grid);
            room.grid.bar_samples.forEach(function (sample, bar) {
                markers.addNamedMarker("Bar " + (bar + 1), sample / room.grid.sample_rate);
            });
        });
    }

    function importExtra(folder, name, file, rate) {
        var event = studio.project.workspace.addEvent(name, false);
        sound(event, event.addGroupTrack(file.kind), folder + "/" + file.file);
        var markers = event.addMarkerTrack();
        markers.addNamedMarker("Entry", file.entry / rate);
        markers.addNamedMarker("Exit", file.exit / rate);
    }

    function importManifest() {
        var path = studio.system.getText("Path of the manifest.json of s2m ambience", "");
        if (!path) {
            return;
        }
        path = path.replace(/\\/g, "/");
        var folder = path.substring(0, path.lastIndexOf("/"));
        var manifest = JSON.parse(read(path));
        if (manifest.format !== "silent2music-ambience") {
            throw new Error(path + " is no manifest of s2m ambience.");
        }
        manifest.rooms.forEach(function (room) {
            importRoom(folder, room);
            room.extras.forEach(function (file) {
                importExtra(folder + "/" + room.folder, room.name + "_" + file.name, file, room.grid.sample_rate);
            });
        });
        manifest.transitions.forEach(function (transition) {
            var rate = manifest.rooms[0].grid.sample_rate;
            transition.files.forEach(function (file) {
                importExtra(folder + "/" + transition.folder, file.name, file, rate);
            });
        });
        alert(manifest.rooms.length + " rooms imported.");
    }

    studio.menu.addMenuItem({ name: "silent2music\\Import manifest", execute: importManifest });
})();
