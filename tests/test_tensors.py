"""Feature files: ids beside tensors, atomic, equal bytes, no pickles."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from fgvr import tensors
from fgvr.errors import FgvrError

IDS = ["cub/001/a b", "ünï\n\"x\"", "c"]
ABOUT = {"command": "probe", "model": {"spec": "toy", "sha256": "ab" * 32}, "seed": 0, "name": "Größe"}


def some():
    mean = torch.ones(3, 2, dtype=torch.bfloat16)
    return {"last": torch.arange(12.0).reshape(3, 4), "mean": mean, "n": torch.arange(3)}


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.save(path, some(), IDS, ABOUT)
    back = tensors.load(path)
    assert back.ids == IDS and back.provenance == ABOUT
    assert set(back.tensors) == set(some())
    for name, tensor in some().items():
        assert torch.equal(back.tensors[name], tensor) and back.tensors[name].dtype == tensor.dtype
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_non_contiguous_tensors_and_gradients_are_saved(tmp_path):
    x = torch.arange(12.0).reshape(4, 3).T.requires_grad_()
    tensors.save(tmp_path / "x", {"x": x}, IDS, {})
    assert torch.equal(tensors.load(tmp_path / "x").tensors["x"], x.detach())


def test_equal_content_gives_equal_bytes(tmp_path):
    written = set()
    for i in range(30):  # the library's own order of metadata keys changes from call to call
        path = tmp_path / str(i)
        tensors.save(path, {"b": torch.ones(3), "a": torch.zeros(3, 2)}, IDS, ABOUT)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_file_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        tensors.save(tmp_path / "x", some(), IDS, {})
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x"
    tensors.save(path, some(), IDS, {"run": 1})
    whole = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FgvrError, match="cannot write: No space left on device"):
        tensors.save(path, some(), IDS, {"run": 2})
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ["x"]
    with pytest.raises(FgvrError, match="No such file or directory"):
        tensors.save(tmp_path / "no" / "x", some(), IDS, {})


def test_two_processes_write_one_file(tmp_path, monkeypatch):
    """The other one begins and ends while this one writes."""
    path, sync, pid = tmp_path / "x", os.fsync, os.getpid()

    def other(fd):
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        tensors.save(path, some(), IDS, {"run": 1})

    monkeypatch.setattr(os, "fsync", other)
    tensors.save(path, some(), IDS, {"run": 1})
    assert tensors.load(path).ids == IDS and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("content", "ids", "about", "message"),
    [
        ({}, IDS, {}, "no tensor"),
        ({"x": torch.ones(2)}, IDS, {}, "3 ids"),
        ({"x": torch.tensor(1.0)}, ["a"], {}, "1 ids"),
        ({"x": torch.ones(2)}, ["a", "a"], {}, "unique"),
        ({"x": torch.ones(1)}, ["a"], {"loss": float("nan")}, "JSON"),
    ],
)
def test_wrong_content_is_refused(tmp_path, content, ids, about, message):
    with pytest.raises(ValueError, match=message):
        tensors.save(tmp_path / "x", content, ids, about)
    assert os.listdir(tmp_path) == []


def test_too_many_ids_are_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "METADATA_LIMIT_BYTES", 100)
    with pytest.raises(FgvrError, match="--shard"):
        tensors.save(tmp_path / "x", {"x": torch.ones(40)}, [str(i) for i in range(40)], {})


def write_pickles(folder):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (folder / f"p{protocol}.safetensors").write_bytes(pickle.dumps({"x": [1.0]}, protocol=protocol))
    torch.save({"x": torch.ones(2)}, folder / "zip.safetensors")
    torch.save({"x": torch.ones(2)}, folder / "old.safetensors", _use_new_zipfile_serialization=False)


def test_pickles_are_refused_whatever_their_name(tmp_path):
    write_pickles(tmp_path)
    assert len(list(tmp_path.iterdir())) >= 5
    for path in tmp_path.iterdir():
        assert tensors.is_pickle(path)
        with pytest.raises(FgvrError, match="a pickle, which may run code"):
            tensors.load(path)
    (tmp_path / "p0").write_bytes(pickle.dumps([1], protocol=0))
    with pytest.raises(FgvrError, match="not a whole safetensors file"):
        tensors.load(tmp_path / "p0")


def test_a_safetensors_file_whose_first_byte_is_0x80_is_no_pickle(tmp_path):
    path = tmp_path / "x"
    for length in range(200):
        tensors.save(path, {"x": torch.ones(1)}, ["a" * (length + 1)], {})
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header of that length was made")
    assert tensors.load(path).ids == ["a" * (length + 1)]


def test_unreadable_files_are_named(tmp_path):
    path = tmp_path / "x"
    tensors.save(path, some(), IDS, {})
    whole = path.read_bytes()
    for size in (0, 5, 60, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FgvrError, match=r"x: not a whole safetensors file"):
            tensors.load(path)
    with pytest.raises(FgvrError, match="cannot read: No such file"):
        tensors.load(tmp_path / "none")
    with pytest.raises(FgvrError, match="cannot read: Is a directory"):
        tensors.load(tmp_path)


def test_a_file_without_matching_ids_is_refused(tmp_path):
    path = tmp_path / "x"
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(FgvrError, match="no record ids"):
        tensors.load(path)
    save_file({"x": torch.ones(2)}, path, metadata={"fgvr": '{"ids": ["a"], "provenance": {}}'})
    with pytest.raises(FgvrError, match="1 ids"):
        tensors.load(path)


def test_rows_come_in_the_order_asked_for(tmp_path):
    features = tensors.Features(some(), IDS, {})
    assert tensors.rows(features, "n", ["c", IDS[0], "c"]).tolist() == [2, 0, 2]
    with pytest.raises(FgvrError, match="no row for 1 of 2 ids, the first is 'd'"):
        tensors.rows(features, "n", ["c", "d"])
    with pytest.raises(FgvrError, match="no tensor 'first', only last, mean, n"):
        tensors.rows(features, "first", [])
