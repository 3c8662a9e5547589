"""Cache files, as the rooms below see them: found, opened, checked, listed and verified.

The form of the file is in `cptlite.cache_format`, its writing in `cptlite.cache_write`, the pass in `cptlite.encode`.
"""

from cptlite.cache_check import CacheSummary, list_caches, open_caches, verify_cache
from cptlite.cache_format import Fingerprint, cache_path
from cptlite.cache_reader import BadImage, FeatureCache, open_cache

__all__ = [
    "BadImage",
    "CacheSummary",
    "FeatureCache",
    "Fingerprint",
    "cache_path",
    "list_caches",
    "open_cache",
    "open_caches",
    "verify_cache",
]
