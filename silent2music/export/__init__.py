"""Writes music: files with their provenance records, streams, and loops for games."""
