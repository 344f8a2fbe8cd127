"""Models as staged models: chains of modules cut by names, encoders with a classifier per layer.

The layout is that of DeeBERT (Xin et al., ACL 2020, section 3.1, "off-ramps": one classifier after every layer but
the last) and PABEE (Zhou et al., NeurIPS 2020, section 3.2, internal classifiers). How encoders (BERT, ViT, ...)
embed, mask and end differs by model and release: so a model's own `forward` is run once, watched, and held to what
a staged run needs; stopped at its first layer, it embeds every batch.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any

from policyopt.runtime._checks import check_type
from policyopt.runtime._errors import input_error

from ._staged import Call, StagedModel, mapped, size, unchanged

if TYPE_CHECKING:
    from torch import Tensor, nn

#: One of these a batch must have (or the model's own `main_input_name`).
_INPUTS = ("input_ids", "inputs_embeds", "pixel_values")
_ELSE = "a StagedModel of its parts (policyopt.serving.StagedModel)."
_BATCH = "Give a batch of two samples or more, as the model takes it."


def from_sequential(
    module: nn.Sequential,
    cuts: Sequence[str],
    heads: Sequence[Call],
    features: Sequence[Call] | None = None,
) -> StagedModel:
    """Split a chain of modules by names.

    Parameters
    ----------
    module : nn.Sequential
        In evaluation mode.
    cuts : sequence of K-1 str
        Names of the children that an early exit comes after, in order; ``"block.3"`` names the child
        ``3`` of an inner `nn.Sequential`. What follows the last one is the last stage.
    heads : sequence of K-1 or K callables
        Exit k's head; of K-1, the chain itself ends in the last exit's logits.
    features : sequence of K callables, optional
        See `StagedModel`.

    Returns
    -------
    StagedModel
        Shares the modules' parameters.

    Raises
    ------
    InputError
        No such child, cuts out of order, a last stage without a module, another number of heads.

    Examples
    --------
    >>> from torch import nn  # doctest: +SKIP
    >>> chain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()  # doctest: +SKIP
    >>> from_sequential(chain, ["1"], [nn.Linear(8, 3)]).exits  # doctest: +SKIP
    2
    """
    from torch import nn

    check_type("module", module, nn.Sequential, "an nn.Sequential", "Or write a StagedModel.")
    several = isinstance(cuts, Iterable) and not isinstance(cuts, str)
    names = [name if isinstance(name, str) else "" for name in cuts] if several else []
    flat = _flat(module, "", names)
    known, parts = list(flat), list(flat.values())
    places = [known.index(name) if name in flat else -1 for name in names]
    if not names or -1 in places or places != sorted(set(places)) or places[-1] == len(known) - 1:
        allowed = f"names of children in their order, of {', '.join(known[:-1]) or 'none'}"
        step = "An exit comes after each, and one module or more follows the last."
        raise input_error("cuts", allowed, repr(cuts), step)
    heads = list(heads) if isinstance(heads, Iterable) else []
    if len(heads) not in (len(names), len(names) + 1):
        allowed = f"{len(names) + 1} callables, or {len(names)} where the chain ends in logits"
        raise input_error("heads", allowed, len(heads), "One per exit.")
    edges = [0, *(place + 1 for place in places), len(known)]
    stages = [nn.Sequential(*parts[a:b]) for a, b in pairwise(edges)]
    for stage in stages:
        # A new container says that it trains; its children stay as they are.
        stage.training = module.training
    heads = heads if len(heads) == len(stages) else [*heads, unchanged]
    return StagedModel(stages, heads, features)


def _flat(module: nn.Sequential, prefix: str, cuts: Sequence[str]) -> Mapping[str, nn.Module]:
    """Return the children in order by name; inner chains are opened where a cut lies within."""
    from torch import nn

    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        full = prefix + name
        within = any(cut.startswith(full + ".") for cut in cuts)
        if within and isinstance(child, nn.Sequential):
            found |= _flat(child, full + ".", cuts)
        else:
            found[full] = child
    return found


def from_encoder(
    model: Any,
    classifiers: Sequence[Call],
    *,
    after: Sequence[int] | None = None,
    pooler: Call | Sequence[Call] | None = None,
    example: Mapping[str, Any] | None = None,
    features: bool = False,
) -> StagedModel:
    """Wrap an encoder: layer by layer, a pooled vector and a classifier at every exit.

    Parameters
    ----------
    model : module
        The bare encoder, e.g. ``model.bert``, in evaluation mode: layers that are called one after the other
        and alike, then at most a normalisation.
    classifiers : sequence of K callables
        Each maps pooled vectors (n, D) to logits (n, C).
    after : sequence of K int, optional
        How many layers run before each exit, ascending from 1; default 1..K for K layers.
    pooler : callable or sequence of K callables, optional
        Maps states (n, L, D), normalised as the model does after its last layer, to pooled vectors, e.g.
        ``model.pooler``; default the first token's state.
    example : mapping, optional
        A batch of two samples or more, which the model is run on once; default made up from its ``config``.
    features : bool, default False
        Whether the pooled vectors are the exits' feature vectors too (see `StagedModel`).

    Returns
    -------
    StagedModel
        Takes a mapping, as tokenizers and image processors return it; labels are left aside.

    Raises
    ------
    InputError
        A model that is none of these, exits that are not there, another number of classifiers or poolers.
    """
    from torch import nn

    front, layers, norm = _watched(model, example)
    count = len(layers)
    try:
        ends = [index(k) for k in (range(1, count + 1) if after is None else after)]
    except TypeError:
        ends = []  # refused below
    if not ends or ends != sorted(set(ends)) or ends[0] < 1 or ends[-1] > count:
        raise input_error("after", f"ascending numbers of layers from 1 to {count}", after)
    heads = list(classifiers) if isinstance(classifiers, Iterable) else [classifiers]
    pool: Any = first_token if pooler is None else pooler
    poolers = [*pool] if isinstance(pool, (Sequence, nn.ModuleList)) else [pool] * len(ends)
    for name, calls in (("classifiers", heads), ("pooler", poolers)):
        if len(calls) != len(ends) or not all(map(callable, calls)):
            allowed = f"{len(ends)} callables, one per exit"
            got = ", ".join(type(call).__name__ for call in calls) or "none"
            raise input_error(name, allowed, got, "See `after`.")
    stages = [_stage(layers[a:b], unchanged if a else front) for a, b in pairwise([0, *ends])]
    pooled = [_pooled(pool, norm) for pool in poolers]
    exits = [_chained(*pair) for pair in zip(pooled, heads, strict=True)]
    return StagedModel(stages, exits, pooled if features else None)


def first_token(states: Tensor) -> Tensor:
    """Return the first token's state, (n, D), of states (n, L, D)."""
    return states[:, 0]


