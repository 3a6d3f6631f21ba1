"""The composer: an autoregressive model that writes the score for a room, codec frame by codec frame.

```
events of the frame before, what is remembered, the room ──► transformer, one step a frame ──► state of the frame
state of the frame, its events so far ──► writer, one step a field ──► symbol, place, pitch, length, velocity
```
The transformer is made of the decoder's blocks. Most frames hold nothing and cost one step of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.acoustics import PROFILE_SCALARS
from silent2music.arrays import IntArray
from silent2music.config import ComposerConfig, ModelConfig
from silent2music.decoder import Conditioning, make_blocks, run_blocks
from silent2music.notation import (
    BAR,
    BEAT,
    DRUMS,
    END,
    FIELDS,
    FIRST_PART,
    HABITS,
    LENGTHS_SECONDS,
    N_ECHOES,
    N_HELD,
    N_KEYS,
    N_PROGRAMS,
    N_SCALARS,
    N_SYMBOLS,
    PART_ROLES,
    REFERENCES,
    Written,
    gain_of_frames,
    home_shift,
    remembered,
    write_down,
)
from silent2music.score import Score
from silent2music.signals import ROOM, Embedder, Signals, contrasts
from silent2music.weights import WEIGHTS_FILE, fill, load_module, read_weights, save_module

GAIN_SCALE_DB = 6.0
"""Unit of the loudness automation inside the model."""

GAIN_WEIGHT = 0.25
"""Nats that an error of one such unit counts for in training."""

HABIT_SCALE = 8.0
"""By which habits are learned faster than other weights, as numbers of the order of a nat have to be."""

N_INTERVALS = 255
"""Intervals between two pitches, from -127 semitones on."""

LIMIT_QUANTILE = 0.999
"""Quantile, over the frames and the notes of training scores, at which `composing.Polyphony` and `composing.Repeats`
have their limits."""


LIMITS = ("known_symbols", "known_pitches", "longest", "polyphony", "repeats")
"""Buffers of a composer that hold the limits of sampling."""

N_ENSEMBLES = 1024
ENSEMBLES = ("ensemble_rooms", "ensemble_programs", "ensemble_amounts")
"""Buffers of a composer that hold who plays in so many training scores, how much, and for which room; see `players`."""

ROOM_STEPS = 32
"""By which a room's scalars are stored, as whole numbers."""


