"""Words in 40 typefaces, drawn from fonts that pip installs, or in the fonts of a folder.

Telling typefaces apart is fine-grained: serifs, terminals and counters decide, as a beak decides among birds. Words for
testing share no first four letters with words for training, so that the typeface has to be learnt and not the word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import fontpkg
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from .images import Labelled, Transform, in_rgb
from .source import Source

SERIF = (
    *("andada-pro", "antic-slab", "arvo", "bitter", "bodoni-moda", "cardo", "crimson-pro", "crimson-text"),
    *("dm-serif-text", "domine", "frank-ruhl-libre", "fraunces", "instrument-serif", "libre-baskerville", "lora"),
    *("newsreader", "playfair-display", "roboto-slab", "sanchez", "slabo-27px"),
)
SANS_SERIF = (
    *("abeezee", "abel", "cabin", "catamaran", "dm-sans", "figtree", "heebo", "karla", "lexend", "libre-franklin"),
    *("manrope", "maven-pro", "mulish", "outfit", "oxygen", "public-sans", "questrial", "quicksand"),
    *("red-hat-text", "varela-round"),
)
FAMILIES = tuple(sorted(SERIF + SANS_SERIF))
"""The families that are drawn without a folder: of each kind the 20 whose packages are smallest, ``fontpkg-NAME``."""

INSTALL = "pip install --editable . --group train, in a clone, installs it."

IMAGES_PER_FONT = {"train": 20, "test": 40}

HEIGHT, WIDTH = 48, 96

_SCALE = 3  # letters are drawn this many times larger, and reduced
_X_HEIGHTS = (12, 18)  # pixels
_MARGIN = 4  # pixels that a word leaves free at each side
_LARGEST_ANGLE = 4  # degrees
_LARGEST_SHIFT = 3  # pixels
_CONTRASTS = (0.6, 1.0)  # of ink and paper
_NOISE = 0.06  # standard deviation, where paper is 1 and ink 0
_WEIGHT = 400  # of a variable font


@dataclass(frozen=True)
class Font:
    """A font file that has the letters a to z.

    Attributes:
        name: of its class.
        path: of the file.
        x_height: of its letter x, in units of the font size.
    """

    name: str
    path: Path
    x_height: float


class Typefaces(Labelled):
    """Grey pictures of words, 48 × 96 pixels, each with the number of its font.

    Attributes:
        pictures: uint8, (number of images, 48, 96); paper is 255.
        ink: how much of each pixel is covered by letters, in [0, 1], float32 of the same shape.
        words: of each image.
    """

    def __init__(self, fonts: Sequence[Font], split: str, seed: int, transform: Transform | None = None) -> None:
        self.classes = [font.name for font in fonts]
        self.targets = [number for number in range(len(fonts)) for _ in range(IMAGES_PER_FONT[split])]
        self.pictures, self.ink, self.words = _draw_all(tuple(fonts), split, seed)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = in_rgb(Image.fromarray(self.pictures[index]))
        return picture if self.transform is None else self.transform(picture), self.targets[index]


def read(root: Path | None, split: str, transform: Transform | None, seed: int) -> Typefaces:
    """Words of a split in the fonts of a folder; without one, in the installed families.

    The seed chooses the words, a font's own ones at random, and how each is drawn. Pictures of one seed are equal to
    the byte wherever Pillow has the same version.
    """
    return Typefaces(_installed_fonts() if root is None else _fonts_in(root), split, seed, transform)


def read_words(split: str) -> list[str]:
    """The words of a split, of 4 to 8 letters a to z, from Python's documentation."""
    return (Path(__file__).parent / "words" / f"{split}.txt").read_text(encoding="ascii").split()


def describe_fonts() -> str:
    """The installed families, a line each: package, version, licence, kind, and size in kB."""
    lines = []
    for slug in FAMILIES:
        family, package = fontpkg.family(slug), f"fontpkg-{slug}"
        size = sum(file.path.stat().st_size for file in family.files) / 1000
        kind = "serif" if slug in SERIF else "sans serif"
        lines.append(f"{package:<27}{version(package):<10}{family.license:<12}{kind:<12}{size:>6.0f} kB")
    return "\n".join(lines)


def main(options: object) -> None:
    """Print the installed families."""
    try:
        print(describe_fonts())
    except fontpkg.FamilyNotInstalled as error:
        raise FileNotFoundError(f"{error.slug} is not installed: {INSTALL}") from error


