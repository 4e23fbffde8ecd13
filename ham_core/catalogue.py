"""What there is to choose from: presets, and the parts that methods are made of, as plain data and as a document.

Everything is read off the presets' files and the parts' classes, so that the list cannot fall behind them. Imports no torch.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ham_core.config import flatten
from ham_core.errors import RequestError, known
from ham_core.parts import KINDS, Frozen, Part, find, index
from ham_core.presets import Preset, load_preset, names
from ham_core.sentences import shown

LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "pattern")
LOWER = {"minimum": "<=", "exclusiveMinimum": "<"}
UPPER = {"maximum": "<=", "exclusiveMaximum": "<"}
UNITS = (
    "Costs are in passes over the batch on top of a step of plain adversarial training with K attack steps, which takes "
    "(K+1)F + K Bx + 1(Bx+Bw): F is a forward pass, Bx a backward pass to the input only, Bx+Bw one to the weights as well."
)
PICTURES = {"ham": "![The weight functions of HAM](pictures/weight-functions.png)"}
HEADINGS = {
    "objectives": "Objectives: what the attack maximises and what the training minimises",
    "mining": "Mining: which adversarial examples are trained on, and with which weight",
    "calibration": "Calibration: radius, loss weight and regularisation per class",
    "averaging": "Averaging: second sets of weights",
}


def catalogue() -> dict[str, Any]:
    """{"presets": [...], "parts": [...]}, each entry as `preset_entry` and `part_entry` make it."""
    return {
        "presets": [preset_entry(load_preset(name)) for name in names()],
        "parts": [part_entry(kind, name) for kind in KINDS for name in sorted(index(kind))],
    }


def named(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The presets and parts of that name only. RequestError: there are none."""
    found = {group: [one for one in answer[group] if one["name"] == name] for group in answer}
    if not any(found.values()):
        every = {one["name"] for group in answer.values() for one in group}
        raise RequestError(f"unknown method or part {shown(name)}; {known(name, every)}")
    return found


def preset_entry(preset: Preset) -> dict[str, Any]:
    """name, title, source, method, recipe, base; summary and differs in sentences; parts in words, epochs, other trials."""
    recipe = preset.recipe
    return {
        "name": preset.name,
        "title": preset.title,
        "source": preset.source,
        "method": preset.method,
        "recipe": recipe,
        "base": preset.base,
        "summary": preset.summary,
        "differs": preset.differs,
        "parts": _parts_in_words(preset.method),
        "epochs": recipe.get("epochs"),
        "starts": [
            words
            for key, form in (
                ("start_from", "starts from {}"),
                ("helper", "helper {}"),
            )
            if (words := _start_in_words(recipe.get(key), form))
        ],
    }


def part_entry(kind: Any, name: str) -> dict[str, Any]:
    """kind, name, source, parameters; summary, formula (the maths of its files), cost per step and needs in words."""
    part = find(kind, name)
    return {
        "kind": kind,
        "name": name,
        "source": part.source,
        "parameters": parameters(part),
        "summary": inspect.getdoc(part) or "",
        "cost": part.cost,
        "needs": list(part.needs),
        "formula": "\n\n".join(_docstrings(part)),
    }


def parameters(part: type[Frozen], prefix: str = "") -> dict[str, Any]:
    """dotted key -> {type, default, required, allowed, meaning} of every setting of a part."""
    properties = part.model_json_schema(mode="validation")["properties"]
    found: dict[str, Any] = {}
    for name, entry in part.model_fields.items():
        inner = entry.annotation
        if isinstance(inner, type) and issubclass(inner, Frozen) and not issubclass(inner, Part):
            found |= parameters(inner, f"{prefix}{name}.")
            continue
        described = properties[name]
        found[f"{prefix}{name}"] = {
            "type": _type(described),
            "default": None if entry.is_required() else entry.get_default(call_default_factory=True),
            "required": entry.is_required(),
            "allowed": _allowed(described),
            "meaning": entry.description or ("another part of this kind" if "$ref" in described else ""),
        }
    return found


def _docstrings(part: type[Frozen]) -> Iterator[str]:
    """The docstring of the file of a part, and of each further file that its groups of settings stand in."""
    seen: list[str] = []
    for model in (part, *(entry.annotation for entry in part.model_fields.values())):
        if isinstance(model, type) and issubclass(model, Frozen) and model.__module__ not in seen:
            if model is not part and issubclass(model, Part):
                continue
            seen.append(model.__module__)
            yield inspect.cleandoc(sys.modules[model.__module__].__doc__ or "")


def _type(described: Mapping[str, Any]) -> str:
    if "enum" in described or "const" in described:
        return "word"
    if "anyOf" in described:
        return " or ".join(dict.fromkeys(_type(one) for one in described["anyOf"]))
    return "part" if "$ref" in described else str(described.get("type", "mapping"))


