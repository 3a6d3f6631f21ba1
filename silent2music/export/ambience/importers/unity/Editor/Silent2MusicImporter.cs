// Written by s2m ambience. Put the ambience folder below Assets and choose Assets > silent2music > Import Manifest.
// For each room it makes a Silent2MusicRoom asset and a prefab with one looping AudioSource for each layer.
using System;
using System.Collections.Generic;
using System.IO;
using UnityEditor;
using UnityEngine;

public static class Silent2MusicImporter
{
    [Serializable] private class Manifest { public string format; public int version; public Room[] rooms; public Transition[] transitions; }
    [Serializable] private class Room
    {
        public string name, folder;
        public bool composed;
        public Grid grid;
        public FileEntry[] files;
        public FileEntry[] extras;
    }
    [Serializable] private class Grid
    {
        public int n_samples, sample_rate, bars, beats_per_bar;
        public double bpm;
        public int[] bar_samples;
        public string key;
    }
    [Serializable] private class FileEntry
    {
        public string file, layer, name, kind, spatial;
        public int variation, entry, exit;
    }
    [Serializable] private class Transition { public string from, to, folder; public FileEntry[] files; }

    [MenuItem("Assets/silent2music/Import Manifest")]
    private static void Choose()
    {
        string path = EditorUtility.OpenFilePanel("manifest.json of s2m ambience", Application.dataPath, "json");
        if (!string.IsNullOrEmpty(path)) Import(path);
    }

    /// <summary>Import the rooms of a manifest that lies below Assets.</summary>
    public static void Import(string path)
    {
        string full = Path.GetFullPath(path).Replace('\\', '/');
        string assets = Path.GetFullPath(Application.dataPath).Replace('\\', '/');
        if (!full.StartsWith(assets + "/", StringComparison.Ordinal))
        {
            Debug.LogError($"{full} is not below {assets}; copy the ambience folder there first.");
            return;
        }
        Manifest manifest = JsonUtility.FromJson<Manifest>(File.ReadAllText(full));
        if (manifest == null || manifest.format != "silent2music-ambience" || manifest.rooms == null)
        {
            Debug.LogError($"{full} is no manifest of s2m ambience.");
            return;
        }
        string root = "Assets" + Path.GetDirectoryName(full).Replace('\\', '/').Substring(assets.Length);
        foreach (Room room in manifest.rooms) Make(root, room, manifest.transitions ?? Array.Empty<Transition>());
        AssetDatabase.SaveAssets();
        Debug.Log($"silent2music: {manifest.rooms.Length} rooms imported from {root}.");
    }

    private static void Make(string root, Room room, Transition[] transitions)
    {
        string folder = $"{root}/{room.folder}";
        Silent2MusicRoom asset = ScriptableObject.CreateInstance<Silent2MusicRoom>();
        asset.bpm = room.grid.bpm;
        asset.bars = room.grid.bars;
        asset.beatsPerBar = room.grid.beats_per_bar;
        asset.sampleRate = room.grid.sample_rate;
        asset.samples = room.grid.n_samples;
        asset.barSamples = room.grid.bar_samples;
        asset.key = room.grid.key;
        asset.layersAdd = room.composed;
        var layers = new List<Silent2MusicRoom.Layer>();
        var extras = new List<Silent2MusicRoom.Extra>();
        var sources = new GameObject(room.name);
        foreach (FileEntry file in room.files)
        {
            AudioClip clip = Clip($"{folder}/{file.file}", file.spatial == "ambix");
            if (clip == null) continue;
            layers.Add(new Silent2MusicRoom.Layer { layer = file.layer, variation = file.variation, clip = clip });
            var source = new GameObject($"{file.layer} {file.variation} {file.spatial}").AddComponent<AudioSource>();
            source.transform.SetParent(sources.transform);
            source.clip = clip;
            source.loop = true;
            source.playOnAwake = false;
        }
        foreach (FileEntry file in room.extras ?? Array.Empty<FileEntry>()) AddExtra(extras, folder, file);
        foreach (Transition transition in transitions)
        {
            if (transition.from != room.folder) continue;
            foreach (FileEntry file in transition.files) AddExtra(extras, $"{root}/{transition.folder}", file);
        }
        asset.layers = layers.ToArray();
        asset.extras = extras.ToArray();
        AssetDatabase.CreateAsset(asset, $"{folder}/{room.name}.asset");
        PrefabUtility.SaveAsPrefabAsset(sources, $"{folder}/{room.name}.prefab");
        UnityEngine.Object.DestroyImmediate(sources);
    }

    private static void AddExtra(List<Silent2MusicRoom.Extra> extras, string folder, FileEntry file)
    {
        AudioClip clip = Clip($"{folder}/{file.file}", file.spatial == "ambix");
        if (clip == null) return;
        extras.Add(new Silent2MusicRoom.Extra
        {
            name = file.name, kind = file.kind, clip = clip, entrySample = file.entry, exitSample = file.exit,
        });
    }

    /// <summary>The clip of a file, as PCM and without a new rate, since lossy coding pads the ends of a loop.</summary>
    private static AudioClip Clip(string path, bool isAmbisonic)
    {
        var importer = AssetImporter.GetAtPath(path) as AudioImporter;
        if (importer == null)
        {
            Debug.LogWarning($"{path} is missing or no sound that Unity reads.");
            return null;
        }
        AudioImporterSampleSettings settings = importer.defaultSampleSettings;
        settings.compressionFormat = AudioCompressionFormat.PCM;
        settings.sampleRateSetting = AudioSampleRateSetting.PreserveSampleRate;
        importer.defaultSampleSettings = settings;
        importer.forceToMono = false;
        importer.ambisonic = isAmbisonic;
        importer.SaveAndReimport();
        return AssetDatabase.LoadAssetAtPath<AudioClip>(path);
    }
}
