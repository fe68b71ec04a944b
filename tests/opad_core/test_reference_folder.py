"""A folder of photos: which files are read, in which order, and what is said about the others."""

import struct

import pytest
from PIL import Image

from opad_core.errors import OpadError
from opad_core.reference_folder import find_references, read_references
from tests.api.reference_images import encoded, reference
from tests.security.bad_files import jpeg_header
from tests.security.faulty_metadata import faulty, upright

HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(200)
CONVERT = "save it as JPEG (iPhone: Settings > Camera > Formats > Most Compatible)"


@pytest.fixture
def folder(tmp_path):
    """Three photos of which the first is red, the second green, the third blue."""
    for name, color in (("1.png", "red"), ("2.png", "lime"), ("3.png", "blue")):
        Image.new("RGB", (40, 40), color).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("count", [1, 6, 100])
def test_a_folder_of_1_to_100_references_is_read_in_the_order_of_their_names(tmp_path, count):
    for i in range(count):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i:03}.png")
    assert [image.getpixel((0, 0)) for image in read_references(tmp_path)] == [(i, 0, 0) for i in range(count)]


def test_too_many_references_are_refused(tmp_path):
    for i in range(101):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i:03}.png")
    with pytest.raises(OpadError, match=r"needs 1-100 reference images; .* holds 101; leave some out"):
        read_references(tmp_path)


def test_no_folder_no_images_and_only_other_images_are_three_sentences(tmp_path):
    (tmp_path / "file.txt").write_text("words")
    sentences = {
        tmp_path / "nowhere": f"there is no folder {tmp_path}/nowhere; name the folder that holds the photos",
        tmp_path / "file.txt": f"{tmp_path}/file.txt is a file; name the folder that holds it",
        tmp_path: f"{tmp_path} holds no images; put photos into it: JPEG, PNG, WebP or HEIC",
    }
    for path, sentence in sentences.items():
        with pytest.raises(OpadError) as error:
            find_references(path, heic=True)
        assert str(error.value) == sentence

    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(OpadError) as error:
        find_references(tmp_path, heic=False)
    assert str(error.value) == (f"{tmp_path} holds no image of a kind that is read here, only a.heic; HEIC: {CONVERT}")
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    with pytest.raises(OpadError, match=r"only a\.heic, b\.gif; save it as JPEG or PNG$"):
        find_references(tmp_path, heic=False)


def test_litter_is_ignored(folder):
    for name in ("._1.png", ".hidden.jpg", ".DS_Store", "Thumbs.db", "class.txt", "notes.pdf"):
        (folder / name).write_bytes(b"%PDF-1.7" if name.endswith("pdf") else b"\0\5\x16\7 litter")
    (folder / "IMG_1.MOV").write_bytes(struct.pack(">I", 20) + b"ftypqt  \0\0\0\0qt  ")
    (folder / "more.png").mkdir()

    said = []
    assert len(read_references(folder, say=said.append)) == 3
    assert said == []


def test_images_that_are_not_read_are_mentioned(folder):
    (folder / "4.heic").write_bytes(HEIC)
    said = []
    assert len(read_references(folder, heic=False, say=said.append)) == 3
    assert said == [f"skipped 4.heic: it is of a kind that is not read here; HEIC: {CONVERT}"]

    (folder / "scan").write_bytes(b"II*\0 a TIFF without a suffix")
    found = find_references(folder, heic=False)
    assert found.notice() == "skipped 4.heic, scan: they are of a kind that is not read here; save it as JPEG or PNG"


def test_content_counts_where_a_name_says_nothing(folder):
    (folder / "4").write_bytes(reference(4))
    assert [path.name for path in find_references(folder, heic=False).readable] == ["1.png", "2.png", "3.png", "4"]
    (folder / "5.heic").write_bytes(HEIC)
    assert [path.name for path in find_references(folder, heic=True).readable][-1] == "5.heic"


def test_every_file_that_cannot_be_used_is_named(folder):
    (folder / "2.png").write_bytes(b"not an image")
    (folder / "4.jpg").write_bytes(jpeg_header(16_000, 12_000))
    (folder / "5.jpg").write_bytes(b"")
    with pytest.raises(OpadError) as error:
        read_references(folder, heic=False)
    assert str(error.value) == (
        f"{folder}/2.png is not an image that can be read here; send JPEG, PNG or WebP. "
        f"{folder}/4.jpg is 16000x12000; scale it down to at most 25 million pixels. "
        f"{folder}/5.jpg is empty; send the image's bytes"
    )


def test_a_file_of_more_megabytes_than_the_service_takes_is_refused(folder):
    (folder / "4.jpg").write_bytes(reference(4).ljust(12 * 1024**2 + 1, b"\0"))
    with pytest.raises(OpadError, match=r"4\.jpg is larger than 12 MB; scale it down or save it as JPEG"):
        read_references(folder)


def test_the_same_photo_twice_is_refused_even_in_another_format(folder):
    (folder / "4.webp").write_bytes(encoded(Image.new("RGB", (40, 40), "lime"), "WEBP", lossless=True))
    with pytest.raises(OpadError) as error:
        read_references(folder)
    assert str(error.value) == f"{folder}/4.webp is the same image as {folder}/2.png; leave one out"


def test_photos_are_read_as_the_service_reads_them(tmp_path):
    """Upright, on white, in 8 bits, whatever is wrong with the metadata."""
    (tmp_path / "1.jpg").write_bytes(faulty()["JPEG, GPS of unexpected types"])
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "2.png")
    Image.new("I;16", (40, 40), 128 * 257).save(tmp_path / "3.png")
    portrait, clear, deep = read_references(tmp_path)
    assert portrait.size == upright().size
    assert (clear.getpixel((5, 5)), deep.getpixel((5, 5))) == ((255, 255, 255), (128, 128, 128))


def test_a_name_that_is_no_text_is_shown(folder):
    name = b"caf\xe9\n.png"
    with open(bytes(folder) + b"/" + name, "wb") as file:
        file.write(b"words")
    with pytest.raises(OpadError, match="caf\ufffd\ufffd\\.png is not an image"):
        read_references(folder)
