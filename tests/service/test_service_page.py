"""The page's routes: what it may load, that it names what is there, and what it asks for beside the other routes."""

import json
import re
from functools import partial

import numpy as np
import polars as pl
import pytest
from served import ask, recommender_of, service_of
from tiny import assert_caught

import plait
from plait.engine.attention import OWN
from plait.layouts import CATALOGUE
from plait.schema import Action, Regression
from plait.service.keys import add_key
from plait.service.page_routes import page_files
from plait.service.service import Service

KEYLESS = {"host": "localhost"}
PROGRAM = re.compile(r'byId\("([\w-]+)"\)|picker\(byId\("[\w-]+"\), "[^"]*", "([\w-]+)"')
UNSAFE = (
    "innerHTML",
    "outerHTML",
    "insertAdjacent",
    "document.write",
    "eval(",
    "localStorage",
    "sessionStorage",
)


def got(service: Service, path: str, **headers: str):
    return ask(service, path, method="GET", headers=headers)


# Files


def own_scripts() -> str:
    """Of the page, but for what is vendored."""
    own = [content.decode() for name, content in page_files().items() if re.fullmatch(r"[a-z]+\.js", name)]
    assert len(own) > 8
    return "\n".join(own)


def check_files(files: dict[str, bytes]) -> None:
    """Every file that one names is there, and no script makes markup of texts or keeps anything."""
    named = 0
    for name, content in files.items():
        if name.startswith("uPlot"):
            continue
        text = content.decode()
        for path in re.findall(r'(?:src|href)="(/page/[^"]+)"', text) + re.findall(
            r'from "\./([^"]+)"', text
        ):
            assert path.removeprefix("/page/") in files, f"{name} names {path}"
            named += 1
        assert not [word for word in UNSAFE if word in text], name
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text, (
            name
        )
    assert named > 20


def test_every_file_that_the_page_names_is_there():
    check_files(page_files())


@pytest.mark.parametrize(
    "wrong", [b'import "./x.js"; from "./x.js"', b"element.innerHTML = title", b'"https://cdn"']
)
def test_files_that_are_missing_or_unsafe_are_noticed(wrong):
    assert_caught(partial(check_files, page_files() | {"api.js": wrong}))


def test_every_id_that_a_script_asks_for_is_on_the_page():
    ids = set(re.findall(r'\bid="([\w-]+)"', page_files()["index.html"].decode()))
    scripts = " ".join(
        text.decode() for name, text in page_files().items() if name.endswith(".js") and "uPlot" not in name
    )
    found = PROGRAM.findall(scripts)
    asked, made = {one for one, _ in found if one}, {other for _, other in found if other}
    assert len(asked) > 30 and asked <= ids | made, asked - ids
    labels = set(
        re.findall(r'\b(?:for|aria-labelledby|list)="([\w-]+)"', page_files()["index.html"].decode())
    )
    assert labels and labels <= ids


def test_the_page_has_no_inline_script_or_style():
    page = page_files()["index.html"].decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert not re.search(r"\bstyle:|cssText|setAttribute\(\"style", own_scripts())


def test_files_are_served_with_a_strict_policy(service):
    for path in ("/", *(f"/page/{name}" for name in page_files())):
        answer = got(service, path)
        assert answer.status_code == 200 and answer.content
        (policy,) = answer.headers.get_list("content-security-policy")
        assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in got(service, "/v1/models").headers["content-security-policy"]
    assert got(service, "/page/app.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/page/", "/page/..%2fapp.py", "/page/none.js", "/page/__init__.py"])
def test_nothing_else_is_served(service, path):
    assert got(service, path).status_code == 404


def test_the_licence_of_what_is_vendored_lies_beside_it():
    assert b"1.6.32" in page_files()["uPlot.iife.min.js"][:99]
    assert b"MIT" in page_files()["uPlot.LICENSE.txt"] and b"1.6.32" in page_files()["index.html"]


# Keys


def test_with_keys_the_page_opens_and_nothing_else_does(tmp_path, data):
    file = tmp_path / "keys.json"
    asks, appends = add_key(file, "asks", ["ask"]), add_key(file, "appends", ["append"])
    service = service_of(tmp_path, data, keys=file)
    paths = (
        "/v1/items?search=2",
        "/v1/conditions",
        "/v1/layout",
        "/v1/comparison",
        "/v1/comparison/report.html",
        "/v1/users",
    )
    try:
        assert got(service, "/").status_code == got(service, "/page/app.js").status_code == 200
        for path in paths:
            assert got(service, path).status_code == 401, path
            assert got(service, path, authorization=f"Bearer {appends}").status_code == 403, path
        assert got(service, "/v1/users", authorization=f"Bearer {asks}").status_code == 403, (
            "users have a scope"
        )
        assert got(service, "/v1/layout", authorization=f"Bearer {asks}").status_code == 200
        assert ask(service, "/v1/why", {"user": "196"}).status_code == 401
    finally:
        service.close()


def test_without_keys_the_page_is_for_this_machine(service):
    assert got(service, "/", host="evil.example").status_code == 403


# What it asks for


