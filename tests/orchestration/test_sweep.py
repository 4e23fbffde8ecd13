"""A sweep file -> its trials, what they are called, where their values came from, and what is wrong with the file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ham_core.errors import RequestError
from orchestration.sweep import Sweep, bundled_sweeps, load_sweep, plan_records

ROOT = Path(__file__).resolve().parents[2]

SWEEP = """\
title: a sweep
trial:
  data: digits
  epsilon: 0.2
  epochs: 12
grid:
  methods:
    method: [at, trades, ham-official]
  early_drop_step:
    method: ham-official
    method.mining.early_drop_step: [1, 3]
seeds: [0, 1]
evaluate: [clean, pgd20]
profiles:
  short:
    epochs: 6
    seeds: [5]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes x.yaml into the working directory."""
    monkeypatch.chdir(tmp_path)

    def writer(text: str) -> str:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return "x.yaml"

    return writer


def rows(sweep: Sweep) -> list[tuple[str, int]]:
    return [(planned.row, planned.seed) for planned in sweep.trials]


def problems(path: str, **options: Any) -> list[str]:
    with pytest.raises(RequestError) as caught:
        load_sweep(path, **options)
    return list(caught.value.problems)


# expansion -------------------------------------------------------------------------------------------------------


def test_named_grids_lie_side_by_side_and_a_trial_that_two_of_them_ask_for_is_one(write: Any) -> None:
    sweep = load_sweep(write(SWEEP))
    assert rows(sweep) == [
        (row, seed)
        for row in ("at", "trades", "ham-official", "ham-official early_drop_step=1")
        for seed in (0, 1)
    ]
    ham, single = sweep.trials[4], sweep.trials[6]
    assert ham.grids == ("methods", "early_drop_step")
    assert ham.values == {"method": "ham-official", "method.mining.early_drop_step": 3}
    assert (ham.label, ham.title) == ("ham-official", "HAM (official code)")
    assert single.grids == ("early_drop_step",)
    assert single.values == {"method.mining.early_drop_step": 1}
    assert len({planned.fingerprint for planned in sweep.trials}) == 8


def test_an_unnamed_grid_is_crossed(write: Any) -> None:
    sweep = load_sweep(write("trial: {data: digits}\ngrid: {method: [at, trades], epsilon: [0.1, 8/255]}\n"))
    assert [row for row, _ in rows(sweep)] == [
        "at epsilon=0.1",
        "at epsilon=8/255",
        "trades epsilon=0.1",
        "trades epsilon=8/255",
    ]
    assert sweep.trials[1].values == {"method": "at", "epsilon": 8 / 255}
    assert sweep.trials[1].grids == ("grid",)


def test_without_a_grid_there_is_one_trial_per_seed(write: Any) -> None:
    sweep = load_sweep(write("trial: {data: digits, method: at}\nseeds: 3\n"))
    assert rows(sweep) == [("at", 3)]
    assert sweep.seeds == (3,)
    assert rows(load_sweep(write("trial: {data: digits, method: at}\n"))) == [("at", 0)]


def test_the_grid_may_hold_whole_methods(write: Any) -> None:
    text = "trial: {data: digits}\ngrid:\n  method:\n    - at\n    - {objective: trades, mining: ham}\n"
    sweep = load_sweep(write(text))
    assert [planned.label for planned in sweep.trials] == ["at", "trades+ham"]
    assert [planned.values["method"] for planned in sweep.trials] == ["at", "trades+ham"]


def test_two_entries_of_a_grid_that_tables_could_not_tell_apart_are_refused(write: Any) -> None:
    ham = "{objective: at, mining: {name: ham, drop_rate: %s}}"
    found = problems(
        write(f"trial: {{data: digits}}\ngrid:\n  method:\n    - {ham % 0.1}\n    - {ham % 0.2}\n")
    )
    assert found == [
        "x.yaml:2: two entries of the grid 'grid' would both be called 'at+ham'; vary the keys in which they differ on "
        "their own, or put them into two named grids"
    ]


def test_averages_of_identical_trials_are_joined_and_evaluated(write: Any) -> None:
    text = """\
