"""The published pipelines: sizes, values and what is random in them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reference.datasets.transforms import from_scratch, pretrained

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]

RECIPES = [(from_scratch, 224, 224), (pretrained, 600, 448)]


def make_picture(width: int = 90, height: int = 130) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def resized(picture: Image.Image, size: int) -> Tensor:
    """The picture in [0, 1], (3, size, size), by Pillow alone."""
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def normalised(image: Tensor, recipe) -> Tensor:
    return (image - 0.5) / 0.5 if recipe is from_scratch else (image - IMAGENET[0]) / IMAGENET[1]


@pytest.mark.parametrize(("recipe", "size", "crop"), RECIPES)
@pytest.mark.parametrize("shape", [(90, 130), (700, 300), (600, 600)])
def test_evaluation_is_the_middle_of_the_resized_picture(recipe, size, crop, shape):
    picture = make_picture(*shape)
    margin = (size - crop) // 2
    expected = normalised(resized(picture, size)[:, margin : margin + crop, margin : margin + crop], recipe)
    torch.testing.assert_close(recipe(training=False)(picture), expected)


def windows(recipe, picture: Image.Image, size: int, crop: int) -> set[tuple[int, int, bool]]:
    """All that may come out in training, found by comparing: top, left and whether mirrored."""
    padding = 4 if recipe is from_scratch else 0
    whole = torch.nn.functional.pad(resized(picture, size), [padding] * 4)
    image = recipe(training=True)(picture)
    assert image.shape == (3, crop, crop)
    assert image.dtype == torch.float32
    found = set()
    for is_mirrored in (False, True):
        # A corner of 4² pixels tells the place, the whole image is then compared.
        upright = image.flip(-1) if is_mirrored else image
        patches = normalised(whole, recipe).unfold(1, 4, 1).unfold(2, 4, 1)  # (3, top, left, 4, 4)
        places = whole.shape[1] - crop + 1
        middle = crop // 2
        here = patches[:, middle : middle + places, middle : middle + places]
        patch = upright[:, None, None, middle : middle + 4, middle : middle + 4]
        for top, left in (here - patch).abs().amax(dim=(0, 3, 4)).lt(1e-5).nonzero().tolist():
            expected = normalised(whole[:, top : top + crop, left : left + crop], recipe)
            torch.testing.assert_close(upright, expected)
            found.add((top, left, is_mirrored))
    return found


@pytest.mark.parametrize(("recipe", "size", "crop"), RECIPES)
def test_training_is_a_window_of_the_resized_picture_perhaps_mirrored(recipe, size, crop):
    picture = make_picture(size, size)
    draws = []
    for _ in range(40):
        found = windows(recipe, picture, size, crop)
        assert len(found) == 1
        draws.append(found.pop())
    tops, lefts, mirrored = zip(*draws, strict=True)
    room = 8 if recipe is from_scratch else size - crop
    for places in (tops, lefts):
        assert min(places) <= room / 8
        assert max(places) >= room * 7 / 8
    assert 8 < sum(mirrored) < 32


@pytest.mark.parametrize(("recipe", "size", "crop"), RECIPES)
def test_random_numbers_are_those_of_pytorch(recipe, size, crop):
    picture = make_picture()
    torch.manual_seed(3)
    first = recipe(training=True)(picture)
    torch.manual_seed(3)
    assert torch.equal(recipe(training=True)(picture), first)


@pytest.mark.parametrize(("recipe", "size", "crop"), RECIPES)
def test_evaluation_draws_nothing(recipe, size, crop):
    state = torch.get_rng_state()
    recipe(training=False)(make_picture())
    assert torch.equal(torch.get_rng_state(), state)


def test_black_comes_in_at_the_edges_up_to_four_pixels():
    white = Image.new("RGB", (224, 224), (255, 255, 255))
    darkest = torch.stack([from_scratch(training=True)(white) for _ in range(80)]).amin(dim=0)
    expected = torch.full((3, 224, 224), -1.0)
    expected[:, 4:-4, 4:-4] = 1
    assert torch.equal(darkest, expected)
