"""Everything that steers the music: signals by name, the table of controls, and the layer that embeds them.

A control is one entry in `CONTROLS`. It says how its signal is read from what is known of a piece (a pair's labels in
training, a user's options later), and how it is embedded. Which controls a model has stands in its `config.json`, so a
new entry changes no model that is there already. Each has a learned embedding of "not given", its null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from silent2music import traits
from silent2music.ambient import FrameEncoder, ScalarEncoder, Standardise
from silent2music.arrays import FloatArray
from silent2music.config import ModelConfig
from silent2music.decoder import Conditioning
from silent2music.errors import ConfigError
from silent2music.notation import N_PROGRAMS
from silent2music.traits import Trait


@dataclass(frozen=True)
class Control:
    """One input that steers the music.

    Attributes:
        axis: a signal `along` time, or a value of the `whole` piece.
        read: takes what is known of a piece, by name, and gives the signal of codec frames `begin` to before `end`:
            `[(end - begin) * rate, F]` along time, `[F]` of the whole, or None if the control is not given, which is so
            for all frames of a piece or for none. Known are a pair's labels or a user's options, and as `room` the
            `AmbientFeatures` of just these frames.
        embedder: makes the module that embeds a batch, from a model's config and the decoder's width D: along time
            `(x [B, S * rate, F], mask [B, S]) -> [B, S, D]`, of the whole `(x [B, F]) -> [B, n_tokens, D]`. A module
            along time that sees neighbouring frames has the attribute `lookahead_frames`, their number on each side.
        rate: values for each codec frame, of a signal along time.
        n_tokens: how many global tokens a value of the whole piece makes, by config; of one that makes none, the
            embedding `[B, 1, D]` is added to all frames.
        group: name shared by controls that are also dropped together; guidance drops the group `room`.
        dropout: share of training rows in which it is dropped.
        label: of a control that follows from a pair's score, and so need not be prepared with the pairs.
    """

    axis: Literal["along", "whole"]
    read: Callable[[Mapping[str, Any], int, int], FloatArray | None]
    embedder: Callable[[ModelConfig, int], nn.Module]
    rate: int = 1
    n_tokens: Callable[[ModelConfig], int] = lambda config: 1
    group: str = ""
    dropout: float = 0.1
    label: Trait | None = None


def _of_room(field: str) -> Callable[[Mapping[str, Any], int, int], FloatArray | None]:
    return lambda known, begin, end: getattr(known["room"], field) if "room" in known else None


class Wish(nn.Module):
    """Embeds what a user asks for; at first as nothing, so that a model can learn it later on.

    Args:
        n_features: F.
        dim: D, the width of the model.
    """

    def __init__(self, n_features: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))
        for weight in self.layers[2].parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """From `[B, S, F]` to `[B, S, D]`, or from `[B, F]` to `[B, 1, D]`."""
        out: Tensor = self.layers(x if x.ndim == 3 else x[:, None])
        return out


def _wish(name: str, axis: Literal["along", "whole"], n_features: int, label: Trait) -> Control:
    """A control of the composer that a user may set; known is then its signal for the whole piece, under its name."""

    def read(known: Mapping[str, Any], begin: int, end: int) -> FloatArray | None:
        value: FloatArray | None = known.get(name)
        return value if value is None or axis == "whole" else value[begin:end]

    return Control(
        axis,
        read,
        lambda config, dim: Wish(n_features, dim),
        n_tokens=lambda config: 0,
        group=STEER,
        dropout=0.6,
        label=label,
    )


ROOM, STEER = "room", "steer"
"""Groups: the controls that are measured from the recording, without which a model plays for no room, and those that
a user asks for."""

CONTROLS: dict[str, Control] = {
    "room_frames": Control(
        "along",
        _of_room("frames"),
        lambda config, dim: FrameEncoder(config.ambient, dim),
        group=ROOM,
        dropout=0.0,
    ),
    "room_scalars": Control(
        "whole",
        _of_room("scalars"),
        lambda config, dim: ScalarEncoder(config.ambient, dim),
        n_tokens=lambda config: config.ambient.n_global_tokens,
        group=ROOM,
        dropout=0.0,
    ),
    "mode": _wish("mode", "whole", 2, traits.mode),
    "tempo": _wish("tempo", "whole", 1, traits.tempo),
    "metre": _wish("metre", "whole", 7, traits.metre),
    "instruments": _wish("instruments", "whole", N_PROGRAMS, traits.instruments),
    "mood": _wish("mood", "along", 2, traits.mood),
    "density": _wish("density", "along", 1, traits.density),
    "chords": _wish("chords", "along", 24, traits.chords),
    "melody": _wish("melody", "along", 14, traits.melody),
    "cues": _wish("cues", "along", 3, traits.cues),
    "ending": _wish("ending", "along", 6, traits.ending),
}
"""All controls by name; a user's option and a pair's label have the control's name."""

