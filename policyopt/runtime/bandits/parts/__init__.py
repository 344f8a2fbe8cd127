"""What bandits share: players of index bandits, memory, noise, saved states. No bandit is here."""

from __future__ import annotations
