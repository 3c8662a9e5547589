"""The methods by name: the one place that knows them all.

A row names its class and its options; both are loaded when they are first asked for, so that names, help and flags are
there before PyTorch is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cptlite.errors import UsageError
from cptlite.methods.options import MethodOptions, PromptOptions, TemplateOptions
from cptlite.options import Option, did_you_mean, read_options

if TYPE_CHECKING:
    from cptlite.methods.base import Probe, Problem, PromptMethod

__all__ = ["METHODS", "MethodEntry", "find_method"]

SHARED_OPTIONS: dict[str, type] = {kind.__name__: kind for kind in (MethodOptions, PromptOptions, TemplateOptions)}


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One row of the method table.

    Attributes
    ----------
    home : str
        ``folder.file:Class`` below `cptlite.methods`: a `PromptMethod` in ``prompts``, a `FeatureClassifier` or a
        `Probe` in ``probes``.
    options : str
        Name of its class of options, in the same file or in `cptlite.methods.options`.
    learns : str
        What is learned, for `cptlite methods`.
    fixed : mapping
        Arguments of the class by which this row differs from others of the same class.
    recipe : mapping
        Fields of `cptlite.training.recipe.Recipe` that its source sets otherwise than SoftCPT's does; such a method has
        no other recipe.
    separate : bool
        Whether it learns one task at a time unless told otherwise.
    multi_task : bool
        Whether the tasks share what is learned.
    scope : str
        What a number that it learns is for: a ``class``; a ``task``, with classes it never saw, whose weights come from
        their names; ``everything``, tasks it never saw too.
    scopes : mapping of str to str
        The same by variant, where they differ.
    needs_rows : bool
        Whether it looks at training rows at all.
    needs_patches : bool
        Whether images are their patch features, (M, D) each, instead of pooled ones.
    cached : str
        What it reads of the training images' cached features.
    parameters : str
        How many numbers it learns by default: products of axes, added up. T tasks, K classes of all tasks, N training
        rows, L context tokens of a class prompt, M of a task prompt, P prompts of a class, W text width, D joint
        dimension, H hidden units.
    source : str
        Paper it comes from.
    """

    home: str
    learns: str
    options: str = "MethodOptions"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    separate: bool = False
    multi_task: bool = False
    scope: str = "class"
    scopes: Mapping[str, str] = field(default_factory=dict)
    needs_rows: bool = True
    needs_patches: bool = False
    cached: str = ""
    parameters: str = ""
    source: str = ""

    @property
    def stepped(self) -> bool:
        """Whether it learns by gradient steps, by a recipe; if not, it is fitted at once."""
        return self.home.startswith("prompts.")

    @property
    def variants(self) -> tuple[str, ...]:
        """Values of its option ``variant``, the default first; empty where it has none."""
        return next((each.choices for each in self.list_options() if each.name == "variant"), ())

    def scope_of(self, variant: str) -> str:
        """Scope of a variant, or of the method where it has none."""
        return self.scopes.get(variant, self.scope)

    @property
    def module(self) -> str:
        """Full name of its file's module."""
        return f"cptlite.methods.{self.home.partition(':')[0]}"

    def load(self) -> Any:
        """Return its class."""
        return getattr(import_module(self.module), self.home.partition(":")[2])

    def list_options(self) -> tuple[Option, ...]:
        """Return its options, without loading its class."""
        return read_options(self.module, self.options, SHARED_OPTIONS)

    def new_options(self, **given: Any) -> MethodOptions:
        """Check values of its options; those not given take their defaults."""
        kind = SHARED_OPTIONS.get(self.options) or getattr(import_module(self.module), self.options)
        return kind(**given)

    def method(self, problem: Problem, options: MethodOptions, runs: int = 1) -> PromptMethod:
        """Make a method that learns by gradient steps, its prompts planned for a number of runs."""
        assert self.stepped
        return self.load()(problem, options, runs, **self.fixed)

    def probe(self, name: str, options: MethodOptions) -> Probe:
        """Make a method that is fitted at once; ``name`` is the row's, for messages."""
        from cptlite.methods.base import Probe
        from cptlite.methods.probes.per_task import PerTask

        kind = self.load()
        return kind(options) if issubclass(kind, Probe) else PerTask(name, kind, options)


