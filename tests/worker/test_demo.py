import pytest
from PIL import Image

from worker import demo


@pytest.mark.parametrize(("count", "remedy"), [(1, "OPAD_MIN_REFERENCES=1"), (6, "OPAD_MAX_REFERENCES=6")])
def test_photos_that_the_service_would_refuse_are_refused_before_it_starts(tmp_path, capsys, count, remedy):
    for i in range(count):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert demo.main(["--images", str(tmp_path), "--class", "mug"]) == 1
    printed = capsys.readouterr()
    assert printed.err == (
        f"opad: the service needs 3-5 photos; {tmp_path} holds {count}; set {remedy} to allow that\n"
    )
    assert printed.out == ""
