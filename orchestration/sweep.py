"""A sweep: one YAML file -> the trials and evaluations it asks for. Imports nothing heavy.

    trial:     settings of every trial, nested or dotted; `method: NAME` is a preset
    grid:      key -> list of values, crossed; or NAME -> such a mapping, several named grids side by side, in which a
               single value is a fixed setting
    seeds:     [0, 1, 2]                 evaluate: [clean, pgd20, cw20]       weights: [best, last]
    protocol:  standard                  profiles: {NAME: settings}           title, description: text
    judge:     [ham-paper, cfa-paper]    further protocols under which the same trials are evaluated and tabled
    search:    points of a space, tried one after the other (orchestration.space); without a grid it stands in its place
    stop:      which rule ends trials that do badly

Sweep.trials also holds the trials that these start from or ask (`start_from`, `helper`), each once and before those that need
it; without grids and evaluations where no grid asks for it.
Precedence: part default < preset recipe < protocol < trial < grid point < profile < --set. A profile overrides settings
and never what a grid varies. Trials that come out identical are one trial, in all the grids that ask for it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ham_core.config import Trial, fingerprint, flatten
from ham_core.data.source import Facts
from ham_core.errors import RequestError, known
from ham_core.layers import DEFAULT_EPOCHS, STARTS, scaled
from ham_core.protocol import PROTOCOLS, Evaluation, EvaluationAttack, Protocol, split_weights
from ham_core.resolve import DataFacts, Layer, Leaf, Resolved, Words, parse_set, resolve, set_layer
from ham_core.sentences import problems_of, shown
from ham_core.starts import averages_asked_for, needs_of, role
from ham_core.yamlfile import Document, Key, load, parse
from orchestration.models import MODELS
from orchestration.protocols import Say, as_asked, read_protocol
from orchestration.space import SEARCHED, Proposal, Range, Search, Stop, read_search, read_stop

KEYS = (
    "title",
    "description",
    "trial",
    "grid",
    "search",
    "stop",
    "seeds",
    "evaluate",
    "weights",
    "protocol",
    "judge",
    "profiles",
)
LISTS = ("seeds", "evaluate", "weights", "judge")
ADJUSTED = ("search", "stop")  # mappings of which profiles and `--set` change single keys
TARGETS = ("table", "figure")  # `table:NAME` is the sweep that a report's table needs, called NAME
SINGLE_GRID = "grid"  # the name of a grid that has none
SEARCH_GRID = "search"  # the name under which tables know the points of a search
MOST_SEED = 2**32 - 1

# Every sweep has a profile `smoke`: does the whole road work, with these settings, in minutes without a GPU?
# The file's own `smoke` lies above it.
SMOKE: dict[str, Any] = {
    "epochs": 5,
    "seeds": [0],
    "batch_size": 32,
    "data.train_limit": 640,
    "data.test_limit": 200,
    "data.validation": 0.1,
    "model.width": 0.125,
}
SMOKE_POINTS = 2
BUILT_IN_PROFILES = {"smoke": SMOKE}


@dataclass(frozen=True, eq=False)
class Planned:
    """One trial of a sweep. `values`: what its grids vary, by dotted key; `row`: the same in words.

    `needs`: fingerprints of the trials that are trained before it. A trial that is only needed has no grids; `must_keep` then
    holds the averages that are asked of it (None: all that it has).
    """

    trial: Trial
    fingerprint: str
    label: str
    title: str
    grids: tuple[str, ...]
    values: dict[str, Any]
    seed: int
    row: str
    evaluations: tuple[Evaluation, ...]
    resolved: Resolved = field(repr=False)
    needs: tuple[str, ...] = ()
    must_keep: frozenset[str] | None = None

    @cached_property
    def origins(self) -> dict[str, str]:
        """dotted key -> where the value came from."""
        return self.resolved.origins


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep file asks for, expanded. `text`, `sets`: the file and the `--set`s that it was expanded from; protocols
    that stand in files of their own are among the `--set`s. `judged`: all protocols that it is judged under, its own among
    them, where the file says `judge`; else none.

    `points`: the proposals of its search that `trials` holds; `base`: the search's first trial, which tells it from others.
    """

    name: str
    source: str
    title: str
    description: str
    profile: str | None
    protocol: Protocol
    seeds: tuple[int, ...]
    attacks: tuple[EvaluationAttack, ...]
    weights: tuple[str, ...]
    trials: tuple[Planned, ...]
    text: str = field(default="", repr=False)
    sets: tuple[str, ...] = ()
    search: Search | None = None
    stop: Stop | None = None
    points: tuple[Proposal, ...] = ()
    base: str = ""
    judged: tuple[Protocol, ...] = ()


def plan_records(sweep: Sweep) -> list[dict[str, Any]]:
    """The sweep's expansion as it is recorded in plan.json: what a report may expect to find."""
    keys = ("fingerprint", "label", "title", "grids", "values", "seed", "row")
    return [
        {key: getattr(planned, key) for key in keys}
        | {"grids": list(planned.grids), "needs": list(planned.needs)}
        for planned in sweep.trials
    ]


def load_sweep(path_or_name: str | Path, *, profile: str | None = None, sets: Sequence[str] = ()) -> Sweep:
    """Read and expand a sweep. RequestError with every problem of the file, the profile and the `--set`s."""
    return _expanded(find_sweep(path_or_name), profile, sets)


