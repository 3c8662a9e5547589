"""The Python face: every method as an estimator in scikit-learn's manner, and runs read back."""

from cptlite.api.few_shot import FewShotClassifier, load_run
from cptlite.api.fitted import FittedClassifier

__all__ = ["FewShotClassifier", "FittedClassifier", "load_run"]
