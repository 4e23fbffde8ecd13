"""Other people's models: files as the official codes save them, TorchScript, and any Python factory, judged as a trial is.

A file is read by torch.load with weights_only=True: tensors, numbers, words and NumPy's numbers, nothing that runs code. Its
state dict may stand under an entry (`state_dict`, `model`, ...), its names behind prefixes (`module.` of DataParallel, ...).
The layer names are those of yaodongyu/TRADES @6e8e11b (WRN, ResNet), PKU-ML/CFA @071f333, rucy74/DAFA @c60ba83,
yyl-github-1896/HAM @e3ee5ff (PreActResNet-18) and RobustBench, and our networks carry the same; what differs is in RENAMED.

What the names cannot tell is left to a probe: the clean accuracy on a few hundred test images under every candidate
normalisation, and of PreActResNet-18 with both kinds of shortcut. A model that another candidate beats by far is refused.

A network of RobustBench's zoo is the package's own (ham_core/zoo.py), with the normalisation that it carries.

    STORE/foreign/<digest>/model.json      what the file is, how it was read, what the probe saw, on which images
    STORE/foreign/<digest>/evaluations/    as in a trial's folder (ham_core/folder.py)
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import pickle
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ham_core import data, models, zoo
from ham_core.attacks.pgd import under_attack
from ham_core.config import data_settings, digest_of
from ham_core.data.augment import to_float
from ham_core.data.split import Dataset, Split, first_per_class
from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder, read_json, write_json
from ham_core.models.layers import Normalize
from ham_core.models.preact_resnet import Block
from ham_core.network import exact_fp32, usable
from ham_core.protocol import EVALUATION_VERSION, EvaluationAttack
from ham_core.randomness import derived_seed
from ham_core.run import judge

WEIGHTS = "file"  # the first word of the metrics' names: file/pgd20/worst
ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "best",
    "last",
)  # what state dicts are kept under
PREFIXES = (
    "module.",
    "model.",
    "net.",
    "_orig_mod.",
    "1.",
)  # of wrappers; `1.`: Sequential(normalisation, network)
MEANS, STDS = ("mean", "mu", "new_mean"), ("std", "sigma", "new_std")  # a wrapper's channel statistics
UNUSED = re.compile(
    r"^(attacker\.|sub_block1\.)"
)  # saved, but no part of f: attack wrappers, TRADES' second block1
RENAMED = ((r"^fc\.", "linear."), (r"^linear\.", "fc."), (r"\.downsample\.", ".shortcut."))

# Of the zoo's files: wrappers of single names, and parts that its own loader leaves out too.
ZOO_PREFIXES = ("", "module.", "model.", "module.model.")
ZOO_UNUSED = re.compile(r"^model_preact_hl1\.|(^|\.)(bias_)?scores$")

RAW = "preact_resnet18_raw"  # shortcuts convolve x, as RobustBench's PreActBlock does, instead of relu BN x
TORCHSCRIPT = "torchscript"

# Channel statistics, pixels in [0,1]: CIFAR-10's as nearly everywhere, CIFAR-100's as in HAM's code.
STATISTICS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
}
NORMALISATIONS = ("none", "cifar10", "cifar100", "data")
FROM_FILE = "file"  # the statistics that the file itself carries

PROBE = 300  # images
MARGIN = 0.05  # of clean accuracy, by which another candidate must be better; chance on 300 images gives less
SKILL = 0.1  # least clean accuracy, as a share of the way from chance to 1
SHOWN = 6  # names listed in a sentence


@dataclass(frozen=True)
class Request:
    """Which model, and how it is to be read.

    model: one of `names()`, `torchscript`, `robustbench:NAME`, or `module:function`, which returns a network.
    normalisation: None takes the file's own statistics where it carries some, else none. entry: what the state dict stands
    under, where it is not clear. threat: of RobustBench's models, what they were trained for (zoo.THREATS).
    """

    model: str
    checkpoint: Path | None = None
    width: float = 1.0
    normalisation: str | None = None
    entry: str | None = None
    threat: str = "Linf"


def names() -> list[str]:
    """All networks of ours that a state dict can be read into."""
    return sorted([*models.names(), RAW])


def evaluate(
    request: Request,
    images: str,
    attacks: Sequence[EvaluationAttack],
    store: str | Path,
    *,
    epsilon: float,
    limit: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Read the model, probe it, attack it where it was not attacked before -> the records, in the order of `attacks`.

    images: a data set's name or a folder; limit: use about that many test images, the same number per class.
    """
    torch.set_num_threads(threads)
    chosen = usable(device)
    dataset, net, statistics, told = _opened(request, images, limit, chosen)
    told |= {
        "normalisation": None if statistics is None else [list(values) for values in statistics],
        "test_digest": dataset.facts.test_digest,
        "test_limit": limit,
    }
    digest = digest_of(told)
    folder = TrialFolder(Path(store) / "foreign" / digest)
    model = _with(statistics, net).to(chosen).eval()
    with folder.lock():
        seen = read_json(folder.path / "model.json")
        if seen is None:
            accuracies = probe(request, net.to(chosen), statistics, dataset)
            label = request.model if request.checkpoint is None else request.checkpoint.name
            seen = {"digest": digest, "name": label, "model": told, "probe": accuracies}
        if "data" not in seen:  # nor had it earlier versions' files
            write_json(folder.path / "model.json", seen | {"data": dataset.facts.label, "time": time.time()})
        wanted = []
        for attack in attacks:
            identity = _identity(digest, attack, epsilon)
            if not folder.has_evaluation(identity):
                judge(
                    model,
                    dataset,
                    folder,
                    attack,
                    identity,
                    weights=WEIGHTS,
                    about={
                        "foreign": digest,
                        "model": request.model,
                        "file": told["file"],
                        "radius": epsilon,  # of attacks that have none of their own
                    },
                    epsilon=epsilon,
                    seed=derived_seed(0, "evaluation"),
                    device=chosen,
                )
            wanted.append(identity)
        stored = {record["fingerprint"]: record for record in folder.evaluations()}
    return [stored[identity] for identity in wanted]


