"""Generated data sets of image files: folders, lists of files, metadata and archives."""

import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.model.sources.layout_images import (
    RARE_SUFFIXES,
    SUFFIXES,
    Picture,
    draw_names,
    draw_pictures,
    encode,
    truncate,
)
from tests.model.sources.layout_sketch import (
    ANY_CLASSES,
    GIVEN_SPLITS,
    LABEL_NAMES,
    ODD_LABEL_NAMES,
    SPLIT_NAMES,
    Sketch,
    draw_classes,
    draw_splits,
)
from tests.model.sources.layout_text import csv_text, render_table

Files = dict[str, bytes]
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60)


def draw_tree(sketch: Sketch, split: bool) -> Files:
    """Draw a folder for each class, with or without a folder for each split above."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    folders = dict.fromkeys(("train", "val", "test"), "")
    if split:
        draw_splits(sketch, GIVEN_SPLITS)
        split_names = SPLIT_NAMES[draw.pick("split names", dict.fromkeys(SPLIT_NAMES, 1) | {"lower": 3})]
        folders = dict(zip(folders, (f"{name}/" for name in split_names), strict=True))
    depth = draw.pick("sub-folders", {"none": 8, "some": 1.5, "all": 0.8, "deep": 0.5})
    names = draw_file_places(sketch, depth)
    files = {}
    for place, picture in enumerate(pictures):
        parent = folders[sketch.splits[place]] + sketch.labels[place]
        files[f"{parent}/{names[place]}{picture.suffix}"] = picture.content
    if draw.flip("defect", 0.16):
        files = spoil_tree(sketch, files, pictures, folders if split else None)
    elif len(files) >= 20 and draw.flip("stray image", 0.05):
        files["stray.png"] = encode(sketch.pixels[0, :, ::-1], "png", "plain", 1, None)
        sketch.report("an image beside the folders of the classes")
    return files


def draw_file_places(sketch: Sketch, depth: str) -> list[str]:
    """Return each image's path below its class folder; names repeat in several classes."""
    draw = sketch.draw
    restart = draw.flip("same names in each class", 0.5)
    subfolders = draw.one_of((("images",), ("batch1", "batch2"), ("2019", "2020"), ("left eye", "right eye")))
    names = draw_names(sketch, len(sketch.labels))
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for place, (label, split) in enumerate(zip(sketch.labels, sketch.splits, strict=True)):
        name = names[seen[label, split] if restart else place]
        seen[label, split] += 1
        sub = subfolders[place % len(subfolders)]
        if depth == "all" or (depth == "some" and place % 2):
            name = f"{sub}/{name}"
        elif depth == "deep":
            name = f"{sub}/{('a', 'b')[place // 2 % 2]}/{name}"
        places.append(name)
    return places


