"""The time of modules over the size of the feature map, as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cbam_det.visualization.figures import CYCLE, STYLE


def costs(maps: Sequence[dict]) -> Figure:
    """Plot the time of training and inference over the size of the feature map.

    Args:
        maps: results of `benchmarks.modules.modules`; those in channels_last are left out.
    """
    maps = sorted(
        (record for record in maps if record['format'] == 'contiguous'),
        key=lambda record: record['map_mib'],
    )
    sizes = [record['map_mib'] for record in maps]
    names = list(dict.fromkeys(name for record in maps for name in record['rows']))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharex=True)
        for axis, key, title, copies in (
            (panels[0], 'train_ms', 'forward and backward', 2.5),
            (panels[1], 'infer_ms', 'inference', 1),
        ):
            for number, name in enumerate(names):
                colour = CYCLE[number % len(CYCLE)]
                middle, low, high = zip(
                    *(record['rows'][name][key] for record in maps), strict=True
                )
                line = '-' if number < len(CYCLE) else '--'
                axis.plot(sizes, middle, line, color=colour, marker='o', ms=4, label=name)
                axis.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0)
            limit = [copies * record['copy_ms'][0] for record in maps]
            axis.plot(sizes, limit, ':_', color='black', label='limit: moving the data')
            axis.set(title=title, xlabel='size of the feature map, MiB', xscale='log', yscale='log')
            axis.set_xticks(sizes, [f'{size:.3g}' for size in sizes])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter('{x:g}')  # powers of ten would need formulas
        panels[0].set_ylabel('time, ms')
        panels[1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
    return figure
