"""A file as a C array, for firmware that links its model in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lightexp.core.errors import BadInput

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_WORDS = {"MATMUL": "MatMul", "CUMSUM": "CumSum", "PADV2": "PadV2", "LSTM": "LSTM"}  # that are not just capitalised
_LINE = 12  # bytes


def render_c_array(content: bytes, name: str, operators: Iterable[str], about: Sequence[str]) -> tuple[str, str]:
    """Header and source that hold a `.tflite`, for C11 and C++11.

    The array `<name>_tflite` is aligned to 16 bytes, as TensorFlow Lite Micro needs it, and `<name>_tflite_len` long;
    C++ also has `<name>_add_ops`, which registers just the operators that the model uses with a
    `tflite::MicroMutableOpResolver<<NAME>_OPS>`.

    Args:
        content: The file.
        name: What the C names begin with.
        operators: The file's, as the schema calls them.
        about: What to say at the top, line by line.

    Raises:
        BadInput: If C cannot have such a name.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"C needs a name of letters, digits and _ that begins with a letter. Received: {name[:80]!r}.")
    used = sorted(set(operators))
    top = "".join(f"// {_printable(line)}\n" for line in about)
    guard = f"LIGHTEXP_{name.upper()}_H_"
    calls = (
        " &&\n         ".join(f"resolver.{name_resolver_method(kind)}() == 0" for kind in used if kind != "CUSTOM")
        or "true"
    )
    custom = "// The model has operators of its own kind besides, which AddCustom adds.\n" if "CUSTOM" in used else ""
    header = f"""{top}#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif
extern const unsigned char {name}_tflite[];
extern const unsigned int {name}_tflite_len;
#ifdef __cplusplus
}}
#endif

#define {name.upper()}_OPS {len(used)}

#ifdef __cplusplus
// Adds the model's operators to a tflite::MicroMutableOpResolver<{name.upper()}_OPS>; false if one does not fit.
{custom}template <typename Resolver>
bool {name}_add_ops(Resolver& resolver) {{
  return {calls};
}}
#endif

#endif  // {guard}
"""
    rows = (content[start : start + _LINE] for start in range(0, len(content), _LINE))
    lines = "".join("    " + "".join(f"0x{byte:02x}, " for byte in row).rstrip() + "\n" for row in rows)
    source = f"""{top}#include "{name}.h"

#ifndef __cplusplus
#include <stdalign.h>
#endif

alignas(16) const unsigned char {name}_tflite[] = {{
{lines}}};
const unsigned int {name}_tflite_len = {len(content)};
"""
    return header, source


def name_resolver_method(kind: str) -> str:
    """The method of `MicroMutableOpResolver` that adds an operator: `AddConv2D` for `CONV_2D`."""
    return "Add" + "".join(
        _WORDS.get(word, word if word[0].isdigit() else word.capitalize()) for word in kind.split("_")
    )


def _printable(line: str) -> str:
    """What a comment can hold: no end of line, and no backslash (or trigraph of one) that would continue it."""
    return "".join(char if char.isascii() and char.isprintable() and char not in "\\?" else "_" for char in line)
