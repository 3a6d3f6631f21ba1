// Written by s2m ambience: what a game knows of a room's music. Keep it outside of an Editor folder.
using System;
using UnityEngine;

/// <summary>A room of an ambience: its loops, their grid, and what is played beside them.</summary>
public class Silent2MusicRoom : ScriptableObject
{
    [Serializable]
    public class Layer
    {
        public string layer;
        public int variation;
        public AudioClip clip;
    }

    [Serializable]
    public class Extra
    {
        public string name;
        public string kind;
        public AudioClip clip;
        /// <summary>Sample that meets a beat or a bar line of what plays, and the one at which what follows begins.</summary>
        public int entrySample, exitSample;
    }

    public double bpm;
    public int bars, beatsPerBar, sampleRate, samples;
    public int[] barSamples = Array.Empty<int>();
    public string key;
    /// <summary>Whether each layer adds to those before it; else each is heard by itself.</summary>
    public bool layersAdd;
    public Layer[] layers = Array.Empty<Layer>();
    public Extra[] extras = Array.Empty<Extra>();
}
