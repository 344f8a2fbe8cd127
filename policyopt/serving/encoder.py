"""Encoders with a classifier per layer as staged models, by the interface of Hugging Face's BERT.

The layout is that of DeeBERT (Xin et al., ACL 2020, section 3.1, "off-ramps": one classifier after
every layer but the last) and PABEE (Zhou et al., NeurIPS 2020, section 3.2, internal classifiers),
for the modules ``embeddings``, ``encoder.layer`` and ``pooler`` that BERT-like models (and ViT) of
`transformers` have, or ``transformer.layer`` as in DistilBERT. `transformers` itself is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from policyopt.runtime.errors import bad

from .staged import StagedModel

if TYPE_CHECKING:
    from torch import Tensor

Call = Callable[..., Any]
#: What the embeddings are given of a batch, where it is there; one of _INPUTS must be.
_INPUTS = ("input_ids", "inputs_embeds", "pixel_values")
_EMBEDDED = (*_INPUTS, "token_type_ids", "position_ids")


def from_encoder(
    model: Any,
    classifiers: Sequence[Call],
    *,
    after: Sequence[int] | None = None,
    pooler: Call | Sequence[Call] | None = None,
    mask: Callable[[Tensor, Tensor], Any] | None = None,
    features: bool = False,
) -> StagedModel:
    """Wrap an encoder: layer by layer, a pooled vector and a classifier at every exit.

    Parameters
    ----------
    model : module
        With ``embeddings`` (called with those of input_ids, inputs_embeds, pixel_values, token_type_ids
        and position_ids that the batch has) and ``encoder.layer`` (or ``transformer.layer``), a list of
        layers that are called as ``layer(states, mask)``, of images as ``layer(states)``, and return the
        states, (n, L, D), alone or first in a tuple. In evaluation mode.
    classifiers : sequence of K callables
        Each maps pooled vectors (n, D) to logits (n, C).
    after : sequence of K int, optional
        How many layers run before each exit, ascending from 1; default 1..K for K layers.
    pooler : callable or sequence of K callables, optional
        Maps states to pooled vectors, e.g. ``model.pooler``; default the first token's state. A model
        that normalises after its layers (ViT) does so here:
        ``lambda states: model.layernorm(states)[:, 0]``.
    mask : callable, optional
        Makes what the layers take from the batch's attention_mask (n, L) and the states; default the
        additive mask (n, 1, 1, L): 0 where there is a token, the dtype's lowest number elsewhere.
        ``lambda mask, states: mask`` passes it on as it is. A model with ``transformer.layer`` has no
        default: DistilBERT's own attention takes the mask as it is, others `additive_mask`.
    features : bool, default False
        Whether the pooled vectors are the exits' feature vectors (see `StagedModel`); they are then
        pooled a second time where a policy or an export asks for them.

    Returns
    -------
    StagedModel
        Takes a mapping, as tokenizers return it: input_ids, attention_mask, token_type_ids, ...

    Raises
    ------
    InputError
        Parts that are missing, exits that are not there, another number of classifiers or poolers.
    """
    outer = "encoder" if hasattr(getattr(model, "encoder", None), "layer") else "transformer"
    layers = list(getattr(getattr(model, outer, None), "layer", ()))
    if not layers or not callable(getattr(model, "embeddings", None)):
        raise bad(
            "model", "an encoder with `embeddings` and a list `encoder.layer` or `transformer.layer`",
            type(model).__name__,
            "Pass the bare encoder, e.g. model.bert, or write a StagedModel of its parts.",
        )  # fmt: skip
    try:
        ends = [index(k) for k in (range(1, len(layers) + 1) if after is None else after)]
    except TypeError:
        ends = []  # refused below
    if not ends or ends != sorted(set(ends)) or ends[0] < 1 or ends[-1] > len(layers):
        raise bad("after", f"ascending numbers of layers from 1 to {len(layers)}", after, "")
    heads = list(classifiers)
    poolers = [pooler or first_token] * len(ends) if not isinstance(pooler, Sequence) else pooler
    for name, calls in (("classifiers", heads), ("pooler", poolers)):
        if len(calls) != len(ends):
            raise bad(name, f"{len(ends)} callables, one per exit", len(calls), "See `after`.")
    prepare = mask or (additive_mask if outer == "encoder" else _no_mask)
    starts = [0, *ends[:-1]]
    stages = [
        _stage(layers[a:b], model.embeddings if a == 0 else None, prepare)
        for a, b in zip(starts, ends, strict=True)
    ]
    pooled = [_after_states(pool) for pool in poolers]
    exits = [_chained(pool, head) for pool, head in zip(pooled, heads, strict=True)]
    return StagedModel(stages, exits, pooled if features else None)


def first_token(states: Tensor) -> Tensor:
    """Return the first token's state, (n, D), of states (n, L, D)."""
    return states[:, 0]


def additive_mask(mask: Tensor, states: Tensor) -> Tensor:
    """Return the mask that is added to attention scores, (n, 1, 1, L)."""
    import torch

    absent = 1.0 - mask[:, None, None, :].to(states.dtype)
    return absent * torch.finfo(states.dtype).min


def _no_mask(mask: Tensor, states: Tensor) -> Any:
    raise bad(
        "mask", "given to from_encoder: what layers of `transformer.layer` take is not one thing",
        "a batch with an attention_mask",
        "For DistilBERT's own attention mask=lambda mask, states: mask; for scaled-dot-product attention "
        "policyopt.serving.encoder.additive_mask.",
    )  # fmt: skip


def _batch(hidden: Any) -> dict[str, Any]:
    """Return a tokenizer's or an image processor's mapping as a dict; refuse what is none."""
    given = dict(hidden) if isinstance(hidden, Mapping) else {}  # they have mappings of their own
    if not any(name in given for name in _INPUTS):
        got = f"keys {', '.join(map(str, given)) or 'none'}"
        raise bad(
            "batch", f"a mapping with one of {', '.join(_INPUTS)}",
            got if isinstance(hidden, Mapping) else type(hidden).__name__,
            "Pass what the tokenizer returns with return_tensors='pt'.",
        )  # fmt: skip
    return given


def _stage(layers: Sequence[Call], embeddings: Call | None, prepare: Call) -> Call:
    """Return a stage that runs some layers; the first one embeds the batch before."""

    def run(hidden: Mapping[str, Any]) -> dict[str, Any]:
        if embeddings is None:
            states, mask, image = hidden["states"], hidden["mask"], hidden["image"]
        else:
            hidden = _batch(hidden)
            states = embeddings(**{k: hidden[k] for k in _EMBEDDED if k in hidden})
            given = hidden.get("attention_mask")
            mask = None if given is None else prepare(given, states)
            image = "pixel_values" in hidden
        for layer in layers:
            # Layers of image models have other second arguments, or none.
            found = layer(states) if image else layer(states, mask)
            states = found[0] if isinstance(found, tuple) else found
        return {"states": states, "mask": mask, "image": image}

    return run


def _after_states(pool: Call) -> Call:
    def run(hidden: Mapping[str, Any]) -> Any:
        return pool(hidden["states"])

    return run


def _chained(pool: Call, head: Call) -> Call:
    def run(hidden: Mapping[str, Any]) -> Any:
        return head(pool(hidden))

    return run
