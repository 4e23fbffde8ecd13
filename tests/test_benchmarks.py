"""The benchmarks run, on the smallest sizes, and say what they measured. What is fast is theirs to say, not a test's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import (
    autoattack,
    evaluation,
    floors,
    growth,
    growth_steps,
    methods,
    precision,
    profiling,
    steps,
)
from ham_core.autoattack import Part
from ham_core.data.split import Split


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_floors_counts_the_passes_of_an_at_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """small_cnn on a batch of 8: 10 forwards and input gradients, then one of each with the weights' gradients."""
    monkeypatch.setattr(floors, "SIDES", (64,))
    monkeypatch.setattr(floors, "PROBES", 2)
    monkeypatch.setattr(floors, "COPIED", 2**16)
    place = tmp_path / "floors.json"
    floors.main(
        ["--model", "small_cnn", "--width", "1", "--batch", "8", "--repeats", "1", "--json", str(place)]
    )
    fp32, bf16 = json.loads(place.read_text())["results"]
    # multiply-adds of the three convolutions on one image: outputs x inputs per output
    first, others = 16 * 32 * 32 * 27, 32 * 16 * 16 * 144 + 64 * 8 * 8 * 288
    forward = 2 * (first + others)
    # 11 forwards, 10 input gradients, one weight gradient and the input gradients below it; 10 images looked at
    expected = 8 * (11 * forward + 10 * forward + forward + 2 * others) + 10 * forward
    convolutions = sum(n for name, n in fp32["gflop_by_operation"].items() if "convolution" in name) * 1e9
    assert convolutions == pytest.approx(expected, rel=0.01)
    assert bf16["gflop"] == pytest.approx(fp32["gflop"], rel=1e-6) and bf16["gigabytes"] < fp32["gigabytes"]
    assert 0 < fp32["arithmetic_s"] <= fp32["roofline_s"]


def test_evaluation_costs_its_passes_and_its_memory_is_asked_of_processes_of_their_own(
    tmp_path: Path,
) -> None:
    place = tmp_path / "evaluation.json"
    small = ["--model", "small_cnn", "--width", "0.5", "--images", "40", "--repeats", "1", "--base", "20"]
    evaluation.main([*small, "--growth-repeats", "1", "--json", str(place)])
    found = json.loads(place.read_text())
    assert 10 < found["evaluation"]["right"] < 30 and found["evaluation"]["ratio"] > 0
    assert [row["images"] for row in found["growth"]] == [20, 40, 80, 160]
    assert all(row["mebibytes"] > 100 for row in found["growth"])


def test_autoattack_refuses_to_time_results_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    model = evaluation.network("small_cnn", 0.5)
    images = evaluation.noise(model, 6, 1.0)
    case = autoattack.Case("tiny", model, Split(images.images, images.labels), 1e-4, (Part("apgd-ce"),))
    found = autoattack.measure(case, 1)
    assert found["right"] == 6 and found["ratio"] > 0
    monkeypatch.setattr(autoattack, "ours", lambda case: autoattack.direct(case) + 1)
    with pytest.raises(SystemExit, match="other results"):
        autoattack.measure(case, 1)


def test_growth_draws_every_run_and_its_line(tmp_path: Path) -> None:
    cost = {"seconds": 3.0, "cpu_seconds": 2.0, "mebibytes": 300.0}
    rows = [
        {"trials": n, "costs": [cost], "median": 3.0, "line": 3.0, "of_line": 1.0, "mebibytes": 300.0}
        for n in (4, 8)
    ]
    growth.plot(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_every_loop_of_a_step_trains_on_the_same_examples_with_the_same_gradients(tmp_path: Path) -> None:
    place = tmp_path / "steps.json"
    small = ["--model", "small_cnn", "--width", "0.5", "--batch", "20", "--repeats", "3", "--threads", "1"]
    assert steps.main([*small, "--hard-share", "0.3", "0.8", "--json", str(place)]) == 0
    found = json.loads(place.read_text())
    loops = {"official", "textbook", "fp32", "bf16"}
    for result, count in zip(found["results"], (20, 6, 16), strict=True):
        assert result["trained_on"] == {name: [count] for name in loops}, result["step"]
        assert all(len(seconds) == 3 for seconds in result["seconds"].values())
    assert [one["passes"] for one in found["bounds"]] == pytest.approx([12.1 / 23] * 2 + [20.6 / 23] * 2)
    assert found["gradients"]["images"] == 20 and found["gradients"]["median"] < 1e-5


def test_methods_are_compared_by_seconds_and_by_passes(tmp_path: Path) -> None:
    place = tmp_path / "methods.json"
    small = ["--model", "small_cnn", "--width", "0.5", "--batch", "20", "--repeats", "2"]
    assert methods.main(["trades", "ham-official", "cfol", *small, "--json", str(place)]) == 0
    found = {row["method"]: row for row in json.loads(place.read_text())["results"]}
    assert list(found) == ["at", "trades", "ham-official", "cfol", "textbook"]
    assert found["ham-official"]["passes_of_at"] == pytest.approx((7 + 17 * 0.5) / 23)
    assert found["trades"]["passes_of_at"] > 1
    assert all(len(row["seconds"]) == 2 for row in found.values())
    assert methods.main(["faal-at", *small]) == 2, "it goes on from another trial"


def test_growth_of_steps_counts_passes(tmp_path: Path) -> None:
    options = ["--width", "0.25", "--batch", "8", "--repeats", "1"]
    found = growth_steps.measure(growth_steps.parse(options), "steps")
    assert found["sizes"] == [2, 4, 8, 16] and found["passes_exact"]
    growth_steps.draw([found], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_precision_compares_the_same_seeds_and_the_textbooks_hard_set(tmp_path: Path) -> None:
    place = tmp_path / "precision.json"
    small = ["--method", "at", "--seeds", "2", "--epochs", "3", "--train", "100", "--test", "50"]
    precision.main([*small, "--json", str(place)])
    (found,) = json.loads(place.read_text())["results"]
    assert {name: len(scores) for name, scores in found["scores"].items()} == {"fp32": 2, "bf16": 2}
    assert found["hard_sets"]["images"] == 90 and found["hard_sets"]["flipped"]["fp32"] == 0


def test_a_profile_names_all_of_an_epoch(tmp_path: Path) -> None:
    options = ["--model", "small_cnn", "--width", "0.5", "--batch", "8", "--batches", "1"]
    found = profiling.profiled(profiling.parse(options), "AT")
    named = sum(found["kernels"].values()) + sum(found["others"].values())
    assert named == pytest.approx(found["seconds"])
    assert 0 < found["share"] < 1 and any("convolution" in name for name in found["kernels"])
    profiling.draw([found], tmp_path / "profile.png")
    assert (tmp_path / "profile.png").stat().st_size > 5000
