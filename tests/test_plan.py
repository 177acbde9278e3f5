"""A plan reads and writes TOML; what it cannot be is said clearly."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchspeed import Plan
from torchspeed.engine.resolve import process_environment, resolve
from torchspeed.errors import PlanError
from torchspeed.facts import Facts
from torchspeed.machine import Machine

names = st.from_regex(r"[a-z][a-z_0-9]{0,20}", fullmatch=True)
values = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=30), st.floats(allow_nan=False))


@given(st.dictionaries(names, values, max_size=6))
def test_a_plan_survives_being_written_and_read(options: dict[str, object]) -> None:
    plan = Plan.from_mapping(options)
    assert Plan.from_toml(plan.to_toml()) == plan
    assert Plan.from_toml(plan.to_toml()).fingerprint == plan.fingerprint


def test_the_order_of_options_does_not_matter() -> None:
    assert Plan.of(threads=2, precision="bf16") == Plan.of(precision="bf16", threads=2)


def test_as_written_is_the_same_as_not_named() -> None:
    assert Plan.of(precision="as written") == Plan()


def test_set_reads_numbers_and_texts() -> None:
    plan = Plan.of(threads=1).set(["precision=bf16", "threads=2", "memory_format=as written"])
    assert dict(plan.options) == {"precision": "bf16", "threads": 2}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("precision = [1]", "precision must be a plain value"),
        ("[hardware]\nprecision = 'bf16'", "hardware must be a plain value"),
        ("precision", "not a TOML file"),
        ("a = " + "[" * 5000, "not a TOML file"),
    ],
)
def test_what_is_not_a_plan_is_refused(text: str, finding: str) -> None:
    with pytest.raises(PlanError, match=finding):
        Plan.from_toml(text)


def test_a_huge_or_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * (2 << 20))
    with pytest.raises(PlanError, match="larger than"):
        Plan.read(big)
    with pytest.raises(PlanError, match="cannot read the plan"):
        Plan.read(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(PlanError, match=r"not a text file \(byte 5\)"):
        Plan.read(tmp_path / "bytes.toml")


def test_an_unknown_lever_lists_the_valid_ones() -> None:
    with pytest.raises(PlanError, match=r"unknown lever 'precison'; valid: .*precision, prefetch, threads"):
        resolve(Plan.of(precison="bf16"), Facts(), Machine.detect("cpu"))


@pytest.mark.parametrize("option", ["bf17", 16, True])
def test_an_unknown_option_lists_the_valid_ones(option: object) -> None:
    with pytest.raises(PlanError, match=r"precision has no option .*; valid: as written, bf16, tf32, fp16"):
        resolve(Plan.from_mapping({"precision": option}), Facts(), Machine.detect("cpu"))


@pytest.mark.parametrize("assignment", ["precision", "=bf16"])
def test_set_says_how_to_write_it(assignment: str) -> None:
    with pytest.raises(PlanError, match="write it as lever=option"):
        Plan().set([assignment])


def test_process_levers_give_the_environment_of_the_process() -> None:
    machine = Machine.detect("cpu")
    assert process_environment(Plan.of(threads=1, memory_format="channels_last"), machine) == {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
