"""The data sets: small ones, written here in the formats of their authors, and all that can be wrong with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_writers import write_annotations, write_setid
from PIL import Image
from scipy.io import savemat
from small_datasets import SMALL, WRITERS, draw, write_folder
from torch.utils.data import DataLoader
from torchvision import datasets as torchvision_datasets
from torchvision.datasets import flowers102
from torchvision.transforms import v2

from reference.datasets import DATASETS, SPLITS, Sizes, load
from reference.datasets.images import read_picture

AUTHORS = ["cub", "cub-boxes", "aircraft", "flowers", "cars"]

# Expected: the number of each image, from its width, and its class.
EXPECTED = {
    ("cub", "train"): [(1, 0), (3, 1), (10, 2), (12, 0)],
    ("cub", "test"): [(2, 1), (4, 0), (11, 2)],
    ("aircraft", "train"): [(1, 2), (2, 0), (3, 1), (4, 2)],
    ("aircraft", "test"): [(5, 1), (6, 0)],
    ("flowers", "train"): [(6, 76), (2, 0), (5, 101), (1, 50)],
    ("flowers", "test"): [(7, 101), (3, 76), (4, 0)],
    ("cars", "train"): [(1, 2), (2, 0), (3, 1)],
    ("cars", "test"): [(1, 1), (2, 2)],
}


@pytest.fixture
def small(monkeypatch):
    """The registry, with the sizes of the data sets that are written here in the place of the published ones."""
    for name, sizes in SMALL.items():
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], sizes=sizes))


@pytest.fixture
def root(small, tmp_path):
    """A folder with all the authors' data sets."""
    for writer in set(WRITERS.values()):
        writer(tmp_path)
    return tmp_path


def numbers_in(dataset) -> list[tuple[int, int]]:
    return [(image.width - 40, target) for image, target in dataset]


# What is read


@pytest.mark.parametrize(("name", "split"), EXPECTED)
def test_images_and_classes_are_those_of_the_files(root, name, split):
    dataset = load(name, root, split)
    assert numbers_in(dataset) == EXPECTED[name, split]
    assert dataset.targets == [target for _, target in EXPECTED[name, split]]
    assert all(type(target) is int for target in dataset.targets)
    assert len(dataset) == len(EXPECTED[name, split])
    assert all(image.mode == "RGB" for image, _ in dataset)
    assert len(dataset.classes) == SMALL[name].classes


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("cub", ["001.Auk", "002.Great Tit", "003.Wren"]),
        ("aircraft", ["Falcon 2000", "Cessna 172", "F/A-18"]),
        ("cars", ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012"]),
    ],
)
def test_names_of_the_classes(root, name, classes):
    assert load(name, root, "train").classes == classes
    assert load(name, root, "test").classes == classes


def test_names_of_the_flowers(root):
    classes = load("flowers", root, "test").classes
    assert (len(set(classes)), classes[0], classes[101]) == (102, "pink primrose", "blackberry lily")


def samples_of(dataset) -> list[tuple[Path, int]]:
    return list(zip(dataset.paths, dataset.targets, strict=True))


def test_torchvision_reads_the_same_aircraft(root):
    for split, theirs in (("train", "trainval"), ("test", "test")):
        expected = torchvision_datasets.FGVCAircraft(root, theirs)
        assert samples_of(load("aircraft", root, split)) == [
            (Path(file), label) for file, label in zip(expected._image_files, expected._labels, strict=True)
        ]


def test_torchvision_reads_the_same_flowers(root, monkeypatch):
    monkeypatch.setattr(flowers102, "check_integrity", lambda *_: True)  # of the real files only
    parts = {part: torchvision_datasets.Flowers102(root, part) for part in ("train", "val", "test")}
    expected = {
        part: [(file, label) for file, label in zip(theirs._image_files, theirs._labels, strict=True)]
        for part, theirs in parts.items()
    }
    assert samples_of(load("flowers", root, "train")) == expected["train"] + expected["val"]
    assert samples_of(load("flowers", root, "test")) == expected["test"]


def test_torchvision_reads_the_same_cars(root):
    for split in SPLITS:
        expected = torchvision_datasets.StanfordCars(root, split)
        assert samples_of(load("cars", root, split)) == [(Path(file), label) for file, label in expected._samples]
        assert load("cars", root, split).classes == expected.classes