def _allowed(described: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of a value, for example {"minimum": 0}, or its words."""
    limits = {key: value for key, value in described.items() if key in LIMITS}
    if "const" in described:
        limits["enum"] = [described["const"]]
    for branch in described.get("anyOf", ()):
        limits |= _allowed(branch)
    return limits


# in words ----------------------------------------------------------------------------------------------------------


def default_in_words(parameter: Mapping[str, Any]) -> str:
    """A default as it would stand in YAML; `follows` where it depends on other settings."""
    if parameter["required"]:
        return "follows"
    default = parameter["default"]
    return default if isinstance(default, str) else "none" if default is None else shown(default)


def range_in_words(parameter: Mapping[str, Any]) -> str:
    """`0 <= x <= 1`, the allowed words, or the type."""
    allowed = parameter["allowed"]
    if "enum" in allowed:
        return " | ".join(map(str, allowed["enum"]))
    below = [f"{allowed[key]:g} {sign} " for key, sign in LOWER.items() if key in allowed]
    above = [f" {sign} {allowed[key]:g}" for key, sign in UPPER.items() if key in allowed]
    kinds = [word for word in str(parameter["type"]).split(" or ") if word not in ("number", "integer")]
    if not (below or above):
        return str(parameter["type"]).replace("array", "schedule").replace("null", "none")
    limits = f"{''.join(below)}x{''.join(above)}"
    return " or ".join([limits, *kinds]).replace("array", "schedule").replace("null", "none")


def settings_in_words(entry: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> value, as they could stand in a YAML file, of a preset's method and recipe."""
    flat = flatten({"method": dict(entry["method"]), **entry["recipe"]})
    return {key: value if isinstance(value, str) else _yaml(value) for key, value in flat.items()}


def _yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value if isinstance(value, str) else "none" if value is None else shown(value)


def _parts_in_words(method: Mapping[str, Any]) -> str:
    """`fat of trades + cfa; average fawa`."""
    chain = [_objective_in_words(method.get("objective"))]
    chain += [word for key in ("mining", "calibration") if (word := _name(method.get(key)))]
    words = " + ".join(chain)
    if "averaging" not in method:
        return words
    averages = method["averaging"]
    listed = averages if isinstance(averages, list | tuple) else [averages]
    labels = [one.get("label") or word for one in listed if (word := _name(one)) and isinstance(one, Mapping)]
    labels += [word for one in listed if isinstance(one, str) and (word := _name(one))]
    return f"{words}; {'average ' + ', '.join(labels) if labels else 'no average'}"


def _objective_in_words(value: Any) -> str:
    base = value.get("base") if isinstance(value, Mapping) else None
    return f"{_name(value)} of {_objective_in_words(base)}" if base else _name(value)


def _name(value: Any) -> str:
    """Of a part in either form; empty for none."""
    name = value.get("name") if isinstance(value, Mapping) else value
    return "" if name in (None, "none") else str(name)


def _start_in_words(value: Any, form: str) -> str:
    """`starts from at at epoch 48`, `helper standard`; empty where there is none."""
    settings = {"method": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping) or settings.get("method") == "none":
        return ""
    words = form.format(settings.get("method", "at"))
    return f"{words} after {settings.get('epochs')} epochs" if settings.get("weights") == "state" else words


# the document ------------------------------------------------------------------------------------------------------


def markdown(answer: Mapping[str, Any]) -> str:
    """docs/methods.md: presets, then every part with its maths, parameters, cost and needs."""
    lines = [
        "# Methods",
        "",
        "Made from the presets and parts themselves by `ham methods --markdown > docs/methods.md`; a test keeps it current. "
        "`ham methods NAME` prints one preset or part in full.",
        "",
        "## Presets",
        "",
        "A preset is a published method with its published recipe: `method: NAME` in a YAML file. Epochs are those of its "
        "recipe; a sweep that says `epochs` scales everything that begins at an epoch along.",
        "",
    ]
    presets = answer["presets"]
    lines += _table(
        ("preset", "title", "parts", "epochs", "other trials"),
        [
            (
                f"[`{one['name']}`](#preset-{one['name']})",
                one["title"],
                one["parts"],
                str(one["epochs"]),
                "; ".join(one["starts"]),
            )
            for one in presets
        ],
    )
    for one in presets:
        lines += ["", *_preset_lines(one)]
    lines += ["", "## Parts", "", UNITS, ""]
    lines += _table(
        ("kind", "part", "cost per step", "needs", "source"),
        [
            (
                one["kind"],
                f"[`{one['name']}`](#{one['kind']}-{one['name']})",
                one["cost"],
                ", ".join(one["needs"]),
                one["source"],
            )
            for one in answer["parts"]
        ],
    )
    for kind in KINDS:
        lines += ["", f"## {HEADINGS[kind]}"]
        for one in answer["parts"]:
            if one["kind"] == kind:
                lines += ["", *_part_lines(one)]
    return "\n".join(lines) + "\n"


def _preset_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"### preset {entry['name']}"
    yield ""
    yield f"{entry['title']}. {entry['summary']}".strip()
    yield ""
    yield f"- Source: {entry['source']}."
    if entry["base"]:
        yield f"- Builds on `{entry['base']}`."
    if entry["differs"]:
        yield f"- Official code and paper differ: {entry['differs']}"
    settings = ", ".join(f"`{key}: {value}`" for key, value in settings_in_words(entry).items())
    yield f"- Settings: {settings}."


def _part_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {entry['kind']} {entry['name']}"
    yield ""
    yield entry["summary"]
    yield ""
    yield f"- Cost per step: {entry['cost']}."
    if entry["needs"]:
        yield f"- Needs: {', '.join(entry['needs'])}."
    yield ""
    yield "```text"
    yield entry["formula"]
    yield "```"
    if entry["name"] in PICTURES:
        yield ""
        yield PICTURES[entry["name"]]
    if entry["parameters"]:
        yield ""
        yield from _table(
            ("parameter", "default", "allowed", "meaning"),
            [
                (f"`{key}`", f"`{default_in_words(one)}`", f"`{range_in_words(one)}`", one["meaning"])
                for key, one in entry["parameters"].items()
            ],
        )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table; a bar inside a cell would end the cell."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
