"""Writing a score: the composer's weights packed for fast steps, constraints on what is drawn, and the loop over frames.

A frame costs one step of the transformer and one of the writer, and every field of an event one step of the writer more,
whatever the length of the piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.arrays import FloatArray
from silent2music.composer import GAIN_SCALE_DB, HABIT_SCALE, Composer, GatedBlock
from silent2music.config import ComposingConfig, Precision
from silent2music.decoder import Conditioning
from silent2music.errors import ConfigError
from silent2music.notation import (
    DRUMS,
    END,
    FIELDS,
    FIRST_PART,
    HABITS,
    N_ECHOES,
    Event,
    Memory,
    Written,
    moved,
    part_of,
)
from silent2music.stepping import BlockStepper, Linear, PackedBlocks, pack

MAX_EVENTS = 64
"""Events of a frame after which it ends, far beyond any in training."""

Chooser = Callable[[str, FloatArray, tuple[int, ...]], int | None]
"""Chooses a field's value: takes the field's name, its logits `[V]` and the fields of the event before it. None where
nothing is allowed, by which the frame ends."""


class Constraint(Protocol):
    """A rule on what is written; its limits were measured on the scores that the weights were trained on."""

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Set the logits `[V]` of values that are forbidden to minus infinity, in place.

        Args:
            field: a name in `notation.FIELDS`.
            logits: of its values.
            before: fields of the event that are chosen already.
        """
        ...

    def write(self, event: Event | None) -> None:
        """An event is written, or with None a frame has ended."""
        ...


class Order:
    """Events of a frame ascend by symbol and pitch, as in all that was trained on, so none is there twice."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._last: Event | None = None

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """No symbol below the last, no mark again, no pitch of the same part again or below it."""
        if self._last is None:
            return
        symbol, pitch = self._last[0], self._last[2]
        if field == "symbol":
            # END is the lowest and stays allowed.
            logits[1 : symbol + (symbol < FIRST_PART or pitch == 127)] = -np.inf
        elif field == "pitch" and before[0] == symbol:
            logits[: pitch + 1] = -np.inf

    def write(self, event: Event | None) -> None:
        """Remember the last event of the frame."""
        self._last = event


class Known:
    """Only instruments, pitches in an instrument's range, and lengths up to its longest that training scores have."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._symbols = ~composer.known_symbols.cpu().numpy()
        self._pitches = ~composer.known_pitches.cpu().numpy()
        self._longest = composer.longest.cpu().numpy()
        self._transposition = transposition

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """By the event's symbol."""
        if field == "symbol":
            logits[self._symbols] = -np.inf
        elif field == "pitch":
            unknown = self._pitches[before[0]]
            if part_of(before[0])[1] != DRUMS:
                unknown = np.roll(unknown, -self._transposition)
            logits[unknown] = -np.inf
        elif field == "length":
            logits[int(self._longest[before[0]]) + 1 :] = -np.inf

    def write(self, event: Event | None) -> None:
        """Nothing is remembered."""


class Polyphony:
    """No note beyond as many as sound at once in training scores."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._most, self._memory = int(composer.polyphony), memory

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Marks alone where as many notes sound."""
        if field == "symbol" and len(self._memory.held) >= self._most:
            logits[FIRST_PART:] = -np.inf

    def write(self, event: Event | None) -> None:
        """The memory counts."""


class Repeats:
    """A part strikes one pitch no more often in a row than in nearly all training scores, so that it moves on."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._most = int(composer.repeats)
        self._runs: dict[int, tuple[int, int]] = {}

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Not the pitch that was struck too often, unless the part knows no other."""
        if field == "pitch":
            pitch, count = self._runs.get(before[0], (0, 0))
            if count >= self._most and np.isfinite(np.delete(logits, pitch)).any():
                logits[pitch] = -np.inf

    def write(self, event: Event | None) -> None:
        """Count the notes of one pitch; drums are free."""
        if event is None or event[0] < FIRST_PART or part_of(event[0])[1] == DRUMS:
            return
        pitch, count = self._runs.get(event[0], (event[2], 0))
        self._runs[event[0]] = event[2], count + 1 if pitch == event[2] else 1


MadeConstraint = Callable[[Composer, Memory, int], Constraint]
"""Makes a constraint from a composer, the memory of what is written, and the semitones by which it is moved."""

