"""Consistency: whether the exits so far agree with each other."""

from policyopt.methods.row import Row

_THRESHOLD = "policyopt.methods.threshold:Threshold"

ROWS = (
    Row("patience", "consistency", "enough exits in a row agree", "Zhou et al., PABEE", 2020,
        "NeurIPS 2020, arXiv:2006.04152", "policyopt.methods.patience:Patience",
        "Many exits of like cost; with few exits it has few policies to offer.",
        discrete=True),
    Row("vote", "consistency", "a large share of the exits so far agrees", "Ilhan et al., EENet", 2024,
        "WACV 2024, arXiv:2301.07099, eq. 7", _THRESHOLD,
        "As patience; says nothing at exit 0.", {"score": "vote"},
        # Few distinct scores, and none that says anything at exit 0: quotas cannot divide them.
        {"thresholds": "joint"}, discrete=True, seconds=(2.7, 1.7)),
    Row("pf_berxit", "consistency", "adjacent exits' distributions have been alike for some exits",
        "Gao et al., PF-BERxiT", 2023, "Neurocomputing 558, 126690",
        "policyopt.methods.pf_berxit:PfBerxit",
        "Many exits of like cost; at low budgets it loses, for exit 0 says nothing.",
        {"score": "similarity"}, discrete=True, seconds=(8.6, 4.8)),
    Row("leco", "consistency", "the distribution hardly differs from the exit before",
        "Zhang et al., LECO", 2023, "ACL 2023 student research workshop, pages 298-309",
        "policyopt.methods.leco:Leco",
        "As pf_berxit, with one comparison; at low budgets it loses, for exit 0 says nothing.",
        {"score": "similarity"}, discrete=True, seconds=(3.2, 1.6)),
    Row("dda", "consistency", "the exits so far lie near their mean prediction, and it is sure",
        "Li et al., DDA", 2021, "CVPR 2021, arXiv:2103.16403", "policyopt.methods.dda:Dda",
        "Exits of like accuracy; below max_prob where late exits are far better than the mean.",
        {"score": "dda"}),
    Row("beem", "consistency", "exits that agree have gathered enough weighted confidence",
        "Bajpai & Hanawal, BEEM", 2025, "ICLR 2025, arXiv:2502.00745", "policyopt.methods.beem:Beem",
        "Many exits of like accuracy, also as records; near max_prob, and below it at low budgets where few agree.",
        {"score": "beem"}),
    Row("window", "consistency", "confidence is high, or so low that going on is not worth it",
        "Xia & Bouganis, window-based early-exit cascades", 2023, "ICCV 2023, arXiv:2303.08010",
        "policyopt.methods.window:Window",
        "Where many samples are hopeless, as in cascades of language models; elsewhere as joint thresholds.",
        online=False, seconds=(3.1, 1.9)),
)  # fmt: skip
