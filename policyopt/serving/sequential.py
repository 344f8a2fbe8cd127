"""An `nn.Sequential` as a staged model: cut after the children that are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from policyopt.runtime.errors import input_error

from .staged import StagedModel, unchanged

if TYPE_CHECKING:
    from torch import nn


def from_sequential(
    module: nn.Sequential,
    cuts: Sequence[str],
    heads: Sequence[Callable[[Any], Any]],
    features: Sequence[Callable[[Any], Any]] | None = None,
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

    several = isinstance(cuts, Iterable) and not isinstance(cuts, str)
    names = [name if isinstance(name, str) else "" for name in cuts] if several else []
    if not isinstance(module, nn.Sequential):
        raise input_error(
            "module", "an nn.Sequential", type(module).__name__, "Or write a StagedModel."
        )
    flat = _flat(module, "", names)
    known = list(flat)
    places = [known.index(name) if name in flat else -1 for name in names]
    if not names or -1 in places or places != sorted(set(places)) or places[-1] == len(known) - 1:
        raise input_error(
            "cuts", f"names of children in their order, of {', '.join(known[:-1]) or 'none'}", repr(cuts),
            "An exit comes after each, and one module or more follows the last.",
        )  # fmt: skip
    heads = list(heads) if isinstance(heads, Iterable) else []
    if len(heads) not in (len(names), len(names) + 1):
        allowed = f"{len(names) + 1} callables, or {len(names)} where the chain ends in logits"
        raise input_error("heads", allowed, len(heads), "One per exit.")
    edges = [0, *(place + 1 for place in places), len(known)]
    parts = list(flat.values())
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
