"""Incremental decoding: the decoder's weights packed for fast steps, and one step for each column.

The same function as `Decoder.forward`, laid out for a few rows and one column at a time:

- Weights are packed for the processor once; guidance is merged before the output product, which is linear, so
  that this largest product of a step is computed once and not for both rows.
- Queries and keys are stored with the two halves of each rotated pair side by side: rotation is one complex
  product, which leaves values alone and scales queries for attention on the way.
- Keys and values live in a ring, and the residual stream has a last element that holds the normalisation's epsilon, so
  that a norm is one call.
- A step is recorded, so that many of them run one after another without the interpreter.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.config import PRECISIONS, Precision
from silent2music.decoder import Block, BlockSizes, Conditioning, Decoder, prefix, rotary_tables
from silent2music.errors import ConfigError

ROTATION_BLOCK = 256
"""Positions whose rotations are computed at once."""

Linear = Callable[[Tensor], Tensor]


def best_precision(device: torch.device) -> Precision:
    """The fastest precision that loses nothing: weights are stored in 16 bits, so `fp16` products are exact in them."""
    if device.type == "cuda":
        return "bf16"
    return (
        "fp16" if device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines else "fp32"
    )


def pack(weight: Tensor, precision: Precision, bias: Tensor | None = None) -> Linear:
    """A function that multiplies by `weight` `[N, M]`, from `[B, M]` float32 to `[B, N]`, and adds `bias` `[N]`.

    Raises:
        ConfigError: if the precision is unknown.
    """
    if precision == "fp32":
        transposed = weight.float().t().contiguous()
        return lambda x: x @ transposed if bias is None else torch.addmm(bias, x, transposed)
    if precision == "bf16":
        rounded = weight.to(torch.bfloat16)
        half_bias = None if bias is None else bias.to(torch.bfloat16)
        return lambda x: functional.linear(x.to(torch.bfloat16), rounded, half_bias)
    if precision == "fp16":
        return _pack_half(weight.float().contiguous(), bias)
    raise ConfigError(f"Precision '{precision}' is unknown; expected one of {', '.join(PRECISIONS)}.")


def _pack_half(weight: Tensor, bias: Tensor | None) -> Linear:
    """FBGEMM's product with weights in 16 bits: by the operator whose call costs 2 us where torch still has it,
    or else by its successor, whose packed object costs 15 us more to hand over."""
    if hasattr(torch, "fbgemm_pack_gemm_matrix_fp16"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            packed = torch.fbgemm_pack_gemm_matrix_fp16(weight)
            added = torch.zeros(len(weight)) if bias is None else bias.float()
            torch.fbgemm_linear_fp16_weight(weight[:1], packed, added)  # warns once in a process: here
        return lambda x: torch.fbgemm_linear_fp16_weight(x, packed, added)
    half = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    product = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: cast(Tensor, product(x, half))


class _Layer:
    """One block's packed weights."""

    def __init__(self, block: Block, order: Tensor, precision: Precision) -> None:
        n_heads, head_dim = block.n_heads, block.head_dim
        dim = n_heads * head_dim
        scale = dim**0.5  # turns the quotient by a norm into one by a root mean square
        q, k, v = block.qkv.weight.chunk(3)
        q, k = (w.view(n_heads, head_dim, dim)[:, order].reshape(dim, dim) for w in (q, k))
        self.attention_norm = block.attention_norm.weight * scale
        self.qkv = pack(torch.cat([q, k, v]), precision)
        self.out = pack(block.out.weight, precision)
        self.mlp_norm = block.mlp_norm.weight * scale
        self.gate_up = pack(block.gate_up.weight, precision)
        self.down = pack(block.down.weight, precision)