def _installed_fonts() -> list[Font]:
    fonts, missing = [], []
    for slug in FAMILIES:
        try:
            family = fontpkg.family(slug)
        except fontpkg.FamilyNotInstalled:
            missing.append(slug)
        else:
            fonts.append(_open(family.name, fontpkg.path(slug, weight=_WEIGHT)))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(FAMILIES)} fonts are not installed, such as fontpkg-{missing[0]}: {INSTALL}"
        )
    return fonts


def _fonts_in(folder: Path) -> list[Font]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".ttf", ".otf"))
    if len(paths) < 2:
        raise FileNotFoundError(f"{folder} must hold at least 2 fonts, .ttf or .otf; it has {len(paths)}.")
    return [_open(path.stem, path) for path in paths]


@lru_cache(maxsize=256)
def _open(name: str, path: Path) -> Font:
    """A font, checked before anything is drawn; ValueError where it cannot draw words."""
    try:
        with TTFont(path, lazy=True) as file:
            letters = file.getBestCmap() or {}
        font = _sized(path, 100)
        left, top, right, _ = font.getbbox("x", anchor="ls")
    except Exception as error:  # for a broken file fontTools raises nearly every kind
        raise ValueError(f"{path} cannot be read as a font: {error or type(error).__name__}.") from error
    missing = [letter for letter in ascii_lowercase if ord(letter) not in letters]
    if missing:
        raise ValueError(f"{path} must have the letters a to z, of which it lacks {' '.join(missing)}.")
    if top >= 0 or right <= left:
        raise ValueError(f"{path} must have visible letters; its x is empty.")
    return Font(name, path, -top / 100)


def _sized(path: Path, size: float) -> ImageFont.FreeTypeFont:
    # The basic layout: Raqm's result depends on the HarfBuzz of the system.
    font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    try:
        axes = font.get_variation_axes()
    except OSError:  # not a variable font
        return font
    font.set_variation_by_axes([_WEIGHT if axis["name"] in (b"Weight", "Weight") else axis["default"] for axis in axes])
    return font


@lru_cache(maxsize=4)
def _draw_all(fonts: tuple[Font, ...], split: str, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures, ink and words of a split, see `Typefaces`."""
    # NumPy's newer generators may draw other numbers in another release.
    random = np.random.RandomState([seed % 2**32, seed // 2**32, *split.encode()])
    per_font = IMAGES_PER_FONT[split]
    words = [word for _ in fonts for word in random.permutation(read_words(split))[:per_font]]
    inks = [_draw(fonts[number // per_font], word, random) for number, word in enumerate(words)]
    ink = np.stack([np.asarray(one) for one in inks])
    contrast = random.uniform(*_CONTRASTS, size=(len(inks), 1, 1))
    pixels = 1 - contrast * ink / 255 + random.normal(0, _NOISE, size=ink.shape)
    pictures = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    return pictures, ink.astype(np.float32) / 255, words


def _draw(font: Font, word: str, random: np.random.RandomState) -> Image.Image:
    """The ink of a word, 255 where it is full: of random x-height, angle and place."""
    size = random.uniform(*_X_HEIGHTS) * _SCALE / font.x_height
    widest = (WIDTH - 2 * _MARGIN) * _SCALE
    sized = _sized(font.path, size)
    if (width := sized.getlength(word)) > widest:
        sized = _sized(font.path, size * widest / width)
    shift = random.uniform(-_LARGEST_SHIFT, _LARGEST_SHIFT, size=2) * _SCALE
    angle = random.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE)
    canvas = Image.new("L", (WIDTH * _SCALE, HEIGHT * _SCALE))
    left, top, right, bottom = sized.getbbox(word, anchor="ls")
    place = (canvas.width - left - right) / 2 + shift[0], (canvas.height - top - bottom) / 2 + shift[1]
    ImageDraw.Draw(canvas).text(place, word, fill=255, font=sized, anchor="ls")
    return canvas.rotate(angle, Image.Resampling.BILINEAR).resize((WIDTH, HEIGHT), Image.Resampling.BOX)


TYPEFACES = Source(
    title="typefaces",
    origin='the packages of the dependency group "train", or wherever you have fonts',
    layout="""
any name.ttf
any other name.otf
...
""",
    read=read,
    is_installed=True,
)