def parse_sweep(
    text: str,
    source: str,
    *,
    profile: str | None = None,
    sets: Sequence[str] = (),
    points: Sequence[Proposal] = (),
) -> Sweep:
    """The same for the text of a file that was once at `source`, with points that its search has proposed."""
    return _expanded(parse(text, source), profile, sets, points)


def with_points(sweep: Sweep, points: Sequence[Proposal]) -> Sweep:
    """The sweep with these points of its search. RequestError: some of them can be no trials."""
    return parse_sweep(sweep.text, sweep.source, profile=sweep.profile, sets=sweep.sets, points=points)


def only_point(sweep: Sweep, point: Proposal) -> Sweep:
    """The sweep with this one point of its search and nothing else. RequestError: it can be no trial."""
    document = parse(sweep.text, sweep.source)
    return _expanded(document, sweep.profile, sweep.sets, [point], alone=True)


def joined(sweep: Sweep, more: Sweep) -> Sweep:
    """The sweep with the points that another expansion of it adds."""
    trials = tuple(_merged([*sweep.trials, *more.trials], []))
    return replace(sweep, trials=trials, points=(*sweep.points, *more.points))


def _expanded(
    document: Document,
    profile: str | None,
    sets: Sequence[str],
    points: Sequence[Proposal] = (),
    *,
    alone: bool = False,
) -> Sweep:
    if _stem(document.name) == MODELS:
        raise RequestError(
            f"{document.name}:1: '{MODELS}' is what tables call the models of other people; give the file another name"
        )
    loader = _Loader(document, _stem(document.name), profile, sets, points, alone=alone)
    return replace(loader.sweep(), text=document.text, sets=(*sets, *loader.copied))


def _stem(source: str) -> str:
    """`sweeps/cifar10.yaml` -> cifar10, `table:cfa-1` -> cfa-1."""
    kind, _, name = source.partition(":")
    return name if kind in TARGETS else Path(source).stem


# finding -----------------------------------------------------------------------------------------------------------


def find_sweep(path_or_name: str | Path) -> Document:
    """The file at that path, or the sweep of that name which comes with the package."""
    path = Path(path_or_name)
    if path.is_file():
        return load(path)
    bundled = bundled_sweeps()
    if str(path.parent) not in (".", "sweeps"):
        choice = known(path.stem, {Path(found).stem for found in bundled})
        raise RequestError(
            f"{path_or_name}: no such file; give the path of a YAML file, or a sweep's name; {choice}"
        )
    name = path.name if path.suffix in (".yaml", ".yml") else f"{path.name}.yaml"
    if name not in bundled:
        here = sorted(str(found) for found in Path("sweeps").glob("*.yaml"))
        choice = known(path.stem, sorted({Path(found).stem for found in [*bundled, *here]}))
        raise RequestError(f"{path_or_name}: no such sweep; {choice}; or give the path of a YAML file")
    with resources.as_file(bundled[name]) as file:
        return load(file, f"sweeps/{name}")


def bundled_sweeps() -> dict[str, Any]:
    """file name -> file of every sweep that ships with the package."""
    return {file.name: file for file in resources.files("sweeps").iterdir() if file.name.endswith(".yaml")}


# reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """One grid: `fixed` settings, and the `varied` keys with their values. `listed`: its points, where it is no grid."""

    name: str
    at: Key  # where it stands in the file
    fixed: Mapping[str, Any]
    varied: Mapping[str, list[Any]]
    listed: Sequence[dict[str, tuple[int, Any]]] | None = None

    def points(self) -> Iterator[dict[str, tuple[int, Any]]]:
        """Every combination: key -> (index, value)."""
        if self.listed is not None:
            yield from self.listed
            return
        for values in itertools.product(*(enumerate(values) for values in self.varied.values())):
            yield dict(zip(self.varied, values, strict=True))


