"""The command line `s2m`: parse, call one library function, print.

Nothing heavy is imported before a command runs, so that `s2m --help` answers at once. typer stands here and
nowhere else; its help is plain text, since importing rich for it would take longer than all the rest.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from silent2music import __version__
from silent2music.config import RecipeConfig, SamplingConfig, apply_overrides, from_dict, load_recipe
from silent2music.errors import S2MError

app = typer.Typer(
    name="s2m",
    help="Instrumental music that belongs to a room, from a near-silent recording of it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
codec_app = typer.Typer(help="Fit, train and try the codec.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(
    help="Build, check and prepare pairs of a room and its music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(codec_app, name="codec")
app.add_typer(data_app, name="data")

Steps = Callable[[str, int, int], None]

SAMPLING = SamplingConfig()
DEMO_OUT = Path("s2m-demo.wav")

Seconds = Annotated[
    float | None, typer.Option("--seconds", help="Length of the music; the room's own by default.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides every random choice.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", help="How strongly the room is followed (1 is off); the model's own by default."
    ),
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="Boldness of the draw; 0 is the likeliest.")
]
TopK = Annotated[int, typer.Option("--top-k", help="Draw among the K likeliest tokens; 0 is all.")]
TopP = Annotated[
    float, typer.Option("--top-p", help="Draw among the likeliest tokens of this total probability.")
]
Model = Annotated[Path | None, typer.Option("--model", help="Model folder; the shipped one by default.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="cpu|cuda|mps", help="By default CUDA if there is one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes.")]


def _version(value: bool) -> None:
    if value:
        print(f"silent2music {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@contextmanager
def _progress() -> Iterator[Steps | None]:
    """A progress bar on standard error with rate and time left; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def step(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)
            if done >= total:
                bar.remove_task(tasks.pop(name))

        yield step


def _named(steps: Steps | None, name: str) -> Callable[[int, int], None] | None:
    """Progress of one named thing, as most functions report it."""
    return None if steps is None else lambda done, total: steps(name, done, total)


def _fractions(steps: Steps | None) -> Callable[[str, float], None] | None:
    """Progress of what reports the fraction of a stage."""
    return None if steps is None else lambda stage, fraction: steps(stage, round(100 * fraction), 100)


def _recipe(path: Path | None, overrides: Sequence[str] | None) -> RecipeConfig:
    """The settings of a recipe, or the defaults, with overrides."""
    if path is not None:
        return load_recipe(path, overrides or ())
    return from_dict(RecipeConfig, apply_overrides({}, overrides or ()))


def _complain(sentence: str) -> None:
    print(sentence, file=sys.stderr)


# ---- the main job ----


