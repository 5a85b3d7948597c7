"""Variants of an exported graph in FP16 and BF16, for engines that are strongly typed: the types are in the graph.

Only what lies between matrix products is lowered. What prepares their inputs (standardising, ages, masks) and what
makes the score of their outputs stays in FP32: neither costs anything, and scores differ by less than FP16 resolves.
INT8 and FP8 are `shortlist.export.qdq`'s; what a variant changes is measured by `shortlist.export.emulate`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
PRODUCTS = ("Gemm", "MatMul")
QDQ = ("QuantizeLinear", "DequantizeLinear")
GATHERED = ("history", "candidates", "features")  # inputs that come from item tables, which a GPU keeps in FP16
MASK = -3e4  # in FP16's range with room to add to; its softmax weight is exactly 0


def lower(graph: bytes, precision: str) -> bytes:
    """The variant of `graph` whose matrix products and all between them are of `precision`, fp16 or bf16.

    Inputs that hold gathered item vectors become FP16 where only those nodes read them, whichever type the products
    take (NumPy and CuPy have no bfloat16); outputs stay FP32. Q/DQ pairs around a product keep their integers and
    get low scales.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    _soften_masks(model)
    _Lowering(model, LOW[precision]).run()
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def weighted_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Matrix products with constant weights of two or more columns; a single column is a linear score."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    found = [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in constants]
    return [node for node in found if constants[node.input[1]].dims[column_axis(node)] > 1]


def column_axis(product: onnx.NodeProto) -> int:
    """The axis of a product's weights that counts its output columns."""
    attributes = {a.name: helper.get_attribute_value(a) for a in product.attribute}
    return 0 if attributes.get("transB") else 1


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put `nodes` in place of the graph's, and drop constants that nothing reads any more."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for field, values in ((model.graph.node, nodes), (model.graph.initializer, kept)):
        del field[:]
        field.extend(values)


def _core(model: onnx.ModelProto) -> list[bool]:
    """Which nodes lie between weighted products, those included, with the Q/DQ nodes that only they read."""
    nodes = list(model.graph.node)
    products = {node.output[0] for node in weighted_products(model)}
    after, before = set(products), set[str]()
    for node in nodes:
        if after.intersection(node.input):
            after.update(node.output)
    for node in reversed(nodes):
        if products.intersection(node.output) or before.intersection(node.output):
            before.update((*node.input, *node.output))
    core = [bool(after.intersection(n.output)) and bool(before.intersection(n.output)) for n in nodes]
    readers = _readers(nodes)
    for place in reversed(range(len(nodes))):
        if nodes[place].op_type in QDQ:
            reading = readers[nodes[place].output[0]]
            core[place] = bool(reading) and all(core[reader] for reader in reading)
    return core


def _readers(nodes: Iterable[onnx.NodeProto]) -> defaultdict[str, list[int]]:
    readers: defaultdict[str, list[int]] = defaultdict(list)
    for place, node in enumerate(nodes):
        for name in node.input:
            readers[name].append(place)
    return readers


def _soften_masks(model: onnx.ModelProto) -> None:
    """Masks beyond FP16's range would become -inf, which a fused softmax may turn into NaN."""
    masking = {name for node in model.graph.node if node.op_type == "Where" for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in masking and tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.where(values < MASK, np.float32(MASK), values), tensor.name))


class _Lowering:
    """One pass over a model: casts where a tensor enters or leaves the core, low copies of its constants."""

    def __init__(self, model: onnx.ModelProto, low: int) -> None:
        self.model, self.graph, self.low = model, model.graph, low
        self.suffix = "_" + TensorProto.DataType.Name(low).lower()
        self.nodes = list(zip(self.graph.node, _core(model), strict=True))
        self.constants = {t.name: t for t in self.graph.initializer if t.data_type == TensorProto.FLOAT}
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.inside = {name for node, core in self.nodes if core for name in node.output}  # tensors of the low type

    def run(self) -> None:
        halves = [value for value in self.graph.input if value.name in GATHERED and self._only_core_reads(value.name)]
        for value in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        if self.low == TensorProto.FLOAT16:
            self.inside |= {value.name for value in halves}
        nodes = list(_once(new for node, core in self.nodes for new in self._rewired(node, core)))
        made = [value.name for value in self.graph.output if value.name in self.inside]
        replace_nodes(self.model, [*nodes, *(self._leave(name, nodes) for name in made)])

    def _only_core_reads(self, name: str) -> bool:
        readers = [core for node, core in self.nodes if name in node.input and node.op_type != "Shape"]
        return name in self.floats and bool(readers) and all(readers)

    def _rewired(self, node: onnx.NodeProto, core: bool) -> Iterator[onnx.NodeProto]:
        """`node` with inputs of its own type, after the casts that this takes."""
        if core and node.op_type == "Cast":
            self._retype_cast(node)
        for place, name in enumerate(node.input):
            if core and name in self.constants:
                node.input[place] = self._low_constant(name)
            elif name in self.floats and node.op_type != "Shape" and core != (name in self.inside):
                to = self.low if core else TensorProto.FLOAT
                node.input[place] = f"{name}{self.suffix}" if core else f"{name}_float"
                yield helper.make_node("Cast", [name], [node.input[place]], name=f"cast_{node.input[place]}", to=to)
        yield node

    def _leave(self, name: str, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        """The cast that makes FP32 of an output of the graph; `nodes` know the low one by another name from now on."""
        low = f"{name}{self.suffix}"
        for node in nodes:
            for names in (node.input, node.output):
                names[:] = [low if given == name else given for given in names]
        return helper.make_node("Cast", [low], [name], name=f"cast_{name}", to=TensorProto.FLOAT)

    def _retype_cast(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.low

    def _low_constant(self, name: str) -> str:
        low = f"{name}{self.suffix}"
        if low not in {tensor.name for tensor in self.graph.initializer}:
            values = numpy_helper.to_array(self.constants[name]).astype(helper.tensor_dtype_to_np_dtype(self.low))
            self.graph.initializer.append(numpy_helper.from_array(values, low))
        return low


def _once(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Drop casts that an earlier one repeats."""
    made: set[str] = set()
    for node in nodes:
        if node.output[0] not in made:
            yield node
        made.update(node.output)
