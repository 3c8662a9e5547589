"""What every method ends as: scores for the classes of every task."""

from cptlite.classifiers.ape import APEClassifier
from cptlite.classifiers.base import ALL, Classifier, exp32
from cptlite.classifiers.image_conditioned import ImageConditionedClassifier
from cptlite.classifiers.joined import JoinedClassifier, join_classifiers
from cptlite.classifiers.linear import LinearClassifier
from cptlite.classifiers.projected import PreProjectedClassifier, ProjectedClassifier
from cptlite.classifiers.store import load_classifier, pack_classifier, save_classifier, unpack_classifier
from cptlite.classifiers.stored import BackboneFacts, StoredClassifier
from cptlite.classifiers.tip import TipClassifier, votes
from cptlite.classifiers.tip_x import TipXClassifier, class_logs, divergence_votes, divergences
from cptlite.classifiers.transport import EACH_PAIR, WHOLE_BATCH, Transport, TransportClassifier
from cptlite.classifiers.two_headed import TwoHeadedClassifier
from cptlite.classifiers.two_prototypes import TwoPrototypeClassifier, mixed

__all__ = [
    "ALL",
    "EACH_PAIR",
    "WHOLE_BATCH",
    "APEClassifier",
    "BackboneFacts",
    "Classifier",
    "ImageConditionedClassifier",
    "JoinedClassifier",
    "LinearClassifier",
    "PreProjectedClassifier",
    "ProjectedClassifier",
    "StoredClassifier",
    "TipClassifier",
    "TipXClassifier",
    "Transport",
    "TransportClassifier",
    "TwoHeadedClassifier",
    "class_logs",
    "divergence_votes",
    "divergences",
    "TwoPrototypeClassifier",
    "exp32",
    "join_classifiers",
    "load_classifier",
    "mixed",
    "pack_classifier",
    "save_classifier",
    "unpack_classifier",
    "votes",
]
