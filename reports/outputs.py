"""Bring the files of a report up to date: each target is made again only where reports/manifest.py says why.

A target is a table, a figure, the list of a sweep's trials, or a page. Its files come in forms (md, tex, csv, png, ...), each
of which may be up to date while another is not, since a report may be asked for in some formats only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reports.manifest import Ask, Inputs, Manifest, digest_of_bytes, write


@dataclass
class Made:
    """What making a target gave. `files`: form -> {path below the report's folder: content}."""

    files: dict[str, dict[str, bytes]]
    waiting: tuple[str, ...] = ()  # a sentence per thing that it lacks
    asked: Iterable[Ask] = ()  # what was read besides runs
    gone: tuple[str, ...] = ()  # files that must not be there, whoever wrote them


@dataclass(frozen=True)
class Target:
    """One thing that a report holds."""

    name: str  # "digits/ham-main", "digits/figures/pareto", "digits/trials.csv", "index.html"
    forms: tuple[str, ...]
    inputs: Callable[[Iterable[Ask]], Inputs]
    make: Callable[[Sequence[str]], Made]  # of these forms


@dataclass
class Outputs:
    """The files of one build. `only_ask`: nothing is made, only the reasons are found."""

    manifest: Manifest
    only_ask: bool = False
    files: list[Path] = field(default_factory=list)  # all that were asked for
    written: list[Path] = field(default_factory=list)  # those that were not what they are now
    waiting: list[str] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(
        default_factory=dict
    )  # target -> why it is made; [] where it is not
    digests: dict[str, str] = field(default_factory=dict)  # target -> of its inputs

    @property
    def out(self) -> Path:
        """The report's folder."""
        return self.manifest.out

    def bring(self, target: Target) -> None:
        """Make those forms of a target that are not up to date."""
        inputs = target.inputs(self.manifest.asked(target.name))
        found = {form: self.manifest.why(target.name, form, inputs) for form in target.forms}
        stale = [form for form in target.forms if found[form]]
        self.reasons[target.name] = list(dict.fromkeys(reason for form in stale for reason in found[form]))
        if stale and not self.only_ask:
            made = target.make(stale)
            inputs = target.inputs(made.asked)
            for form in stale:
                self._put(target.name, form, inputs, made)
            for path in made.gone:
                (self.out / path).unlink(missing_ok=True)
        self.digests[target.name] = inputs.digest
        for form in target.forms:
            self.files += [self.out / path for path in sorted(self.manifest.files(target.name, form))]
        self.waiting += next(
            (self.manifest.noted(target.name, form).get("waiting", ()) for form in target.forms), ()
        )

    def _put(self, name: str, form: str, inputs: Inputs, made: Made) -> None:
        before = self.manifest.files(name, form)
        now: dict[str, str] = {}
        for path, content in made.files[form].items():
            if write(self.out / path, content):
                self.written.append(self.out / path)
            now[path] = digest_of_bytes(content)
        for path in before.keys() - now.keys():
            self.manifest.remove(path, before[path])
        self.manifest.note(name, form, inputs, now, list(made.waiting))

    def forget_others(self) -> None:
        """Targets that nothing makes any more go, with their files where those are still what was written."""
        for name in sorted(self.manifest.targets.keys() - self.reasons.keys()):
            self.reasons[name] = ["nothing makes it any more: its files go"]
            if not self.only_ask:
                self.manifest.forget(name)

    @property
    def up_to_date(self) -> bool:
        """Whether nothing had to be made."""
        return not any(self.reasons.values())
