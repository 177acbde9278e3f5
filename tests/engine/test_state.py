"""State survives the way through JSON and tensors with its types, strides and sharing."""

import collections
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchspeed.engine.state import decode, encode
from torchspeed.errors import CheckpointError

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(max_size=9)
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner, max_size=4),
    ),
    max_leaves=12,
)


def there_and_back(value: Any) -> Any:
    tensors: dict[str, Tensor] = {}
    return decode(json.loads(json.dumps(encode(value, tensors))), tensors)


@given(trees)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    assert repr(there_and_back(value)) == repr(value)


def test_counters_and_integer_keys_stay_what_they_are() -> None:
    """The milestones of MultiStepLR are a Counter of integers; as texts they would never be reached."""
    back = there_and_back({"milestones": collections.Counter({5: 1, 9: 2})})
    assert back["milestones"] == collections.Counter({5: 1, 9: 2})
    assert isinstance(back["milestones"], collections.Counter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_tensors_keep_dtype_and_bits(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    back = there_and_back({"a": tensor})["a"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_not_a_number_and_infinity_come_back() -> None:
    back = there_and_back([math.nan, math.inf, -math.inf])
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


def test_strides_come_back() -> None:
    tensor = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    back = there_and_back({"w": tensor})["w"]
    assert back.stride() == tensor.stride()
    assert torch.equal(back, tensor)


def test_tied_tensors_are_stored_once() -> None:
    tied = torch.randn(4, 4)
    tensors: dict[str, Tensor] = {}
    encoded = encode({"embedding": tied, "head": tied, "other": tied.clone()}, tensors)
    assert sorted(tensors) == ["embedding", "other"]
    assert torch.equal(decode(encoded, tensors)["head"], tied)


def test_numpy_states_come_back() -> None:
    state = np.random.get_state()
    back = there_and_back(state)
    np.random.set_state(back)
    assert back[0] == state[0]
    assert (back[1] == state[1]).all()
    assert back[1].dtype == np.uint32


def test_what_only_a_pickle_could_hold_is_refused_by_place() -> None:
    with pytest.raises(CheckpointError, match=r"holds a function at optimizer.hook, which cannot be saved"):
        encode({"optimizer": {"hook": lambda: 1}}, {})
