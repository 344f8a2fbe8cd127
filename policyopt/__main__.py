"""``python -m policyopt``."""

from __future__ import annotations

from policyopt._cli import main

if __name__ == "__main__":
    main()
