"""Commands that make music of a room, and the one that measures a room."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer import Argument, Option

from silent2music.cli.common import (
    complain,
    described_music,
    print_json,
    progress_bar,
    say,
    settings_of,
    warn,
)
from silent2music.cli.options import (
    AsJson,
    Force,
    Rooms,
    beside_of,
    delivery_of,
    levels_of,
    model_of,
    options_checked,
    parse_seconds,
    reading_of,
    sampling_of,
    within,
)
from silent2music.cli.steering import blend_of, controls_of, kept_roles, parse_stretch
from silent2music.config import ComposingConfig, apply_overrides
from silent2music.errors import S2MError, require

if TYPE_CHECKING:
    from silent2music.acoustics import AcousticProfile
    from silent2music.audio import Recorded
    from silent2music.export.batch import Outcome
    from silent2music.export.models import LazyModel, Request

DEMO_OUT = Path("s2m-demo.wav")
STDOUT = Path("-")


def infer(
    context: typer.Context,
    rooms: Rooms,
    output: Annotated[
        str | None,
        Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Output file (.wav, .flac, .ogg, .mp3, .m4a) for one recording; - is WAV on standard output.",
        ),
    ] = None,
    out: Annotated[
        Path | None, Option(help="Output folder, by default the current one; trees are mirrored.")
    ] = None,
    audition: Annotated[
        Path | None, Option(metavar="FILE.html", help="A page with a player and a picture for each piece.")
    ] = None,
    stream: Annotated[
        bool, Option("--stream", help="Write 16-bit WAV to standard output as it is made.")
    ] = False,
    raw: Annotated[bool, Option("--raw", help="With --stream: samples without a header.")] = False,
    **options: Any,
) -> None:
    """Make music for a recording of a room.

    ROOM.wav gives ROOM.music.wav and its record ROOM.music.json in the current folder, and ROOM.music.mid, the score, by
    a model that composes. What a folder's manifest
    has already is not made again; `accelerate launch -m silent2music.cli infer ...` shares a folder.
    With --stream the music is played while it is made, at the level that the model chose: `s2m infer room.wav
    --stream | aplay`; the room - is live sound, `arecord -t raw -f S16_LE -r 24000 | s2m infer - --stream | aplay`.
    """
    if any(options[name] for name in ("redo", "of", "keep_melody", "keep_harmony")):
        _redo(context, rooms, output)
        return
    file, folder = _place(output, out)
    _check_infer(rooms, file, folder, stream, raw, options)
    from silent2music.export.models import Request

    with options_checked():
        beside = beside_of(options)
        request = Request(
            sampling_of(options),
            options["seconds"],
            apply_overrides({}, options["control"] or ()),
            reading_of(options),
            delivery_of(options),
            controls_of(options),
            blend_of(options),
            beside,
        )
    if (beside and file == STDOUT) or ((beside or beside.signing) and stream):
        raise typer.BadParameter("what is written beside the music needs a file for the music; give -o FILE")
    if audition is not None and (stream or file == STDOUT):
        raise typer.BadParameter("--audition plays files; give -o FILE or --out FOLDER")
    model = model_of(options)
    if stream:
        from silent2music.export.streaming import send

        send(rooms[0], sys.stdin.buffer, sys.stdout.buffer, model, request, raw, complain)
    elif file == STDOUT:
        from silent2music.export.infer import infer_to

        with progress_bar() as steps:
            warn(infer_to(sys.stdout.buffer, rooms[0], model, request, steps, options["force"]))
    else:
        _infer_files(rooms, file, folder, model, request, audition, options)


AGAIN = ("seed", "guidance", "score_guidance", "adherence", "temperature", "top_k", "top_p")
"""Settings of the draw that a stretch may have of its own."""

STANDING = (
    "out", "seconds", "count", "control", "loudness", "mono", "sample_rate", "fade_in", "fade_out", "track", "channel",
    "stream", "raw", "stems", "stems_by", "musicxml", "project", "sign", "certificate", "audition",
)  # fmt: skip
"""Options that say what the rest is like, which stands."""


def _redo(context: typer.Context, rooms: Sequence[Path], output: str | None) -> None:
    """Write finished music again in a stretch, or as far as it is not kept."""
    from silent2music.export.redo import Again
    from silent2music.export.redo import redo as write

    params = context.params
    given = {
        name for name in params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    for name in STANDING:
        if name in given:
            raise typer.BadParameter(
                f"--{name.replace('_', '-')} is of all the music, whose rest --redo leaves as it is."
            )
    if len(rooms) != 1 or rooms[0].is_dir():
        raise typer.BadParameter("--redo writes one piece again; name one recording.")
    room, piece = rooms[0], params["of"] or Path(rooms[0].stem + ".music.wav")
    out = Path(output) if output else Path(f"{piece.stem}.redo{piece.suffix}")
    begin, end = (0.0, None) if params["redo"] is None else parse_stretch(params["redo"])
    with options_checked():
        again = Again(
            begin,
            end,
            kept_roles(params["keep_melody"], params["keep_harmony"]),
            {name: params[name] for name in AGAIN if name in given},
            controls_of(params),
            blend_of(params),
        )
    model = model_of(params)
    with progress_bar() as steps:
        record = write(room, piece, out, model, again, params["force"], steps)
    if params["as_json"]:
        print_json(record)
    else:
        last = record["redone"][-1]
        say(f"{out}: {last['begin']:g} to {last['end']:g} s of {described_music(record)}, written again")


def _place(output: str | None, out: Path | None) -> tuple[Path | None, Path | None]:
    """The file and the folder that -o and --out mean: -o with a folder's slash, or one that exists, is a folder."""
    from silent2music.audio import SUFFIX_SUBTYPES

    if out is not None and out.suffix.lower() in SUFFIX_SUBTYPES and not out.is_dir():
        raise typer.BadParameter(f"--out names a folder, and {out} looks like a file; use -o {out}.")
    if output is None:
        return None, out
    if output.endswith(tuple(filter(None, (os.sep, os.altsep)))) or Path(output).is_dir():
        if out is not None:
            raise typer.BadParameter(f"-o {output} and --out {out} both name a folder; give one of them.")
        return None, Path(output)
    return Path(output), out


