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
    assert 32 * 200 * (4 + 4) == 51_200
    assert re.findall(r"^d?g, d?h\n(.*)", texts, flags=re.MULTILINE) == ["51 kB", "51 kB"]
    assert texts.count(": 1 |F|") == 3


@pytest.mark.parametrize(("dtype", "bytes_per_map"), [(torch.float32, 4 + 4), (torch.bfloat16, 2 + 4)])
def test_what_is_kept_for_backward_is_what_is_drawn(dtype, bytes_per_map, texts):
    pytest.importorskip("triton")
    features = torch.rand(2, 6, 3, 3).to(dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        channel_pool(features, ChannelGroups([2, 4]), backend="triton")
    statistics = [tensor for tensor in kept if tensor.shape != features.shape]
    assert [tuple(tensor.shape) for tensor in statistics] == [(2, 6)] * 2
    assert sum(tensor.nbytes for tensor in statistics) == 2 * 6 * bytes_per_map
    assert "In 16 bits the maximum takes 2 bytes, the sum 4." in " ".join(texts.split())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_file_in_the_repository_is_this_diagram(theme, texts):
    text = (ROOT / "docs" / "figures" / f"data_flow-{theme}.svg").read_text(encoding="utf-8")
    kept = re.findall(r"<text[^>]*>(.*?)</text>|<tspan[^>]*>(.*?)</tspan>", text)
    assert {line.replace("&gt;", ">") for line in texts.splitlines() if line} == {one or other for one, other in kept}
