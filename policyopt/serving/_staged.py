"""`StagedModel`: a multi-exit model, or a cascade of models, stage by stage.

Hidden states are tensors, or tuples, lists and mappings of them, batch first; a tensor of one row (a position
bias) and what is no array are shared by all samples. A list of texts is one input per sample.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import FunctionType
from typing import Any, NoReturn

import numpy as np

from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Ints

Call = Callable[[Any], Any]
#: How far functions are looked into for the modules that they call, and how much of a container.
_DEPTH, _ITEMS = 6, 1000


def unchanged(hidden: Any) -> Any:
    """Return what came: the stage of a cascade, whose every model sees the original input."""
    return hidden


@dataclass(frozen=True, eq=False)
class StagedModel:
    """A model that gives an answer after each of K stages.

    Parameters
    ----------
    stages : sequence of K callables
        Stage k maps the hidden state to the next one; stage 0 takes the batch. A hidden state is a tensor, or
        a tuple, list or mapping of tensors, first axis = batch. Without `heads`, a stage returns (hidden, logits).
    heads : sequence of K callables, optional
        Head k maps the hidden state after stage k to logits (n, C), or to probabilities or a summary (a
        mapping) where cache and policy are of that kind.
    features : sequence of K callables, optional
        Feature vectors at exit k, (n, D_k), of the hidden state after stage k: for scores that read them.
    cascade : bool, default False
        Whether an exit that is skipped costs nothing, as a model of a cascade does.

    Raises
    ------
    InputError
        Other numbers of heads or features than stages, or one that cannot be called.

    Examples
    --------
    >>> import numpy as np
    >>> model = StagedModel([lambda x: x + 1, lambda x: 2 * x], [lambda h: h, lambda h: -h])
    >>> [logits.tolist() for logits in model(np.array([[1.0, 2.0]]))]
    [[[2.0, 3.0]], [[-4.0, -6.0]]]

    Notes
    -----
    Modules are run as they are: call ``eval()`` on them first.
    """

    stages: Sequence[Call]
    heads: Sequence[Call] | None = None
    features: Sequence[Call] | None = None
    cascade: bool = False

    def __post_init__(self) -> None:
        for name in ("stages", "heads", "features"):
            given: Any = getattr(self, name)
            if given is None and name != "stages":
                continue
            try:
                calls = tuple(given or ())
            except TypeError as error:
                allowed = "a sequence of callables, one per exit"
                raise input_error(name, allowed, type(given).__name__) from error
            wanted = len(calls) if name == "stages" else len(self.stages)
            if not calls or len(calls) != wanted or not all(map(callable, calls)):
                allowed = f"{wanted or 'at least one'} callables, one per exit"
                kinds = [type(call).__name__ for call in calls]
                raise input_error(name, allowed, kinds, "Exits are counted by stages.")
            object.__setattr__(self, name, calls)

    @classmethod
    def of_cascade(cls, models: Sequence[Call], features: Sequence[Call] | None = None) -> Any:
        """Return a cascade: each of K whole models maps the original input to logits.

        Examples
        --------
        >>> cheap, dear = (lambda x: x), (lambda x: 10 * x)
        >>> [len(logits) for logits in StagedModel.of_cascade([cheap, dear])([0.5, 0.7])]
        [2, 20]
        """
        models = list(models)
        return cls([unchanged] * len(models), models, features, cascade=True)

    @property
    def exits(self) -> int:
        """K."""
        return len(self.stages)

    def stage(self, k: int, hidden: Any) -> tuple[Any, Any]:
        """Run stage k: the hidden state after it, and the logits where the stage gives them itself."""
        if self.heads is not None:
            return self.stages[k](hidden), None
        found = self.stages[k](hidden)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            allowed = "a callable that returns (hidden, logits), the model having no heads"
            step = "Return the pair, or pass heads."
            raise input_error(f"stage {k}", allowed, type(found).__name__, step)
        return found[0], found[1]

    def head(self, k: int, hidden: Any, logits: Any = None) -> Any:
        """Return the logits of exit k: those that stage k gave itself, or its head's."""
        return logits if self.heads is None else self.heads[k](hidden)

    def vectors(self, k: int, hidden: Any) -> Any:
        """Return the feature vectors at exit k, (n, D_k); a model without `features` is refused."""
        if self.features is None:
            allowed = f"{self.exits} callables: the policy's score reads vectors"
            step = "Wrap the model with features=, those that its cache was exported with."
            raise input_error("features of the model", allowed, "none", step)
        return self.features[k](hidden)

    def __call__(self, batch: Any) -> list[Any]:
        """Return the logits of all exits, K times (n, C): the whole model, heads included."""
        return [mapped(output, own) for _, output in self.walk(batch)]

    def walk(self, batch: Any) -> Iterator[tuple[Any, Any]]:
        """Run exit by exit: yield each stage's hidden state and its head's output, which the next may change."""
        hidden = batch
        for k in range(self.exits):
            hidden, output = self.onward(hidden, k - 1, k)
            yield hidden, output

    def onward(self, hidden: Any, before: int, k: int) -> tuple[Any, Any]:
        """Run from exit `before` (-1: the batch) to exit k: the hidden state there, and its head's output."""
        logits = None
        for stage in range(before + 1, k + 1):
            hidden, logits = self.stage(stage, hidden)
        return hidden, self.head(k, hidden, logits)

    def last(self, batch: Any) -> Any:
        """Return the logits of the last exit, (n, C): the full model without its early exits."""
        return self.onward(batch, -1, self.exits - 1)[1]

    def compiled(self, backend: Any = "inductor", **options: Any) -> StagedModel:
        """Return the same model, every stage and head compiled for batches of any size.

        Parameters
        ----------
        backend : str or callable, default "inductor"
            As `torch.compile` takes it. Inductor needs a C++ compiler on a CPU, and Triton on a GPU.
        **options
            More of `torch.compile`, e.g. ``mode``.
        """

        def each(calls: Sequence[Call] | None, name: str) -> Any:
            if calls is None:
                return None
            return [
                call if call is unchanged else _compiled(call, f"{name}_{k}", backend, options)
                for k, call in enumerate(calls)
            ]

        return replace(self, stages=each(self.stages, "stage"), heads=each(self.heads, "head"))


