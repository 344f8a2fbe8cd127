"""Malformed input, end to end: one message that helps, the right exit code, nothing left behind."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import tree
from mutations import signed
from safetensors.numpy import save as safetensors_of
from synthetic import outputs

import policyopt as po

N, K, C = 240, 4, 6


def arrays(exits=K, classes=C, seed=0, **more):
    logits, labels = outputs(N, exits, classes, seed)
    sound = {"logits": logits.swapaxes(0, 1), "labels": labels, "costs": 2.0 ** np.arange(exits)}
    return sound | more


OWN = arrays()
X, Y = OWN["logits"], OWN["labels"]
PROBS = np.exp(X - X.max(axis=-1, keepdims=True))
PROBS /= PROBS.sum(axis=-1, keepdims=True)
RECORDS = {"conf": PROBS.max(axis=2), "pred": PROBS.argmax(axis=2)}


def spoilt(value, *at):
    logits = X.copy()
    logits[at] = value
    return {"logits": logits}


def parts(**rows):
    found: dict = {"logits": None, "labels": None}
    for split, at in rows.items():
        found |= {f"{split}_logits": X[:, at], f"{split}_labels": Y[at]}
    return found


HALVES = parts(val=slice(0, N // 2), test=slice(N // 2, N))


def write(path, content, world):
    path.parent.mkdir(exist_ok=True)
    if callable(content):
        content(path, world)
    elif isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content == "folder":
        path.mkdir()
    elif isinstance(content, dict) and path.suffix == ".json":
        body = {**json.loads((world / "policy.json").read_text()), **content}
        path.write_text(json.dumps(body if content.get("sha256") else signed(body)))
    elif isinstance(content, dict):
        file = path.with_suffix(".npz")
        given = {**OWN, **content, "unit": None}
        np.savez(file, **{name: array for name, array in given.items() if array is not None})
        if not path.suffix:
            po.import_sources([file], path, unit=content.get("unit", "ms"), axes="KNC")
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Sound files that the cases start from and never change."""
    root = tmp_path_factory.mktemp("world")
    write(root / "cache", {}, root)
    write(root / "bare", HALVES | {"val_labels": None, "test_labels": None}, root)
    np.savez(root / "records.npz", labels=Y, costs=OWN["costs"], **RECORDS)
    po.import_sources([root / "records.npz"], root / "records", unit="ms")
    for name, policy in (("cache", "policy"), ("records", "of_records")):
        po.fit(po.open_cache(root / name), "40%", "max_prob").save(root / f"{policy}.json")
    return root


#: By name: patterns that the message has, in any order (the culprit, what came, the next step; "3: " is the
#: exit code), the command line, and what is written before: by name an .npz of sound arrays with some
#: changed (None: left out), or without a suffix the cache imported from it; the sound policy with fields
#: changed; an array; text; or what a function of path and world makes.
CASES: dict[str, tuple] = {}


def copied(path, world):
    shutil.copytree(world / "cache", path)


def unfinished(path, world):
    copied(path, world)
    file = path / "manifest.json"
    file.write_text(json.dumps(signed(json.loads(file.read_text()) | {"complete": False})))


def pipe(path, world):
    os.mkfifo(path)


