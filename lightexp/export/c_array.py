"""Render a `.tflite` file as C source (an array and the operators it needs), for firmware that links its model in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightexp.core.errors import BadInput
from lightexp.export.c_model import CModel, make_printable

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_KEYWORDS = re.compile(  # of C11 and C++20
    "alignas|alignof|and|and_eq|asm|auto|bitand|bitor|bool|break|case|catch|char|char16_t|char32_t|char8_t|class|"
    "co_await|co_return|co_yield|compl|concept|const|const_cast|consteval|constexpr|constinit|continue|decltype|"
    "default|delete|do|double|dynamic_cast|else|enum|explicit|export|extern|false|float|for|friend|goto|if|inline|int|"
    "long|mutable|namespace|new|noexcept|not|not_eq|nullptr|operator|or|or_eq|private|protected|public|register|"
    "reinterpret_cast|requires|restrict|return|short|signed|sizeof|static|static_assert|static_cast|struct|switch|"
    "template|this|thread_local|throw|true|try|typedef|typeid|typename|union|unsigned|using|virtual|void|volatile|"
    "wchar_t|while|xor|xor_eq"
)
_SPELLINGS = {"MATMUL": "MatMul", "CUMSUM": "CumSum", "PADV2": "PadV2", "LSTM": "LSTM"}  # not just capitalised
_BYTES_PER_LINE = 12

_HEADER = """{comment}#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif
extern const unsigned char {name}_tflite[];
extern const unsigned int {name}_tflite_len;
#ifdef __cplusplus
}}
#endif

{declarations}
#define {macro}_OPS {count}

#ifdef __cplusplus
// Adds the model's operators to a tflite::MicroMutableOpResolver<{macro}_OPS>; false if one does not fit.
{custom}template <typename Resolver>
bool {name}_add_ops(Resolver& resolver) {{
  return {calls};
}}
#endif

#endif  // {guard}
"""

_SOURCE = """{comment}#include "{name}.h"

#ifndef __cplusplus
#include <stdalign.h>
#endif

alignas(16) const unsigned char {name}_tflite[] = {{
{lines}}};
const unsigned int {name}_tflite_len = {length};

{definitions}"""


def render_c_array(content: bytes, name: str, model: CModel, about: Sequence[str]) -> tuple[str, str]:
    """Return C11 and C++11 header and source that hold a `.tflite` file.

    They define the array `<name>_tflite`, aligned to 16 bytes as TensorFlow Lite Micro needs it, and its length
    `<name>_tflite_len`, and state its arena, input, output and labels; see `CModel`. C++ also gets `<name>_add_ops`,
    which registers only the operators that the model uses with a `tflite::MicroMutableOpResolver<<NAME>_OPS>`.

    Args:
        content: The file.
        name: Prefix of the C names.
        model: What firmware needs to know of it.
        about: Lines of a comment at the top.

    Raises:
        BadInput: If `name` is no valid C name, or a keyword of C or C++.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"C needs a name of letters, digits and _ that begins with a letter. Received: {name[:80]!r}.")
    if _KEYWORDS.fullmatch(name):
        raise BadInput(f"'{name}' is a keyword of C or C++. Give another name, such as --name {name}_model.")
    kinds = model.operators
    calls = [f"resolver.{name_resolver_method(kind)}() == 0" for kind in kinds if kind != "CUSTOM"]
    custom = ""
    if "CUSTOM" in kinds:
        custom = "// The model also has custom operators, which must be added with AddCustom.\n"
    comment = "".join(f"// {make_printable(line)}\n" for line in about)
    header = _HEADER.format(
        comment=comment,
        guard=f"LIGHTEXP_{name.upper()}_H_",
        name=name,
        macro=name.upper(),
        declarations=model.render_declarations(name),
        count=len(kinds),
        custom=custom,
        calls=" &&\n         ".join(calls) or "true",
    )
    source = _SOURCE.format(
        comment=comment,
        name=name,
        lines=_render_bytes(content),
        length=len(content),
        definitions=model.render_definitions(name),
    )
    return header, source


def name_resolver_method(kind: str) -> str:
    """Return the method of `MicroMutableOpResolver` that adds an operator.

    Example:
        >>> name_resolver_method("CONV_2D")
        'AddConv2D'
    """
    return "Add" + "".join(_spell(part) for part in kind.split("_"))


def _spell(part: str) -> str:
    if part in _SPELLINGS:
        return _SPELLINGS[part]
    return part if part[0].isdigit() else part.capitalize()


def _render_bytes(content: bytes) -> str:
    rows = (content[start : start + _BYTES_PER_LINE] for start in range(0, len(content), _BYTES_PER_LINE))
    return "".join("    " + " ".join(f"0x{byte:02x}," for byte in row) + "\n" for row in rows)
