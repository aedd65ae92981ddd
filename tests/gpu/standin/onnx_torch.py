"""Runs ONNX graphs with torch: an implementation that shares nothing with TensorRT or ONNX Runtime.

`fused` replaces attention by scaled_dot_product_attention and product + bias by addmm, for speed; without it
every node is carried out literally. `force` computes all floating types in another one (float32 as a
reference).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

TYPES = {
    1: torch.float32,
    10: torch.float16,
    16: torch.bfloat16,
    7: torch.int64,
    2: torch.uint8,
    6: torch.int32,
    9: torch.bool,
}
BYTES = {t: torch.empty((), dtype=t).element_size() for t in TYPES.values()}


class OnnxTorch:
    def __init__(self, path: Path, device: str = "cuda", *, fused: bool = True, force: Any = None) -> None:
        self.path, self.device, self.fused, self.force = Path(path), device, fused, force
        model = onnx.load(str(path), load_external_data=False)
        self.graph = model.graph
        self.inputs = {i.name: i.type.tensor_type for i in self.graph.input}
        (self.output,) = [o.name for o in self.graph.output]
        self.small: dict[str, Any] = {}
        self.weights: dict[str, Any] = {}
        maps: dict[Path, Any] = {}
        for t in self.graph.initializer:
            self._initializer(t, maps)
        self.nodes = [
            (
                n.op_type,
                list(n.input),
                list(n.output),
                {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute},
            )
            for n in self.graph.node
        ]
        if fused:
            self._fuse()
        last = {}
        for i, (_, ins, _, _) in enumerate(self.nodes):
            for name in ins:
                last[name] = i
        self.free = [
            [n for n in set(ins) if last[n] == i and n not in self.weights and n not in self.small]
            for i, (_, ins, _, _) in enumerate(self.nodes)
        ]

    def _initializer(self, t: Any, maps: Any) -> None:
        external = (
            {e.key: e.value for e in t.external_data}
            if t.data_location == onnx.TensorProto.EXTERNAL
            else None
        )
        if external is None:
            values = None if t.data_type == 16 else numpy_helper.to_array(t)
            if t.data_type == 7 and len(t.dims) <= 1:
                self.small[t.name] = values
                return
            if values is None:
                tensor = torch.frombuffer(bytearray(t.raw_data), dtype=torch.bfloat16).reshape(tuple(t.dims))
            else:
                tensor = torch.from_numpy(np.array(values))
        else:
            file = self.path.parent / external["location"]
            if file not in maps:
                maps[file] = np.memmap(file, np.uint8, "r")
            start, size = int(external["offset"]), int(external["length"])
            raw = torch.from_numpy(np.array(maps[file][start : start + size]))
            tensor = raw.to(self.device).view(TYPES[t.data_type]).reshape(tuple(t.dims))
        tensor = tensor.to(self.device)
        self.weights[t.name] = tensor.to(self.force) if self.force and tensor.is_floating_point() else tensor

    def _fuse(self) -> None:
        by_output = {o: n for n in self.nodes for o in n[2]}
        users: dict[str, list[Any]] = {}
        for n in self.nodes:
            for i in n[1]:
                users.setdefault(i, []).append(n)
        drop: set[int] = set()
        replace: dict[int, Any] = {}
        for node in self.nodes:
            kind, ins, outs, _ = node
            if kind == "Softmax":
                chain, mask, at = [node], None, by_output.get(ins[0])
                while at and at[0] in ("Cast", "Add"):
                    chain.append(at)
                    if at[0] == "Add":
                        mask = at[1][1]
                    at = by_output.get(at[1][0])
                after = users[outs[0]][0]
                while after[0] == "Cast":
                    chain.append(after)
                    after = users[after[2][0]][0]
                if at and at[0] == "MatMul" and after[0] == "MatMul":
                    chain.append(at)
                    drop |= {id(n) for n in chain}
                    replace[id(after)] = (
                        "Attention",
                        [at[1][0], at[1][1], after[1][1]] + ([mask] if mask else []),
                        after[2],
                        {},
                    )
            elif kind == "MatMul" and ins[1] in self.weights and len(users.get(outs[0], [])) == 1:
                add = users[outs[0]][0]
                if add[0] == "Add" and add[1][1] in self.weights and self.weights[add[1][1]].dim() == 1:
                    drop.add(id(node))
                    replace[id(add)] = ("Linear", [ins[0], ins[1], add[1][1]], add[2], {})
        self.nodes = [replace.get(id(n), n) for n in self.nodes if id(n) not in drop]

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def __call__(self, feeds: Any) -> Any:
        values = dict(self.small)
        values.update(self.weights)
        values.update(feeds)
        for (kind, ins, outs, attributes), free in zip(self.nodes, self.free, strict=False):
            found = getattr(self, f"op_{kind}")(attributes, *[values[i] if i else None for i in ins])
            values.update(zip(outs, found if kind == "Split" else (found,), strict=False))
            for name in free:
                values.pop(name, None)
        return values[self.output]

    # Nodes. Shapes are NumPy arrays, everything else tensors.
    def op_Cast(self, a: Any, x: Any) -> Any:
        kind = TYPES[a["to"]]
        if isinstance(x, np.ndarray):
            return x
        if self.force and kind.is_floating_point:
            kind = self.force
        return x.to(kind)

    def op_Shape(self, a: Any, x: Any) -> Any:
        return np.array(x.shape[a.get("start", 0) : a.get("end", None)], np.int64)

    def op_Concat(self, a: Any, *parts: Any) -> Any:
        return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts, a["axis"])

    def op_Reshape(self, a: Any, x: Any, shape: Any) -> Any:
        return x.reshape([x.shape[i] if s == 0 else int(s) for i, s in enumerate(shape)])

    def op_Conv(self, a: Any, x: Any, w: Any, b: Any = None) -> Any:
        return functional.conv2d(x, w, b, stride=tuple(a["strides"]))

    def op_Transpose(self, a: Any, x: Any) -> Any:
        return x.permute(a["perm"])

    def op_Pad(self, a: Any, x: Any, pads: Any) -> Any:
        n = len(pads) // 2
        return functional.pad(x, [int(v) for i in reversed(range(n)) for v in (pads[i], pads[n + i])])

    def op_Add(self, a: Any, x: Any, y: Any) -> Any:
        return x + y

    def op_Sub(self, a: Any, x: Any, y: Any) -> Any:
        return x - y

    def op_Mul(self, a: Any, x: Any, y: Any) -> Any:
        return x * y

    def op_Div(self, a: Any, x: Any, y: Any) -> Any:
        return x / y

    def op_Max(self, a: Any, x: Any, y: Any) -> Any:
        return torch.maximum(x, y)

    def op_MatMul(self, a: Any, x: Any, y: Any) -> Any:
        return x @ y

    def op_Identity(self, a: Any, x: Any) -> Any:
        return x

    def op_Linear(self, a: Any, x: Any, w: Any, b: Any) -> Any:
        return torch.addmm(b, x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[1])

    def op_Attention(self, a: Any, q: Any, kt: Any, v: Any, mask: Any = None) -> Any:
        if mask is not None:
            mask = mask.to(q.dtype).expand(q.shape[0], 1, q.shape[2], v.shape[2])
        return functional.scaled_dot_product_attention(q, kt.transpose(-1, -2), v, attn_mask=mask, scale=1.0)

    def op_LayerNormalization(self, a: Any, x: Any, w: Any, b: Any) -> Any:
        return functional.layer_norm(x, (x.shape[-1],), w, b, a["epsilon"])

    def op_Softmax(self, a: Any, x: Any) -> Any:
        return torch.softmax(x, a["axis"])

    def op_Gelu(self, a: Any, x: Any) -> Any:
        return functional.gelu(x, approximate=a.get("approximate", b"none").decode())

    def op_Split(self, a: Any, x: Any, sizes: Any = None) -> Any:
        return torch.chunk(x, a["num_outputs"], a["axis"])

    def op_Expand(self, a: Any, x: Any, shape: Any) -> Any:
        return x.expand(torch.broadcast_shapes(x.shape, tuple(int(s) for s in shape)))

    def op_Gather(self, a: Any, x: Any, index: Any) -> Any:
        axis = a.get("axis", 0)
        if isinstance(index, np.ndarray):
            return (
                x.select(axis, int(index))
                if index.ndim == 0
                else x.index_select(axis, torch.from_numpy(index).to(x.device))
            )
        return functional.embedding(index, x) if axis == 0 else torch.index_select(x, axis, index)

    def op_Slice(self, a: Any, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
        axes = range(len(starts)) if axes is None else axes
        for s, e, axis in zip(starts, ends, axes, strict=False):
            x = x.narrow(int(axis), int(s), min(int(e), x.shape[int(axis)]) - int(s))
        return x

    def op_Unsqueeze(self, a: Any, x: Any, axes: Any) -> Any:
        for axis in sorted(int(v) for v in np.atleast_1d(axes)):
            x = x.unsqueeze(axis)
        return x

    def op_ReduceL2(self, a: Any, x: Any, axes: Any) -> Any:
        return torch.linalg.vector_norm(
            x, dim=tuple(int(v) for v in axes), keepdim=bool(a.get("keepdims", 1))
        )

    def op_ReduceMean(self, a: Any, x: Any, axes: Any) -> Any:
        return x.mean(tuple(int(v) for v in axes), keepdim=bool(a.get("keepdims", 1)))

    def op_ReduceSum(self, a: Any, x: Any, axes: Any) -> Any:
        return x.sum(tuple(int(v) for v in axes), keepdim=bool(a.get("keepdims", 1)))
