"""Protocols as people write them: by name, as a mapping in a sweep file, or as a YAML file of its own. Light.

standard                                                       one that comes with the package
{name: mine, extends: standard, epsilon: 4/255, attacks: [clean, pgd50]}
protocols/mine.yaml                                            the same mapping; its name is the file's without `name`
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ham_core.errors import RequestError, known
from ham_core.protocol import PROTOCOLS, RULES, EvaluationAttack, Protocol, canonical_weights, split_weights
from ham_core.sentences import problems_of, shown
from ham_core.yamlfile import Document, load

Say = Callable[[Sequence[Hashable], str], None]  # (path of a key below what is read, what is wrong there)

EXTENDS = "extends"
FILES = (".yaml", ".yml")
BASE = "standard"  # of a protocol that extends none
KEYS = (*Protocol.model_fields, EXTENDS)


@dataclass(frozen=True)
class Read:
    """A protocol, and the mapping that it was read from where that is not the sweep file: what a copy of that must hold."""

    protocol: Protocol
    written: Mapping[str, Any] | None = None


def read_protocol(
    value: Any, say: Say, problems: list[str], others: Mapping[str, Protocol], home: Path
) -> Read | None:
    """A protocol as it is written; None with what is wrong told by `say`, or for a file of its own in `problems`.

    others: those that may be named besides the ones of the package. home: the folder in which files are looked for first.
    """
    if isinstance(value, Mapping):
        found = _of_mapping(value, say, others)
        return None if found is None else Read(found)
    if isinstance(value, str) and value.endswith(FILES):
        return _of_file(value, say, problems, others, home)
    choice = {**PROTOCOLS, **others}
    if not isinstance(value, str) or value not in choice:
        hint = "; or a mapping with a name, or the path of a YAML file" if isinstance(value, str) else ""
        say((), f"unknown protocol {shown(value)}; {known(value, choice)}{hint}")
        return None
    return Read(choice[value])


def named_protocols(text: str, others: Mapping[str, Protocol], flag: str = "--protocol") -> list[Protocol]:
    """The protocols of `ham-paper,cfa-paper,mine.yaml`, each once. RequestError with every wrong word."""
    problems: list[str] = []
    found: dict[str, Protocol] = {}
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for word in words:
        read = read_protocol(
            word, lambda _, text: problems.append(f"{flag}: {text}"), problems, others, Path()
        )
        if read is not None and found.setdefault(read.protocol.name, read.protocol) != read.protocol:
            problems.append(f"{flag}: two protocols are called '{read.protocol.name}'; rename one of them")
    if not words:
        problems.append(f"{flag}: no protocol given; {known('', {**PROTOCOLS, **others})}")
    if problems:
        raise RequestError(problems)
    return list(found.values())


def as_asked(protocol: Protocol, attacks: Sequence[EvaluationAttack], weights: Sequence[str]) -> Protocol:
    """A sweep's own protocol with the attacks and weights that its file has in place of the protocol's."""
    names = tuple(dict.fromkeys([protocol.rule, *weights]))
    return protocol.model_copy(update={"attacks": tuple(attacks), "weights": names})


def _of_file(
    text: str, say: Say, problems: list[str], others: Mapping[str, Protocol], home: Path
) -> Read | None:
    path = next((one for one in (home / text, Path(text).expanduser()) if one.is_file()), None)
    if path is None:
        say((), f"protocol {text}: no such file; give its path from the sweep file's folder or from here")
        return None
    try:
        document = load(path)
    except RequestError as error:
        problems += error.problems
        return None
    if not isinstance(document.value, Mapping):
        keys = ", ".join(KEYS)
        problems.append(f"{document.place()}: a protocol is a mapping with the keys {keys}")
        return None
    written = {"name": path.stem, **document.value}
    found = _of_mapping(written, _saying(document, problems), others)
    return None if found is None else Read(found, written)


def _saying(document: Document, problems: list[str]) -> Say:
    return lambda key, text: problems.append(f"{document.place(key)}: {text}")


def _of_mapping(value: Mapping[Any, Any], say: Say, others: Mapping[str, Protocol]) -> Protocol | None:
    choice = {**PROTOCOLS, **others}
    base = value.get(EXTENDS, BASE)
    unknown = [key for key in value if key not in KEYS]
    for key in unknown:
        say((key,), f"unknown key '{key}' in protocol; {known(key, KEYS)}")
    if not isinstance(base, str) or base not in choice:
        say((EXTENDS,), f"protocol: extends is {shown(base)}; {known(base, choice)}")
        return None
    name = value.get("name")
    if name is None:
        say((), "a protocol of your own needs a name; write for example {name: mine, extends: standard}")
        return None
    if name in PROTOCOLS:
        say(
            ("name",), f"protocol '{name}' comes with the package and stays as it is; give yours another name"
        )
        return None
    own = {key: entry for key, entry in value.items() if key in Protocol.model_fields}
    settings = _inherited(choice[base], own) | own
    try:
        found = Protocol.model_validate(settings)
    except ValidationError as error:
        told = problems_of(error, Protocol, settings)
        for one in told:
            deeper = any(other.path[: len(one.path)] == one.path for other in told if other is not one)
            if not deeper or not one.path:  # a list is said to be too short because of its wrong entries
                say(one.path, f"protocol: {one.text}")
        return None
    return None if unknown else found


def _inherited(base: Protocol, own: Mapping[str, Any]) -> dict[str, Any]:
    """What a protocol takes over: all but name and title; with another rule the other's weights follow it."""
    found = base.model_dump(exclude={"name", "title"})
    rule = own.get("rule")
    rule = canonical_weights(rule) if isinstance(rule, str) else rule
    if rule in RULES and "weights" not in own:
        kept = [(name, *split_weights(name)) for name in base.weights]
        found["weights"] = [
            name if old != base.rule else f"{rule}_{average}" if average else rule
            for name, old, average in kept
        ]
    return found