def ready(
    request: Request, images: str, *, limit: int | None = None, device: str = "auto", threads: int = 1
) -> tuple[nn.Module, Dataset]:
    """The model as attacks see it, in evaluation mode and probed, and the images that `evaluate` would judge it on."""
    torch.set_num_threads(threads)
    chosen = usable(device)
    dataset, net, statistics, _ = _opened(request, images, limit, chosen)
    probe(request, net.to(chosen), statistics, dataset)
    return _with(statistics, net).to(chosen).eval(), dataset


def _opened(
    request: Request, images: str, limit: int | None, device: torch.device
) -> tuple[Dataset, nn.Module, Statistics | None, dict[str, Any]]:
    """The images, and `_read` of the model."""
    member = _member(request, images)
    dataset = _dataset(images, limit, device)
    return dataset, *_read(request, dataset, member)


def _identity(digest: str, attack: EvaluationAttack, epsilon: float) -> str:
    return digest_of(
        {
            "foreign": digest,
            "attack": attack.identity(),
            "name": attack.key,
            "epsilon": epsilon,
            "version": EVALUATION_VERSION,
        }
    )


def _dataset(images: str, limit: int | None, device: torch.device) -> Dataset:
    place: dict[str, Any] = data_settings(images)
    data.ensure(**place)
    return data.load(**place, device=device, validation=0, split_seed=0, test_limit=limit)


# reading -------------------------------------------------------------------------------------------------------------

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def _member(request: Request, images: str) -> zoo.Model | None:
    """The model of RobustBench's zoo that is asked for; None: another."""
    if not request.model.startswith(zoo.PREFIX):
        return None
    if request.normalisation is not None or request.width != 1:
        raise RequestError(
            f"--model {request.model}: its width and its normalisation are the zoo's; leave --width and --normalisation out"
        )
    return zoo.find(request.model.removeprefix(zoo.PREFIX), data_settings(images).get("name"), request.threat)


def _read(
    request: Request, dataset: Dataset, member: zoo.Model | None = None
) -> tuple[nn.Module, Statistics | None, dict[str, Any]]:
    """(network, on the CPU; channel statistics before it; what identifies it). `member`: the zoo's model it is, if any."""
    path, name, channels = request.checkpoint, request.model, dataset.facts.shape[0]
    told: dict[str, Any] = {"model": name, "file": None if path is None else _sha256(path)}
    if request.normalisation not in (None, *NORMALISATIONS):
        raise RequestError(
            f"--normalisation: unknown {request.normalisation!r}; {known(request.normalisation, NORMALISATIONS)}"
        )
    carried = None
    if member is not None:
        path = zoo.fetched(member) if path is None else path
        told |= {"file": _sha256(path), "data": member.data, "threat": member.threat, "entry": request.entry}
        net = _from_zoo(member, path, request.entry)
    elif name == TORCHSCRIPT:
        net = _torchscript(_needed(path, name))
    elif ":" in name:
        net = _from_factory(name)
        if path is not None:
            state = _entry(_tensors(path), request.entry, path)
            state, carried = _for_factory(state, net, channels)
            fit(state, net, path, f"what {name} returns")
        told["weights"] = _digest_of_state(net)
    else:
        if name not in names():
            raise RequestError(
                f"--model: unknown {name!r}; {known(name, names())}; or torchscript, robustbench:NAME, or module:function"
            )
        path = _needed(path, name)
        state, carried = plain(_entry(_tensors(path), request.entry, path), channels)
        size: Any = {"width": request.width, "classes": len(dataset.classes), "channels": channels}
        net = network(name, state, **size)
        fit(state, net, path, name, others(state, **size))
        told |= {"width": request.width, "entry": request.entry}
    return net, _statistics(request.normalisation, carried, dataset), told


