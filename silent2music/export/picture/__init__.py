"""Music for a clip: `job` scores it, `clip` and `cuts` look at it, `markers` and `timecode` read an editor's moments,
`sound` mixes and writes them."""
