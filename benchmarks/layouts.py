"""What `policyopt import` makes of the layouts that people have: read, or refused with a next step that is right.

python benchmarks/layouts.py

writes docs/layouts.md; a test runs it too and fails when the page is stale. Each layout is a file (or several) of one
model's outputs in some form and container. Where it is read, every row must be right or wrong at every exit as it truly
is, exits in order; where it is refused, the command that the message names, or the array that it asks for, must lead
there.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

PAGE = Path(__file__).resolve().parent.parent / "docs" / "layouts.md"
N, K, C = 60, 3, 4
#: Code, standard output and standard error of a command line.
Run = Callable[..., tuple[int, str, str]]
Write = Callable[[Path], Any]


def made() -> dict[str, Any]:
    """Return logits (K, N, C) of exits that grow better, and all that follows from them."""
    rng = np.random.default_rng(3)
    y = np.r_[np.arange(C), rng.integers(0, C, N - C)]
    logits = rng.normal(size=(K, N, C)) + np.array([1.0, 1.8, 2.6])[:, None, None] * np.eye(C)[y]
    logits = logits.astype("f4").round(3)
    mass = np.exp(logits - logits.max(2, keepdims=True))
    probs = mass / mass.sum(2, keepdims=True)
    b = rng.integers(0, 2, N)
    z = (rng.normal(size=(K, N)) + np.array([[0.5], [1], [2]]) * (2 * b - 1)).round(3)
    r = rng.normal(3, 1, N).round(3)
    guess = (r + rng.normal(size=(K, N)) * [[1], [0.5], [0.2]]).round(3)
    return {
        "y": y, "L": logits, "P": probs, "conf": probs.max(2), "pred": logits.argmax(2), "b": b, "z": z, "r": r,
        "guess": guess, "right": (logits.argmax(2) == y).T, "right_b": ((z >= 0) == b).T,
        "close": np.exp(-np.abs(guess - r)).T,
    }  # fmt: skip


M = made()
Y, L, P, CONF, PRED = M["y"], M["L"], M["P"], M["conf"], M["pred"]
WORDS = np.array(["cat", "dog", "eel", "fox"])
LETTERS = np.array(list("ABCD"))
CITIES = np.array([f"city {i}" for i in range(N)])  # an answer of its own for each question
SAID = np.where(M["right"].T, CITIES, "I do not know")
NAMES = ("small", "medium", "large")


@dataclass(frozen=True)
class Layout:
    """One layout in one container; `then`: what the refusal says to do, options or another writing of the file."""

    what: str
    container: str
    write: Write
    words: str = ""  # options besides
    names: tuple[str, ...] = ()  # of exits, which must be kept
    refused: str = ""  # what the message must say
    then: str | Write = ""
    right: Any = None  # (N, K), the worth of every answer
    query: int = 0  # numbers that are known of a row before any model is asked


def npz(**arrays: Any) -> Write:
    return lambda at: np.savez(at / "a.npz", **arrays)


def pt(content: Any) -> Write:
    return lambda at: torch.save(content, at / "a.pt")


def tensors(**arrays: Any) -> Write:
    kept = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    return lambda at: save_file(kept, at / "a.safetensors")


def csv(frame: pd.DataFrame, name: str = "a.csv", sep: str = ",", mark: bool = False) -> Write:
    how = "utf-8-sig" if mark else "utf-8"

    def write(at: Path) -> None:
        content = frame.to_csv(index=False, sep=sep).encode(how)
        (at / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    return write


def lines(rows: Sequence[dict[str, Any]], name: str = "a.jsonl", mark: bool = False) -> Write:
    text = (
        json.dumps(list(rows))
        if ".json" in name and ".jsonl" not in name
        else "\n".join(map(json.dumps, rows))
    )
    content = text.encode("utf-8-sig" if mark else "utf-8")
    return lambda at: (at / name).write_bytes(
        gzip.compress(content) if name.endswith(".gz") else content
    )


def parquet(frame: pd.DataFrame) -> Write:
    return lambda at: frame.to_parquet(at / "a.parquet")


def apart(each: Callable[[int], Write], name: str) -> Write:
    """Write a file per exit."""

    def write(at: Path) -> None:
        for k, model in enumerate(NAMES):
            each(k)(at)
            (at / name).rename(at / f"{model}{''.join(Path(name).suffixes)}")

    return write


def frames() -> dict[str, pd.DataFrame]:
    """Return tables: wide, long, of one model."""
    wide = pd.DataFrame(
        {f"{c}_{k}": a[k] for c, a in (("conf", CONF), ("pred", PRED)) for k in range(K)}
    )
    wide["label"] = Y
    long = pd.DataFrame({
        "sample": np.repeat([f"q{i}" for i in range(N)], K), "exit": np.tile(range(K), N),
        "conf": CONF.T.ravel(), "pred": PRED.T.ravel(), "label": np.repeat(Y, K),
    })  # fmt: skip
    return {"wide": wide, "long": long}


def one_model(k: int) -> pd.DataFrame:
    return pd.DataFrame({"id": range(N), "pred": PRED[k], "conf": CONF[k], "label": Y})


def samples(**fields: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{name: value(i) for name, value in fields.items()} for i in range(N)]


def layouts() -> Iterator[Layout]:
    """Yield the rows of the table."""
    wide, long = frames()["wide"], frames()["long"]
    yield Layout("one array (K, N, C)", ".npz", npz(logits=L, labels=Y))
    yield Layout("one array (N, K, C)", ".npz", npz(logits=L.transpose(1, 0, 2), labels=Y))
    yield Layout("probabilities", ".npz", npz(probs=P, labels=Y))
    yield Layout("log-probabilities", ".npz", npz(log_probs=np.log(P), labels=Y))
    yield Layout(
        "`np.savez(path, logits, labels)`, without names",
        ".npz",
        lambda at: np.savez(at / "a.npz", L, Y),
    )
    yield Layout(
        "`np.savez(path, *exits, labels)`", ".npz", lambda at: np.savez(at / "a.npz", *L, Y)
    )
    yield Layout(
        "`exit1`, `exit2`, ..., from 1", ".npz", npz(exit1=L[0], exit2=L[1], exit3=L[2], y=Y)
    )
    yield Layout(
        "`logits_0`, `logits_1`, ...",
        ".npz",
        npz(logits_0=L[0], logits_1=L[1], logits_2=L[2], y_true=Y),
    )
    yield Layout(
        "`exit_0`, `exit_1`, `exit_final`",
        ".npz",
        npz(exit_final=L[2], exit_0=L[0], exit_1=L[1], labels=Y),
    )
    yield Layout(
        "`layer_3`, `layer_6`, `layer_12`",
        ".npz",
        npz(layer_12=L[2], layer_3=L[0], layer_6=L[1], gt=Y),
        names=("layer 3", "layer 6", "layer 12"),
    )
    yield Layout(
        "`small_logits`, `medium_logits`, ...",
        ".npz",
        npz(**{f"{n}_logits": L[k] for k, n in enumerate(NAMES)}, ground_truth=Y),
        names=NAMES,
    )
    yield Layout(
        "the same",
        ".safetensors",
        tensors(**{f"{n}_logits": L[k] for k, n in enumerate(NAMES)}, labels=Y),
        names=NAMES,
        refused="does not keep their order",
        then="--key logits=small_logits,medium_logits,large_logits",
    )
    yield Layout(
        "`logits_0`, ...",
        ".safetensors",
        tensors(**{f"logits_{k}": L[k] for k in range(K)}, labels=Y),
    )
    yield Layout(
        "names that say nothing",
        ".npz",
        npz(small=L[0], medium=L[1], large=L[2], labels=Y),
        names=NAMES,
        refused="each is an exit's",
        then="--key outputs=small,medium,large",
    )
    yield Layout(
        "logits under another key",
        ".npz",
        npz(scores=L, labels=Y),
        refused="If scores holds them",
        then="--key outputs=scores",
    )
    yield Layout("labels under another key", ".npz", npz(logits=L, klass=Y), "--key labels=klass")
    yield Layout(
        "Hugging Face: `predictions`, `label_ids`", ".npz", npz(predictions=L, label_ids=Y)
    )
    yield Layout("labels as names", ".npz", npz(logits=L, labels=WORDS[Y]))
    yield Layout("labels as letters", ".npz", npz(logits=L, labels=LETTERS[Y]))
    yield Layout(
        "labels as names of columns in another order",
        ".npz",
        npz(logits=L[..., ::-1], labels=WORDS[Y], class_names=WORDS[::-1]),
    )
    yield Layout(
        "splits in keys: `logits_val`, `logits_test`",
        ".npz",
        npz(logits_val=L[:, :40], labels_val=Y[:40], logits_test=L[:, 40:], labels_test=Y[40:]),
    )
    yield Layout(
        "one file per model, (N, C)",
        ".npz",
        apart(lambda k: npz(logits=L[k], labels=Y), "a.npz"),
        "--exits",
        NAMES,
    )
    yield Layout(
        "the same, `--exits` not said",
        ".npz",
        apart(lambda k: npz(logits=L[k], labels=Y), "a.npz"),
        "",
        NAMES,
        "say --exits small.npz",
        "--exits",
    )
    yield Layout(
        "one file per model, (1, N, C)",
        ".npz",
        apart(lambda k: npz(logits=L[k : k + 1], labels=Y), "a.npz"),
        "",
        NAMES,
        "say --exits",
        "--exits",
    )
    yield Layout(
        "one file per model, labels in the first",
        ".npz",
        apart(lambda k: npz(logits=L[k], **({} if k else {"labels": Y})), "a.npz"),
        "--exits",
        NAMES,
    )
    yield Layout(
        "one file per model, rows in other orders",
        ".npz",
        apart(
            lambda k: npz(logits=L[k][::-1] if k == 1 else L[k], labels=Y[::-1] if k == 1 else Y),
            "a.npz",
        ),
        "--exits",
        NAMES,
        "at row .*to one order",
        apart(lambda k: npz(logits=L[k], labels=Y), "a.npz"),
    )
    yield Layout(
        "one file per model", ".csv", apart(lambda k: csv(one_model(k)), "a.csv"), "--exits", NAMES
    )
    yield Layout(
        "the same, `--exits` not said",
        ".csv",
        apart(lambda k: csv(one_model(k)), "a.csv"),
        "",
        NAMES,
        "say --exits",
        "--exits",
    )
    yield Layout(
        "one file per model",
        ".jsonl",
        apart(
            lambda k: lines(
                samples(
                    pred=lambda i: int(PRED[k, i]),
                    conf=lambda i: float(CONF[k, i]),
                    answer_key=lambda i: int(Y[i]),
                )
            ),
            "a.jsonl",
        ),
        "--exits --key labels=answer_key",
        NAMES,
    )
    yield Layout(
        "one file per model, logits in columns `logit_0`, ...",
        ".csv",
        apart(
            lambda k: csv(
                pd.DataFrame(L[k], columns=[f"logit_{c}" for c in range(C)]).assign(label=Y)
            ),
            "a.csv",
        ),
        "--exits",
        NAMES,
    )
    yield Layout(
        "dict of exits",
        ".pt",
        pt(
            {
                "logits": {n: torch.tensor(L[k]) for k, n in enumerate(NAMES)},
                "labels": torch.tensor(Y),
            }
        ),
        names=NAMES,
    )
    yield Layout(
        "dict of exits, by number",
        ".pt",
        pt({**dict(enumerate(map(torch.tensor, L))), "targets": torch.tensor(Y)}.copy()),
    )
    yield Layout(
        "list of exits",
        ".pt",
        pt({"logits": list(map(torch.tensor, L)), "labels": torch.tensor(Y)}),
    )
    yield Layout("[logits, labels]", ".pt", pt([torch.tensor(L), torch.tensor(Y)]))
    yield Layout(
        "exits and labels in one list", ".pt", pt([*map(torch.tensor, L), torch.tensor(Y)])
    )
    yield Layout(
        "dict of models, each with logits and labels",
        ".pt",
        pt(
            {
                n: {"logits": torch.tensor(L[k]), "labels": torch.tensor(Y)}
                for k, n in enumerate(NAMES)
            }
        ),
        names=NAMES,
    )
    yield Layout(
        "dict of splits",
        ".pt",
        pt(
            {
                s: {"logits": torch.tensor(L[:, at]), "labels": torch.tensor(Y[at])}
                for s, at in (("val", slice(40)), ("test", slice(40, None)))
            }
        ),
    )
    yield Layout(
        "array beside `a.json`",
        ".npy",
        lambda at: (
            np.save(at / "a.npy", L),
            (at / "a.json").write_text(json.dumps({"label_ids": Y.tolist()})),
        ),
    )
    yield Layout(
        "object of arrays",
        ".json",
        lambda at: (at / "a.json").write_text(
            json.dumps({"logits": L.tolist(), "labels": Y.tolist()})
        ),
    )
    yield Layout(
        "list of samples, lists within",
        ".json",
        lines(samples(logits=lambda i: L[:, i].tolist(), label=lambda i: int(Y[i])), "a.json"),
    )
    yield Layout(
        "list of samples, a field per exit", ".json", lines(wide.to_dict("records"), "a.json")
    )
    yield Layout(
        "CATs: `layer_logits`, `gold_label_ind`, ...",
        ".jsonl",
        lines(
            samples(
                ind=lambda i: i,
                layer_logits=lambda i: L[:, i].tolist(),
                predicted_labels=lambda i: WORDS[PRED[:, i]].tolist(),
                patience=lambda i: [0] * K,
                gold_label_ind=lambda i: int(Y[i]),
                gold_label=lambda i: str(WORDS[Y[i]]),
            )
        ),
    )
    yield Layout(
        "lists of letters and log confidences, null where there is no answer",
        ".jsonl",
        lines(
            samples(
                pred=lambda i: [
                    None if i == 7 and not M["right"][i, k] else str(LETTERS[PRED[k, i]])
                    for k in range(K)
                ],
                conf=lambda i: [float(np.log(CONF[k, i])) for k in range(K)],
                label=lambda i: str(LETTERS[Y[i]]),
            )
        ),
    )
    yield Layout(
        'an object per model: `{"small": {"answer": ...}}`',
        ".jsonl",
        lines(
            [
                {
                    **{
                        n: {
                            "answer": str(LETTERS[PRED[k, i]]),
                            "logprob": float(np.log(CONF[k, i])),
                        }
                        for k, n in enumerate(NAMES)
                    },
                    "gold": str(LETTERS[Y[i]]),
                }
                for i in range(N)
            ]
        ),
        names=NAMES,
    )
    yield Layout(
        "samples under one key",
        ".json",
        lambda at: (at / "a.json").write_text(json.dumps({"results": wide.to_dict("records")})),
    )
    yield Layout(
        "samples under one key, beside a head",
        ".json",
        lambda at: (at / "a.json").write_text(
            json.dumps(
                {"model": {"name": "x"}, "date": "today", "samples": wide.to_dict("records")}
            )
        ),
    )
    yield Layout("as pandas writes a table", ".json", lambda at: wide.to_json(at / "a.json"))
    yield Layout(
        "a list of no use in line 1",
        ".jsonl",
        lines([{"turns": ["a", "b"], **row} for row in wide.to_dict("records")]),
    )
    yield Layout(
        "with a byte-order mark, packed",
        ".jsonl.gz",
        lines(wide.to_dict("records"), "a.jsonl.gz", mark=True),
    )
    yield Layout(
        "list columns",
        ".parquet",
        parquet(pd.DataFrame({"logits": [a.tolist() for a in L.transpose(1, 0, 2)], "label": Y})),
    )
    yield Layout(
        "list columns of summaries, labels as names",
        ".parquet",
        parquet(
            pd.DataFrame(
                {"conf": CONF.T.tolist(), "pred": WORDS[PRED.T].tolist(), "label": WORDS[Y]}
            )
        ),
    )
    yield Layout("wide: `conf_0`, `pred_0`, ...", ".parquet", parquet(wide))
    yield Layout("wide: `conf_0`, `pred_0`, ...", ".csv", csv(wide))
    # What is known before any model is asked: the answers' worth alone beside it, as routers have.
    marks = {f"correct_{k}": M["right"][:, k] for k in range(K)}
    known = np.random.default_rng(0).normal(size=(N, 2)).round(3)
    yield Layout(
        "marks and a `query` (N, D)", ".npz", npz(correct=M["right"].T, query=known), query=2
    )
    yield Layout(
        "wide: `correct_0`, ... and a `router_score`", ".csv",
        csv(pd.DataFrame({**marks, "router_score": known[:, 0]})), query=1,
    )  # fmt: skip
    yield Layout(
        "marks and `query`, a list", ".jsonl",
        lines(samples(correct=lambda i: M["right"][i].astype(int).tolist(), query=lambda i: known[i].tolist())),
        query=2,
    )  # fmt: skip
    yield Layout(
        "wide, the last exit by name: `conf_final`, `pred_final`",
        ".csv",
        csv(wide.rename(columns=lambda c: c.replace("_2", "_final"))),
    )
    yield Layout(
        "wide, semicolons and decimal commas",
        ".csv",
        lambda at: wide.to_csv(at / "a.csv", index=False, sep=";", decimal=","),
    )
    yield Layout(
        "wide, samples in the index",
        ".parquet",
        parquet(wide.set_index(pd.Index(CITIES, name="id"))),
    )
    yield Layout(
        "wide, numbered from 1",
        ".csv",
        csv(wide.rename(columns=lambda c: re.sub(r"\d", lambda m: str(int(m[0]) + 1), c))),
    )
    yield Layout(
        "wide, `small_conf`, `small_pred`, ...",
        ".csv",
        csv(
            wide.rename(
                columns=lambda c: re.sub(r"(\w+)_(\d)", lambda m: f"{NAMES[int(m[2])]}_{m[1]}", c)
            )
        ),
        names=NAMES,
    )
    yield Layout(
        "wide, `conf_small`, `pred_small`, ...",
        ".csv",
        csv(wide.rename(columns=lambda c: re.sub(r"_(\d)", lambda m: f"_{NAMES[int(m[1])]}", c))),
        names=NAMES,
    )
    yield Layout(
        "wide, columns of other names",
        ".csv",
        csv(wide.rename(columns={"label": "truth", "conf_0": "sureness"})),
        refused="Add conf_0",
        then="--key conf_0=sureness --key labels=truth",
    )
    yield Layout(
        "wide, logits of each exit and class: `logits_0_3`",
        ".csv",
        csv(
            pd.DataFrame(
                {f"logits_{k}_{c}": L[k, :, c] for k in range(K) for c in range(C)}
            ).assign(label=Y)
        ),
    )
    yield Layout("long: `sample`, `exit`, ...", ".csv", csv(long))
    yield Layout("long, exits from 1", ".csv", csv(long.assign(exit=long["exit"] + 1)))
    yield Layout(
        "long, a column `model` of names",
        ".csv",
        csv(long.assign(model=np.tile(NAMES, N)).drop(columns="exit")),
        names=NAMES,
    )
    yield Layout(
        "long, `question_id`, logits in columns",
        ".csv",
        csv(
            pd.DataFrame(
                {
                    "question_id": np.repeat(range(N), K),
                    "exit": np.tile(range(K), N),
                    **{f"logit_{c}": L[:, :, c].T.ravel() for c in range(C)},
                    "label": np.repeat(Y, K),
                }
            )
        ),
    )
    yield Layout(
        "long, answers as text",
        ".csv",
        csv(long.assign(pred=SAID.T.ravel(), label=np.repeat(CITIES, K))),
    )
    yield Layout(
        "long, letters, some answers missing",
        ".csv",
        csv(
            long.assign(
                pred=np.where(
                    (long["pred"] != long["label"]) & (long.index % 2 == 0),
                    "",
                    LETTERS[long["pred"]],
                ),
                label=LETTERS[long["label"]],
            )
        ),
    )
    yield Layout(
        "wide, classes as names",
        ".tsv",
        csv(
            wide.assign(label=WORDS[Y], **{f"pred_{k}": WORDS[PRED[k]] for k in range(K)}),
            "a.tsv",
            "\t",
        ),
    )
    yield Layout("wide, packed", ".csv.gz", csv(wide, "a.csv.gz"))
    yield Layout("wide, semicolons and a byte-order mark", ".csv", csv(wide, sep=";", mark=True))
    yield Layout(
        "one model, logits in columns",
        ".csv",
        csv(pd.DataFrame(L[2], columns=[f"logit_{c}" for c in range(C)]).assign(label=Y)),
        refused=r"\(N, C\) is C numbers of one exit.*--exits A B",
        then=csv(wide),
    )
    yield Layout(
        "predictions as names, labels as numbers",
        ".csv",
        csv(wide.assign(gold_label=WORDS[Y], **{f"pred_{k}": WORDS[PRED[k]] for k in range(K)})),
        refused="both as names, or both as numbers.*gold_label",
        then="--key labels=gold_label",
    )
    yield Layout(
        "one logit of a binary model, (K, N)",
        ".npz",
        npz(logits=M["z"], labels=M["b"]),
        right=M["right_b"],
    )
    yield Layout(
        "its sigmoids, (K, N)",
        ".npz",
        npz(probs=1 / (1 + np.exp(-M["z"])), labels=M["b"]),
        right=M["right_b"],
    )
    yield Layout(
        "one logit, (K, N), no labels in the file",
        ".npz",
        lambda at: (np.savez(at / "a.npz", logits=M["z"]), np.save(at / "b.npy", M["b"])),
        refused="--kind logit",
        then="--kind logit --labels b.npy",
        right=M["right_b"],
    )
    yield Layout(
        "one logit, (N, K)",
        ".npz",
        npz(logits=M["z"].T, labels=M["b"]),
        refused="--kind logit",
        then="--kind logit",
        right=M["right_b"],
    )
    yield Layout(
        "values, real-valued labels, (K, N, 1)",
        ".npz",
        npz(logits=M["guess"][..., None], labels=M["r"]),
        refused="values to be met: --kind regression",
        then="--kind regression --error-scale 1",
        right=M["close"],
    )
    yield Layout(
        "values, (K, N)",
        ".npz",
        npz(outputs=M["guess"], labels=M["r"]),
        refused="values to be met: --kind regression",
        then="--kind regression --error-scale 1",
        right=M["close"],
    )
    flat = npz(logits=L.reshape(K, N, C), labels=Y, group=np.repeat(np.arange(12), 5))
    yield Layout(
        "tokens, (K, N, T, C) with labels (N, T)",
        ".npz",
        npz(logits=L.reshape(K, 12, 5, C), labels=Y.reshape(12, 5)),
        refused=r"reshape\(3, 60, 4\).*group=np.repeat\(np.arange\(12\), 5\)",
        then=flat,
    )
    yield Layout(
        "pixels, (K, N, C, H, W)",
        ".npz",
        npz(logits=np.moveaxis(L.reshape(K, 4, 3, 5, C), -1, 2), labels=Y.reshape(4, 3, 5)),
        refused=r"np.moveaxis\(logits, 2, -1\).reshape\(3, 60, 4\)",
        then=flat,
    )
    yield Layout(
        "percent in the place of probabilities",
        ".npz",
        npz(probs=100 * P, labels=Y),
        refused="divide each row by its sum",
        then=npz(probs=P, labels=Y),
    )
    yield Layout(
        "confidences in percent",
        ".csv",
        csv(wide.assign(**{f"conf_{k}": 100 * CONF[k] for k in range(K)})),
        refused="0.5, not 50",
        then=csv(wide),
    )


COSTS = ("--costs", "1,2,4", "--unit", "ms")


def tried(layout: Layout, at: Path, run: Run) -> str:
    """Write and import a layout; return what came of it, or raise where it is not what is said."""
    code, err = _imported(layout, layout.write, layout.words, at / "a", run)
    if not layout.refused:
        assert code == 0, (layout, err)
        return "read"
    assert code == 2 and re.search(layout.refused, err), (layout, err)
    if isinstance(layout.then, str):
        assert layout.then.split()[0] in err, (layout, err)
        code, err = _imported(layout, layout.write, f"{layout.words} {layout.then}", at / "b", run)
        step = f"`{layout.then}`"
    else:
        code, err = _imported(layout, layout.then, layout.words, at / "b", run)
        step = "the file to be mended, as the message says"
    assert code == 0, (layout, err)
    return f"refused; next step: {step}"


def _imported(layout: Layout, write: Write, words: str, at: Path, run: Run) -> tuple[int, str]:
    from policyopt._cache.reader import open_cache
    from policyopt._table import exit_statistics

    at.mkdir()
    write(at)
    order = {name: k for k, name in enumerate(NAMES)}
    files = sorted(
        (p for p in at.iterdir() if p.name != "b.npy"),
        key=lambda p: order.get(p.name.partition(".")[0], 0),
    )
    files = [p for p in files if p.suffix == ".npy"] or files  # its sidecar comes with it
    more = [str(at / "b.npy") if word == "b.npy" else word for word in shlex.split(words)]
    code, _, err = run("import", *files, "--out", at / "out", *COSTS, *more)
    if code == 0:
        data = open_cache(at / "out")
        rows = [data.splits[name] for name in ("pool", "fit", "test") if name in data.splits]
        found = np.concatenate(
            [
                np.asarray(exit_statistics(one, data.kind, measure=data.measure).quality)
                for one in rows
            ]
        )
        expected = M["right"] if layout.right is None else layout.right
        np.testing.assert_allclose(
            found, expected, atol=1e-4, err_msg=f"{layout.what}, {layout.container}: {err}"
        )
        assert data.query_width == layout.query, (layout, err)
        assert not layout.names or data.names == layout.names, (layout, data.names)
    return code, err


def page(run: Run) -> str:
    """Return the page."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for i, layout in enumerate(layouts()):
            at = Path(folder) / str(i)
            at.mkdir()
            found.append((layout, tried(layout, at, run)))
    read = sum(outcome == "read" for _, outcome in found)
    head = (
        "# Layouts that are read\n\n"
        "Written by `python benchmarks/layouts.py`, which makes a file of every layout, imports it, and holds each row "
        "at each exit against the truth; a test does the same. Where a layout cannot be told from another, `import` "
        "refuses it, and what the message says to do next is tried, too. How to hand over outputs: [Bring your own "
        "outputs](howto/outputs.md).\n\n"
        f"{read} of {len(found)} are read as they are; the others are refused with a next step that leads to the "
        "right cache.\n\n"
        "| layout | file | options | outcome |\n|---|---|---|---|\n"
    )
    rows = [
        f"| {one.what} | `{one.container}` | {f'`{one.words}`' if one.words else ''} | {outcome} |"
        for one, outcome in found
    ]
    return head + "\n".join(rows) + "\n"


def main() -> None:
    import sys

    sys.path.insert(0, str(PAGE.parent.parent / "tests"))
    from conftest import printed

    PAGE.write_text(page(printed))


if __name__ == "__main__":
    main()
