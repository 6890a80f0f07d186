"""A cheaper graph for the same function: a convolution as one matrix product of its patches.

ezkl 23.0.5 proves a matrix product by Freivalds' argument, in about as many cells as its two sides have
values, and a convolution in about two cells a multiply-add. So the input of a convolution is laid out in tiles by one
Gather, which costs no cell, and each tile is one row of a product with a matrix of the kernels. A tile
makes several neighbouring outputs at once: larger ones share more input, but their matrix, mostly
zeros, must be paid for in every proof.

A mean over windows right after a convolution is part of it: one convolution with a larger kernel and
stride. Both rewrites change the order of additions and nothing else; the circuit is held against the
float model like any other.

Shapes: N rows, C input and M output channels, and d spatial axes, in ONNX's order (N, C, *spatial).
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

#: Rows of one proof that share the matrices, for choosing tiles: convolutional models prove few at a time.
NOMINAL_ROWS = 16


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def whole_windows(node: onnx.NodeProto, spatial: list[int]) -> list[int] | None:
    """The window of an AveragePool whose windows neither overlap nor are cut nor padded; else None."""
    found = attributes(node)
    window = list(found["kernel_shape"])
    plain = not any(found.get("pads", [])) and not found.get("ceil_mode") and "auto_pad" not in found
    apart = list(found.get("strides", [1] * len(window))) == window
    if plain and apart and all(size % w == 0 for size, w in zip(spatial, window, strict=True)):
        return window
    return None


def merge_pools(document: bytes) -> bytes:
    """An AveragePool of whole windows, the only reader of a convolution, made part of it."""
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    shapes, tensors = shapes_of(model), {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    maker = {name: node for node in graph.node for name in node.output}
    merged = []
    for pool in list(graph.node):
        conv = maker.get(pool.input[0]) if pool.op_type == "AveragePool" else None
        if conv is None or not _plain_conv(conv, tensors) or readers[conv.output[0]] > 1:
            continue
        window = whole_windows(pool, shapes[conv.output[0]][2:])
        if window is None:
            continue
        kernel, how = onnx.numpy_helper.to_array(tensors[conv.input[1]]), _how(conv)
        wide = np.zeros((*kernel.shape[:2], *_span(kernel.shape[2:], window, how["strides"])), np.float64)
        for offset in product(*map(range, window)):
            at = [o * s for o, s in zip(offset, how["strides"], strict=True)]
            wide[:, :, *(slice(a, a + k) for a, k in zip(at, kernel.shape[2:], strict=True))] += kernel
        wide /= math.prod(window)
        name = f"{conv.input[1]}_{conv.output[0]}_pooled"
        graph.initializer.append(onnx.numpy_helper.from_array(wide.astype(np.float32), name))
        strides = [s * w for s, w in zip(how["strides"], window, strict=True)]
        inputs = [conv.input[0], name, *conv.input[2:]]
        both = onnx.helper.make_node(
            "Conv", inputs, list(pool.output), name=conv.name, strides=strides, pads=how["pads"]
        )
        conv.CopyFrom(both)
        graph.node.remove(pool)
        merged.append(name)
    if not merged:
        return document
    drop_unused(graph)
    return model.SerializeToString(deterministic=True)


def products(document: bytes) -> bytes:
    """Every plain convolution as one matrix product, whose cells are fewer than its multiply-adds."""
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    shapes, tensors = shapes_of(model), {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        if node.op_type == "Conv" and _plain_conv(node, tensors) and all(all(shapes.get(name, (0,))) for name in (node.input[0], node.output[0])):
            made, added = _product(node, shapes, tensors)
            nodes += made
            graph.initializer.extend(added)
            changed = True
        else:
            nodes.append(node)
    if not changed:
        return document
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return model.SerializeToString(deterministic=True)


def tile_cost(counts: tuple[int, ...], inputs: int, outputs: int) -> float:
    """Cells of Freivalds' argument a row: both sides of the product, and a share of its matrix."""
    tiles = math.prod(counts)
    return tiles * (inputs + outputs + 1) + inputs * outputs / NOMINAL_ROWS


