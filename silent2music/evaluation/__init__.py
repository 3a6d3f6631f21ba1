"""Whether the music follows the room and how it sounds: metrics, features, pair statistics, benchmark."""
