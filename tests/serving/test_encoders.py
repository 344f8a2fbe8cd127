"""Encoders of transformers, built small from their configs: staged, they are the models themselves."""

from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import numpy as np
import pytest

import policyopt as po
from policyopt.runtime import InputError, Policy
from policyopt.runtime._scores import Margin

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch import nn  # noqa: E402

from policyopt.serving import (  # noqa: E402
    StagedModel,
    TrainingModeWarning,
    export_cache,
    from_encoder,
    measure,
    serve,
)

C, WIDTH, LAYERS = 5, 16, 3
WORDS = dict(
    vocab_size=40, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2,
    intermediate_size=24, max_position_embeddings=32,
)  # fmt: skip
IMAGES = dict(
    hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=24,
    image_size=16, patch_size=4,
)  # fmt: skip
DISTIL = dict(vocab_size=40, dim=WIDTH, n_layers=LAYERS, n_heads=2, hidden_dim=24)
#: Prefix of the classes, settings of the config: masks, projections, shared layers and norms of all sorts.
FAMILIES = {
    "Bert": WORDS, "Roberta": WORDS, "DistilBert": DISTIL, "Electra": WORDS | {"embedding_size": 8},
    "Albert": WORDS | {"embedding_size": 8}, "ViT": IMAGES, "DeiT": IMAGES, "Dinov2": IMAGES,
    "Beit": IMAGES, "CLIPVision": IMAGES, "XLMRobertaXL": WORDS,
}  # fmt: skip


def built(family, attention="sdpa", task="Model", **more):
    config = getattr(transformers, f"{family}Config")(
        **{**FAMILIES.get(family, WORDS), "attn_implementation": attention, **more}
    )
    torch.manual_seed(0)
    model = getattr(transformers, family + task)(config).eval()
    with torch.no_grad():  # norms that do something, and states that differ between samples
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def cut(batch, *rows):
    return {name: value[slice(*rows)] for name, value in batch.items()}


def batch_for(model, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(n, 3, 16, 16, generator=g)}
    lengths = torch.randint(2, 8, (n, 1), generator=g)
    return UserDict(
        input_ids=torch.randint(4, 40, (n, 7), generator=g),
        attention_mask=(torch.arange(7) < lengths).long(),
        labels=torch.arange(n) % C,  # the bare model does not read them
    )


def taken(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def heads(count=LAYERS):
    torch.manual_seed(1)
    return [nn.Linear(WIDTH, C) for _ in range(count)]


def margin(thresholds=(0.5, 0.5)):
    return Policy(Margin(), thresholds, [1.0, 2.0, 3.0], "ms", "logits", C)


@pytest.mark.parametrize(
    ("family", "attention"), [*((f, "sdpa") for f in FAMILIES), ("Bert", "eager"), ("ViT", "eager")]
)
def test_staged_it_is_the_model(family, attention):
    model, classifiers = built(family, attention), heads()
    modes = [m.training for m in model.modules()]
    staged, batch = from_encoder(model, classifiers), batch_for(model, 60)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())
    depth = ("n" if family == "DistilBert" else "num_hidden") + "_layers"
    with torch.inference_mode():
        logits = staged(batch)
        assert torch.equal(staged.last(batch), logits[-1])
        for k in range(LAYERS):  # an exit is the model that has so many layers
            short = built(family, attention, **{depth: k + 1})
            short.load_state_dict(model.state_dict(), strict=False)
            first = short(**taken(batch)).last_hidden_state[:, 0]
            assert torch.equal(logits[k], classifiers[k](first))
        if "attention_mask" in batch:  # what stands behind the mask changes nothing
            hidden = batch["attention_mask"] == 0
            other = torch.where(hidden, 3, batch["input_ids"])
            torch.testing.assert_close(staged({**batch, "input_ids": other})[-1], logits[-1])
            seen = staged({**batch, "attention_mask": torch.ones_like(hidden)})[-1]
            assert not torch.allclose(seen, logits[-1])
    rows = np.stack(list(logits), axis=1)
    scores = margin().trace(rows).scores[:, :-1]
    policy = margin(np.median(scores, axis=0))
    decided, servers = policy.decide(rows), [serve(staged, policy)]
    if attention == "eager":
        servers.append(serve(staged, policy, compile=True, backend="eager"))
    clear = (np.abs(scores - policy.thresholds) > 1e-5).all(axis=1)
    assert clear.sum() > 40 and len(np.unique(decided.exit)) == 3
    for server, (a, b) in product(servers, pairwise([0, 1, 60])):
        found = server(cut(batch, a, b)).exit
        np.testing.assert_array_equal(found[clear[a:b]], decided.exit[a:b][clear[a:b]])