def _check_infer(
    rooms: Sequence[Path],
    output: Path | None,
    out: Path | None,
    stream: bool,
    raw: bool,
    options: Mapping[str, Any],
) -> None:
    """Refuse combinations of options that mean nothing, and sound to a terminal."""
    is_single = len(rooms) == 1 and not rooms[0].is_dir()
    is_plain = options["count"] == 1 and not options["as_json"]
    if output is not None and (out is not None or not is_single):
        raise typer.BadParameter("-o names one file, for one recording; use --out for a folder")
    if output == STDOUT and not is_plain:
        raise typer.BadParameter("-o - writes one file to standard output and nothing else there")
    if stream and not (is_single and output is None and out is None and is_plain):
        raise typer.BadParameter("--stream takes one recording, or - for live sound, and no output")
    if raw and not stream:
        raise typer.BadParameter("--raw belongs to --stream")
    if Path("-") in rooms and not stream:
        raise typer.BadParameter("the room - is live sound; give --stream, or the name of a recording")
    if stream or output == STDOUT:
        from silent2music.export.streaming import check_pipes

        with options_checked():
            check_pipes(rooms[0], "--stream" if stream else "-o -", sys.stdin, sys.stdout)


def _infer_files(
    rooms: Sequence[Path],
    output: Path | None,
    out: Path | None,
    model: LazyModel,
    request: Request,
    audition: Path | None,
    options: Mapping[str, Any],
) -> None:
    """Make the files of `s2m infer`, with a line for each."""
    if audition is not None:
        from silent2music.export.provenance import check_replaceable

        if audition.suffix.lower() not in (".html", ".htm"):
            raise typer.BadParameter(f"--audition names {audition}; expected a file that ends in .html")
        check_replaceable(audition, options["force"], [room for room in rooms if room.is_file()])
    from silent2music.export.batch import passed_over
    from silent2music.export.infer import infer_many, plan
    from silent2music.processes import share

    jobs = plan(rooms, options["seed"], output, out, options["count"])
    passed = passed_over(rooms)
    n_jobs = len(share(jobs))
    folder = (out or Path()) if any(room.is_dir() for room in rooms) else None
    outcomes = []
    with (
        progress_bar() as steps,
        closing(infer_many(jobs, model, request, options["force"], steps, folder)) as made,
    ):
        for number, outcome in enumerate(made, 1):
            outcomes.append(outcome)
            record = outcome.record
            if record is None:
                complain(outcome.reason)
            elif options["as_json"]:
                print_json(record, n_jobs == 1)
            else:
                place = f"{number} of {n_jobs}: " if sys.stdout.isatty() and n_jobs > 1 else ""
                there = ", there already" if outcome.status == "kept" else ""
                say(f"{place}{outcome.job.out}: {described_music(record)}{there}")
            if record is not None and outcome.status == "made":
                warn(record)
    if folder is not None and (sys.stderr.isatty() or any(o.status == "kept" for o in outcomes)):
        _count(outcomes, folder / "manifest.jsonl")
    for sentence in passed:
        complain(sentence)
    if audition is not None and any(o.record is not None for o in outcomes):
        _audition(audition, outcomes, model, options["force"])
    _end(outcomes, "music")


