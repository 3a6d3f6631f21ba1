"""Commands that build, check and prepare pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from silent2music.cli.common import complain, named, print_json, progress_bar, say, settings_of
from silent2music.cli.options import (
    MAX_HOURS,
    SAMPLING,
    AsJson,
    Download,
    PairFolder,
    Recipe,
    Seed,
    Set,
    Workers,
    within,
)
from silent2music.errors import S2MError, require

data_app = typer.Typer(
    help="Build, check and prepare pairs of a room and its music.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data_app.command("build")
def data_build(
    recipe: Recipe,
    out: Annotated[Path, Option(help="Pair folder.")],
    hours: Annotated[float, Option(callback=within(0, MAX_HOURS), help="How much to build, in all.")],
    seed: Seed = SAMPLING.seed,
    workers: Workers = 1,
    silent_only: Annotated[
        bool,
        Option("--silent-only", help="Rooms and scores without sound, as shards to train a composer on."),
    ] = False,
    overrides: Set = None,
) -> None:
    """Build pairs; a build that was stopped continues with the same command."""
    from silent2music.factory.build import build
    from silent2music.factory.soundless import build_soundless

    settings = settings_of(recipe, overrides)
    with progress_bar() as steps:
        told = named(steps, "pairs")
        if silent_only:
            build_soundless(settings.data, out, hours, seed, settings.ambient, workers, told)
        else:
            build(settings.data, out, hours, seed, workers, told)


@data_app.command("check")
def data_check(folder: PairFolder) -> None:
    """Name every fault of a pair folder with its line."""
    from silent2music.data.pairs import check

    faults = check(folder)
    for fault in faults:
        say(str(fault))
    if faults:
        raise S2MError(
            f"{folder} has {len(faults)} fault{'s' if len(faults) > 1 else ''}; mend the lines named."
        )


@data_app.command("harvest")
def data_harvest(
    recordings: Annotated[list[Path], Argument(metavar="RECORDING...", help="Recordings of performances.")],
    out: Annotated[Path, Option(help="Pair folder to make.")],
    licence: Annotated[str, Option(help="Of the recordings, for the attribution.")] = "not stated",
    author: Annotated[str, Option(help="Of the recordings, for the attribution.")] = "not stated",
) -> None:
    """Pair the near-silent stretches of recordings with the music that follows them."""
    from silent2music.data.harvest import harvest

    with progress_bar() as steps:
        report = harvest(recordings, out, licence=licence, author=author, progress=named(steps, "recordings"))
    for sentence in report.refused:
        complain(sentence)
    say(f"{len(report.pairs)} pairs harvested into {out}")


@data_app.command("stats")
def data_stats(
    folder: PairFolder,
    n_max: Annotated[int, Option("--n", min=2, help="How many pairs to measure at most.")] = 200,
    seed: Seed = SAMPLING.seed,
    workers: Workers = 1,
    as_json: AsJson = False,
    plot: Annotated[Path | None, Option(help="Draw one pair to this PNG.")] = None,
    pair: Annotated[int, Option(min=1, help="The line of the pair to draw.")] = 1,
) -> None:
    """Count pairs, and measure how far their music follows their rooms."""
    require("mir_eval", "eval")
    from silent2music.evaluation.pair_stats import pair_stats, stats_text
    from silent2music.export.provenance import check_replaceable

    if plot is not None:
        check_replaceable(plot, force=True)
    with progress_bar() as steps:
        found = pair_stats(folder, n_max, seed, workers, steps)
    if plot is not None:
        _plot_pair(folder, pair, plot)
    if as_json:
        print_json(found)
    else:
        print(stats_text(found))


def _plot_pair(folder: Path, number: int, path: Path) -> None:
    """Draw the pair on a line of the manifest."""
    from silent2music.acoustics import analyze
    from silent2music.data.pairs import load_pair, read_pairs, score_of, silent_side
    from silent2music.plotting import plot_pair, plot_score

    pairs = read_pairs(folder)
    if number > len(pairs):
        raise S2MError(f"--pair is {number} and {folder} holds {len(pairs)} pairs; give a number up to that.")
    chosen = pairs[number - 1]
    score = score_of(folder, chosen)
    if chosen.music is None and score is not None:
        plot_score(score, path, analyze(silent_side(folder, chosen)))
    else:
        plot_pair(*load_pair(folder, chosen), dict(chosen.labels), path)


@data_app.command("prepare")
def data_prepare(
    folder: PairFolder,
    out: Annotated[Path, Option(help="Folder of shards.")],
    codec: Annotated[Path, Option(help="Codec folder.")],
    codebooks: Annotated[
        int | None, Option(min=1, help="Codebooks for the model to write, the first ones; all by default.")
    ] = None,
    workers: Workers = 1,
    download: Download = False,
) -> None:
    """Turn pairs into codec tokens and ambient features, as Parquet shards."""
    from silent2music.codec import load_codec
    from silent2music.data.shards import prepare

    with progress_bar() as steps:
        told = named(steps, "pairs")
        loaded = load_codec(codec, download)
        report = prepare(folder, out, loaded, None, workers, progress=told, n_codebooks=codebooks)
    print(report)
