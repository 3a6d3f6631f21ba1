"""Compilers and runtimes that take over the decoding step, each on buffers that it is bound to.

`onnx`, `onnxscript`, `onnxruntime` and `openvino` are imported inside the functions: they are no dependencies.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from silent2music.evaluation.pure_step import INPUTS, OUTPUTS, PureStep, Run, StepState

Weights = Literal["fp32", "fp16", "int8"]

RUNTIMES = ("onnxruntime", "openvino")
"""What stepping needs; the other packages only export."""

CACHE = "inductor"
"""Where inductor's own files are put, in the folder of a candidate."""

PACKAGE_FILE, ONNX_FILE, INT8_FILE, OPENVINO_FILE = "step.pt2", "step.onnx", "step-int8.onnx", "step.xml"


def compiled(pure: PureStep, state: StepState) -> Run:
    """By `torch.compile`: compiled at the first step, or found in the compiler's cache.

    "Freezing" lays weights out for the processor, as it does for AOTInductor below.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    function = torch.compile(pure, fullgraph=True, dynamic=False, options={"freezing": True})
    return lambda: function(*state.tensors())


def compile_aoti(pure: PureStep, state: StepState, folder: Path) -> None:
    """Ahead of time, by AOTInductor, to a package with the weights in it."""
    program = torch.export.export(pure, state.tensors())
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(folder / PACKAGE_FILE), inductor_configs={"freezing": True}
    )
    shutil.rmtree(folder / CACHE, ignore_errors=True)


def aoti(folder: Path, state: StepState) -> Run:
    """What `compile_aoti` wrote."""
    function = torch._inductor.aoti_load_package(str(folder / PACKAGE_FILE))

    def run() -> tuple[Tensor, Tensor]:
        logits, written = function(*state.tensors())
        return logits, written

    return run


def export_onnx(pure: PureStep, state: StepState, folder: Path) -> None:
    """To an ONNX file with the weights in it."""
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it would tell of operators that nobody asked for
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            pure,
            state.tensors(),
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(folder / ONNX_FILE)


def quantise_onnx(pure: PureStep, state: StepState, folder: Path) -> None:
    """To 8-bit weights, a scale for each output, with inputs brought to 8 bits on the way: ONNX Runtime's own."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    export_onnx(pure, state, folder)
    quantize_dynamic(
        folder / ONNX_FILE,
        folder / INT8_FILE,
        op_types_to_quantize=["MatMul", "Gemm"],  # not the embeddings
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    (folder / ONNX_FILE).unlink()


def onnx_runtime(weights: Literal["fp32", "int8"]) -> Callable[[Path, StepState], Run]:
    """What was exported, by ONNX Runtime on one thread."""

    def load(folder: Path, state: StepState) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = folder / (ONNX_FILE if weights == "fp32" else INT8_FILE)
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        outputs = [np.empty(node.shape, np.float32) for node in session.get_outputs()]
        binding = session.io_binding()
        for name, tensor in zip(INPUTS, state.tensors(), strict=True):
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()))
        for name, array in zip(OUTPUTS, outputs, strict=True):
            binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        logits, written = (torch.from_numpy(array) for array in outputs)

        def run() -> tuple[Tensor, Tensor]:
            session.run_with_iobinding(binding)
            return logits, written

        return run

    return load


def convert_open_vino(weights: Weights) -> Callable[[PureStep, StepState, Path], None]:
    """To OpenVINO's own format, by way of ONNX, with weights of so many bits and products in 32."""

    def convert(pure: PureStep, state: StepState, folder: Path) -> None:
        import openvino

        export_onnx(pure, state, folder)
        if weights == "int8":
            _to_int8_weights(folder / ONNX_FILE)
        model = openvino.convert_model(folder / ONNX_FILE)
        openvino.save_model(model, folder / OPENVINO_FILE, compress_to_fp16=weights == "fp16")
        (folder / ONNX_FILE).unlink()

    return convert


def _to_int8_weights(file: Path) -> None:
    """Put 8-bit weights with a scale for each output, and their way back to 32 bits, in the place of matrices."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(file)
    graph = model.graph
    matrices = {w.name: w for w in graph.initializer if len(w.dims) == 2}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices:
            name = node.input[1]
            weight = numpy_helper.to_array(matrices[name])
            is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if is_transposed else 1
            scale = np.maximum(np.abs(weight).max(axis=1 - axis, keepdims=True), 1e-12) / 127
            rounded = np.round(weight / scale).astype(np.int8)
            graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_int8"))
            graph.initializer.append(
                numpy_helper.from_array(scale.ravel().astype(np.float32), f"{name}_scale")
            )
            inputs, output = [f"{name}_int8", f"{name}_scale"], f"{name}_float"
            nodes.append(helper.make_node("DequantizeLinear", inputs, [output], axis=axis))
            node.input[1] = output
            graph.initializer.remove(matrices.pop(name))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, file)


def open_vino(folder: Path, state: StepState) -> Run:
    """What was converted, by OpenVINO on one thread."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    step = openvino.Core().compile_model(folder / OPENVINO_FILE, "CPU", settings)
    request = step.create_infer_request()
    for name, tensor in zip(INPUTS, state.tensors(), strict=True):
        request.set_tensor(name, openvino.Tensor(tensor.numpy(), shared_memory=True))
    outputs = [np.empty(tuple(port.shape), np.float32) for port in step.outputs]
    for name, array in zip(OUTPUTS, outputs, strict=True):
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    logits, written = (torch.from_numpy(array) for array in outputs)

    def run() -> tuple[Tensor, Tensor]:
        request.infer()
        return logits, written

    return run