def _audition(path: Path, outcomes: Sequence[Outcome], model: LazyModel, force: bool) -> None:
    """Write the page of `s2m infer --audition`, and say which pieces are near to what was taught."""
    from silent2music.config import COMPOSER_FOLDER
    from silent2music.evaluation.audition import Auditioned, write_audition
    from silent2music.evaluation.originality import MELODIES_FILE, Melodies
    from silent2music.export.provenance import score_path
    from silent2music.score import read_midi

    taught = model.folder / COMPOSER_FOLDER / MELODIES_FILE
    melodies = Melodies.read(taught) if taught.is_file() else None
    made = [(o.job.out, o.record) for o in outcomes if o.record is not None]
    pieces = [
        Auditioned(out, record, read_midi(score_path(out)) if "score" in record else None)
        for out, record in made
    ]
    for piece, near in zip(pieces, write_audition(path, pieces, melodies, force), strict=True):
        if melodies is not None and near is not None and near.n_notes > melodies.limit:
            complain(
                f"{piece.path.name} shares {near.n_notes} notes in a row or more with {near.name}, which was taught."
            )
    say(f"{path}: {len(pieces)} {'piece' if len(pieces) == 1 else 'pieces'}")


def compose(
    room: Annotated[Path, Argument(metavar="ROOM", help="A recording.")],
    output: Annotated[
        Path | None,
        Option(
            "-o", "--output", help="File (.mid, .midi, .musicxml); by default ROOM.mid in the current folder."
        ),
    ] = None,
    begun: Annotated[
        Path | None, Option("--continue", help="MIDI file to go on from; its notes stand.")
    ] = None,
    **options: Any,
) -> None:
    """Compose a score for a recording of a room, as a MIDI file.

    ROOM.wav gives ROOM.mid, a track for each instrument, and its record ROOM.json; with --count 4 the files are
    ROOM.1.mid to ROOM.4.mid.
    """
    from silent2music.export.compose import compose as write

    with options_checked():
        own = {name: options[name] for name in ("temperature", "guidance", "seed")}
        composing, asked, other = ComposingConfig(**own), controls_of(options), blend_of(options)
    with progress_bar() as steps:
        records = write(
            room,
            output or Path(room.stem + ".mid"),
            model_of(options),
            composing,
            options["seconds"],
            options["count"],
            begun,
            apply_overrides({}, options["control"] or ()),
            reading_of(options),
            options["force"],
            steps,
            asked,
            other,
            options["musicxml"],
        )
    for note in records[0]["input"]["notes"]:
        complain(f"{records[0]['input']['file']} {note}.")
    for record in records:
        if options["as_json"]:
            print_json(record, options["count"] == 1)
        else:
            made = record["output"]
            parts = ", ".join(made["parts"]) or "no instrument"
            say(f"{made['file']}: {made['seconds']:.2f} s, {made['notes']} notes of {parts}")


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
    output: Annotated[Path, Option("-o", "--output", help="Output file.")] = DEMO_OUT, **options: Any
) -> None:
    """Make music for the recording that comes with the package; replaces an earlier demo."""
    from silent2music.export.infer import DEMO_ROOM, infer_many, plan

    with progress_bar() as steps:
        jobs = plan([DEMO_ROOM], options["seed"], output)
        (made,) = infer_many(jobs, model_of(options), force=True, progress=steps)
    if made.record is None:
        raise S2MError(made.reason)
    say(f"From {DEMO_ROOM}")
    say(f"{made.job.out}: {described_music(made.record)}")


