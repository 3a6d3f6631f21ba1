"""`s2m analyze`: recordings in, their profiles out, and a picture of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from silent2music.acoustics import analyze
from silent2music.acoustics.unsuited import room_warnings
from silent2music.audio import open_recording, read
from silent2music.export import provenance
from silent2music.export.batch import Job, Outcome, plan_jobs
from silent2music.files import atomic_path


def plan(rooms: Sequence[Path]) -> list[Job]:
    """A job for each recording that is named or lies in a folder; nothing is written for it."""
    return plan_jobs(rooms, 0, Path(), lambda room: room)


def profiled(
    reading: Mapping[str, Any], plot: Path | None = None, music: Path | None = None, force: bool = False
) -> Callable[[Job], Outcome]:
    """A function for `batch.outcomes` that measures a recording.

    Args:
        reading: options of `audio.open_recording`.
        plot: a picture to draw.
        music: to be drawn under the room.
        force: replace a picture that was drawn before.

    Returns:
        A function whose outcomes' records hold `profile`, an `AcousticProfile`, and `notes` on the recording.
    """

    def measure(job: Job) -> Outcome:
        if plot is not None:
            provenance.check_replaceable(plot, force, [job.room, *([music] if music else [])])
        recording = open_recording(job.room, **reading)
        profile = analyze(recording)
        if plot is not None:
            from silent2music.plotting import plot_pair, plot_profile

            waveform = recording.whole()
            with atomic_path(plot, force) as path:
                if music is None:
                    plot_profile(waveform, profile, path)
                else:
                    plot_pair(waveform, read(music), {}, path)
        notes = [*recording.notes, *room_warnings(recording, profile)]
        return Outcome(job, "made", {"profile": profile, "notes": notes})

    return measure
