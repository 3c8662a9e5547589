"""Few-shot prompt tuning of CLIP (SoftCPT and its baselines) from cached features."""

__all__ = ["__version__"]

__version__ = "0.1.0"
