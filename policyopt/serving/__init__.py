"""Serving staged PyTorch models: batches whose survivors are regrouped after every exit, or queued with others.

>>> from policyopt.serving import StagedModel, serve  # doctest: +SKIP
>>> server = serve(StagedModel(stages, heads), policy)  # doctest: +SKIP
>>> served = server(batch)  # doctest: +SKIP
>>> served.prediction, served.exit, served.cost  # doctest: +SKIP
"""

from __future__ import annotations

from policyopt.serving._adapters import from_encoder, from_sequential
from policyopt.serving._batching import ContinuousBatcher
from policyopt.serving._collect import Measured, export_cache, measure
from policyopt.serving._latency import LatencyTable
from policyopt.serving._server import Served, Server, serve
from policyopt.serving._staged import StagedModel, TrainingModeWarning

__all__ = [
    "ContinuousBatcher", "LatencyTable", "Measured", "Served", "Server", "StagedModel",
    "TrainingModeWarning", "export_cache", "from_encoder", "from_sequential", "measure", "serve",
]  # fmt: skip
