"""The diagram of docs/kernels.md says what the kernels do."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text

from bench.report.diagrams import data_flow
from mcl_triton import ChannelGroups, channel_pool
from reference.figures.theme import LIGHT, use

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts():
    with use(LIGHT):
        return "\n".join(text.get_text() for text in data_flow(LIGHT).findobj(Text))


def test_the_bytes_are_those_of_the_shapes(texts):
    assert 32 * 512 * 14 * 14 * 4 == 12_845_056
    assert re.findall(r"(?:features F.*|gradient dF):\s(.* MB)", texts) == ["12.8 MB", "12.8 MB"]
    assert 32 * 512 * (4 + 4) == 131_072
    assert re.findall(r"2 × \(B, N\): (.*)", texts) == ["131 kB"]
    assert 32 * 200 * 14 * 14 == 1_254_400
    assert re.findall(r"\(B, C, P\): (.*)", texts) == ["1.3 MB"]
    assert (32 * 200 * (4 + 4), 32 * 200 * 4 + 200 * 4) == (51_200, 26_400)
    assert re.findall(r"^d?g, d?h\n(.*)", texts, flags=re.MULTILINE) == ["51 kB", "26 kB"]
    assert texts.count(": 1 |F|") == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_for_backward_is_what_is_drawn(dtype):
    pytest.importorskip("triton")
    features = torch.rand(2, 6, 3, 3).to(dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        channel_pool(features, ChannelGroups([2, 4]), backend="triton")
    statistics, winners = (tensor for tensor in kept if tensor.shape != features.shape)
    assert (statistics.shape, statistics.dtype) == ((2, 2, 6), torch.float32)
    assert (winners.numel(), winners.dtype) == (2 * 2 * 3 * 3, torch.uint8)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_file_in_the_repository_is_this_diagram(theme, texts):
    text = (ROOT / "docs" / "figures" / f"data_flow-{theme}.svg").read_text(encoding="utf-8")
    kept = re.findall(r"<text[^>]*>(.*?)</text>|<tspan[^>]*>(.*?)</tspan>", text)
    assert {line.replace("&gt;", ">") for line in texts.splitlines() if line} == {one or other for one, other in kept}