def _stage(layers: Sequence[Call], front: Call) -> Call:
    """Return a stage that runs some layers; the first one embeds the batch before."""

    def run(hidden: Any) -> dict[str, Any]:
        call = front(hidden)
        states = call["states"]
        for layer in layers:
            states = _states(layer(states, *call["args"], **call["kwargs"]))
        return {**call, "states": states}

    return run


def _pooled(pool: Call, norm: Call) -> Call:
    return lambda hidden: pool(norm(hidden["states"]))


def _chained(pool: Call, head: Call) -> Call:
    return lambda hidden: head(pool(hidden))


class _Reached(Exception):
    """The first layer was called; the argument is what with."""


def _watched(model: Any, example: Mapping[str, Any] | None) -> tuple[Call, list[Call], Call]:
    """Run a model once: its front, its layers in order, the norm after; refuse what layer by layer would not repeat."""
    import torch
    from torch import nn

    kind = type(model).__name__
    lists: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
        inner = any(path.startswith(outer + ".") for outer in lists)
        if isinstance(module, nn.ModuleList) and path and len(module) and not inner:
            lists[path] = module
    if not lists:
        raise input_error("model", "an encoder with a list of layers", kind, f"Write {_ELSE}")
    path = max(lists, key=lambda name: len(lists[name]))
    front = _front(model, path)
    given = _made_up(model) if example is None else example
    if size(given) < 2:
        allowed, step = "a batch of two samples or more", "Give two rows of yours."
        raise input_error("example", allowed, size(given), step)
    calls: list[tuple[Any, dict[str, Any], Any]] = []

    def note(layer: Any, args: Any, kwargs: Any, found: Any) -> None:
        calls.append((layer, _call(args, kwargs), _states(found)))

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in {*lists[path]}]
    wanted = _taken(model, given)
    try:
        with torch.no_grad():
            found = model(**wanted)
    except Exception as error:  # whatever it is: the batch does not suit the model
        allowed, got = f"a batch that {kind} runs on", f"{type(error).__name__}: {error}"
        raise input_error("example", allowed, got, _BATCH) from error
    finally:
        for hook in hooks:
            hook.remove()
    last = getattr(found, "last_hidden_state", None)
    last = _states(found) if last is None else last
    fits, why = [], "runs other layers"
    with torch.no_grad():
        if calls:
            why = _unlike(calls, front(given), size(given), model.training)
        if not why:
            fits = [n for n in (unchanged, *_norms(model, path)) if _leads(n, calls[-1][2], last)]
            why = "" if fits else "does more than one normalisation after its layers"
    if why:
        allowed = (
            "an encoder whose layers run one after the other, all called alike, "
            "and at most a normalisation after them"
        )
        step = f"If it has a head, pass the bare encoder, e.g. model.bert; if not: write {_ELSE}"
        raise input_error("model", allowed, f"{kind}, which {why}", step)
    return front, [layer for layer, _, _ in calls], fits[0]


