"""Encoded histories grow in place, and are values all the same."""

import copy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from tiny import assert_caught

from plait.nn.encoded import Encoded, Keys, Written, starts

Plain = list[list[int]]  # the numbers of each user's tokens: the reference


def encoded_of(histories: Plain, dtype: torch.dtype = torch.float32) -> Encoded:
    """Every array holds the tokens' numbers."""
    number_S = torch.tensor([number for its in histories for number in its])
    k_SNH = number_S.to(dtype)[:, None, None].expand(-1, 2, 3).contiguous()
    keys = Keys(k_SNH, -k_SNH), Keys(2 * k_SNH, 3 * k_SNH)
    start_U1 = starts(np.array([len(its) for its in histories]))
    return Encoded.whole(start_U1, number_S, 10 * number_S, keys, k_SNH[:, 0].clone())


def check_holds(found: Encoded, expected: Plain) -> None:
    """In every array, and as a file would hold it."""
    assert found.length_U.tolist() == [len(its) for its in expected]
    right = encoded_of(expected, found.hidden_SD.dtype)
    for own, its in zip(found._tensors, right._tensors, strict=True):
        rooms = [own[a:b] for a, b in pairwise(found.start_U1)]
        used = [room[:length] for room, length in zip(rooms, found.length_U.tolist(), strict=True)]
        assert torch.equal(torch.cat(used), its)
    stored = zip(found.arrays().values(), right.arrays().values(), strict=True)
    assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in stored)


def check_values(seed: int) -> Counter[str]:
    """Histories of some users, grown in random order from any that there were, and split and joined: each still holds
    what it held."""
    rng, met = np.random.default_rng(seed), Counter[str]()
    first = [[1, 2], [3], [4, 5, 6]]
    known = [(encoded_of(first), first)]
    for number in range(100, 125):
        old, plain = known[rng.integers(len(known), size=3).max()]  # late ones more often
        match rng.integers(5):
            case 0:
                begin = int(rng.integers(len(plain)))
                known.append((old.of(slice(begin, len(plain))), plain[begin:]))
            case 1 if len(plain) < 4:
                other, its = known[rng.integers(len(known))]
                known.append((Encoded.joined([old, other]), plain + its))
            case _:
                more = [[number + 100 * user] for user in range(len(plain))]
                grown = old.followed_by(encoded_of(more), 2 * old.length_U)
                is_in_place = grown.hidden_SD.data_ptr() == old.hidden_SD.data_ptr()
                met["in place" if is_in_place else "copied"] += 1
                known.append((grown, [own + new for own, new in zip(plain, more, strict=True)]))
        for found, expected in known:
            check_holds(found, expected)
    return met


def test_histories_are_values():
    met = sum(map(check_values, range(3)), Counter[str]())
    assert min(met["in place"], met["copied"]) > 10, met


def test_a_second_append_that_overwrites_the_first_is_caught(monkeypatch):
    monkeypatch.setattr(Written, "claim", lambda self, from_U, until_U: True)
    assert_caught(check_values, 0)


def test_rooms_of_some_users_that_are_claimed_apart_are_caught(monkeypatch):
    monkeypatch.setattr(Written, "of", lambda self, users: Written(self.until_U[users].copy()))
    assert_caught(lambda: [check_values(seed) for seed in range(3)])


def test_growing_in_place_copies_nothing_and_says_what_its_rooms_take():
    old = encoded_of([[1, 2, 3]])
    room_U = np.array([8])
    first = old.followed_by(encoded_of([[4]]), room_U)
    second = first.followed_by(encoded_of([[5]]), room_U)
    assert first.nbytes == second.nbytes == old.nbytes // 3 * 8
    assert [x.data_ptr() for x in first._tensors] == [x.data_ptr() for x in second._tensors]
    assert all(len(x) == 5 for name, x in second.arrays().items() if name != "start_U1")


def test_tokens_of_several_users_go_behind_their_own_histories():
    old = encoded_of([[1, 2], [3]]).followed_by(encoded_of([[7], [8]]), np.array([6, 4]))
    check_holds(old.followed_by(encoded_of([[9, 10], [11]]), old.length_U), [[1, 2, 7, 9, 10], [3, 8, 11]])
    assert old.start_U1.tolist() == [0, 6, 10]


def test_keys_keep_their_type():
    grown = encoded_of([[1]], torch.bfloat16).followed_by(encoded_of([[2]]), np.array([4]))
    assert grown.keys[0].k_SNH.dtype == torch.bfloat16
    check_holds(grown, [[1, 2]])


def test_what_inference_mode_made_is_copied_outside_of_it():
    with torch.inference_mode():
        inside = encoded_of([[1]]).followed_by(encoded_of([[2]]), np.array([8]))
        assert inside.followed_by(encoded_of([[3]]), np.array([8])).start_U1[-1] == 8
        made = encoded_of([[1]]).followed_by(encoded_of([[2]]), np.array([8]))
    outside = made.followed_by(encoded_of([[3]]), np.array([9]))
    check_holds(outside, [[1, 2, 3]])
    assert outside.start_U1[-1] == 9 and not outside.hidden_SD.is_inference()


def test_copies_of_a_history_grow_apart():
    old = encoded_of([[1]]).followed_by(encoded_of([[2]]), np.array([4]))
    other = copy.deepcopy(old)
    grown = [
        each.followed_by(encoded_of([[number]]), np.array([4])) for each, number in ((old, 3), (other, 4))
    ]
    check_holds(grown[0], [[1, 2, 3]])
    check_holds(grown[1], [[1, 2, 4]])


def test_of_many_who_append_at_once_one_writes_in_place():
    old = encoded_of([[1]]).followed_by(encoded_of([[2]]), np.array([4]))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: old.followed_by(encoded_of([[n]]), np.array([4])), range(10, 18)))
    for number, each in enumerate(found, start=10):
        check_holds(each, [[1, 2, number]])
    assert sum(each.hidden_SD.data_ptr() == old.hidden_SD.data_ptr() for each in found) == 1
