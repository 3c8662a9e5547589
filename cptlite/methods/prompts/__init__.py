"""Methods that learn by gradient steps, most of them prompts; one file per idea."""
