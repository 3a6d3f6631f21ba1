"""Commands that make music of a room, and the one that measures a room."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silent2music.cli.common import (
    SAMPLING,
    AsJson,
    Channel,
    Control,
    Device,
    Download,
    Force,
    Guidance,
    JsonFile,
    Model,
    Rooms,
    Seconds,
    Seed,
    Set,
    Strict,
    Temperature,
    TopK,
    TopP,
    Track,
    complain,
    progress_bar,
    reading_of,
    settings_of,
    write_json,
)
from silent2music.config import SamplingConfig, apply_overrides
from silent2music.errors import S2MError

if TYPE_CHECKING:
    from silent2music.acoustics import AcousticProfile
    from silent2music.export.batch import Outcome

DEMO_OUT = Path("s2m-demo.wav")


def infer(
    rooms: Rooms,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Output file (.wav, .flac or .ogg), for one recording."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Output folder, by default the current one; trees are mirrored."),
    ] = None,
    seconds: Seconds = None,
    seed: Seed = SAMPLING.seed,
    guidance: Guidance = None,
    temperature: Temperature = SAMPLING.temperature,
    top_k: TopK = SAMPLING.top_k,
    top_p: TopP = SAMPLING.top_p,
    control: Control = None,
    strict: Strict = False,
    track: Track = 1,
    channel: Channel = None,
    model: Model = None,
    device: Device = None,
    download: Download = False,
    as_json: AsJson = False,
    force: Force = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Write 16-bit WAV to standard output as it is made.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="With --stream: samples without a header.")] = False,
) -> None:
    """Make music for a recording of a room.

    ROOM.wav gives ROOM.music.wav and its record ROOM.music.json in the current folder. What a folder's manifest
    has already is not made again; `accelerate launch -m silent2music.cli infer ...` shares a folder.
    With --stream the music is played while it is made, at the level that the model chose: `s2m infer room.wav
    --stream | aplay`; the room - is live sound, `arecord -t raw -f S16_LE -r 24000 | s2m infer - --stream | aplay`.
    """
    is_folder = any(room.is_dir() for room in rooms)
    if output is not None and (out is not None or len(rooms) > 1 or is_folder):
        raise typer.BadParameter("-o names one file, for one recording; use --out for a folder.")
    if stream and (len(rooms) > 1 or is_folder or output is not None or out is not None):
        raise typer.BadParameter("--stream takes one recording, or - for live sound, and no output.")
    from silent2music.export.batch import share
    from silent2music.export.infer import infer_many, plan
    from silent2music.export.models import LazyModel, Request

    sampling = SamplingConfig(temperature, top_k, top_p, guidance, seed)
    request = Request(
        sampling, seconds, apply_overrides({}, control or ()), reading_of(strict, track, channel)
    )
    if stream:
        from silent2music.export.streaming import send

        lazy = LazyModel(model, device, download)
        send(rooms[0], sys.stdin.buffer, sys.stdout.buffer, lazy, request, raw, complain)
        return
    jobs = plan(rooms, seed, output, out)
    is_alone = len(share(jobs)) == 1
    folder = (out or Path()) if is_folder else None
    outcomes = []
    with progress_bar() as steps:
        for outcome in infer_many(jobs, LazyModel(model, device, download), request, force, steps, folder):
            outcomes.append(outcome)
            if outcome.status == "failed":
                complain(outcome.reason)
            elif outcome.record is not None and outcome.status == "made":
                _report(outcome.record, as_json, is_alone)
    if folder is not None and (sys.stderr.isatty() or any(o.status == "kept" for o in outcomes)):
        _count(outcomes, folder / "manifest.jsonl")
    _end(outcomes, "music")


def _report(record: Mapping[str, Any], as_json: bool, alone: bool) -> None:
    """Say what was written: as JSON, as a line for a person, or not at all."""
    output = record["output"]
    if as_json:
        print(json.dumps(record, indent=2 if alone else None), flush=True)
    elif sys.stdout.isatty():
        _print_line(record)
    for note in record["input"]["notes"]:
        complain(f"{record['input']['file']} {note}.")
    if output["nearly_nothing"]:
        complain(f"{output['file']} is nearly nothing, as this room is; its level was left as it is.")


def _print_line(record: Mapping[str, Any]) -> None:
    output = record["output"]
    level = "below -70 LUFS" if output["lufs"] is None else f"{output['lufs']:.1f} LUFS"
    print(f"{output['file']}: {output['seconds']:.2f} s, {level}, seed {record['settings']['seed']}")


def _count(outcomes: Sequence[Outcome], manifest: Path) -> None:
    """Print how many pieces of a folder were made, were there already, or failed."""
    for status, name in (("made", "made"), ("kept", "there already")):
        records = [o.record for o in outcomes if o.record is not None and o.status == status]
        minutes = sum(record["output"]["seconds"] for record in records) / 60
        complain(f"{name:<14}{len(records):>6} files {minutes:>9.1f} min")
    n_failed = sum(outcome.status == "failed" for outcome in outcomes)
    complain(f"{'failed':<14}{n_failed:>6} files; all are listed in {manifest}")


def _end(outcomes: Sequence[Outcome], what: str) -> None:
    """Exit with 1 if a recording failed, named if it was one of several."""
    failed = [outcome.job.name for outcome in outcomes if outcome.status == "failed"]
    if failed and len(outcomes) > 1:
        complain(f"{len(failed)} of {len(outcomes)} recordings gave no {what}: {', '.join(failed)}.")
    if failed:
        raise typer.Exit(1)


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file.")] = DEMO_OUT,
    seed: Seed = SAMPLING.seed,
    model: Model = None,
    device: Device = None,
    download: Download = False,
) -> None:
    """Make music for the recording that comes with the package; replaces an earlier demo."""
    from silent2music.export.infer import DEMO_ROOM, infer_many, plan
    from silent2music.export.models import LazyModel

    with progress_bar() as steps:
        jobs = plan([DEMO_ROOM], seed, output)
        (made,) = infer_many(jobs, LazyModel(model, device, download), force=True, progress=steps)
    if made.record is None:
        raise S2MError(made.reason)
    print(f"From {DEMO_ROOM}")
    _print_line(made.record)


def ambience(
    rooms: Rooms,
    out: Annotated[Path, typer.Option("--out", help="Output folder; trees are mirrored.")],
    preset: Annotated[
        Path | None,
        typer.Option("--preset", help="A recipe that ships, such as vr, a folder or a TOML file."),
    ] = None,
    loop: Annotated[str | None, typer.Option("--loop", help="Exact length, as 12s or as 8bars.")] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", metavar="calm,medium,intense", help="Intensity layers to make.")
    ] = None,
    variations: Annotated[int | None, typer.Option("--variations", help="Pieces on the same grid.")] = None,
    spatial: Annotated[str | None, typer.Option("--spatial", metavar="stereo|ambix|mono")] = None,
    room_format: Annotated[
        str | None, typer.Option("--room-format", metavar="speakers|ambix", help="What the channels are.")
    ] = None,
    formats: Annotated[str | None, typer.Option("--formats", metavar="wav,flac,ogg")] = None,
    sample_rate: Annotated[int | None, typer.Option("--rate", metavar="44100|48000")] = None,
    lufs: Annotated[float | None, typer.Option("--lufs", help="Integrated loudness of every file.")] = None,
    true_peak: Annotated[float | None, typer.Option("--true-peak", help="Limit in dBTP.")] = None,
    seed: Seed = SAMPLING.seed,
    model: Model = None,
    device: Device = None,
    download: Download = False,
    contact_sheet: Annotated[
        Path | None, typer.Option("--contact-sheet", help="Draw all rooms to this PNG.")
    ] = None,
    force: Force = False,
    strict: Strict = False,
    track: Track = 1,
    channel: Channel = None,
    overrides: Set = None,
) -> None:
    """Make seamless loops and layers for a game engine; a run that was stopped continues with the same command.

    `accelerate launch -m silent2music.cli ambience ...` takes the same and shares the rooms among its processes.
    """
    from silent2music.export.ambience.job import ambience as make_loops
    from silent2music.export.ambience.lap import parse_loop
    from silent2music.export.models import LazyModel

    options: dict[str, Any] = {
        "layers": layers and tuple(layers.split(",")),
        "formats": formats and tuple(formats.split(",")),
        "variations": variations,
        "spatial": spatial,
        "room_format": room_format,
        "sample_rate": sample_rate,
        "lufs": lufs,
        "true_peak": true_peak,
        **(parse_loop(loop) if loop else {}),
    }
    given = {name: value for name, value in options.items() if value is not None}
    config = dataclasses.replace(settings_of(preset, overrides).ambience, **given)
    with progress_bar() as steps:
        outcomes = make_loops(
            rooms,
            out,
            config,
            LazyModel(model, device, download),
            seed,
            force,
            contact_sheet,
            steps,
            complain,
            reading_of(strict, track, channel),
        )
    if sys.stdout.isatty():
        n_made, n_kept = (sum(o.status == status for o in outcomes) for status in ("made", "kept"))
        print(f"{out}: {n_made} rooms made, {n_kept} were complete")
    _end(outcomes, "loops")


def check_ambience(
    folder: Annotated[Path, typer.Argument(help="A folder that s2m ambience wrote.")],
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Measure loops by ffmpeg, librosa and separate file parsers: seams, loop points, tags, loudness, density."""
    from silent2music.export.ambience import check

    checks, densities = check.check_ambience(folder)
    print(check.described(checks, densities))
    write_json(json_file, checks, force)
    if any(c["faults"] for c in checks):
        raise typer.Exit(1)


