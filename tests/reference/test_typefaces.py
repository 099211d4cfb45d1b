"""Words in typefaces: which fonts and words, what is drawn, and fonts that cannot be used."""

import importlib.metadata
import shutil
import sys
from pathlib import Path

import fontpkg
import numpy as np
import pytest
import torch
from few_fonts import CLASSES, FOLDER
from fontTools.ttLib import TTFont
from packaging.requirements import Requirement
from PIL import Image
from scipy import ndimage

from reference.__main__ import main
from reference.datasets import DATASETS, load, typefaces
from reference.datasets.transforms import word

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sets():
    """The training and the test set of two fonts."""
    return load("typefaces", FOLDER, "train"), load("typefaces", FOLDER, "test")


# Fonts and words


def test_the_fonts_are_those_that_the_group_installs_in_exactly_these_versions():
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["train"]
    pins = {one.name: str(one.specifier) for one in map(Requirement, group) if one.name.startswith("fontpkg-")}
    assert list(pins) == [f"fontpkg-{slug}" for slug in typefaces.FAMILIES]
    assert all(specifier.startswith("==") for specifier in pins.values())
    assert len(typefaces.SERIF) == len(typefaces.SANS_SERIF) == 20
    assert len(set(typefaces.FAMILIES)) == 40


def test_the_fonts_are_small_and_free():
    sizes = 0
    for slug in typefaces.FAMILIES:
        assert fontpkg.family(slug).license in ("OFL-1.1", "Apache-2.0")
        sizes += sum(file.locate().stat().st_size for file in importlib.metadata.files(f"fontpkg-{slug}"))
    assert sizes < 15e6


