"""The drawings of docs/kernels.md say what the kernels do."""

import re
from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

import bench.__main__ as bench
from bench.report import diagrams
from mcl_triton import ChannelGroups, channel_pool

ROOT = Path(__file__).parents[2]

SIZES = [2] * 88 + [3] * 112
OFFSETS = [0, *accumulate(SIZES)]


@pytest.fixture(scope="module", params=diagrams.DRAWINGS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def figure(name):
    return diagrams.draw(name)


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def cells_of(axis, width, height):
    """Left edge, upper edge and colour of all filled rectangles of a size."""
    return [
        (*patch.get_xy(), to_hex(patch.get_facecolor()))
        for patch in axis.findobj(Rectangle)
        if patch.get_fill() and (patch.get_width(), patch.get_height()) == (width, height)
    ]


@pytest.fixture(scope="module")
def panels():
    return diagrams.draw("tiles").axes


def test_programs_have_the_classes_and_channels_that_the_groups_give_them(panels):
    found = {}
    for panel in panels:
        labels = [re.findall(r"\d+", text) for text in texts_of(panel) if re.match(r"program \d+\b.*\n", text)]
        found[panel] = [tuple(map(int, label)) for label in labels]
        for _, first_class, last_class, first_channel, last_channel in found[panel]:
            assert (first_channel, last_channel) == (OFFSETS[first_class], OFFSETS[last_class + 1] - 1)
    rows, blocks = found.values()
    assert [program[:3] for program in rows] == [(21, 84, 87), (22, 88, 91)]
    assert [program[:3] for program in blocks] == [(4, 64, 79), (5, 80, 95), (6, 96, 111)]


def test_every_channel_is_drawn_once_in_the_colour_of_its_class(panels):
    colors = {}
    for panel, size, along, channels in (
        (panels[0], (49, 1), 1, range(168, 188)),  # rows from the top
        (panels[1], (1, 49), 0, range(128, 248)),  # columns from the left
    ):
        cells = [cell for cell in cells_of(panel, *size) if cell[2] != "#ffffff" and (along == 0 or cell[0] == 0)]
        assert len({cell[along] for cell in cells}) == len(cells) == len(channels)
        for channel, cell in zip(channels, sorted(cells, key=lambda cell: cell[along]), strict=True):
            owner = next(index for index, end in enumerate(OFFSETS[1:]) if channel < end)
            colors.setdefault(owner, set()).add(cell[2])
    assert all(len(of_class) == 1 for of_class in colors.values())
    assert all(colors[index] != colors[index + 1] for index in range(64, 111))


def test_tiles_are_as_wide_as_a_power_of_two_and_what_is_beyond_the_map_is_masked(panels):
    rows, blocks = panels
    assert {(0.0, 49), (80.0, 129)} == {(x - 49, x) for x, _, color in cells_of(rows, 15, 1) if color == diagrams.EMPTY}
    masked = [(y, color) for width in (32, 40, 48) for _, y, color in cells_of(blocks, width, 15)]
    assert masked == [(49, diagrams.EMPTY)] * 3
    assert {"49 positions", "of 64", "Program 22: tiles of 4 × 64, 3 channels a step"} <= set(texts_of(rows))
    assert {"positions\n0–31", "positions\n32–48"} <= set(texts_of(blocks))
    assert any("tiles of 32 × 64 slots" in text for text in texts_of(blocks))


def test_channels_move_from_memory_to_the_slots_of_their_class(panels):
    labels = {}
    for text in panels[1].findobj(Text):
        if text.get_text().isdigit():
            labels[text.get_position()] = int(text.get_text())
    above, below = (
        {x: label for (x, y), label in labels.items() if (y < 30) == is_above} for is_above in (True, False)
    )
    assert list(dict(sorted(above.items())).values()) == list(range(172, 182))
    moves = [line.get_xdata() for line in panels[1].findobj(Line2D)]
    assert [above[start] for start, _ in moves] == [below[end] for _, end in moves] == list(range(172, 182))
    slots = {label: round((x - min(below)) / 7) for x, label in below.items()}
    assert slots == {172: 0, 173: 1, 174: 4, 175: 5, 176: 8, 177: 9, 178: 10, 179: 12, 180: 13, 181: 14}


def test_the_bytes_are_those_of_the_shapes():
    texts = "\n".join(texts_of(diagrams.draw("data_flow")))
    assert 32 * 512 * 14 * 14 * 4 == 12_845_056
    assert re.findall(r"(?:features F.*|gradient dF): (.*)", texts) == ["12.8 MB", "12.8 MB"]
    assert 32 * 512 * (4 + 4) == 131_072
    assert re.findall(r"maximum and 1/Σ exp.*: (.*)", texts) == ["131 kB"]
    assert 32 * 200 * (4 + 4) == 51_200
    assert re.findall(r"^d?g, d?h\n(.*)", texts, flags=re.MULTILINE) == ["51 kB", "51 kB"]
    assert texts.count("1 |F|") == 3


@pytest.mark.parametrize(("dtype", "bytes_a_map"), [(torch.float32, 4 + 4), (torch.bfloat16, 2 + 4)])
def test_what_is_kept_for_backward_is_what_is_drawn(dtype, bytes_a_map):
    pytest.importorskip("triton")
    features = torch.rand(2, 6, 3, 3).to(dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        channel_pool(features, ChannelGroups([2, 4]), backend="triton")
    statistics = [tensor for tensor in kept if tensor.shape != features.shape]
    assert [tuple(tensor.shape) for tensor in statistics] == [(2, 6)] * 2
    assert sum(tensor.nbytes for tensor in statistics) == 2 * 6 * bytes_a_map
    assert "In 16 bits the maximum takes 2 bytes, the sum 4." in " ".join(
        "\n".join(texts_of(diagrams.draw("data_flow"))).split()
    )


def test_no_two_texts_overlap_and_none_leaves_the_figure(figure):
    figure.draw_without_rendering()
    boxes = [(text.get_window_extent().padded(-1), text) for text in figure.findobj(Text) if text.get_text()]
    for place, (box, text) in enumerate(boxes):
        assert figure.bbox.containsx(box.x0), text
        assert figure.bbox.containsx(box.x1), text
        for other, other_text in boxes[:place]:
            assert not box.overlaps(other), (text, other_text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings")
    bench.main(["drawings", "--output", str(folder)])
    return folder


def test_the_files_in_the_repository_are_these_drawings(name, folder):
    drawn, kept = (
        [
            "".join(tag.itertext())
            for tag in ElementTree.parse(place / f"{name}.svg").iter()
            if tag.tag.endswith("}text")
        ]
        for place in (folder, ROOT / "docs" / "figures")
    )
    assert len(drawn) > 10
    assert drawn == kept, "python -m bench drawings"