def test_exits_poolers_and_features():
    model, classifiers = built("Bert"), heads(2)
    staged = from_encoder(model, classifiers, after=[1, 3], pooler=model.pooler, features=True)
    batch = batch_for(model, 9)
    with torch.inference_mode():
        whole = model(**taken(batch), output_hidden_states=True)
        hidden, _ = staged.stage(0, batch)
        torch.testing.assert_close(staged.vectors(0, hidden), model.pooler(whole.hidden_states[1]))
        torch.testing.assert_close(staged(batch)[1], classifiers[1](whole.pooler_output))
    costs = measure(staged, cut(batch, 2), runs=2, warmup=0).costs
    assert costs[0].values[1] > 2 * costs[0].values[0]  # three layers and one
    for wrong in ([4], [0, 1], [2, 1], ["1", "2"], [0.5, 1.5], "12"):
        with pytest.raises(InputError, match="'after' must be ascending numbers of layers from 1"):
            from_encoder(model, classifiers, after=wrong)
    two = nn.ModuleList([model.pooler] * 2)
    for wrong, more in ((classifiers, {}), (classifiers[0], {}), (heads(), {"pooler": two})):
        name = next(iter(more), "classifiers")
        with pytest.raises(InputError, match=f"'{name}' must be 3 callables"):
            from_encoder(model, wrong, **more)
    assert len(from_encoder(model, classifiers, after=[1, 2], pooler=two)(batch)) == 2


@pytest.mark.parametrize(
    "model, why",
    [
        (lambda: nn.Linear(1, 1), "with a list of layers"),
        (lambda: nn.Sequential(nn.Linear(1, 1)), "with a list of layers"),
        (lambda: "bert", "with a list of layers"),
        (lambda: built("Bert", task="ForSequenceClassification"), "pass the bare encoder"),
        (lambda: built("GPT2", n_embd=16, n_layer=2, n_head=2), "a DynamicCache"),
        (lambda: built("T5", task="EncoderModel", d_model=16, num_layers=2, num_heads=2, d_ff=24), "in its own way"),
        (lambda: built("ModernBert", pad_token_id=0, cls_token_id=1, sep_token_id=1), "in its own way"),
        (lambda: built("DINOv3ViT", **IMAGES), "rows are not the samples"),
        (lambda: built("Longformer", "eager", attention_window=4), "after its layers"),
        (lambda: built("ViTMAE", **IMAGES | {"image_size": 32}), "other states when it is run again"),
    ],
)  # fmt: skip
def test_what_a_staged_run_would_not_repeat_is_refused(model, why):
    with pytest.raises(InputError, match=rf"(?s)'model' must be .*{why}") as refused:
        from_encoder(model(), heads())
    assert "StagedModel" in str(refused.value)


