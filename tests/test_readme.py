"""What the README says holds: its job trains, and the figures that it quotes are those of bench/results."""

import json
import re
from pathlib import Path
from typing import Any

import torchspeed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def test_its_job_trains(tmp_path: Path) -> None:
    code = re.search(r"```python\n(# job\.py.*?)```", README, re.DOTALL)
    assert code is not None
    (tmp_path / "job.py").write_text(code.group(1))
    plan = torchspeed.Plan.of(memory_format="channels_last")
    job = torchspeed.load_job(str(tmp_path / "job.py"), epochs=0.1)
    result = torchspeed.train(job, plan, run_dir=tmp_path / "run", progress=False, device="cpu")
    assert result.applied == ("memory_format=channels_last",)
    assert result.steps == 5


def test_its_table_of_loops_is_that_of_the_results() -> None:
    found = results("loop_overhead")
    names = {
        "bare": "bare",
        "torchspeed": "torchspeed",
        "`DataLoader` + loop": "DataLoader",
        "Lightning 2.6.6": "Lightning",
    }
    for label, name in names.items():
        row = re.search(rf"^\| {re.escape(label)} \| (\d+) .*\| ([\d.]+)", README, re.MULTILINE)
        assert row is not None, label
        assert int(row.group(1)) == round(found["microseconds_per_step"][name]["median"])
        assert float(row.group(2)) == round(found["ratio_to_bare"][name]["median"], 2)


def test_its_table_of_recipes_is_that_of_the_results() -> None:
    shown = {"digits": "98.70 %", "spoken-digits": "100 %", "characters": "1.522 nats", "cifar10": "89.72 %"}
    for name, text in shown.items():
        assert f"| {name}" in README
        assert text in README
        mean = results(f"recipe_{name}")["over_seeds"]["value"]["mean"]
        assert float(text.split()[0]) == round(
            mean if name == "characters" else 100 * mean, 3 if name == "characters" else 2
        )


def test_its_table_of_data_pipelines_is_that_of_the_results() -> None:
    shown = {
        "CIFAR-10: crop": ("cifar10", "torchspeed"),
        "the same, bfloat16": ("cifar10_bf16", "torchspeed"),
        "CIFAR-10: Resize": ("tutorial", "torchspeed"),
        "photographs, JPEG": ("photographs", "torchspeed, exact"),
        "the same, `decode": ("photographs", "torchspeed, scaled"),
        "the same, decoded": ("photographs", "torchspeed, decoded"),
        "spoken digits to log-mel": ("spoken_digits", "torchspeed"),
        "the same, the user's own": ("spoken_digits", "torchspeed, own dataset"),
        "characters, windows": ("characters", "torchspeed"),
    }
    for title, (work, who) in shown.items():
        row = re.search(rf"^\| {re.escape(title)}[^|]*\| ([\d ]+) \| ([\d.]+) \[", README, re.MULTILINE)
        assert row is not None, title
        found = results("data")["works"][work]
        assert int(row.group(1).replace(" ", "")) == round(found["samples_per_second"][who]["median"])
        ratio = found["torchspeed_ratio_to"]["DataLoader, 2 workers"][who]["median"]
        assert float(row.group(2)) == float(f"{ratio:.3g}")


def test_its_table_of_tunings_is_that_of_the_results() -> None:
    found = results("tune")
    rows = {
        "batch 64, torchvision's dataset": found["cnn"]["cnn_64"],
        "batch 256, torchvision's dataset": found["cnn"]["cnn_256"],
        "batch 256, data free": found["cnn"]["cnn_256_free"],
        **{f"recipe {name} (samples/s)": one for name, one in found.get("recipes", {}).items() if "contenders" in one},
    }
    for title, one in rows.items():
        row = re.search(rf"^\| {re.escape(title)} \| ([\d ]+) \| ([\d ]+) \| ([\d.]+) \[", README, re.MULTILINE)
        assert row is not None, title
        written, tuned = one["contenders"]["as written"], one["contenders"]["tuned"]
        assert int(row.group(1).replace(" ", "")) == round(written["samples_per_second"]["median"])
        assert int(row.group(2).replace(" ", "")) == round(tuned["samples_per_second"]["median"])
        assert float(row.group(3)) == float(f"{tuned['ratio']['median']:.3g}")


def test_its_figures_of_honesty_are_those_of_the_results() -> None:
    found = results("honesty")
    shown = []
    if "same" in found:
        shown.append((found["same"]["claimed"], found["same"]["comparisons"]))
    if "lies" in found:
        lies = [one for one in found["lies"].values() if isinstance(one, dict)]
        shown.append((sum(one["refused"] for one in lies), sum(one["trials"] for one in lies)))
    if "truth" in found:
        shown.append((found["truth"]["found"], found["truth"]["trials"]))
    assert shown
    for count, whole in shown:
        assert f"| {count} of {whole} |" in README


def test_every_lever_and_every_file_it_names_exists() -> None:
    for name in re.search(r"Levers so far: (.*?)\. Each", README, re.DOTALL).group(1).split(","):  # type: ignore[union-attr]
        assert name.strip().strip("`") in torchspeed.levers.REGISTRY
    for path in re.findall(r"\]\(((?:src|bench)/[^)]*)\)", README):
        assert (ROOT / path).exists(), path