def _compiled(call: Call, name: str, backend: Any, options: Mapping[str, Any]) -> Call:
    """Return one callable compiled for batches of any size; torch's logs show `name`."""
    # Dynamo keeps its compilations by code object, eight at most (``recompile_limit``), and then runs plain Python in
    # silence. All modules share the code of ``nn.Module.__call__``, so each stage gets a code object of its own.
    import torch

    known = torch.compiler.list_backends(exclude_tags=())
    if not callable(backend) and backend not in known:
        raise input_error("backend", f"one of {', '.join(known)}, or a callable", backend, "")

    def run(hidden: Any) -> Any:
        return call(hidden)

    code = run.__code__.replace(co_name=name)
    own = FunctionType(code, run.__globals__, name, None, run.__closure__)
    return torch.compile(own, backend=backend, **{"dynamic": True, **options})


class TrainingModeWarning(UserWarning):
    """A model that is exported, measured or served is in training mode."""


def warn_of_training(model: StagedModel) -> None:
    """Warn where a module, also one inside a callable, trains and is another one in training."""
    found: dict[str, list[str]] = {}
    for name in ("stages", "heads", "features"):
        for k, call in enumerate(getattr(model, name) or ()):
            for kind in sorted({type(m).__name__ for m in modules_of(call) if _random(m)}):
                found.setdefault(kind, []).append(f"{name}[{k}]")
    if found:
        held = "; ".join(f"{kind} in {', '.join(places)}" for kind, places in found.items())
        warnings.warn(
            f"The model is in training mode ({held}): its answers depend on chance or on the other "
            "samples of a batch. Call eval() on its modules first.",
            TrainingModeWarning,
            stacklevel=3,
        )