class Own(nn.Module):
    def __init__(self, between=False):
        super().__init__()
        self.words = nn.Embedding(40, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 24, 0.0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.final_norm, self.between = nn.LayerNorm(WIDTH), between

    def forward(self, input_ids, attention_mask=None):
        states = self.words(input_ids)
        for block in self.blocks:
            states = block(states, src_key_padding_mask=attention_mask == 0)
            states = 2 * states if self.between else states
        return (self.final_norm(states),)


def test_an_encoder_of_ones_own_is_shown_a_batch():
    torch.manual_seed(0)
    model, batch, classifiers = Own().eval(), batch_for(built("Bert"), 30), heads()
    torch.nn.init.normal_(model.final_norm.weight)
    for words, example in (
        ("given where the model's config", None), ("a batch of two samples or more", cut(batch, 1)),
        (r"a batch that Own runs on\. Got IndexError", {"input_ids": torch.full((2, 3), 99)}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"'example' must be {words}"):
            from_encoder(model, classifiers, example=example)
    staged = from_encoder(model, classifiers, example=cut(batch, 4))
    with torch.inference_mode():
        last = classifiers[-1](model(**taken(batch))[0][:, 0])
        torch.testing.assert_close(staged(batch)[-1], last)
    with pytest.raises(InputError, match="does more between its layers"):
        from_encoder(Own(between=True).eval(), classifiers, example=batch)


def test_training_mode_is_told_and_looked_up_when_served():
    model = built("Bert", hidden_dropout_prob=0.5).train()
    staged, words = from_encoder(model, heads()), r"in stages\[0\], stages\[1\], stages\[2\]"
    with pytest.warns(TrainingModeWarning, match=words):
        serve(staged, margin())
    model.eval()
    server, batch = serve(staged, margin()), batch_for(model, 30)
    np.testing.assert_array_equal(server(batch).confidence, server(batch).confidence)


def test_served_from_many_threads():
    """The model is stopped at its first layer in each; none stops another's."""
    model = built("Bert")
    staged, batches = from_encoder(model, heads()), [batch_for(model, 8, seed) for seed in range(6)]

    @torch.inference_mode()
    def ask(batch):
        return [staged(batch)[-1] for _ in range(10)]

    with ThreadPoolExecutor(6) as pool:
        for batch, found in zip(batches, pool.map(ask, batches), strict=True):
            torch.testing.assert_close(found, ask(batch), atol=1e-5, rtol=0)


def test_what_no_tokenizer_returns_is_refused():
    staged = from_encoder(built("Bert"), heads())
    for batch, got in (
        (torch.zeros(3, 6, dtype=torch.long), "Got Tensor"), (["a", "b"], "Got list"),
        ({"attention_mask": torch.ones(3, 6)}, "Got keys attention_mask"),
    ):  # fmt: skip
        words = rf"'batch' must be a mapping with one of input_ids.*{got}\..*tokenizer"
        for more in ({}, {"compile": True, "backend": "eager"}):
            with pytest.raises(InputError, match=words):
                serve(staged, margin(), **more)(batch)


@pytest.mark.parametrize("key", ["labels", "label"])
def test_loaders_of_mappings_with_labels(key, tmp_path):
    """As Hugging Face's collators make them; the model does not see the labels."""
    model = built("DistilBert")
    whole, staged = batch_for(model, 60), from_encoder(model, heads())
    seen, (first, *rest) = [], staged.stages
    model = StagedModel([lambda b: seen.append(set(b)) or first(b), *rest], staged.heads)
    given = {**taken(whole), key: whole["labels"]}
    loader = [cut(given, a, a + 20) for a in (0, 20, 40)]
    costs = po.Cost("c", "ms", [1, 2, 3])
    assert export_cache(model, {"fit": loader}, tmp_path / "a", costs=costs) == {"fit": 60}
    assert seen == [{"input_ids", "attention_mask"}] * 3
    stored = po.open_cache(tmp_path / "a").splits["fit"]
    np.testing.assert_array_equal(stored.array("labels"), whole["labels"].numpy())
    with torch.inference_mode():
        last = staged(whole)[2].numpy()
    np.testing.assert_allclose(stored.array("outputs")[:, 2], last, rtol=1e-4, atol=1e-5)
    del loader[1][key]
    with pytest.raises(InputError, match="'batch 1 of 'fit'' must be a mapping with one key of l"):
        export_cache(model, {"fit": loader}, tmp_path / "b", costs=costs)