METHODS: dict[str, MethodEntry] = {
    "zeroshot": MethodEntry(
        home="probes.zero_shot:ZeroShot",
        options="TemplateOptions",
        learns="nothing: the dataset's template or your own (--template)",
        scope="everything",
        needs_rows=False,
        cached="nothing",
        parameters="0",
        source="Radford et al., ICML 2021",
    ),
    "prototype": MethodEntry(
        home="probes.prototype:PrototypeClassifier",
        learns="the mean feature of each class",
        cached="all views",
        parameters="K D",
        source="Snell et al., NeurIPS 2017",
    ),
    "linear-probe": MethodEntry(
        home="probes.linear_probe:LinearProbe",
        options="LinearProbeOptions",
        learns="logistic regression on raw features",
        cached="view 0",
        parameters="K D + K",
        source="Radford et al., ICML 2021",
    ),
    "tip-adapter": MethodEntry(
        home="probes.tip_adapter:TipAdapter",
        options="TipAdapterOptions",
        learns="nothing: training rows vote beside the template",
        cached="all views",
        parameters="0",
        source="Zhang et al., ECCV 2022",
    ),
    "tip-adapter-f": MethodEntry(
        home="probes.tip_adapter:TipAdapterF",
        options="TipAdapterFOptions",
        learns="the voting rows' features",
        cached="all views",
        parameters="N D",
        source="Zhang et al., ECCV 2022",
    ),
    "cross-modal": MethodEntry(
        home="probes.cross_modal:CrossModal",
        options="CrossModalOptions",
        learns="a linear head on images and class texts",
        cached="all views",
        parameters="K D",
        source="Lin et al., CVPR 2023",
    ),
    "lp++": MethodEntry(
        home="probes.lp_plus_plus:LPPlusPlus",
        options="LPPlusPlusOptions",
        learns="a linear head blended with the template class by class",
        cached="all views",
        parameters="K D + 2 K",
        source="Huang et al., CVPR 2024",
    ),
    "gda": MethodEntry(
        home="probes.gda:GDA",
        options="GDAOptions",
        learns="nothing: Gaussians of the training rows, solved for, beside the template",
        cached="all views",
        parameters="K D + K",
        source="Wang et al., ICLR 2024",
    ),
    "taskres": MethodEntry(
        home="prompts.task_res:TaskRes",
        options="TaskResOptions",
        learns="what is added to the template's class weights",
        recipe={"optimizer": "adamw", "lr": 0.002, "batch_size": 256, "epochs": 100},
        separate=True,
        cached="random views",
        parameters="K D",
        source="Yu et al., CVPR 2023",
    ),
    "coop-mt": MethodEntry(
        home="prompts.coop:CoOp",
        options="PromptOptions",
        learns="one context for all tasks",
        fixed={"sharing": "all"},
        multi_task=True,
        scope="everything",
        cached="random views",
        parameters="L W",
        source="Zhou et al., IJCV 2022",
    ),
    "coop-ca": MethodEntry(
        home="prompts.coop:CoOp",
        options="PromptOptions",
        learns="one context per task",
        fixed={"sharing": "task"},
        scope="task",
        cached="random views",
        parameters="T L W",
        source="Zhou et al., IJCV 2022",
    ),
    "coop-cs": MethodEntry(
        home="prompts.coop:CoOp",
        options="PromptOptions",
        learns="one context per class",
        fixed={"sharing": "class"},
        cached="random views",
        parameters="K L W",
        source="Zhou et al., IJCV 2022",
    ),
    "cocoop": MethodEntry(
        home="prompts.cocoop:CoCoOp",
        options="CoCoOpOptions",
        learns="one context per task, and a net that shifts it by the image",
        scope="task",
        recipe={"epochs": 10, "batch_size": 1},
        separate=True,
        cached="random views",
        parameters="T L W + T D H + T H + T H W + T W",
        source="Zhou et al., CVPR 2022",
    ),
    "kgcoop": MethodEntry(
        home="prompts.kgcoop:KgCoOp",
        options="KgCoOpOptions",
        learns="one context per task, pulled towards the template",
        scope="task",
        separate=True,
        cached="random views",
        parameters="T L W",
        source="Yao et al., CVPR 2023",
    ),
    "prograd": MethodEntry(
        home="prompts.prograd:ProGrad",
        options="ProGradOptions",
        learns="one context per task, never against the template",
        scope="task",
        separate=True,
        cached="random views",
        parameters="T L W",
        source="Zhu et al., ICCV 2023",
    ),
    "plot": MethodEntry(
        home="prompts.plot:Plot",
        options="PlotOptions",
        learns="four contexts per task, matched to patch features",
        scope="task",
        separate=True,
        needs_patches=True,
        cached="patch features (cptlite cache --patches)",
        parameters="T P L W",
        source="Chen et al., ICLR 2023",
    ),
    "softcpt": MethodEntry(
        home="prompts.softcpt:SoftCPT",
        options="SoftCPTOptions",
        learns="a meta network from task names to contexts",
        multi_task=True,
        scopes={"nata": "everything", "cata": "everything", "nats": "task", "cats": "task"},  # csta, csts: class
        cached="random views",
        parameters="M W + D L W",
        source="Ding et al., Neurocomputing 2024",
    ),
}


def find_method(name: str) -> MethodEntry:
    """Look a method up.

    Raises
    ------
    UsageError
        Unknown name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}: {did_you_mean(name, list(METHODS))}")
    return METHODS[name]
