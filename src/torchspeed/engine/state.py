"""The whole state of a run as one tree, and that tree as JSON plus tensors, so that nothing needs a pickle.

What a run is at a step: parameters, buffers, optimizer, schedule, gradient scaler, every random generator, and where
it stands in the data. Restoring all of it continues bit for bit; leaving one out does not. Strides are part of it:
a channels_last momentum that comes back contiguous takes other vector paths and other roundings.
"""

import base64
import collections
import hashlib
import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchspeed.errors import CheckpointError
from torchspeed.run import Run

Tree = Any


def capture(run: Run, position: dict[str, Any]) -> dict[str, Tree]:
    """The state of ``run``; tensors are those of the run, not copies."""
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": None if run.schedule is None else run.schedule.state_dict(),
        "scaler": None if run.scaler is None else run.scaler.state_dict(),
        "random": _generators(run.device),
        "position": position,
    }


def restore(run: Run, state: dict[str, Tree]) -> dict[str, Any]:
    """Put ``state`` into ``run`` and return the position. Raises CheckpointError where the two do not fit."""
    try:
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        for name in ("schedule", "scaler"):
            part = getattr(run, name)
            if (part is None) != (state[name] is None):
                raise ValueError(
                    f"the checkpoint has {'no' if state[name] is None else 'a'} {name}, the run has "
                    f"{'none' if part is None else 'one'}"
                )
            if part is not None:
                part.load_state_dict(state[name])
        _restore_generators(state["random"])
        return dict(state["position"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"the checkpoint does not fit this job: {error}") from error


def digest(tree: Tree) -> str:
    """sha256 over every bit of a state; equal digests mean equal continuations."""
    tensors: dict[str, Tensor] = {}
    whole = hashlib.sha256(json.dumps(encode(tree, tensors)).encode())
    for name in sorted(tensors):
        whole.update(name.encode())
        if tensors[name].numel():
            whole.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def encode(value: Tree, tensors: dict[str, Tensor], path: str = "") -> Any:
    """``value`` as JSON; its tensors go into ``tensors`` under dotted names, contiguous and on the CPU.

    Tensors that share memory (tied weights) are stored once. Raises CheckpointError for what JSON cannot hold.
    """
    return _Encoder(tensors).encode(value, path)


def decode(value: Any, tensors: dict[str, Tensor]) -> Tree:
    """The inverse of ``encode``."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = next((key for key in value if key.startswith("$")), None)
    if kind is None:
        return {key: decode(item, tensors) for key, item in value.items()}
    return _DECODERS[kind](value[kind], value, tensors)


class _Encoder:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.names: dict[tuple[Any, ...], str] = {}

    def encode(self, value: Tree, path: str) -> Any:
        if isinstance(value, (np.bool_, np.integer, np.floating)):
            value = value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            return self.tensor(value, path)
        if isinstance(value, np.ndarray):
            return {"$array": value.tolist(), "dtype": str(value.dtype)}
        if isinstance(value, list):
            return [self.encode(item, f"{path}.{i}") for i, item in enumerate(value)]
        if isinstance(value, (tuple, set, frozenset)):
            items = [self.encode(item, f"{path}.{i}") for i, item in enumerate(value)]
            return {"$tuple" if isinstance(value, tuple) else "$set": items}
        if isinstance(value, dict):
            pairs = [(key, self.encode(item, f"{path}.{key}".lstrip("."))) for key, item in value.items()]
            if isinstance(value, collections.Counter):
                return {"$counter": [list(pair) for pair in pairs]}
            if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
                return dict(pairs)
            return {"$dict": [[self.encode(key, path), item] for key, item in pairs]}
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        raise CheckpointError(
            f"the training state holds a {type(value).__name__} at {path}, which cannot be saved without a pickle; "
            "keep numbers, texts, tensors, lists and dictionaries in state_dict()"
        )

    def tensor(self, value: Tensor, path: str) -> Any:
        value = value.detach()
        identity = (
            value.untyped_storage().data_ptr(),
            value.storage_offset(),
            value.shape,
            value.stride(),
            value.dtype,
        )
        if value.numel() and identity in self.names:
            return {"$tensor": self.names[identity]}
        self.names[identity] = path
        plain = value.cpu().contiguous()
        if plain.untyped_storage().nbytes() != plain.numel() * plain.element_size():
            plain = plain.clone()
        self.tensors[path] = plain
        reference: dict[str, Any] = {"$tensor": path}
        if not value.is_contiguous() and 0 not in value.stride():
            reference["stride"] = list(value.stride())
        return reference


def _decode_tensor(name: str, value: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    tensor = tensors[name]
    if "stride" not in value:
        return tensor
    return torch.empty_strided(tensor.shape, value["stride"], dtype=tensor.dtype).copy_(tensor)


_DECODERS: dict[str, Any] = {
    "$tensor": _decode_tensor,
    "$array": lambda items, value, tensors: np.array(items, dtype=value["dtype"]),
    "$tuple": lambda items, value, tensors: tuple(decode(items, tensors)),
    "$set": lambda items, value, tensors: set(decode(items, tensors)),
    "$dict": lambda pairs, value, tensors: {decode(k, tensors): decode(v, tensors) for k, v in pairs},
    "$counter": lambda pairs, value, tensors: collections.Counter({decode(k, tensors): v for k, v in pairs}),
    "$bytes": lambda text, value, tensors: base64.b64decode(text),
    "$dtype": lambda name, value, tensors: getattr(torch, name),
}


def _generators(device: torch.device) -> dict[str, Tree]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
        "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
    }


def _restore_generators(states: dict[str, Tree]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
