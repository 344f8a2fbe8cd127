"""Models side by side: frontiers, tests over rows and over runs, streams."""