IMPORTS = {
    "no_known_key": (r"a\.npz & logits or probs & weights", {"logits": None, "labels": None, "costs": None, "weights": np.zeros(3)}),
    "objects_in_an_npz": (r"a\.npz: logits & pickle & [Ss]ave the numbers", {"logits": np.array([[1, 2], [3]], dtype=object)}),
    "wrong_axes": (r"axes & 240 labels & logits of N = 4, K = 240, C = 6 & Say --axes KNC", {}, "--axes NKC"),
    "axes_that_fit_nothing": (r"logits & shape \(6, 240, 4\) & --axes", {"logits": np.ascontiguousarray(X.transpose(2, 1, 0))}),
    "axes_nonsense": (r"axes & KNC & Got XYZ", {}, "--axes XYZ"),
    "two_axes": (r"logits & shape \(240, 6\) & K, N, C|one array over all exits", {"logits": X[0]}),
    "as_many_exits_as_rows": (r"fits .* and  & State the order with --axes KNC or --axes NKC", {"logits": X[:, :K], "labels": Y[:K]}),
    "nan": (r"outputs & free of NaN & row 7, exit 2 & [Mm]end|[Ll]eave", spoilt(np.nan, 2, 7, 1)),
    "float16_overflow": (r"outputs & float16 & Got 1e\+06 & --dtype float32", spoilt(1e6, 2, 7, 1), "--dtype float16"),
    "unknown_dtype": (r"dtype & float16.*float32 & int7", {}, "--dtype int7"),
    "labels_of_wrong_length": (r"labels' must be 240 & Got 200 & label for each row & --axes", {"labels": Y[:200]}),
    "labels_as_one_number": (r"labels' must be one for each row & array over all rows", {"labels": np.array(3)}, "--axes KNC"),
    "labels_file_missing": (r"labels & x\.npy \(missing\)", {"labels": None}, "--labels {at}/x.npy"),
    "probabilities_as_logits": (r"outputs & probabilities & --kind probabilities", {"logits": PROBS}, "--kind logits"),
    "logits_as_record": (r"kind & summary & conf", {}, "--kind summary"),
    "zero_rows": (r"a\.npz: pool logits & at least one row & \(4, 0, 6\)", {"logits": X[:, :0], "labels": Y[:0]}),
    "booleans_as_logits": (r"a\.npz: 'outputs' & numbers & dtype bool & logits themselves", {"logits": X > 0}),
    "nan_cost_in_the_file": (r"cost & finite & nan at exit 1", {"costs": np.array([1, np.nan, 4, 8])}),
    "wrong_number_of_costs": (r"'costs' & 4 numbers, one per exit & Got 3 & --costs|--axes", {"costs": None}, "--costs 1,2,4"),
    "costs_unknown_key": (r"cost & latency & numbers & one of cost", {}, "--costs latency"),
    "costs_with_a_gap": (r"'costs' & numbers such as 1,2,4 & Got 1,,2,4,8 & separated by commas", {}, "--costs 1,,2,4,8"),
    "cost_kind_unknown": (r"cost kind & cumulative, standalone & total & --cost-kind", {}, "--cost-kind total"),
    "unit_blank": (r"unit & non-empty", {}, "--unit ' '"),
    "shares_over_one": (r"split & at most 1 & 1\.4 & [Ll]ower", {}, "--split fit=0.7,test=0.7"),
    "shares_garbage": (r"split & NAME=SHARE & fit0\.5 & --split fit=0\.5,test=0\.5", {}, "--split fit0.5"),
    "share_given_twice": (r"split & fit.*twice|once|two shares & fit=0\.5,test=0\.5", {}, "--split fit=0.3,fit=0.5"),
    "shares_for_named_splits": (r"shares|split & fit, test|already|Leave & --split|[Ll]eave", HALVES, "--split fit=0.5,test=0.5"),
}  # fmt: skip
for _name, (_says, _changed, *_more) in IMPORTS.items():
    _line = " ".join(["import {at}/a.npz --out {at}/out", *_more])
    CASES[_name] = (_says, _line, {"a.npz": _changed})


def bytes_of(save: Callable, *args, **named) -> bytes:
    file = io.BytesIO()
    save(file, *args, **named)
    return file.getvalue()


