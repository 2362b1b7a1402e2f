"""linear_scan and clipped_scan against plain step loops, and the two paths against each other."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmru_hw.nn import clipped_scan, linear_scan
from cmru_hw.nn.buffers import empty_like
from cmru_hw.nn.saturating_scan import tree_clipped_backward, tree_clipped_scan
from cmru_hw.nn.scan import LANES, PARALLEL_FROM, tree_backward, tree_scan
from cmru_hw.nn.uncached import STREAM_FROM, streams

shapes = st.tuples(st.integers(1, 3), st.integers(1, 20), st.sampled_from([1, 5, LANES + 3]))
seeds = st.integers(0, 2**31)
fast = settings(max_examples=25, deadline=None)


def draw(shape: tuple[int, int, int], seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """(a, b, s0) with gradients wanted."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [shape, shape, (shape[0], shape[2])]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def loop(a: Tensor, b: Tensor, s: Tensor, limit: float | None = None) -> Tensor:
    states = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        s = a_t * s + b_t
        s = s if limit is None else s.clamp(-limit, limit)
        states.append(s)
    return torch.stack(states, 1)


def gradients(s: Tensor, inputs: list[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    weight = torch.randn(s.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.autograd.grad((s * weight.to(s.dtype)).sum(), inputs)


@fast
@given(shapes, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_scan_and_its_gradients_equal_a_loop(shape, seed, dtype):
    inputs = draw(shape, seed, dtype)
    got, want = linear_scan(*inputs), loop(*inputs)
    torch.testing.assert_close(got, want)
    for g, w in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)


@fast
@given(shapes, seeds)
def test_tree_path_equals_compiled_path(shape, seed):
    a, b, s0 = inputs = draw(shape, seed)
    s = linear_scan(*inputs)
    torch.testing.assert_close(tree_scan(a, b, s0), s)
    grad = torch.randn_like(s)
    da, db, _ = torch.autograd.grad(s, inputs, grad)
    torch.testing.assert_close(tree_backward(a, s, s0, grad), (da, db))


@fast
@given(shapes, seeds, st.floats(0.1, 5.0), st.sampled_from([torch.float32, torch.float64]))
def test_clipped_scan_and_its_gradient_equal_a_loop_of_clamps(shape, seed, limit, dtype):
    _, b, s0 = draw(shape, seed, dtype)
    got, want = clipped_scan(b, s0, limit), loop(torch.ones_like(b), b, s0, limit)
    torch.testing.assert_close(got, want)
    for g, w in zip(gradients(got, [b, s0]), gradients(want, [b, s0]), strict=True):
        torch.testing.assert_close(g, w)


@fast
@given(shapes, seeds, st.integers(1, 3))
def test_clipped_tree_path_equals_compiled_path_on_whole_steps(shape, seed, limit):
    _, b, s0 = draw(shape, seed)
    b = b.detach().round().requires_grad_()
    s0 = s0.detach().sign().requires_grad_()
    s = clipped_scan(b, s0, limit)
    assert torch.equal(tree_clipped_scan(b, s0, limit), s)
    grad = torch.randn_like(s)
    db, _ = torch.autograd.grad(s, [b, s0], grad)
    torch.testing.assert_close(tree_clipped_backward(b, s, s0, limit, grad), db)


@fast
@given(shapes, seeds, st.floats(0.1, 5.0))
def test_clipped_tree_path_equals_compiled_path_on_real_steps(shape, seed, limit):
    """To rounding: the tree adds in another order."""
    _, b, s0 = draw(shape, seed)
    torch.testing.assert_close(tree_clipped_scan(b, s0, limit), clipped_scan(b, s0, limit))


def test_all_threads_equal_one_thread():
    """A scan above the size where it goes parallel, piece by piece below it."""
    units = 2 * LANES + 7
    a, b, s0 = inputs = draw((5, 200, units), 6, torch.float32)
    assert b.numel() >= PARALLEL_FROM
    s, clipped = linear_scan(*inputs), clipped_scan(b, s0, 2)
    whole = [*gradients(s, inputs), *gradients(clipped, [b, s0])]
    pieces = [
        linear_scan(a[:, :, n : n + 9], b[:, :, n : n + 9], s0[:, n : n + 9]) for n in range(0, units, 9)
    ]
    assert torch.equal(torch.cat(pieces, 2), s)
    saturated = [clipped_scan(b[:, :, n : n + 9], s0[:, n : n + 9], 2) for n in range(0, units, 9)]
    assert torch.equal(torch.cat(saturated, 2), clipped)
    parts = [*gradients(torch.cat(pieces, 2), inputs), *gradients(torch.cat(saturated, 2), [b, s0])]
    assert all(torch.equal(part, want) for part, want in zip(parts, whole, strict=True))


def test_gradcheck():
    inputs = draw((2, 6, 3), 1)
    assert torch.autograd.gradcheck(linear_scan, inputs)
    assert torch.autograd.gradcheck(lambda b, s0: clipped_scan(b, s0, 1.5), inputs[1:])


def test_gradient_passes_where_the_sum_reaches_the_limit_without_passing_it():
    b = torch.tensor([[[1.0], [1.0], [1.0], [-1.0]]], requires_grad=True)
    s = clipped_scan(b, torch.zeros(1, 1), 2)
    assert s.flatten().tolist() == [1, 2, 2, 1]
    (db,) = torch.autograd.grad(s[:, -1].sum(), b)
    assert db.flatten().tolist() == [0, 0, 0, 1], "the third sum, 3, was clipped: nothing passes beyond it"
    (db,) = torch.autograd.grad(clipped_scan(b, torch.zeros(1, 1), 3)[:, -1].sum(), b)
    assert db.flatten().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype):
    a, b, s0 = draw((2, 33, 4), 3, dtype)
    s = linear_scan(a, b, s0)
    wide = loop(a.float(), b.float(), s0.float())
    assert s.dtype == dtype
    torch.testing.assert_close(s, wide.to(dtype))
    assert all(g.dtype == dtype for g in gradients(s, [a, b, s0]))
    assert clipped_scan(b, s0, 2).dtype == dtype


def test_strided_and_expanded_inputs_and_gradients():
    a, b, s0 = draw((7, 7, 5), 4)
    inputs = [a[:1, :, :1].expand(7, 7, 5), b.transpose(0, 1), s0.flip(0)]
    got, want = linear_scan(*inputs), loop(*inputs)
    torch.testing.assert_close(got, want)
    for g, w in zip(
        torch.autograd.grad(got.sum(), [a, b, s0]), torch.autograd.grad(want.sum(), [a, b, s0]), strict=True
    ):
        torch.testing.assert_close(g, w)


def test_long_latch_memory_is_exact():
    keep, set_ = torch.ones(1, 10_000, 2), torch.zeros(1, 10_000, 2)
    assert torch.equal(linear_scan(keep, set_, torch.tensor([[0.0, 1.0]]))[:, -1], torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(2, 3)}, "b must be [B, T, N] with T >= 1, got [2, 3]"),
        ({"b": torch.zeros(2, 0, 4)}, "b must be [B, T, N] with T >= 1, got [2, 0, 4]"),
        ({"b": torch.zeros(2, 3, 4, dtype=torch.int64)}, "b must be real floating point, got torch.int64"),
        ({"a": torch.zeros(2, 3, 5)}, "a must be [2, 3, 4] to fit b [2, 3, 4], got [2, 3, 5]"),
        ({"s0": torch.zeros(4)}, "s0 must be [2, 4] to fit b [2, 3, 4], got [4]"),
        ({"s0": torch.zeros(2, 4).double()}, "s0 must have the dtype of b, torch.float32, got torch.float64"),
        ({"a": torch.zeros(2, 3, 4, device="meta")}, "a must be on the device of b, cpu, got meta"),
    ],
)
def test_wrong_input_is_refused_with_the_rule(change, message):
    arguments = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3, 4), "s0": torch.zeros(2, 4)} | change
    with pytest.raises(ValueError, match=re.escape(f"linear_scan: {message}")):
        linear_scan(**arguments)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_limit_must_be_positive(limit):
    with pytest.raises(ValueError, match="limit must be positive and finite, got"):
        clipped_scan(torch.zeros(1, 2, 1), torch.zeros(1, 1), limit)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    inputs = draw((3, 50, 7), 5)
    there = [tensor.detach().cuda().requires_grad_() for tensor in inputs]
    got, want = linear_scan(*there), linear_scan(*inputs)
    torch.testing.assert_close(got.cpu(), want)
    for g, w in zip(gradients(got.cpu(), there), gradients(want, inputs), strict=True):
        torch.testing.assert_close(g.cpu(), w)
    torch.testing.assert_close(
        clipped_scan(there[1], there[2], 2).cpu(), clipped_scan(inputs[1], inputs[2], 2)
    )