def test_torchvision_reads_the_same_folders(tmp_path):
    write_folder(tmp_path)
    for split in SPLITS:
        expected = torchvision_datasets.ImageFolder(tmp_path / split)
        dataset = load("folder", tmp_path, split)
        assert samples_of(dataset) == [(Path(file), label) for file, label in expected.samples]
        assert dataset.classes == ["Auk", "sea eagle"]


def test_hidden_files_and_folders_are_no_images(tmp_path):
    """Files that macOS, notebooks and Windows leave behind, some of it named like an image or a class."""
    write_folder(tmp_path)
    expected = {split: samples_of(load("folder", tmp_path, split)) for split in SPLITS}
    for split in SPLITS:
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
        draw(tmp_path / split / "Auk" / ".ipynb_checkpoints" / "one-checkpoint.jpg", 1)
        for name in ("._one.jpg", ".DS_Store", "Thumbs.db"):
            (tmp_path / split / "Auk" / name).write_bytes(b"no image")
        dataset = load("folder", tmp_path, split)
        assert samples_of(dataset) == expected[split]
        assert dataset.classes == ["Auk", "sea eagle"]


def test_a_class_whose_images_are_all_hidden_is_reported(tmp_path):
    write_folder(tmp_path)
    for path in (tmp_path / "train" / "Auk").iterdir():
        path.rename(path.with_name(f"._{path.name}"))
    with pytest.raises(FileNotFoundError, match=r"no valid file for the classes Auk\."):
        load("folder", tmp_path, "train")


def test_a_folder_of_validation_stands_in_for_one_of_tests(tmp_path):
    write_folder(tmp_path, "val")
    assert numbers_in(load("folder", tmp_path, "test")) == [(21, 0), (20, 1)]
    write_folder(tmp_path, "test")
    draw(tmp_path / "val" / "Auk" / "three.jpg", 30)
    assert numbers_in(load("folder", tmp_path, "test")) == [(21, 0), (20, 1)]


def test_labels_of_cars_may_lie_in_the_devkit(root):
    folder = root / "stanford_cars"
    expected = numbers_in(load("cars", root, "test"))
    (folder / "cars_test_annos_withlabels.mat").rename(folder / "devkit" / "cars_test_annos_withlabels.mat")
    assert numbers_in(load("cars", root, "test")) == expected


@pytest.mark.parametrize("name", AUTHORS)
def test_workers_give_the_same_as_none(root, name):
    dataset = load(name, root, "train", v2.Compose([v2.Resize((8, 8)), v2.PILToTensor()]))
    with_workers = list(DataLoader(dataset, batch_size=2, num_workers=2))
    without = list(DataLoader(dataset, batch_size=2))
    assert len(with_workers) == len(without) == len(dataset) // 2 + len(dataset) % 2
    for (images, targets), (others, other_targets) in zip(with_workers, without, strict=True):
        assert images.shape[1:] == (3, 8, 8)
        assert torch.equal(images, others)
        assert torch.equal(targets, other_targets)
        assert targets.dtype == torch.int64


# Pictures


def test_grey_pictures_of_birds_get_three_equal_channels(root):
    dataset = load("cub", root, "train")
    with Image.open(dataset.paths[1]) as file:
        assert file.mode == "L"
    red, green, blue = np.asarray(dataset[1][0]).transpose(2, 0, 1)
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)