trial: {data: digits, method: at}
grid:
  a: {method.averaging: [[ema]]}
  b: {method.averaging: [[{name: ema, decay: 0.9, label: slow}]]}
weights: [best, best_ema, last_slow]
evaluate: [clean]
"""
    sweep = load_sweep(write(text))
    assert len(sweep.trials) == 1
    assert [average.key for average in sweep.trials[0].trial.method.averaging] == ["ema", "slow"]
    assert [one.name for one in sweep.trials[0].evaluations] == [
        "best/clean",
        "best_ema/clean",
        "last_slow/clean",
    ]


def test_two_averages_of_one_name_in_identical_trials_are_refused(write: Any) -> None:
    text = """\
trial: {data: digits, method: at}
grid:
  a: {method.averaging: [[ema]]}
  b: {method.averaging: [[{name: ema, decay: 0.9}]]}
"""
    assert "two different averages called 'ema'; give one of them its own `label`" in problems(write(text))[0]


def test_identical_trials_with_different_test_images_are_refused(write: Any) -> None:
    text = "trial: {data: digits, method: at}\ngrid: {data.test_limit: [50, 100]}\n"
    assert "are the same training with different test images" in problems(write(text))[0]


def test_evaluations_are_the_weights_of_the_protocol_times_the_attacks(write: Any) -> None:
    first = load_sweep(write(SWEEP)).trials[0]
    assert [one.name for one in first.evaluations] == ["best/clean", "best/pgd20", "last/clean", "last/pgd20"]
    cfa = load_sweep(write(SWEEP + "protocol: cfa-paper\n")).trials[0]
    assert [one.name for one in cfa.evaluations] == [
        "best_sum/clean",
        "best_sum/pgd20",
        "last/clean",
        "last/pgd20",
    ]


def test_a_protocol_lies_above_the_recipe_and_below_the_file(write: Any) -> None:
    text = "trial: {data: digits, method: at}\nprotocol: ham-paper\n"
    first = load_sweep(write(text)).trials[0]
    assert (first.trial.epsilon, first.trial.selection.on) == (0.031, "test")
    assert first.origins["epsilon"] == "protocol ham-paper"
    assert load_sweep(write(text), sets=["epsilon=0.1"]).trials[0].trial.epsilon == 0.1


def test_plan_records_are_the_plan_as_json(write: Any) -> None:
    records = plan_records(load_sweep(write(SWEEP)))
    assert json.loads(json.dumps(records)) == records
    assert list(records[0]) == ["fingerprint", "label", "title", "grids", "values", "seed", "row", "needs"]
    assert records[0]["grids"] == ["methods"]


def test_every_value_has_an_origin(write: Any) -> None:
    ham = load_sweep(write(SWEEP)).trials[6]
    assert ham.origins["epsilon"] == "x.yaml:4"
    assert ham.origins["method.mining.early_drop_step"] == "x.yaml:11"
    assert ham.origins["method.mining.start_epoch"] == "preset ham-official, scaled from 120 to 12 epochs"
    assert ham.origins["selection.on"] == "protocol standard"
    assert ham.origins["seed"] == "x.yaml:12"
    assert ham.origins["precision"] == "default"


def test_the_sweeps_name_and_labels_are_not_in_the_fingerprint(write: Any) -> None:
    first = load_sweep(write(SWEEP))
    Path("y.yaml").write_text(SWEEP.replace("methods:", "other:").replace("a sweep", "b"), encoding="utf-8")
    second = load_sweep("y.yaml")
    assert [one.fingerprint for one in first.trials] == [one.fingerprint for one in second.trials]
    assert (first.name, second.name) == ("x", "y")


# profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_overrides_settings_and_seeds_and_names_the_sweep(write: Any) -> None:
    sweep = load_sweep(write(SWEEP), profile="short")
    assert (sweep.name, sweep.seeds, sweep.profile) == ("x-short", (5,), "short")
    ham = sweep.trials[2]
    assert (ham.trial.epochs, ham.trial.method.mining.start_epoch) == (6, 2)
    assert ham.origins["epochs"] == "profile short"
    assert ham.origins["seed"] == "profile short"


def test_the_built_in_smoke_lies_below_the_files_own(write: Any) -> None:
    smoke = load_sweep(write(SWEEP), profile="smoke").trials[0].trial
    own = load_sweep(write(SWEEP + "  smoke: {epochs: 2}\n"), profile="smoke").trials[0].trial
    assert (smoke.epochs, own.epochs) == (5, 2)
    assert own.data.train_limit == smoke.data.train_limit == 640
    assert own.attack.steps == 10


def test_a_profile_never_overrides_what_a_grid_varies(write: Any) -> None:
    text = """\
