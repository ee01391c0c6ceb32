import pytest

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.files import read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_of_others_have_byte_order_marks(tmp_path, encoding):
    path = tmp_path / "labels.txt"
    path.write_bytes("idle\r\nwälk\rrun\n".encode(encoding))
    assert read_text(path) == "idle\nwälk\nrun\n"


def test_a_text_in_another_encoding_is_one_clear_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("wälk".encode("latin-1"))
    with pytest.raises(ArgumentError, match=r"labels\.txt is not a text in UTF-8; save it"):
        read_text(path)