def _product(
    node: onnx.NodeProto, shapes: dict[str, list[int]], tensors: dict[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Pad, Gather, MatMul, Add and the way back to (N, M, *spatial), and their constants."""
    import onnx

    kernel, how = onnx.numpy_helper.to_array(tensors[node.input[1]]), _how(node)
    (rows, channels, *space), (_, maps, *out) = shapes[node.input[0]], shapes[node.output[0]]
    options = []
    for tile in product(*([t for t in range(1, size + 1) if size % t == 0] for size in out)):
        counts = tuple(size // t for size, t in zip(out, tile, strict=True))
        patch = _span(kernel.shape[2:], tile, how["strides"])
        cells = tile_cost(counts, channels * math.prod(patch), maps * math.prod(tile))
        options.append((cells, tile, counts, patch))
    _, tile, counts, patch = min(options)

    # the matrix of one tile: (C, *patch) to (M, *tile)
    matrix = np.zeros((channels, *patch, maps, *tile), np.float32)
    for offset in product(*map(range, tile)):
        at = [o * s for o, s in zip(offset, how["strides"], strict=True)]
        window = tuple(slice(a, a + k) for a, k in zip(at, kernel.shape[2:], strict=True))
        matrix[(slice(None), *window, slice(None), *offset)] = np.moveaxis(kernel, 0, -1)
    # where each tile's inputs are among the C * prod(space) values of a row, and the zero after them
    zero = channels * math.prod(space)
    reach = [(c - 1) * t * s + p for c, t, s, p in zip(counts, tile, how["strides"], patch, strict=True)]
    places = np.full([channels, *reach], zero)
    held = [
        np.arange(length) - before for length, before in zip(places.shape[1:], how["pads"], strict=False)
    ]
    inside = [(h >= 0) & (h < size) for h, size in zip(held, space, strict=True)]
    numbers = np.arange(zero).reshape(channels, *space)
    places[np.ix_(np.ones(channels, bool), *inside)] = numbers[
        np.ix_(range(channels), *(h[i] for h, i in zip(held, inside, strict=True)))
    ]
    index = np.stack([
        places[(slice(None), *(
            slice(j * t * s, j * t * s + p)
            for j, t, s, p in zip(where, tile, how["strides"], patch, strict=True)
        ))].ravel()
        for where in product(*map(range, counts))
    ])
    tiles, width, depth = len(index), index.shape[1], maps * math.prod(tile)
    d = len(tile)
    back = [0, 1 + d, *(axis for i in range(d) for axis in (1 + i, 2 + d + i))]
    y = node.output[0]
    flat, padded, patches, laid, multiplied, biased, grid, turned = (
        f"{y}_{part}" for part in ("flat", "padded", "patches", "tiles", "product", "biased", "grid", "turned")
    )
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    constants = {
        "flat_shape": np.array([rows, zero], np.int64),
        "pads": np.array([0, 0, 0, 1], np.int64),
        "index": index.ravel().astype(np.int64),
        "tiles_shape": np.array([rows * tiles, width], np.int64),
        "matrix": matrix.reshape(width, depth),
        "grid_shape": np.array([rows, *counts, maps, *tile], np.int64),
        "out_shape": np.array([rows, maps, *out], np.int64),
    }
    nodes = [
        make("Reshape", [node.input[0], f"{y}_flat_shape"], [flat], name=flat),
        make("Pad", [flat, f"{y}_pads"], [padded], name=padded, mode="constant"),
        make("Gather", [padded, f"{y}_index"], [patches], name=patches, axis=1),
        make("Reshape", [patches, f"{y}_tiles_shape"], [laid], name=laid),
        make("MatMul", [laid, f"{y}_matrix"], [multiplied], name=multiplied),
    ]
    if len(node.input) > 2:
        bias = onnx.numpy_helper.to_array(tensors[node.input[2]])
        constants["bias"] = np.repeat(bias, math.prod(tile))[None]
        nodes.append(make("Add", [multiplied, f"{y}_bias"], [biased], name=biased))
        multiplied = biased
    nodes += [
        make("Reshape", [multiplied, f"{y}_grid_shape"], [grid], name=grid),
        make("Transpose", [grid], [turned], name=turned, perm=back),
        make("Reshape", [turned, f"{y}_out_shape"], [y], name=node.name or y),
    ]
    return nodes, [array(value, f"{y}_{name}") for name, value in constants.items()]


def _span(kernel: tuple[int, ...], outputs: tuple[int, ...] | list[int], strides: list[int]) -> tuple[int, ...]:
    """How far the inputs of so many neighbouring outputs reach, by axis."""
    return tuple((n - 1) * s + k for k, n, s in zip(kernel, outputs, strides, strict=True))


def _how(conv: onnx.NodeProto) -> dict[str, list[int]]:
    """Strides (d) and pads (2d, before and after) of a convolution."""
    found = attributes(conv)
    axes = len(found.get("kernel_shape") or found.get("strides") or [0] * (len(found.get("pads", [])) // 2))
    return {
        "strides": list(found.get("strides", [1] * axes)), "pads": list(found.get("pads", [0] * 2 * axes)),
    }


def _plain_conv(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is an ungrouped, undilated float32 convolution with constant kernels and explicit pads."""
    if node.op_type != "Conv" or any(name not in tensors for name in list(node.input)[1:]):
        return False
    found = attributes(node)
    return (
        found.get("group", 1) == 1 and set(found.get("dilations", [1])) == {1}
        and found.get("auto_pad", b"NOTSET") == b"NOTSET" and bool(_how(node)["strides"])
        and tensors[node.input[1]].data_type == 1  # FLOAT
    )


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The shape of every value that has a known one."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove initialisers that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
