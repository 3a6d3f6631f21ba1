"""Evaluation of how far music follows its room and how it sounds: features, metrics, statistics, benchmark."""
