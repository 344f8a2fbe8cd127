"""The registry of methods: one row each, by family; and methods of your own.

A row is all that command line, docs and shared checks know of a method; its class is imported when used.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from policyopt._engine import elsewhere, parallel
from policyopt._methods.settings import explained, parse_spec
from policyopt.runtime._checks import check_type, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._scores import (
    OWN,
    RULES,
    ScoreRule,
    check_name,
    load_plugins,
    when_registered,
)

if TYPE_CHECKING:
    from policyopt._methods.base import Method

#: What the columns that a method reads are called in a cache.
_NEEDS = {"log_prob": "logits", "margin": "top_prob"}


@dataclass(frozen=True)
class MethodSpec:
    """What the registry knows about a method.

    `summary` completes "leaves where ...", `wins` says when to choose it, `reference` where the paper is.
    `factory`: ``module:Class`` of this package, or a class; `preset`: settings that make it this method,
    `defaults`: other than the class's own. `needs`: ``labels``, ``logits``, ``features``, or of summaries
    ``entropy``, ``top_prob``; ``query``; ``cascade``, models that are paid one by one. `trains`: for long, so that
    ``all`` leaves it out. `online`: one number orders its policies. `seconds`: of a processor, for nine budgets and
    549 or 5,000 rows of five exits and ten classes (benchmarks/few_rows.py). `discrete`: few distinct scores, so that
    budgets are met by mixing.
    """

    name: str
    family: str
    summary: str
    paper: str
    year: int
    reference: str
    factory: str | type[Method]
    wins: str = ""
    preset: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ("labels",)
    trains: bool = False
    online: bool = True
    discrete: bool = False
    seconds: tuple[float, float] = (0.2, 0.8)

    def load(self) -> type[Method]:
        """Import the class."""
        if not isinstance(self.factory, str):
            return self.factory
        module, name = self.factory.split(":")
        return getattr(import_module(f"policyopt._methods.{module}"), name)

    def settings(self) -> dict[str, Any]:
        """Return the settings open to the user, with their defaults."""
        known = sorted(fields(self.load()), key=lambda f: bool(f.kw_only))  # its own first
        own = {f.name: f.default for f in known if f.name not in self.preset}
        return {**own, **self.defaults}

    def explained(self) -> list[dict[str, Any]]:
        """Return a record per setting: its default, what is allowed, and what it does."""
        return explained(self.load(), self.settings(), self.load().merged("allowed"))

    def scale(self) -> str:
        """Return how thresholds are to be read where papers have another scale and direction."""
        rule = RULES.get(self.preset.get("score", self.name))
        if rule is None or rule.below is None:
            return ""
        given = ", or give thresholds=nats<0.3,0.3" if self.name == "entropy" else ""
        return (
            f"thresholds are on {rule.below[1]}, left at or above; papers' are on the {rule.below[0]}, "
            f"left below{given}"
        )

    def expected_seconds(self, rows: int, budgets: int) -> float:
        """Return about how many processor seconds a fit takes; from 5,000 to some 30,000 rows as many."""
        found = float(np.interp(rows, (549, 5000), self.seconds))
        return found * (budgets / 9 if self.trains else 1.0)

    def supports(self) -> dict[str, bool]:
        """Return whether it can be steered ``online``, and whether it works on ``summaries``."""
        return {"online": self.online, "summaries": not {"logits", "features"} & set(self.needs)}


def needs_of(columns: Collection[str], labelled: bool) -> tuple[str, ...]:
    """Return what a cache must hold for a method that reads such columns, and labels to fit."""
    found = {_NEEDS.get(name, name) for name in columns}
    if "logits" in found:  # they hold all that a summary may
        found &= {"logits", "features"}
    return (*(["labels"] if labelled else []), *sorted(found))


_THRESHOLD = "threshold:Threshold"
_WHOLE = ("labels", "logits")

METHODS: tuple[MethodSpec, ...] = (
    # Static confidence: what the present exit says, and nothing learned.
    MethodSpec("max_prob", "confidence", "the largest class probability is high",
        "Huang et al., MSDNet; Kaya et al., SDN", 2018,
        "ICLR 2018, arXiv:1703.09844; ICML 2019, arXiv:1810.07052", _THRESHOLD,
        "The baseline to beat; nothing to train, and hard to beat with few rows.", {"score": "max_prob"}, needs=()),
    MethodSpec("entropy", "confidence", "the entropy of the class probabilities is low",
        "Teerapittayanon et al., BranchyNet", 2016, "ICPR 2016, arXiv:1709.01686; scaled as EENet eq. 6",
        _THRESHOLD, "Where doubt between many classes matters; seldom better than max_prob.",
        {"score": "entropy"}, needs=("entropy",)),
    MethodSpec("margin", "confidence", "the two largest probabilities are far apart",
        "Park et al., Big/LITTLE deep neural network", 2015, "CODES+ISSS 2015", _THRESHOLD,
        "The best simple rule where classes are many, and with few rows.", {"score": "margin"}, needs=("top_prob",)),
    # Consistency: whether the exits so far agree with each other.
    MethodSpec("patience", "consistency", "enough exits in a row agree", "Zhou et al., PABEE", 2020,
        "NeurIPS 2020, arXiv:2006.04152", "consistency:Patience",
        "Many exits of like cost; with few exits it has few policies to offer.", discrete=True, needs=()),
    MethodSpec("vote", "consistency", "a large share of the exits so far agrees", "Ilhan et al., EENet", 2024,
        "WACV 2024, arXiv:2301.07099, eq. 7", "consistency:Vote",
        "As patience; says nothing at exit 0. With thresholds=geometric EENet's column PABEE.", {"score": "vote"},
        # Few distinct scores, and none that says anything at exit 0: quotas divide them by a coin only.
        {"thresholds": "joint"}, discrete=True, seconds=(2.7, 1.7)),
    MethodSpec("pf_berxit", "consistency", "adjacent exits' distributions have been alike for some exits",
        "Gao et al., PF-BERxiT", 2023, "Neurocomputing 558, 126690", "consistency:PFBERxiT",
        "Many exits of like cost; at low budgets it loses, for exit 0 says nothing.",
        {"score": "similarity"}, discrete=True, seconds=(8.6, 4.8), needs=_WHOLE),
    MethodSpec("leco", "consistency", "the distribution hardly differs from the exit before",
        "Zhang et al., LECO", 2023, "ACL 2023 student research workshop, pages 298-309", "consistency:LeCo",
        "As pf_berxit, with one comparison; at low budgets it loses, for exit 0 says nothing.",
        {"score": "similarity"}, discrete=True, seconds=(3.2, 1.6), needs=_WHOLE),
    MethodSpec("dda", "consistency", "the exits so far lie near their mean prediction, and it is sure",
        "Li et al., DDA", 2021, "CVPR 2021, arXiv:2103.16403", "consistency:DDA",
        "Exits of like accuracy; below max_prob where late exits are far better than the mean.",
        {"score": "dda"}, needs=("logits",)),
    MethodSpec("beem", "consistency", "exits that agree have gathered enough weighted confidence",
        "Bajpai & Hanawal, BEEM", 2025, "ICLR 2025, arXiv:2502.00745", "consistency:BEEM",
        "Many exits of like accuracy, also as summaries; near max_prob, and below it at low budgets where few agree.",
        {"score": "beem"}),
    MethodSpec("window", "consistency", "confidence is high, or so low that going on is not worth it",
        "Xia & Bouganis, window-based early-exit cascades", 2023, "ICCV 2023, arXiv:2303.08010", "window:Window",
        "Where many samples are hopeless, as in cascades of language models; elsewhere as joint thresholds.",
        online=False, seconds=(3.1, 1.9)),
    # Distances: how near a sample lies to what each class looks like.
    MethodSpec("e2cm", "distance", "a class mean is near, with its class", "Görmez et al., E2CM", 2022,
        "IJCNN 2022, arXiv:2103.01148", "prototypes:E2CM",
        "Exits whose heads are poor or untrained; trained ones do better: answer=plain, or max_prob.", needs=_WHOLE),
    MethodSpec("de3_bert", "distance", "entropy is low and the answer's class prototype near",
        "He et al., DE3-BERT", 2024, "arXiv:2402.05948", "prototypes:DE3BERT",
        "Entropy with a second opinion; of most use on features of a well-spread space.", needs=_WHOLE),
    MethodSpec("trust_score", "distance", "training rows of the answer's class are nearer than of any other",
        "Jiang et al., To trust or not to trust a classifier", 2018, "NeurIPS 2018, arXiv:1805.11783",
        "prototypes:TrustScore",
        "Overconfident exits and few classes; dear where vectors are wide, blunt where rows are few.",
        seconds=(5.8, 8.4), needs=_WHOLE),
    # Class-aware and accuracy-controlled: thresholds that know the class, or the accuracy they promise.
    MethodSpec("cbt", "class_aware", "confidence is high for the predicted class, lower for easy classes",
        "Görmez & Koyuncu, Class based thresholding", 2022, "arXiv:2210.15621", "prototypes:CBT",
        "Classes of very unequal difficulty; loses to max_prob where they are alike."),
    MethodSpec("pcee", "class_aware", "rows of like confidence were right often enough",
        "Mofakhami et al., PCEE", 2024, "arXiv:2412.19325", "threshold:PCEE",
        "To ask for an accuracy (delta) instead of a cost; its bins waste what lies within them."),
    MethodSpec("eero", "class_aware", "confidence is among the highest; shares of exits weigh their risks",
        "Valade et al., EERO", 2025, "UAI 2025, arXiv:2402.03779", "threshold:EERO",
        "Exits of which some are worse than cheaper ones; it ignores which samples reach an exit."),
    # Learned: a model of what an exit's answer is worth, fitted on labelled rows.
    MethodSpec("optimal_stopping", "learned", "stopping is worth more than going on, as a regression says",
        "this project; after Bolukbasi et al.", 2017, "ICML 2017, arXiv:1702.07811",
        "lagrangian:OptimalStopping", "From about 1,000 rows on, and most at low budgets.", seconds=(0.8, 2.4)),
    MethodSpec("berxit", "learned", "a learned probability of being right is high", "Xin et al., BERxiT", 2021,
        "EACL 2021, learning-to-exit; on history features", "learned_score:BERxiT",
        "A calibrated probability with little training; sends hopeless samples on."),
    MethodSpec("bolukbasi", "learned",
        "a classifier says that stopping beats going on, each exit's learned after the later",
        "Bolukbasi et al., Adaptive neural networks", 2017, "ICML 2017, arXiv:1702.07811",
        "lagrangian:Bolukbasi",
        "Hopeless samples leave early; optimal_stopping is a little better with the same answers.",
        defaults={"answer": "plain", "soft": 0.0}, seconds=(2, 9.3)),
    MethodSpec("lista_stop", "learned",
        "a stop probability, learned from a posterior that knows the label, is 1/2 or more",
        "Chen et al., Learning to stop while learning to predict", 2020, "ICML 2020, arXiv:2006.05082",
        "halting:LISTAStop", "Where exits differ much; loses to max_prob where several are about as right.",
        defaults={"answer": "plain"}, seconds=(2, 9.4)),
    MethodSpec("failure_prediction", "learned", "a failure that going on would mend is unlikely",
        "Kubaty et al., EEFP; Corbiere et al., ConfidNet", 2025, "arXiv:2508.21495; NeurIPS 2019, arXiv:1910.04851",
        "learned_score:FailurePrediction",
        "As berxit, but samples that no exit gets right leave early; no better where such are few."),
    MethodSpec("eenet", "learned", "a learned utility score is high; shares of exits learned per budget",
        "Ilhan et al., EENet", 2024, "WACV 2024, arXiv:2301.07099", "eenet:EENet",
        "For comparison with its paper; trains once per budget.", trains=True, seconds=(15, 83), needs=_WHOLE),
    MethodSpec("eenet_released", "learned", "the same by the formulas of EENet's released code, defects mended",
        "Ilhan et al., EENet", 2024, "git-disl/EENet at a5e80c8", "eenet:EENetReleased",
        "For comparison with published numbers.", trains=True, seconds=(15, 83), needs=_WHOLE),
    # Halting: evidence that adds up over exits until it is enough.
    MethodSpec("act", "halting", "learned halting scores have added up to one", "Graves, ACT; Figurnov et al., SACT",
        2016, "arXiv:1603.08983; CVPR 2017, arXiv:1612.02297", "halting:ACT",
        "Near optimal_stopping, which does a little better: what is trained is a mixture of exits.",
        seconds=(1.5, 5.4)),
    # Reinforcement learning: the exit problem as a Markov decision process.
    MethodSpec("fitted_q", "reinforcement", "the estimated worth of stopping is at least that of going on",
        "Ernst et al., fitted Q iteration", 2005, "JMLR 6, 503-556, section 3.2", "lagrangian:FittedQ",
        "As optimal_stopping, with less noisy and more biased targets: about as good, seldom better.",
        seconds=(0.8, 2.4)),
    MethodSpec("policy_gradient", "reinforcement", "a randomised policy, climbed by its exact gradient, likely leaves",
        "Sutton et al., policy gradient theorem", 1999, "NIPS 12, theorem 1, summed over all exits",
        "halting:PolicyGradient",
        "Polishes optimal_stopping on what is deployed; gains little, and takes longer.", seconds=(7, 13)),
    MethodSpec("reinforce", "reinforcement", "a randomised policy, learned from sampled episodes, likely leaves",
        "Guan et al., cascaded deep classifiers", 2018, "IJCAI 2018, arXiv:1710.03368", "reinforcement:REINFORCE",
        "Sampling loses little to policy_gradient when episodes are many; slower, and never surer.", seconds=(12, 34)),
    MethodSpec("epnet", "reinforcement", "a controller of its own, learned from sampled episodes, likely leaves",
        "Dai et al., EPNet", 2020, "CIKM 2020, doi:10.1145/3340531.3411973", "reinforcement:EPNet",
        "For comparison: a network per exit nearly keeps up with a regression, at ten times the time.",
        seconds=(3.6, 11.5)),
    MethodSpec("dqn", "reinforcement", "a Q-network says that leaving is worth at least as much as going on",
        "Mnih et al., DQN; Kim & Lee, To Exit or Not to Exit", 2024,
        "Nature 518 (2015); Mathematics 12(14):2263", "reinforcement:DQN",
        "For comparison: one network for all budgets; the noise of its training costs a third of the gain or more.",
        seconds=(1.5, 11)),
    # Cascades: models called in turn, each paid for.
    MethodSpec("deferral", "cascade", "a later exit's answer is not expected to be better",
        "Jitkrittum et al., When does confidence-based cascade deferral suffice?", 2023,
        "NeurIPS 2023, arXiv:2307.02764", "learned_score:Deferral",
        "Where later exits are specialists, or labels noisy; else about as good as a confidence.",
        # A constant per exit, as in the paper; quotas suppose that each exit betters the one before.
        defaults={"thresholds": "joint"}, seconds=(3.3, 1.9)),
    MethodSpec("frugalgpt", "cascade", "a list of exits, chosen by the budget, scores high enough",
        "Chen, Zaharia & Zou, FrugalGPT", 2023, "arXiv:2305.05176, section 3; FrugalGPT at 41b5bbf",
        "frugalgpt:FrugalGPT",
        "Models sold by the call, some not worth asking; no better than max_prob where exits better each other.",
        online=False, seconds=(0.4, 1.2)),
    MethodSpec("agreement_cascade", "cascade", "the exits of a tier agree",
        "Kolawole et al., Agreement-based cascading (ABC)", 2025, "TMLR 2025, arXiv:2407.02348",
        "consistency:AgreementCascade",
        "Models of like cost whose confidences say nothing; loses where they do, and at low budgets.", discrete=True),
    MethodSpec("hidec", "cascade", "the confidence is high, or at a tier's boundary hopelessly low",
        "Ilhan et al., HiDEC", 2023, "WWW 2023 Companion, 10.1145/3543873.3587370", "window:HiDEC",
        "One dear step, to the cloud, that many samples take in vain; window, with windows at boundaries only.",
        online=False, seconds=(3.1, 1.8)),
    MethodSpec("subset", "cascade", "another method says so, on the exits worth keeping at the budget",
        "this project; Bouchard, Is escalation worth it?", 2026, "arXiv:2605.06350; FrugalGPT, section 3",
        "choosing:Subset",
        "Cascades in which some model is dear for what it knows; where exits better each other it keeps all.",
        online=False, seconds=(1.7, 1.8)),
    MethodSpec("routing", "cascade", "no model that might be asked next, in any order, is worth its price",
        "Dekoninck et al., cascade routing; this project", 2024, "arXiv:2410.10347", "routing:Routing",
        "Models paid by the call: which first, which next, answers joined. Not for exits of one network.",
        online=False, needs=("labels", "cascade"), seconds=(1.1, 2.7)),
    MethodSpec("router", "cascade", "always, at the one model that the query chooses",
        "Ding et al., Hybrid LLM; Hu et al., RouterBench", 2024, "arXiv:2404.14618; arXiv:2403.12031", "routing:Router",
        "One call per sample, where something is known before it. Where a second may follow, routing.",
        online=False, needs=("labels", "cascade", "query"), seconds=(2, 6)),
    # Choice among methods.
    MethodSpec("auto", "choice", "whichever of several does best at the budget says so",
        "this project; shrinkage of Efron & Morris", 1973, "JASA 68, 117-130",
        "choosing:Auto", "The default: within noise of the best simple one, or above it.", online=False,
        seconds=(10, 4.5)),
    # Null baselines: what any policy must beat.
    MethodSpec("always", "null", "it is the best single exit that the budget allows", "null baseline", 0, "-",
        "baselines:Always",
        "The bar for all others; in a cascade whose models cost unlike what they know it may stand high.",
        online=False),
    MethodSpec("random", "null", "a coin says so", "null baseline", 0, "-", "baselines:Random",
        "Never; shows what the budget alone gives.", needs=())
)  # fmt: skip


ROWS: dict[str, MethodSpec] = {row.name: row for row in METHODS}
FAMILIES = list(dict.fromkeys(row.family for row in METHODS))
#: The family of methods that are not ours.
OWN_FAMILY = "own"
_LISTED = "`policyopt methods` lists them."
#: A comma between methods: names never begin like a number, thresholds always do.
_COMMA = re.compile(r",(?!\s*[-+.0-9])")


def register_method(
    name: str | type[Method] | None = None,
    *,
    summary: str = "it says so",
    wins: str = "",
    paper: str = "your own",
    year: int = 0,
    reference: str = "-",
    trains: bool = False,
    online: bool = True,
) -> Any:
    """Make a method of your own known by its name: to fits, comparisons, `auto` and the command line.

    A decorator, with or without arguments. An installed package registers by an entry point of the group
    ``policyopt.methods``. A static score needs none: `register_score` makes it a method, too.

    Parameters
    ----------
    name : str, optional
        Default: the class's ``label``, which is the same where both are given.
    summary, wins, paper, year, reference : str, int
        What `policyopt methods` says: "leaves where <summary>", when to choose it, where it is from.
    trains : bool
        It trains for long: ``--methods all`` leaves it out.
    online : bool
        One number orders its policies from cheap to dear, so that a controller or bandit can move it.

    Returns
    -------
    the class, or a decorator

    Raises
    ------
    InputError
        No such class, a name that is no name or is taken.

    Examples
    --------
    >>> import policyopt as po
    >>> from dataclasses import dataclass
    >>> @po.register_method(summary="exit 0 is sure")  # doctest: +SKIP
    ... @dataclass(frozen=True)
    ... class Sure(po.LearnedScore):
    ...     label = "sure"
    ...
    ...     def learn(self, seen, seed):
    ...         return po.make_score("max_prob")
    """

    def enter(method: type[Method]) -> type[Method]:
        from policyopt._methods.base import Method

        step = "Derive a frozen dataclass from policyopt.LearnedScore or policyopt.Method."
        known = isinstance(method, type) and issubclass(method, Method)
        if not known or inspect.isabstract(method):
            got = getattr(method, "__name__", method)
            raise input_error("method", "a class of methods", got, step)
        label: Any = name if isinstance(name, str) else method.label
        who = f"method {method.__name__}"
        if vars(method).get("label", label) != label:  # files and records say it
            allowed = f"the name it is registered by, {name}"
            raise input_error(f"label of {method.__name__}", allowed, method.label, "Give one.")
        if "__dataclass_fields__" not in vars(method):
            raise input_error(who, "a frozen dataclass", "another class", step)
        bare = [f for f in fields(method) if f.default is MISSING]  # type: ignore[arg-type]
        lacking = [f.name for f in bare if f.default_factory is MISSING]
        if lacking:
            got = f"none for {', '.join(lacking)}"
            raise input_error(who, "a class whose settings have defaults", got, step)
        made = method()
        spec = MethodSpec(
            label, OWN_FAMILY, summary, paper, year, reference, method, wins, trains=trains, online=online,
            needs=needs_of(made.required_columns(), made.requires_labels())
        )  # fmt: skip
        _enter(spec, method)
        method.label = label
        return method

    return enter(name) if isinstance(name, type) else enter


def own_method(label: str, method: Method) -> str:
    """Return the name of what is of one's own, a method or a score, and this is, has, or may choose; else nothing."""
    own = [row.name for row in ROWS.values() if row.family == OWN_FAMILY]
    own += [rule.name for rule in RULES.values() if rule not in OWN]
    said = re.findall(r"\w+", f"{label} {method.name} {method!r}")
    if found := next((name for name in own if method.chooses or name in said), ""):
        return found
    each: list[Any] = [
        one for one in (method, getattr(method, "inner", "")) if not isinstance(one, str)
    ]
    return next((m.name for m in each if not type(m).__module__.startswith("policyopt.")), "")