@dataclass(frozen=True)
class Pages:
    """A batch of stretches of scores, as the composer is trained on them.

    Attributes:
        event_rows: `[N]` int64, `row * T + frame` of every event, ascending.
        fields: `[N, 5]` int64, see `notation.FIELDS`.
        before_rows, before_fields: `[n]` and `[n, 5]`, the events of the frame before each stretch, with the row
            `row * T` that they are known in.
        held: indices `[n]` below `N_HELD` for all frames one after another, their `[B * T]` offsets, and weights `[n]`.
        scalars: `[B, T, N_SCALARS]`.
        habits: `[B * T, N_SYMBOLS, len(HABITS)]`, see `notation.Memory.habits`.
        references: `[N, 3]` int64, pitches to compare that of each event with; `NO_PITCH` where there is none.
        echoes: `[N, N_ECHOES, 128]`, 1 for the pitches that each event's part began one and two bars ago.
        gain: `[B, T]` loudness automation in units of `GAIN_SCALE_DB`; not a number in scores without one.
        n_frames: T.
    """

    event_rows: Tensor
    fields: Tensor
    before_rows: Tensor
    before_fields: Tensor
    held: tuple[Tensor, Tensor, Tensor]
    scalars: Tensor
    habits: Tensor
    references: Tensor
    echoes: Tensor
    gain: Tensor
    n_frames: int

    def to(self, device: torch.device | str) -> Pages:
        """The same on another device."""
        names = [field.name for field in fields(self) if field.name not in ("held", "n_frames")]
        moved = {name: getattr(self, name).to(device) for name in names}
        indices, offsets, weights = (x.to(device) for x in self.held)
        return replace(self, held=(indices, offsets, weights), **moved)

    @staticmethod
    def of(scores: Sequence[Score], starts: Sequence[int], n_frames: int, frame_rate: float) -> Pages:
        """Frames `start` to before `start + n_frames` of each score, with what came before them remembered.

        Scores are moved to C major or A minor.

        Args:
            scores: B of them; what is beyond the end of one is empty.
            starts: in codec frames.
            n_frames: T.
            frame_rate: in Hz.
        """
        events, before, found, gains = [], [], [], []
        for row, (score, start) in enumerate(zip(scores, starts, strict=True)):
            written = write_down(score, frame_rate).transposed(home_shift(score))
            found.append(remembered(written, start, start + n_frames, frame_rate))
            gain = gain_of_frames(score, start, start + n_frames, frame_rate) / GAIN_SCALE_DB
            gains.append(gain if len(score.gain_db) else np.full_like(gain, np.nan))
            events.append(_with_rows(written.slice(start, start + n_frames), row * n_frames))
            before.append(_with_rows(written.slice(start - 1, start), row * n_frames))
        keys = [frame for own in found for frame in own.keys]
        counts = np.cumsum([0, *(len(indices) for indices, _ in keys)])[:-1]
        held = (
            torch.tensor([index for indices, _ in keys for index in indices], dtype=torch.int64),
            torch.from_numpy(counts),
            torch.tensor([weight for _, weights in keys for weight in weights]),
        )
        listed, earlier = (torch.from_numpy(np.concatenate(part)) for part in (events, before))
        firsts = np.cumsum([0, *(len(own) for own in events)])
        habits = torch.zeros(len(scores) * n_frames, N_SYMBOLS, len(HABITS))
        echoes = torch.zeros(len(listed), N_ECHOES, 128)
        for row, own in enumerate(found):
            if own.habits:
                values = torch.tensor(own.habits)
                habits[row * n_frames + values[:, 0].long(), values[:, 1].long()] = values[:, 2:]
            if own.echoes:
                event, bar, pitch = torch.tensor(own.echoes).unbind(dim=1)
                echoes[firsts[row] + event, bar, pitch] = 1.0
        references = [reference for own in found for reference in own.references]
        return Pages(
            event_rows=listed[:, 0],
            fields=listed[:, 1:],
            before_rows=earlier[:, 0],
            before_fields=earlier[:, 1:],
            held=held,
            scalars=torch.from_numpy(np.stack([own.scalars for own in found])),
            habits=habits,
            references=torch.tensor(references, dtype=torch.int64).reshape(-1, len(REFERENCES)),
            echoes=echoes,
            gain=torch.from_numpy(np.stack(gains)),
            n_frames=n_frames,
        )


def _with_rows(written: Written, first: int) -> IntArray:
    """Events `[N, 6]` with `first` and their frame before their fields."""
    return np.concatenate([written.frames[:, None] + first, written.fields], axis=1)