CONSTRAINTS: dict[str, MadeConstraint] = {
    "order": Order,
    "known": Known,
    "polyphony": Polyphony,
    "repeats": Repeats,
}
"""Constraints by name."""


class Drawing:
    """Chooses by chance, in the order temperature, top-p; a `Chooser`.

    Whether there is an event at all is drawn as likely as the model says, since cutting off the unlikely would thin the
    music out; top-p decides among the events.

    Args:
        composing: settings; guidance and constraints are not used here.
        seed: decides everything.
    """

    def __init__(self, composing: ComposingConfig, seed: int) -> None:
        for name in composing.top_p:
            if name not in FIELDS:
                raise ConfigError(f"top_p names '{name}'; expected some of {', '.join(FIELDS)}.")
        self._temperature = composing.temperature
        self._top_p = {name: composing.top_p.get(name, 1.0) for name in FIELDS}
        self._rng = np.random.default_rng(seed)

    def __call__(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> int | None:
        """The value drawn; one random number for each."""
        chance = self._rng.random()
        highest = logits.max()
        if not np.isfinite(highest):
            return None
        if self._temperature == 0:
            return int(logits.argmax())
        shares = np.exp((logits - highest) / self._temperature, dtype=np.float64)
        shares /= shares.sum()
        if field == "symbol":
            if chance < shares[END]:
                return END
            chance = (chance - shares[END]) / (1.0 - shares[END])
            shares[END] = 0.0
        order = np.argsort(-shares, kind="stable")
        ranked = shares[order]
        below = np.cumsum(ranked)
        total = below[-1]
        n_kept = int(np.searchsorted(below, self._top_p[field] * total)) + 1
        n_kept = min(n_kept, int(np.count_nonzero(ranked)))
        return int(
            order[min(int(np.searchsorted(below[:n_kept], chance * below[n_kept - 1], "right")), n_kept - 1)]
        )


class Copying:
    """Chooses the events that are given, as a `Chooser`: for continuing a score.

    Args:
        events: of one frame.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = list(events)

    def __call__(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> int:
        """The next value."""
        value = self._events[0][len(before)] if self._events else END
        is_last = field == "velocity" or (field == "place" and before[0] < FIRST_PART)
        if is_last:
            self._events.pop(0)
        return value


class PackedComposer:
    """A copy of a composer's weights, laid out for writing; later changes of the composer do not reach it.

    Args:
        composer: any.
        precision: of the products; the device's best by default.
    """

    @torch.inference_mode()
    def __init__(self, composer: Composer, precision: Precision | None = None) -> None:
        self.composer = composer
        self.blocks = PackedBlocks(composer.blocks, composer.norm, composer.config, precision)
        self._precision = self.blocks.precision
        events = composer.events
        self.symbols = events.symbols()
        self.keys, self.pitches = events.key.weight, events.pitch.weight
        self.rest: dict[str, Tensor] = {
            name: getattr(events, name).weight for name in ("place", "length", "velocity")
        }
        self.held = composer.held.weight
        self.scalars = self._packed(composer.scalars)
        self.to_stream, self.to_writer = self._packed(composer.to_stream), self._packed(composer.to_writer)
        # One product for both: the writer's context, and in the last column the loudness.
        weights, biases = (
            torch.cat([getattr(layer, name) for layer in (composer.state, composer.gain)])
            for name in ("weight", "bias")
        )
        state = pack(weights, self._precision)
        self.state: Linear = lambda x: state(x).float() + biases
        self.fields = composer.field.weight.unbind(0)
        self.writer = [
            (_packed_norm(block.norm), self._packed(block.gate_up), self._packed(block.down))
            for block in cast(Iterable[GatedBlock], composer.writer)
        ]
        self.writer_norm = _packed_norm(composer.writer_norm)
        self.heads = {name: self._packed(cast(nn.Linear, composer.heads[name])) for name in FIELDS}
        self.habits = composer.habits
        self.symbol_habits = self._packed(composer.habits.symbol)
        self.roles = composer.habits.role_of.tolist()

    def _packed(self, linear: nn.Linear) -> Linear:
        """A linear layer as a function of rows."""
        product, bias = pack(linear.weight, self._precision), cast(Tensor | None, linear.bias)
        return lambda x: product(x).float() if bias is None else product(x).float() + bias

    def value(self, field: str, value: int, symbol: int) -> Tensor:
        """Embedding `[H]` of a field's value, as in `EventEmbedder`."""
        if field == "symbol":
            return self.symbols[value]
        if field != "pitch":
            return self.rest[field][value]
        role, program = part_of(symbol)
        key: Tensor = self.keys[role * 128 + value]
        return key if program == DRUMS else key + self.pitches[value]


def _packed_norm(norm: nn.RMSNorm) -> Linear:
    """The norm without the cost of calling a module."""
    size, weight, epsilon = list(norm.normalized_shape), norm.weight, norm.eps
    return lambda x: torch.rms_norm(x, size, weight, epsilon)


class Scribe:
    """Writes the events of one frame after another.

    For inference mode alone.

    Args:
        packed: the weights.
        given, null: conditioning of one row, and "no room" of the same shapes; only their `tokens` count here.
        guidance: g of `null + g * (given - null)` on the logits (Ho and Salimans 2022).
        constraints: names in `CONSTRAINTS`.
        transposition: semitones by which all that is written is moved, from C major or A minor.
        steered: makes a constraint for what a user asks for, which comes last.

    Raises:
        ConfigError: if a constraint is unknown.
    """

    def __init__(
        self,
        packed: PackedComposer,
        given: Conditioning,
        null: Conditioning,
        guidance: float,
        constraints: Sequence[str] = (),
        transposition: int = 0,
        steered: MadeConstraint | None = None,
    ) -> None:
        for name in constraints:
            if name not in CONSTRAINTS:
                raise ConfigError(
                    f"Constraint '{name}' is unknown; expected some of {', '.join(CONSTRAINTS)}."
                )
        composer = packed.composer
        self._packed, self._guidance, self._guided = packed, guidance, guidance != 1
        self.memory = Memory(composer.config.ambient.frame_rate)
        self._transposition = transposition
        made = [CONSTRAINTS[name] for name in constraints] + ([] if steered is None else [steered])
        self._constraints = [make(composer, self.memory, transposition) for make in made]
        self._blocks = BlockStepper(packed.blocks, self._tokens(given, null), static=False)
        self._habits: list[tuple[int, list[float]]] = []
        self._before: Tensor | None = None  # the vectors of the last frame's events, summed
        self.n_frames = 0

    def set_tokens(self, given: Conditioning, null: Conditioning) -> None:
        """Replace the global tokens that the next frames attend to."""
        self._blocks.set_tokens(self._tokens(given, null))

    def _tokens(self, given: Conditioning, null: Conditioning) -> Tensor:
        return torch.cat([given.tokens, null.tokens]) if self._guided else given.tokens

    def frame(self, frame: Tensor, null_frame: Tensor, choose: Chooser) -> tuple[tuple[Event, ...], float]:
        """Write the next frame.

        Args:
            frame, null_frame: `[1, D]` conditioning.
            choose: see `Chooser`.

        Returns:
            Its events as they sound, and the loudness of the music in dB, at most 0.
        """
        states = self._listen(frame, null_frame)
        context, gain = states[:, :-1], min(0.0, GAIN_SCALE_DB * float(states[0, -1]))
        events: list[Event] = []
        inputs: list[Tensor] = []
        written: Tensor | None = None
        while len(events) < MAX_EVENTS:
            made = self._event(context if written is None else context + written, choose)
            if made is None:
                break
            event, embedded = made
            events.append(event)
            self.memory.write(event)
            for constraint in self._constraints:
                constraint.write(event)
            inputs.append(functional.gelu(embedded))
            vector = self._packed.to_writer(inputs[-1])
            written = vector if written is None else written + vector
        for constraint in self._constraints:
            constraint.write(None)
        self._before = self._packed.to_stream(torch.cat(inputs)).sum(dim=0) if inputs else None
        self.n_frames += 1
        return tuple(moved(event, self._transposition) for event in events), gain

    def _listen(self, frame: Tensor, null_frame: Tensor) -> Tensor:
        """The writer's context with the loudness in units, `[R, H + 1]`: a step of the transformer."""
        packed, blocks = self._packed, self._blocks
        self.memory.advance(self.n_frames)
        known = packed.scalars(torch.tensor([self.memory.scalars()], device=frame.device))
        keys, weights = self.memory.keys()
        if keys:
            held = packed.held[torch.tensor(keys, device=frame.device)]
            known = known + torch.tensor([weights], device=frame.device) @ held
        if self._before is not None:
            known = known + self._before
        self._habits = self.memory.habits()
        blocks.advance()
        torch.add(known, frame, out=blocks.x[:1])
        if self._guided:
            torch.add(known, null_frame, out=blocks.x[1:])
        return packed.state(blocks.run())

    def _voices(self, symbol: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """What the pitch of a note of a symbol is compared with, as `Habits.pitches` takes it."""
        references, found = self.memory.voices(symbol)
        echoes = torch.zeros(1, N_ECHOES, 128)
        for bar, pitch in found:
            echoes[0, bar, pitch] = 1.0
        return (
            torch.tensor([symbol], device=device),
            torch.tensor([references], device=device),
            echoes.to(device),
        )

    def _event(self, context: Tensor, choose: Chooser) -> tuple[Event, Tensor] | None:
        """The next event of the frame with its embedding `[1, H]`; None if there is none."""
        before: tuple[int, ...] = ()
        known: Tensor | None = None
        for index, field in enumerate(FIELDS):
            x = context + self._packed.fields[index]
            value = self._choose(field, x if known is None else x + known, before, choose)
            if value is None or (field == "symbol" and value == END):
                return None
            before = (*before, value)
            vector = self._packed.value(field, value, before[0])
            known = vector if known is None else known + vector
            if field == "place" and before[0] < FIRST_PART:
                before = (*before, 0, 0, 0)
                break
        assert known is not None
        return cast(Event, before), known[None]

    def _choose(self, field: str, x: Tensor, before: tuple[int, ...], choose: Chooser) -> int | None:
        """A field's value, by a step of the writer on `x` `[R, H]`."""
        packed = self._packed
        for norm, gate_up, down in packed.writer:
            gate, up = gate_up(norm(x)).chunk(2, dim=1)
            x = x + down(functional.silu(gate) * up)
        normed = packed.writer_norm(x)
        if self._guided:
            normed = torch.lerp(normed[1:], normed[:1], self._guidance)
        scores = packed.heads[field](normed)[0].float()
        if field == "pitch":
            scores = scores + packed.habits.pitches(normed, *self._voices(before[0], normed.device))[0]
        logits = scores.cpu().numpy()
        if field == "symbol" and self._habits:
            # As `Habits.symbols`, of the few symbols that have habits.
            weights = packed.symbol_habits(normed)[0].cpu().numpy().reshape(-1, len(HABITS))
            for symbol, values in self._habits:
                logits[symbol] += HABIT_SCALE * (weights[packed.roles[symbol]] @ np.array(values, np.float32))
        for constraint in self._constraints:
            constraint.mask(field, logits, before)
        return choose(field, logits, before)


@torch.inference_mode()
def write_frames(
    packed: PackedComposer,
    conditioning: Iterable[tuple[Conditioning, Conditioning]],
    composing: ComposingConfig,
    seed: int,
    transposition: int = 0,
    begun: Written | None = None,
    n_begun: int = 0,
    steered: MadeConstraint | None = None,
) -> Iterator[tuple[tuple[Event, ...], float]]:
    """The events of one codec frame after another, each with the music's loudness in dB.

    Args:
        packed: the composer.
        conditioning: of successive stretches of frames, one row, each with its null, "no room". Frames attend to the
            global tokens of their own stretch.
        composing: settings, with a number for guidance; its `seed` and transposition are not used here.
        seed: of the draws.
        transposition: as for `Scribe`.
        begun: a score that is there already and is gone on with.
        n_begun: its frames, which are copied.
        steered: as for `Scribe`.

    Raises:
        ConfigError: if `composing` leaves the guidance open, or names an unknown field or constraint.
    """
    if composing.guidance is None:
        raise ConfigError("guidance is not given; expected a number, or a composer that has its own.")
    drawing = Drawing(composing, seed)
    copied = None if begun is None else begun.transposed(-transposition)
    scribe: Scribe | None = None
    for given, null in conditioning:
        if scribe is None:
            how = (composing.guidance, composing.constraints, transposition, steered)
            scribe = Scribe(packed, given, null, *how)
        else:
            scribe.set_tokens(given, null)
        for frame in zip(given.frames.unbind(dim=1), null.frames.unbind(dim=1), strict=True):
            choose: Chooser = drawing
            if copied is not None and scribe.n_frames < n_begun:
                here = copied.slice(scribe.n_frames, scribe.n_frames + 1).fields.tolist()
                choose = Copying([cast(Event, tuple(event)) for event in here])
            yield scribe.frame(*frame, choose)
