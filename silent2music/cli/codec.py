"""Commands that fit, train and compare codecs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from silent2music.cli.common import fractions, named, progress_bar, say, settings_of
from silent2music.cli.options import MAX_HOURS, SAMPLING, Download, Force, Recipe, Resume, Seed, Set, within
from silent2music.errors import S2MError, require

codec_app = typer.Typer(help="Fit, train and try the codec.", no_args_is_help=True, rich_markup_mode=None)

Music = Annotated[
    list[Path], Argument(metavar="MUSIC...", help="Music files, folders of them, or pair folders.")
]


@codec_app.command("fit")
def codec_fit(
    music: Music,
    out: Annotated[Path, Option(help="Codec folder to write.")],
    recipe: Annotated[Path | None, Option(help="Recipe whose codec settings to use.")] = None,
    hours: Annotated[
        float, Option(callback=within(0, MAX_HOURS), help="How much music to read at most.")
    ] = 3.0,
    seed: Seed = SAMPLING.seed,
    overrides: Set = None,
) -> None:
    """Fit a codec to music in closed form; it takes minutes."""
    from silent2music.codec import save_codec
    from silent2music.data.pairs import music_files
    from silent2music.training.codec import fit_codec

    files = [file for path in music for file in music_files(path)]
    with progress_bar() as steps:
        codec = fit_codec(files, settings_of(recipe, overrides).codec, seed, hours, fractions(steps))
    save_codec(codec, out)
    say(f"{out}: {codec.n_codebooks} codebooks of {codec.codebook_size}, checksum {codec.token_checksum()}")


@codec_app.command("fit-band")
def codec_fit_band(
    music: Music,
    codec: Annotated[Path, Option(help="Codec folder to fit it to and to write it into.")],
    hours: Annotated[float, Option(min=0, help="How much music to read at most.")] = 1.0,
    seed: Seed = SAMPLING.seed,
) -> None:
    """Fit what continues a codec's sound above 12 kHz, to music of 44.1 or 48 kHz; it takes minutes."""
    from silent2music.bandwidth import EXTENSION_FILE
    from silent2music.codec import load_codec
    from silent2music.data.pairs import music_files
    from silent2music.training.band_fit import fit_extension

    files = [file for path in music for file in music_files(path)]
    with progress_bar() as steps:
        extension = fit_extension(files, load_codec(codec), seed, hours, fractions(steps))
    extension.save(codec)
    print(f"{codec / EXTENSION_FILE}: the codec's sound goes on above 12 kHz")


@codec_app.command("train")
def codec_train(
    recipe: Recipe,
    music: Music,
    out: Annotated[Path, Option(help="Folder of the run and of the codec in it.")],
    start: Annotated[Path | None, Option(help="Codec folder to start from.")] = None,
    validation: Annotated[
        list[Path] | None, Option(help="Other music; of pair folders the validation pairs by default.")
    ] = None,
    correction: Annotated[Path | None, Option(help="Codec folder whose correction to start from.")] = None,
    resume: Resume = False,
    download: Download = False,
    overrides: Set = None,
) -> None:
    """Train a codec by gradient after its closed-form fit; each MUSIC counts about as much as any other."""
    require("accelerate")
    from silent2music.data.pairs import music_files
    from silent2music.hub import find_folder
    from silent2music.training.codec_loop import train_codec

    files = _alike([music_files(path) for path in music])
    others = _alike([music_files(p, "validation") or music_files(p) for p in validation or ()])
    others = others or [f for path in music for f in music_files(path, "validation")]
    if not others:
        raise S2MError(
            "There is no music to validate on; give --validation with music that is not trained on."
        )
    start = None if start is None else find_folder(start, "codec", download)
    print(train_codec(settings_of(recipe, overrides), files, others, out, start, resume, correction))


def _alike(sources: list[list[Path]]) -> list[Path]:
    """All files, those of smaller sources repeated, so that each source counts about as much as any other."""
    largest = max(map(len, sources), default=0)
    return [file for files in sources for file in files * max(1, round(largest / max(1, len(files))))]