WIDE = "conf_0,conf_1,pred_0,pred_1,label\n"
LONG = "sample,exit,confidence,prediction,label\n"
FILES = {
    "truncated.npz": (r"a\.npz & cut or damaged & anew", bytes_of(np.savez, **OWN)[:-2000]),
    "truncated.safetensors": (r"a\.safetensors & anew", safetensors_of({k: np.ascontiguousarray(v) for k, v in OWN.items()})[:-50]),
    "garbage.pt": (r"a\.pt & cut or damaged & anew", "\x00garbage" * 30),
    "unknown_extension.xlsx": (r"a\.xlsx & \.npz .*\.csv & Convert it", "x"),
    "no_columns.csv": (r"a\.csv & confidence for each exit & name, age & conf_0", "name,age\nx,3\n"),
    "no_predictions.csv": (r"a\.csv & pred|correct & conf_0|[Aa]dd", "conf_0,conf_1,label\n0.5,0.6,1\n0.4,0.6,0\n"),
    "missing_exit.csv": (r"a\.csv & conf_1|exit 1|0 to", WIDE.replace("_1", "_2") + "0.5,0.6,1,1,1\n0.4,0.6,1,1,1\n"),
    "odd_cell.csv": (r"a\.csv: conf_1 & 'high' in row 1 & [Mm]end", WIDE + "0.5,0.7,1,1,1\n0.4,high,1,1,1\n"),
    "empty.csv": (r"a\.csv & empty|No columns & [Mm]end|[Ii]s it", ""),
    "header_only.csv": (r"a\.csv & at least 1 & right file", WIDE),
    "colons.csv": (r"a\.csv: columns & conf_0:conf_1 & separated by commas", (WIDE + "0.5,0.7,1,1,1\n").replace(",", ":")),
    "ragged.csv": (r"a\.csv & of 3 cells.*line 3 & Mend header or rows", "conf_0,conf_1,label\n0.5,0.6,1\n0.5,0.6,1,9,9\n"),
    "percent.csv": (r"a\.csv: 'confidence' & \[0, 1\] & 85 at row 0, exit 0 & 0\.5, not 50", WIDE + "85,97,1,1,1\n"),
    "garbage.jsonl": (r"a\.jsonl line 2 & JSON object & [Mm]end", '{"logits": [[1,2,0],[3,1,0]], "label": 1}\nnot json\n'),
    "empty.jsonl": (r"a\.jsonl & at least one line|empty & [Cc]heck", "\n\n"),
}  # fmt: skip
for _name, (_says, _content) in FILES.items():
    _file = f"a{Path(_name).suffix}"
    CASES[_name] = (_says, f"import {{at}}/{_file} --out {{at}}/out", {_file: _content})


ZEROS = np.zeros((K, 20, C), np.float32)
RUNS = {
    "run_on_other_exits": (r"new\.npy & 4 exits & shape \(3, 20, 6\) & --axes|[Gg]ive|fitted", ZEROS[:3]),
    "run_on_other_classes": (r"new\.npy & 6 classes & shape \(4, 20, 5\) & fitted", ZEROS[:, :, :5]),
    "run_on_two_axes": (r"new\.npy & 3-dimensional & shape \(20, 6\)", ZEROS[0]),
    "run_on_nan": (r"output|new\.npy & NaN & row 5|sample 5 & exit 2", spoilt(np.nan, 2, 5, 1)["logits"]),
    "run_on_pickle": (r"new\.npy & [Pp]ickle|objects & [Ss]ave", np.array([{"a": 1}], dtype=object)),
    "run_on_text": (r"output of exit 0|new\.npy & <U1 & floats|numbers", np.full((K, 20, C), "x")),
    "run_with_axes_nonsense": (r"axes & KNC & NKC & XYZ", ZEROS, "--axes XYZ"),
    "run_with_the_wrong_axes": (r"new\.npy|axes & logits of|K = |exits & NKC", ZEROS, "--axes NKC"),
    "run_on_as_many_exits_as_rows": (r"axes & KNC or NKC", ZEROS[:, :K]),
    "run_on_no_rows": (r"rows|new\.npy & at least (1|one)|no rows|none|empty", ZEROS[:, :0]),
    "run_on_probabilities": (r"OUTPUTS & logits & probabilities & fit the policy on probabilities", PROBS),
}  # fmt: skip
for _name, (_says, _array, *_more) in RUNS.items():
    _line = " ".join(["run {world}/policy.json {at}/new.npy", *_more])
    CASES[_name] = (_says, _line, {"new.npy": _array})