def _unlike(calls: Sequence[Any], here: Mapping[str, Any], n: int, training: bool) -> str:
    """Say why running the layers one after the other, all as the first, is not what the model did."""
    rest = {name: calls[0][1][name] for name in ("args", "kwargs")}
    strange: list[str] = []

    def regroups(leaf: Any) -> None:
        shape = tuple(getattr(leaf, "shape", (len(leaf),)))
        if shape and shape[0] not in (1, n):
            rows = f"a tensor of shape {shape}: its rows are not the samples"
            strange.append(f"gives its layers {rows}")

    mapped(rest, regroups)
    strange += [f"gives its layers a {held}, which may hold rows" for held in _objects(rest)]
    for before, after in pairwise(calls):
        if not _same(before[2], after[1]["states"]):
            strange.append("does more between its layers than to pass their states on")
        if not _same(rest, {name: after[1][name] for name in rest}):
            strange.append("calls its layers each in its own way")
    if not training and not _same(here, calls[0][1]):  # dropout gives other states each time
        strange.append("gives its first layer other states when it is run again")
    return strange[0] if strange else ""


def _front(model: nn.Module, path: str) -> Call:
    """Return a function of a batch: what the model calls its first layer with."""
    import torch
    from torch import nn

    *outer, name = path.split(".")

    def reached(*args: Any, **kwargs: Any) -> None:
        raise _Reached(_call(args, kwargs))

    def stop(layer: Any) -> Any:
        stopped = _copied(layer)  # whatever the model asks of a layer before it calls it is there
        stopped.forward = reached
        return stopped

    @torch.compiler.disable  # little work, and one exception: nothing to compile
    def front(batch: Any) -> dict[str, Any]:
        # Copied per call, parameters shared: the model stays as it is, and its mode is the present one.
        top = here = _copied(model)
        for part in outer:
            here._modules[part] = _copied(here._modules[part])
            here = here._modules[part]
        here._modules[name] = nn.ModuleList(map(stop, here._modules[name]))
        try:
            top(**_taken(model, batch))
        except _Reached as found:
            return found.args[0]
        allowed = "an encoder that calls its layers through its own `forward`"
        step = "Pass it as it was before torch.compile or device hooks wrapped it."
        raise input_error("model", allowed, type(model).__name__, step)

    return front