class _Loader:
    """Reads one sweep and gathers everything that is wrong with it."""

    def __init__(
        self,
        document: Document,
        stem: str,
        profile: str | None,
        sets: Sequence[str],
        points: Sequence[Proposal] = (),
        *,
        alone: bool = False,
    ) -> None:
        self.document = document
        self.points, self.alone = points, alone
        self.expanded: list[tuple[str, ...]] = []  # fingerprints of each point of the search
        self.name = stem if profile is None else f"{stem}-{profile}"
        self.profile = profile
        self.problems: list[str] = []
        self.places: dict[Key, str] = {}  # of keys that a --set or a profile wrote over
        self.copied: list[str] = []  # `--set`s that hold what stands in files of protocols
        self.seeds_from = ""  # where the seeds come from, when not from the file
        self.file: dict[str, Any] = self._file()
        self.profile_layers: list[Layer] = []
        self._read_profile()
        self.set_layer = self._read_sets(sets)
        self._refuse_titles_that_are_no_text()

    def sweep(self) -> Sweep:
        protocol = self._protocol()
        seeds, attacks = self._seeds(), self._attacks(protocol)
        search = self._search()
        grids = self._grids(search)
        self._refuse_sets_of_varied_keys([*grids, *([] if search is None else [_search_grid(search, [])])])
        weights = self._weights(protocol)
        judged = self._judged(protocol, attacks, weights)
        sample = self._samples(search, protocol)
        planned = self._expand([] if self.alone else grids, seeds, protocol)
        planned += self._of_points(search, seeds, protocol)
        trials = self._with_evaluations(_merged(_with_needed(planned), self.problems), attacks, weights)
        trials = self._with_judging(trials, judged)
        stop = self._stop(self._first(search, grids), sample or planned, protocol)
        if not self.alone:
            self._check_other_profiles()
        if self.problems:
            raise RequestError(list(dict.fromkeys(self.problems)))
        title, description = (str(self.file.get(key) or "") for key in ("title", "description"))
        return Sweep(
            self.name,
            self.document.name,
            title,
            description,
            self.profile,
            protocol,
            seeds,
            attacks,
            weights,
            trials,
            search=search,
            stop=stop,
            points=self._proposals(),
            base=sample[0].fingerprint if sample else "",
            judged=judged,
        )

    def _check_other_profiles(self) -> None:
        """What is wrong with the profiles that are not chosen, as far as it stands in them."""
        for name, settings in self.file.get("profiles", {}).items():
            if name == self.profile or not isinstance(settings, Mapping):
                continue
            other = _Loader(self.document, "", name, ())
            protocol = other._protocol()
            seeds, attacks, weights = other._seeds(), other._attacks(protocol), other._weights(protocol)
            other._judged(protocol, attacks, weights)
            search = other._search()
            grids = other._grids(search)
            sample = other._samples(search, protocol, look=_DataByName())
            planned = other._expand(grids, seeds, protocol, look=_DataByName(), most=1)
            other._stop(other._first(search, grids), sample or planned, protocol, look=_DataByName())
            inside = [key for key in self.document.lines if key[:2] == ("profiles", name)]
            places = tuple({f"{self.document.place(key)}: " for key in inside})
            self.problems += [one for one in other.problems if one.startswith(places)]

    # the file and what is laid over it -----------------------------------------------------------------------------

    def place(self, key: Sequence[Hashable]) -> str:
        """Where a key of the file got its value."""
        path = tuple(key)
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.document.place(path)

    def _file(self) -> dict[str, Any]:
        found = self.document.value
        if not isinstance(found, Mapping):
            raise RequestError(
                f"{self.document.place()}: a sweep is a mapping with the keys {', '.join(KEYS)}"
            )
        file = {}
        for key, value in found.items():
            if key not in KEYS:
                trial = key in Trial.model_fields or str(key).partition(".")[0] in Trial.model_fields
                hint = "; settings of a trial stand below trial:" if trial else ""
                self.problems.append(f"{self.place((key,))}: unknown key '{key}'; {known(key, KEYS)}{hint}")
            elif value is not None:
                file[key] = value
        for key in ("trial", "grid", "profiles"):
            if not isinstance(file.get(key, {}), Mapping):
                self.problems.append(
                    f"{self.place((key,))}: {key} is {shown(file[key])}; allowed: a mapping of keys to values"
                )
                del file[key]
        return file

    def _refuse_titles_that_are_no_text(self) -> None:
        for key in ("title", "description"):
            value = self.file.get(key)
            if not isinstance(value, str | None):
                self.problems.append(f"{self.place((key,))}: {key} is {shown(value)}; allowed: text")

    def _read_profile(self) -> None:
        """The chosen profile's settings as layers, its lists in place of the file's."""
        profiles = self.file.get("profiles", {})
        for name in profiles:
            if not isinstance(profiles[name], Mapping):
                where = self.place(("profiles", name))
                self.problems.append(
                    f"{where}: profile '{name}' is {shown(profiles[name])}; allowed: a mapping of settings"
                )
        if self.profile is None:
            return
        if self.profile not in {**BUILT_IN_PROFILES, **profiles}:
            choice = known(self.profile, {**BUILT_IN_PROFILES, **profiles})
            self.problems.append(
                f"--profile {self.profile}: {self.document.name} has no such profile; {choice}"
            )
        if self.profile in BUILT_IN_PROFILES:
            built_in = f"the built-in profile {self.profile}"
            few = {"search.points": SMOKE_POINTS} if "search" in self.file else {}
            self._lay_over(BUILT_IN_PROFILES[self.profile] | few, lambda key: built_in)
        if isinstance(profiles.get(self.profile), Mapping):
            home = ("profiles", self.profile)
            self._lay_over(profiles[self.profile], lambda key: self.document.place((*home, *key)))

    def _lay_over(self, settings: Mapping[str, Any], place: Any) -> None:
        """One source of a profile: `seeds`, `evaluate`, `weights`, and settings of the trial with or without `trial.`."""
        trial: dict[str, Any] = {}
        written: dict[str, Key] = {}
        for key, value in settings.items():
            word, _, rest = str(key).partition(".")
            if word in LISTS and not rest:
                self.file[word] = value
                self.places[(word,)] = place((key,))
                self.seeds_from = f"profile {self.profile}" if word == "seeds" else self.seeds_from
            elif word in ADJUSTED:
                self._adjust(word, rest, value, place((key,)))
            elif word == "trial" and (rest or isinstance(value, Mapping)):
                for inner, one in ({rest: value} if rest else value).items():
                    trial[str(inner)], written[str(inner)] = one, (key,) if rest else (key, inner)
            elif word in KEYS:
                allowed = f"{', '.join([*LISTS, *ADJUSTED])} and settings of the trial"
                self.problems.append(
                    f"{place((key,))}: a profile cannot change '{key}': it overrides settings, never grids; allowed: {allowed}"
                )
            else:
                trial[str(key)], written[str(key)] = value, (key,)
        layer = Layer(
            f"profile {self.profile}",
            trial,
            lambda path: place((*written[str(path[0])], *path[1:]) if path else ()),
        )
        self.profile_layers.append(layer)

    def _read_sets(self, sets: Sequence[str]) -> Layer:
        """`--set` changes keys of the file; every other key is one of `trial:`."""
        trial: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for text in sets:
            try:
                key, value = parse_set(text)
            except RequestError as error:
                self.problems += error.problems
                continue
            word, _, rest = key.partition(".")
            if word == "grid":
                self._set_grid(rest, value, f"--set {text}")
            elif word in ADJUSTED:
                self._adjust(word, rest, value, f"--set {text}")
            elif word == "trial" and (rest or isinstance(value, Mapping)):
                for inner, one in ({rest: value} if rest else value).items():
                    trial[str(inner)], texts[str(inner)] = one, text
            elif word in KEYS and not rest and word not in ("trial", "profiles"):
                self.file[word] = value
                self.places[(word,)] = f"--set {text}"
                self.seeds_from = "--set" if word == "seeds" else self.seeds_from
            elif word in KEYS:
                self.problems.append(f"--set {text}: {_CANNOT_SET.get(word, f'give {word} as a whole')}")
            else:
                trial[key], texts[key] = value, text
        return set_layer(trial, texts)

    def _adjust(self, word: str, rest: str, value: Any, place: str) -> None:
        """`search.points`, `search.space.KEY`, `stop.grace`, or several keys of one of them in a mapping."""
        before = self.file.get(word)
        if value is None and not rest:
            self.file.pop(word, None)
        elif not rest and not isinstance(value, Mapping):
            self.file[word], self.places[(word,)] = value, place
        else:
            kept = (
                {"by": before} if word == "stop" and isinstance(before, str) and before != "none" else before
            )
            found = dict(kept) if isinstance(kept, Mapping) else {}
            for key, one in ({rest: value} if rest else value).items():
                first, _, setting = str(key).partition(".")
                if (word, first) == SEARCHED and setting:
                    space = found.get(first)
                    found[first] = {**(space if isinstance(space, Mapping) else {}), setting: one}
                    self.places[(*SEARCHED, setting)] = place
                else:
                    found[str(key)], self.places[(word, str(key))] = one, place
            self.file[word] = found

    def _set_grid(self, key: str, value: Any, place: str) -> None:
        """`grid.KEY`, `grid.NAME.KEY`, `grid.NAME` or `grid` itself."""
        grid = dict(self.file.get("grid", {}))
        named = _is_named(grid)
        name, _, rest = key.partition(".")
        path: Key = ("grid", key)
        if not key:
            if isinstance(value, Mapping):
                grid, path = dict(value), ("grid",)
            else:
                self.problems.append(
                    f"{place}: grid is {shown(value)}; allowed: a mapping, for example grid.method=[at,trades]"
                )
                return
        elif named and name in grid and (not rest or isinstance(grid[name], Mapping)):
            grid[name] = {**grid[name], rest: value} if rest else value
            path = ("grid", name, rest) if rest else ("grid", name)
        elif named:
            owners = [
                one
                for one, keys in grid.items()
                if isinstance(keys, Mapping) and isinstance(keys.get(key), list)
            ]
            if len(owners) != 1:
                several = (
                    f"the grids {', '.join(owners)} vary {key}"
                    if owners
                    else f"no grid is called or varies '{key}'"
                )
                example = f"grid.{(owners or list(grid))[0]}.{key if owners else 'KEY'}"
                self.problems.append(f"{place}: {several}; {known(name, grid)}; write --set {example}=[...]")
                return
            grid[owners[0]] = {**grid[owners[0]], key: value}
            path = ("grid", owners[0], key)
        else:
            grid[key] = value
        self.file["grid"] = grid
        self.places[path] = place

    # lists ---------------------------------------------------------------------------------------------------------

    def _protocol(self) -> Protocol:
        value, home = self.file.get("protocol", "standard"), Path(self.document.name).parent
        read = read_protocol(value, self._say_below(("protocol",)), self.problems, {}, home)
        if read is not None and read.written is not None:
            self.copied.append(f"protocol={_as_json(read.written)}")
        return PROTOCOLS["standard"] if read is None else read.protocol

    def _say_below(self, at: Key) -> Say:
        return lambda key, text: self._say((*at, *key), text)

    def _judged(
        self, protocol: Protocol, attacks: Sequence[EvaluationAttack], weights: Sequence[str]
    ) -> tuple[Protocol, ...]:
        """The protocols of `judge`, the sweep's own in front where it is not named; that one has the sweep's attacks."""
        if "judge" not in self.file:
            return ()
        home, copies = Path(self.document.name).parent, False
        found: dict[str, Protocol] = {}
        written: list[Any] = []
        for index, entry in enumerate(self._entries("judge", [], "[ham-paper, cfa-paper]")):
            at: Key = ("judge", index) if isinstance(self.file["judge"], list) else ("judge",)
            others = {protocol.name: protocol, **found}
            read = read_protocol(entry, self._say_below(at), self.problems, others, home)
            written.append(entry if read is None or read.written is None else dict(read.written))
            copies = copies or written[-1] is not entry
            if read is None:
                continue
            name = read.protocol.name
            if name in found:
                self._say(at, f"judge: protocol '{name}' is given twice; keep one")
            elif others.get(name, read.protocol) != read.protocol:
                self._say(
                    at, f"judge: '{name}' is the name of the sweep's own protocol too; rename one of them"
                )
            found[name] = read.protocol
        if copies:
            self.copied.append(f"judge={_as_json(written)}")
        own = as_asked(protocol, attacks, weights)
        before = {} if protocol.name in found else {protocol.name: own}
        return tuple({**before, **found, protocol.name: own}.values())

    def _entries(self, key: str, default: Sequence[Any], example: str) -> list[Any]:
        """A list of the file; a single value stands for a list of one."""
        value = self.file.get(key, list(default))
        if value is None or value == [] or value == {}:
            self.problems.append(f"{self.place((key,))}: {key} is empty; write for example {key}: {example}")
            return []
        return value if isinstance(value, list) else [value]

    def _entry_place(self, key: str, index: int) -> str:
        return self.place((key, index) if isinstance(self.file.get(key), list) else (key,))

    def _seeds(self) -> tuple[int, ...]:
        seeds: list[int] = []
        for index, seed in enumerate(self._entries("seeds", [0], "[0, 1, 2]")):
            where = self._entry_place("seeds", index)
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MOST_SEED:
                self.problems.append(
                    f"{where}: seed {shown(seed)} is none; allowed: whole numbers from 0 to {MOST_SEED}"
                )
            elif seed in seeds:
                self.problems.append(f"{where}: seed {seed} is given twice in seeds; keep one")
            else:
                seeds.append(seed)
        return tuple(seeds)

    def _attacks(self, protocol: Protocol) -> tuple[EvaluationAttack, ...]:
        attacks: dict[str, EvaluationAttack] = {}
        for index, entry in enumerate(self._entries("evaluate", protocol.attacks, "[clean, pgd20, cw20]")):
            where = self._entry_place("evaluate", index)
            try:
                attack = EvaluationAttack.model_validate(entry)
            except ValidationError as error:
                told = problems_of(error, EvaluationAttack, entry)
                self.problems += [f"{where}: evaluate: {one.text}" for one in told]
                continue
            if attack.key in attacks:
                self.problems.append(
                    f"{where}: evaluate: two attacks are called '{attack.key}'; drop one, or give it its own label"
                )
            attacks[attack.key] = attack
        return tuple(attacks.values())

    def _weights(self, protocol: Protocol) -> tuple[str, ...]:
        weights: list[str] = []
        for index, name in enumerate(self._entries("weights", protocol.weights, "[best, last]")):
            where = self._entry_place("weights", index)
            try:
                weights.append(Evaluation(weights=name, attack=EvaluationAttack(kind="clean")).weights)
            except ValidationError as error:
                self.problems += [
                    f"{where}: {one.text}" for one in problems_of(error, Evaluation, {"weights": name})
                ]
        for name in sorted({name for name in weights if weights.count(name) > 1}):
            self.problems.append(f"{self.place(('weights',))}: weights '{name}' are given twice; keep one")
        return tuple(dict.fromkeys(weights))

    # search and stop -------------------------------------------------------------------------------------------------

    def _say(self, key: Key, text: str) -> None:
        self.problems.append(f"{self.place(key)}: {text}")

    def _search(self) -> Search | None:
        return read_search(self.file["search"], self._say) if "search" in self.file else None

    def _samples(
        self, search: Search | None, protocol: Protocol, look: DataFacts | None = None
    ) -> list[Planned]:
        """Trials of a few points that together hold every choice and every end of a range: what is wrong with them is told."""
        if search is None or self.alone:
            return []
        return self._expand([_search_grid(search, search.samples())], (0,), protocol, look)

    def _of_points(self, search: Search | None, seeds: tuple[int, ...], protocol: Protocol) -> list[Planned]:
        """The trials of the points that the search has proposed, as far as they can be trials."""
        self.expanded = []
        possible = [dict(point.values) for point in self.points if not point.problem]
        return [] if search is None else self._expand([_search_grid(search, possible)], seeds, protocol)

    def _proposals(self) -> tuple[Proposal, ...]:
        """The points with the fingerprints of their trials."""
        left = iter(self.expanded)
        return tuple(
            point if point.problem else replace(point, fingerprints=next(left, ())) for point in self.points
        )

    def _first(self, search: Search | None, grids: Sequence[_Grid]) -> _Grid | None:
        """The grid of the sweep's first trial."""
        return _search_grid(search, search.samples()[:1]) if search is not None else next(iter(grids), None)

    def _stop(
        self,
        first: _Grid | None,
        planned: Sequence[Planned],
        protocol: Protocol,
        look: DataFacts | None = None,
    ) -> Stop | None:
        """The rule. Its grace belongs to a length of training, as `start_epoch` does, and follows a changed one.

        `planned`: trials, of which the first tells how many epochs there are now; `first`: the grid that it comes from.
        """
        found = self.file.get("stop", "none")
        stop = read_stop(found, self._say)
        if stop is None or first is None or not planned or self.problems:
            return stop
        now, before = planned[0].trial.epochs, DEFAULT_EPOCHS
        if isinstance(found, Mapping) and "grace" in found:
            place = self.places.get(("stop", "grace"), self.places.get(("stop",), ""))
            above = [] if place.startswith("--set") else [self.set_layer]
            above += [] if place else self.profile_layers
            before = self._epochs_without(above, first, protocol, look) or now
        return stop.model_copy(update={"grace": max(1, scaled(stop.grace, before, now))})

    def _epochs_without(
        self, above: Sequence[Layer], first: _Grid, protocol: Protocol, look: DataFacts | None
    ) -> int | None:
        """How many epochs a trial has before these layers change them; None: they do not, or it cannot be told."""
        if not any(("epochs",) in layer.expanded[0] for layer in above):
            return None
        kept = self.profile_layers, self.set_layer, self.problems
        self.profile_layers = [_without_epochs(one) if one in above else one for one in kept[0]]
        self.set_layer = _without_epochs(kept[1])
        planned = self._expand([first], (0,), protocol, look, most=1)
        self.profile_layers, self.set_layer, self.problems = kept
        return planned[0].trial.epochs if planned else None

    # grids ---------------------------------------------------------------------------------------------------------

    def _grids(self, search: Search | None) -> list[_Grid]:
        found = self.file.get("grid", {})
        if not found:
            return [_Grid(SINGLE_GRID, ("grid",), {}, {})] if "search" not in self.file else []
        if not _is_named(found):
            return [self._grid(SINGLE_GRID, ("grid",), found)]
        for name in found:
            if not isinstance(found[name], Mapping):
                text = f"is {shown(found[name])}, but other entries are named grids; {_GRID_FORMS}"
            elif not found[name]:
                text = "is empty; write the keys it varies below it"
            elif _is_setting(name):
                text = f"has the name of a setting; write {name}.KEY: [values] for a key, or give the grid another name"
            else:
                continue
            self.problems.append(f"{self.place(('grid', name))}: grid '{name}' {text}")
        if "search" in self.file and SEARCH_GRID in found:
            self.problems.append(
                f"{self.place(('grid', SEARCH_GRID))}: tables know the points of the search as '{SEARCH_GRID}'; give this "
                "grid another name"
            )
        return [
            self._grid(str(name), ("grid", name), keys)
            for name, keys in found.items()
            if isinstance(keys, Mapping) and keys and not _is_setting(name)
        ]

    def _grid(self, name: str, at: Key, keys: Mapping[Any, Any]) -> _Grid:
        fixed: dict[str, Any] = {}
        varied: dict[str, list[Any]] = {}
        for key, value in keys.items():
            where = self.place((*at, key))
            if str(key) == "seed" or str(key) == "seeds":
                self.problems.append(
                    f"{where}: {key} cannot stand in a grid; write seeds: [...] at the top of the file"
                )
            elif isinstance(value, list) and not value:
                self.problems.append(
                    f"{where}: {key} has an empty list; write its values, for example {key}: [a, b]"
                )
                fixed |= (
                    {"method": "at"} if key == "method" else {}
                )  # so that the rest can still be looked at
            elif isinstance(value, list):
                varied[str(key)] = value
            elif name == SINGLE_GRID and at == ("grid",):
                instead = f"write [{_bare(value)}], or put it below trial:"
                self.problems.append(
                    f"{where}: {key} is {shown(value)}, not a list; {instead}; {_GRID_FORMS}"
                )
                fixed[str(key)] = value
            else:
                fixed[str(key)] = value
        return _Grid(name, at, fixed, varied)

    def _refuse_sets_of_varied_keys(self, grids: Sequence[_Grid]) -> None:
        set_leaves = self.set_layer.expanded[0]
        refused: set[Words] = set()
        for grid in grids:
            varied = self._varied_words(grid)
            for words, leaf in set_leaves.items():
                key = next((key for key, paths in varied.items() if _touches(words, key, paths)), None)
                if key is None:
                    continue
                refused.add(words)
                what = "search" if grid.at == SEARCHED else "grid"
                full = ".".join(map(str, grid.at))
                where = self.place((*grid.at, key))
                self.problems.append(
                    f"{leaf.place}: the {what} varies {key} ({where}), so it has no single value; "
                    f"write --set {full}.{key}=[{_bare(leaf.value)}], or edit the {what}"
                )

        if refused:  # so that they lead to no further problems
            kept = {
                key: value
                for key, value in self.set_layer.settings.items()
                if not _words({key: value}) & refused
            }
            self.set_layer = replace(self.set_layer, settings=kept)

    def _varied_words(self, grid: _Grid) -> dict[str, set[Words]]:
        """key -> the whole keys of the settings that its values write."""
        return {
            key: {words for value in values for words in _words({key: value})}
            for key, values in grid.varied.items()
        }

    # trials --------------------------------------------------------------------------------------------------------

    def _expand(
        self,
        grids: Sequence[_Grid],
        seeds: tuple[int, ...],
        protocol: Protocol,
        look: DataFacts | None = None,
        most: int | None = None,
    ) -> list[Planned]:
        """Every trial, in the order grid, point, seed; identical ones still apart. At most `most` points of each grid."""
        look = look or DataFacts()
        ground = [
            Layer(f"protocol {protocol.name}", protocol.settings, lambda _: self.place(("protocol",))),
            Layer("", self.file.get("trial", {}), lambda path: self.place(("trial", *path))),
        ]
        self._refuse_seed([*ground, *self.profile_layers, self.set_layer])
        planned: list[Planned] = []
        for grid in grids:
            profile = [_without(layer, self._varied_words(grid)) for layer in self.profile_layers]
            for point in itertools.islice(grid.points(), most):
                layers = [*ground, self._point_layer(grid, point), *profile, self.set_layer]
                try:
                    resolved = resolve(layers, look)
                except RequestError as error:
                    self.problems += error.problems
                    continue
                self.problems += resolved.idle()
                values = {key: value for key, (_, value) in point.items()}
                mine = list(_planned(resolved, grid, values, self._seed_leaves(seeds)))
                planned += mine
                if grid.listed is not None:
                    self.expanded.append(tuple(one.fingerprint for one in mine))
            self._refuse_twins(grid, planned)
        return planned

    def _seed_leaves(self, seeds: Sequence[int]) -> list[Leaf]:
        where = self.place(("seeds",))
        origin = self.seeds_from or (where if "seeds" in self.file else "default")
        return [Leaf(seed, origin, where) for seed in seeds]

    def _refuse_twins(self, grid: _Grid, planned: Sequence[Planned]) -> None:
        """Trials of a grid that differ must differ in label or values: tables know them by nothing else."""
        seen: dict[str, str] = {}
        for one in planned:
            if one.grids != (grid.name,):
                continue
            name = json.dumps([one.label, one.values, one.seed], sort_keys=True, default=str)
            if seen.setdefault(name, one.fingerprint) != one.fingerprint:
                self.problems.append(
                    f"{self.place(grid.at)}: two entries of the grid '{grid.name}' would both be called '{one.row}'; "
                    "vary the keys in which they differ on their own, or put them into two named grids"
                )

    def _refuse_seed(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            leaf = layer.expanded[0].get(("seed",))
            if leaf is not None:
                self.problems.append(
                    f"{leaf.place}: a sweep has seeds, not a seed; write seeds: [{_bare(leaf.value)}]"
                )

    def _point_layer(self, grid: _Grid, point: Mapping[str, tuple[int, Any]]) -> Layer:
        settings = {**grid.fixed, **{key: value for key, (_, value) in point.items()}}

        def place(path: Key) -> str:
            if not path:
                return self.place(grid.at)
            index = (point[str(path[0])][0],) if path[0] in point else ()
            return self.place((*grid.at, path[0], *index, *path[1:]))

        return Layer("", settings, place)

    def _with_evaluations(
        self, trials: Sequence[Planned], attacks: Sequence[EvaluationAttack], weights: Sequence[str]
    ) -> tuple[Planned, ...]:
        """Each trial with its evaluations; weights of an average only where the trial keeps that average."""
        evaluations = {
            name: [Evaluation(weights=name, attack=attack) for attack in attacks] for name in weights
        }
        used: set[str] = set()
        kept: set[str] = set()
        result = []
        for planned in trials:
            if not planned.grids:
                result.append(planned)
                continue
            averages = {"", *(average.key for average in planned.trial.method.averaging)}
            kept |= averages
            mine = [name for name in weights if split_weights(name)[1] in averages]
            used |= set(mine)
            result.append(
                replace(planned, evaluations=tuple(one for name in mine for one in evaluations[name]))
            )
        for name in weights:
            if name not in used and trials and not self.alone:
                average = split_weights(name)[1]
                self.problems.append(
                    f"{self.place(('weights',))}: weights '{name}': no trial keeps an average '{average}'; "
                    f"{known(average, kept - {''})}; see method.averaging"
                )
        return tuple(result)

    def _with_judging(self, trials: Sequence[Planned], judged: Sequence[Protocol]) -> tuple[Planned, ...]:
        """Each trial with the evaluations of the protocols that it is judged under; what is asked twice runs once."""
        return tuple(
            one if not one.grids else replace(one, evaluations=self._judging(one, judged)) for one in trials
        )

    def _judging(self, planned: Planned, judged: Sequence[Protocol]) -> tuple[Evaluation, ...]:
        found = {one.name: one for one in planned.evaluations}
        for protocol in judged:
            for one in protocol.evaluations(planned.trial):
                if found.setdefault(one.name, one) != one:
                    self._say(
                        ("judge",),
                        f"judge: the attack '{one.attack.key}' of protocol '{protocol.name}' is another one than what has "
                        "this name already; give it its own label",
                    )
        return tuple(found.values())


def _as_json(value: Any) -> str:
    """A value as it can stand in a `--set`."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _search_grid(search: Search, points: Sequence[Mapping[str, Any]]) -> _Grid:
    """Points of a search as those of a grid."""
    listed = [
        {key: (search.choice(key, value) or 0, value) for key, value in point.items()} for point in points
    ]
    varied = {
        key: entry.ends if isinstance(entry, Range) else list(entry) for key, entry in search.space.items()
    }
    return _Grid(SEARCH_GRID, SEARCHED, {}, varied, listed)


def _without_epochs(layer: Layer) -> Layer:
    """A layer that leaves the length of training alone."""
    kept = {key: value for key, value in layer.settings.items() if _words({key: value}) != {("epochs",)}}
    return replace(layer, settings=kept)


class _DataByName(DataFacts):
    """The facts of named data sets; a folder that a profile names may lie on another machine, so it is not looked at."""

    def __call__(self, data: Mapping[str, Any]) -> Facts:
        return super().__call__({"name": "digits"} if data.get("folder") else data)


_GRID_FORMS = "a grid is either KEY: [values] throughout, or NAME: {KEY: [values]} throughout"


_CANNOT_SET = {
    "profiles": "profiles are edited in the file; write --set KEY=VALUE for what the profile should hold",
    "trial": "trial is a mapping of settings; write for example --set trial.epochs=3",
}


def _bare(value: Any) -> str:
    """A value as it is typed in a list."""
    return value if isinstance(value, str) else shown(value)


def _is_setting(key: Hashable) -> bool:
    """Whether a key of a grid is one of a trial's settings."""
    return str(key).partition(".")[0] in Trial.model_fields


def _is_named(grid: Mapping[Any, Any]) -> bool:
    """Whether a grid is a mapping of named grids: it is as soon as one of its entries is a mapping."""
    return any(isinstance(value, Mapping) for value in grid.values())


def _words(settings: Mapping[str, Any]) -> set[Words]:
    """The whole keys of all settings in a mapping."""
    return set(Layer("", settings, lambda _: "").expanded[0])


def _touches(words: Words, key: str, paths: set[Words]) -> bool:
    """Whether a setting is the one that a grid's key varies, lies in it, or contains it."""
    if key == "data" and words in (("data", "name"), ("data", "folder")):
        return True  # one of the two takes the place of the other
    return any(words[: len(path)] == path or path[: len(words)] == words for path in paths)


def _without(layer: Layer, varied: Mapping[str, set[Words]]) -> Layer:
    """A profile without what the grid varies."""
    kept = {
        key: value
        for key, value in layer.settings.items()
        if not any(
            _touches(words, one, paths) for words in _words({key: value}) for one, paths in varied.items()
        )
    }
    return layer if len(kept) == len(layer.settings) else replace(layer, settings=kept)


def _planned(
    resolved: Resolved, grid: _Grid, point: Mapping[str, Any], seeds: Sequence[Leaf]
) -> Iterator[Planned]:
    """The trials of one grid point, one per seed."""
    settings = flatten(resolved.trial.model_dump(mode="json"))
    values = {key: _value(key, value, settings, resolved) for key, value in point.items()}
    words = [f"{_short(key)}={_word(point[key], values[key])}" for key in values if key != "method"]
    label, title, row = resolved.label, resolved.title, " ".join([resolved.label, *words])
    for seed in seeds:
        own = resolved.seeded(seed)
        trial = own.trial
        yield Planned(
            trial,
            fingerprint(trial),
            label,
            title,
            (grid.name,),
            values,
            seed.value,
            row,
            (),
            own,
            needs_of(trial),
        )


def _short(key: str) -> str:
    """A key as rows show it: its last word, whole where it is a setting of another trial."""
    return key if key.partition(".")[0] in STARTS else key.rpartition(".")[2]


def _value(key: str, given: Any, settings: Mapping[str, Any], resolved: Resolved) -> Any:
    """A varied value as the trial has it: 8/255 as a number, epochs scaled, a method by its label."""
    if key in ("method", "data"):
        return resolved.label if key == "method" else resolved.trial.data.label
    if key in STARTS:
        return resolved.sources[key].label if key in resolved.sources else "none"
    if isinstance(given, Mapping):
        return given
    full = re.sub(rf"\b({'|'.join(STARTS)})\.(?!trial\.|weights$)", r"\1.trial.", key)
    return settings.get(full, settings.get(f"{full}.name", given))


def _word(given: Any, value: Any) -> str:
    """A varied value for people: as it was written, unless it was changed."""
    if isinstance(given, str):
        return given
    return f"{value:g}" if isinstance(value, float) else str(value)


# trials that others need -------------------------------------------------------------------------------------------


def _with_needed(planned: Sequence[Planned]) -> list[Planned]:
    """The trials, each after those that it needs."""
    return [one for asked in planned for one in [*_needed_by(asked), asked]]


def _needed_by(user: Planned) -> Iterator[Planned]:
    """The trials that one needs, each after those that it needs itself."""
    for word, other in user.resolved.sources.items():
        trial, row = other.trial, f"{other.label} ({role(word)} of {user.row})"
        identity, must_keep = fingerprint(trial), averages_asked_for(getattr(user.trial, word))
        one = Planned(
            trial,
            identity,
            other.label,
            other.title,
            (),
            {},
            trial.seed,
            row,
            (),
            other,
            needs_of(trial),
            must_keep,
        )
        yield from _needed_by(one)
        yield one


# identical trials --------------------------------------------------------------------------------------------------


def _merged(planned: Sequence[Planned], problems: list[str]) -> list[Planned]:
    """One entry per fingerprint, in the order of first appearance: grids, values and averages joined."""
    first: dict[str, Planned] = {}
    for one in planned:
        before = first.get(one.fingerprint)
        first[one.fingerprint] = one if before is None else _joined(before, one, problems)
    return list(first.values())


def _joined(first: Planned, second: Planned, problems: list[str]) -> Planned:
    """Two requests for the same training as one. What a grid asks for has the name."""
    if second.grids and not first.grids:
        first, second = second, first
    ours, theirs = first.trial.data, second.trial.data
    if second.grids and (ours.test_digest, ours.test_limit) != (theirs.test_digest, theirs.test_limit):
        problems.append(
            f"'{first.row}' and '{second.row}' are the same training with different test images; "
            "put them into two sweeps, which share the training"
        )
    averages = {average.key: average for average in first.trial.method.averaging}
    for average in second.trial.method.averaging:
        if first.grids and not _insists(second, average.key):
            continue  # what a grid asks for keeps nothing that nobody needs
        if averages.setdefault(average.key, average) == average:
            continue
        if not _insists(first, average.key):
            averages[average.key] = average
        elif _insists(second, average.key):
            problems.append(
                f"'{first.row}' and '{second.row}' are the same training with two different averages called "
                f"'{average.key}'; give one of them its own `label`"
            )
    trial = first.trial
    if tuple(averages.values()) != trial.method.averaging:
        method = trial.method.model_copy(update={"averaging": tuple(averages.values())})
        trial = trial.model_copy(update={"method": method})
    return replace(
        first,
        trial=trial,
        grids=tuple(dict.fromkeys([*first.grids, *second.grids])),
        values={
            **first.values,
            **{key: value for key, value in second.values.items() if key not in first.values},
        },
        must_keep=None if first.must_keep is None else first.must_keep | (second.must_keep or frozenset()),
    )


def _insists(planned: Planned, average: str) -> bool:
    """Whether a trial must keep this average, and keep it as it says."""
    return planned.must_keep is None or average in planned.must_keep