GROUP_DROPOUT = {ROOM: 0.15, STEER: 0.5}
"""Share of training rows in which all signals of a group are dropped together."""


def members(names: Iterable[str]) -> set[str]:
    """Names of the controls that `names` gives, by their own name or by their group's.

    Raises:
        ConfigError: if there is no such control or group.
    """
    asked, found = set(names), {name: {name, control.group} - {""} for name, control in CONTROLS.items()}
    for name in sorted(asked.difference(*found.values())):
        raise ConfigError(f"Control '{name}' is unknown; expected some of {', '.join(CONTROLS)} or a group.")
    return {name for name, called in found.items() if called & asked}


@dataclass(frozen=True)
class Signals:
    """A batch of named signals, each present or absent in each row; a name that is missing is absent in all.

    Attributes:
        along: by name `[B, S * rate, F]`, zero where padded or absent.
        whole: by name `[B, F]`, zero where absent.
        present: by name `[B]` bool.
        mask: `[B, S]` bool, false where a row is padding.
    """

    along: Mapping[str, Tensor]
    whole: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    mask: Tensor

    @property
    def n_rows(self) -> int:
        """B, the number of rows."""
        return int(self.mask.shape[0])

    @property
    def n_frames(self) -> int:
        """S, the length in codec frames."""
        return int(self.mask.shape[1])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Signals:
        """With every tensor changed alike."""
        along, whole, present = (
            {name: change(x) for name, x in part.items()} for part in (self.along, self.whole, self.present)
        )
        return Signals(along, whole, present, change(self.mask))

    def _in_time(self, change: Callable[[Tensor, int], Tensor]) -> Signals:
        """With all that is along time changed, given its steps for each codec frame."""
        along = {name: change(x, CONTROLS[name].rate) for name, x in self.along.items()}
        return replace(self, along=along, mask=change(self.mask, 1))

    def slice(self, begin: int, end: int) -> Signals:
        """Codec frames `begin` to before `end`."""
        return self._in_time(lambda x, rate: x[:, begin * rate : end * rate])

    def then(self, later: Signals) -> Signals:
        """These signals followed in time by `later` ones of the same names, which give the values of the whole piece."""
        along = {name: torch.cat([x, later.along[name]], dim=1) for name, x in self.along.items()}
        return replace(later, along=along, mask=torch.cat([self.mask, later.mask], dim=1))

    def held(self, n: int) -> Signals:
        """With the last step repeated for `n` codec frames more."""
        if n == 0:
            return self
        return self._in_time(lambda x, rate: torch.cat([x, *[x[:, -1:]] * (n * rate)], dim=1))

    def rows(self, index: Tensor | Sequence[int]) -> Signals:
        """The rows of an index `[R]`, in its order."""
        chosen = torch.as_tensor(index, device=self.mask.device)
        return self._each(lambda x: x[chosen])

    def to(self, device: torch.device | str) -> Signals:
        """The same on another device."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def without(self, *names: str) -> Signals:
        """The signals without some controls, given by their own name or by their group's."""
        dropped = members(names)
        along, whole, present = (
            {name: x for name, x in part.items() if name not in dropped}
            for part in (self.along, self.whole, self.present)
        )
        return Signals(along, whole, present, self.mask)

    def kept(self, keep: Mapping[str, Tensor]) -> Signals:
        """The signals with each control in `keep` made absent in the rows where its mask `[B]` is false."""
        present = {
            name: there & keep[name] if name in keep else there for name, there in self.present.items()
        }
        return replace(self, present=present)

    def exchanged(self, other: Signals, *names: str) -> Signals:
        """The signals with some controls (or groups) replaced by those of another batch of the same shape."""
        rest, theirs = self.without(*names), other.without(*(CONTROLS.keys() - members(names)))
        return Signals(
            {**rest.along, **theirs.along},
            {**rest.whole, **theirs.whole},
            {**rest.present, **theirs.present},
            self.mask,
        )

    @staticmethod
    def collate(parts: Sequence[Signals]) -> Signals:
        """One batch of the rows of all parts, in their order, padded at the end to the longest."""
        n_frames = max(part.n_frames for part in parts)

        def stacked(name: str, axis: str) -> Tensor:
            found = [getattr(part, axis).get(name) for part in parts]
            width = next(x.shape[-1] for x in found if x is not None)
            rows = []
            for part, x in zip(parts, found, strict=True):
                length = (n_frames * CONTROLS[name].rate,) if axis == "along" else ()
                padded = part.mask.new_zeros(part.n_rows, *length, width, dtype=torch.float32)
                if x is not None and axis == "along":
                    padded[:, : x.shape[1]] = x
                elif x is not None:
                    padded[:] = x
                rows.append(padded)
            return torch.cat(rows)

        names = {
            axis: dict.fromkeys(n for p in parts for n in getattr(p, axis)) for axis in ("along", "whole")
        }
        absent = [part.mask.new_zeros(part.n_rows) for part in parts]
        present = {
            name: torch.cat([part.present.get(name, none) for part, none in zip(parts, absent, strict=True)])
            for name in (*names["along"], *names["whole"])
        }
        mask = torch.cat([nn.functional.pad(part.mask, (0, n_frames - part.n_frames)) for part in parts])
        return Signals(
            {name: stacked(name, "along") for name in names["along"]},
            {name: stacked(name, "whole") for name in names["whole"]},
            present,
            mask,
        )


