"""Cascades: models called in turn, each paid for."""

from policyopt.methods.row import Row

ROWS: tuple[Row, ...] = (
    Row("deferral", "cascade", "a later exit's answer is not expected to be better",
        "Jitkrittum et al., When does confidence-based cascade deferral suffice?", 2023,
        "NeurIPS 2023, arXiv:2307.02764", "policyopt.methods.deferral:Deferral",
        "Where later exits are specialists, or labels noisy; else about as good as a confidence.",
        # A constant per exit, as in the paper; quotas suppose that each exit betters the one before.
        defaults={"thresholds": "joint"}, seconds=(3.3, 1.9)),
    Row("frugalgpt", "cascade", "a list of exits, chosen by the budget, scores high enough",
        "Chen, Zaharia & Zou, FrugalGPT", 2023, "arXiv:2305.05176, section 3; FrugalGPT at 41b5bbf",
        "policyopt.methods.frugalgpt:FrugalGPT",
        "Models sold by the call, some not worth asking; no better than max_prob where exits better each other.",
        online=False, seconds=(0.4, 1.2)),
    Row("agreement_cascade", "cascade", "the exits of a tier agree",
        "Kolawole et al., Agreement-based cascading (ABC)", 2025, "TMLR 2025, arXiv:2407.02348",
        "policyopt.methods.agreement_cascade:AgreementCascade",
        "Models of like cost whose confidences say nothing; loses where they do, and at low budgets.",
        discrete=True),
    Row("hidec", "cascade", "the confidence is high, or at a tier's boundary hopelessly low",
        "Ilhan et al., HiDEC", 2023, "WWW 2023 Companion, 10.1145/3543873.3587370",
        "policyopt.methods.hidec:Hidec",
        "One dear step, to the cloud, that many samples take in vain; window, with windows at boundaries only.",
        online=False, seconds=(3.1, 1.8)),
    Row("subset", "cascade", "another method says so, on the exits worth keeping at the budget",
        "this project; Bouchard, Is escalation worth it?", 2026, "arXiv:2605.06350; FrugalGPT, section 3",
        "policyopt.methods.subset:Subset",
        "Cascades in which some model is dear for what it knows; where exits better each other it keeps all.",
        online=False, seconds=(1.7, 1.8)),
)  # fmt: skip
