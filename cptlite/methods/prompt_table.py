"""The rows of methods that learn by a recipe of gradient steps."""

from __future__ import annotations

from cptlite.methods.entry import MethodEntry

__all__ = ["PROMPTS"]

PROMPTS: dict[str, MethodEntry] = {
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
