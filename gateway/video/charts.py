"""Charts of a profiled request.

    python -m gateway.video.charts NVDEC_CSV GPU_CSV PLOT_NVDEC PLOT_GPU PLOT_MEMORY

It runs in its own process: matplotlib is large and slow to load, and the gateway does not need it.
"""

import csv
import os
import sys
from pathlib import Path

NICENESS = 10

Series = dict[str, list[tuple[float, float]]]


def read(path: Path, ending: str) -> Series:
    """Return the columns whose names end with `ending`: time (s) and percent, where known."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name.endswith(ending)]
    return {
        name: [(float(row["elapsed_time"]), float(row[name])) for row in rows if row[name]] for name in names
    }


def draw(series: Series, title: str, path: Path) -> None:
    """Draw one line per GPU over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an optional extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in series.items():
        axes.plot([when for when, _ in points], [value for _, value in points], label=name.partition("_")[0])
    if series:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no GPU", transform=axes.transAxes, ha="center")
    axes.set(title=title, xlabel="s", ylabel="%", ylim=(0, 105))
    figure.savefig(path)


def main() -> None:
    """Draw the three charts."""
    os.nice(NICENESS)
    decoders, usage, *plots = map(Path, sys.argv[1:])
    draw(read(decoders, "_AvgNVDEC"), "Video decoders", plots[0])
    draw(read(usage, "_Usage"), "GPUs", plots[1])
    draw(read(usage, "_MemUsage"), "GPU memory", plots[2])


if __name__ == "__main__":
    main()
