"""`StagedModel`: a multi-exit model, or a cascade of models, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from policyopt.runtime.errors import input_error

Call = Callable[[Any], Any]


def unchanged(hidden: Any) -> Any:
    """Return what came: the stage of a cascade, whose every model sees the original input."""
    return hidden


@dataclass(frozen=True, eq=False)
class StagedModel:
    """A model that gives an answer after each of K stages.

    Parameters
    ----------
    stages : sequence of K callables
        Stage k maps the hidden state to the next one; stage 0 takes the batch. A hidden state is a
        tensor, or a tuple, list or mapping of tensors, whose first axis is the batch. Without
        `heads`, a stage returns the pair (hidden, logits).
    heads : sequence of K callables, optional
        Head k maps the hidden state after stage k to logits of shape (n, C) (to probabilities or to
        a record, a mapping, where the cache and the policy are of that kind).
    features : sequence of K callables, optional
        Feature vectors at exit k, (n, D_k), of the hidden state after stage k: for policies whose
        score reads them.
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
    Modules are run as they are: call ``eval()`` on them first, since dropout would make every answer
    another one.
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
                raise input_error(name, allowed, type(given).__name__, "") from error
            wanted = len(calls) if name == "stages" else len(self.stages)
            if not calls or len(calls) != wanted or not all(map(callable, calls)):
                raise input_error(
                    name, f"{wanted or 'at least one'} callables, one per exit",
                    [type(call).__name__ for call in calls], "Exits are counted by stages.",
                )  # fmt: skip
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
        """Run stage k: the hidden state after it, and the logits where the stage gives them itself.

        Raises
        ------
        InputError
            The model has no heads and the stage returned no pair.
        """
        if self.heads is not None:
            return self.stages[k](hidden), None
        found = self.stages[k](hidden)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise input_error(
                f"stage {k}", "a callable that returns (hidden, logits), the model having no heads",
                type(found).__name__, "Return the pair, or pass heads.",
            )  # fmt: skip
        return found[0], found[1]

    def head(self, k: int, hidden: Any, logits: Any = None) -> Any:
        """Return the logits of exit k: those that stage k gave itself, or its head's."""
        return logits if self.heads is None else self.heads[k](hidden)

    def vectors(self, k: int, hidden: Any) -> Any:
        """Return the feature vectors at exit k, (n, D_k).

        Raises
        ------
        InputError
            The model was wrapped without `features`.
        """
        if self.features is None:
            raise input_error(
                "features of the model", f"{self.exits} callables: the policy's score reads vectors",
                "none", "Wrap the model with features=, those that its cache was exported with.",
            )  # fmt: skip
        return self.features[k](hidden)

    def __call__(self, batch: Any) -> list[Any]:
        """Return the logits of all exits, K times (n, C): the whole model, heads included."""
        found, hidden = [], batch
        for k in range(self.exits):
            hidden, logits = self.stage(k, hidden)
            found.append(self.head(k, hidden, logits))
        return found

    def last(self, batch: Any) -> Any:
        """Return the logits of the last exit, (n, C): the full model without its early exits."""
        hidden, logits = batch, None
        for k in range(self.exits):
            hidden, logits = self.stage(k, hidden)
        return self.head(self.exits - 1, hidden, logits)

    def compiled(self, backend: Any = "inductor", **options: Any) -> StagedModel:
        """Return the same model, every stage and head compiled for batches of any size.

        Parameters
        ----------
        backend : str or callable, default "inductor"
            As `torch.compile` takes it. Inductor needs a C++ compiler on a CPU, and Triton on a GPU.
        **options
            More of `torch.compile`, e.g. ``mode``.

        Returns
        -------
        StagedModel
        """
        from .compiling import compiled

        def each(calls: Sequence[Call] | None, name: str) -> Any:
            if calls is None:
                return None
            return [
                call if call is unchanged else compiled(call, f"{name}_{k}", backend, options)
                for k, call in enumerate(calls)
            ]

        return replace(self, stages=each(self.stages, "stage"), heads=each(self.heads, "head"))