def own_among(methods: Mapping[str, Method]) -> str:
    """Return the name of the first method of one's own; else nothing."""
    return next((name for one in methods.items() if (name := own_method(*one))), "")


@contextmanager
def here_only(own: str, notes: list[str] | None = None) -> Iterator[None]:
    """Stay in this process, and note so, where something of one's own is registered in this one alone."""
    stay = bool(own) and elsewhere()
    if stay and notes is not None:
        notes.append(f"one process: {own} is your own, and registered in this one alone")
    with parallel(1) if stay else nullcontext():
        yield


def _enter(spec: MethodSpec, owner: type) -> None:
    """Enter a row; a class that was defined again replaces itself."""
    _owners[check_name(spec.name, owner, _owners.get(spec.name), "method")] = owner
    ROWS[spec.name] = spec
    if OWN_FAMILY not in FAMILIES:
        FAMILIES.append(OWN_FAMILY)


def _static(rule: type[ScoreRule]) -> None:
    """Make a score without parameters a method: thresholds on it."""
    given = {f.name for f in fields(rule) if f.default is MISSING}  # type: ignore[arg-type]
    if not given <= {"classes"} or not isinstance(rule.required_columns, frozenset):
        there = _owners.get(rule.name)
        if there is not None and there.__qualname__ == rule.__qualname__:  # it was static before
            del _owners[rule.name], ROWS[rule.name]
    else:
        said = (rule.__doc__ or "").strip().split("\n")[0].rstrip(".") or f"{rule.name} is high"
        spec = MethodSpec(
            rule.name, OWN_FAMILY, said, "your own", 0, "-", "threshold:Threshold",
            preset={"score": rule.name}, needs=needs_of(rule.required_columns, labelled=False)
        )  # fmt: skip
        _enter(spec, rule)


