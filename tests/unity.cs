// What the importer uses of Unity's API, as it is documented; notes what is set. Compiled with it by the tests.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Reflection;

namespace UnityEngine
{
    public class Object
    {
        public string name;
        public static void DestroyImmediate(Object o) { }
    }
    public class ScriptableObject : Object
    {
        public static T CreateInstance<T>() where T : ScriptableObject, new() { return new T(); }
    }
    public class Component : Object { public Transform transform; }
    public class Transform : Component
    {
        public List<GameObject> below = new List<GameObject>();
        public GameObject owner;
        public void SetParent(Transform parent) { parent.below.Add(owner); }
    }
    public class AudioClip : Object { }
    public class AudioSource : Component { public AudioClip clip; public bool loop, playOnAwake = true; }
    public class GameObject : Object
    {
        public Transform transform = new Transform();
        public List<Component> components = new List<Component>();
        public GameObject(string name) { this.name = name; transform.owner = this; }
        public T AddComponent<T>() where T : Component, new()
        {
            var made = new T { transform = transform };
            components.Add(made);
            return made;
        }
    }
    public static class Application { public static string dataPath; }
    public static class Debug
    {
        public static void Log(object o) { Console.WriteLine("log " + o); }
        public static void LogWarning(object o) { Console.WriteLine("warning " + o); }
        public static void LogError(object o) { Console.WriteLine("error " + o); }
    }
    public class Json
    {
        public string text;
        private int at;

        private char Next()
        {
            while (char.IsWhiteSpace(text[at]) || text[at] == ',' || text[at] == ':') at++;
            return text[at];
        }

        /// <summary>Objects as dictionaries, arrays as object[], all else as text; of what json.dumps writes.</summary>
        public object Value()
        {
            char first = Next();
            if (first == '{')
            {
                var made = new Dictionary<string, object>();
                for (at++; Next() != '}';) { var key = (string)Value(); made[key] = Value(); }
                at++;
                return made;
            }
            if (first == '[')
            {
                var made = new List<object>();
                for (at++; Next() != ']';) made.Add(Value());
                at++;
                return made.ToArray();
            }
            int begin = at;
            if (first == '"')
            {
                at = text.IndexOf('"', at + 1) + 1;
                return text.Substring(begin + 1, at - begin - 2);
            }
            while (at < text.Length && ",]} \n".IndexOf(text[at]) < 0) at++;
            string word = text.Substring(begin, at - begin);
            return word == "null" ? null : word;
        }
    }
    public static class JsonUtility
    {
        public static T FromJson<T>(string text)
        {
            return (T)Fill(new Json { text = text }.Value(), typeof(T));
        }

        // As Unity does it: by the names of public fields, and what is null or missing keeps its default.
        private static object Fill(object value, Type type)
        {
            if (type.IsArray)
            {
                var from = (object[])value;
                Array to = Array.CreateInstance(type.GetElementType(), from.Length);
                for (int i = 0; i < from.Length; i++) to.SetValue(Fill(from[i], type.GetElementType()), i);
                return to;
            }
            if (type.IsPrimitive || type == typeof(string)) return Convert.ChangeType(value, type, CultureInfo.InvariantCulture);
            object made = Activator.CreateInstance(type);
            var fields = (Dictionary<string, object>)value;
            foreach (FieldInfo field in type.GetFields())
                if (fields.ContainsKey(field.Name) && fields[field.Name] != null)
                    field.SetValue(made, Fill(fields[field.Name], field.FieldType));
            return made;
        }
    }
}

namespace UnityEditor
{
    using UnityEngine;

    public class MenuItem : Attribute { public MenuItem(string path) { } }
    public static class EditorUtility { public static string OpenFilePanel(string a, string b, string c) { return ""; } }
    public enum AudioCompressionFormat { PCM, Vorbis }
    public enum AudioSampleRateSetting { PreserveSampleRate, OptimizeSampleRate }
    public struct AudioImporterSampleSettings
    {
        public AudioCompressionFormat compressionFormat;
        public AudioSampleRateSetting sampleRateSetting;
    }
    public class AssetImporter : UnityEngine.Object
    {
        public static AssetImporter GetAtPath(string path)
        {
            return File.Exists(Path.Combine(Path.GetDirectoryName(Application.dataPath), path)) ? new AudioImporter { name = path } : null;
        }
        public void SaveAndReimport()
        {
            var audio = (AudioImporter)this;
            Console.WriteLine("clip " + name + " " + audio.defaultSampleSettings.compressionFormat + " " + audio.ambisonic);
        }
    }
    public class AudioImporter : AssetImporter
    {
        public AudioImporterSampleSettings defaultSampleSettings { get; set; }
        public bool forceToMono { get; set; }
        public bool ambisonic { get; set; }
    }
    public static class AssetDatabase
    {
        public static void SaveAssets() { Console.WriteLine("saved"); }
        public static T LoadAssetAtPath<T>(string path) where T : UnityEngine.Object, new() { return new T { name = path }; }
        public static void CreateAsset(UnityEngine.Object asset, string path)
        {
            var room = (Silent2MusicRoom)asset;
            Console.WriteLine("asset " + path + " " + room.bpm.ToString(CultureInfo.InvariantCulture) + " " + room.bars + " " + room.samples + " " + room.barSamples.Length + " " + room.layersAdd);
            foreach (var extra in room.extras)
                Console.WriteLine("extra " + extra.name + " " + extra.entrySample + " " + extra.exitSample);
        }
    }
    public static class PrefabUtility
    {
        public static void SaveAsPrefabAsset(GameObject made, string path)
        {
            foreach (var below in made.transform.below)
                foreach (AudioSource source in below.components)
                    Console.WriteLine("source " + below.name + " " + source.clip.name + " " + source.loop + " " + source.playOnAwake);
        }
    }
}

public static class Program
{
    public static void Main(string[] words)
    {
        UnityEngine.Application.dataPath = words[0];
        Silent2MusicImporter.Import(words[1]);
    }
}