def analyze(
    room: Annotated[Path, typer.Argument(help="A recording.")],
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the profile to this PNG.")] = None,
    music: Annotated[
        Path | None, typer.Option("--music", help="Draw this music under the room, with --plot.")
    ] = None,
    strict: Strict = False,
    track: Track = 1,
    channel: Channel = None,
    force: Force = False,
) -> None:
    """Measure what is audible in a recording of a room."""
    from silent2music.acoustics import analyze as measure
    from silent2music.acoustics.unsuited import room_warnings
    from silent2music.audio import open_recording, read

    if music is not None and plot is None:
        raise typer.BadParameter("--music says what to draw; give --plot with the picture's name.")

    recording = open_recording(room, **reading_of(strict, track, channel))
    profile = measure(recording)
    for note in (*recording.notes, *room_warnings(recording, profile)):
        complain(f"{room} {note}.")
    write_json(json_file, profile.to_dict(), force)
    if plot is not None:
        from silent2music.files import atomic_path
        from silent2music.plotting import plot_profile

        waveform = recording.whole()
        with atomic_path(plot, force) as path:
            if music is None:
                plot_profile(waveform, profile, path)
            else:
                from silent2music.plotting import plot_pair

                plot_pair(waveform, read(music), {}, path)
    print(_described(profile))