trial: {data: digits, method: ham-official}
grid:
  short: {epochs: [12, 24]}
  steps: {epochs: 30, method.mining.early_drop_step: [1, 5]}
profiles:
  p: {epochs: 6, method.mining.early_drop_step: 2}
"""
    sweep = load_sweep(write(text), profile="p")
    seen = [(one.trial.epochs, one.trial.method.mining.early_drop_step) for one in sweep.trials]
    assert seen == [(12, 2), (24, 2), (6, 1), (6, 5)]


def test_set_lies_above_the_profile(write: Any) -> None:
    first = load_sweep(write(SWEEP), profile="short", sets=["epochs=3", "seeds=[1,2]"])
    assert (first.trials[0].trial.epochs, first.seeds) == (3, (1, 2))
    assert first.trials[0].origins["seed"] == "--set"


# --set -----------------------------------------------------------------------------------------------------------


def test_set_changes_keys_of_the_file_and_every_other_key_is_one_of_the_trial(write: Any) -> None:
    sets = ["seeds=4", "trial.epochs=3", "batch_size=32", "method.objective.beta=1", "evaluate=clean"]
    sweep = load_sweep(write("trial: {data: digits, method: trades}\n"), sets=sets)
    found = sweep.trials[0].trial
    assert (found.seed, found.epochs, found.batch_size, found.method.objective.beta) == (4, 3, 32, 1.0)
    assert [attack.key for attack in sweep.attacks] == ["clean"]


def test_set_data_is_short_for_the_data_of_the_trial(write: Any) -> None:
    sweep = load_sweep(
        write("trial: {data: {name: cifar10, train_limit: 50}, method: at}\n"), sets=["data=digits"]
    )
    assert (sweep.trials[0].trial.data.name, sweep.trials[0].trial.data.train_limit) == ("digits", 50)


@pytest.mark.parametrize("setting", ["grid.methods.method=[at]", "grid.method=[at]"])
def test_set_changes_the_values_of_a_grid(write: Any, setting: str) -> None:
    sweep = load_sweep(write(SWEEP), sets=[setting, "seeds=0"])
    assert [row for row, _ in rows(sweep)] == [
        "at",
        "ham-official early_drop_step=1",
        "ham-official early_drop_step=3",
    ]


def test_set_can_exchange_the_whole_grid(write: Any) -> None:
    sweep = load_sweep(write(SWEEP), sets=["grid={method: [at]}", "seeds=0"])
    assert rows(sweep) == [("at", 0)]


def test_set_of_a_key_that_a_grid_varies_is_refused_and_says_what_to_write(write: Any) -> None:
    found = problems(write(SWEEP), sets=["method.mining.early_drop_step=5", "method=at"])
    assert found == [
        "--set method=at: the grid varies method (x.yaml:8), so it has no single value; "
        "write --set grid.methods.method=[at], or edit the grid",
        "--set method.mining.early_drop_step=5: the grid varies method.mining.early_drop_step (x.yaml:11), so it has no "
        "single value; write --set grid.early_drop_step.method.mining.early_drop_step=[5], or edit the grid",
    ]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("epsilon", "--set epsilon: is no setting; write --set key=value, for example --set epochs=3"),
        ("epsilon=", "--set epsilon=: has no value"),
        ("epsilon=x", "--set epsilon=x: epsilon: 'x' is no number; write for example 8/255 or 0.031"),
        ("epochz=3", "--set epochz=3: unknown key 'epochz'; known: "),
        (
            "grid.foo=[1]",
            "--set grid.foo=[1]: no grid is called or varies 'foo'; known: early_drop_step, methods",
        ),
        ("grid=3", "--set grid=3: grid is 3; allowed: a mapping"),
        ("grid.methods.method=[]", "--set grid.methods.method=[]: method has an empty list"),
        ("trial=3", "--set trial=3: trial is a mapping of settings"),
        ("profiles.short=3", "--set profiles.short=3: profiles are edited in the file"),
        ("seed=3", "--set seed=3: a sweep has seeds, not a seed; write seeds: [3]"),
        ("data=/no/such", "--set data=/no/such: data: there is no folder /no/such"),
        ("title=3", "--set title=3: title is 3; allowed: text"),
        ("description=3", "--set description=3: description is 3; allowed: text"),
        ("? x=1", "--set ? x=1: unknown key '? x'; known: "),
        ("epochs=true", "--set epochs=true: epochs is true; allowed: a whole number"),
        ("epochs=[1", "--set epochs=[1:1: not valid YAML"),
    ],
)
def test_a_wrong_set_is_a_sentence_that_repeats_it(write: Any, setting: str, sentence: str) -> None:
    found = problems(write(SWEEP), sets=[setting])
    assert found[0].startswith(sentence)
    assert len(found) == 1


# what is refused -------------------------------------------------------------------------------------------------

PLAIN = "trial: {data: digits, method: at}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (PLAIN + "seed: [1]\n", "x.yaml:2: unknown key 'seed'; known: "),
        (PLAIN + "epochs: 3\n", "; settings of a trial stand below trial:"),
        (PLAIN + "seeds: [1, 2, 1]\n", "x.yaml:2: seed 1 is given twice in seeds; keep one"),
        (PLAIN + "seeds: []\n", "x.yaml:2: seeds is empty; write for example seeds: [0, 1, 2]"),
        (PLAIN + "seeds: [a]\n", "x.yaml:2: seed 'a' is none; allowed: whole numbers from 0 to 4294967295"),
        (PLAIN + "seeds: [-1]\n", "x.yaml:2: seed -1 is none"),
        (
            PLAIN + "evaluate: [pgdx]\n",
            "x.yaml:2: evaluate: unknown attack 'pgdx'; known: ",
        ),
        (PLAIN + "evaluate: [pgd20, {name: pgd20, step: 0.1}]\n", "two attacks are called 'pgd20'"),
        (
            PLAIN + "evaluate: [{name: pgd, steps: x}]\n",
            "x.yaml:2: evaluate: steps is 'x'; allowed: a whole number",
        ),
        (PLAIN + "weights: [bets]\n", "x.yaml:2: weights: unknown weights 'bets'; known: best, "),
        (
            PLAIN + "weights: [best_fawa]\n",
            "weights 'best_fawa': no trial keeps an average 'fawa'; known: ema",
        ),
        (PLAIN + "weights: [best, best]\n", "weights 'best' are given twice"),
        (
            PLAIN + "protocol: cfa\n",
            "x.yaml:2: unknown protocol 'cfa'; known: cfa-paper, ham-paper, standard",
        ),
        (PLAIN + "title: [a]\n", 'x.yaml:2: title is ["a"]; allowed: text'),
        (PLAIN + "grid: [at]\n", 'x.yaml:2: grid is ["at"]; allowed: a mapping of keys to values'),
        (
            PLAIN + "grid: {epsilon: 0.1}\n",
            "x.yaml:2: epsilon is 0.1, not a list; write [0.1], or put it below trial:",
        ),
        (PLAIN + "grid: {epsilon: []}\n", "x.yaml:2: epsilon has an empty list; write its values"),
        (PLAIN + "grid: {seed: [1]}\n", "x.yaml:2: seed cannot stand in a grid; write seeds: [...]"),
        (
            PLAIN + "grid:\n  a: {epsilon: [0.1]}\n  epochs: [1]\n",
            "grid 'epochs' is [1], but other entries are named grids",
        ),
        (
            PLAIN + "grid:\n  attack: {steps: [1]}\n",
            "grid 'attack' has the name of a setting; write attack.KEY: [values]",
        ),
        (PLAIN + "grid:\n  a: {}\n", "x.yaml:3: grid 'a' is empty"),
        (PLAIN + "profiles: {p: 3}\n", "x.yaml:2: profile 'p' is 3; allowed: a mapping of settings"),
        (PLAIN + "grid: {epsilon: [0.1, x]}\n", "x.yaml:2: epsilon: 'x' is no number"),
        ("trial: {data: digits, method: at, seed: 3}\n", "a sweep has seeds, not a seed; write seeds: [3]"),
        ("trial: {data: digits}\n", "x.yaml:1: no method; write for example method: at"),
        ("trial: {method: at}\n", "x.yaml:1: data names no images"),
        ("trial:\n  data: digits\n  method: hamm\n", "x.yaml:3: unknown method 'hamm'; known: at, "),
        (
            "trial:\n  method: at\n  data: digit\n",
            "x.yaml:3: unknown data set 'digit'; known: cifar10, ",
        ),
        (
            "trial:\n  method: at\n  data: digits\n  model: cnn\n",
            "x.yaml:4: model.name is 'cnn': unknown model",
        ),
        ("trial:\n  method: at\n  data: digits\n  data: digits\n", "x.yaml:4: key 'data' is given twice"),
        (
            "- a\n",
            "x.yaml:1: a sweep is a mapping with the keys title, description, trial, grid, search, stop, seeds, ",
        ),
        ("trial: {a\n", "x.yaml:2: not valid YAML"),
    ],
)
def test_a_wrong_file_is_a_sentence_with_its_line(write: Any, text: str, sentence: str) -> None:
    found = problems(write(text))
    assert len(found) == 1
    assert sentence in found[0]


def test_all_problems_of_a_file_come_at_once(write: Any) -> None:
    text = """\
