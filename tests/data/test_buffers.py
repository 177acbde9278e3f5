"""Arrays are given out again when nobody holds them, and never before."""

import numpy as np
import torch

from torchspeed.data.buffers import Buffers


def address(buffers: Buffers) -> int:
    return int(buffers.take((4, 3), np.float32).ctypes.data)


def test_a_free_array_is_used_again() -> None:
    buffers = Buffers()
    assert address(buffers) == address(buffers)


def test_an_array_under_a_tensor_is_not_given_out() -> None:
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.take((4, 3), np.float32))
    assert address(buffers) != tensor.data_ptr()


def test_a_view_of_a_tensor_holds_the_array_too() -> None:
    buffers = Buffers()
    first = buffers.take((4, 3), np.uint16)
    where = first.ctypes.data
    view = torch.from_numpy(first).view(torch.bfloat16).permute(1, 0)[1:]
    del first
    assert buffers.take((4, 3), np.uint16).ctypes.data != where
    del view
    assert where in {buffers.take((4, 3), np.uint16).ctypes.data for _ in range(3)}


def test_the_graph_of_a_backward_pass_holds_the_array() -> None:
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.take((4, 3), np.float32).view())
    where = tensor.data_ptr()
    weight = torch.ones(4, 3, requires_grad=True)
    loss = (weight * tensor).sum()
    del tensor
    assert address(buffers) != where
    loss.backward()


def test_arrays_are_used_again_however_many_are_held() -> None:
    buffers = Buffers()
    held = [buffers.take((4, 3), np.float32) for _ in range(40)]
    addresses = {array.ctypes.data for array in held}
    del held[:20]
    assert {buffers.take((4, 3), np.float32).ctypes.data} <= addresses


def test_shape_and_dtype_are_as_asked() -> None:
    buffers = Buffers()
    buffers.take((4, 3), np.float32)
    array = buffers.take((2, 6), np.uint8)
    assert array.shape == (2, 6)
    assert array.dtype == np.uint8
