"""Caches: per-exit outputs, labels, costs and metadata, on disk or in memory."""