def _needed(path: Path | None, name: str) -> Path:
    if path is None:
        raise RequestError(f"--checkpoint is missing: which file holds the weights of {name}?")
    return path


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); check --checkpoint") from None


def _digest_of_state(net: nn.Module) -> str:
    """What a factory returned: its weights; its code cannot be told apart."""
    total = hashlib.sha256()
    for key, tensor in sorted(net.state_dict().items()):
        total.update(f"{key} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _statistics(wanted: str | None, carried: Statistics | None, dataset: Dataset) -> Statistics | None:
    """The channel statistics behind a name; None for `none`."""
    if wanted is None:
        return carried
    if wanted == "data":
        return dataset.mean, dataset.std
    if wanted == "none":
        return None
    if len(STATISTICS[wanted][0]) != dataset.facts.shape[0]:
        raise RequestError(
            f"--normalisation: {wanted} has statistics of 3 channels, the images have {dataset.facts.shape[0]}; "
            "take none or data"
        )
    return STATISTICS[wanted]


def _with(statistics: Statistics | None, net: nn.Module) -> nn.Module:
    """f((x - μ)/σ): attacks see pixels."""
    return nn.Sequential(nn.Identity() if statistics is None else Normalize(*statistics), net)


def _torchscript(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings(action="ignore"):  # newer PyTorch calls the format deprecated
            net: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise RequestError(
            f"{path}: is no TorchScript ({_first_line(error)}); write it by torch.jit.save"
        ) from None
    return net


def _from_factory(name: str) -> nn.Module:
    """The network that `module:function` returns when it is called without arguments."""
    module, _, attribute = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(
            f"--model {name}: cannot be imported ({error}); put its folder into PYTHONPATH"
        ) from None
    net = make()
    if not isinstance(net, nn.Module):
        raise RequestError(f"--model {name}: returns {type(net).__name__}; it must return a torch.nn.Module")
    return net


def _from_zoo(member: zoo.Model, path: Path, entry: str | None) -> nn.Module:
    """The zoo's network with the file's weights. Statistics that the file lacks are those that the network comes with."""
    net = zoo.network(member)
    ours = net.state_dict()
    given = {
        next((name for name in _bare(key) if name in ours), key): tensor
        for key, tensor in _entry(_tensors(path), entry or member.entry, path).items()
        if not ZOO_UNUSED.search(key)
    }
    own = {key: one for key, one in ours.items() if key.split(".")[-1] in (*MEANS, *STDS)}
    fit(own | given, net, path, f"{zoo.PREFIX}{member.name}")
    return net


def _bare(key: str) -> list[str]:
    return [key.removeprefix(prefix) for prefix in ZOO_PREFIXES if key.startswith(prefix)]


def _for_factory(
    state: dict[str, Tensor], net: nn.Module, channels: int
) -> tuple[dict[str, Tensor], Statistics | None]:
    """With as few prefixes off as its names need: they may begin with a wrapper's prefix, or hold statistics, themselves."""
    rest = state
    while matched(rest, net)[1] and (prefix := _prefix(rest)):
        rest = {key.removeprefix(prefix): tensor for key, tensor in rest.items()}
    return plain(state, channels) if matched(rest, net)[1] else (rest, None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# state dicts ---------------------------------------------------------------------------------------------------------


def _numpy_numbers() -> list[Any]:
    """NumPy's numbers and arrays, under the module names of NumPy 1 and 2: accuracies are often saved as these."""
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    functions = [getattr(multiarray, name) for name in ("scalar", "_reconstruct")]
    renamed = [(one, f"numpy.core.multiarray.{one.__name__}") for one in functions]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    return [*functions, *renamed, np.ndarray, np.dtype, *dict.fromkeys(kinds)]


def _tensors(path: Path) -> Any:
    """torch.load of plain values; RequestError for a file that needs code, or that is none of torch's."""
    try:
        with torch.serialization.safe_globals(_numpy_numbers()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|Unsupported global:|class) ([\w.]+\.[\w.]+)", str(error))
        wants = f" ({asked[1]})" if asked else ""
        raise RequestError(
            f"{path}: holds more than tensors and plain values{wants}, so reading it would run code that came with it; "
            "save its state_dict alone, on a machine where you trust it: torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # torch reports damage as zip, runtime, key or end-of-file errors
        hint = "; TorchScript is read by --model torchscript" if "TorchScript" in str(error) else ""
        raise RequestError(f"{path}: cannot be read by torch.load ({_first_line(error)}){hint}") from None


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(one, Tensor) for key, one in value.items())
    )


def _entry(found: Any, entry: str | None, path: Path) -> dict[str, Tensor]:
    """The state dict within what the file holds."""
    if entry is not None:
        if not isinstance(found, Mapping) or entry not in found:
            inside = (
                known(entry, map(str, found)) if isinstance(found, Mapping) else f"a {type(found).__name__}"
            )
            raise RequestError(f"{path}: has no entry {entry!r}; {inside}")
        found = found[entry]
    while not _is_state(found):
        inner = [key for key in ENTRIES if isinstance(found, Mapping) and isinstance(found.get(key), Mapping)]
        if len(inner) > 1:
            raise RequestError(
                f"{path}: holds {' and '.join(inner)}; choose by --weights, for example --weights {inner[0]}"
            )
        if not inner:
            inside = (
                ", ".join(map(str, list(found)[:10])) if isinstance(found, Mapping) else type(found).__name__
            )
            raise RequestError(
                f"{path}: holds no state dict, neither at the top nor under {', '.join(ENTRIES)}; found: {inside}; "
                "another entry is chosen by --weights NAME"
            )
        found = found[inner[0]]
    return dict(found)


def plain(state: Mapping[str, Tensor], channels: int = 3) -> tuple[dict[str, Tensor], Statistics | None]:
    """Without prefixes, unused parts and the channel statistics, which come second (None: not carried)."""
    rest, found = dict(state), {}
    left = 0
    while len(rest) != left:  # a prefix may hide statistics, and statistics beside the network a prefix
        while prefix := _prefix(rest):
            rest = {key.removeprefix(prefix): tensor for key, tensor in rest.items()}
        left = len(rest)
        for words in (MEANS, STDS):
            ours = [k for k, one in rest.items() if k.split(".")[-1] in words and one.numel() == channels]
            if ours:
                found[words] = tuple(rest[ours[0]].flatten().double().tolist())
            rest = {key: tensor for key, tensor in rest.items() if key not in ours}
        rest = {key: tensor for key, tensor in rest.items() if not UNUSED.match(key)}
    return rest, (found[MEANS], found[STDS]) if len(found) == 2 else None


def _prefix(state: Mapping[str, Tensor]) -> str:
    """The wrapper's prefix that all names share, or ""."""
    return next((one for one in PREFIXES if state and all(key.startswith(one) for key in state)), "")


def network(
    name: str, state: Mapping[str, Tensor], *, width: float, classes: int, channels: int
) -> nn.Module:
    """One of our networks without normalisation, in the form that the file's names ask for."""
    form = "preact_resnet18" if name == RAW else name
    with torch.random.fork_rng(devices=[]):
        net: Any = models.build(form, width=width, classes=classes, channels=channels, normalize=False)
    if form == "preact_resnet18":
        if "bn.weight" not in state:  # kuangliu/pytorch-cifar's form, and RobustBench's
            net.bn = None
        _set_shortcuts(net, raw=name == RAW)
    return net


def _set_shortcuts(net: nn.Module, *, raw: bool) -> None:
    for module in net.modules():
        if isinstance(module, Block):
            module.raw = raw


def fit(
    state: Mapping[str, Tensor], net: nn.Module, path: Path, name: str, fitting: Iterable[str] = ()
) -> None:
    """Load the file's weights; RequestError with the names and shapes that do not fit, and the networks they do fit."""
    renamed, problems = matched(state, net)
    if problems:
        better = ", ".join(fitting)
        hint = f"; its names and shapes fit {better}" if better else ""
        raise RequestError(f"{path}: does not fit {name}: {'; '.join(problems)}{hint}")
    net.load_state_dict(renamed, strict=False)  # only counters can be missing


def matched(state: Mapping[str, Tensor], net: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors under the network's names; what is missing, unexpected, or of another shape)."""
    ours = net.state_dict()
    renamed = {_renamed(key, ours): tensor for key, tensor in state.items()}
    missing = [
        f"{key} {tuple(one.shape)}"
        for key, one in ours.items()
        if key not in renamed and not key.endswith("num_batches_tracked")  # PyTorch before 0.4.1 had none
    ]
    surplus = [f"{key} {tuple(one.shape)}" for key, one in renamed.items() if key not in ours]
    shapes = [
        f"{key} {tuple(one.shape)} for {tuple(ours[key].shape)}"
        for key, one in renamed.items()
        if key in ours and one.shape != ours[key].shape
    ]
    groups = {"missing": missing, "unexpected": surplus, "of another shape": shapes}
    return renamed, [f"{word}: {_listed(one)}" for word, one in groups.items() if one]


def _renamed(key: str, ours: Mapping[str, Tensor]) -> str:
    options = [key, *(re.sub(pattern, name, key) for pattern, name in RENAMED)]
    return next((one for one in options if one in ours), key)


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def others(state: Mapping[str, Tensor], *, width: float, classes: int, channels: int) -> Iterable[str]:
    """`wrn34_10`, `wrn34_10 at width 0.5`: our networks that the tensors fit. Nothing is allocated."""
    for name in models.names():
        for size in dict.fromkeys((width, 1.0)):
            with (
                contextlib.suppress(Exception),
                torch.device("meta"),
            ):  # other packages' networks may not like this
                net = network(name, state, width=size, classes=classes, channels=channels)
                if not matched(state, net)[1]:
                    yield name if size == width else f"{name} at width {size:g}"


# the probe -----------------------------------------------------------------------------------------------------------


def probe(
    request: Request, net: nn.Module, statistics: Statistics | None, dataset: Dataset
) -> dict[str, float]:
    """Clean accuracy of every candidate on a few test images, the chosen one first; RequestError where it is not the one."""
    test = dataset.test
    index = first_per_class(test.labels, PROBE).to(test.labels.device)
    few = Split(test.images[index], test.labels[index])
    chosen = request.normalisation or (FROM_FILE if statistics is not None else "none")
    candidates = {chosen: statistics}
    for name in NORMALISATIONS:
        if name in ("none", "data") or len(STATISTICS[name][0]) == dataset.facts.shape[0]:
            candidates.setdefault(name, _statistics(name, None, dataset))
    seen = {f"--normalisation {name}": _accuracy(_with(one, net), few) for name, one in candidates.items()}
    forms = [RAW, "preact_resnet18"]
    if request.model in forms:
        other = forms[forms.index(request.model) - 1]
        turned = copy.deepcopy(net)
        _set_shortcuts(turned, raw=other == RAW)
        for name, one in candidates.items():
            label = f"--model {other} --normalisation {name}"
            seen[label] = _accuracy(_with(one, turned), few)
    _judge_probe(seen, len(few), len(dataset.classes), dataset.facts.label)
    return seen


@torch.no_grad()
def _accuracy(model: nn.Module, images: Split) -> float:
    model = model.to(images.labels.device)
    right = 0
    with under_attack(model, "eval"), exact_fp32():
        for first in range(0, len(images), 100):
            rows = slice(first, first + 100)
            right += int((model(to_float(images.images[rows])).argmax(1) == images.labels[rows]).sum())
    return right / len(images)


def _judge_probe(seen: Mapping[str, float], images: int, classes: int, label: str) -> None:
    """RequestError where nothing classifies, or where another candidate is far better than the first, which was chosen."""
    chosen, *_ = seen
    best = max(seen, key=lambda name: seen[name])
    found = ", ".join(f"{100 * share:.1f} % with {name}" for name, share in seen.items())
    if seen[best] < 1 / classes + SKILL * (1 - 1 / classes):
        raise RequestError(
            f"this is no classifier of {label} as it was read; clean accuracy on {images} test images: {found}; "
            "check --model, --data, the order of the classes and how its code prepares images"
        )
    if seen[best] - seen[chosen] > MARGIN:
        given = best.replace(f"--normalisation {FROM_FILE}", "no --normalisation")
        raise RequestError(
            f"{chosen} is not how this model was trained; clean accuracy on {images} test images: {found}; give {given}"
        )
