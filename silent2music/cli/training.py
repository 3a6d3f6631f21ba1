"""Commands that train: the model, and the codec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from silent2music.cli.common import SAMPLING, Force, Seed, Set, fractions, named, progress_bar, settings_of
from silent2music.errors import S2MError, require

codec_app = typer.Typer(help="Fit, train and try the codec.", no_args_is_help=True, rich_markup_mode=None)


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
    require("accelerate")
    from silent2music.training.loop import train as run

    print(run(settings_of(recipe, overrides), shards, codec, out, resume, start))


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
    from silent2music.training.recipe import run_recipe as carry_out

    with progress_bar() as steps:
        made = carry_out(settings_of(recipe, overrides), out, [s for s in stages.split(",") if s], steps)
    print(made)


# ---- codec ----

# Music to compare codecs on.
Families = Annotated[Path | None, typer.Option("--families", help="Held-out music of `s2m codec music`.")]
HeldOutPairs = Annotated[Path | None, typer.Option("--pairs", help="Pair folder, for its validation music.")]
Real = Annotated[Path | None, typer.Option("--real", help="Folder of real recordings.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Files of each group at most, evenly spread.")]
Seconds = Annotated[float, typer.Option("--seconds", min=1, help="From the middle of each file.")]


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
            "--extend",
            help="Codec folder to give more codebooks (codec.n_codebooks; of gains with codec.gain_bands), its "
            "codes kept.",
        ),
    ] = None,
    overrides: Set = None,
) -> None:
    """Fit a codec to music in closed form; it takes minutes."""
    from silent2music.bundled_codec import BundledCodec
    from silent2music.codec import load_codec, save_codec
    from silent2music.training.codec import extend_codec, fit_codec

    files = [file for path in music for file in _music_files(path)]
    config = settings_of(recipe, overrides).codec
    with progress_bar() as steps:
        if extend is None:
            codec = fit_codec(files, config, seed, hours, fractions(steps))
        else:
            core = load_codec(extend)
            if not isinstance(core, BundledCodec):
                raise S2MError(f"{extend} holds another kind of codec; expected a bundled one.")
            codec = extend_codec(
                core,
                files,
                config.n_codebooks,
                seed,
                hours,
                fractions(steps),
                gain_bands=config.gain_bands,
                gain_emphasis=config.gain_emphasis,
                gain_run=config.gain_run,
            )
    save_codec(codec, out)
    print(f"{out}: {codec.n_codebooks} codebooks of {codec.codebook_size}, checksum {codec.checksum}")


@codec_app.command("train")
def codec_train(
    recipe: Annotated[Path, typer.Argument(help="Recipe folder or TOML file.")],
    music: Annotated[list[Path], typer.Argument(metavar="MUSIC...", help="As for fit; each counts alike.")],
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
    require("accelerate")
    from silent2music.training.codec_loop import train_codec

    files = _alike([_music_files(path) for path in music])
    others = _alike([_music_files(p, "validation") or _music_files(p) for p in validation or ()])
    others = others or [f for path in music for f in _music_files(path, "validation")]
    if not others:
        raise S2MError(
            "There is no music to validate on; give --validation with music that is not trained on."
        )
    print(train_codec(settings_of(recipe, overrides), files, others, out, start, resume))


@codec_app.command("music")
def codec_music(
    scores: Annotated[Path, typer.Argument(help="Folder of MIDI scores with an index.tsv of licences.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for train/ and validation/.")],
    pieces: Annotated[int, typer.Option("--pieces", min=1, help="How many pieces of 20 s.")] = 420,
    seed: Seed = SAMPLING.seed,
    overrides: Set = None,
) -> None:
    """Render scores with instruments of every family, to fit and to test codecs on."""
    from silent2music.factory.medleys import render_medleys

    with progress_bar() as steps:
        data = replace(settings_of(None, overrides).data, scores=str(scores))
        render_medleys(data, out, pieces, seed, named(steps, "pieces"))


@codec_app.command("bench")
def codec_bench(
    codecs: Annotated[
        list[str],
        typer.Option("--codec", metavar="NAME=FOLDER[:BOOKS][@random]", help="A codec to compare; repeat."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for bench.md and bench.json.")],
    families: Families = None,
    pairs: HeldOutPairs = None,
    real: Real = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME=FOLDER", help="A training whose curve to draw; repeat."),
    ] = None,
    limit: Limit = 14,
    seconds: Seconds = 6.0,
) -> None:
    """Compare codecs on held-out music: spectrum, pitches, attacks, roughness, speed."""
    from silent2music.evaluation.codec_bench import parse_candidate, run_bench
    from silent2music.evaluation.codec_plots import plot_curves

    if runs:
        curves = dict(run.partition("=")[::2] for run in runs)
        plot_curves({name: Path(folder) for name, folder in curves.items()}, out / "curves.png")
    with progress_bar() as steps:
        text = run_bench(
            [parse_candidate(codec) for codec in codecs],
            _held_out(families, pairs, real, limit),
            out,
            seconds,
            steps,
        )
    print(text)


@codec_app.command("candidates")
def codec_candidates(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML with a table of codec settings for each.")
    ],
    music: Annotated[
        list[Path], typer.Argument(metavar="MUSIC...", help="Music to fit to: files, folders, pair folders.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the codecs and the table; what is there is kept.")
    ],
    families: Families = None,
    pairs: HeldOutPairs = None,
    real: Real = None,
    hours: Annotated[float, typer.Option("--hours", min=0, help="How much music each is fitted to.")] = 1.0,
    limit: Limit = 14,
    seconds: Seconds = 6.0,
    n_foretold: Annotated[
        int, typer.Option("--foretell", min=0, help="How many, best by log-mel, a token model is trained on.")
    ] = 3,
    n_steps: Annotated[int, typer.Option("--steps", min=1, help="Of training each token model.")] = 300,
    seed: Seed = SAMPLING.seed,
) -> None:
    """Fit codecs by other settings to the same music, compare them, and see how well their tokens are foretold."""
    from silent2music.evaluation.codec_bench import Candidate, mean_log_mel, run_bench
    from silent2music.training.codec_candidates import (
        fit_candidates,
        folder_of,
        read_candidates,
        tabulate_bits,
        token_bits,
    )

    train = [found for path in music for found in _music_files(path)]
    held_out = _held_out(families, pairs, real, limit)
    if not held_out:
        raise typer.BadParameter("give music to compare on: --families, --pairs or --real.")
    with progress_bar() as steps:
        fitted = fit_candidates(read_candidates(file), train, out, hours, seed, fractions(steps))
        text = run_bench(
            [Candidate(name, codec, codec.n_codebooks) for name, codec in fitted.items()],
            held_out,
            out,
            seconds,
            steps,
        )
        best = sorted(fitted, key=mean_log_mel(out).__getitem__)[:n_foretold]
        music_of = {"train": train, "validation": [each for those in held_out.values() for each in those]}
        bits = {
            name: token_bits(fitted[name], music_of, out / "tokens" / folder_of(name), n_steps, seed)
            for name in best
        }
    text += tabulate_bits(bits)
    (out / "bench.md").write_text(text, encoding="utf-8")
    print(text)


def _held_out(
    families: Path | None, pairs: Path | None, real: Path | None, limit: int
) -> dict[str, list[Path]]:
    """Music to compare codecs on, by group: some files of each, evenly spread."""
    music = {
        "families": _music_files(families) if families else [],
        "pairs": _music_files(pairs, "validation") if pairs else [],
        "real": _music_files(real) if real else [],
    }
    return {group: files[:: -(-len(files) // limit)] for group, files in music.items() if files}


def _music_files(path: Path, split: str = "train") -> list[Path]:
    """The music sides of a split of a pair folder; of anything else, which is all for training, its audio."""
    from silent2music.audio import find_audio
    from silent2music.data.pairs import MANIFEST, read_pairs

    if (path / MANIFEST).exists():
        return [path / pair.music for pair in read_pairs(path) if pair.split == split]
    if split != "train":
        return []
    return find_audio(path) if path.is_dir() else [path]


def _alike(sources: list[list[Path]]) -> list[Path]:
    """All files, those of smaller sources several times, so that each source counts about as much."""
    largest = max(map(len, sources), default=0)
    return [file for files in sources for file in files * max(1, round(largest / max(1, len(files))))]


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
    from silent2music.config import default_model
    from silent2music.export.roundtrip import roundtrip

    rate = roundtrip(source, target, codec or default_model() / "codec", force)
    print(f"{target}: through {rate:.2f} kbit/s")