class PackedBlocks:
    """A copy of a transformer's blocks and final norm, laid out for incremental decoding.

    Args:
        blocks: of `config`; later changes do not reach the copy.
        precision: of the products; the device's best by default.
    """

    @torch.inference_mode()
    def __init__(
        self, blocks: nn.ModuleList, norm: nn.RMSNorm, config: BlockSizes, precision: Precision | None = None
    ) -> None:
        self.blocks, self.config = blocks, config
        self.precision = precision or best_precision(norm.weight.device)
        half = config.head_dim // 4
        pairs = torch.arange(2 * half).view(2, half).t().flatten()
        self.order = torch.cat([pairs, torch.arange(2 * half, config.head_dim)])
        self.layers = [_Layer(cast(Block, block), self.order, self.precision) for block in blocks]
        self.norm = norm.weight * config.dim**0.5
        self.epsilon = cast(float, norm.eps)

    def rotations(self, position: int, device: torch.device) -> Tensor:
        """Factors `[ROTATION_BLOCK, 3 * D / 2]` of queries, keys and values of the positions from `position` on."""
        config = self.config
        positions = torch.arange(position, position + ROTATION_BLOCK)
        turn = torch.complex(*rotary_tables(positions, config.head_dim // 2, config.rope_base))
        content = torch.ones_like(turn)
        head = torch.cat([turn, content], dim=1)
        heads = head.repeat(1, config.n_heads)
        factors = [heads * config.head_dim**-0.5, heads, torch.ones_like(heads)]
        return torch.cat(factors, dim=1).to(device)

    def fill_prefix(self, ring: Tensor, tokens: Tensor) -> None:
        """Write keys and values of global tokens `[R, G, D]` to the first places of `[L, 2, R, H, places, head_dim]`."""
        keys, values = prefix(self.blocks, tokens, self.config)
        ring[:, 0, ..., : tokens.shape[1], :] = keys[..., self.order]
        ring[:, 1, ..., : tokens.shape[1], :] = values


class BlockStepper:
    """Runs blocks for one column after another; the key-value cache is a ring, so cost and memory are constant.

    For inference mode alone. Every step computes on the whole ring under a mask, by the same shapes and on tensors of
    fixed places, so that it can be recorded (`Recorded`). A step is `run`, with the column's input in `x`; some steps at
    a time are announced by `ready`.

    Args:
        tokens: global tokens `[R, G, D]` of all rows.

    Attributes:
        state: the tensors that a step changes.
    """

    def __init__(self, packed: PackedBlocks, tokens: Tensor) -> None:
        config, device = packed.config, tokens.device
        self.packed = packed
        self.n_rows, self.n_tokens, self.window = len(tokens), tokens.shape[1], config.attention_window
        n_places = self.n_tokens + self.window
        # [layers, keys and values, rows, heads, places, head_dim], the global tokens first.
        shape = (config.n_layers, 2, self.n_rows, config.n_heads, n_places, config.head_dim)
        self._ring = tokens.new_zeros(shape)
        self._stream = torch.full(
            (self.n_rows, config.dim + 1), (packed.epsilon * config.dim) ** 0.5, device=device
        )
        self._mask = torch.full((n_places,), float("-inf"), device=device)
        self._mask[: self.n_tokens] = 0
        self._rotations = packed.rotations(0, device)
        self._first = self._n_ready = 0
        # Of the next column: its place in the ring, and among the rotations.
        self._place = torch.full((1,), self.n_tokens, device=device)
        self._within = torch.zeros(1, dtype=torch.int64, device=device)
        self.state = [self._ring, self._stream, self._mask, self._rotations, self._place, self._within]
        self._tokens: Tensor | None = None
        self.set_tokens(tokens)

    @property
    def x(self) -> Tensor:
        """`[R, D]`, where the input of a step is written, and which the step overwrites."""
        return self._stream[:, :-1]

    def set_tokens(self, tokens: Tensor) -> None:
        """Replace the global tokens `[R, G, D]` that the next columns attend to."""
        if self._tokens is None or not torch.equal(tokens, self._tokens):
            self.packed.fill_prefix(self._ring, tokens)
            self._tokens = tokens

    def ready(self, n_columns: int) -> None:
        """Have the rotations of the next columns at hand, at most `ROTATION_BLOCK` of them."""
        if self._n_ready + n_columns > self._first + ROTATION_BLOCK:
            self._first = self._n_ready
            self._rotations.copy_(self.packed.rotations(self._first, self._place.device))
            self._within.zero_()
        self._n_ready += n_columns

    def _normed(self, weight: Tensor) -> Tensor:
        """The residual stream `[R, D]` over its root mean square, times `weight / sqrt(D)`."""
        norm = torch.linalg.vector_norm(self._stream, dim=-1, keepdim=True)
        return torch.mul(self.x, weight).div_(norm)

    def run(self) -> Tensor:
        """The blocks' output `[R, D]` after the final norm."""
        packed, x = self.packed, self.x
        rotation = self._rotations.index_select(0, self._within)
        self._mask.index_fill_(0, self._place, 0.0)
        for index, layer in enumerate(packed.layers):
            qkv = layer.qkv(self._normed(layer.attention_norm)).float()
            x += layer.out(self._attend(qkv, rotation, self._ring[index]))
            gate, up = layer.gate_up(self._normed(layer.mlp_norm)).chunk(2, dim=1)
            x += layer.down(functional.silu(gate).mul_(up))
        self._within.add_(1)
        self._place.sub_(self.n_tokens - 1).remainder_(self.window).add_(self.n_tokens)
        return self._normed(packed.norm)

    def _attend(self, qkv: Tensor, rotation: Tensor, ring: Tensor) -> Tensor:
        """Attention `[R, D]` of one layer, after writing this column's keys and values to its ring."""
        config = self.packed.config
        pairs = torch.view_as_complex(qkv.view(self.n_rows, -1, 2))
        turned = torch.view_as_real(pairs * rotation).view(self.n_rows, 3, config.n_heads, -1)
        ring.index_copy_(3, self._place, turned[:, 1:].transpose(0, 1).unsqueeze(3))
        keys, values = ring.flatten(1, 2).unbind(0)
        query = turned[:, 0].reshape(-1, 1, config.head_dim)
        shares = torch.baddbmm(self._mask, query, keys.transpose(1, 2)).softmax(dim=-1)
        return torch.bmm(shares, values).view(self.n_rows, -1)


class SpanStepper:
    """Runs blocks for several columns at once, of which the last ones may be taken back; else as `BlockStepper`.

    A step of few rows costs what reading weights, keys and values costs, which a span does once. All spans are computed
    by the same shapes on the whole ring under a mask, so that a column's output does not depend on its place in the span.

    For inference mode alone.

    Args:
        tokens: global tokens `[R, G, D]` of all rows.
    """

    def __init__(self, packed: PackedBlocks, tokens: Tensor, n_columns: int) -> None:
        config, n_rows = packed.config, len(tokens)
        self._packed, self._n_tokens, self._length = (
            packed,
            tokens.shape[1],
            config.attention_window + n_columns - 1,
        )
        shape = (config.n_layers, 2, n_rows, config.n_heads, self._n_tokens + self._length, config.head_dim)
        self._ring = tokens.new_zeros(shape)
        self._positions = torch.full((self._length,), -(2**60), device=tokens.device)
        self._columns = torch.arange(n_columns, device=tokens.device)
        self._seen = torch.zeros(n_columns, self._n_tokens, device=tokens.device)
        self._rotations, self._first = packed.rotations(0, tokens.device), 0
        self._tokens: Tensor | None = None
        self.set_tokens(tokens)

    def set_tokens(self, tokens: Tensor) -> None:
        """Replace the global tokens `[R, G, D]` that the next columns attend to."""
        if self._tokens is None or not torch.equal(tokens, self._tokens):
            self._packed.fill_prefix(self._ring, tokens)
            self._tokens = tokens

    def run(self, x: Tensor, position: int) -> Tensor:
        """The blocks' output `[R, n, D]` after the final norm; what was computed from `position` on is forgotten.

        Args:
            x: `[R, n, D]`, n columns that are at `position` and after.
            position: at most that after the last one computed.
        """
        packed, config = self._packed, self._packed.config
        (n_rows, n, dim), (heads, head_dim) = x.shape, (config.n_heads, config.head_dim)
        if not 0 <= position - self._first <= ROTATION_BLOCK - n:
            self._rotations, self._first = packed.rotations(position, x.device), position
        rotation = self._rotations[position - self._first :][:n]
        here = self._columns[:n] + position
        slots = here % self._length
        self._positions[slots] = here
        age = here[:, None] - self._positions
        unseen = torch.where((age >= 0) & (age < config.attention_window), 0.0, float("-inf"))
        mask, slots = torch.cat([self._seen[:n], unseen], dim=1), slots + self._n_tokens
        stream = x.new_full((n_rows * n, dim + 1), (packed.epsilon * dim) ** 0.5)
        out = stream[:, :dim]
        out.copy_(x.flatten(0, 1))

        def normed(weight: Tensor) -> Tensor:
            return (out * weight).div_(torch.linalg.vector_norm(stream, dim=-1, keepdim=True))

        for layer, ring in zip(packed.layers, self._ring, strict=True):
            pairs = layer.qkv(normed(layer.attention_norm)).float().view(torch.complex64).view(n_rows, n, -1)
            turned = torch.view_as_real(pairs * rotation).view(n_rows, n, 3, heads, head_dim)
            ring.index_copy_(3, slots, turned[:, :, 1:].permute(2, 0, 3, 1, 4))
            query = turned[:, :, 0].transpose(1, 2).reshape(-1, n, head_dim)
            keys, values = ring.flatten(1, 2)
            shares = torch.baddbmm(mask, query, keys.transpose(1, 2)).softmax(dim=-1)
            attended = torch.bmm(shares, values).view(n_rows, heads, n, head_dim).transpose(1, 2)
            out += layer.out(attended.reshape(-1, dim))
            gate, up = layer.gate_up(normed(layer.mlp_norm)).chunk(2, dim=1)
            out += layer.down(functional.silu(gate).mul_(up))
        return normed(packed.norm).view(n_rows, n, dim)


class PackedDecoder:
    """A copy of a decoder's weights, laid out for incremental decoding; later changes of the decoder do not reach it.

    Args:
        precision: of the products; the device's best by default.

    Attributes:
        embedding: `[K * (V + 1), D]`.
        refinements: `[K * (V + 1), codebook_dim]`, see `Decoder.refinements`.
        guide: as the decoder's.
        head: from normed hidden states `[B, D]` to `[B, K * V]`, without `bias` `[K, V]`.
        books: for each codebook from vectors `[B, codebook_dim]` to their products with its entries `[B, V]`; none if
            the decoder takes no sketch.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, precision: Precision | None = None) -> None:
        self.decoder = decoder
        self.precision = precision or best_precision(decoder.bias.device)
        self.blocks = PackedBlocks(decoder.blocks, decoder.norm, decoder.config, self.precision)
        self.embedding = decoder.embedding_tables().flatten(0, 1)
        self.refinements = decoder.refinements().flatten(0, 1)
        self.head = pack(decoder.output_tables().flatten(0, 1), self.precision)
        self.bias = decoder.bias.clone()
        self.guide = copy.deepcopy(decoder.guide)
        books = () if self.guide is None else self.guide.requires_grad_(False).books
        self.books = [pack(book, self.precision) for book in books]


class Stepper:
    """Computes the logits of one column after another, at constant cost and memory.

    Guidance is `none + g * (room - none) + g' * (both - room)` on the logits: under nothing, the room, and room and
    sketch (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022; for two conditions Brooks et al.,
    "InstructPix2Pix", 2023). Only those of the three are computed that count.

    For inference mode alone.

    Args:
        conditioning: only its `tokens` `[B, G, D]` count, and whether it has a `guide`; the frames come with each step.
        null: "no room" of the same shapes; unused if `guidance` is 1.
        guidance: g, of the room.
        sketch_guidance: g', of the sketch; unused without a guide.

    Attributes:
        state, ready: as of `BlockStepper`.
    """

    def __init__(
        self,
        packed: PackedDecoder,
        conditioning: Conditioning,
        null: Conditioning,
        guidance: float,
        sketch_guidance: float = 1.0,
    ) -> None:
        config = packed.decoder.config
        self.pattern, self.codebook_size = packed.decoder.pattern, config.codebook_size
        self.packed, self.guidance, self.sketch_guidance = packed, guidance, sketch_guidance
        self.sketched, self.nulled = conditioning.guide is not None, guidance != 1
        # Rows under the room alone count where both are not guided alike.
        self.roomed = not self.sketched or guidance != sketch_guidance
        self._blocks = BlockStepper(packed.blocks, self._tokens(conditioning, null))
        self.state, self.ready = self._blocks.state, self._blocks.ready
        self.device = device = conditioning.tokens.device
        self._offsets = torch.arange(config.n_codebooks, device=device) * (config.codebook_size + 1)

    def set_tokens(self, conditioning: Conditioning, null: Conditioning) -> None:
        """Replace the global tokens that the next columns attend to."""
        self._blocks.set_tokens(self._tokens(conditioning, null))

    def _tokens(self, conditioning: Conditioning, null: Conditioning) -> Tensor:
        """Global tokens `[R, G, D]` of all rows: of room and sketch first, then of the room, then the null's."""
        groups = [conditioning.tokens] * (self.sketched + self.roomed) + [null.tokens] * self.nulled
        return torch.cat(groups) if len(groups) > 1 else groups[0]

    def step(self, column: Tensor, frame: Tensor, null_frame: Tensor, *guide_frame: Tensor) -> Tensor:
        """Guided logits of the next column, which must be ready.

        Args:
            column: `[B, K]` the previous grid column, all filler at the start.
            frame, null_frame: `[B, D]` conditioning of the column to be written.
            guide_frame: `[B, D]` that of the sketch, which is added to `frame`, if there is one.

        Returns:
            Guided logits `[B, K, V]`, float32.
        """
        packed, x = self.packed, self._blocks.x
        b, k = column.shape
        embedded = functional.embedding(column + self._offsets, packed.embedding).sum(dim=1)
        frames = [frame + own for own in guide_frame] + [frame] * self.roomed + [null_frame] * self.nulled
        for i, own in enumerate(frames):
            x[i * b : (i + 1) * b] = embedded + own
        normed = self._merged(torch.split(self._blocks.run(), b))
        return packed.head(normed).float().view(b, k, -1) + packed.bias

    def _merged(self, groups: tuple[Tensor, ...]) -> Tensor:
        """Hidden states `[B, D]` of those of all groups of rows, in the order of `_tokens`."""
        if len(groups) == 1:
            return groups[0]
        if len(groups) == 2:
            # Of both against the null where they are guided alike, else of what is guided by another number than 1.
            weight = self.guidance if self.nulled else self.sketch_guidance
            return torch.lerp(groups[1], groups[0], weight)
        both, room, none = groups
        return torch.lerp(none, room, self.guidance) + self.sketch_guidance * (both - room)


class Recorded:
    """A function of tensors, recorded once and then run for several columns without the interpreter.

    On CUDA that is a graph, elsewhere a trace, which other threads of Python need not wait for. Results are the same bit
    for bit.

    Args:
        function: from tensors of always the same shapes to one, by always the same operations.
        state: the tensors that it changes, in place, beside its result.
        example: its arguments.
    """

    def __init__(
        self, function: Callable[..., Tensor], state: Sequence[Tensor], example: Sequence[Tensor]
    ) -> None:
        self._state = list(state)
        before = [tensor.clone() for tensor in state]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._run = (_graph if example[0].is_cuda else _trace)(function, self._state, list(example))
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)

    def __call__(self, stretches: Sequence[Tensor]) -> Tensor:
        """Results `[n, ...]` for each of n arguments: `stretches` hold `[n, ...]` of each."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self._run(self._state, list(stretches))


Run = Callable[[list[Tensor], list[Tensor]], Tensor]


def _trace(function: Callable[..., Tensor], state: list[Tensor], example: list[Tensor]) -> Run:
    def called(state: list[Tensor], arguments: list[Tensor]) -> Tensor:
        return function(*arguments)  # which reaches the state by itself

    step = torch.jit.trace(called, (state, example), check_trace=False)  # type: ignore[no-untyped-call]

    def run(state: list[Tensor], stretches: list[Tensor]) -> Tensor:
        found = []
        for i in range(stretches[0].shape[0]):
            found.append(step(state, [stretch[i] for stretch in stretches]))
        return torch.stack(found)

    return cast(Run, torch.jit.script(run))


def _graph(function: Callable[..., Tensor], state: list[Tensor], example: list[Tensor]) -> Run:
    places = [tensor.clone() for tensor in example]
    # Libraries choose their kernels on the first calls, which must not be captured.
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(*places)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*places)

    def run(state: list[Tensor], stretches: list[Tensor]) -> Tensor:
        found = []
        for arguments in zip(*stretches, strict=True):
            for place, value in zip(places, arguments, strict=True):
                place.copy_(value)
            graph.replay()
            found.append(output.clone())
        return torch.stack(found)

    return run