def perform(
    tune: Annotated[Path, Argument(metavar="SCORE.mid", help="A MIDI file, with any instruments.")],
    output: Annotated[Path, Option("-o", "--output", help="Output file (.wav, .flac, .ogg, .mp3, .m4a).")],
    soundfont: Annotated[
        Path | None,
        Option(help="Samples to play with, SF2 or SF3, by fluidsynth; by default the model plays."),
    ] = None,
    room: Annotated[Path | None, Option(help="Recording of the room that the music stands in.")] = None,
    fit: Annotated[
        bool, Option("--fit", help="Set the score to the room first: its beats, changes and loudness.")
    ] = False,
    seconds: Annotated[
        float | None,
        Option(
            parser=parse_seconds,
            metavar="TIME",
            callback=within(0.01, 86_400),
            help="Length of the music; by default until the last note has died away.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Play a score, in a room if one is given; the record goes beside the music.

    The model plays it, or with --soundfont fluidsynth.
    """
    from silent2music.export.performing import perform as play

    with options_checked():
        beside, delivery, sampling = beside_of(options), delivery_of(options), sampling_of(options)
    reading, performer, force = reading_of(options), soundfont or model_of(options), options["force"]
    with progress_bar() as steps:
        record = play(
            tune, output, performer, room, delivery, seconds, sampling, reading, force, fit, steps, beside
        )
    if options["as_json"]:
        print_json(record)
    else:
        say(f"{output}: {described_music(record)}")
    for note in record["input"]["notes"] if record["input"] else ():
        complain(f"{record['input']['file']} {note}.")


def ambience(
    rooms: Rooms,
    out: Annotated[Path, Option(help="Output folder; trees are mirrored.")],
    preset: Annotated[
        Path | None, Option(help="A recipe that ships, such as vr, a folder or a TOML file.")
    ] = None,
    loop: Annotated[str | None, Option(help="Exact length, as 12s or as 8bars.")] = None,
    layers: Annotated[
        str | None, Option(metavar="calm,medium,intense", help="Intensity layers to make.")
    ] = None,
    variations: Annotated[int | None, Option(help="Pieces on the same grid.")] = None,
    extras: Annotated[
        str | None, Option(metavar="stingers,intro,ending", help="What a game plays beside a loop.")
    ] = None,
    transitions: Annotated[
        str | None, Option(metavar="FROM:TO,...|all", help="From one room's loop to another's.")
    ] = None,
    spatial: Annotated[str | None, Option(metavar="stereo|ambix|mono")] = None,
    order: Annotated[int | None, Option(metavar="1|2|3", help="Of AmbiX.")] = None,
    room_format: Annotated[
        str | None, Option(metavar="speakers|ambix", help="What the channels are.")
    ] = None,
    formats: Annotated[str | None, Option(metavar="wav,flac,ogg")] = None,
    sample_rate: Annotated[int | None, Option("--sample-rate", "--rate", metavar="44100|48000")] = None,
    true_peak: Annotated[float | None, Option(help="Limit in dBTP.")] = None,
    contact_sheet: Annotated[Path | None, Option(help="Draw all rooms to this PNG.")] = None,
    engines: Annotated[
        str | None, Option(metavar="unity,godot,unreal,wwise,fmod", help="Write their import files too.")
    ] = None,
    **options: Any,
) -> None:
    """Make seamless loops and layers for a game engine; a run that was stopped continues with the same command.

    `accelerate launch -m silent2music.cli ambience ...` takes the same and shares the rooms among its processes.
    """
    from silent2music.export.ambience.job import ambience as make_loops
    from silent2music.export.ambience.lap import parse_loop
    from silent2music.export.batch import passed_over

    asked = controls_of({"controls": options["controls"], "cue": None, "melody": None})
    wanted: dict[str, Any] = {
        "layers": layers and tuple(layers.split(",")),
        "formats": formats and tuple(formats.split(",")),
        "extras": extras and tuple(extras.split(",")),
        "variations": variations,
        "tempo": options["tempo"] or (asked.tempo if asked else None),
        "beats_per_bar": asked.beats_per_bar if asked and asked.metre else None,
        "spatial": spatial,
        "order": order,
        "room_format": room_format,
        "sample_rate": sample_rate,
    }
    with options_checked():
        wanted |= {} if options["loudness"] is None else levels_of(options["loudness"])
        wanted |= {} if true_peak is None else {"true_peak": true_peak}
        wanted |= parse_loop(loop) if loop else {}
    given = {name: value for name, value in wanted.items() if value is not None}
    preset_config = settings_of(preset, options["overrides"]).ambience
    with options_checked():
        config = dataclasses.replace(preset_config, **given)
    passed = passed_over(rooms)
    with progress_bar() as steps:
        outcomes = make_loops(
            rooms,
            out,
            config,
            model_of(options),
            options["seed"],
            options["force"],
            contact_sheet,
            steps,
            complain,
            reading_of(options),
            asked,
            transitions.split(",") if transitions else (),
            engines.split(",") if engines else (),
        )
    for outcome in outcomes:
        if outcome.record is not None and options["as_json"]:
            print_json(outcome.record, len(outcomes) == 1)
        elif outcome.record is not None:
            n_files, seconds = len(outcome.record["files"]), outcome.record["grid"]["seconds"]
            there = ", there already" if outcome.status == "kept" else ""
            say(f"{outcome.job.out}: {n_files} loops of {seconds:.2f} s{there}")
    for sentence in passed:
        complain(sentence)
    _end(outcomes, "loops")


def check_ambience(
    folder: Annotated[Path, Argument(help="A folder that s2m ambience wrote.")], as_json: AsJson = False
) -> None:
    """Measure loops by ffmpeg, librosa and separate file parsers: seams, loop points, tags, loudness, density."""
    from silent2music.export.ambience import check

    checks, densities, extras = check.check_ambience(folder)
    if as_json:
        print_json([*checks, *extras])
    else:
        print(check.described(checks, densities, extras))
    if any(c["faults"] for c in [*checks, *extras]):
        raise typer.Exit(1)


def analyze(
    rooms: Rooms,
    as_json: AsJson = False,
    plot: Annotated[Path | None, Option(help="Draw the profile to this PNG.")] = None,
    music: Annotated[
        Path | None, Option(help="Draw this music, sound or MIDI, under the room, with --plot.")
    ] = None,
    force: Force = False,
    **options: Any,
) -> None:
    """Measure what is audible in recordings of rooms."""
    from silent2music.export.batch import outcomes as go_through
    from silent2music.export.profiles import plan, profiled
    from silent2music.export.provenance import check_replaceable

    if music is not None and plot is None:
        raise typer.BadParameter("--music says what to draw; give --plot with the picture's name")
    if plot is not None and (len(rooms) > 1 or rooms[0].is_dir()):
        raise typer.BadParameter("--plot draws one recording; name one")

    def draw(recording: Recorded, profile: AcousticProfile) -> None:
        from silent2music.audio import read
        from silent2music.files import atomic_path
        from silent2music.plotting import plot_pair, plot_profile, plot_score
        from silent2music.score import MIDI_SUFFIXES, read_midi

        with atomic_path(cast(Path, plot), force) as path:
            if music is None:
                plot_profile(recording.whole(), profile, path)
            elif music.suffix.lower() in MIDI_SUFFIXES:
                plot_score(read_midi(music), path, profile)
            else:
                plot_pair(recording.whole(), read(music), {}, path)

    if plot is not None:
        require("matplotlib", "plot")
        check_replaceable(plot, force, [*rooms, *([music] if music else [])])
    jobs = plan(rooms)
    outcomes = []
    for outcome in go_through(jobs, profiled(reading_of(options), draw if plot is not None else None)):
        outcomes.append(outcome)
        if outcome.record is None:
            complain(outcome.reason)
            continue
        profile, notes = outcome.record["profile"], outcome.record["notes"]
        for note in notes:
            complain(f"{outcome.job.name} {note}.")
        if as_json:
            print_json({"file": outcome.job.label, **profile.to_dict()}, len(jobs) == 1)
        else:
            if len(jobs) > 1:
                say(f"{outcome.job.name}:")
            print(_described(profile))
    _end(outcomes, "profile")


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