class GatedBlock(nn.Module):
    """Pre-norm gated MLP around a residual (Shazeer, "GLU variants improve Transformer", 2020)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.gate_up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(2 * dim, dim)
        nn.init.normal_(self.down.weight, std=(8 * dim) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """From `[..., H]` to the same shape."""
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(functional.silu(gate) * up)
        return out


class EventEmbedder(nn.Module):
    """Embeds events, and their fields one by one, at the width H of the writer.

    An instrument is embedded as program plus role; a pitch by its role, and also whatever its role.
    """

    programs: Tensor
    roles: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.marks = nn.Embedding(FIRST_PART, dim)
        self.program = nn.Embedding(N_PROGRAMS, dim)
        self.role = nn.Embedding(len(PART_ROLES), dim)
        self.place = nn.Embedding(FIELDS["place"], dim)
        self.key = nn.Embedding(N_KEYS, dim)
        self.pitch = nn.Embedding(FIELDS["pitch"], dim)
        self.length = nn.Embedding(FIELDS["length"], dim)
        self.velocity = nn.Embedding(FIELDS["velocity"], dim)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5)

    def symbols(self) -> Tensor:
        """Embeddings `[N_SYMBOLS, H]` of all symbols."""
        parts = self.role.weight[:, None] + self.program.weight
        return torch.cat([self.marks.weight, parts.flatten(0, 1)])

    def pitches(self, symbols: Tensor, pitches: Tensor) -> Tensor:
        """Embeddings `[n, H]` of pitches `[n]` of notes with symbols `[n]`."""
        part = symbols - FIRST_PART
        is_drum = part % N_PROGRAMS == DRUMS
        shared = self.pitch(pitches).masked_fill(is_drum[:, None], 0.0)
        embedded: Tensor = self.key(part // N_PROGRAMS * 128 + pitches) + shared
        return embedded

    def forward(self, fields: Tensor) -> Tensor:
        """What is known of events `[n, 5]` after each field: `[n, 5, H]`; a mark has nothing after its place."""
        symbol, place, pitch, length, velocity = fields.unbind(dim=1)
        is_note = (symbol >= FIRST_PART)[:, None]
        own = self.pitches(symbol.clamp_min(FIRST_PART), pitch)
        later = [
            part.masked_fill(~is_note, 0.0) for part in (own, self.length(length), self.velocity(velocity))
        ]
        first = functional.embedding(symbol, self.symbols())
        return torch.stack([first, self.place(place), *later], dim=1).cumsum(dim=1)


class Habits(nn.Module):
    """What music does by habit, as additions to logits: instruments go on, parts move by small steps, bars come again.

    How much each habit counts is a linear function of the writer's output, the intervals that a role likes are tables. A
    transformer can learn all of this from embedded notes, but does so slowly. At the start nothing is added.

    Args:
        dim: H, of the writer.
    """

    role_of: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        n_roles = len(PART_ROLES)
        # Bars, then beats, have habits of their own.
        self.symbol = nn.Linear(dim, len(HABITS) * (n_roles + 2))
        self.pitch = nn.Linear(dim, len(REFERENCES) + N_ECHOES)
        for layer in (self.symbol, self.pitch):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.pitch.bias[: len(REFERENCES)] = 1.0 / HABIT_SCALE
        self.intervals = nn.Parameter(torch.zeros(len(REFERENCES), n_roles, N_INTERVALS))
        roles = (torch.arange(N_SYMBOLS) - FIRST_PART).clamp_min(0) // N_PROGRAMS
        roles[BAR], roles[BEAT] = n_roles, n_roles + 1
        self.register_buffer("role_of", roles, persistent=False)

    def symbols(self, x: Tensor, habits: Tensor) -> Tensor:
        """Additions `[n, N_SYMBOLS]` to logits of symbols.

        Args:
            x: `[n, H]`, input of the head.
            habits: `[n, N_SYMBOLS, len(HABITS)]`.
        """
        weights = HABIT_SCALE * self.symbol(x).view(len(x), -1, len(HABITS))
        return torch.einsum("nsh,nsh->ns", weights[:, self.role_of], habits)

    def pitches(self, x: Tensor, symbols: Tensor, references: Tensor, echoes: Tensor) -> Tensor:
        """Additions `[n, 128]` to logits of pitches.

        Args:
            x: `[n, H]`, input of the head.
            symbols: `[n]`, of notes.
            references: `[n, 3]`, as in `Pages`.
            echoes: `[n, N_ECHOES, 128]`, as in `Pages`.
        """
        weights = HABIT_SCALE * self.pitch(x)
        there = (references >= 0).float() * weights[:, : len(REFERENCES)]
        wanted = torch.arange(128, device=x.device) - references[..., None] + 127
        tables = HABIT_SCALE * self.intervals[:, self.role_of[symbols]].transpose(0, 1)
        found = tables.gather(2, wanted.clamp_max(N_INTERVALS - 1))
        added: Tensor = (found * there[..., None]).sum(dim=1)
        return added + torch.einsum("ne,nep->np", weights[:, len(REFERENCES) :], echoes)


class Composer(nn.Module):
    """Writes a score for a room, note after note, under the room's signals.

    Raises:
        ConfigError: if they do not fit one another.
    """

    known_symbols: Tensor
    known_pitches: Tensor
    longest: Tensor
    polyphony: Tensor
    repeats: Tensor
    tables = ENSEMBLES
    ensemble_rooms: Tensor
    ensemble_programs: Tensor
    ensemble_amounts: Tensor

    def __init__(self, config: ComposerConfig) -> None:
        super().__init__()
        self.config = config
        dim, inner = config.dim, config.writer_dim
        self.embedder = Embedder(ModelConfig(controls=config.controls, ambient=config.ambient), dim)
        self.events = EventEmbedder(inner)
        self.to_stream = nn.Linear(inner, dim, bias=False)
        self.to_writer = nn.Linear(inner, inner, bias=False)
        self.held = nn.EmbeddingBag(N_HELD, dim, mode="sum")
        nn.init.normal_(self.held.weight, std=0.1)
        self.scalars = nn.Linear(N_SCALARS, dim)
        self.blocks = make_blocks(config)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.state = nn.Linear(dim, inner)
        self.field = nn.Embedding(len(FIELDS), inner)
        self.writer = nn.ModuleList(GatedBlock(inner) for _ in range(config.writer_layers))
        self.writer_norm = nn.RMSNorm(inner, eps=1e-6)
        self.heads = nn.ModuleDict({name: nn.Linear(inner, size) for name, size in FIELDS.items()})
        self.habits = Habits(inner)
        self.gain = nn.Linear(dim, 1)
        # What training scores have, for the constraints of sampling.
        self.register_buffer("known_symbols", torch.ones(N_SYMBOLS, dtype=torch.bool))
        self.register_buffer("known_pitches", torch.ones(N_SYMBOLS, 128, dtype=torch.bool))
        self.register_buffer("longest", torch.full((N_SYMBOLS,), len(LENGTHS_SECONDS) - 1, dtype=torch.uint8))
        self.register_buffer("polyphony", torch.tensor(255, dtype=torch.uint8))
        self.register_buffer("repeats", torch.tensor(255, dtype=torch.uint8))
        # Rows without programs are unused.
        n_scalars = len(PROFILE_SCALARS)
        self.register_buffer("ensemble_rooms", torch.zeros(N_ENSEMBLES, n_scalars, dtype=torch.int8))
        self.register_buffer("ensemble_programs", torch.zeros(N_ENSEMBLES, N_PROGRAMS, dtype=torch.bool))
        self.register_buffer("ensemble_amounts", torch.zeros(N_ENSEMBLES, 4, dtype=torch.uint8))

    def set_limits(self, scores: Sequence[Score], widen: bool = False) -> None:
        """Set the limits of `composing.CONSTRAINTS` from training scores.

        Pitches, as they sound, are all between an instrument's lowest and highest; of drums those that there are.

        Args:
            widen: allow what was allowed before, too.
        """
        before = {name: getattr(self, name).clone() for name in LIMITS} if widen else {}
        rate = self.config.ambient.frame_rate
        counts = torch.zeros(N_SYMBOLS, 128, dtype=torch.int64)
        sounding, runs = [np.zeros(1, np.int64)], [np.ones(1, np.int64)]
        self.longest.zero_()
        for score in scores:
            fields = torch.from_numpy(write_down(score, rate).fields)
            notes = fields[fields[:, 0] >= FIRST_PART]
            counts.index_put_((notes[:, 0], notes[:, 2]), torch.tensor(1), accumulate=True)
            for symbol in np.unique(notes[:, 0].numpy()).tolist():
                own = notes[notes[:, 0] == symbol]
                self.longest[symbol] = max(int(self.longest[symbol]), int(own[:, 3].max()))
                if (symbol - FIRST_PART) % N_PROGRAMS != DRUMS:
                    changes = np.flatnonzero(np.diff(own[:, 2].numpy(), prepend=-1, append=-1))
                    runs.append(np.repeat(np.diff(changes), np.diff(changes)))
            sounding.append(score.sounding(1.0 / rate))
        known, pitch = counts > 0, torch.arange(128)
        is_drum = (torch.arange(N_SYMBOLS) - FIRST_PART) % N_PROGRAMS == DRUMS
        low = torch.where(known, pitch, 255).amin(dim=1, keepdim=True)
        high = torch.where(known, pitch, -255).amax(dim=1, keepdim=True)
        self.known_pitches.copy_(torch.where(is_drum[:, None], known, (pitch >= low) & (pitch <= high)))
        self.known_symbols.copy_(known.any(dim=1) | (torch.arange(N_SYMBOLS) < FIRST_PART))
        for limit, found in ((self.polyphony, sounding), (self.repeats, runs)):
            limit.fill_(min(255, round(float(np.quantile(np.concatenate(found), LIMIT_QUANTILE))) + 1))
        for name, limit in before.items():
            own = getattr(self, name)
            own.copy_(torch.maximum(own, limit))

    # ---- the transformer ----

    def condition(self, signals: Signals) -> Conditioning:
        """Signals, embedded as conditioning of the composer; those that it does not know are left out."""
        found: Conditioning = self.embedder(signals)
        return found

    def steer(self, signals: Signals, without: Sequence[str] = ()) -> tuple[Conditioning, Conditioning]:
        """Conditioning without some controls, and the null of classifier-free guidance: the same without the room."""
        given = signals.without(*without)
        return self.condition(given), self.condition(given.without(ROOM))

    def states(self, pages: Pages, conditioning: Conditioning) -> Tensor:
        """The transformer's output `[B, T, D]`: of each frame what is known before its events are written."""
        b, t = conditioning.frames.shape[:2]
        fields = torch.cat([pages.before_fields, pages.fields])
        rows = torch.cat([pages.before_rows, pages.event_rows + 1])
        # An event of a row's last frame is not seen by another row's first.
        seen = torch.cat([pages.before_rows >= 0, (pages.event_rows + 1) % t > 0])
        x = conditioning.frames + self.scalars(pages.scalars)
        x = x + self.held(pages.held[0], pages.held[1], pages.held[2]).view(b, t, -1)
        vectors = self.to_stream(functional.gelu(self.events(fields)[:, -1]))
        x = x.flatten(0, 1).index_add(0, rows[seen], vectors[seen].to(x.dtype)).view(b, t, -1)
        n_tokens = conditioning.tokens.shape[1]
        x = self.dropout(torch.cat([conditioning.tokens.to(x.dtype), x], dim=1))
        out: Tensor = self.norm(run_blocks(self.blocks, x, n_tokens, self.config)[:, n_tokens:])
        return out

    # ---- the writer ----

    def write(self, x: Tensor) -> Tensor:
        """From what is known before a field, `[..., H]`, to the input of its head."""
        for block in self.writer:
            x = block(x)
        normed: Tensor = self.writer_norm(x)
        return normed

    def field_nll(self, pages: Pages, states: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Negative log-likelihood of every choice, by field: the row `row * T + frame` of each, and its nats.

        Args:
            states: `[B, T, D]`, from `states`.
        """
        context = self.state(states).flatten(0, 1)
        rows, fields = pages.event_rows, pages.fields
        after = self.events(fields)
        summed = self.to_writer(functional.gelu(after[:, -1]))
        earlier, total = _sums_within(rows, summed, len(context))
        base = context[rows] + earlier
        notes = (fields[:, 0] >= FIRST_PART).nonzero()[:, 0]
        inputs = {
            "symbol": torch.cat([base, context + total]),
            "place": base + after[:, 0],
            **{
                name: (base + after[:, i])[notes]
                for i, name in ((1, "pitch"), (2, "length"), (3, "velocity"))
            },
        }
        ends = torch.full((len(context),), END, device=rows.device)
        targets = {
            "symbol": torch.cat([fields[:, 0], ends]),
            "place": fields[:, 1],
            **{name: fields[notes, i] for i, name in ((2, "pitch"), (3, "length"), (4, "velocity"))},
        }
        where = {name: rows[notes] for name in FIELDS} | {
            "symbol": torch.cat([rows, torch.arange(len(context), device=rows.device)]),
            "place": rows,
        }
        x = torch.cat([inputs[name] + self.field.weight[i] for i, name in enumerate(FIELDS)])
        written = torch.split(self.write(x), [len(inputs[name]) for name in FIELDS])
        nats = {}
        for name, own in zip(FIELDS, written, strict=True):
            logits = self.heads[name](own).float()
            if name == "symbol":
                logits = logits + self.habits.symbols(own, pages.habits[where[name]]).float()
            elif name == "pitch":
                known = (fields[notes, 0], pages.references[notes], pages.echoes[notes])
                logits = logits + self.habits.pitches(own, *known).float()
            nats[name] = functional.cross_entropy(logits, targets[name], reduction="none")
        return {name: (where[name], nats[name]) for name in FIELDS}

    def gain_error(self, pages: Pages, states: Tensor) -> Tensor:
        """Absolute error of the loudness automation, `[B, T]`, in units of `GAIN_SCALE_DB`; 0 where there is none.

        A score without one does not say that music is to be of one loudness, whatever the room.
        """
        error: Tensor = (self.gain(states)[..., 0].float() - pages.gain.nan_to_num()).abs()
        error *= pages.gain.isfinite()
        return error

    def forward(self, pages: Pages, signals: Signals) -> dict[str, Tensor]:
        """Losses `[B]` of a batch by field, in nats a second, with that of the loudness automation as `gain`.

        Args:
            signals: of the same frames, those that are dropped in this step absent; their mask says which count.
        """
        conditioning = self.condition(signals)
        states = self.states(pages, conditioning)
        mask = conditioning.mask.flatten().float()
        n_seconds = conditioning.mask.sum(dim=1) / self.config.ambient.frame_rate
        losses = {}
        for name, (rows, nats) in self.field_nll(pages, states).items():
            per_frame = torch.zeros_like(mask).index_add(0, rows, nats)
            losses[name] = (per_frame * mask).view_as(conditioning.mask).sum(dim=1) / n_seconds
        error = self.gain_error(pages, states) * conditioning.mask
        losses["gain"] = GAIN_WEIGHT * error.sum(dim=1) / n_seconds
        return losses

    def contrast(self, pages: Pages, signals: Signals) -> dict[str, Tensor]:
        """Nats a second `[B]` of the scores under the rooms of `signals.contrasts`."""
        found = {name: self(pages, room) for name, room in contrasts(signals).items()}
        return {name: torch.stack([own[f] for f in FIELDS]).sum(dim=0) for name, own in found.items()}

    # ---- files ----

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.norm.weight.device

    def own_state(self) -> dict[str, Tensor]:
        """The state dict."""
        return self.state_dict()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a composer folder: weights in 16 bits and `config.json`."""
        save_module(self, self.config, folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Composer:
        """Load a folder written by `save_pretrained`.

        Raises:
            CheckpointError: on a missing, truncated or mismatching file, named.
        """
        return load_module(cls, ComposerConfig, folder)

    def load_weights(self, folder: Path, may_lack: bool = False) -> None:
        """Load the weights of a composer folder of the same sizes.

        Args:
            folder: written by `save_pretrained`.
            may_lack: controls that the folder does not know keep the weights that they have.

        Raises:
            CheckpointError: on a missing, damaged or mismatching file, naming the field.
        """
        tensors = read_weights(folder / WEIGHTS_FILE)
        own = self.state_dict()
        for name in self.config.controls if may_lack else ():
            parts = (f"embedder.controls.{name}.", f"embedder.nulls.{name}")
            if not any(key.startswith(parts) for key in tensors):
                own = {key: value for key, value in own.items() if not key.startswith(parts)}
        fill(own, tensors, folder / WEIGHTS_FILE)


def _sums_within(rows: Tensor, vectors: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Sums of vectors `[N, H]` in rows `[N]`, ascending: of those before each in its row, and of rows, `[n_rows, H]`."""
    total = vectors.new_zeros(n_rows, vectors.shape[1]).index_add(0, rows, vectors)
    if not len(rows):
        return vectors, total
    counts = torch.bincount(rows, minlength=n_rows)
    firsts = counts.cumsum(0) - counts
    place = torch.arange(len(rows), device=rows.device) - firsts[rows]
    used = counts.nonzero()[:, 0]
    dense_row = torch.zeros_like(counts)
    dense_row[used] = torch.arange(len(used), device=rows.device)
    dense = vectors.new_zeros(len(used), int(counts.max()) + 1, vectors.shape[1])
    dense[dense_row[rows], place + 1] = vectors
    return dense.cumsum(dim=1)[dense_row[rows], place], total
