"""Promises of folders above and below the classes, and of tables whose images lie in other folders."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.model.description.source_description import AmbiguousDataError
from relearn.model.errors import DataError
from relearn.model.sources.inspect import inspect_source
from tests.model.sources.test_usual_layouts import IMAGES, LETTERS, Load, contents, load, save, subset

__all__ = ["load"]
ALL, TRAIN, TEST = np.arange(90), np.arange(60), np.arange(60, 90)


def save_classes(folder: Path, selected: np.ndarray = ALL) -> None:
    """Save the images at `selected` in a folder for each class."""
    for index in selected:
        save(folder / LETTERS[index] / f"{index}.png", IMAGES[index])


def save_flat(folder: Path, selected: np.ndarray = ALL, name: str = "{}.png") -> list[str]:
    """Save the images at `selected` in one folder; return their names."""
    for index in selected:
        save(folder / name.format(index), IMAGES[index])
    return [name.format(index) for index in selected]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("train/Animalia/Insecta", "val/Animalia/Insecta"),
        ("stage 1 train/photos", "stage 1 test"),
    ],
)
def test_splits_with_alike_names_and_folders_in_between_are_read(
    tmp_path: Path, load: Load, train: str, test: str
) -> None:
    """A prefix of all split folders, and folders that alone hold the classes, belong to the split."""
    save_classes(tmp_path / "data" / train, TRAIN)
    save_classes(tmp_path / "data" / test, TEST)
    dataset = load("data")
    assert dataset.test is not None
    assert (subset(TRAIN), subset(TEST)) == (contents(dataset), contents(dataset, dataset.test))


words = st.text("abcdefghij", min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    prefix=words,
    suffix=words,
    levels=st.lists(st.tuples(words, words), max_size=3),
    classes=st.sets(words, min_size=2, max_size=4),
)
def test_any_prefix_and_depth_of_splits_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    prefix: str,
    suffix: str,
    levels: list[tuple[str, str]],
    classes: set[str],
) -> None:
    """PREFIX_train_SUFFIX/…/class and PREFIX_test_SUFFIX/…/class: the innermost folders are the classes."""
    root = tmp_path_factory.mktemp("levels")
    for split, count in (("train", 3), ("test", 2)):
        inner = "/".join(level[["train", "test"].index(split)] for level in levels)
        for name in classes:
            for index in range(count):
                save(root / f"{prefix}_{split}_{suffix}" / inner / name / f"{index}.png", IMAGES[index])
    description = inspect_source(root)
    assert set(description.classes) == classes
    assert description.counts == {"train": 3 * len(classes), "test": 2 * len(classes)}


def test_folders_of_parts_are_a_choice(tmp_path: Path, load: Load) -> None:
    """fold1/a, fold2/a …: the outer folders are the classes, or the inner ones."""
    for fold in range(3):
        save_classes(tmp_path / "data" / f"fold{fold}", np.arange(fold, 90, 4))
    with pytest.raises(AmbiguousDataError, match="may hold images of all classes") as caught:
        load("data")
    outer, inner = (load("data", line) for _, line in caught.value.readings)
    assert outer.classes == ("fold0", "fold1", "fold2")
    selected = np.concatenate([np.arange(fold, 90, 4) for fold in range(3)])
    assert subset(selected) == contents(inner)


def test_folders_that_all_classes_share_are_a_warning(tmp_path: Path, load: Load) -> None:
    """color/a, gray/a …: read as torchvision and Keras do, with the line for the inner folders."""
    for name in ("color", "gray"):
        save_classes(tmp_path / "data" / name, np.arange("cg".index(name[0]), 90, 2))
    description = inspect_source(tmp_path / "data")
    assert description.classes == ("color", "gray")
    (warning,) = description.warnings
    assert warning.startswith(
        "90 images lie in 6 folders inside of class folders, such as color/a, and belong"
    )
    assert subset(ALL) == contents(load("data", warning.split("`")[1]))
    joined = inspect_source(tmp_path / "data", {"class_level": 2})
    assert joined.classes == ("a", "b", "c")
    assert "3 classes have several folders of one name, such as a" in joined.notes


def test_folders_of_one_class_alone_are_no_choice(tmp_path: Path, load: Load) -> None:
    """Folders inside of a class are part of it, if the other classes have other ones."""
    for index in range(90):
        save(
            tmp_path / "data" / LETTERS[index] / f"{LETTERS[index]}{index % 4}" / f"{index}.png",
            IMAGES[index],
        )
    assert subset(ALL) == contents(load("data"))


def save_species(folder: Path, selected: np.ndarray = ALL) -> list[str]:
    """Save the images at `selected` in nine species of three families; return the species."""
    species = [f"{index % 9:05}_{LETTERS[index]}_{'xyz'[index // 3 % 3]}" for index in selected]
    for index, name in zip(selected, species, strict=True):
        save(folder / LETTERS[index] / name / f"{index}.png", IMAGES[index])
    return sorted(set(species))


def test_folders_of_several_classes_inside_of_each_class_are_a_choice(tmp_path: Path, load: Load) -> None:
    """Train/Aves/00123_species, as iNaturalist has it: the families are the classes, or the species."""
    species = save_species(tmp_path / "data/train", TRAIN)
    assert species == save_species(tmp_path / "data/val", TEST)
    with pytest.raises(AmbiguousDataError, match="with other folders in each") as caught:
        load("data")
    families, inner = (load("data", line) for _, line in caught.value.readings)
    assert families.classes == ("a", "b", "c")
    assert inner.classes == tuple(species)
    for dataset in (families, inner):
        assert dataset.test is not None
        assert (len(TRAIN), len(TEST)) == (len(dataset.train), len(dataset.test))


def test_images_in_folders_of_a_class_are_counted(tmp_path: Path) -> None:
    """Folders of one video each, or of some images, belong to the class: a line has their number."""
    for index in range(90):
        inner = f"video_{index // 10}" if index % 2 else ""
        save(tmp_path / "data" / LETTERS[index] / inner / f"{index}.png", IMAGES[index])
    description = inspect_source(tmp_path / "data")
    assert description.classes == ("a", "b", "c")
    (line,) = (note for note in description.notes if "class_level = 2" in note)
    assert line.startswith(
        "45 images lie in 27 folders inside of class folders, such as a/video_0, and belong"
    )


@pytest.mark.parametrize("folders", [("images", "annotations"), ("images_part_1", "images_part_2")])
def test_folders_named_after_images_are_no_classes_in_silence(
    tmp_path: Path, load: Load, folders: tuple[str, str]
) -> None:
    """Names of no class, such as images and annotations, are refused with the reading of the file names."""
    for folder, part in zip(folders, (TRAIN, TEST), strict=True):
        for index in part:
            save(tmp_path / "data" / folder / f"{LETTERS[index]}_{index}.png", IMAGES[index])
    with pytest.raises(AmbiguousDataError, match="start with the class") as caught:
        load("data")
    line = caught.value.readings[1][1].replace(", root", "\nroot")
    expected = TRAIN if "images" in folders else ALL
    accepted = 'left_out = {"outside a class folder" = 30}' if "images" in folders else ""
    assert subset(expected) == contents(load("data", line, accepted))


def test_masks_beside_their_images_are_left_out(tmp_path: Path, load: Load) -> None:
    """a (1)_mask.png beside a (1).png is no image of the class; a mask without an image is one."""
    save_classes(tmp_path / "data")
    for index in range(10):
        save(tmp_path / "data" / LETTERS[index] / f"{index}_mask.png", IMAGES[-index - 1])
    assert inspect_source(tmp_path / "data").left_out == {"masks of other images": 10}
    assert subset(ALL) == contents(load("data"))


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("images/{}/{}.png", "masks/{}/{}.jpg"),
        ("{}/images/{}.png", "{}/masks/{}_mask.png"),
        ("{}/{}.png", "{}/trimaps/{}.png"),
        ("{}/JPEGImages/{}.png", "{}/labels/{}.png"),
        ("{}/{}.png", "{}/{}_gt.png"),
        ("train/images/{}/{}.png", "train/annotations/{}/{}.png"),
    ],
)
def test_masks_by_any_usual_name_are_left_out(tmp_path: Path, load: Load, photo: str, mask: str) -> None:
    """Masks have the stem of an image and say so in a folder or at the end; they are counted."""
    for index in range(90):
        save(tmp_path / "data" / photo.format(LETTERS[index], index), IMAGES[index])
        if index < 20:
            save(tmp_path / "data" / mask.format(LETTERS[index], index), 255 - IMAGES[index])
    assert inspect_source(tmp_path / "data").left_out == {"masks of other images": 20}
    assert subset(ALL) == contents(load("data"))


@pytest.mark.parametrize("names", [("mask", "no_mask"), ("gt", "other")])
def test_classes_called_masks_are_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    """Faces in mask/1.png and no_mask/1.png are no masks of each other."""
    for index in range(90):
        save(tmp_path / "data" / names[index % 2] / f"{index // 2}.png", IMAGES[index])
    description = inspect_source(tmp_path / "data")
    assert (names, {}) == (description.classes, description.left_out)


def test_images_of_few_colors_beside_images_of_their_name_are_a_warning(tmp_path: Path) -> None:
    """a/1.png of two colors beside a/1.jpg may be its mask; two photos of one name are no masks."""
    save_classes(tmp_path / "data")
    for index in range(8):
        save(tmp_path / "data" / LETTERS[index] / f"{index}.jpg", IMAGES[index // 4], "JPEG")
    assert inspect_source(tmp_path / "data").warnings == []
    for index in range(8):
        save(tmp_path / "data" / LETTERS[index] / f"{index}.jpg", (IMAGES[index] > 99) * np.uint8(9))
    (warning,) = inspect_source(tmp_path / "data").warnings
    assert warning.startswith("8 images share their name with an image of few colors")


TAGS = ("clear", "road", "sea", "ice", "fog", "sun")
PAIRS = [f"{first}{{}}{second}" for first, second in combinations(TAGS, 2)]


@pytest.mark.parametrize(
    ("classes", "joint"),
    [
        (["airplane", "person", "airplane person"], 1),
        (["dog", "cat", "dog|cat", "cat, dog"], 2),
        ([pair.format(" ") for pair in PAIRS], 15),
        (["none", *(pair.format("|") for pair in PAIRS)], 15),
        (["hot", "hot dog", "dog_food", "BMW 3 Wagon", "BMW 3 Sedan", "0, 5", "-1", "1"], 0),
    ],
)
def test_names_that_join_labels_are_a_warning(tmp_path: Path, classes: list[str], joint: int) -> None:
    """`dog|cat` beside `dog` and `cat`, or mostly combinations of few words: an image has one label only."""
    names = save_flat(tmp_path / "data", np.arange(len(classes) * 4))
    frame = pd.DataFrame({"image": names, "label": [classes[index // 4] for index in range(len(names))]})
    frame.to_csv(tmp_path / "data/labels.csv", index=False)
    warnings = inspect_source(tmp_path / "data").warnings
    assert bool(joint) == len(warnings)
    assert all(warning.startswith(f"{joint} of {len(classes)} class names join") for warning in warnings)


def test_a_class_of_another_spelling_in_the_test_split_is_named(tmp_path: Path, load: Load) -> None:
    """Train/A and test/a: the refusal says that the names differ only in their spelling."""
    save_classes(tmp_path / "data/test", TEST)
    save_classes(tmp_path / "data/train", TRAIN)
    (tmp_path / "data/train/a").rename(tmp_path / "data/train/A")
    with pytest.raises(DataError, match="one spelling, got 'A' and 'a'"):
        load("data")


def test_lists_of_splits_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Meta/train.txt beside class folders is named, as its splits are not read."""
    save_classes(tmp_path / "data/images")
    (tmp_path / "data/meta").mkdir()
    (tmp_path / "data/meta/train.txt").write_text("a/0\n")
    assert "meta/train.txt may list the splits" in str(inspect_source(tmp_path / "data").warnings)


