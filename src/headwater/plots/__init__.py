"""Every picture: head and unit maps, comparisons, curves and grids (matplotlib), coloured tokens (HTML).

Figures are made without pyplot, so nothing global changes. `svg` turns one into text for a page: strokes and letters in
the page's own colour, no background, no reference to anything outside.
"""

from headwater.plots.charts import coefficient_paths, comparison, curve, forest, heat
from headwater.plots.heads import draw_heads, head_map, head_maps
from headwater.plots.output import save, svg, tokens_html
from headwater.plots.units import unit_map

__all__ = [
    "coefficient_paths",
    "comparison",
    "curve",
    "draw_heads",
    "forest",
    "head_map",
    "head_maps",
    "heat",
    "save",
    "svg",
    "tokens_html",
    "unit_map",
]