for _name, _says, _changed in (
    ("run_on_records_with_nan", r"conf & nan|NaN|\[0, 1\]", {"conf": np.full((K, N), np.nan)}),
    ("run_on_records_of_other_rows", r"pred & shape|rows", {"pred": np.zeros((K, N - 1), int)}),
):
    _line = "run {world}/of_records.json {at}/new.npz"
    CASES[_name] = (_says, _line, {"new.npz": RECORDS | dict.fromkeys(OWN) | _changed})


FIT = "fit {world}/cache --out {at}/p.json"
IMPORT = "import {at}/a.npz --out {at}/out"
CURVE = "curve {world}/cache --out {at}/out"
MAX_PROB, BUDGET = f"{FIT} --method max_prob", f"{FIT} --budget 40%"
EXPLAIN = "explain {world}/policy.json {world}/cache"
EXPORT = "export {world}/policy.json --out {at}/out"
RANGE = "3: budget & 1.*8.*ms"
COMMANDS = {
    "missing_file": (r"nothing\.npz \(missing\) & Check the path", "import {at}/nothing.npz --out {at}/out"),
    "directory_as_source": (r"a directory & Name a file in it", "import {at}/sub --out {at}/out", {"sub": "folder"}),
    "cache_as_source": (r"a directory & already|as it is", "import {world}/cache --out {at}/out"),
    "out_is_no_cache": (r"notes\.txt|Other files & [Cc]hoose another", f"{IMPORT} --overwrite", {"out/notes.txt": "mine", "a.npz": {}}),
    "out_is_a_file": (r"out & a file & [Cc]hoose another", f"{IMPORT} --overwrite", {"out": "mine", "a.npz": {}}),
    "out_holds_a_cache": (r"out & holds a cache & --overwrite", IMPORT, {"out": copied, "a.npz": {}}),
    "overwrite_with_bad_input_keeps_the_old": (r"outputs & NaN", f"{IMPORT} --overwrite", {"out": copied, "a.npz": spoilt(np.nan, 0, 0, 0)}),
    "two_sources_of_other_exits": (r"SRC & same number of exits & K = 4.*K = 3", "import fit={at}/a.npz test={at}/b.npz --out {at}/out", {"a.npz": {"costs": None}, "b.npz": arrays(exits=3, costs=None)}),
    "policy_out_is_a_directory": (r"policy|sub & directory & --out|[Cc]hoose|[Gg]ive", "fit {world}/cache --budget 40% --out {at}/sub", {"sub": "folder"}),
    "policy_out_below_a_file": (r"file/policy\.json|file & directory", "fit {world}/cache --budget 40% --out {at}/file/policy.json", {"file": "mine"}),
    "cache_missing": (r"nothing & manifest\.json|a cache|missing|no such & policyopt import", "info {at}/nothing"),
    "cache_incomplete": (r"complete & --incomplete|anew", "info {at}/cache", {"cache": unfinished}),
    "npz_as_cache": (r"a\.npz & policyopt import", "fit {at}/a.npz --budget 40%", {"a.npz": {}}),
    "budget_too_low": (f"{RANGE} & 0\\.5 & [Rr]aise|[Cc]hoose|within", f"{FIT} --budget 0.5"),
    "budget_too_high": (f"{RANGE} & 9 & [Ll]ower|[Cc]hoose|within", f"{FIT} --budget 9"),
    "demo_budget_too_high": (RANGE, "demo --cache {world}/cache --budget 900% --out {at}/out"),
    "budget_no_number": (r"budget & number & a lot & %", f"{FIT} --budget 'a lot'"),
    "budget_nan": (r"budget & number & nan", f"{FIT} --budget nan"),
    "budget_not_given": (r"budget & given & --budget 40%", FIT),
    "budgets_with_garbage": (r"budget & number & Got x & %", f"{CURVE} --budgets 20%,x,2"),
    "budgets_zero": (r"budgets & positive & Got 0 & --budgets 9", f"{CURVE} --budgets 0"),
    "budgets_of_commas": (r"budgets & at least one & --budgets 9", f"{CURVE} --budgets ,,"),
    "budgets_absurdly_many": (r"budgets & memory|at most", f"{CURVE} --budgets 99999999999999"),
    "method_unknown": (r"method & max_prob, entropy & max_porb & Did you mean 'max_prob'", f"{BUDGET} --method max_porb"),
    "method_unlike_any": (r"method & zzz & policyopt methods", f"{CURVE} --methods max_prob,zzz"),
    "methods_empty": (r"methods & at least one & policyopt methods", f"{CURVE} --methods ''"),
    "methods_all_and_one_more": (r"--methods & all alone & [Ll]eave the others out", f"{CURVE} --methods all,max_prob"),
    "compare_with_one_method": (r"methods & two & max_prob & --methods", "compare {world}/cache --methods max_prob --out {at}/out"),
    "compare_with_unknown_reference": (r"reference & max_prob.*margin & entropy", "compare {world}/cache --methods max_prob,margin --reference entropy --budgets 2 --out {at}/out"),
    "setting_unknown": (r"setting of max_prob & thresholds, mix & colour", f"{MAX_PROB} --budget 40% --set colour=red"),
    "setting_for_all_methods": (r"--set & methods by name & --methods all & [Nn]ame the methods", f"{CURVE} --methods all --set thresholds=joint"),
    "setting_without_value": (r"--set & key=value & thresholds & thresholds=joint", f"{BUDGET} --set thresholds"),
    "setting_given_twice": (r"--set & each key once & mix twice", f"{BUDGET} --set mix=true --set mix=false"),
    "setting_of_bad_value": (r"thresholds & geometric, shared, joint & best & --set thresholds=joint", f"{MAX_PROB} --budget 40% --set thresholds=best"),
    "setting_that_the_default_lacks": (r"settings & auto & thresholds & --method max_prob", f"{BUDGET} --set thresholds=0.9,0.8"),
    "setting_of_bad_type": (r"mix & true, false & perhaps & --set mix=true", f"{FIT} --method max_prob:thresholds=joint --set mix=perhaps"),
    "thresholds_too_few": (r"thresholds & 3 numbers & 0\.9 & one for all|last exit", f"{MAX_PROB} --set thresholds=0.9,0.8"),
    "threshold_nan": (r"thresholds & 3 numbers & nan", f"{MAX_PROB} --set thresholds=0.9,nan,0.9"),
    "threshold_garbage": (r"setting & numbers & Got x & --set thresholds=0\.9,0\.8", f"{MAX_PROB} --set thresholds=0.9,x,0.9"),
    "thresholds_over_the_budget": (r"3: thresholds & at most 1\.5 ms & mean cost & [Ll]ower|[Rr]aise", f"{MAX_PROB} --budget 1.5 --set thresholds=0.99,0.99,0.99"),
    "patience_negative": (r"patience & 0 or more & -1 & --set patience=1", f"{BUDGET} --method patience --set patience=-1"),
    "exit_that_is_not_there": (r"'exit' & 0\.\.3 & 9 & --set exit=0", f"{BUDGET} --method always --set exit=9"),
    "exit_that_is_no_number": (r"'exit' & last", f"{BUDGET} --method always --set exit=last"),
    "fit_rows_without_labels": (r"[Ss]plit 'fit' & label & --labels|[Gg]ive labels", "fit {world}/bare --out {at}/p.json --budget 40%"),
    "setting_named_as_an_option": (r"setting & seed", f"{BUDGET} --method subset --set seed=1"),
    "setting_named_as_an_argument": (r"setting & tables", f"{BUDGET} --set tables=1"),
    "setting_of_an_inner_method": (r"nope", f"{BUDGET} --method subset --set inner=nope"),
    "calibrator_unknown": (r"'calibrator' & one of platt & nope", f"{BUDGET} --calibrator nope"),
    "fit_out_is_no_policy": (r"a policy to replace & p\.json, which is none", BUDGET, {"p.json": "hello"}),
    "fit_out_is_a_changed_policy": (r"a policy to replace & which is none", BUDGET, {"p.json": {"thresholds": "many"}}),
    "fit_out_is_a_pipe": (r"'--out' & a file & pipe", "fit {world}/cache --budget 40% --out {at}/pipe", {"pipe": pipe}),
    "evaluate_out_is_the_policy": (r"a table with row,exit,prediction,cost,quality", "evaluate {at}/p.json {world}/cache --out {at}/p.json", {"p.json": {}}),
    "explain_out_is_a_file": (r"--out & a file", f"{EXPLAIN} --out {{at}}/out", {"out": "mine"}),
    "explain_without_its_reference": (r"none\.json", f"{EXPLAIN} --reference {{at}}/none.json"),
    "explain_with_reference_of_another_kind": (r"kind & summary & logits", f"{EXPLAIN} --reference {{world}}/of_records.json"),
    "export_of_a_split_without_cache": (r"'--split' must be given with --cache & Got test", f"{EXPORT} --split test"),
    "export_name_of_a_header_of_c": (r"'name' must be a C identifier & math", f"{EXPORT} --to c --name math"),
    "export_name_that_nothing_takes": (r"'name' must be a C identifier & \.\./x", f"{EXPORT} --to python --name ../x"),
    "verify_nowhere": (r"'DIR' must be a folder & with manifest\.json & no folder", "verify {at}/nowhere"),
    "verify_without_manifest": (r"with manifest\.json & sub without one", "verify {at}/sub", {"sub": "folder"}),
    "export_out_is_the_root": (r"a folder that can be made", "export {world}/policy.json --to python --out /"),
    "cost_unknown": (r"cost & energy & one of|cost", f"{BUDGET} --cost energy"),
    "one_exit_only": (r"exits? & 2|two|at least & 1", "fit {at}/cache --out {at}/p.json --budget 40%", {"cache": {"logits": X[:1], "costs": None}}),
    "evaluate_on_unknown_split": (r"split & fit, test|'fit'.*'test' & nights", "evaluate {world}/policy.json {world}/cache --split nights --out {at}/o.csv"),
    "curve_without_test_split": (r"split & test & fit & --split|--test|[Ii]mport", "curve {at}/cache --out {at}/out", {"cache": parts(val=slice(N))}),
    "fit_without_fit_split": (r"split & fit & test & --split|[Ii]mport", "fit {at}/cache --out {at}/p.json --budget 40%", {"cache": parts(test=slice(N))}),
    "policy_not_json": (r"p\.json & JSON & [Ff]it and save it again", "evaluate {at}/p.json {world}/cache", {"p.json": "thresholds: 0.9"}),
    "policy_of_something_else": (r"p\.json & policy file & policyopt fit", "evaluate {at}/p.json {world}/cache", {"p.json": '{"name": "left-pad"}'}),
    "policy_of_a_tier": (r"a policy file & a tier's policy: load_tier", "evaluate {at}/t.json {world}/cache", {"t.json": '{"format": "policyopt-tier-policy"}'}),
    "policy_of_a_plan": (r"a plan's report & policy\.json", "export {at}/p.json --out {at}/out", {"p.json": '{"format": "policyopt-plan"}'}),
    "info_of_a_file_of_others": (r"CACHE & a file of policyopt & x\.md, which is none & policyopt import", "info {at}/x.md", {"x.md": "policyopt"}),
    "policy_with_options_of_a_cache": (r"--cost & given with a cache", "info {world}/policy.json --cost foo"),
    "calibration_of_experts": (r"version of x\.json' must be 1", "calibration {world}/cache --policy {at}/x.json", {"x.json": '{"format": "policyopt-experts"}'}),
    "policy_missing": (r"policy & a file & nothing\.json & policyopt fit", "evaluate {at}/nothing.json {world}/cache"),
    "policy_of_another_number_of_exits": (r"exits of the cache & fitted on: 4 & Got 3 & same model", "evaluate {world}/policy.json {at}/cache", {"cache": arrays(exits=3)}),
    "policy_of_another_number_of_classes": (r"classes of the cache & fitted on: 6 & Got 5 & same model", "evaluate {world}/policy.json {at}/cache", {"cache": arrays(classes=5)}),
    "policy_of_another_unit": (r"cost unit of the cache & fitted on: ms & Got mJ & --cost", "evaluate {world}/policy.json {at}/cache", {"cache": {"unit": "mJ"}}),
    "policy_of_another_kind": (r"kind of outputs & fitted on: logits & Got summary", "evaluate {world}/policy.json {world}/records"),
    "run_on_truncated": (r"new\.npy & [Ss]ave", "run {world}/policy.json {at}/new.npy", {"new.npy": bytes_of(np.save, ZEROS)[:-64]}),
    "run_on_missing_file": (r"OUTPUTS & x\.npy \(missing\) & Check the path", "run {world}/policy.json {at}/x.npy"),
    "run_without_known_key": (r"new\.npz & logits & Got weights & [Rr]ename", "run {world}/policy.json {at}/new.npz", {"new.npz": dict.fromkeys(OWN) | {"weights": np.zeros(3)}}),
    "seeds_zero": (r"--seeds' must be greater than or equal to 1 & Got 0 & policyopt curve --help", f"{CURVE} --seeds 0"),
    "import_without_out": (r"--out' must be given & Got none & policyopt import --help", "import {at}/a.npz", {"a.npz": {}}),
}  # fmt: skip
CASES |= COMMANDS


