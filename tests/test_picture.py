"""Clips scored to the frame, their cuts, timecode, and the markers of editors."""

from __future__ import annotations

import hashlib
import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import film, make_clip, scene
from rooms import steps_room
from test_unsuited import RATE as SPEECH_RATE
from test_unsuited import syllables

from silent2music import audio
from silent2music.acoustics.unsuited import speech_spans
from silent2music.audio import Recording, Waveform
from silent2music.controls import Controls
from silent2music.errors import AudioError, ConfigError, DataError
from silent2music.export.picture import sound
from silent2music.export.picture.clip import Clip, inspect, opened, packets, picture, room_of
from silent2music.export.picture.cuts import find_cuts
from silent2music.export.picture.job import ClipSettings, _with_cues, clock_of, parse_gain
from silent2music.export.picture.markers import read_markers
from silent2music.export.picture.timecode import Clock, frame_number, parse_rate
from silent2music.score import Cue

av = pytest.importorskip("av")

NTSC = Fraction(30_000, 1001)
CLOCK = Clock(Fraction(25))
RATE = 48_000


def frames_of(n: int) -> list[np.ndarray]:
    """A scene with a thing that moves, half of it after a cut."""
    stills = [scene(np.random.default_rng(seed)).astype(np.uint8) for seed in (1, 2)]
    frames = []
    for i in range(n):
        pixels = stills[i >= n // 2].copy()
        pixels[10:30, 2 * i % 100 : 2 * i % 100 + 20] = 0
        frames.append(pixels)
    return frames


def room(seconds: float, n_channels: int = 1) -> np.ndarray:
    return np.repeat(steps_room(seconds, RATE), n_channels, axis=0)


def bytes_of_picture(path: Path) -> tuple[str, int]:
    with opened(path) as container:
        every = [bytes(packet) for packet in packets(container, picture(container, path))]
    return hashlib.sha256(b"".join(every)).hexdigest(), len(every)


# ---- clips ----

CLIPS = {
    "film.mp4": {"rate": 24},
    "ntsc.mov": {"rate": NTSC, "timecode": "01:00:00;00"},
    "variable.mkv": {"rate": 50, "lengths": [2, 3, 1] * 12},
    "surround.mp4": {"rate": 25, "layout": "5.1"},
    "portrait.mp4": {"rate": Fraction(60_000, 1001), "rotation": 90},
}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_clip_keeps_its_picture_and_its_length(name: str, suffix: str, tmp_path: Path, caplog) -> None:
    options = CLIPS[name]
    n_channels = 6 if options.get("layout") else 1
    path = make_clip(tmp_path / name, frames_of(36), sound=room(1.5, n_channels), **options)
    clip = inspect(path)
    length = sum(options.get("lengths", [1] * 36)) / Fraction(options["rate"])
    assert clip.n_frames == 36
    assert clip.seconds == pytest.approx(length, abs=0.0011)  # Matroska counts milliseconds
    assert clip.is_variable == ("lengths" in options)
    mix, out = Recording(2, RATE), tmp_path / f"out{suffix}"
    mix.append(0.1 * np.random.default_rng(0).standard_normal((2, round(clip.seconds * RATE))))
    digest = sound.mux(clip, out, mix, -1.0)
    assert not caplog.records, "an option that the container does not know is a line on the user's screen"
    assert bytes_of_picture(out) == bytes_of_picture(path) and digest == bytes_of_picture(out)[0]
    again = inspect(out)
    assert clip.shows(again) and again.timecode == clip.timecode == options.get("timecode", "")
    assert again.shown_seconds == pytest.approx(clip.shown_seconds, abs=0.0011)
    with av.open(str(path)) as before, av.open(str(out)) as after:
        assert after.metadata.get("title", after.metadata.get("TITLE")) == "Scene 4"
        assert [next(f.decode(video=0)).rotation for f in (before, after)] == [options.get("rotation", 0)] * 2
        assert after.duration / 1e6 == pytest.approx(float(clip.seconds), abs=0.5 / float(clip.rate))
    assert audio.read(out).n_samples / RATE == pytest.approx(float(clip.seconds), abs=1024 / RATE)


def test_what_a_camera_said_is_kept(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames_of(16))
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "phone.mov"), "w", options={"movflags": "use_metadata_tags"}) as phone,
    ):
        copy = phone.add_stream_from_template(picture(source, path), opaque=True)
        phone.metadata["com.apple.quicktime.make"] = "Phone"
        for packet in packets(source, source.streams.video[0]):
            packet.stream = copy
            phone.mux(packet)
    mix = Recording(2, RATE)
    mix.append(np.zeros((2, round(16 / 25 * RATE))))
    sound.mux(inspect(tmp_path / "phone.mov"), tmp_path / "out.mp4", mix, -1.0)
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.metadata["com.apple.quicktime.make"] == "Phone"