def _random(module: Any) -> bool:
    """Say whether a module of torch gives other answers because it is in training mode."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    if not module.training:
        return False
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    # Of other libraries, by their names: timm's DropPath, torchvision's StochasticDepth.
    others = ("DropPath", "StochasticDepth")
    return isinstance(module, _BatchNorm) or type(module).__name__ in others


def refuse_numpy(model: StagedModel, batch: Any, error: Exception) -> NoReturn:
    """Raise the error anew; refuse numpy arrays that a model of torch modules failed on, which others may take."""
    arrays: list[bool] = []
    mapped(batch, lambda leaf: arrays.append(isinstance(leaf, np.ndarray)))
    calls = (*model.stages, *(model.heads or ()))
    if any(arrays) and any(True for call in calls for _ in modules_of(call)):
        allowed = "of torch tensors, as the model's modules take them"
        got = f"numpy arrays ({type(error).__name__}: {error})"
        raise input_error("batch", allowed, got, "E.g. torch.from_numpy(batch).") from error
    raise error


def modules_of(call: Any) -> Iterator[Any]:
    """Yield the modules that a callable is, or holds."""
    from torch import nn

    seen: set[int] = set()

    def walk(held: Any, depth: int) -> Iterator[Any]:
        if id(held) in seen or depth > _DEPTH:
            return
        seen.add(id(held))
        if isinstance(held, nn.Module):
            for module in held.modules():
                if module is held or id(module) not in seen:
                    seen.add(id(module))
                    yield module
            return
        for inner in _held(held):
            yield from walk(inner, depth + 1)

    yield from walk(call, 0)


def _held(held: Any) -> Iterator[Any]:
    """Yield what a function, method, partial, callable object or container holds."""
    if isinstance(held, Mapping):
        yield from islice(held.values(), _ITEMS)
    elif isinstance(held, (list, tuple)):
        yield from islice(held, _ITEMS)
    elif isinstance(held, functools.partial):
        yield from (held.func, held.args, held.keywords)
    elif callable(held) and not isinstance(held, type):
        for name in ("__self__", "__wrapped__", "_torchdynamo_orig_callable"):  # the last: compiled
            yield getattr(held, name, None)
        for name in ("__defaults__", "__kwdefaults__", "__dict__"):
            yield getattr(held, name, None)
        for cell in getattr(held, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a name that has no value yet
                continue


def mapped(hidden: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with every tensor, array and list of texts changed.

    >>> mapped({"a": np.arange(3), "b": (np.arange(2), None)}, len)
    {'a': 3, 'b': (2, None)}
    """
    if hasattr(hidden, "shape") or _texts(hidden):
        return change(hidden)
    if isinstance(hidden, Mapping):  # a tokenizer's own mapping becomes a plain one
        return {key: mapped(value, change) for key, value in hidden.items()}
    if isinstance(hidden, (tuple, list)):
        parts = [mapped(value, change) for value in hidden]
        named = hasattr(hidden, "_fields")
        return type(hidden)(*parts) if named else type(hidden)(parts)
    return hidden


def size(batch: Any) -> int:
    """Return n, the samples of a batch: the largest first axis in it; one without arrays is refused."""
    shape: Any = getattr(batch, "shape", ())
    if len(shape):
        return int(shape[0])
    found: list[int] = []
    mapped(batch, lambda leaf: found.append(len(leaf)) if np.ndim(leaf) else None)
    if not found:
        allowed = "a tensor, or a tuple, list or mapping with tensors, first axis = samples"
        raise input_error("batch", allowed, type(batch).__name__, "Pass what stage 0 takes.")
    return max(found)


