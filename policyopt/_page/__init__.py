"""Pages to look at: what they hold, and how they are drawn."""
