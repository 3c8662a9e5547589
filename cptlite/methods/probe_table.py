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
    "zs-lp": MethodEntry(
        home="probes.clap:ZSLP",
        options="ZSLPOptions",
        learns="a linear head of unit-length features, started from the raw zero-shot weights",
        cached="all views",
        parameters="K D",
        source="Silva-Rodriguez et al., CVPR 2024",
        sees=("names", "descriptions"),
        cost="256 rows times K D",
        deviation="the cached views, where the original has 20 augmented ones",
    ),
    "clap": MethodEntry(
        home="probes.clap:CLAP",
        options="CLAPOptions",
        learns="zs-lp's head, held back where zero-shot is right already",
        cached="all views",
        parameters="K D",
        source="Silva-Rodriguez et al., CVPR 2024",
        sees=("names", "descriptions"),
        cost="256 rows times K D",
        deviation="the cached views, where the original has 20 augmented ones",
    ),
    "proto-clip": MethodEntry(
        home="probes.proto_clip:ProtoCLIP",
        options="ProtoCLIPOptions",
        learns="nothing: distances to the mean image and to the text, as probabilities mixed",
        cached="all views",
        parameters="0",
        source="Palanisamy et al., IROS 2024",
        sees=("names", "validation", "descriptions"),
        deviation="its training-free variant",
    ),
}
