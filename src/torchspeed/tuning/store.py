"""What was tuned before, by job, machine and the code of the levers: the same question again is answered at once.

One JSON file per question under ``cache_folder()/tune``, replaced as a whole. A store that cannot be written or read
is worth a note and nothing more.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchspeed.durable import publish
from torchspeed.fingerprint import fingerprint
from torchspeed.machine import cache_folder
from torchspeed.tuning.result import Tuning

FORMAT = 1


def key(question: dict[str, Any]) -> str:
    """The name of an answer: a digest of all that it depends on."""
    return fingerprint({"format": FORMAT, **question})


def load(name: str, budget: float) -> Tuning | None:
    """The stored answer, or None if there is none: none at all, none that can be read, or one that was cut short by a
    smaller budget than ``budget`` seconds."""
    path = _path(name)
    try:
        tuning = Tuning.from_state(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not tuning.complete and tuning.budget < budget:
        return None
    where = f"measured before, on {tuning.date}, in {tuning.seconds:.0f} s; --fresh measures again ({path})"
    return replace(tuning, from_cache=where)


def save(name: str, tuning: Tuning) -> str:
    """ "" or the sentence why it could not be kept."""
    path = _path(name)
    try:
        publish(path, json.dumps(tuning.to_state(), indent=1).encode())
    except OSError as error:
        return f"{path.parent} cannot be written ({error.strerror}): the same tuning will be measured again next time"
    return ""


def _path(name: str) -> Path:
    return cache_folder() / "tune" / f"{name}.json"