def test_sound_that_begins_late_is_heard_late(tmp_path: Path) -> None:
    """The picture begins 0.2 s before the sound, by the file's time stamps."""
    path = make_clip(tmp_path / "a.mkv", frames_of(30), sound=room(1.0))
    late = tmp_path / "late.mkv"
    with av.open(str(path)) as source, av.open(str(late), "w") as target:
        copies = {s.index: target.add_stream_from_template(s, opaque=True) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    packet.pts += round(0.2 / packet.time_base)
                    packet.dts = packet.pts
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    clip, heard = inspect(late), [room_of(inspect(p), {}).whole().samples[0] for p in (path, late)]
    assert clip.sound_begin == pytest.approx(inspect(path).sound_begin + 0.2, abs=0.002)
    lag = np.argmax(np.abs(heard[1]) > 0.3 * np.abs(heard[1]).max()) - np.argmax(
        np.abs(heard[0]) > 0.3 * np.abs(heard[0]).max()
    )
    assert lag / RATE == pytest.approx(0.2, abs=0.002)
    own = sound.own_sound(clip, 0, None, RATE)
    assert not own.slice(0, round(0.19 * RATE)).any() and own.slice(0, RATE).any()


def test_bad_clips_are_one_sentence(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames_of(30), sound=room(1.0))
    data = path.read_bytes()
    (tmp_path / "head.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    fast = make_clip(tmp_path / "fast.mkv", frames_of(100)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(fast[: len(fast) // 3])
    audio.write(tmp_path / "sound.wav", Waveform(room(1.0), RATE))
    make_clip(tmp_path / "short.mp4", frames_of(4))
    for name, gives in {
        "head.mp4": "cannot be read as a video clip",
        "noise.mp4": "cannot be read as a video clip",
        "cut.mkv": r"is damaged: its picture ends after \d\.\d+ of 4.00 s",
        "sound.wav": "has no picture; expected a video clip",
        "short.mp4": "lasts 0.16 s; expected a clip of at least 0.5 s",
        "none.mp4": "does not exist",
        ".": "is a folder; expected a video clip",
    }.items():
        with pytest.raises(AudioError, match=gives):
            inspect(tmp_path / name)
    with pytest.raises(AudioError, match="has 1 sound tracks; there is no track 3"):
        inspect(path, 2)


# ---- cuts ----


def test_forty_cuts_among_pans_and_flashes(tmp_path: Path) -> None:
    frames, cuts, n_distractors = film(40, np.random.default_rng(7))
    clip = inspect(make_clip(tmp_path / "film.mp4", frames))
    found = np.array(find_cuts(clip)) * 25
    met = [np.abs(found - cut).min() <= 1.5 for cut in cuts]
    assert len(cuts) == 40 and n_distractors > 15
    assert sum(met) >= 36
    assert len(found) - sum(met) <= 2


def test_cuts_of_a_variable_rate_are_where_they_are_shown(tmp_path: Path) -> None:
    lengths = [1 + i % 3 for i in range(40)]
    clip = inspect(make_clip(tmp_path / "a.mkv", frames_of(40), 50, lengths=lengths))
    assert find_cuts(clip) == pytest.approx((sum(lengths[:20]) / 50,), abs=0.001)


# ---- the mix ----


def test_the_mix_is_the_sum_and_speech_turns_the_music_down(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tones, own = (0.1 * rng.standard_normal((2, 3 * RATE)).astype(np.float32) for _ in range(2))
    audio.write(tmp_path / "music.wav", Waveform(tones, RATE))
    under = Recording(2, RATE)
    under.append(own)
    mix = sound.mixed(tmp_path / "music.wav", RATE, under, sound.envelope([]), -12.0).whole().samples
    music_above, speech_above = tones + audio.db_to_gain(-12.0) * own, audio.db_to_gain(-12.0) * tones + own
    # Samples are compared by NumPy, since `pytest.approx` takes seconds for so many.
    assert np.allclose(mix, music_above, rtol=0, atol=1e-5)
    mix = (
        sound.mixed(tmp_path / "music.wav", RATE, under, sound.envelope([(1.0, 2.0)]), -12.0).whole().samples
    )
    part = slice(RATE, 2 * RATE)
    assert np.allclose(mix[:, part], speech_above[:, part], rtol=0, atol=1e-5)
    assert np.allclose(mix[:, : RATE // 2], music_above[:, : RATE // 2], rtol=0, atol=1e-5)
    alone = sound.mixed(tmp_path / "music.wav", RATE, None, sound.envelope([]), 0.0).whole().samples
    assert np.allclose(alone, tones, rtol=0, atol=1e-6)


def test_surround_folds_down_by_the_standard() -> None:
    half = np.sqrt(0.5)
    assert sound.fold_gains(6) == pytest.approx(
        np.array([[1, 0, half, 0, half, 0], [0, 1, half, 0, 0, half]])
    )
    assert sound.fold_gains(1).tolist() == [[1.0], [1.0]]


def test_speech_is_found_where_it_is_and_hum_and_steps_are_none() -> None:
    t = np.arange(6 * SPEECH_RATE) / SPEECH_RATE
    hum = 1e-3 * sum(np.sin(2 * np.pi * 100 * k * t) / k for k in range(1, 9))
    quiet = hum + 1e-4 * np.random.default_rng(0).standard_normal(len(t))
    spoken = quiet.copy()
    spoken[2 * SPEECH_RATE : 4 * SPEECH_RATE] += 0.05 * syllables(2.0)
    ((begin, end),) = speech_spans(Waveform(spoken[None].astype(np.float32), SPEECH_RATE))
    assert (begin, end) == (pytest.approx(2.0, abs=0.2), pytest.approx(4.0, abs=0.4))
    assert speech_spans(Waveform(quiet[None].astype(np.float32), SPEECH_RATE)) == ()
    assert speech_spans(Waveform(steps_room(6.0, SPEECH_RATE), SPEECH_RATE)) == ()


# ---- Broadcast Wave ----


def test_broadcast_wave_has_its_time_its_loudness_and_its_cues(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", Waveform(room(1.0), RATE))
    cues = (Cue(0.25, "reveal"), Cue(0.5, "Tür"))
    sound.write_broadcast(tmp_path / "a.wav", tmp_path / "b.wav", cues, Fraction(3600), -18.25, -1.5)
    data = (tmp_path / "b.wav").read_bytes()
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    at = data.index(b"bext") + 8
    assert struct.unpack("<QH", data[at + 338 : at + 348]) == (3600 * RATE, 2)
    assert struct.unpack("<5h", data[at + 412 : at + 422])[:3:2] == (-1825, -150)
    assert np.array_equal(audio.read(tmp_path / "b.wav").samples, audio.read(tmp_path / "a.wav").samples)
    assert read_markers(tmp_path / "b.wav", CLOCK) == cues


# ---- timecode ----


def test_drop_frame_timecode_skips_numbers_and_no_frames() -> None:
    """SMPTE ST 12-1: 17,982 frames in ten minutes at 29.97, 107,892 in an hour, twice as many at 59.94."""
    assert frame_number("00:01:00;02", NTSC) - frame_number("00:00:59;29", NTSC) == 1
    assert frame_number("00:10:00;00", NTSC) == 17_982
    assert frame_number("01:00:00;00", NTSC) == 107_892
    assert frame_number("01:00:00;00", Fraction(60_000, 1001)) == 215_784
    codes = (
        f"00:{m:02d}:{s:02d};{f:02d}"
        for m in range(12) for s in range(60) for f in range(2 if s == 0 and m % 10 else 0, 30)
    )  # fmt: skip
    assert [frame_number(code, NTSC) for code in codes] == list(range(12 * 1800 - 2 * 10))
    assert frame_number("23:59:59;29", NTSC) == 24 * 107_892 - 1
    assert float(107_892 / NTSC) == pytest.approx(3600.0, abs=0.004)


def test_times_of_a_clip() -> None:
    clock = Clock(Fraction(24), frame_number("10:00:00:00", Fraction(24)))
    assert clock.seconds("10:00:02:12") == 2.5
    assert clock.seconds("00:00:02:12") == 2.5  # before the clip's own: counted from zero
    assert clock.seconds("0:31.2") == 31.2 and clock.seconds("1:02:03.5") == 3723.5
    assert Clock(NTSC).seconds("00:01:00:00") == pytest.approx(60.06)
    assert Clock(NTSC, 108_000).start_seconds == Fraction(108_000 * 1001, 30_000)


@pytest.mark.parametrize(
    ("text", "rate", "gives"),
    [
        ("00:00:10:25", 25, "frames below 25"),
        ("00:61:00:00", 25, "does not exist at 25"),
        ("00:00:10;12", 25, "is drop-frame, which there is at 29.97 or 59.94"),
        ("00:01:00;00", NTSC, "counting skips; the next is 00:01:00;02"),
        ("soon", 25, "is no timecode"),
    ],
)
def test_timecodes_that_do_not_exist(text: str, rate: Fraction, gives: str) -> None:
    with pytest.raises(ConfigError, match=gives):
        frame_number(text, Fraction(rate))


def test_frame_rates() -> None:
    names = ("23.976", "23.98", "29.97", "59.94", "47.952", "119.88")
    assert [parse_rate(name) for name in names] == [
        Fraction(n * 1000, 1001) for n in (24, 24, 30, 60, 48, 120)
    ]
    assert parse_rate("12.5") == Fraction(25, 2)
    for text in ("0", "fast", "1/0", "nan", "1e9"):
        with pytest.raises(ConfigError, match="frame rate"):
            parse_rate(text)


def test_options_out_of_range() -> None:
    assert (parse_gain("-12dB"), parse_gain("3"), parse_gain("none")) == (-12.0, 3.0, None)
    for make in (
        lambda: parse_gain("loud"),
        lambda: ClipSettings(under_db=-80.0),
        lambda: ClipSettings(under_db=float("nan")),
        lambda: ClipSettings(cues=("none", "cuts")),
        lambda: CLOCK.seconds("-3"),
        lambda: CLOCK.seconds("1:75"),
        lambda: CLOCK.seconds("nan"),
        lambda: CLOCK.seconds("1e9"),
    ):
        with pytest.raises(ConfigError):
            make()


def test_the_clock_is_the_clips_unless_said_otherwise() -> None:
    clip = Clip(Path("a.mov"), NTSC, Fraction(0), (0.0, 1.0), Fraction(2), "01:00:00;00", 0.0)
    assert clock_of(clip, ClipSettings()) == Clock(NTSC, 107_892)
    assert clock_of(clip, ClipSettings(fps="25", timecode="00:00:01:00")) == Clock(Fraction(25), 25)


# ---- markers ----

EDL = """TITLE: Scene 4
FCM: NON-DROP FRAME

001  AX       V     C        00:00:00:00 00:00:02:00 01:00:00:00 01:00:02:00
* FROM CLIP NAME: wide.mov
002  AX       V     C        00:00:10:00 00:00:12:00 01:00:02:00 01:00:04:00
* FROM CLIP NAME: close.mov
003  AX       V     D    012 00:00:20:00 00:00:22:00 01:00:04:12 01:00:06:00
"""
LOCATORS = EDL + "* LOC: 01:00:03:05 RED     the door opens\n"
RESOLVE = """TITLE: Timeline 1
FCM: NON-DROP FRAME

001  001      V     C        01:00:00:00 01:00:00:01 01:00:00:00 01:00:00:01
 |C:ResolveColorBlue |M:start |D:1

002  001      V     C        01:00:05:00 01:00:05:01 01:00:05:00 01:00:05:01
 |C:ResolveColorRed |M:she turns |D:1
"""
FCPXML = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE fcpxml>
<fcpxml version="1.10"><library><event><project><sequence tcStart="3600s" duration="10s"><spine>
  <asset-clip name="wide" offset="3600s" start="100s" duration="4s">
    <marker start="10250/100s" duration="1/25s" value="steps"/>
    <spine lane="1" offset="101s"><clip offset="1s" start="50s" duration="2s">
      <chapter-marker start="51s" value="insert"/></clip></spine>
  </asset-clip>
  <gap name="Gap" offset="3604s" start="3600s" duration="2s"><marker start="3601s" value="dark"/></gap>
</spine></sequence></project></event></library></fcpxml>
"""
PREMIERE = "Marker Name\tDescription\tIn\tOut\tDuration\tMarker Type\n" + (
    "reveal\t\t00;00;01;00\t00;00;01;00\t00;00;00;00\tComment\n"
    "\tno name\t00;01;00;02\t00;01;00;02\t00;00;00;00\tChapter\n"
)
WAV_CUES = (
    b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0"
    + struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16)
    + b"cue \x1c\0\0\0"
    + struct.pack("<III4sIII", 1, 7, 0, b"data", 0, 0, 12_000)
    + b"LIST\x14\0\0\0adtllabl\x08\0\0\0"
    + struct.pack("<I4s", 7, b"hit\0")
)

MARKERS = {
    "a.csv": (b'seconds,name\n2.5,reveal\n1,"a, b"\n', CLOCK, [(1.0, "a, b"), (2.5, "reveal")]),
    "bare.csv": (b"0:31.2,reveal\n00:00:02:05\n", CLOCK, [(2.2, "marker 2"), (31.2, "reveal")]),
    "cuts.edl": (EDL.encode(), CLOCK, [(2.0, "close.mov"), (4.48, "cut 3")]),
    "clip.edl": (EDL.encode(), Clock(Fraction(25), 90_050), [(2.48, "cut 3")]),
    "locators.edl": (LOCATORS.encode(), CLOCK, [(3.2, "the door opens")]),
    "resolve.edl": (RESOLVE.encode(), CLOCK, [(0.0, "start"), (5.0, "she turns")]),
    "drop.edl": (
        EDL.replace("NON-DROP", "DROP").replace("01:00:02:00", "01:01:00:02").encode(),
        Clock(NTSC),
        [(float(1800 / NTSC), "close.mov"), (float(132 / NTSC), "cut 3")],
    ),
    "a.fcpxml": (FCPXML.encode(), CLOCK, [(2.5, "steps"), (3.0, "insert"), (5.0, "dark")]),
    "premiere.csv": (
        PREMIERE.encode("utf-16"),
        Clock(NTSC),
        [(float(30 / NTSC), "reveal"), (float(1800 / NTSC), "no name")],
    ),
    "a.wav": (WAV_CUES, CLOCK, [(1.5, "hit")]),
}


@pytest.mark.parametrize("name", MARKERS)
def test_markers_of_each_editor(name: str, tmp_path: Path) -> None:
    data, clock, expected = MARKERS[name]
    (tmp_path / name).write_bytes(data)
    found = read_markers(tmp_path / name, clock)
    assert [cue.name for cue in found] == [title for _, title in sorted(expected)]
    assert [cue.seconds for cue in found] == pytest.approx([seconds for seconds, _ in sorted(expected)])


@pytest.mark.parametrize(
    ("name", "data", "gives"),
    [
        ("a.csv", b"", "holds no markers"),
        ("a.csv", b"reveal,2.5\n", "its first line is neither"),
        ("a.csv", b"seconds,name\nsoon,reveal\n", "'soon' is no time"),
        ("a.edl", b"\x00\x01\x02", "no line of an edit"),
        ("a.edl", EDL.replace("01:00:02:00", "01:00:02:30").encode(), "frames below 25"),
        ("a.fcpxml", b"<fcpxml", "is no list of markers"),
        ("a.fcpxml", b"<xmeml/>", "its first element is xmeml"),
        ("a.fcpxml", FCPXML.replace("10250/100s", "10250/0s").encode(), "expected rational seconds"),
        ("a.fcpxml", b'<!DOCTYPE a [<!ENTITY b "c">]><fcpxml>&b;</fcpxml>', "document type has contents"),
        ("a.fcpxml", b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><fcpxml/>', "document type has contents"),
        ("a.wav", b"RIFF", "does not begin as a WAV file"),
        ("a.wav", WAV_CUES[:40], "holds no markers"),
    ],
)
def test_markers_that_are_none_are_one_sentence(name: str, data: bytes, gives: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=gives) as error:
        read_markers(tmp_path / name, CLOCK)
    assert "\n" not in str(error.value) and name in str(error.value)


# ---- the command ----


class TestCommand:
    def test_a_clip_is_scored(self, s2m, model_folder: Path, tmp_path: Path) -> None:
        path = make_clip(
            tmp_path / "scene.mov", frames_of(30), NTSC, room(1.2, 2), "stereo", timecode="01:00:00;00"
        )
        markers = tmp_path / "marks.csv"
        markers.write_text("seconds,name\n0.2,reveal\n9,late\n", encoding="utf-8")
        command = ("score-clip", path, "-o", tmp_path / "scored.mov", "--model", model_folder, "--duck")
        asked = (
            "--cue",
            "cuts",
            "--cue",
            markers,
            "--cue",
            "01:00:00;12=door",
            "--fade-in",
            "00:00:00;06",
            "--seed",
            "7",
        )
        code, printed, complained = s2m(*command, *asked)
        assert code == 0, complained
        assert "30 frames, 3 cues" in printed
        assert "has 1 cues after its end" in complained and "does not follow them" in complained
        out, music = tmp_path / "scored.mov", tmp_path / "scored.wav"
        assert inspect(path).shows(inspect(out)) and bytes_of_picture(path) == bytes_of_picture(out)
        assert audio.read(music).n_samples == round(30 / NTSC * RATE)
        record = json.loads((tmp_path / "scored.json").read_text(encoding="utf-8"))
        assert [c["name"] for c in record["cues"]] == ["reveal", "door", "cut 1"]
        assert record["cues"][2]["seconds"] == pytest.approx(float(15 / NTSC))
        assert record["clip"]["start_seconds"] == pytest.approx(107_892 / NTSC)
        assert record["settings"]["seed"] == 7 and record["settings"]["score_guidance"] == 1.25
        assert record["settings"]["delivery"]["fade_in"] == pytest.approx(float(6 / NTSC))
        assert [c.name for c in read_markers(music, CLOCK)] == ["reveal", "door", "cut 1"]
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        code, _, complained = s2m(*command, *asked)
        assert code == 1 and "exists already; give --force" in complained
        assert s2m(*command, *asked, "--force")[0] == 0
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_its_stems_add_up_and_bear_its_time(self, s2m, sketched_folder: Path, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "scene.mov", frames_of(30), sound=room(1.2), timecode="01:00:00:00")
        command = ("score-clip", path, "-o", tmp_path / "out.mov", "--model", sketched_folder)
        code, _, complained = s2m(*command, "--stems-by", "part", "--cue", "0.5=door")
        assert code == 0, complained
        record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        stems = [tmp_path / stem["file"] for stem in record["stems"]]
        assert len(stems) > 1 and all(stem.name.startswith("out.") for stem in stems)
        total = np.sum([audio.read(stem).samples.astype(np.float64) for stem in stems], axis=0)
        assert np.abs(total - audio.read(tmp_path / "out.wav").samples).max() <= 2.0**-24
        for stem, said in zip(stems, record["stems"], strict=True):
            data = stem.read_bytes()
            assert hashlib.sha256(data).hexdigest() == said["sha256"]
            at = data.index(b"bext") + 8
            assert struct.unpack("<Q", data[at + 338 : at + 346]) == (3600 * RATE,)
            assert [cue.name for cue in read_markers(stem, CLOCK)] == ["door"]
        assert s2m(*command, "--stems-by", "part")[0] == 1
        code, _, complained = s2m(*command, "--stems-by", "voice", "--force")
        assert (code, complained.count("\n")) == (2, 1) and "expected role or part" in complained

    def test_a_clip_without_sound(self, s2m, model_folder: Path, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "mute.mp4", frames_of(24))
        command = ("score-clip", path, "-o", tmp_path / "out.mp4", "--model", model_folder)
        code, _, complained = s2m(*command)
        assert (code, complained) == (
            1,
            f"{path} has no sound to take for the room; give --silent to score silence and its cues.\n",
        )
        assert list(tmp_path.iterdir()) == [path]
        code, printed, complained = s2m(
            *command, "--silent", "--cue", "0.5=reveal", "--wav", tmp_path / "m.wav"
        )
        assert code == 0 and "24 frames, 1 cues" in printed and "check the microphone" not in complained
        assert audio.read(tmp_path / "m.wav").n_samples == round(0.96 * RATE)
        assert inspect(tmp_path / "out.mp4").sound_begin is not None

    def test_bad_input_is_one_sentence_and_leaves_nothing(
        self, s2m, model_folder: Path, tmp_path: Path
    ) -> None:
        path = make_clip(tmp_path / "a.mp4", frames_of(24), sound=room(1.0))
        (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:3000])
        there = sorted(tmp_path.iterdir())
        for clip, options, code, gives in [
            ("cut.mp4", (), 1, "cannot be read as a video clip"),
            ("a.mp4", ("-o", tmp_path / "out.avi"), 1, "has the suffix '.avi'; expected one of .mp4"),
            ("a.mp4", ("-o", path), 1, "is the recording itself"),
            ("a.mp4", ("--wav", tmp_path / "m.flac"), 1, "expected a file that ends in .wav"),
            ("a.mp4", ("--silent",), 1, "has sound, which is the room"),
            ("a.mp4", ("--under", "loud"), 2, "expected decibels such as -12dB"),
            ("a.mp4", ("--under", "99"), 2, "--under is 99 dB"),
            ("a.mp4", ("--fps", "fast"), 1, "The frame rate is 'fast'"),
            ("a.mp4", ("--timecode", "1:00"), 1, "is no timecode"),
            ("a.mp4", ("--cue", "nowhere.edl"), 1, "which is no file that is there"),
            ("a.mp4", ("--cue", "00:00:01:99"), 1, "frames below 25"),
            ("a.mp4", ("--cue", "9"), 1, "All 1 cues lie after the clip's end at 0.96 s"),
            ("a.mp4", ("--fade-in", "soon"), 1, "is no time"),
            ("a.mp4", ("--track", 2), 1, "there is no track 2"),
        ]:
            asked = () if "-o" in options else ("-o", tmp_path / "out.mp4")
            got, _, complained = s2m("score-clip", tmp_path / clip, *asked, "--model", model_folder, *options)
            assert (got, complained.count("\n")) == (code, 1), complained
            assert gives in complained
            assert sorted(tmp_path.iterdir()) == there


def test_cues_are_asked_of_a_composer_where_a_section_has_room() -> None:
    cues = [Cue(0.0, "cut 1"), Cue(1.5, "cut 2"), Cue(3.95, "cut 3")]
    asked = _with_cues(Controls(tempo=96.0), cues, 4.0)
    assert asked is not None and asked.cues == ("1.500",) and asked.tempo == 96.0
    assert _with_cues(None, cues[:1], 4.0) is None
