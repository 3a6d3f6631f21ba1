"""The command that scores a video clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from silent2music.cli.common import complain, described_music, print_json, progress_bar, say, warn
from silent2music.cli.options import beside_of, levels_of, model_of, options_checked, reading_of, sampling_of
from silent2music.config import DeliveryConfig, apply_overrides


def score_clip(
    clip: Annotated[Path, Argument(metavar="CLIP", help="A video clip, whose own sound is the room.")],
    output: Annotated[Path, Option("-o", "--output", help="The scored clip (.mp4, .m4v, .mov, .mkv).")],
    wav: Annotated[Path | None, Option(help="The music alone; by default beside the scored clip.")] = None,
    cue: Annotated[
        list[str] | None,
        Option(
            metavar="cuts|none|FILE|TIME[=NAME]",
            help="Moments to mark: the clip's cuts, by default; markers of a CSV, EDL, FCPXML or WAV file; a time. "
            "May be repeated.",
        ),
    ] = None,
    fps: Annotated[str | None, Option(metavar="RATE", help="Of timecodes; by default the clip's.")] = None,
    timecode: Annotated[
        str | None, Option(metavar="HH:MM:SS:FF", help="Of the first frame; by default the clip's.")
    ] = None,
    under: Annotated[
        str, Option(metavar="GAIN|none", help="Gain of the clip's own sound under the music.")
    ] = "-12dB",
    duck: Annotated[
        bool, Option("--duck", help="Where someone speaks, music down and the clip's own sound up.")
    ] = False,
    silent: Annotated[
        bool, Option("--silent", help="Score a clip without sound, from silence and its cues.")
    ] = False,
    fade_in: Annotated[str | None, Option(metavar="TIME", help="As 2 or 00:00:02:00.")] = None,
    fade_out: Annotated[str | None, Option(metavar="TIME", help="As --fade-in.")] = None,
    **options: Any,
) -> None:
    """Make music of a video clip's length, and put it under its picture.

    The picture is copied as it is. The music lies beside the clip as Broadcast Wave too, and so does the record.
    """
    from silent2music.export.models import Request
    from silent2music.export.picture.job import ClipSettings, parse_gain
    from silent2music.export.picture.job import score_clip as score

    with options_checked():
        levels: dict[str, Any] = dict(levels_of(options["loudness"]))
        settings = ClipSettings(
            tuple(cue or ("cuts",)), fps, timecode, parse_gain(under), duck, silent, fade_in, fade_out
        )
        request = Request(
            sampling_of(options),
            controls=apply_overrides({}, options["control"] or ()),
            reading=reading_of(options),
            delivery=DeliveryConfig(**levels),
            beside=beside_of(options),
        )
    with progress_bar() as steps:
        record = score(clip, output, model_of(options), request, settings, wav, options["force"], steps)
    if options["as_json"]:
        print_json(record)
    else:
        n_frames, n_cues = record["clip"]["frames"], len(record["cues"])
        say(f"{output}: {described_music(record)}, {n_frames} frames, {n_cues} cues")
    warn(record)
    if record["cues"] and "score" not in record:
        complain("The cues are marked in the music's file and in the record; the model does not follow them.")
