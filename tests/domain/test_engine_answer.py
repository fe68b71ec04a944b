import pytest

from api.domain.engine_answer import Generated

ANSWER = Generated(
    images=[b"first file", b"", b"\x00\xff third"],
    seeds=[3, 4, 5],
    media_type="image/png",
    timing={"queue_ms": 0.5},
    cache={"kv": "hit"},
    warnings=["nano does not know 'café'"],
)


def test_an_answer_keeps_its_files_byte_for_byte():
    assert Generated.unpack(ANSWER.pack()) == ANSWER


def test_the_body_is_a_length_a_header_and_the_files():
    small = Generated(images=[b"ab", b"c"], seeds=[1, 2], media_type="image/png", timing={}, cache={}, warnings=[])
    header = b'{"sizes":[2,1],"seeds":[1,2],"media_type":"image/png","timing":{},"cache":{},"warnings":[]}'
    assert small.pack() == bytes([0, 0, 0, len(header)]) + header + b"abc"


def test_an_answer_cut_short_anywhere_is_refused():
    body = ANSWER.pack()
    for length in range(len(body)):
        with pytest.raises(ValueError, match=r"bytes|JSON|EOF"):
            Generated.unpack(body[:length])


def test_bytes_after_the_last_file_are_refused():
    with pytest.raises(ValueError, match="bytes"):
        Generated.unpack(ANSWER.pack() + b"x")


def test_a_size_below_zero_is_refused():
    """Otherwise sizes that add up could name one file's bytes twice."""
    body = ANSWER.pack().replace(b'"sizes":[10,0,8]', b'"sizes":[24,-6]')
    with pytest.raises(ValueError, match="sizes"):
        Generated.unpack(body)


def test_a_missing_file_is_refused():
    body = ANSWER.pack().replace(b'"sizes":[10,0,8]', b'"sizes":[10,8]  ')
    with pytest.raises(ValueError, match="3 seeds"):
        Generated.unpack(body)