def grey_of_16_bits(path: Path, byteorder: str = "<") -> None:
    """A picture of the levels 0, 255, 256, 33000 and 65535."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([[0, 255, 256, 33000, 65535]], f"{byteorder}u2")).save(path)


@pytest.mark.parametrize(("name", "byteorder"), [("1.png", "<"), ("1.tiff", "<"), ("1.tiff", ">")])
def test_grey_pictures_of_16_bits_keep_their_upper_8(tmp_path, name, byteorder):
    for split in SPLITS:
        grey_of_16_bits(tmp_path / split / "Wren" / name, byteorder)
    image = np.asarray(load("folder", tmp_path, "train")[0][0])
    assert image.tolist() == [[[level] * 3 for level in (0, 0, 1, 128, 255)]]
    assert np.array_equal(read_picture(tmp_path / "train" / "Wren" / name), image)


@pytest.mark.parametrize("values", [np.array([[0.5, 1]], np.float32), np.array([[0, 70000]], np.int32)])
def test_pictures_without_8_or_16_bits(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "1.tiff")
    with pytest.raises(ValueError, match=r"1\.tiff cannot be read .* 8 or 16 bits a channel; got mode [FI]"):
        read_picture(tmp_path / "1.tiff")


def test_the_banner_of_aircraft_is_cut_off(root):
    path = root / "fgvc-aircraft-2013b" / "data" / "images" / "0000005.jpg"
    picture = Image.new("RGB", (64, 84))
    picture.paste((255, 255, 255), (0, 64, 64, 84))  # the lowest 20 rows
    picture.save(path, quality=100)
    image = np.asarray(load("aircraft", root, "test")[0][0])
    assert image.shape == (64, 64, 3)
    assert image.max() < 8
    assert np.asarray(Image.open(path))[64:].min() > 247


def test_an_aircraft_that_is_all_banner(root):
    path = root / "fgvc-aircraft-2013b" / "data" / "images" / "0000005.jpg"
    draw(path, 5, height=20)
    with pytest.raises(ValueError, match=r"0000005\.jpg cannot be read .* 20 rows of pixels"):
        load("aircraft", root, "test")[0]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("5.0 7.0 30.0 40.0", (5, 7, 35, 47)),
        ("5.2 7.9 30.1 40.0", (5, 7, 36, 48)),  # the pixels that it touches
        ("0.0 0.0 42.0 60.0", (0, 0, 42, 60)),
        ("-3.0 50.0 20.0 30.0", (0, 50, 17, 60)),  # some reach past the edge
        ("41.5 59.5 9.0 9.0", (41, 59, 42, 60)),
    ],
)
def test_birds_are_cut_to_their_box(root, box, expected):
    folder = root / "CUB_200_2011"
    gradient = np.arange(60 * 42 * 3, dtype=np.uint32).reshape(60, 42, 3) % 251
    Image.fromarray(gradient.astype(np.uint8)).save(folder / "images" / "002.Great Tit" / "Bird 0002.jpg", "PNG")
    path = folder / "bounding_boxes.txt"
    path.write_text(path.read_text().replace("\n2 5.0 7.5 22.2 30.0\n", f"\n2 {box}\n"))
    left, top, right, bottom = expected
    image, target = load("cub-boxes", root, "test")[0]
    assert np.array_equal(np.asarray(image), gradient[top:bottom, left:right])
    assert target == 1


def test_each_bird_has_its_own_box(root):
    # Image i has the box 5, 7.5, i + 20.2, 30.
    assert [image.size for image, _ in load("cub-boxes", root, "train")] == [(n + 21, 31) for n in (1, 3, 10, 12)]


def test_boxes_are_needed_only_to_crop(root):
    (root / "CUB_200_2011" / "bounding_boxes.txt").unlink()
    assert len(load("cub", root, "train")) == 4
    with pytest.raises(FileNotFoundError, match=r"bounding_boxes\.txt is missing"):
        load("cub-boxes", root, "train")


@pytest.mark.parametrize("box", ["5 5 0 9", "5 5 9 -1", "nan 5 9 9", "5 5 9 inf", "5 5 9", "5 5 9 9 9", "5 5 nine 9"])
def test_boxes_that_are_none(root, box):
    path = root / "CUB_200_2011" / "bounding_boxes.txt"
    path.write_text(path.read_text().replace("\n2 5.0 7.5 22.2 30.0\n", f"\n2 {box}\n"))
    with pytest.raises(ValueError, match=rf"bounding_boxes\.txt: image 2 must have left, top, .*; got '{box}'"):
        load("cub-boxes", root, "test")


def test_a_box_outside_its_picture(root):
    path = root / "CUB_200_2011" / "bounding_boxes.txt"
    path.write_text(path.read_text().replace("\n2 5.0 7.5 22.2 30.0\n", "\n2 43.0 5.0 9.0 9.0\n"))
    with pytest.raises(ValueError, match=r"Bird 0002\.jpg .* is outside its 42×60 pixels"):
        load("cub-boxes", root, "test")[0]


@pytest.mark.parametrize("name", AUTHORS)
@pytest.mark.parametrize("damage", ["cut short", "empty", "no image", "removed"])
def test_a_broken_image_is_named(root, name, damage):
    dataset = load(name, root, "train")
    path = dataset.paths[1]
    if damage == "removed":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"cut short": content[: len(content) // 2], "empty": b"", "no image": b"<html>"}[damage])
    assert dataset[0][1] == dataset.targets[0]
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read as an image.*extract it again"):
        dataset[1]


def test_a_broken_image_is_named_from_a_worker(root):
    dataset = load("aircraft", root, "train", v2.Compose([v2.Resize((8, 8)), v2.PILToTensor()]))
    dataset.paths[1].write_bytes(b"")
    with pytest.raises(ValueError, match=r"0000002\.jpg cannot be read as an image") as alone:
        dataset[1]
    with pytest.raises(ValueError, match="image") as from_worker:
        list(DataLoader(dataset, batch_size=2, num_workers=1))
    assert str(from_worker.value) == str(alone.value)  # no traceback of the worker


# What is published


@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "images"),
    [
        ("cub", 200, 5994, 5794, 11788),
        ("cub-boxes", 200, 5994, 5794, 11788),
        ("aircraft", 100, 6667, 3333, 10000),
        ("flowers", 102, 2040, 6149, 8189),
        ("cars", 196, 8144, 8041, 16185),
    ],
)
def test_sizes_are_the_published_ones(name, classes, train, test, images):
    assert DATASETS[name].sizes == Sizes(classes, train, test)
    assert train + test == images


@pytest.mark.parametrize("name", AUTHORS)
@pytest.mark.parametrize("split", SPLITS)
def test_files_of_another_size_are_refused(tmp_path, name, split):
    WRITERS[name](tmp_path)
    small, published = SMALL[name], DATASETS[name].sizes
    expected = (
        rf"has {getattr(published, split)} images of {published.classes} classes in the split '{split}'; the files "
        rf"list {getattr(small, split)} of {small.classes}"
    )
    with pytest.raises(ValueError, match=expected):
        load(name, tmp_path, split)


# Missing files


REQUIRED = {
    "cub": [f"CUB_200_2011/{n}.txt" for n in ("images", "image_class_labels", "train_test_split", "classes")],
    "cub-boxes": ["CUB_200_2011/bounding_boxes.txt"],
    "aircraft": [f"fgvc-aircraft-2013b/data/{file}.txt" for file in ("variants", "images_variant_test")],
    "flowers": ["flowers-102/imagelabels.mat", "flowers-102/setid.mat"],
    "cars": ["stanford_cars/devkit/cars_meta.mat", "stanford_cars/cars_test_annos_withlabels.mat"],
}


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in REQUIRED.items() for file in files])
def test_a_missing_file_is_named_with_where_to_get_it(root, name, file):
    path = root / file
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is missing\.\n") as error:
        load(name, root, "test")
    advice = str(error.value)
    assert "https://" in advice
    assert f"{root}/\n    {file.split('/')[0]}/\n        " in advice
    assert path.name in advice.partition("must look like this")[2]


@pytest.mark.parametrize("name", [*AUTHORS, "folder"])
def test_an_empty_root(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"is missing\.\n.*The folder must look like this"):
        load(name, tmp_path / "nowhere", "train")


@pytest.mark.parametrize("name", AUTHORS)
def test_missing_images_are_counted(root, name):
    paths = load(name, root, "train").paths
    for path in paths[1:3]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"2 of {len(paths)} images are missing, such as .*{paths[1].name}"):
        load(name, root, "train")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_folder_without_one_of_its_parts(tmp_path, part):
    write_folder(tmp_path)
    (tmp_path / part).rename(tmp_path / "elsewhere")
    for split in SPLITS:
        with pytest.raises(FileNotFoundError, match=rf"{'train' if part == 'train' else 'val'} is missing.*\n"):
            load("folder", tmp_path, split)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_class_in_only_one_part_of_a_folder(tmp_path, part, split):
    write_folder(tmp_path)
    draw(tmp_path / part / "Bat" / "one.jpg", 1)  # would move the eagles from class 1 to class 2
    with pytest.raises(ValueError, match="must have the same classes; 1 are only in one of them, such as 'Bat'"):
        load("folder", tmp_path, split)


def test_a_folder_with_an_empty_class(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "Bat").mkdir()
    with pytest.raises(FileNotFoundError, match="Bat"):
        load("folder", tmp_path, "train")


# Text files


@pytest.mark.parametrize("name", ["cub", "cub-boxes", "aircraft"])
def test_line_endings_blank_lines_and_byte_order_marks_do_not_matter(root, name):
    expected = {split: numbers_in(load(name, root, split)) for split in SPLITS}
    classes = load(name, root, "train").classes
    files = [path for path in root.rglob("*.txt") if path.is_file()]
    assert len(files) == 8
    for path in files:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b" \r\n") + b"\r\n  \r\n")
    assert {split: numbers_in(load(name, root, split)) for split in SPLITS} == expected
    assert load(name, root, "train").classes == classes


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "images.txt",
            "2 002.Great Tit/Bird 0002.jpg\n",
            "",
            r"image_class_labels\.txt has 1 images that .*lacks: 2\.",
        ),
        ("image_class_labels.txt", "2 2\n", "", r"image_class_labels\.txt lacks 1 of the 7 images .*: 2\."),
        ("train_test_split.txt", "2 0\n", "", r"train_test_split\.txt lacks 1 of the 7 images .*: 2\."),
        ("train_test_split.txt", "2 0\n", "2 0\n99 1\n", r"train_test_split\.txt has 1 images .*: 99\."),
        ("train_test_split.txt", "2 0\n", "2 2\n", r"train_test_split\.txt: image 2 must have 1 for .*; got '2'"),
        ("image_class_labels.txt", "\n2 2\n", "\n2 4\n", r"labels\.txt: image 2 must have a class of .*; got '4'"),
        ("image_class_labels.txt", "\n2 2\n", "\n2 0\n", r"labels\.txt: image 2 must have a class of .*; got '0'"),
        ("image_class_labels.txt", "\n2 2\n", "\n2 two\n", r"labels\.txt: image 2 must have a class of .*'two'"),
        ("image_class_labels.txt", "\n2 2\n", "\n2\n", r"labels\.txt:6: expected two entries.*; got '2'"),
        ("image_class_labels.txt", "\n2 2\n", "\n2 2\n2 1\n", r"labels\.txt:7: 2 has been there before, with '2'"),
        ("classes.txt", "3 003.Wren", "2 003.Wren", r"classes\.txt:3: 2 has been there before"),
    ],
)
def test_birds_that_do_not_join(root, file, old, new, message):
    edit(root / "CUB_200_2011" / file, old, new)
    with pytest.raises(ValueError, match=message):
        load("cub", root, "test")


def test_a_bird_listed_twice(root):
    edit(root / "CUB_200_2011" / "images.txt", "Bird 0004", "Bird 0002")
    edit(root / "CUB_200_2011" / "images.txt", "4 001.Auk", "4 002.Great Tit")
    with pytest.raises(ValueError, match=r"listed once; .*Bird 0002\.jpg is listed more often"):
        load("cub", root, "test")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "images_variant_test.txt",
            "Cessna 172",
            "Cessna",
            r"test\.txt: image 0000005 is of the variant 'Cessna', not",
        ),
        ("images_variant_test.txt", " Cessna 172", "", r"test\.txt:1: expected two entries"),
        ("images_variant_test.txt", "0000006", "0000005", r"test\.txt:2: 0000005 has been there before"),
        ("variants.txt", "F/A-18", "Cessna 172", r"variants\.txt: 'Cessna 172' is there more than once"),
        ("variants.txt", "F/A-18\n", "", r"has 2 images of 3 classes .* list 2 of 2"),
        ("images_variant_test.txt", "0000006 Falcon 2000\n", "", r"has 2 images of 3 classes .* list 1 of 3"),
    ],
)
def test_aircraft_that_do_not_join(root, file, old, new, message):
    edit(root / "fgvc-aircraft-2013b" / "data" / file, old, new)
    with pytest.raises(ValueError, match=message):
        load("aircraft", root, "test")


# MATLAB's files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float64])
@pytest.mark.parametrize("shape", [(1, 7), (7, 1)])
def test_numbers_of_any_type_and_shape(root, dtype, shape):
    expected = {split: numbers_in(load("flowers", root, split)) for split in SPLITS}
    folder = root / "flowers-102"
    savemat(folder / "imagelabels.mat", {"labels": np.array([51, 1, 77, 1, 102, 77, 102], dtype).reshape(shape)})
    parts = {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3, 4]}
    savemat(folder / "setid.mat", {part: np.array([ids], dtype) for part, ids in parts.items()}, do_compression=True)
    found = {split: load("flowers", root, split) for split in SPLITS}
    assert {split: numbers_in(dataset) for split, dataset in found.items()} == expected
    assert all(type(target) is int for dataset in found.values() for target in dataset.targets)


@pytest.mark.parametrize(
    ("label", "dtype"), [(0, np.uint8), (103, np.uint8), (-1, np.int8), (1.5, float), (np.nan, float)]
)
def test_flowers_of_no_class(root, label, dtype):
    labels = np.array([[51, 1, 77, 1, 102, 77, 102]], dtype)
    labels[0, 3] = label
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": labels})
    with pytest.raises(
        ValueError, match=rf"imagelabels\.mat: label 4 must be a whole number from 1 to 102; got {label}"
    ):
        load("flowers", root, "train")


@pytest.mark.parametrize(
    "parts",
    [
        {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3]},  # one too few
        {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3, 8]},  # one that has no label
        {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3, 6]},  # one that was trained on
        {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3, 4, 4]},
        {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3, 0]},
    ],
)
def test_flowers_that_are_not_divided(root, parts):
    write_setid(root / "flowers-102", parts)
    with pytest.raises(ValueError, match=r"setid\.mat must have each of the 7 images .* 2 in trnid, 2 in valid, "):
        load("flowers", root, "test")


@pytest.mark.parametrize("label", [0, 4, 255])
def test_cars_of_no_class(root, label):
    write_annotations(root / "stanford_cars" / "cars_test_annos_withlabels.mat", [1, label])
    with pytest.raises(
        ValueError, match=rf"withlabels\.mat: label 2 must be a whole number from 1 to 3; got {label}\."
    ):
        load("cars", root, "test")


def test_cars_with_more_classes_than_a_byte_holds(root, monkeypatch):
    names = np.empty((1, 300), object)
    names[0] = [f"car {number}" for number in range(300)]
    savemat(root / "stanford_cars" / "devkit" / "cars_meta.mat", {"class_names": names})
    write_annotations(root / "stanford_cars" / "cars_test_annos_withlabels.mat", [300, 256])
    monkeypatch.setitem(DATASETS, "cars", replace(DATASETS["cars"], sizes=Sizes(300, 3, 2)))
    assert load("cars", root, "test").targets == [299, 255]


def test_a_single_car(root, monkeypatch):
    write_annotations(root / "stanford_cars" / "cars_test_annos_withlabels.mat", [3])
    monkeypatch.setitem(DATASETS, "cars", replace(DATASETS["cars"], sizes=Sizes(3, 3, 1)))
    assert numbers_in(load("cars", root, "test")) == [(1, 2)]


def test_test_annotations_of_cars_without_labels(root):
    folder = root / "stanford_cars"
    (folder / "devkit" / "cars_test_annos.mat").rename(folder / "cars_test_annos_withlabels.mat")
    with pytest.raises(ValueError, match=r"must have the fields class and fname; .* has the classes"):
        load("cars", root, "test")


@pytest.mark.parametrize("name", ["flowers", "cars"])
@pytest.mark.parametrize("damage", ["web page", "empty", "later version", "other variable", *range(1, 8)])
def test_a_broken_matlab_file_is_named(root, name, damage):
    path = {"flowers": root / "flowers-102" / "imagelabels.mat", "cars": root / "stanford_cars/devkit/cars_meta.mat"}[
        name
    ]
    content = path.read_bytes()
    if damage == "web page":
        path.write_text("<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>" * 9)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "later version":  # 7.3 is HDF5
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    elif damage == "other variable":
        savemat(path, {"other": np.zeros(3)})
        with pytest.raises(ValueError, match=rf"{path.name} must have the variable '\w+'; it has other\."):
            load(name, root, "train")
        return
    else:
        path.write_bytes(content[: len(content) * damage // 8])
    with pytest.raises(ValueError, match=rf"{path.name} (cannot be read as a MATLAB file|must have)"):
        load(name, root, "train")


# What is asked for


def test_names_that_there_are_not():
    with pytest.raises(ValueError, match=r"name must be one of cub, cub-boxes, .*; got 'birds'"):
        load("birds", "data", "train")
    with pytest.raises(ValueError, match="split must be one of train, test; got 'val'"):
        load("cub", "data", "val")


def test_the_folder_of_a_data_set_may_be_named_itself(root):
    for name in AUTHORS:
        own = DATASETS[name].layout.strip().partition("/")[0]
        assert samples_of(load(name, root / own, "train")) == samples_of(load(name, root, "train"))


def test_the_home_folder(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(load("cub", f"~/{root.name}", "train")) == 4
