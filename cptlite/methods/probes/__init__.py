"""Methods fitted at once on cached features; one file per idea."""
