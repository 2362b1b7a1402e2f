"""Stores that pass the caches by: large results, which nobody reads soon, leave the rest cached."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

LINE = 64
"""Bytes that one such store writes: a cache line, or a half of one."""

STREAM_FROM = 2**23
"""Bytes of a result from which stores pass by: a smaller one is still cached when its reader comes."""

# Any: the types below are of what makes the code, not of how compiled code calls it.
compiled: Any = intrinsic


def streams(*results: Tensor) -> bool:
    """Whether a kernel should write `results`, [B, T, N], with `write_row`: large, of rows of whole lines."""
    size = results[0].element_size()
    whole = results[0].shape[-1] * size % LINE == 0 and all(each.data_ptr() % LINE == 0 for each in results)
    return whole and results[0].numel() * size >= STREAM_FROM


@compiled
def write_row(_typing: Any, target: Any, source: Any) -> Any:
    """In compiled code, target[:] = source past the caches; both whole lines, `target` beginning one.

    Stores in LLVM rather than a loop in Python: numba counts references to rows that it hands to a function.
    """
    dtype = target.dtype
    count = LINE * 8 // dtype.bitwidth

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(context.get_data_type(dtype), count).as_pointer()
        to, of = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        zero, step = (context.get_constant(types.intp, value) for value in (0, count))
        past = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with cgutils.for_range_slice(builder, zero, to.nitems, step, zero.type) as (first, _):
            source_line, target_line = (
                builder.bitcast(builder.gep(row.data, [first]), line) for row in (of, to)
            )
            loaded = builder.load(source_line, align=dtype.bitwidth // 8)
            builder.store(loaded, target_line, align=LINE).set_metadata("nontemporal", past)
        return context.get_dummy_value()

    return types.void(target, source), code


@compiled
def fence(_typing: Any) -> Any:
    """In compiled code, show this thread's rows to every thread that it signals afterwards."""

    def code(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code
