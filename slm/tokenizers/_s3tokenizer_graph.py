"""The S3 tokenizer's weights out of the ONNX graphs in which alone they are published, and into such graphs.

The exporter left few weights their names. They are known by the node that they go into, whose name is the module's:
`/blocks.0/attn/query/MatMul` has a matrix `[in, out]`, `/blocks.0/attn/query/Add` its bias. Norms are one node or
several (`Mul`, `Add_1`); the two convolutions over all channels come first; a codebook, transposed, is squared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError, is_out_of_memory

if TYPE_CHECKING:
    import torch

_LINEAR = re.compile(r"/(blocks\.\d+)/(attn/(?:query|key|value|out)|mlp/mlp\.[02])/(MatMul|Add)")
_NORM = re.compile(r"/(blocks\.\d+)/(attn_ln|mlp_ln)/(LayerNormalization|Mul|Add)")
_MEMORY = re.compile(r"/(blocks\.\d+)/attn/fsmn_block/Conv")
_POSITIONS, _BIAS = "encoders.positional_embedding", "quantizer.project_in.bias"


def read_graph(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Weights by the names of `networks.s3tokenizer`, fp32, and the stride of the first convolution.

    UsageError without the package `onnx`, for a file that is no graph, and for one of another model.
    """
    import torch

    onnx = require_onnx()
    try:
        graph = onnx.load(path).graph
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in _named(graph)}
    except Exception as error:  # google.protobuf's DecodeError, and what a graph raises whose parts do not fit
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} is no readable ONNX graph ({reason}): get it anew") from error
    if not {"encoder.conv2.weight", "encoder.blocks.0.attn.query.weight"} <= weights.keys():
        raise UsageError(f"{path} is no S3 tokenizer: among its graph's nodes are not the layers of one")
    first = next(node for node in graph.node if node.op_type == "Conv")
    strides = next((list(each.ints) for each in first.attribute if each.name == "strides"), [1])
    if strides not in ([1], [2]):
        raise UsageError(f"{path} is no S3 tokenizer: its first convolution has the strides {strides}, not 1 or 2")
    return weights, strides[0]


def _named(graph: Any) -> Iterator[tuple[str, np.ndarray]]:
    from onnx.numpy_helper import to_array

    stored = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
    matrices = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}

    def given(node: Any) -> list[np.ndarray]:
        """What goes into a node and is no single number."""
        return [array for array in (to_array(stored[name]) for name in node.input if name in stored) if array.size > 1]

    convolutions = count(1)
    for node in graph.node:
        arrays, kind = given(node), node.op_type
        if not arrays:
            continue
        if match := _LINEAR.search(node.name):
            module = f"encoder.{match[1]}.{match[2].replace('mlp/', '').replace('/', '.')}"
            yield f"{module}.{'weight' if kind == 'MatMul' else 'bias'}", arrays[0].T
        elif match := _NORM.search(node.name):
            parts = {"Mul": ["weight"], "Add": ["bias"]}.get(kind, ["weight", "bias"])
            yield from (
                (f"encoder.{match[1]}.{match[2]}.{part}", each) for part, each in zip(parts, arrays, strict=False)
            )
        elif match := _MEMORY.search(node.name):
            yield f"encoder.{match[1]}.attn.fsmn_block.weight", arrays[0]
        elif kind == "Conv":
            layer = f"encoder.conv{next(convolutions)}"
            yield from ((f"{layer}.{part}", each) for part, each in zip(("weight", "bias"), arrays, strict=False))
        elif _POSITIONS in node.input:
            yield "encoder.positional_embedding", arrays[0]
        elif _BIAS in node.input:
            yield "quantizer.project_down.bias", arrays[0]
            for matrix in (matrices[name] for name in node.input if name in matrices):
                yield "quantizer.project_down.weight", given(matrix)[0].T
        elif kind == "Pow" and "quantizer" in node.name:
            yield "quantizer.embed", arrays[0].T


def require_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UsageError(
            f"tokenizer 's3tokenizer' is read from ONNX graphs, for which `pip install onnx` ({error})"
        ) from None
    return onnx


def write_graph(path: Path, weights: Mapping[str, torch.Tensor], version: int, stride: int) -> None:
    """A graph that holds these weights as that version's does. It has the nodes with weights alone: it cannot run."""
    onnx = require_onnx()
    from onnx import helper, numpy_helper

    nodes, arrays = [], []
    for kind, name, inputs, settings in _nodes(weights, version, stride):
        given = {input_name: array for input_name, array in inputs.items() if array is not None}
        arrays += [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in given.items()]
        nodes.append(helper.make_node(kind, list(inputs), [f"{name}_output"], name=name, **settings))
    graph = helper.make_graph(nodes, "s3tokenizer", [], [], arrays)
    onnx.save(helper.make_model(graph), path)


_Node = tuple[str, str, dict[str, np.ndarray | None], dict[str, Any]]


def _nodes(weights: Mapping[str, torch.Tensor], version: int, stride: int) -> Iterator[_Node]:
    """Kind, name, inputs (None: of another node), attributes."""
    arrays = {name: value.numpy() for name, value in weights.items()}
    number = 1519 if version == 1 else 2216  # of the published graphs, by which the package `s3tokenizer` goes
    for i, step in enumerate((stride, 2)):
        given: dict[str, np.ndarray | None] = {"x": None}
        for j, part in enumerate(("weight", "bias")):
            given[f"onnx::Conv_{number + 2 * i + j}"] = arrays[f"encoder.conv{i + 1}.{part}"]
        yield "Conv", f"/conv{i + 1}/Conv", given, {"strides": [step], "pads": [1, 1]}
    for name, array in arrays.items():
        if not name.startswith("encoder.blocks."):
            continue
        module, _, part = name.removeprefix("encoder.").rpartition(".")
        where = re.sub(r"\.(?=attn|mlp)", "/", "/" + module).replace("attn.", "attn/")
        where = re.sub(r"mlp\.(\d)", r"mlp/mlp.\1", where)
        if module.endswith("fsmn_block"):
            yield "Conv", f"{where}/Conv", {"x": None, f"{module}.{part}": array}, {"group": len(array)}
        elif not module.endswith("_ln"):
            kind = "MatMul" if part == "weight" else "Add"
            yield kind, f"{where}/{kind}", {"x": None, f"onnx::{kind}_{module}": array.T}, {}
        elif version != 2:
            kind, last = ("Mul", "Mul") if part == "weight" else ("Add", "Add_1")
            yield kind, f"{where}/{last}", {"x": None, f"onnx::{kind}_{module}": array}, {}
        elif part == "weight":
            given = {"x": None, f"onnx::{module}_0": array, f"onnx::{module}_1": arrays[f"encoder.{module}.bias"]}
            yield "LayerNormalization", f"{where}/LayerNormalization", given, {}
    if version == 1:
        yield "Add", "/Add", {"x": None, _POSITIONS: arrays["encoder.positional_embedding"]}, {}
        name = "/quantizer/rq/model/layers.0/_codebook/Pow_1"
        yield "Pow", name, {"onnx::Pow": arrays["quantizer.embed"].T, "two": None}, {}
    else:
        name, matrix = "/quantizer/project_in", arrays["quantizer.project_down.weight"].T
        yield "MatMul", f"{name}/MatMul", {"x": None, "onnx::MatMul_2536": matrix}, {}
        given = {_BIAS: arrays["quantizer.project_down.bias"], f"{name}/MatMul_output": None}
        yield "Add", f"{name}/Add", given, {}