def _described(p: AcousticProfile) -> str:
    """A profile as lines of name and value."""
    pulse, decay = "none", "none found"
    if p.tempo_bpm is not None:
        pulse = f"{p.tempo_bpm:.1f} bpm, first beat at {p.pulse_phase_seconds:.2f} s"
    if p.rt60_seconds is not None:
        decay = f"{p.rt60_seconds:.2f} s"
    centroid, tilt = p.spectral_centroid_hz, p.spectral_tilt_db_per_octave
    lines = {
        "duration": f"{p.seconds:.2f} s, {p.n_channels} channels at {p.sample_rate} Hz",
        "level": f"{p.level_dbfs:.1f} dBFS RMS, peak {p.peak_dbfs:.1f} dBFS",
        "noise floor": f"{p.noise_floor_dbfs:.1f} dBFS",
        "colour": f"centroid {centroid:.0f} Hz, tilt {tilt:.1f} dB per octave",
        "RT60": f"{decay} (confidence {p.rt60_confidence:.2f})",
        "pulse": f"{pulse} (confidence {p.pulse_confidence:.2f}, {len(p.pulse_seconds)} beats)",
        "events": f"{len(p.events)}" + _times([e.seconds for e in p.events]),
        "boundaries": f"{len(p.boundaries)}" + _times([b.seconds for b in p.boundaries]),
    }
    return "\n".join(f"{name:<12}{value}" for name, value in lines.items())


def _times(seconds: Sequence[float], most: int = 10) -> str:
    """The first times of a list, in seconds."""
    shown = ", ".join(f"{t:.2f}" for t in seconds[:most])
    return f" at {shown}{', ...' if len(seconds) > most else ''} s" if seconds else ""
