"""Cache files, as the rooms below see them: found, opened, checked, listed and verified.

The form of the file is in `cptlite.cache.format`, its writing in `cptlite.cache.write`, the pass that fills it in
`cptlite.cache.encode`.
"""

from cptlite.cache.folder import CacheFolder, CacheSummary, cache_files, list_caches, open_caches
from cptlite.cache.format import Fingerprint, cache_path
from cptlite.cache.read import BadImage, FeatureCache, open_cache
from cptlite.cache.verify import verify_cache

__all__ = [
    "BadImage",
    "CacheFolder",
    "CacheSummary",
    "FeatureCache",
    "Fingerprint",
    "cache_files",
    "cache_path",
    "list_caches",
    "open_cache",
    "open_caches",
    "verify_cache",
]
