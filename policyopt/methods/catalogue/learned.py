"""Learned: a model of what an exit's answer is worth, fitted on labelled rows."""

from policyopt.methods.row import Row

ROWS = (
    Row("optimal_stopping", "learned", "stopping is worth more than going on, as a regression says",
        "this project; after Bolukbasi et al.", 2017, "ICML 2017, arXiv:1702.07811",
        "policyopt.methods.optimal_stopping:OptimalStopping",
        "From about 1,000 rows on, and most at low budgets.", seconds=(0.8, 2.4)),
    Row("berxit", "learned", "a learned probability of being right is high", "Xin et al., BERxiT", 2021,
        "EACL 2021, learning-to-exit; on history features", "policyopt.methods.berxit:Berxit",
        "A calibrated probability with little training; sends hopeless samples on."),
    Row("bolukbasi", "learned", "a classifier says that stopping beats going on, each exit's learned after the later",
        "Bolukbasi et al., Adaptive neural networks", 2017, "ICML 2017, arXiv:1702.07811",
        "policyopt.methods.bolukbasi:Bolukbasi",
        "Hopeless samples leave early; optimal_stopping is a little better with the same answers.",
        defaults={"answer": "plain", "soft": 0.0}, seconds=(2, 9.3)),
    Row("lista_stop", "learned", "a stop probability, learned from a posterior that knows the label, is 1/2 or more",
        "Chen et al., Learning to stop while learning to predict", 2020, "ICML 2020, arXiv:2006.05082",
        "policyopt.methods.lista_stop:ListaStop",
        "Where exits differ much; loses to max_prob where several are about as right.",
        defaults={"answer": "plain"}, seconds=(2, 9.4)),
    Row("failure_prediction", "learned", "a failure that going on would mend is unlikely",
        "Kubaty et al., EEFP; Corbiere et al., ConfidNet", 2025, "arXiv:2508.21495; NeurIPS 2019, arXiv:1910.04851",
        "policyopt.methods.failure_prediction:FailurePrediction",
        "As berxit, but samples that no exit gets right leave early; no better where such are few."),
    Row("eenet", "learned", "a learned utility score is high; shares of exits learned per budget",
        "Ilhan et al., EENet", 2024, "WACV 2024, arXiv:2301.07099", "policyopt.methods.eenet:Eenet",
        "For comparison with its paper; trains once per budget.", trains=True, seconds=(15, 83)),
    Row("eenet_released", "learned", "the same by the formulas of EENet's released code, defects mended",
        "Ilhan et al., EENet", 2024, "git-disl/EENet at a5e80c8",
        "policyopt.methods.eenet_released:EenetReleased",
        "For comparison with published numbers.", trains=True, seconds=(15, 83)),
)  # fmt: skip