def _copied(module: Any) -> Any:
    """Return a module that shares parameters and children; its list of children is its own."""
    other = copy.copy(module)
    other.__dict__["_modules"] = dict(module._modules)
    return other


def _taken(model: Any, batch: Any) -> dict[str, Any]:
    """Return what of a batch the model's `forward` takes; refuse what no tokenizer returns."""
    given = dict(batch) if isinstance(batch, Mapping) else {}  # they have mappings of their own
    names = dict.fromkeys((*_INPUTS, getattr(model, "main_input_name", "input_ids")))
    if not any(name in given for name in names):
        keys = f"keys {', '.join(map(str, given)) or 'none'}"
        got = keys if isinstance(batch, Mapping) else type(batch).__name__
        step = "Pass what the tokenizer returns with return_tensors='pt'."
        raise input_error("batch", f"a mapping with one of {', '.join(names)}", got, step)
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in given.items() if name in known}


def _made_up(model: Any) -> dict[str, Any]:
    """Return three samples of a size that the model's config states; one of them is padded."""
    import torch

    config, weight = getattr(model, "config", None), next(model.parameters(), None)
    words, sides = getattr(config, "vocab_size", None), getattr(config, "image_size", None)
    main = getattr(model, "main_input_name", None)
    if main == "input_ids" and words and weight is not None:
        ids = torch.arange(15, device=weight.device).reshape(3, 5) % words
        mask = torch.ones_like(ids)
        mask[1, 3:] = 0
        return {"input_ids": ids, "attention_mask": mask}
    if main == "pixel_values" and sides and weight is not None:
        high, wide = sides if isinstance(sides, (tuple, list)) else (sides, sides)
        shape = (3, getattr(config, "num_channels", 3), high, wide)
        steps = torch.linspace(-1, 1, 3 * shape[1] * high * wide, device=weight.device)
        return {"pixel_values": steps.reshape(shape).to(weight.dtype)}
    allowed = "given where the model's config tells no size of its input"
    raise input_error("example", allowed, "none", _BATCH)


def _norms(model: Any, path: str) -> list[Any]:
    """Return the normalisations beside the list of layers, and beside what holds it."""
    parts = path.split(".")
    holders = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    return [m for holder in holders for m in holder.children() if "Norm" in type(m).__name__]


def _leads(norm: Call, states: Any, last: Any) -> bool:
    """Say whether these states, normalised, are the model's last ones."""
    try:
        return _same(norm(states), last)
    except (RuntimeError, TypeError, ValueError):  # a norm of another width, or of other arguments
        return False


def _call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer's call as a hidden state: its states, and all else that it was given."""
    rest = dict(kwargs)
    states = args[0] if args else rest.pop("hidden_states")
    return {"states": states, "args": args[1:], "kwargs": rest}


def _states(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found


def _same(one: Any, other: Any) -> bool:
    """Say whether two structures hold equal tensors (to rounding) and equal else."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.allclose(one, other, equal_nan=True)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(v, other[k]) for k, v in one.items())
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (type(one) is type(other) and bool(one == other))


def _objects(held: Any) -> list[str]:
    """Return the kinds of what is neither tensor, number, text nor a container of them."""
    if isinstance(held, Mapping):
        held = tuple(held.values())
    if isinstance(held, (tuple, list)):
        return [name for inner in held for name in _objects(inner)]
    plain = held is None or hasattr(held, "shape") or isinstance(held, (bool, int, float, str))
    return [] if plain else [type(held).__name__]