sedes: [1]
trial:
  data: digits
  epsilon: x
  optimizer: {lrr: 1}
grid:
  methods: {method: [at, hamm]}
  m: {method: ham-official, method.mining.early_drop_step: [99]}
seeds: [1, 1]
evaluate: [pgd]
protocol: cfa
"""
    found = problems(write(text), sets=["epochz=3"], profile="nightly")
    starts = [
        "x.yaml:1: unknown key 'sedes'",
        "--profile nightly: x.yaml has no such profile; known: smoke",
        "x.yaml:11: unknown protocol 'cfa'",
        "x.yaml:9: seed 1 is given twice",
        "x.yaml:10: evaluate: 'pgd' needs its number of steps",
        "x.yaml:4: epsilon: 'x' is no number",
        "x.yaml:5: unknown key 'lrr' in optimizer",
        "--set epochz=3: unknown key 'epochz'",
        "x.yaml:7: unknown method 'hamm'",
        "x.yaml:8: mining.early_drop_step is 99, but the attack has only 10 steps",
    ]
    assert len(found) == len(starts)
    for start in starts:
        assert [one for one in found if one.startswith(start)], start


def test_mining_that_never_starts_is_refused_in_a_sweep(write: Any) -> None:
    text = "trial:\n  data: digits\n  epochs: 12\n  method: ham-official\ngrid:\n  method.mining.start_epoch: [5, 12]\n"
    assert problems(write(text)) == [
        "x.yaml:6: method.mining.start_epoch is 12, so 'ham' never becomes active in 12 epochs (0 to 11); "
        "allowed: 0 to 11, or more epochs"
    ]


def test_a_profile_that_changes_the_grid_is_refused(write: Any) -> None:
    text = PLAIN + "profiles:\n  p:\n    grid: {epsilon: [1]}\n    epochs: x\n"
    found = problems(write(text), profile="p")
    assert found[0].startswith("x.yaml:4: a profile cannot change 'grid': it overrides settings, never grids")
    assert found[1].startswith("x.yaml:5: epochs is 'x'; allowed: a whole number")


def test_profiles_that_are_not_chosen_are_checked_too(write: Any) -> None:
    text = """\
