"""Drift of the inputs, noticed without labels beside a deployed policy; numpy only.

For every request, a few statistics: the score and the predicted class at the first exit, the exit
taken, the score at each later exit among the requests that reached it. Each becomes a smoothed
conformal p-value; bets against p-values being uniform are summed as Shiryaev and Roberts do; an
alarm is raised where one of the J sums reaches ``2 * J * run_length``.

What is proven
--------------
While reference and requests are exchangeable (e.g. independent draws of one distribution):

1. The p-values of one statistic are independent and uniform, to the coin's 2**-24 (Vovk, Gammerman &
   Shafer, "Algorithmic Learning in a Random World": smoothed conformal transducers). This needs that
   cells are set by rows outside the pool (`Reference.of`), and that every request joins the pool.
2. Bets have mean 1 given the p-values before, so the sum R of a statistic, the mean over its bets,
   less the number of requests is a martingale: an e-detector (Shin, Ramdas & Rinaldo, NEJSDS 2024).
   For its first time T at a limit L: ``L * P(T <= m) <= E[min(T, m)] <= m``.
3. Each sum is a martingale in the history of its *own* p-values only: conformal martingales of
   several statistics may not be averaged (Choe & Ramdas, "Combining evidence across filtrations",
   2402.09698). So each has its own limit, and the union bound gives ``P(alarm within m requests) <=
   m / (2 * run_length)``, whatever the dependence; summed over m, the mean number of requests to a
   false alarm is at least `run_length`.

Not proven: how soon a change is found. Requests after a change join the pool and dilute it ("test-time
contamination", Shaer et al., 2602.13848). Freezing the pool is no way out: with n reference rows, what
they miss of the distribution is soon taken for drift; Shaer et al. pay for that by a margin. A growing
pool keeps point 1 exact and costs little where delays are small beside n. A change that shows only in
how statistics go together, each staying as it was, is not seen at all.

Departures: one limit per statistic instead of an average of e-detectors, for the reason in 3; the
bets (see `detector`); an estimate of the change by the last start of a CUSUM run of the same bets.

Reference rows must not have trained anything that deployed scores depend on: take those of split
``calibrate``, or recent traffic that was found sound. Thresholds that a controller or a bandit moves
change exits and which requests reach later exits, though inputs stay: then ``steered=True`` watches
the two statistics of the first exit only, on which thresholds have no effect.
"""

from __future__ import annotations

from .watch import Alarm, DriftWatch, Movement, Reference

__all__ = ["Alarm", "DriftWatch", "Movement", "Reference"]
