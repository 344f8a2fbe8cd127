"""Tiers: device, edge and cloud with links between them, and plans of where to cut and where to exit."""
