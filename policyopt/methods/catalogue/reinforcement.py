"""Reinforcement learning: the exit problem as a Markov decision process."""

from policyopt.methods.row import Row

ROWS = (
    Row("fitted_q", "reinforcement", "the estimated worth of stopping is at least that of going on",
        "Ernst et al., fitted Q iteration", 2005, "JMLR 6, 503-556, section 3.2",
        "policyopt.methods.fitted_q:FittedQ",
        "As optimal_stopping, with less noisy and more biased targets: about as good, seldom better.",
        seconds=(0.8, 2.4)),
    Row("policy_gradient", "reinforcement", "a randomised policy, climbed by its exact gradient, likely leaves",
        "Sutton et al., policy gradient theorem", 1999, "NIPS 12, theorem 1, summed over all exits",
        "policyopt.methods.policy_gradient:PolicyGradient",
        "Polishes optimal_stopping on what is deployed; gains little, and takes longer.", seconds=(7, 13)),
    Row("reinforce", "reinforcement", "a randomised policy, learned from sampled episodes, likely leaves",
        "Guan et al., cascaded deep classifiers", 2018, "IJCAI 2018, arXiv:1710.03368",
        "policyopt.methods.reinforce:Reinforce",
        "Sampling loses little to policy_gradient when episodes are many; slower, and never surer.",
        seconds=(12, 34)),
    Row("epnet", "reinforcement", "a controller of its own, learned from sampled episodes, likely leaves",
        "Dai et al., EPNet", 2020, "CIKM 2020, doi:10.1145/3340531.3411973",
        "policyopt.methods.epnet:EPNet",
        "For comparison: a network per exit nearly keeps up with a regression, at ten times the time.",
        seconds=(3.6, 11.5)),
    Row("dqn", "reinforcement", "a Q-network says that leaving is worth at least as much as going on",
        "Mnih et al., DQN; Kim & Lee, To Exit or Not to Exit", 2024,
        "Nature 518 (2015); Mathematics 12(14):2263", "policyopt.methods.dqn:DQN",
        "For comparison: one network for all budgets; the noise of its training costs a third of the gain or more.",
        seconds=(1.5, 11)),
)  # fmt: skip