def take(hidden: Any, rows: Ints, of: int) -> Any:
    """Return the hidden states of some samples, at places (m,) of a batch of n; refuse other first axes.

    >>> take((np.array([5, 6, 7]), None), np.array([0, 2]), 3)
    (array([5, 7]), None)
    """
    places: dict[Any, Any] = {}  # the row numbers, once per device

    def pick(leaf: Any) -> Any:
        if _shared(leaf, of):
            return leaf
        if len(leaf) != of:
            allowed = f"of {of} rows, one per sample of the batch (or 1, shared)"
            got = f"{len(leaf)} texts" if isinstance(leaf, list) else f"shape {tuple(leaf.shape)}"
            step = "The first axis of every tensor that a stage passes on is the batch."
            raise input_error("hidden", allowed, got, step)
        if isinstance(leaf, list):
            return [leaf[row] for row in rows]
        if isinstance(leaf, np.ndarray):
            return leaf[rows]
        if leaf.device not in places:
            import torch

            places[leaf.device] = torch.from_numpy(rows).to(leaf.device)
        return _rows_of(leaf, places[leaf.device])

    return mapped(hidden, pick)


def form(hidden: Any) -> Any:
    """Return what batches must have in common that `join` takes: structure, shapes, types, what is no array."""

    def said(leaf: Any) -> Any:
        if isinstance(leaf, list):
            return list
        rows = tuple(leaf.shape[1:]) if len(leaf.shape) else leaf.tolist()
        return type(leaf), rows, leaf.dtype, getattr(leaf, "device", None)

    return mapped(hidden, said)


def join(hidden: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Return the hidden states of several batches of one form as those of one batch.

    >>> join([(np.array([5, 6]), None), (np.array([7]), None)], [2, 1])
    (array([5, 6, 7]), None)
    """
    leaves: list[list[Any]] = [[] for _ in hidden]
    for each, found in zip(hidden, leaves, strict=True):
        mapped(each, found.append)
    columns = zip(*leaves, strict=True)

    def one_after_another(_: Any) -> Any:
        column = next(columns)
        if isinstance(column[0], list):
            return [text for texts in column for text in texts]
        shared = [_shared(leaf, of) for leaf, of in zip(column, sizes, strict=True)]
        if not len(column[0].shape) or (any(shared) and all(x is column[0] for x in column)):
            return column[0]
        # What the samples of a batch share, each of these has then for itself.
        each = zip(column, shared, sizes, strict=True)
        rows = [leaf[[0] * of] if one else leaf for leaf, one, of in each]
        if isinstance(rows[0], np.ndarray):
            return np.concatenate(rows)
        import torch

        return torch.cat(rows)

    return mapped(hidden[0], one_after_another)


def part(batch: Any, low: int, high: int, of: int) -> Any:
    """Return the samples low..high-1 of a batch of n, without copying.

    >>> part((np.array([5, 6, 7]), ["a", "b", "c"]), 1, 3, 3)
    (array([6, 7]), ['b', 'c'])
    """
    return mapped(batch, lambda leaf: leaf if _shared(leaf, of) else leaf[low:high])


def own(leaf: Any) -> Any:
    """Return a tensor or array in memory of its own, which a later stage that works in place leaves alone."""
    return leaf.clone() if hasattr(leaf, "clone") else np.array(leaf)


def host(output: Any) -> Any:
    """Return an exit's output on the host, floats as float32, the width of every decision; summaries by column."""
    if isinstance(output, Mapping):
        return {name: host(column) for name, column in output.items()}
    if hasattr(output, "detach"):
        output = output.detach()
        return (output.float() if output.is_floating_point() else output).cpu().numpy()
    return np.asarray(output)


def _rows_of(tensor: Any, rows: Any) -> Any:
    """Return some rows of a tensor in its own memory format: `index_select` is fast, but loses channels-last."""
    order = [0, *sorted(range(1, tensor.ndim), key=lambda axis: -tensor.stride(axis))]
    if not (laid := tensor.permute(order)).is_contiguous():
        return tensor[rows]
    back = sorted(range(tensor.ndim), key=order.__getitem__)
    return laid.index_select(0, rows).permute(back)


def _shared(leaf: Any, of: int) -> bool:
    if isinstance(leaf, list):
        return False
    return not len(leaf.shape) or (leaf.shape[0] == 1 and of > 1)


def _texts(hidden: Any) -> bool:
    return isinstance(hidden, list) and bool(hidden) and all(isinstance(v, str) for v in hidden)
