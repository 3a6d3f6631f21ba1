"""Commands that evaluate a model: its validation loss, its speed, and the music that it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from silent2music.cli.common import named, print_json, progress_bar
from silent2music.cli.options import (
    SAMPLING,
    AsJson,
    Download,
    Force,
    Model,
    Seed,
    Workers,
    model_folder,
    options_checked,
    sampling_of,
    within,
)
from silent2music.config import ComposingConfig, Precision
from silent2music.errors import require

Scores = Annotated[
    Path | None,
    Option("--scores", help="Scores for the arranger that it is compared with; those of the pairs."),
]


def validate(
    shards: Annotated[Path, Option(help="Prepared pairs with a validation split.")],
    model: Model = None,
    download: Download = False,
    n_pairs: Annotated[int, Option("--n", min=2, help="How many pairs to measure at most.")] = 256,
    seed: Seed = SAMPLING.seed,
    as_json: AsJson = False,
) -> None:
    """Loss of held-out music under its true room, another room and none, with intervals."""
    from silent2music.evaluation.likelihood import contrast_text, room_contrast
    from silent2music.model import Silent2Music

    with progress_bar() as steps:
        loaded = Silent2Music.from_pretrained(model_folder(model, download))
        found = room_contrast(loaded, shards, n_pairs, seed=seed, progress=named(steps, "pairs"))
    if as_json:
        print_json(found)
    else:
        print(contrast_text(found))


def bench(
    out: Annotated[Path, Option(help="Folder of the report.")],
    room: Annotated[Path | None, Option(help="A recording; the demo's by default.")] = None,
    model: Model = None,
    download: Download = False,
    n_rounds: Annotated[int, Option("--rounds", min=1, help="How often; medians count.")] = 5,
    force: Force = False,
) -> None:
    """Measure the speed of every stage, of the first audio and of the whole command, beside MusicGen's decoder."""
    from silent2music.audio import read
    from silent2music.evaluation.bench import bench as measure
    from silent2music.export.infer import DEMO_ROOM

    with progress_bar() as steps:
        text = measure(model_folder(model, download), read(room or DEMO_ROOM), out, n_rounds, force, steps)
    print(text)


def evaluate(
    out: Annotated[Path, Option(help="Folder of the report.")],
    pairs: Annotated[Path | None, Option(help="Pair folder with held-out pairs.")] = None,
    outputs: Annotated[
        Path | None, Option(help="Judge these files, made by any program, and no model.")
    ] = None,
    rooms: Annotated[
        Path | None, Option(help="Play to these recordings, but not to those that --pairs trained on.")
    ] = None,
    model: Model = None,
    download: Download = False,
    n_pairs: Annotated[
        int, Option("--n", min=2, help="How many pairs or recordings to evaluate at most.")
    ] = 128,
    seconds: Annotated[float | None, Option(callback=within(1, 3600), help="Used of each.")] = None,
    quick: Annotated[
        bool, Option("--quick", help="Only whether the music follows and how it sounds.")
    ] = False,
    embedding: Annotated[
        Path | None, Option(help="Audio model of transformers (CLAP, say) for distances by it.")
    ] = None,
    scores: Scores = None,
    precision: Annotated[
        Precision | None, Option(help="How weights are held while it plays; the fastest by default.")
    ] = None,
    seed: Seed = SAMPLING.seed,
    workers: Workers = 2,
    **options: Any,
) -> None:
    """Measure whether the music follows the room, how it sounds, and whether it is the model's own.

    To compare settings of the draw in minutes: --quick --n 32 --seconds 12 --temperature 0.9.
    """
    if (pairs or outputs or rooms) is None or (outputs and rooms):
        raise typer.BadParameter("give --pairs or --rooms for a model, or --outputs for files.")
    import logging

    require("mir_eval", "eval")
    require("matplotlib", "eval")
    from silent2music.evaluation import benchmark

    with options_checked():
        sampling = sampling_of(options)
    config = benchmark.EvalConfig(
        n=n_pairs,
        seed=seed,
        seconds=seconds,
        quick=quick,
        workers=workers,
        precision=precision,
        sampling=sampling,
        scores=() if scores is None else (str(scores),),
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with progress_bar() as steps:
        if steps is None:
            # Where no bar shows how it goes, the time of each stage does.
            logging.getLogger("silent2music.evaluation").setLevel(logging.INFO)
        if outputs is not None:
            benchmark.evaluate_outputs(outputs, out, pairs, config, steps)
        elif rooms is not None:
            benchmark.evaluate_rooms(model_folder(model, download), rooms, out, pairs, config, steps)
        elif pairs is not None:
            benchmark.evaluate(model_folder(model, download), pairs, out, config, embedding, steps)
    print((out / "report.md").read_text(encoding="utf-8"))


def evaluate_scores(
    pairs: Annotated[Path, Option(help="Pair folder with held-out pairs that have scores.")],
    model: Model = None,
    download: Download = False,
    n_pairs: Annotated[int, Option("--n", min=2, help="How many rooms to compose for at most.")] = 128,
    seconds: Annotated[float | None, Option(min=1, help="Used of each.")] = None,
    soundfont: Annotated[
        list[Path] | None, Option(help="Also judge the scores as fluidsynth plays them; several take turns.")
    ] = None,
    seed: Seed = SAMPLING.seed,
    workers: Workers = 2,
    controls: Annotated[
        str | None,
        Option(metavar="all|NAMES", help="Measure instead whether these controls do what they say."),
    ] = None,
    own_sound: Annotated[
        bool,
        Option(
            "--own-sound",
            help="The model plays what controls are judged by, not fluidsynth; "
            "a soundfont then teaches how instruments sound.",
        ),
    ] = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Measure whether composed scores follow their rooms, and how like real ones they are."""
    from silent2music.evaluation.pieces import EvalConfig
    from silent2music.evaluation.scores import evaluate_scores as measure
    from silent2music.evaluation.scores import scores_text

    require("mir_eval", "eval")
    config = EvalConfig(n=n_pairs, seed=seed, seconds=seconds, workers=workers)
    composing = ComposingConfig(**options)
    if controls:
        from silent2music.evaluation.controls import TESTED, controls_text, evaluate_controls
        from silent2music.model import load

        names = list(TESTED) if controls == "all" else controls.split(",")
        if unknown := [name for name in names if name not in TESTED]:
            raise typer.BadParameter(
                f"--controls has '{unknown[0]}'; expected all or some of {', '.join(TESTED)}"
            )
        with progress_bar() as steps:
            loaded = load(model_folder(model, download))
            found = evaluate_controls(
                loaded, pairs, config, composing, names, steps, soundfont or (), own_sound
            )
        print_json(found) if as_json else print(controls_text(found))
        return
    with progress_bar() as steps:
        loaded_from = model_folder(model, download)
        found = measure(loaded_from, pairs, config, composing, soundfont or (), steps)
    if as_json:
        print_json(found)
    else:
        print(scores_text(found))