def test_the_command_lists_the_fonts_with_their_licences(capsys):
    assert main(["typefaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 40
    (line,) = [line for line in lines if line.startswith("fontpkg-roboto-slab ")]
    assert line.split()[1:4] == ["2.2", "Apache-2.0", "serif"]


def test_no_test_word_is_a_training_word_nor_begins_like_one():
    train, test = (typefaces.read_words(split) for split in ("train", "test"))
    for words in (train, test):
        assert len(words) == len(set(words)) > 400
        assert all(4 <= len(one) <= 8 and one.isascii() and one.isalpha() and one.islower() for one in words)
    assert not {one[:4] for one in train} & {one[:4] for one in test}


def test_words_are_drawn_from_those_of_the_split(sets):
    for dataset, split, per_font in zip(sets, ("train", "test"), (20, 40), strict=True):
        assert set(dataset.words) <= set(typefaces.read_words(split))
        assert dataset.targets == [0] * per_font + [1] * per_font
        for label in (0, 1):
            assert len(set(dataset.words[label * per_font : (label + 1) * per_font])) == per_font
        assert dataset.words[:per_font] != dataset.words[per_font:]


# What is drawn


def test_images_follow_the_seed_to_the_byte():
    fonts = tuple(typefaces._fonts_in(Path(FOLDER)))
    draw = typefaces._draw_all.__wrapped__  # without its cache
    first, again, other = (draw(fonts, "train", seed) for seed in (5, 5, 2**40 + 5))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[2] == again[2]
    assert first[2] != other[2]
    assert load("typefaces", FOLDER, "train", seed=5).pictures.tobytes() == first[0].tobytes()


def test_ink_is_where_the_letters_are(sets):
    for dataset in sets:
        assert dataset.pictures.shape == dataset.ink.shape == (len(dataset), 48, 96)
        for picture, ink in zip(dataset.pictures, dataset.ink, strict=True):
            letters, paper = ink > 0.9, ndimage.maximum_filter(ink, 3) == 0
            assert letters.sum() > 30
            assert picture[paper].mean() > 240
            assert picture[letters].mean() < 255 * (1 - 0.6 * 0.9)  # the least contrast
            assert ink[:, [0, -1]].max() < 1


def test_all_letters_are_inside(sets):
    for ink in sets[1].ink:
        rows, columns = np.nonzero(ink > 0.5)
        assert rows.min() > 0
        assert rows.max() < 47
        assert columns.min() > 0
        assert columns.max() < 95


def test_letters_are_equally_high_in_all_fonts(tmp_path):
    """Mean ink of a letter x without rotation: what x-heights are made equal by."""
    for font in typefaces._fonts_in(Path(FOLDER)):
        drawn = typefaces._sized(font.path, 30 / font.x_height).getmask("x")
        assert drawn.size[1] == pytest.approx(30, abs=1)


def test_a_variable_font_is_drawn_at_weight_400():
    """Quicksand's default is 300."""
    path = Path(FOLDER, "quicksand.ttf").resolve()
    ink = {}
    for weight in (300, 400):
        font = typefaces.ImageFont.truetype(path, 60, layout_engine=typefaces.ImageFont.Layout.BASIC)
        font.set_variation_by_axes([weight])
        ink[weight] = np.asarray(font.getmask("example"), dtype=float).sum()
    found = np.asarray(typefaces._sized(path, 60).getmask("example"), dtype=float).sum()
    assert found == ink[400] > 1.05 * ink[300]


def test_what_the_network_takes():
    dataset = load("typefaces", FOLDER, "test", word(training=False))
    image, target = dataset[41]
    assert (image.shape, image.dtype, target) == ((1, 48, 96), torch.float32, 1)
    expected = 2 * (torch.from_numpy(dataset.pictures[41]).float() / 255 - 1)
    torch.testing.assert_close(image[0], expected, rtol=0, atol=1e-6)


def test_images_to_train_on_are_shifted_by_up_to_4_pixels_with_paper_at_the_edges():
    dataset = load("typefaces", FOLDER, "train", word(training=True))
    padded = np.pad(dataset.pictures[7], 4, constant_values=255)
    windows = {padded[y : y + 48, x : x + 96].tobytes(): (y, x) for y in range(9) for x in range(9)}
    drawn = [((dataset[7][0][0] / 2 + 1) * 255).round().to(torch.uint8).numpy().tobytes() for _ in range(150)]
    tops, lefts = zip(*(windows[one] for one in drawn), strict=True)
    assert set(tops) == set(lefts) == set(range(9))


def test_without_a_transform_there_are_pictures():
    picture, _ = load("typefaces", FOLDER, "test")[0]
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("RGB", (96, 48))


# Fonts of one's own


def test_a_class_is_named_after_its_file(sets):
    assert sets[0].classes == sets[1].classes == CLASSES


def test_all_families_are_drawn_where_there_is_no_folder(monkeypatch):
    monkeypatch.setattr(typefaces, "IMAGES_PER_FONT", {"train": 1})
    dataset = load("typefaces", None, "train", seed=123456)
    assert len(dataset) == len(set(dataset.classes)) == 40
    assert "Roboto Slab" in dataset.classes


def test_a_font_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(typefaces, "FAMILIES", (*typefaces.FAMILIES, "no-such"))
    with pytest.raises(FileNotFoundError, match=r"1 of 41 fonts .* fontpkg-no-such: pip install .* --group train"):
        load("typefaces", None, "train")


def test_other_data_sets_need_a_folder():
    for name in DATASETS.keys() - {"typefaces"}:
        with pytest.raises(ValueError, match=r"needs --data FOLDER, the folder with its files\.\nGet"):
            load(name, None, "train")


def copy_fonts(folder: Path) -> Path:
    """Two fonts that can be used; returns the path of a third, which is not there."""
    for name in CLASSES:
        shutil.copy(Path(FOLDER, f"{name}.ttf"), folder / f"{name}.ttf")
    return folder / "third.otf"


def without(letters: str, path: Path) -> None:
    """Write a font that lacks some letters."""
    font = TTFont(fontpkg.path("abel"))
    for table in font["cmap"].tables:
        for letter in letters:
            table.cmap.pop(ord(letter), None)
    font.save(path)


def test_a_broken_font_is_named(tmp_path):
    third = copy_fonts(tmp_path)
    third.write_bytes(b"<html>no font</html>")
    with pytest.raises(ValueError, match=rf"{third} cannot be read as a font: "):
        load("typefaces", tmp_path, "train")
    third.write_bytes(Path(fontpkg.path("abel")).read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"{third} cannot be read as a font: "):
        load("typefaces", tmp_path, "test")


def test_a_font_without_latin_letters_is_named(tmp_path):
    third = copy_fonts(tmp_path)
    without("qz", third)
    with pytest.raises(ValueError, match=rf"{third} must have the letters a to z, of which it lacks q z\."):
        load("typefaces", tmp_path, "train")


def test_a_font_of_empty_letters_is_named(tmp_path):
    third = copy_fonts(tmp_path)
    font = TTFont(fontpkg.path("abel"))
    for table in font["cmap"].tables:
        table.cmap.update({code: "space" for code in range(ord("a"), ord("z") + 1)})
    font.save(third)
    with pytest.raises(ValueError, match=rf"{third} must have visible letters; its x is empty\."):
        load("typefaces", tmp_path, "train")


def test_a_folder_that_is_missing_or_holds_no_fonts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is missing\.\nGet typefaces from"):
        load("typefaces", tmp_path / "nowhere", "train")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"must hold at least 2 fonts, \.ttf or \.otf; it has 0"):
        load("typefaces", tmp_path, "train")