@codec_app.command("music")
def codec_music(
    scores: Annotated[Path, Argument(help="Folder of MIDI scores with an index.tsv of licences.")],
    out: Annotated[Path, Option(help="Folder for train/ and validation/.")],
    pieces: Annotated[int, Option(min=1, help="How many pieces of 20 s.")] = 420,
    seed: Seed = SAMPLING.seed,
    overrides: Set = None,
) -> None:
    """Render scores with instruments of every family, to fit and to test codecs on."""
    from silent2music.factory.medleys import render_medleys

    with progress_bar() as steps:
        data = replace(settings_of(None, overrides).data, scores=(str(scores),))
        render_medleys(data, out, pieces, seed, named(steps, "pieces"))


@codec_app.command("bench")
def codec_bench(
    codecs: Annotated[
        list[str], Option("--codec", metavar="NAME=FOLDER[:BOOKS]", help="A codec to compare; repeat.")
    ],
    out: Annotated[Path, Option(help="Folder for bench.md, bench.json and worst.png.")],
    families: Annotated[Path | None, Option(help="Held-out music of `s2m codec music`.")] = None,
    pairs: Annotated[Path | None, Option(help="Pair folder, for its validation music.")] = None,
    real: Annotated[Path | None, Option(help="Folder of real recordings.")] = None,
    limit: Annotated[int, Option(min=1, help="Files of each group at most, evenly spread.")] = 14,
    seconds: Annotated[float, Option(callback=within(1, 3600), help="From the middle of each file.")] = 6.0,
    kernel: Annotated[
        int, Option(min=0, help="Pieces of --pairs, or a few less, for a kernel distance; 0: none.")
    ] = 0,
    download: Download = False,
) -> None:
    """Compare codecs on held-out music: spectrum, pitches, attacks, roughness, speed."""
    from silent2music.evaluation.codec_bench import bench_music, parse_entry, run_bench

    with progress_bar() as steps:
        music = bench_music(families, pairs, real, limit)
        pieces = bench_music(None, pairs, None, kernel).get("pairs", []) if kernel else []
        if kernel and len(pieces) < 4:
            raise S2MError(
                f"--kernel found {len(pieces)} pieces; expected --pairs with 4 or more to validate on."
            )
        entries = [parse_entry(codec, download) for codec in codecs]
        print(run_bench(entries, music, out, seconds, steps, pieces))


@codec_app.command("bench-band")
def codec_bench_band(
    codec: Annotated[Path, Argument(help="Codec folder with an extension.")],
    out: Annotated[Path, Option(help="Folder for band.md and band.json.")],
    families: Annotated[
        list[Path] | None, Option(help="Held-out music of `s2m codec music` at 48 kHz; repeat.")
    ] = None,
    real: Annotated[Path | None, Option(help="Folder of real recordings.")] = None,
    seconds: Annotated[float, Option(min=1, help="From the middle of each file.")] = 6.0,
) -> None:
    """Compare a codec's extension above 12 kHz with plain resampling, on held-out music of 44.1 or 48 kHz."""
    from silent2music.codec import load_codec
    from silent2music.data.pairs import music_files
    from silent2music.evaluation.band_bench import run_band_bench

    music = {
        "families": [file for path in families or () for file in music_files(path)],
        "real": music_files(real) if real else [],
    }
    with progress_bar() as steps:
        print(run_band_bench(load_codec(codec), music, out, seconds, named(steps, "files")))


@codec_app.command("roundtrip")
def codec_roundtrip(
    source: Annotated[Path, Argument(metavar="IN", help="Any audio file.")],
    target: Annotated[Path, Argument(metavar="OUT", help="File to write (.wav, .flac or .ogg).")],
    codec: Annotated[Path | None, Option(help="Codec folder; the shipped one by default.")] = None,
    download: Download = False,
    force: Force = False,
) -> None:
    """Encode a sound to tokens and decode them, to hear what the codec does to it."""
    from silent2music.config import default_model
    from silent2music.export.roundtrip import roundtrip
    from silent2music.hub import find_folder

    folder = default_model() / "codec" if codec is None else find_folder(codec, "codec", download)
    rate = roundtrip(source, target, folder, force)
    say(f"{target}: through {rate:.2f} kbit/s")