trial: {data: digits, method: at, epsilon: x}
profiles:
  a:
    trial: {epoch: 3}
    seeds: [0, 0]
    evaluate: [x]
    grid: {}
  b: {batch_size: 0}
  elsewhere: {data: /no/such/folder}
"""
    found = problems(write(text))
    starts = [
        "x.yaml:1: epsilon: 'x' is no number",
        "x.yaml:7: a profile cannot change 'grid'",
        "x.yaml:5: seed 0 is given twice in seeds",
        "x.yaml:6: evaluate: unknown attack 'x'",
        "x.yaml:4: unknown key 'epoch'",
        "x.yaml:8: batch_size is 0",
    ]
    assert [one.startswith(start) for one, start in zip(found, starts, strict=True)] == [True] * 6
    assert sorted(problems(write(text), profile="a")) == sorted(found)


def test_a_method_that_is_a_list_below_trial_is_reported_there(write: Any) -> None:
    found = problems(write("trial:\n  data: digits\n  method: [at]\ngrid:\n  method: [at, trades]\n"))
    assert len(found) == 1
    assert found[0].startswith('x.yaml:3: method is ["at"]; allowed: a name')


# finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "sweeps/digits.yaml"])
def test_a_bundled_sweep_is_found_from_anywhere(write: Any, name: str) -> None:
    sweep = load_sweep(name)
    assert (sweep.name, sweep.source) == ("digits", "sweeps/digits.yaml")


@pytest.mark.parametrize("path", ["/nope/dir/digits.yaml", "nope/digits.yaml", "/nope/sweeps/digits"])
def test_a_path_elsewhere_never_means_a_bundled_sweep(write: Any, path: str) -> None:
    assert problems(path)[0].startswith(f"{path}: no such file; ")


def test_a_sweep_that_does_not_exist_is_refused_with_those_that_do(write: Any) -> None:
    bundled = ", ".join(sorted(name.removesuffix(".yaml") for name in bundled_sweeps()))
    assert "digits, digits_search" in bundled
    assert problems("sweeps/digit.yaml")[0] == (
        f"sweeps/digit.yaml: no such sweep; known: {bundled} (did you mean digits?); or give the path of a YAML file"
    )


@pytest.mark.parametrize("file", sorted(bundled_sweeps()))
@pytest.mark.parametrize("profile", [None, "smoke"])
def test_every_bundled_sweep_expands_and_says_its_question_and_command_first(
    file: str, profile: str | None
) -> None:
    sweep = load_sweep(ROOT / "sweeps" / file, profile=profile)
    first = (ROOT / "sweeps" / file).read_text(encoding="utf-8").splitlines()[:2]
    assert first[0].startswith("# ")
    assert first[0].rstrip().endswith((".", "?"))
    assert first[1].startswith(f"# ham sweep sweeps/{file}")
    assert sweep.trials or sweep.search is not None


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_sweeps_vary_each_hyperparameter_of_ham_around_the_presets_own_value(name: str) -> None:
    sweep = load_sweep(name)
    grids = ("methods", "early_drop_step", "weight_parameter", "drop_rate", "drop_rate_at")
    members = {grid: [one for one in sweep.trials if grid in one.grids] for grid in grids}
    assert {one.label for one in members["methods"]} == {"at", "trades", "ham-official", "ham-paper"}
    for grid, label in (
        ("early_drop_step", "ham-official"),
        ("weight_parameter", "ham-paper"),
    ):
        assert {one.label for one in members[grid]} == {label}
        assert {one.seed for one in members[grid] if "methods" in one.grids} == {0, 1, 2}
    for grid, label in (("drop_rate", "ham-official"), ("drop_rate_at", "drop-overconfident")):
        assert {one.label for one in members[grid]} == {label}
        assert {one.values["method.mining.drop_rate"] for one in members[grid]} == {0.0, 0.1, 0.2, 0.3}


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_methods_of_a_sweep_differ_in_nothing_but_the_method(name: str) -> None:
    def rest(planned: Any) -> Any:
        settings = planned.trial.model_dump(mode="json")
        settings.pop("method")
        settings["attack"].pop("start")  # belongs to the objective
        return settings

    first = [one for one in load_sweep(name).trials if one.seed == 0]
    assert all(rest(one) == rest(first[0]) for one in first)


# speed -----------------------------------------------------------------------------------------------------------


def test_a_thousand_trials_expand_in_a_second(write: Any) -> None:
    text = PLAIN + "grid: {epsilon: [%s], batch_size: [%s]}\nseeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    path = write(text % (", ".join(f"0.{n}" for n in range(10, 20)), ", ".join(map(str, range(1, 11)))))
    started = time.process_time()
    assert len(load_sweep(path).trials) == 1000
    assert time.process_time() - started < 1.0  # of the processor; ten thousand in ten seconds


def test_expanding_and_planning_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom orchestration.sweep import load_sweep\nfrom orchestration.plan import plan\n"
        f"plan(load_sweep('digits'), {str(tmp_path)!r}).to_json(origins=True)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert not set(run.stdout.split()) & {"torch", "ray", "mlflow", "sklearn", "pandas", "numpy"}


# trials that start from others -----------------------------------------------------------------------------------

STARTS = """\
trial: {data: digits, epochs: 12, epsilon: 0.2, augment.padding: zeros, model.normalize: true}
grid:
  methods:
    method: [ham-official, trades]
  tuned:
    method: at
    start_from: {method: trades, weights: best}
    optimizer.lr: [0.01, 0.001]
    start_from.optimizer.lr: 0.1