def spoil_tree(
    sketch: Sketch, files: Files, pictures: Sequence[Picture], folders: Mapping[str, str] | None
) -> Files:
    """Return files that must be refused."""
    draw = sketch.draw
    kinds: dict[str, float] = {
        "damaged": 4,
        "flat": 1,
        "flat with names": 1.5,
        "one folder": 0.7,
        "many strays": 0.7,
    }
    if folders and "test" in sketch.splits:
        kinds |= {"unlabeled test": 3, "unknown test class": 3}
    kind = draw.pick("kind of defect", kinds)
    if kind == "damaged":
        damage_one(sketch, files)
    elif kind == "flat":
        sketch.none("images without labels")
        files = {f"{place + 1}{picture.suffix}": picture.content for place, picture in enumerate(pictures)}
    elif kind == "one folder":
        sketch.none("images of a single class")
        files = {
            f"images/{place + 1}{picture.suffix}": picture.content for place, picture in enumerate(pictures)
        }
    elif kind == "flat with names":
        sketch.two("class only in the file names")
        split = draw.one_of(("", "train/"))
        files = {
            f"{split}{sketch.labels[place]}.{place}{picture.suffix}": picture.content
            for place, picture in enumerate(pictures)
        }
        if split:
            files |= {
                f"test/{place}{picture.suffix}": picture.content for place, picture in enumerate(pictures[:8])
            }
    elif kind == "many strays":
        sketch.none("more than 20 % of the images lie beside the folders of the classes")
        for place in range(len(files) // 2):
            files[f"stray{place}.png"] = encode(sketch.pixels[place, :, ::-1], "png", "plain", 1, None)
    elif kind == "unlabeled test" and folders:
        sketch.two("test images without labels")
        below = draw.one_of(("", "test/", "unknown/"))
        test = folders["test"]
        trained = {name: content for name, content in files.items() if not name.startswith(test)}
        tested = [picture for picture, split in zip(pictures, sketch.splits, strict=True) if split == "test"]
        files = trained | {
            f"{test}{below}{place}{picture.suffix}": picture.content for place, picture in enumerate(tested)
        }
    elif folders:
        sketch.none("a class of the test split that is not in train")
        old, new = f"{folders['test']}{sketch.classes[0]}/", f"{folders['test']}zebra/"
        files = {
            new + name.removeprefix(old) if name.startswith(old) else name: content
            for name, content in files.items()
        }
    return files


def lose_one(sketch: Sketch, files: Files) -> None:
    """Remove one image file that stays in the list: one of at least nine images."""
    name = sorted(files)[0]
    sketch.forget([list(files).index(name)])
    del files[name]
    sketch.report("a listed file that does not exist")


IMAGE_SUFFIXES = {
    suffix.lower() for group in (SUFFIXES.values(), *RARE_SUFFIXES.values()) for suffix in group
}


def damage_one(sketch: Sketch, files: Files) -> None:
    """Replace one image file by a truncated or empty file, by text or by noise."""
    name = sketch.draw.one_of(sorted(files))
    kind = sketch.draw.pick("damage", {"truncated": 2, "empty": 1, "text": 1, "noise": 1})
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        kind = "truncated"  # without a suffix only its first bytes say that it is to be an image
    bad = {"truncated": truncate(files[name]), "empty": b"", "text": b"<html>404 Not Found</html>\n"}
    files[name] = bad.get(kind, sketch.draw.rng.bytes(200))
    sketch.none(f"a damaged image file ({kind})")


def add_junk(sketch: Sketch, files: Files, archive: bool) -> Files:
    """Add what systems and people leave beside images; none of it belongs to the data set."""
    draw = sketch.draw
    files = dict(files)
    folders = sorted({str(Path(name).parent) for name in files})
    some = "" if folders[0] == "." else f"{folders[0]}/"
    first = min(name for name in files if not name.lower().endswith((".csv", ".tsv", ".jsonl")))
    if draw.flip("Mac junk", 0.3 if archive else 0.12):
        files[".DS_Store"] = b"\x00\x00\x00\x01Bud1" + bytes(40)
        files[f"{some}.DS_Store"] = b"\x00\x00\x00\x01Bud1" + bytes(40)
        if archive or draw.rng.random() < 0.5:
            files |= {_apple_name(name): APPLE_DOUBLE for name in list(files)[:6]}
        else:
            files |= {str(Path(first).parent / f"._{Path(first).name}"): APPLE_DOUBLE}
    if draw.flip("Windows junk", 0.08):
        files |= {
            f"{some}Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(90),
            "desktop.ini": b"[.ShellClassInfo]\r\n",
        }
    if draw.flip("hidden folders", 0.1):
        files[f"{some}.ipynb_checkpoints/{Path(first).name}"] = files[first]
        files[".git/HEAD"] = b"ref: refs/heads/main\n"
    if draw.flip("text files", 0.15):
        files |= {"README.md": b"# Pictures\n", "LICENSE": b"CC0\n", f"{some}notes.txt": b"good light\n"}
    if draw.flip("thumbnails of a NAS", 0.03):
        files[f"{some}@eaDir/{Path(first).name}/SYNOPHOTO_THUMB_S.jpg"] = files[first]
        sketch.may_refuse("@eaDir")
    return files


def _apple_name(name: str) -> str:
    path = Path("__MACOSX", name)
    return str(path.with_name(f"._{path.name}"))


def write_tree(sketch: Sketch, files: Files) -> None:
    """Write the files below a folder."""
    draw = sketch.draw
    root = sketch.folder / draw.one_of(("photos", "my photos", "Bilder-ü", "data.v2"))
    files = add_junk(sketch, files, archive=False)
    if draw.flip("wrapped", 0.1):
        files = {f"dataset/{name}": content for name, content in files.items()}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if draw.flip("empty folder", 0.06):
        (root / "nothing here").mkdir(parents=True)
    sketch.path = root
    sketch.dataset = f"{draw.one_of(('folder:', ''))}{root}"


def write_archive(sketch: Sketch, files: Files, kind: str) -> None:
    """Write the files into a zip or a tar.gz, mostly below one folder as a person packs it."""
    draw = sketch.draw
    if draw.flip("wrapped", 0.6):
        files = {f"photos/{name}": content for name, content in files.items()}
    files = add_junk(sketch, files, archive=True)
    sketch.path = sketch.folder / f"photos{draw.one_of(('.zip',) if kind == 'zip' else ('.tar.gz', '.tgz'))}"
    if kind == "zip":
        method = draw.one_of((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(sketch.path, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(sketch.path, "w:gz", compresslevel=1) as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    sketch.dataset = str(sketch.path)


Rows = list[dict[str, str]]


def draw_listed(sketch: Sketch) -> tuple[Files, str]:
    """Draw images and a CSV of file names and labels beside them; return the files and the CSV's name."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    stems = draw_names(sketch, len(pictures))
    place_of = draw.pick("images lie", {"beside": 3, "in images/": 4, "in class folders": 1.5})
    styles: dict[str, float] = {"name": 4, "relative": 3, "./relative": 0.7, "stem": 1.5, "windows": 0.5}
    if place_of == "in class folders":
        del styles["name"], styles["stem"]
    style = draw.pick("file column", styles)
    if style == "windows":
        sketch.may_refuse("backslashes in the paths")
    shelf = draw.one_of(("images", "img", "train_images", "pics"))
    names, files = [], {}
    for place, picture in enumerate(pictures):
        folders = {"beside": "", "in images/": f"{shelf}/", "in class folders": f"{sketch.labels[place]}/"}
        file = f"{stems[place]}{picture.suffix}"
        files[folders[place_of] + file] = picture.content
        relative = folders[place_of] + file
        names.append(
            {
                "name": file,
                "relative": relative,
                "./relative": f"./{relative}",
                "stem": stems[place],
                "windows": relative.replace("/", "\\"),
            }[style]
        )
    file_column = draw.one_of(
        ("filename", "file_name", "image", "image_id", "path", "filepath", "file", "id", "img")
    )
    label_column = draw.one_of(LABEL_NAMES + ODD_LABEL_NAMES)
    draw.choices["columns"] = f"{file_column}, {label_column}"
    rows: Rows = [
        {file_column: name, label_column: label} for name, label in zip(names, sketch.labels, strict=True)
    ]
    if draw.flip("split column", 0.12):
        draw_splits(sketch, GIVEN_SPLITS)
        rows = [row | {"split": split} for row, split in zip(rows, sketch.splits, strict=True)]
        sketch.may_refuse("a column of splits")
    if draw.flip("size columns", 0.15):
        rows = [row | {"width": "12", "height": "12"} for row in rows]
    rows = spoil_list(sketch, rows, files, file_column, label_column)
    if draw.flip("label first", 0.25):
        rows = [{label_column: row[label_column]} | row for row in rows]
    if draw.flip("index column", 0.15):
        rows = [{"": str(place)} | row for place, row in enumerate(rows)]
    name = draw.one_of(("labels.csv", "train.csv", "annotations.csv", "data.csv"))
    content, suffix = render_table(sketch, [list(rows[0]), *(list(row.values()) for row in rows)], small=True)
    name = name.removesuffix(".csv") + suffix
    files[name] = content
    return files, name


def spoil_list(sketch: Sketch, rows: Rows, files: Files, file_column: str, label_column: str) -> Rows:
    """Add, seldom, what makes a list of files incomplete or contradictory."""
    draw = sketch.draw
    if not draw.flip("defect", 0.2):
        return rows
    kinds = {"missing file": 2, "damaged": 2, "two labels": 2, "no label": 1, "unlisted": 1.5}
    in_class_folders = draw.choices["images lie"] == "in class folders"
    if not in_class_folders:  # whose names would say which of the columns is the label
        kinds["two label columns"] = 2
    kind = draw.pick("kind of defect", kinds)
    if kind == "missing file":
        lose_one(sketch, files)
    elif kind == "damaged":
        damage_one(sketch, files)
    elif kind == "two labels":
        other = next(name for name in sketch.classes if name != rows[0][label_column])
        rows = [*rows, rows[0] | {label_column: other}]
        sketch.two("one file with two labels")
    elif kind == "no label":
        rows = [row | {label_column: ""} if place == 0 else row for place, row in enumerate(rows)]
        if in_class_folders:
            sketch.two("a label that is missing in the list and given by the folder")
        sketch.forget([0])
        sketch.may_refuse("a row without a label")
        sketch.report("a row without a label")
    elif kind == "two label columns":
        rows = [row | {"photographer": "abc"[place % 3]} for place, row in enumerate(rows)]
        if label_column in LABEL_NAMES:
            sketch.may_refuse("a second column of names")
        else:
            sketch.two("two columns that could be the label")
    else:
        folder = str(Path(sorted(files)[0]).parent)
        files[f"{folder}/unlisted.png"] = encode(sketch.pixels[0, :, ::-1], "png", "plain", 1, None)
        sketch.may_refuse("an image that is not in the list")
    return rows


def draw_metadata(sketch: Sketch) -> Files:
    """Draw Hugging Face's imagefolder: images with a metadata.jsonl or metadata.csv beside them."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    stems = draw_names(sketch, len(pictures))
    folders = {"train": ""}
    if draw.flip("with splits", 0.4):
        draw_splits(sketch, {"train test": 1, "train val test": 1, "train val": 0.5})
        folders = {"train": "train/", "val": "validation/", "test": "test/"}
    kind = draw.pick("metadata", {"metadata.jsonl": 2, "metadata.csv": 1})
    shelf = draw.one_of(("", "", "images/"))
    label_key = draw.one_of((*LABEL_NAMES[:4], "species"))
    numbers = (
        draw.choices["classes"] == "numbers"
        and kind.endswith("jsonl")
        and draw.flip("numbers as labels", 0.5)
    )
    caption = label_key in LABEL_NAMES and draw.flip("captions", 0.3)
    files: Files = {}
    lines: dict[str, list[dict[str, str | int]]] = {}
    for place, picture in enumerate(pictures):
        folder, label = folders[sketch.splits[place]], sketch.labels[place]
        name = f"{shelf}{stems[place]}{picture.suffix}"
        files[folder + name] = picture.content
        row: dict[str, str | int] = {"file_name": name, label_key: int(label) if numbers else label}
        if caption:
            row["text"] = f"A picture, number {place}."
        lines.setdefault(folder, []).append(row)
    if draw.flip("defect", 0.1):
        if draw.flip("missing file", 0.5):
            lose_one(sketch, files)
        else:
            damage_one(sketch, files)
    for folder, rows in lines.items():
        if kind == "metadata.csv":
            table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
            files[folder + kind] = csv_text(table, ",", False, "\n").encode()
        else:
            ascii_only = bool(draw.rng.random() < 0.5)
            text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
            files[folder + kind] = text.encode()
    return files
