"""Render what firmware needs to know of a model as C: its arena, input, output and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightexp.core.tflite_graph import Tensor, TFLiteGraph

_C_TYPES = {"FLOAT32": "float", "INT8": "int8_t", "UINT8": "uint8_t", "INT16": "int16_t"}


@dataclass(frozen=True)
class CModel:
    """What firmware needs to know of a model.

    Attributes:
        graph: The model's graph, with one input and one output.
        labels: What the outputs stand for; empty if they are numbers.
        arena: The smallest arena in bytes in which TFLite Micro runs it, or the reason why it is not known.
    """

    graph: TFLiteGraph
    labels: tuple[str, ...]
    arena: int | str

    @property
    def operators(self) -> list[str]:
        """The kinds of its operators, each once."""
        return sorted({op.kind for op in self.graph.ops})

    def render_declarations(self, name: str) -> str:
        """Return the lines of the header; `name` is the prefix of the C names."""
        macro, lines = name.upper(), []
        if isinstance(self.arena, int):
            lines += [
                "// As measured with the reference kernels of TFLite Micro; optimised kernels may need more.",
                f"#define {macro}_ARENA_BYTES {self.arena}",
            ]
        else:
            lines.append(f"// The arena is not known: {make_printable(self.arena)}")
        lines.append("\n// A number is (integer - zero point) * scale.")
        for role, tensor in self._list_ports():
            lines += _render_port(f"{macro}_{role.upper()}", f"{name}_{role}", tensor)
        if self.labels:
            lines += ["", f"#define {macro}_LABELS {len(self.labels)}"]
        lines += ["", "#ifdef __cplusplus", 'extern "C" {', "#endif"]
        lines += [f"extern const int {name}_{role}_shape[{len(tensor.shape)}];" for role, tensor in self._list_ports()]
        if self.labels:
            lines.append(f"extern const char* const {name}_labels[{macro}_LABELS];")
        return "\n".join([*lines, "#ifdef __cplusplus", "}", "#endif", ""])

    def render_definitions(self, name: str) -> str:
        """Return the lines of the source; `name` is the prefix of the C names."""
        lines = []
        for role, tensor in self._list_ports():
            axes = ", ".join(map(str, tensor.shape))
            lines.append(f"const int {name}_{role}_shape[{len(tensor.shape)}] = {{{axes}}};")
        if self.labels:
            lines.append(f"const char* const {name}_labels[{name.upper()}_LABELS] = {{")
            lines += [f"    {quote_c_string(label)}," for label in self.labels]
            lines.append("};")
        return "\n".join([*lines, ""])

    def _list_ports(self) -> list[tuple[str, Tensor]]:
        tensors = self.graph.tensors
        return [("input", tensors[self.graph.inputs[0]]), ("output", tensors[self.graph.outputs[0]])]


def _render_port(macro: str, name: str, tensor: Tensor) -> list[str]:
    """Return the type, the number of values and the quantisation of an input or output; 1 and 0 where it is float."""
    scale = tensor.scales[0] if tensor.scales else 1.0
    zero = tensor.zero_points[0] if tensor.zero_points else 0
    return [
        f"typedef {_C_TYPES[tensor.dtype]} {name}_t;",
        f"#define {macro}_SIZE {math.prod(tensor.shape)}",
        f"#define {macro}_SCALE {format_c_float(scale)}",
        f"#define {macro}_ZERO_POINT ({zero})",
    ]


def format_c_float(value: float) -> str:
    """Return a C literal of the float32 nearest to a value, exact when it is read again.

    Example:
        >>> format_c_float(1.0), format_c_float(0.1), format_c_float(2.5e-7)
        ('1.0f', '0.1f', '2.5e-07f')
    """
    text = str(np.float32(value))
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


def quote_c_string(text: str) -> str:
    r"""Return a C string literal, in UTF-8, that holds any text.

    Example:
        >>> print(quote_c_string('a "b"?'))
        "a \042b\042\077"
    """
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}"
        for byte in text.encode(errors="replace")
    )
    return f'"{escaped}"'


def make_printable(line: str) -> str:
    """Replace what would end or continue a C comment: control characters, backslashes and trigraphs."""
    return "".join(char if char.isascii() and char.isprintable() and char not in "\\?" else "_" for char in line)
