"""Draw the figures and fill the tables of the pages from the results: `python -m bench report`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from reference.figures.theme import LIGHT, save, use

from .. import results
from .charts import FIGURES
from .diagrams import DIAGRAMS
from .tables import fill

PAGES = (Path("README.md"), Path("docs/performance.md"), Path("docs/gpu.md"))
FIGURES_FOLDER = Path("docs/figures")


def main(options: argparse.Namespace) -> None:
    """Draw each figure that there are results for, say which ones have none; fill the tables of the pages."""
    table = results.read_folder(options.results)
    folder = options.output or FIGURES_FOLDER
    if options.output is None:
        for name, diagram in DIAGRAMS.items():
            print(*save(diagram, folder, name))
    for name, figure in FIGURES.items():
        with use(LIGHT):
            is_empty = figure(table, LIGHT) is None
        if is_empty:
            print(f"{name}: not drawn, there are no results for it")
        else:
            print(*save(partial(figure, table), folder, name))
    if options.output is None:
        for page in PAGES:
            page.write_text(fill(page.read_text(encoding="utf-8"), table), encoding="utf-8")
            print(page)
