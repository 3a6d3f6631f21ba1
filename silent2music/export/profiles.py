"""`s2m analyze`: recordings in, their profiles out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.acoustics.unsuited import room_warnings
from silent2music.audio import Recorded, open_recording
from silent2music.export.batch import Job, Outcome, plan_jobs


def plan(rooms: Sequence[Path]) -> list[Job]:
    """A job for each recording that is named or lies in a folder; nothing is written for it."""
    return plan_jobs(rooms, 0, Path(), lambda room: room)


def profiled(
    reading: Mapping[str, Any], draw: Callable[[Recorded, AcousticProfile], None] | None = None
) -> Callable[[Job], Outcome]:
    """A function for `batch.outcomes` that measures a recording.

    Args:
        draw: called with each recording and its profile.

    Returns:
        A function whose outcomes' records hold `profile`, an `AcousticProfile`, and `notes` on the recording.
    """

    def measure(job: Job) -> Outcome:
        recording = open_recording(job.room, **reading)
        profile = analyze(recording)
        if draw is not None:
            draw(recording, profile)
        notes = [*recording.notes, *room_warnings(recording, profile)]
        return Outcome(job, "made", {"profile": profile, "notes": notes})

    return measure