def test_items_are_searched_and_named(tmp_path):
    ids = ["2", "12", "<b>", "20", *(f"x{chr(97 + n)}" for n in range(13))]
    log = pl.DataFrame({"user_id": "u", "item_id": ids, "timestamp": range(17), "rating": 3.0})
    items = pl.DataFrame({"item_id": ids, "title": ["Two", "Twelve", "<script>", *[None] * 14]})
    data = plait.prepare(
        log, user="user_id", item="item_id", time="timestamp", actions=[Action("rating", Regression(1, 5))],
        items=items, item_title="title", out=tmp_path / "data", min_item_events=1, min_user_events=1,
    )  # fmt: skip
    service = service_of(tmp_path, data, recommender_of(data, max_events=4, window_step=1))
    try:

        def found(query: str) -> list[str]:
            return [item["id"] for item in got(service, f"/v1/items?{query}").json()["items"]]

        assert found("search=2") == ["2", "20", "12"], "the very id, then its beginning, then the rest"
        assert sorted(found("search=TW")) == ["12", "2"] and len(found("search=TW&k=1")) == 1
        assert found("search=%3Cscr") == ["<b>"]
        assert found("search=.*") == found("search=") == [], "texts, not patterns"
        named = got(service, "/v1/items?id=20&id=12&id=none").json()["items"]
        assert [item["title"] for item in named] == [None, "Twelve", None]
        many = "&".join(f"id={n}" for n in range(101))
        for query in ("search=a&k=0", "search=a&k=51", f"search={'secret' * 99}", many):
            refused = got(service, f"/v1/items?{query}")
            assert refused.status_code == 422 and "secret" not in refused.text
    finally:
        service.close()


def test_users_are_offered_as_long_as_they_are_kept(service):
    def users(query: str = "") -> list[str]:
        return got(service, f"/v1/users?{query}").json()["users"]

    assert "196" in users() and users("search=196") == ["196"] and len(users("k=2")) == 2
    assert ask(service, "/v1/users/196", method="DELETE").status_code == 204
    assert "196" not in users() and users(), "who was deleted is gone"


def test_the_layout_is_drawn_as_everywhere(service):
    found = got(service, "/v1/layout").json()
    assert found["layout"] == str(CATALOGUE["lac"].layout)
    assert len(found["mask"]) == len(found["tokens"]) == len(found["mask"][0])
    assert found["audit"]["retrieves"] == "yes"


def check_why(service: Service) -> None:
    """What is answered is the engine's attention over the kept history."""
    kept = got(service, "/v1/users/196").json()["history"]
    found = ask(service, "/v1/why", {"user": "196", "item": 302}).json()
    rows = [event["event"] for event in kept]
    deployed = service.first.deployed
    state = deployed.recommender.encode(deployed.rows.frame(rows))
    expected = deployed.recommender.attention(state, "302")
    np.testing.assert_allclose(found["weights"], expected.weight_PN, rtol=1e-4, atol=1e-6)
    events = [OWN if token["event"] is None else token["event"] for token in found["tokens"]]
    assert events == expected.event_N.tolist() and len(set(events)) > 2
    for token in found["tokens"]:
        if token["event"] is not None:
            assert str(token["item"]) == rows[token["event"]]["item_id"]
    assert found["places"] == [{"name": f"layer {n}", "softmax": True} for n in (1, 2)]
    pasted = ask(service, "/v1/why", {"history": rows, "item": 302}).json()
    np.testing.assert_allclose(pasted["weights"], found["weights"], rtol=1e-4, atol=1e-6)


def test_why_is_the_attention_over_the_history(service):
    check_why(service)


def test_events_of_another_history_are_noticed(service, monkeypatch):
    right = service.first.deployed.state_of
    monkeypatch.setattr(service.first.deployed, "state_of", lambda user: right("195"))
    assert_caught(partial(check_why, service))


def test_what_has_no_why_is_told_so(service):
    assert ask(service, "/v1/why", {"user": "nobody"}).status_code == 404
    refused = ask(service, "/v1/why", {"user": "196", "item": "secret"})
    assert refused.status_code == 422 and "secret" not in refused.text
    assert ask(service, "/v1/why", {"item": 302}).status_code == 422, "of whom?"
    late = ask(service, "/v1/why", {"user": "196"}, headers={"plait-deadline-ms": "0.001"})
    assert late.status_code == 503 and "only the model knows" in late.json()["detail"]


def test_the_comparison_is_that_which_the_run_lies_in(tmp_path, data):
    run = tmp_path / "mine" / "runs" / "lac-seed0"
    run.mkdir(parents=True)
    estimate = {"value": 0.25, "low": 0.2, "high": 0.3, "better": "higher"}
    summary = {
        "dataset": {"name": "ml", "num_users": 3}, "protocol": "leave-one-out", "date": "2026-01-02",
        "summaries": [{"layout": "lac", "metrics": {"ndcg@10": {"estimate": estimate, "spread": None}}}],
        "verdict": ["lac"],
    }  # fmt: skip
    (tmp_path / "mine" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "mine" / "report.html").write_text("<script>1</script>")
    service = service_of(run, data)
    try:
        found = got(service, "/v1/comparison").json()
        assert found["metrics"] == ["ndcg@10"] and found["dataset"] == "ml" and found["verdict"] == ["lac"]
        assert found["summaries"][0]["metrics"]["ndcg@10"]["estimate"] == {
            "value": 0.25,
            "low": 0.2,
            "high": 0.3,
        }
        report = got(service, "/v1/comparison/report.html")
        assert report.text == "<script>1</script>"
        (policy,) = report.headers.get_list("content-security-policy")
        assert policy.startswith("sandbox allow-scripts;") and "same-origin" not in policy
        (tmp_path / "mine" / "summary.json").write_text("{")
        broken = got(service, "/v1/comparison")
        assert broken.status_code == 404 and "cannot be read; compare again" in broken.json()["detail"]
    finally:
        service.close()


def test_a_run_of_its_own_has_no_comparison(service):
    for path in ("/v1/comparison", "/v1/comparison/report.html"):
        none = got(service, path)
        assert none.status_code == 404 and "lies in no comparison" in none.json()["detail"]
