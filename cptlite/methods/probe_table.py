"""The rows of methods that are fitted at once, with or without steps of their own."""

from __future__ import annotations

from cptlite.methods.entry import MethodEntry

__all__ = ["PROBES"]

PROBES: dict[str, MethodEntry] = {
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
        sees=(),
        deviation="class means of CLIP features; the paper's table trains a ProtoNet on the images",
    ),
    "linear-probe": MethodEntry(
        home="probes.linear_probe:LinearProbe",
        options="LinearProbeOptions",
        learns="logistic regression on raw features",
        cached="view 0",
        parameters="K D + K",
        source="Radford et al., ICML 2021",
        sees=("validation",),
    ),
    "tip-adapter": MethodEntry(
        home="probes.tip_adapter:TipAdapter",
        options="TipAdapterOptions",
        learns="nothing: training rows vote beside the template",
        cached="all views",
        parameters="0",
        source="Zhang et al., ECCV 2022",
        sees=("names", "validation"),
        deviation="one template a class; ImageNet's grid for every dataset",
    ),
    "tip-adapter-f": MethodEntry(
        home="probes.tip_adapter:TipAdapterF",
        options="TipAdapterFOptions",
        learns="the voting rows' features",
        cached="all views",
        parameters="N D",
        source="Zhang et al., ECCV 2022",
        sees=("names", "validation"),
        cost="B N D",
        deviation="the last epoch; the original keeps the best on test rows",
    ),
    "cross-modal": MethodEntry(
        home="probes.cross_modal:CrossModal",
        options="CrossModalOptions",
        learns="a linear head on images and class texts",
        cached="all views",
        parameters="K D",
        source="Lin et al., CVPR 2023",
        sees=("names", "validation"),
        cost="B K D",
        deviation="1,000 steps, not 12,800; batches of 32 only; every view a row; one template",
    ),
    "lp++": MethodEntry(
        home="probes.lp_plus_plus:LPPlusPlus",
        options="LPPlusPlusOptions",
        learns="a linear head blended with the template class by class",
        cached="all views",
        parameters="K D + 2 K",
        source="Huang et al., CVPR 2024",
        sees=("names", "validation"),
        cost="N K D",
        deviation="biases from 0; alpha's current gradient, as the paper has it, not the sum; one template",
    ),
    "gda": MethodEntry(
        home="probes.gda:GDA",
        options="GDAOptions",
        learns="nothing: Gaussians of the training rows, solved for, beside the template",
        cached="all views",
        parameters="K D + K",
        source="Wang et al., ICLR 2024",
        sees=("names", "validation"),
        deviation="a linear system solved, not inverted",
    ),
}
