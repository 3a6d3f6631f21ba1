"""`s2m eval`: does the music follow the room, how does it sound, and is it the model's own?

Every figure stands beside its null and its ceiling. Rooms are taken in twos that share a seed, and the shuffled
music of one is the true music of the other: the same seeds, another room, and nothing generated twice. The room's
side is what `acoustics` measures; where the pairs carry labels, the same figures against the true events,
tempo and boundaries stand beside them. The figures follow from seed and inputs alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile
from silent2music.config import DataConfig, SamplingConfig, from_dict
from silent2music.data.pairs import MANIFEST, Pair, read_pairs
from silent2music.errors import DataError
from silent2music.evaluation import baselines
from silent2music.evaluation.pieces import (
    EvalConfig,
    Item,
    Piece,
    Progress,
    anchors_of,
    inspect,
    inspect_files,
    load_items,
    load_training,
    partners_of,
)
from silent2music.evaluation.report import write_report
from silent2music.evaluation.tables import (
    REPORT_VERSION,
    Report,
    fault_table,
    mean_descriptors,
    originality_of,
    tabulate,
)

__all__ = ["EvalConfig", "evaluate", "evaluate_outputs"]


def evaluate(
    model_dir: Path | str,
    pairs: Path | str,
    out: Path | str,
    config: EvalConfig | None = None,
    sampling: SamplingConfig | None = None,
    guidance: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Evaluate a model on the validation pairs of a folder and write `report.json`, `report.md` and pictures.

    Args:
        model_dir: a model folder.
        pairs: a pair folder; its training split serves originality and the retrieval baseline.
        out: folder for the report, made if missing.
        config: how much; the defaults if not given.
        sampling: how tokens are drawn, but for the seed, which is `config`'s, and the guidance.
        guidance: strength of the room; the model's own default if None.
        progress: called with the stage, steps done and steps in all.

    Raises:
        DataError: if the folder has fewer than two pairs.
        CheckpointError: if the model does not load.
    """
    from silent2music.evaluation import probing
    from silent2music.model import Silent2Music

    config = config or EvalConfig()
    tell = progress or (lambda stage, done, total: None)
    folder = Path(pairs)
    held_out, training = _splits(folder, config)
    model = Silent2Music.from_pretrained(model_dir)
    guidance = model.config.guidance if guidance is None else guidance
    sampling = dataclasses.replace(sampling or SamplingConfig(), guidance=guidance, seed=config.seed)
    with probing.one_thread():
        items, reals = load_items(folder, held_out, config, tell)
        systems: dict[str, list[Piece | None]] = {"real": [item.real for item in items]}
        made, tokens = probing.generated(model, items, sampling, config, tell)
        systems |= made
        anchors, library, codes = {}, {}, []
        if not config.quick:
            library = load_training(folder, training, config, tell)
            systems["retrieval"] = _retrieved(items, library)
            systems["arranger"] = arranged_music(folder, items, config, tell)
            systems["codec"], codes = probing.through_codec(model, reals, config, tell)
            anchors = anchors_of(reals, config, tell)
        report = tabulate(items, systems, partners_of(items), anchors, config)
        report["model"] = {"name": model.config.name, "sampling": dataclasses.asdict(sampling)}
        report["held_out"] = all(pair.split == "validation" for pair in held_out)
        if not config.quick:
            report["likelihood"] = probing.likelihood(model, items, codes, config, tell)
            report["originality"] = originality_of(
                items, systems["model"], {n: p for n, (_, p) in library.items()}, tell
            )
            runs = {"real": [own[0] for own in codes], "model": tokens}
            report["originality"]["tokens"] = probing.token_runs(model, folder, training, runs, config, tell)
            report["drift"] = probing.drift(model, items, sampling, config, tell)
            report["diversity"] = probing.diversity(model, items, sampling, config, tell)
    write_report(report, Path(out))
    return report


def _retrieved(
    items: Sequence[Item], library: Mapping[str, tuple[AcousticProfile, Piece]]
) -> list[Piece | None]:
    """For each room the music of the training room most like it."""
    if not library:
        return [None] * len(items)
    vectors = [baselines.room_vector(profile) for profile, _ in library.values()]
    pieces = [piece for _, piece in library.values()]
    return [pieces[baselines.nearest_room(baselines.room_vector(item.profile), vectors)] for item in items]