def load_installed() -> None:
    """Import what installed packages register, so that it is listed."""
    load_plugins("policyopt.scores")
    load_plugins("policyopt.methods")


#: Who has which name; `object`: it is ours.
_owners: dict[str, type] = dict.fromkeys(ROWS, object)
when_registered(_static)


def method_list(methods: str | Sequence[str], argument: str = "methods") -> list[str]:
    """Return names of methods, given as several or as one text with commas; ``all`` stands alone.

    >>> method_list("max_prob:thresholds=0.9,0.8, margin")
    ['max_prob:thresholds=0.9,0.8', 'margin']
    """
    given = _COMMA.split(methods) if isinstance(methods, str) else methods
    given = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in given):
        step = "E.g. ['max_prob', 'margin']; methods that are built go into a mapping of label to method."
        raise input_error(argument, "a name or several", methods, step)
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise input_error(argument, "at least one method", "none", _LISTED)
    if "all" in names and len(names) > 1:
        raise input_error(argument, "names or all alone", ", ".join(names), "Leave the others out.")
    return names


def make_method(spec: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its name and settings.

    Parameters
    ----------
    spec : str
        A name, or a name with settings: ``max_prob:thresholds=joint+mix=true``.
    settings : mapping, optional
        More settings; values may be text as on the command line.

    Returns
    -------
    Method

    Raises
    ------
    InputError
        Unknown method or setting.

    Examples
    --------
    >>> make_method("max_prob:thresholds=joint")
    Threshold(spend='needed', score='max_prob', thresholds='joint', mix=False, answer='plain', shared_map='platt')
    """
    check_type("method", spec, str, "a name such as max_prob", _LISTED)
    name, inline = parse_spec(spec)
    if name not in ROWS:
        load_installed()
    if name not in ROWS:
        close = difflib.get_close_matches(name.lower(), ROWS, n=1)
        hint = "`policyopt methods` lists them; one of your own is registered first (--plugin FILE_OR_MODULE)."
        if close:
            hint = f"Did you mean '{close[0]}'?"
        raise input_error("method", f"one of {', '.join(ROWS)}", name, hint)
    row = ROWS[name]
    for key in inline.keys() & (settings or {}).keys():
        got = f"'{spec}' and a setting besides"
        raise input_error(f"{key} of {name}", "set once", got, "Drop one of the two.")
    wanted = {**row.defaults, **(settings or {}), **inline}
    allowed = row.settings()
    for key in wanted:
        if key not in allowed:
            known, step = ", ".join(allowed) or "none", f"See `policyopt methods {name}`."
            raise input_error(f"setting of {name}", f"one of: {known}", key, step)
    return row.load()(**row.preset, **{key: parse_value(value) for key, value in wanted.items()})


def at_most(method: Method, exits: int | None) -> Method:
    """Return the method on the best set of at most so many exits at each budget, see `subset`; None: as it is."""
    if exits is None:
        return method
    check_whole("max_exits", exits, step="E.g. --max-exits 2 (Python: max_exits=2).")
    method = method.in_turn("max_exits")
    if method.fixed:
        step = "Leave the thresholds (or the exit) to the fit: they are of all exits."
        raise input_error("max_exits", "given with a method that chooses them", method.name, step)
    if method.name == "subset":
        own = method.settings()["most"]
        return replace(method, **{"most": exits if own is None else min(own, exits)})
    return make_method("subset", {"inner": spec_of(method), "most": exits})


def spec_of(method: Method) -> str:
    """Return a name with settings that makes the method."""
    plain, own = make_method(method.name).settings(), method.settings()

    told = {k: own[k] for k in ROWS[method.name].settings() if own[k] != plain[k]}
    texts = {k: v if isinstance(v, tuple) else (v,) for k, v in told.items()}
    inline = "+".join(f"{k}={','.join(map(str, v))}" for k, v in texts.items())
    return f"{method.name}:{inline}" if inline else method.name


def apply_settings(specs: list[str], settings: Mapping[str, Any]) -> dict[str, Method]:
    """Build several methods; each takes those settings that it has, and every setting must find one."""
    chosen, used = {}, set()
    for spec in specs:
        name, own = parse_spec(spec)
        row = ROWS.get(name)
        mine = {k: v for k, v in settings.items() if row and k in row.settings()}
        used |= mine.keys()
        # What stands in the spec itself is meant for this method: it goes before the common setting.
        chosen[spec] = make_method(spec, {k: v for k, v in mine.items() if k not in own})
    for key in settings.keys() - used:
        raise input_error("setting", f"one that {' or '.join(specs)} has", key, _LISTED)
    return chosen


def parse_value(value: Any) -> Any:
    """Turn a setting's text into a number, a truth value, a tuple of numbers, or leave it a text.

    >>> parse_value("0.9,0.8"), parse_value("true"), parse_value("3"), parse_value("joint")
    ((0.9, 0.8), True, 3, 'joint')
    >>> parse_value("nats<0.3,0.3")
    'nats<0.3,0.3'
    """
    if hasattr(value, "tolist"):  # numpy arrays and numbers
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(parse_value(v) for v in value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if "," in text and "<" not in text:
        return tuple(_number(part) for part in text.split(",") if part.strip())
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        step = "E.g. --set thresholds=0.9,0.8."
        raise input_error("setting", "numbers such as 0.9,0.8", text.strip(), step) from error
