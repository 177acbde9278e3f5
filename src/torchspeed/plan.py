"""``Plan``: one option per lever, names and plain values only; a TOML file that people read, edit and share.

A plan knows nothing of levers: whether a name exists is for ``torchspeed.engine.resolve`` to say. What is not
named stays as the job is written.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchspeed.errors import PlanError
from torchspeed.fingerprint import fingerprint

Option = str | int | float | bool
AS_WRITTEN = "as written"
MAX_BYTES = 1 << 20

_HEADER = "# torchspeed plan: one option per lever; what is not named stays as written.\n"


@dataclass(frozen=True)
class Plan:
    """An immutable choice of options, sorted by lever name. ``Plan.of(precision="bf16", threads=2)``."""

    options: tuple[tuple[str, Option], ...] = ()

    @classmethod
    def of(cls, **options: Option) -> "Plan":
        return cls.from_mapping(options)

    @classmethod
    def from_mapping(cls, options: Mapping[str, object], source: str = "plan") -> "Plan":
        pairs: list[tuple[str, Option]] = []
        for name, value in options.items():
            if not isinstance(value, (str, int, float, bool)):
                raise PlanError(
                    f"{source}: {name} must be a plain value (text, number, true, false); found {type(value).__name__}"
                )
            if value != AS_WRITTEN:
                pairs.append((name, value))
        return cls(tuple(sorted(pairs)))

    @classmethod
    def from_toml(cls, text: str, source: str = "plan") -> "Plan":
        try:
            return cls.from_mapping(tomllib.loads(text), source)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise PlanError(f"{source}: not a TOML file: {error}") from error

    @classmethod
    def read(cls, path: str | Path) -> "Plan":
        """Raises PlanError when the file is missing, over 1 MiB, not text, or not a plan."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise PlanError(f"{path}: larger than {MAX_BYTES:,} bytes; a plan is a few lines")
            return cls.from_toml(raw.decode(), str(path))
        except OSError as error:
            raise PlanError(f"{path}: cannot read the plan: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: not a text file (byte {error.start})") from error

    def set(self, assignments: Iterable[str]) -> "Plan":
        """A new plan with ``name=value`` texts applied; values are read as TOML, or else as text."""
        options = dict(self.options)
        for assignment in assignments:
            name, separator, text = assignment.partition("=")
            if not separator or not name.strip():
                raise PlanError(f"--set {assignment}: write it as lever=option, for instance precision=bf16")
            options[name.strip()] = _value(text.strip())
        return Plan.from_mapping(options, "--set")

    def with_option(self, lever: str, option: Option) -> "Plan":
        """A new plan in which ``lever`` has ``option``."""
        return Plan.from_mapping({**dict(self.options), lever: option})

    def without(self, lever: str) -> "Plan":
        """A new plan in which ``lever`` stays as written."""
        return self.with_option(lever, AS_WRITTEN)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.options)

    def to_toml(self) -> str:
        return _HEADER + "".join(f"{name} = {_toml(value)}\n" for name, value in self.options)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options) or AS_WRITTEN


def _toml(value: Option) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _value(text: str) -> Option:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (str, int, float, bool)) else text