def evaluate_outputs(
    outputs: Path | str,
    out: Path | str,
    pairs: Path | str | None = None,
    config: EvalConfig | None = None,
    progress: Progress | None = None,
) -> Report:
    """Evaluate music that any program made, by the same ruler.

    A file belongs to the pair whose silent or music side has its stem. Without `pairs`, `outputs` is a pair
    folder itself, whose music sides are the outputs; or else only what needs no room is reported.

    Args:
        outputs: folder of audio files.
        out: folder for the report.
        pairs: pair folder with the rooms and the real music.
        config: `n`, `seed`, `seconds` and `n_train` count.
        progress: as in `evaluate`.

    Raises:
        DataError: if fewer than two files match a pair.
        AudioError: if there is no audio or it cannot be read.
    """
    config = config or EvalConfig()
    tell = progress or (lambda stage, done, total: None)
    outputs, out = Path(outputs), Path(out)
    if pairs is None and not (outputs / MANIFEST).exists():
        return _without_rooms(outputs, out, config, tell)
    folder = outputs if pairs is None else Path(pairs)
    chosen, files = read_pairs(folder), {}
    if pairs is not None:
        heard = audio.find_audio(outputs)
        # `s2m infer` writes `room.music.wav` for `room.wav`; a file's exact stem goes first.
        stems = {path.stem.removesuffix(".music"): path for path in heard}
        stems |= {path.stem: path for path in heard}
        named = {p.id: stems.get(Path(p.silent).stem) or stems.get(Path(p.music).stem) for p in chosen}
        files = {name: path for name, path in named.items() if path is not None}
        chosen = [p for p in chosen if p.id in files]
    if len(chosen) < 2:
        raise DataError(
            f"{outputs} matches {len(chosen)} pairs of {folder}; expected 2 or more files named alike."
        )
    items, reals = load_items(folder, chosen[: config.n], config, tell)
    systems: dict[str, list[Piece | None]] = {"real": [item.real for item in items]}
    if pairs is None:
        report = tabulate(items, systems, partners_of(items), {}, config)
    else:
        systems["model"] = [*inspect_files([files[item.name] for item in items], config, tell)]
        report = tabulate(items, systems, partners_of(items), anchors_of(reals, config, tell), config)
        training = [p for p in read_pairs(folder) if p.split == "train" and p.id not in files]
        library = {name: piece for name, (_, piece) in load_training(folder, training, config, tell).items()}
        report["originality"] = originality_of(items, systems["model"], library, tell)
    write_report(report, out)
    return report


def _without_rooms(outputs: Path, out: Path, config: EvalConfig, tell: Progress) -> Report:
    """What can be said of audio files alone."""
    pieces = inspect_files(audio.find_audio(outputs)[: config.n], config, tell)
    report: Report = {"version": REPORT_VERSION, "n": len(pieces), "config": dataclasses.asdict(config)}
    report["faults"] = {"outputs": fault_table([piece.faults for piece in pieces], {})}
    report["kinds"] = {"outputs": {"all": mean_descriptors(pieces)}}
    write_report(report, out)
    return report


def _splits(folder: Path, config: EvalConfig) -> tuple[list[Pair], list[Pair]]:
    """The pairs to test on, and those to call training: all and none where nothing is held out."""
    pairs = read_pairs(folder)
    held_out = [pair for pair in pairs if pair.split == "validation"] or pairs
    training = [pair for pair in pairs if pair.split == "train" and pair not in held_out]
    rng = np.random.default_rng(config.seed)
    chosen, library = (
        [those[i] for i in np.sort(rng.permutation(len(those))[:n])]
        for those, n in ((held_out, config.n), (training, config.n_train))
    )
    if len(chosen) < 2:
        raise DataError(f"{folder} holds {len(chosen)} pairs to test on; expected 2 at least.")
    return chosen, library


def arranged_music(
    folder: Path, items: Sequence[Item], config: EvalConfig, tell: Progress
) -> list[Piece | None]:
    """The rule-based arranger for the first rooms, if the folder says which scores and sounds it was built from."""
    made: list[Piece | None] = [None] * len(items)
    try:
        data = from_dict(DataConfig, json.loads((folder / "build.json").read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError):
        return made
    scores = sorted(Path(data.scores).rglob("*.mid"))
    if not scores or not Path(data.soundfont).exists():
        return made
    # Partners together, so that there is a null, and spread over the items, so that every kind has a share.
    n_twos = max(1, min(config.n_arranged, len(items)) // 2)
    chosen = [i for k in np.linspace(0, len(items) // 2 - 1, n_twos).astype(int) for i in (2 * k, 2 * k + 1)]
    for done, i in enumerate(chosen):
        rng = np.random.default_rng([config.seed, 2, i])
        music = baselines.arranged(items[i].profile, scores, Path(data.soundfont), rng)
        made[i] = inspect(music) if music is not None else None
        tell("arranger", done + 1, len(chosen))
    return made