@app.command()
def infer(
    rooms: Annotated[list[Path], typer.Argument(metavar="ROOM...", help="Recordings, or folders of them.")],
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
    model: Model = None,
    device: Device = None,
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
    if output is not None and (out is not None or len(rooms) > 1 or rooms[0].is_dir()):
        raise typer.BadParameter("-o names one file, for one recording; use --out for a folder.")
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if stream:
        if len(rooms) > 1 or rooms[0].is_dir() or output is not None or out is not None:
            raise typer.BadParameter("--stream takes one recording, or - for live sound, and no output.")
        from silent2music.export.streaming import send

        source, sink = sys.stdin.buffer, sys.stdout.buffer
        send(rooms[0], source, sink, sampling, guidance, seconds, model, device, raw)
        return
    from silent2music.export.batch import this_worker
    from silent2music.export.infer import Failure, Skipped, infer_many, plan

    jobs, failures = plan(rooms, seed, output, out)
    worker = this_worker()
    failures = failures if worker.index == 0 else []
    for failure in failures:
        _complain(failure.reason)
    n_asked = len(worker.share(jobs)) + len(failures)
    folder = (out or Path()) if any(room.is_dir() for room in rooms) else None
    made: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    with _progress() as steps:
        for result in infer_many(jobs, sampling, guidance, seconds, model, device, force, steps, folder):
            if isinstance(result, Failure):
                failures.append(result)
                _complain(result.reason)
            elif isinstance(result, Skipped):
                skipped.append(result)
            else:
                made.append(result)
                _report(result, as_json, n_asked == 1, sys.stdout.isatty())
    if folder is not None and (skipped or sys.stderr.isatty()):
        for name, records in (("made", made), ("there already", [dict(one.record) for one in skipped])):
            length = sum(record["output"]["seconds"] for record in records)
            _complain(f"{name:<14}{len(records):>6} files {length / 60:>9.1f} min")
        _complain(f"{'failed':<14}{len(failures):>6} files; all are listed in {folder / 'manifest.jsonl'}")
    if failures:
        if n_asked > 1:
            names = ", ".join(failure.name for failure in failures)
            _complain(f"{len(failures)} of {n_asked} recordings gave no music: {names}.")
        raise typer.Exit(1)


def _report(record: dict[str, Any], as_json: bool, alone: bool, talk: bool) -> None:
    """Say what was written: as JSON, as a line for a person, or not at all."""
    output = record["output"]
    if as_json:
        print(json.dumps(record, indent=2 if alone else None, ensure_ascii=False), flush=True)
    elif talk:
        level = "below -70 LUFS" if output["lufs"] is None else f"{output['lufs']:.1f} LUFS"
        print(f"{output['file']}: {output['seconds']:.2f} s, {level}, seed {record['settings']['seed']}")
    if output["nearly_nothing"]:
        _complain(f"{output['file']} is nearly nothing, as this room is; its level was left as it is.")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file.")] = DEMO_OUT,
    seed: Seed = SAMPLING.seed,
    model: Model = None,
    device: Device = None,
) -> None:
    """Make music for the recording that comes with the package; replaces an earlier demo."""
    from silent2music.export.infer import DEMO_ROOM, Failure, infer_many, plan

    jobs, _ = plan([DEMO_ROOM], seed, output)
    with _progress() as steps:
        (result,) = infer_many(jobs, SAMPLING, model_folder=model, device=device, force=True, progress=steps)
    if isinstance(result, Failure):
        raise S2MError(result.reason)
    assert isinstance(result, dict)
    print(f"From {DEMO_ROOM}")
    _report(result, as_json=False, alone=True, talk=True)


