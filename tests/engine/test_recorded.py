"""Histories that are kept beside a model: whole, of that model, without names, and refused where they are damaged."""

from dataclasses import fields

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import assert_not_vacuous, batch_of, model_of

from plait import files
from plait.engine.agreement import check
from plait.engine.recorded import load_recorded, save_recorded
from plait.models.saving import RECORDED, load_model, save_model
from plait.schema import EventBatch

LENGTHS = (30, 2, 9, 14)


@pytest.fixture
def saved(tmp_path):
    model = model_of("(i[t], a[t-1]) -> (i[t+1], a[t])")
    save_model(model, tmp_path)
    save_recorded(model, batch_of(LENGTHS), tmp_path)
    return tmp_path


def test_they_come_back_as_they_were_but_for_who_it_was(saved):
    model, whole = load_model(saved), batch_of(LENGTHS)
    found, same = load_recorded(model, saved), {}
    for field in fields(EventBatch):
        expected = getattr(whole, field.name)
        if field.name == "user_U":
            expected = np.arange(len(LENGTHS))
            assert not np.array_equal(expected, whole.user_U)
        np.testing.assert_array_equal(getattr(found, field.name), expected)
        same[field.name] = expected.dtype == getattr(found, field.name).dtype
    assert_not_vacuous(same)
    checked = check(model, found, 0)
    assert checked.agrees and checked == check(model, whole, 0)


def test_a_damaged_or_missing_file_or_one_of_another_is_refused(saved):
    model, path = load_model(saved), saved / RECORDED
    arrays, content = load_file(path), path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(ValueError, match=r"histories.safetensors is damaged .* at hand"):
        load_recorded(model, saved)

    def written(about):
        header = {"recorded": msgspec.json.encode(about).decode()}
        files.write_listed(path, lambda aside: save_file(arrays, aside, metadata=header))

    written({"format_version": 2, "model": ""})
    with pytest.raises(ValueError, match="is of format version 2, this Plait reads 1"):
        load_recorded(model, saved)
    written({"format_version": 1, "model": "0" * 64})
    with pytest.raises(ValueError, match="is of another model than the one beside it"):
        load_recorded(model, saved)
    arrays.pop("item_E")
    written({"format_version": 1, "model": ""})
    with pytest.raises(ValueError, match="damaged"):
        load_recorded(model, saved)
    path.unlink()
    with pytest.raises(ValueError, match=r"has no histories.safetensors: .* protocol.recorded = 0"):
        load_recorded(model, saved)


def test_a_model_that_takes_the_place_does_not_keep_them(saved):
    other = model_of("i[t] -> i[t+1]")
    save_model(other, saved)
    assert not (saved / RECORDED).exists()
    load_model(saved)