seeds: [0, 1]
evaluate: [clean]
"""


def test_a_needed_trial_stands_once_before_those_that_need_it(write: Any) -> None:
    sweep = load_sweep(write(STARTS))
    assert rows(sweep) == [
        ("ham-official", 0),
        ("ham-official", 1),
        ("trades", 0),
        ("trades", 1),
        ("at lr=0.01", 0),
        ("at lr=0.01", 1),
        ("at lr=0.001", 0),
        ("at lr=0.001", 1),
    ]
    trades = {one.seed: one for one in sweep.trials if one.label == "trades"}
    for one in sweep.trials:
        assert one.needs == ((trades[one.seed].fingerprint,) if one.label == "at" else ())
    assert trades[0].grids == ("methods",)
    assert [one.name for one in trades[0].evaluations] == ["best/clean", "last/clean"]
    alone = load_sweep(write(STARTS), sets=["grid.methods.method=[ham-official]"])
    assert rows(alone)[2:4] == [("trades (start of at lr=0.01)", 0), ("at lr=0.01", 0)]
    assert len(alone.trials) == len(sweep.trials), "two seeds have two starts"
    start = alone.trials[2]
    assert (start.grids, start.values, start.evaluations) == ((), {}, ())
    assert (start.label, start.title, start.fingerprint) == ("trades", "TRADES", trades[0].fingerprint)
    assert start.origins["seed"] == "x.yaml:10"


def test_a_needed_trial_that_a_grid_asks_for_later_takes_its_name_from_there(write: Any) -> None:
    sweep = load_sweep(write(STARTS.replace("[ham-official, trades]", "[at]\n  zz:\n    method: [trades]")))
    names = [one.row for one in sweep.trials if one.seed == 0]
    assert names == ["at", "trades", "at lr=0.01", "at lr=0.001"]
    text = STARTS.replace("  methods:\n    method: [ham-official, trades]\n", "")
    later = text.replace("seeds:", "  methods:\n    method: [ham-official, trades]\nseeds:")
    first = next(one for one in load_sweep(write(later)).trials)
    assert (first.row, first.grids, first.values) == ("trades", ("methods",), {"method": "trades"})
    assert len(first.evaluations) == 2


def test_what_others_need_is_in_the_records(write: Any) -> None:
    records = plan_records(load_sweep(write(STARTS)))
    assert json.loads(json.dumps(records)) == records
    assert records[4]["needs"] == [records[2]["fingerprint"]]
    assert records[2]["needs"] == []


def test_a_start_with_a_seed_of_its_own_is_shared_by_all_seeds(write: Any) -> None:
    sweep = load_sweep(
        write("trial: {data: digits, method: at, start_from: {method: trades, seed: 5}}\nseeds: [0, 1]\n")
    )
    assert rows(sweep) == [("trades (start of at)", 5), ("at", 0), ("at", 1)]
    assert {one.needs for one in sweep.trials[1:]} == {(sweep.trials[0].fingerprint,)}


def test_starts_of_starts_come_first_of_all(write: Any) -> None:
    inner = "{method: trades, start_from: {method: ham-official, epochs: 3}}"
    sweep = load_sweep(write(f"trial: {{data: digits, method: at, start_from: {inner}}}\n"))
    assert [one.row for one in sweep.trials] == [
        "ham-official (start of trades (start of at))",
        "trades (start of at)",
        "at",
    ]


def test_a_helper_is_called_one(write: Any) -> None:
    sweep = load_sweep(write("trial: {data: digits, method: hat, epochs: 6}\n"))
    assert [one.row for one in sweep.trials] == ["standard (helper of hat)", "hat"]


def test_one_warm_up_serves_all_trials_that_agree_in_it_with_the_averages_of_all(write: Any) -> None:
    text = """\