def test_an_image_behind_a_broken_link_is_damaged(tmp_path: Path, load: Load) -> None:
    """A link to nowhere is not left out in silence: it is named as damaged."""
    save_classes(tmp_path / "data")
    (tmp_path / "data/a/linked.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"1 of 91 images cannot be read.*linked.png"):
        load("data")
    assert subset(ALL) == contents(load("data", "skip_damaged = 1"))


# Tables


@pytest.mark.parametrize(
    "write",
    [
        lambda name: name.removesuffix(".png"),
        lambda name: name,
        lambda name: f"/home/ann/project/{name}",
        lambda name: f"C:\\data\\{name}",
    ],
    ids=["without suffix", "name", "path", "Windows path"],
)
def test_listed_images_may_lie_in_several_folders(tmp_path: Path, load: Load, write: Any) -> None:
    """Names without a folder, or of another machine's folder, are found in all folders of the data."""
    names = [
        *save_flat(tmp_path / "data/images_001/images", TRAIN),
        *save_flat(tmp_path / "data/images_002/images", TEST),
    ]
    frame = pd.DataFrame({"image": map(write, names), "label": LETTERS})
    frame.to_csv(tmp_path / "data/labels.csv", index=False)
    assert subset(ALL) == contents(load("data"))


def test_paths_in_folders_that_do_not_exist_are_not_guessed(tmp_path: Path, load: Load) -> None:
    """a/1.png is never read from b/1.png."""
    names = save_flat(tmp_path / "data/b")
    frame = pd.DataFrame({"image": [f"{'ac'[i % 2]}/{n}" for i, n in enumerate(names)], "label": LETTERS})
    frame.to_csv(tmp_path / "data/labels.csv", index=False)
    with pytest.raises(DataError, match=r"labels\.csv is not read: its first row is 'a/0\.png'"):
        load("data")


def test_one_name_in_two_folders_is_not_guessed(tmp_path: Path, load: Load) -> None:
    """A name that two folders have is refused with the choice of the folder."""
    names = save_flat(tmp_path / "data/x")
    save_flat(tmp_path / "data/y")
    pd.DataFrame({"image": names, "label": LETTERS}).to_csv(tmp_path / "data/labels.csv", index=False)
    with pytest.raises(AmbiguousDataError, match="several folders have the files"):
        load("data")


@pytest.mark.parametrize("suffix", [".png", ""])
def test_a_first_row_that_names_an_image_is_no_header(tmp_path: Path, load: Load, suffix: str) -> None:
    """A table of file names and labels without a header loses no row."""
    names = save_flat(tmp_path / "data/images", name="image{}.png")
    rows = pd.DataFrame({"image": [name.replace(".png", suffix) for name in names], "label": LETTERS})
    rows.to_csv(tmp_path / "data/labels.csv", index=False, header=False)
    assert subset(ALL) == contents(load("data"))
    assert subset(ALL) == contents(load("data/labels.csv"))


@pytest.mark.parametrize("values", [(False, True), (0, 1), ("TRUE", "FALSE")])
def test_a_column_of_true_and_false_gives_the_split(tmp_path: Path, load: Load, values: Any) -> None:
    """is_valid and is_train, as fastai has them, divide the images."""
    names = save_flat(tmp_path / "data/images")
    column = "is_train" if "TRUE" in values else "is_valid"
    frame = pd.DataFrame({"image": names, "label": LETTERS, column: np.array(values)[[0] * 60 + [1] * 30]})
    frame.to_csv(tmp_path / "data/labels.csv", index=False)
    dataset = load("data")
    assert dataset.test is not None
    assert (subset(TRAIN), subset(TEST)) == (contents(dataset), contents(dataset, dataset.test))


def test_tables_of_splits_win_over_other_tables(tmp_path: Path, load: Load) -> None:
    """Train.csv and Test.csv have the labels, and Meta.csv beside them one image of each class."""
    for name, part in (("Train", TRAIN), ("Test", TEST), ("Meta", np.arange(3))):
        paths = [f"{name}/{file}" for file in save_flat(tmp_path / "data" / name, part)]
        extra = {"ShapeId": 1} if name == "Meta" else {"Width": 8}
        frame = pd.DataFrame(extra | {"ClassId": LETTERS[part], "Path": paths})
        frame.to_csv(tmp_path / f"data/{name}.csv", index=False)
    dataset = load("data")
    assert dataset.test is not None
    assert (subset(TRAIN), subset(TEST)) == (contents(dataset), contents(dataset, dataset.test))


def test_a_table_that_is_not_read_is_named(tmp_path: Path) -> None:
    """Ids that are no file names, or text that is not UTF-8: the lines say why the table is not read."""
    save_classes(tmp_path / "data")
    (tmp_path / "data/labels.csv").write_text("id,label\n1000,x\n1001,y\n")
    (tmp_path / "data/notes.csv").write_bytes("Käfer;1\n".encode("cp1252"))
    notes = str(inspect_source(tmp_path / "data").notes)
    assert "labels.csv is not read: its first row is '1000', 'x', but an image file is a/0.png" in notes
    assert "notes.csv is not read: notes.csv is not UTF-8 text" in notes