def test_large_results_use_memory_again_but_never_what_something_holds() -> None:
    """Three of a mebibyte: the one let go of comes back, those held and a view's do not."""
    like = torch.zeros(2, 1024, 128)
    first, second = empty_like(like), empty_like(like)
    taken, view = first.data_ptr(), second[1:]
    held = second.data_ptr()
    del first, second
    third, fourth = empty_like(like), empty_like(like)
    assert third.data_ptr() == taken
    assert fourth.data_ptr() not in (taken, held)
    assert (third.shape, third.stride(), third.dtype) == (like.shape, like.stride(), like.dtype)
    view.fill_(3.0)
    assert empty_like(torch.zeros(4)).shape == (4,)


def test_gradients_of_large_scans_are_not_written_over() -> None:
    a, b, s0 = inputs = draw((4, 1024, 64), 8, torch.float32)
    kept = [(s := linear_scan(a, b, s0)), *torch.autograd.grad(s.sum(), inputs)]
    copies = [tensor.clone() for tensor in kept]
    for _ in range(5):
        gradients(linear_scan(a, b, s0), inputs)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("units", [16, LANES + 16, 17])
def test_results_too_large_for_the_caches_are_the_same(units: int, dtype: torch.dtype) -> None:
    """Gradients of 8 MiB and more go past the caches where rows are whole lines; 17 units are not."""
    steps = STREAM_FROM // (dtype.itemsize * units * 2) + 1
    a, b, s0 = inputs = [tensor.to(dtype) for tensor in draw((2, steps, units), 9)]
    a = (a * 0.3).detach().requires_grad_()  # forgets: the sum of thousands of steps stays near 1
    s = linear_scan(a, b, s0)
    assert streams(s) == (units != 17)
    weight = torch.randn_like(s)
    da, db, ds0 = torch.autograd.grad((s * weight).sum(), (a, b, s0))
    want_a, want_b = tree_backward(a.detach(), s.detach(), inputs[2].detach(), weight)
    near = {"rtol": 0.0, "atol": 100 * torch.finfo(dtype).eps * float(want_a.abs().max())}
    torch.testing.assert_close(db, want_b, **near)
    torch.testing.assert_close(da, want_a, **near)
    torch.testing.assert_close(ds0, a[:, 0] * want_b[:, 0], **near)
