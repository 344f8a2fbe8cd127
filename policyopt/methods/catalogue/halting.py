"""Halting: evidence that adds up over exits until it is enough."""

from policyopt.methods.row import Row

ROWS = (
    Row("act", "halting", "learned halting scores have added up to one", "Graves, ACT; Figurnov et al., SACT",
        2016, "arXiv:1603.08983; CVPR 2017, arXiv:1612.02297", "policyopt.methods.act:Act",
        "Near optimal_stopping, which does a little better: what is trained is a mixture of exits.",
        seconds=(1.5, 5.4)),
)  # fmt: skip