trial: {data: digits, method: ham-official, epochs: 12, start_from: {epochs: 5, weights: state}}
grid:
  a: {method.mining.early_drop_step: [1, 2, 3]}
  b: {method.mining.early_drop_step: [4], method.averaging: {name: ema, label: slow}}
weights: [best]
"""
    warm, *others = load_sweep(write(text)).trials
    assert (warm.row, warm.trial.epochs) == ("at (start of ham-official early_drop_step=1)", 5)
    assert [average.key for average in warm.trial.method.averaging] == ["ema", "slow"]
    assert [one.needs for one in others] == [(warm.fingerprint,)] * 4


def test_an_average_that_a_start_merely_has_gives_way_and_one_that_is_asked_for_does_not(write: Any) -> None:
    text = """\
trial: {data: digits, epsilon: 0.2, epochs: 12, augment.padding: zeros, model.normalize: true}
grid:
  a: {method: [trades], method.averaging: {name: ema, decay: 0.9}}
  b: {method: [at], start_from: {method: trades, weights: best}}
weights: [best]
"""
    sweep = load_sweep(write(text))
    trades = sweep.trials[0].trial.method.averaging
    assert [(one.key, one.decay) for one in trades] == [("ema", 0.9)]
    found = problems(write(text.replace("weights: best}", "weights: best_ema}")))
    assert len(found) == 1
    assert "are the same training with two different averages called 'ema'" in found[0]
    bare = load_sweep(write(text.replace("{name: ema, decay: 0.9}", "none")))
    assert bare.trials[0].trial.method.averaging == ()
    asked = text.replace("{name: ema, decay: 0.9}", "none").replace("weights: best}", "weights: best_ema}")
    assert [one.key for one in load_sweep(write(asked)).trials[0].trial.method.averaging] == ["ema"]


def test_a_grid_may_vary_the_start_or_a_setting_of_it(write: Any) -> None:
    sweep = load_sweep(write("trial: {data: digits, method: at}\ngrid: {start_from: [none, trades, at]}\n"))
    asked = [one for one in sweep.trials if one.grids]
    assert [one.row for one in asked] == ["at start_from=none", "at start_from=trades", "at start_from=at"]
    assert [one.values for one in asked] == [{"start_from": name} for name in ("none", "trades", "at")]
    text = "trial: {data: digits, method: at, start_from: trades}\ngrid: {start_from.epochs: [3, 6], epochs: [9]}\n"
    asked = [one for one in load_sweep(write(text)).trials if one.grids]
    assert [one.row for one in asked] == [
        "at start_from.epochs=3 epochs=9",
        "at start_from.epochs=6 epochs=9",
    ]
    assert [one.values["start_from.epochs"] for one in asked] == [3, 6]


def test_what_is_wrong_with_a_start_is_said_with_its_line_once_for_all_points(write: Any) -> None:
    text = """\
trial:
  data: digits
  epochs: 4
  start_from:
    method: tradez
grid:
  method: [at, trades]
"""
    (sentence,) = problems(write(text))
    assert sentence.startswith("x.yaml:5: start_from: unknown method 'tradez'; known: at, ")
    found = problems(
        write(text.replace("tradez", "trades\n    weights: bset").replace("epochs: 4", "epochs: x"))
    )
    assert [one.split(" ")[0] for one in found] == ["x.yaml:3:", "x.yaml:6:"]
