"""One HTML page to explore the channels of classes over images: self-contained, without network access."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..channels.explanation import Explanation
from .explanation_figure import Panel

TEMPLATE = Path(__file__).with_name("explorer.html")


def write_explorer(path: Path, images: Mapping[str, Sequence[Panel]], note: str = "") -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        images: by name of the image, one panel per network, with at least one class each.
        note: below the title, what the networks were trained on.
    """
    data = [{"name": name, "networks": [_network(panel) for panel in panels]} for name, panels in images.items()]
    text = json.dumps(data).replace("<", "\\u003c")  # no name may end the script element
    path.parent.mkdir(parents=True, exist_ok=True)
    page = TEMPLATE.read_text(encoding="utf-8").replace("<!--NOTE-->", escape(note)).replace("/*DATA*/", text)
    path.write_text(page, encoding="utf-8")


def _network(panel: Panel) -> dict[str, Any]:
    height, width = panel.photo.shape[1:]
    return {
        "name": panel.name,
        "photo": _png(panel.photo),
        "width": width,
        "height": height,
        "views": [_view(explanation) for explanation in panel.explanations],
    }


def _view(explanation: Explanation) -> dict[str, Any]:
    *channels, _ = explanation.maps  # the last one is their maximum
    return {
        "title": explanation.title(),
        "probability": f"{explanation.probability:.1%}",
        "overlap": "–" if math.isnan(explanation.overlap) else f"{explanation.overlap:.2f}",
        "diversity": f"{explanation.diversity:.2f} of {len(channels)}",
        "box": explanation.box and list(explanation.box),
        "maps": [_png(channel[None]) for channel in channels],
    }


def _png(picture: Tensor) -> str:
    """(1 or 3, H, W) in [0, 1] as the data URL of a PNG file."""
    pixels = (255 * picture).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