def contrasts(signals: Signals) -> dict[str, Signals]:
    """Signals with the `true` room, with the next row's (`shuffled`) and with none (`dropped`); of two rows or more."""
    following = signals.rows([*range(1, signals.n_rows), 0])
    return {"true": signals, "shuffled": signals.exchanged(following, ROOM), "dropped": signals.without(ROOM)}


def read_signals(names: Iterable[str], known: Mapping[str, Any], begin: int, end: int) -> Signals:
    """Read one row of signals, codec frames `begin` to before `end`; controls that are not given are absent.

    Args:
        known: see `Control.read`.
        begin, end: in codec frames.
    """
    values = {name: CONTROLS[name].read(known, begin, end) for name in names}
    return from_arrays(values, end - begin)


def from_arrays(values: Mapping[str, FloatArray | None], n_frames: int) -> Signals:
    """One row of signals of `n_frames` codec frames, from arrays as `Control.read` gives them."""
    parts: dict[str, dict[str, Tensor]] = {"along": {}, "whole": {}}
    for name, value in values.items():
        if value is not None:
            parts[CONTROLS[name].axis][name] = torch.as_tensor(value, dtype=torch.float32)[None]
    present = {name: torch.ones(1, dtype=torch.bool) for part in parts.values() for name in part}
    return Signals(parts["along"], parts["whole"], present, torch.ones(1, n_frames, dtype=torch.bool))


def check_controls(config: ModelConfig, controls: Iterable[str]) -> None:
    """Raise an error if a model lacks a control that the user gives.

    Raises:
        ConfigError: naming it and those that the model has.
    """
    own = [name for name in config.controls if CONTROLS[name].group != ROOM]
    for name in controls:
        if name not in own:
            has = f"expected {', '.join(own)}" if own else "it follows the room alone, leave it out"
            raise ConfigError(f"The model '{config.name}' has no control '{name}'; {has}.")


def prepared_controls() -> list[str]:
    """Names of the controls whose signals are prepared with the pairs; the others follow from a pair's score."""
    return [name for name, control in CONTROLS.items() if control.label is None]


