"""What ``cptlite bench`` times: the text path, training, the caching pass and the probe."""

from cptlite.timing.bench import STAGES, BenchPlan, run_bench
from cptlite.timing.figure import draw_bench_plot
from cptlite.timing.report import bench_tables

__all__ = ["STAGES", "BenchPlan", "bench_tables", "draw_bench_plot", "run_bench"]