def check_message(says, code, out, err, *places):
    """One message on standard error that says it; notes may stand before it."""
    for place in places:  # their names tell the test's name, and would satisfy any pattern
        err = err.replace(str(place), "PLACE")
    assert code == (3 if says.startswith("3: ") else 2) and not out, (code, out, err)
    assert "Traceback" not in err and 'File "' not in err and "internal error" not in err, err
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for pattern in says.removeprefix("3: ").split(" & "):
        assert re.search(pattern, " ".join(lines)), f"no {pattern!r} in: {err}"


def command(name, at, world):
    """Write the files of a case; return what it says and its words (in quotes: empty, or with spaces)."""
    says, line, *files = CASES[name]
    for file, content in (files[0] if files else {}).items():
        write(at / file, content, world)
    words = re.findall(r"'[^']*'|\S+", line)
    return says, [word.strip("'").format(at=at, world=world) for word in words]


@pytest.mark.parametrize("name", CASES)
def test_malformed(name, run, tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    says, words = command(name, tmp_path, world)
    before = tree(tmp_path)
    check_message(says, *run(*words), tmp_path, world)
    assert tree(tmp_path) == before
    assert (tmp_path / "out").exists() == any(n.split("/")[0] == "out" for n in before)


@pytest.mark.parametrize("name", ["nan", "budget_too_low"])
def test_in_a_process_of_its_own(name, tmp_path, world):
    says, words = command(name, tmp_path, world)
    line = [sys.executable, "-m", "policyopt", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    check_message(says, done.returncode, done.stdout, done.stderr, tmp_path, world)


def test_names_that_a_terminal_cannot_show_end_nothing(tmp_path, world):
    """A micro sign in a unit, on a terminal that knows ASCII only."""
    write(tmp_path / "cache", {"unit": "\u00b5s"}, world)
    line, environment = [sys.executable, "-m", "policyopt", "info"], {"PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*line, tmp_path / "cache"], capture_output=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert rb"\xb5s" in run.stdout