@app.command()
def ambience(
    rooms: Annotated[list[Path], typer.Argument(metavar="ROOM...", help="Recordings, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", help="Output folder; trees are mirrored.")],
    preset: Annotated[
        Path | None, typer.Option("--preset", help="Preset folder or TOML file, such as recipes/vr.")
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
    contact_sheet: Annotated[
        Path | None, typer.Option("--contact-sheet", help="Draw all rooms to this PNG.")
    ] = None,
    force: Force = False,
    overrides: Set = None,
) -> None:
    """Make seamless loops and layers for a game engine; run again after a kill, it goes on where it was.

    `accelerate launch -m silent2music.cli ambience ...` takes the same and shares the rooms among its processes.
    """
    from silent2music.export import ambience as job
    from silent2music.export.grid import parse_loop

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
    config = dataclasses.replace(_recipe(preset, overrides).ambience, **given)
    with _progress() as steps:
        report = job.ambience(rooms, out, config, seed, model, device, force, contact_sheet, steps, _complain)
    if sys.stdout.isatty():
        print(f"{out}: {len(report.made)} rooms made, {len(report.kept)} were complete")
    if report.failures:
        n_asked = len(report.made) + len(report.kept) + len(report.failures)
        if n_asked > 1:
            names = ", ".join(failure.name for failure in report.failures)
            _complain(f"{len(report.failures)} of {n_asked} recordings gave no loops: {names}.")
        raise typer.Exit(1)


@app.command("check-ambience")
def check_ambience(
    folder: Annotated[Path, typer.Argument(help="A folder that s2m ambience wrote.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    force: Force = False,
) -> None:
    """Measure loops with ffmpeg, librosa and readers of their own: seams, loop points, tags, loudness, density."""
    from silent2music.audio import atomic_path
    from silent2music.export import check

    checks = check.check_ambience(folder)
    print(check.described(folder, checks))
    if json_file is not None:
        with atomic_path(json_file, force) as temporary:
            text = json.dumps([dataclasses.asdict(c) for c in checks], indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
    if any(c.faults for c in checks):
        raise typer.Exit(1)


@app.command()
def analyze(
    room: Annotated[Path, typer.Argument(help="A recording.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the profile to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the profile to this PNG.")] = None,
    music: Annotated[
        Path | None, typer.Option("--music", help="Draw this music under the room, with --plot.")
    ] = None,
    force: Force = False,
) -> None:
    """Measure what is audible in a recording of a room."""
    from silent2music.acoustics import analyze as measure
    from silent2music.audio import atomic_path, read

    if music is not None and plot is None:
        raise typer.BadParameter("--music says what to draw; give --plot with the picture's name.")

    waveform = read(room)
    profile = measure(waveform)
    if json_file is not None:
        with atomic_path(json_file, force) as path:
            path.write_text(json.dumps(profile.to_dict(), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        from silent2music.plotting import plot_profile

        with atomic_path(plot, force) as path:
            if music is None:
                plot_profile(waveform, profile, path)
            else:
                from silent2music.evaluation.pair_stats import plot_pair

                plot_pair(waveform, read(music), {}, path)
    print(_described(profile.to_dict()))


def _described(profile: dict[str, Any]) -> str:
    """A profile as lines of name and value."""
    events, beats, boundaries = profile["events"], profile["pulse_seconds"], profile["boundaries"]
    rt60, tempo = profile["rt60_seconds"], profile["tempo_bpm"]
    pulse = (
        "none" if tempo is None else f"{tempo:.1f} bpm, first beat at {profile['pulse_phase_seconds']:.2f} s"
    )
    decay = "none found" if rt60 is None else f"{rt60:.2f} s"
    lines = {
        "duration": f"{profile['seconds']:.2f} s, {profile['n_channels']} channels at {profile['sample_rate']} Hz",
        "level": f"{profile['level_dbfs']:.1f} dBFS RMS, peak {profile['peak_dbfs']:.1f} dBFS",
        "noise floor": f"{profile['noise_floor_dbfs']:.1f} dBFS",
        "colour": f"centroid {profile['spectral_centroid_hz']:.0f} Hz, "
        f"tilt {profile['spectral_tilt_db_per_octave']:.1f} dB per octave",
        "RT60": f"{decay} (confidence {profile['rt60_confidence']:.2f})",
        "pulse": f"{pulse} (confidence {profile['pulse_confidence']:.2f}, {len(beats)} beats)",
        "events": f"{len(events)}" + _times([e["seconds"] for e in events]),
        "boundaries": f"{len(boundaries)}" + _times([b["seconds"] for b in boundaries]),
    }
    return "\n".join(f"{name:<12}{value}" for name, value in lines.items())


def _times(seconds: Sequence[float], most: int = 10) -> str:
    """The first times of a list, in seconds."""
    shown = ", ".join(f"{t:.2f}" for t in seconds[:most])
    return f" at {shown}{', ...' if len(seconds) > most else ''} s" if seconds else ""


# ---- training ----


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder or TOML file.")],
    shards: Annotated[Path, typer.Option("--shards", help="Folder written by `s2m data prepare`.")],
    codec: Annotated[Path, typer.Option("--codec", help="Codec folder that the shards were prepared with.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; the model goes to OUT/model.")],
    start: Annotated[
        Path | None, typer.Option("--start", help="Model folder to fine-tune, of the recipe's sizes.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in OUT.")] = False,
    overrides: Set = None,
) -> None:
    """Train the model; `accelerate launch -m silent2music.cli train ...` takes the same."""
    from silent2music.training.loop import train as run

    print(run(_recipe(recipe, overrides), shards, codec, out, resume, start))


@app.command("run")
def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder or TOML file.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of all that is made; the model goes to OUT/model.")
    ],
    stages: Annotated[
        str, typer.Option("--stages", help="Some of pairs,codec,tokens,model,eval; all by default.")
    ] = "",
    overrides: Set = None,
) -> None:
    """Carry out a recipe from its data folders to a model with its report; run again, it goes on where it was."""
    from silent2music.pipeline import run_recipe as carry_out

    with _progress() as steps:
        made = carry_out(_recipe(recipe, overrides), out, [s for s in stages.split(",") if s], steps)
    print(made)


@app.command()
def validate(
    shards: Annotated[Path, typer.Option("--shards", help="Prepared pairs with a validation split.")],
    model: Model = None,
    n_pairs: Annotated[int, typer.Option("--n", min=2, help="How many pairs to measure at most.")] = 256,
    seed: Seed = SAMPLING.seed,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Loss of held-out music under its true room, another room and none, with intervals."""
    from silent2music.audio import atomic_path
    from silent2music.evaluation.likelihood import room_contrast
    from silent2music.export.infer import default_model
    from silent2music.model import Silent2Music

    with _progress() as steps:
        loaded = Silent2Music.from_pretrained(model or default_model())
        found = room_contrast(loaded, shards, n_pairs, seed=seed, progress=_named(steps, "pairs"))
    print(found)
    if json_file is not None:
        with atomic_path(json_file, force=True) as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")


@app.command()
def bench(
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")],
    room: Annotated[Path | None, typer.Option("--room", help="A recording; the demo's by default.")] = None,
    model: Model = None,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often; medians count.")] = 5,
    minutes: Annotated[
        list[float] | None,
        typer.Option("--minutes", help="A length of music to follow time and memory to; may be repeated."),
    ] = None,
) -> None:
    """Measure speed, start-up and memory beside MusicGen of the same size and beside the machine's limit."""
    from silent2music.audio import read
    from silent2music.evaluation.speed import BenchConfig
    from silent2music.evaluation.speed import bench as measure
    from silent2music.evaluation.speed_report import write_speed_report
    from silent2music.export.infer import DEMO_ROOM, default_model

    lengths = (10.0, *(60.0 * m for m in minutes or (1.0,)))
    with _progress() as steps:
        report = measure(
            model or default_model(), read(room or DEMO_ROOM), BenchConfig(n_rounds, lengths), steps
        )
    print(write_speed_report(report, out))


@app.command("eval")
def evaluate(
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")],
    pairs: Annotated[Path | None, typer.Option("--pairs", help="Pair folder with held-out pairs.")] = None,
    outputs: Annotated[
        Path | None, typer.Option("--outputs", help="Judge these files, made by any program, and no model.")
    ] = None,
    rooms: Annotated[
        Path | None,
        typer.Option("--rooms", help="Play to these recordings, but not to those that --pairs trained on."),
    ] = None,
    model: Model = None,
    n_pairs: Annotated[
        int, typer.Option("--n", min=2, help="How many pairs or recordings to evaluate at most.")
    ] = 128,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Used of each.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only whether the music follows and how it sounds.")
    ] = False,
    embedding: Annotated[
        Path | None,
        typer.Option("--embedding", help="Audio model of transformers (CLAP, say) for distances by it."),
    ] = None,
    seed: Seed = SAMPLING.seed,
    guidance: Guidance = None,
    temperature: Temperature = SAMPLING.temperature,
    top_k: TopK = SAMPLING.top_k,
    top_p: TopP = SAMPLING.top_p,
    workers: Workers = 2,
) -> None:
    """Measure whether the music follows the room, how it sounds, and whether it is the model's own.

    To compare settings of the draw in minutes: --quick --n 32 --seconds 12 --temperature 0.9.
    """
    if (pairs or outputs or rooms) is None or (outputs and rooms):
        raise typer.BadParameter("give --pairs or --rooms for a model, or --outputs for files.")
    import logging

    from silent2music.evaluation import benchmark
    from silent2music.export.infer import default_model

    config = benchmark.EvalConfig(n=n_pairs, seed=seed, seconds=seconds, quick=quick, workers=workers)
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with _progress() as steps:
        if steps is None:
            # Where no bar shows how it goes, the time of each stage does.
            logging.getLogger("silent2music.evaluation").setLevel(logging.INFO)
        if outputs is not None:
            benchmark.evaluate_outputs(outputs, out, pairs, config, steps)
        elif rooms is not None:
            folder = model or default_model()
            benchmark.evaluate_rooms(folder, rooms, out, pairs, config, sampling, guidance, steps)
        elif pairs is not None:
            folder = model or default_model()
            benchmark.evaluate(folder, pairs, out, config, sampling, guidance, embedding, steps)
    print((out / "report.md").read_text(encoding="utf-8"))


# ---- codec ----


@codec_app.command("fit")
def codec_fit(
    music: Annotated[
        list[Path], typer.Argument(metavar="MUSIC...", help="Music files, folders of them, or pair folders.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Codec folder to write.")],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe whose codec settings to use.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", min=0, help="How much music to read at most.")] = 3.0,
    seed: Seed = SAMPLING.seed,
    extend: Annotated[
        Path | None,
        typer.Option(
            "--extend", help="Codec folder to give more codebooks (codec.n_codebooks), its codes kept."
        ),
    ] = None,
    overrides: Set = None,
) -> None:
    """Fit a codec to music in closed form; it takes minutes."""
    from silent2music.bundled_codec import BundledCodec
    from silent2music.codec import load_codec, save_codec
    from silent2music.training.codec import extend_codec, fit_codec

    files = [file for path in music for file in _music_files(path)]
    config = _recipe(recipe, overrides).codec
    with _progress() as steps:
        if extend is None:
            codec = fit_codec(files, config, seed, hours, _fractions(steps))
        else:
            core = load_codec(extend)
            if not isinstance(core, BundledCodec):
                raise S2MError(f"{extend} holds another kind of codec; expected a bundled one.")
            codec = extend_codec(core, files, config.n_codebooks, seed, hours, _fractions(steps))
    save_codec(codec, out)
    print(f"{out}: {codec.n_codebooks} codebooks of {codec.codebook_size}, checksum {codec.checksum}")


@codec_app.command("train")
def codec_train(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder or TOML file.")],
    music: Annotated[list[Path], typer.Argument(metavar="MUSIC...", help="As for fit.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run and of the codec in it.")],
    start: Annotated[Path | None, typer.Option("--start", help="Codec folder to start from.")] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option("--validation", help="Other music; of pair folders the validation pairs by default."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in OUT.")] = False,
    overrides: Set = None,
) -> None:
    """Train what a codec learns after its fit."""
    from silent2music.training.codec_loop import train_codec

    files = [file for path in music for file in _music_files(path)]
    others = [file for path in validation or () for file in _music_files(path)]
    others = others or [f for path in music for f in _music_files(path, "validation")]
    if not others:
        raise S2MError(
            "There is no music to validate on; give --validation with music that is not trained on."
        )
    print(train_codec(_recipe(recipe, overrides), files, others, out, start, resume))


@codec_app.command("music")
def codec_music(
    scores: Annotated[Path, typer.Argument(help="Folder of MIDI scores with an index.tsv of licences.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for train/ and validation/.")],
    pieces: Annotated[int, typer.Option("--pieces", min=1, help="How many pieces of 20 s.")] = 420,
    seed: Seed = SAMPLING.seed,
    overrides: Set = None,
) -> None:
    """Render scores with instruments of every family, to fit and to test codecs on."""
    from silent2music.data.medleys import render_medleys

    with _progress() as steps:
        data = replace(_recipe(None, overrides).data, scores=str(scores))
        render_medleys(data, out, pieces, seed, _named(steps, "pieces"))


@codec_app.command("bench")
def codec_bench(
    codecs: Annotated[
        list[str],
        typer.Option("--codec", metavar="NAME=FOLDER[:BOOKS][@random]", help="A codec to compare; repeat."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for bench.md and bench.json.")],
    families: Annotated[
        Path | None, typer.Option("--families", help="Held-out music of `s2m codec music`.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Pair folder, for its validation music.")
    ] = None,
    real: Annotated[Path | None, typer.Option("--real", help="Folder of real recordings.")] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME=FOLDER", help="A training whose curve to draw; repeat."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Files of each group at most.")] = 28,
) -> None:
    """Compare codecs on held-out music: spectrum, pitches, attacks, roughness, speed."""
    from silent2music.evaluation.codec_bench import parse_candidate, run_bench
    from silent2music.evaluation.codec_plots import plot_curves

    music = {
        "families": _music_files(families) if families else [],
        "pairs": _music_files(pairs, "validation") if pairs else [],
        "real": _music_files(real) if real else [],
    }
    if runs:
        curves = dict(run.partition("=")[::2] for run in runs)
        plot_curves({name: Path(folder) for name, folder in curves.items()}, out / "curves.png")
    with _progress() as steps:
        text = run_bench(
            [parse_candidate(codec) for codec in codecs],
            {group: files[:limit] for group, files in music.items() if files},
            out,
            progress=steps,
        )
    print(text)


def _music_files(path: Path, split: str = "train") -> list[Path]:
    """The music sides of a split of a pair folder; of anything else, which is all for training, its audio."""
    from silent2music.audio import find_audio
    from silent2music.data.pairs import MANIFEST, read_pairs

    if (path / MANIFEST).exists():
        return [path / pair.music for pair in read_pairs(path) if pair.split == split]
    if split != "train":
        return []
    return find_audio(path) if path.is_dir() else [path]


@codec_app.command("roundtrip")
def codec_roundtrip(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Any audio file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write (.wav, .flac or .ogg).")],
    codec: Annotated[
        Path | None, typer.Option("--codec", help="Codec folder; the shipped one by default.")
    ] = None,
    force: Force = False,
) -> None:
    """Hear what the codec does to a sound."""
    from silent2music.export.infer import default_model
    from silent2music.export.roundtrip import roundtrip

    rate = roundtrip(source, target, codec or default_model() / "codec", force)
    print(f"{target}: through {rate:.2f} kbit/s")


# ---- data ----


@data_app.command("build")
def data_build(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder or TOML file.")],
    out: Annotated[Path, typer.Option("--out", help="Pair folder.")],
    hours: Annotated[float, typer.Option("--hours", min=0, help="How much to build, in all.")],
    seed: Seed = SAMPLING.seed,
    workers: Workers = 1,
    overrides: Set = None,
) -> None:
    """Build pairs; run again after a kill, it goes on where it was."""
    from silent2music.data.factory import build

    with _progress() as steps:
        build(_recipe(recipe, overrides).data, out, hours, seed, workers, _named(steps, "pairs"))


@data_app.command("check")
def data_check(folder: Annotated[Path, typer.Argument(help="Pair folder.")]) -> None:
    """Name every fault of a pair folder with its line."""
    from silent2music.data.pairs import check

    faults = check(folder)
    for fault in faults:
        print(fault)
    if faults:
        raise S2MError(
            f"{folder} has {len(faults)} fault{'s' if len(faults) > 1 else ''}; mend the lines named."
        )


@data_app.command("harvest")
def data_harvest(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="RECORDING...", help="Recordings of performances.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Pair folder to make.")],
    licence: Annotated[
        str, typer.Option("--licence", help="Of the recordings, for the attribution.")
    ] = "not stated",
    author: Annotated[
        str, typer.Option("--author", help="Of the recordings, for the attribution.")
    ] = "not stated",
) -> None:
    """Pair the near-silent stretches of recordings with the music that follows them."""
    from silent2music.data.harvest import harvest

    with _progress() as steps:
        report = harvest(
            recordings, out, licence=licence, author=author, progress=_named(steps, "recordings")
        )
    for sentence in report.refused:
        _complain(sentence)
    print(f"{len(report.pairs)} pairs harvested into {out}")


@data_app.command("stats")
def data_stats(
    folder: Annotated[Path, typer.Argument(help="Pair folder.")],
    n_max: Annotated[int, typer.Option("--n", min=2, help="How many pairs to measure at most.")] = 200,
    seed: Seed = SAMPLING.seed,
    workers: Workers = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw one pair to this PNG.")] = None,
    pair: Annotated[int, typer.Option("--pair", min=1, help="The line of the pair to draw.")] = 1,
) -> None:
    """Count pairs, and measure how far their music follows their rooms."""
    from silent2music.evaluation import pair_stats

    with _progress() as steps:
        found = pair_stats.stats(folder, n_max, seed, workers, _named(steps, "pairs"))
    if json_file is not None:
        pair_stats.write_json(found, json_file)
    if plot is not None:
        _plot_pair(folder, pair, plot)
    print(found.summary())


def _plot_pair(folder: Path, number: int, path: Path) -> None:
    """Draw the pair on a line of the manifest."""
    from silent2music.data.pairs import load_pair, read_pairs
    from silent2music.evaluation.pair_stats import plot_pair

    pairs = read_pairs(folder)
    if number > len(pairs):
        raise S2MError(f"--pair is {number} and {folder} holds {len(pairs)} pairs; give a number up to that.")
    plot_pair(*load_pair(folder, pairs[number - 1]), dict(pairs[number - 1].labels), path)


@data_app.command("prepare")
def data_prepare(
    folder: Annotated[Path, typer.Argument(help="Pair folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of shards.")],
    codec: Annotated[Path, typer.Option("--codec", help="Codec folder.")],
    codebooks: Annotated[
        int | None,
        typer.Option(
            "--codebooks", min=1, help="Codebooks for the model to write, the first ones; all by default."
        ),
    ] = None,
    workers: Workers = 1,
) -> None:
    """Turn pairs into codec tokens and ambient features, as Parquet shards."""
    from silent2music.codec import load_codec
    from silent2music.data.shards import prepare

    with _progress() as steps:
        told = _named(steps, "pairs")
        report = prepare(folder, out, load_codec(codec), None, workers, progress=told, n_codebooks=codebooks)
    print(report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an `S2MError` becomes one sentence on standard error and exit 1."""
    try:
        app(arguments)
    except S2MError as error:
        _complain(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
