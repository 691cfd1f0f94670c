"""The files of the page: carried whole, and nothing beside them can be had."""

import re
from pathlib import Path

from fastapi.testclient import TestClient

from trainer.service import site

PAGE = Path(site.__file__).parent / "page"


def test_every_file_of_the_page_is_carried_under_its_policy(client: TestClient) -> None:
    assert sorted(site.MEDIA_TYPES) == sorted(path.name for path in PAGE.iterdir())
    for name, media_type in site.MEDIA_TYPES.items():
        answer = client.get(f"/page/{name}")
        assert answer.content == (PAGE / name).read_bytes()
        assert answer.headers["content-type"] == media_type
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/").content == (PAGE / "index.html").read_bytes()
    assert client.get("/docs").content == (PAGE / "docs.html").read_bytes()


def test_the_page_names_its_own_files_alone() -> None:
    for path in PAGE.iterdir():
        text = path.read_text()
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], path
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text) == [], path
        for name in re.findall(r'(?:href|src)="page/([^"]+)"|from "\./([^"]+)"', text):
            assert "".join(name) in site.MEDIA_TYPES, (path, name)


def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/page/style.css").headers["etag"]
    again = client.get("/page/style.css", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/style.css", headers={"If-None-Match": '"other"'}).status_code == 200
