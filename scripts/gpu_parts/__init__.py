"""What `scripts/gpu_day.py` runs, part by part; each is a function of a `Setting` that gives rows of numbers."""