def draw_kept(
    names: Sequence[str], shares: Mapping[str, float], n_rows: int, device: torch.device
) -> dict[str, Tensor]:
    """Draw the conditioning dropout of a training step: by name `[B]` bool, true where a row keeps the control.

    Drawn from torch's generator.

    Args:
        shares: dropped shares by control or group, where they differ from the tables above.
        n_rows: B.

    Raises:
        ConfigError: if `shares` names what is no control of these, nor a group of them.
    """
    groups = dict.fromkeys(CONTROLS[name].group for name in names if CONTROLS[name].group)
    for name in shares:
        if name not in names and name not in groups:
            raise ConfigError(
                f"training.control_dropout names '{name}'; expected some of {', '.join([*groups, *names])}."
            )

    def drawn(share: float) -> Tensor:
        if not share:
            return torch.ones(n_rows, dtype=torch.bool, device=device)
        return torch.rand(n_rows, device=device) >= share

    together = {group: drawn(shares.get(group, GROUP_DROPOUT.get(group, 0.0))) for group in groups}
    kept = {name: drawn(shares.get(name, CONTROLS[name].dropout)) for name in names}
    return {name: own & together.get(CONTROLS[name].group, own) for name, own in kept.items()}


class Embedder(nn.Module):
    """Embeds signals as conditioning of the decoder; an absent control is embedded as its learned null.

    Nulls are what classifier-free guidance needs (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022).
    Embeddings along time are summed; those of the whole piece are concatenated as global tokens.

    Args:
        dim: D, by default the decoder's width.

    Attributes:
        lookahead_frames: the largest lookahead of the controls, in codec frames.

    Raises:
        ConfigError: if the config names a control that this version does not know.
    """

    def __init__(self, config: ModelConfig, dim: int | None = None) -> None:
        super().__init__()
        for name in config.controls:
            if name not in CONTROLS:
                raise ConfigError(f"Control '{name}' is unknown; expected some of {', '.join(CONTROLS)}.")
        dim = dim or config.decoder.dim
        self.dim, self.names = dim, config.controls
        self.controls = nn.ModuleDict({name: CONTROLS[name].embedder(config, dim) for name in self.names})
        self.n_tokens = {
            name: CONTROLS[name].n_tokens(config) for name in self.names if CONTROLS[name].axis == "whole"
        }
        shapes = {
            name: (max(1, self.n_tokens[name]), dim) if name in self.n_tokens else (dim,)
            for name in self.names
        }
        self.nulls = nn.ParameterDict({name: torch.zeros(shape) for name, shape in shapes.items()})
        self.lookahead_frames = max(
            (int(getattr(module, "lookahead_frames", 0)) for module in self.controls.values()), default=0
        )

    def set_statistics(self, signals: Signals) -> None:
        """Set each standardisation layer to the mean and deviation of its signal in a batch."""
        for name, module in self.controls.items():
            standardise = getattr(module, "standardise", None)
            if not isinstance(standardise, Standardise) or name not in signals.present:
                continue
            there = signals.present[name]
            if name in signals.whole:
                standardise.fit(signals.whole[name][there])
            else:
                steps = (signals.mask & there[:, None]).repeat_interleave(CONTROLS[name].rate, dim=1)
                standardise.fit(signals.along[name][steps])

    def embed(self, name: str, signals: Signals) -> Tensor:
        """The embedding of one control: `[B, S, D]` along time, `[B, max(1, n_tokens), D]` of the whole piece."""
        null: Tensor = self.nulls[name]
        if CONTROLS[name].axis == "along":
            null = null.expand(signals.n_rows, signals.n_frames, -1)
            if name not in signals.along:
                return null
            x: Tensor = self.controls[name](signals.along[name], signals.mask)
        else:
            null = null.expand(signals.n_rows, -1, -1)
            if name not in signals.whole:
                return null
            x = self.controls[name](signals.whole[name])
        return torch.where(signals.present[name][:, None, None], x, null)

    def forward(self, signals: Signals) -> Conditioning:
        """The conditioning: `frames [B, S, D]`, padding filled with the last valid one, and `tokens [B, G, D]`."""
        mask = signals.mask
        added = [self.embed(name, signals) for name in self.names if not self.n_tokens.get(name)]
        whole = [self.embed(name, signals) for name in self.names if self.n_tokens.get(name)]
        frames = torch.zeros(*mask.shape, self.dim, device=mask.device)
        for part in added:
            frames = frames + part
        # A shorter row holds its last step, as the decoder does for the columns that end the delay pattern.
        last = (mask.sum(dim=1) - 1).clamp_min(0)
        step = torch.minimum(torch.arange(mask.shape[1], device=mask.device)[None], last[:, None])
        frames = frames.gather(1, step[..., None].expand_as(frames))
        tokens = torch.cat(whole, dim=1) if whole else frames.new_zeros(signals.n_rows, 0, self.dim)
        return Conditioning(frames, mask, tokens)
