"""A Hub on 127.0.0.1, enough for a model to be pushed by a `Trainer` and loaded back: standard library alone."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackHub(ThreadingHTTPServer):
    """`repos` maps "namespace/name" to its files, `log` holds every request as "METHOD path"."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[str] = []


@contextmanager
def loopback_hub():
    hub = LoopbackHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def commit_id(files: dict[str, bytes]) -> str:
    digests = "".join(name + hashlib.sha1(content).hexdigest() for name, content in sorted(files.items()))
    return hashlib.sha1(digests.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, format, *args):
        self.server.log.append(f"{self.command} {self.path}")

    def do_POST(self):
        body, path = self.body(), self.path.partition("?")[0]
        if path == "/api/repos/create":
            request = json.loads(body)
            repo = f"{request.get('organization') or 'student'}/{request['name']}"
            known = repo in self.server.repos
            self.server.repos.setdefault(repo, {})
            return self.reply({"url": f"{self.server.endpoint}/{repo}"}, status=409 if known else 200)
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            return self.reply({"objects": [self.upload_action(each) for each in json.loads(body)["objects"]]})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = json.loads(body)["files"]
            return self.reply({"files": [self.upload_mode(file["path"]) for file in files]})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            return self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        return self.missing("RepoNotFound")

    def do_PUT(self):
        self.server.lfs[self.path.rpartition("/")[2]] = self.body()
        self.reply({})

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            return self.reply({"name": "student", "type": "user", "orgs": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            files = self.server.repos.get(match[1])
            if files is not None:
                siblings = [{"rfilename": name} for name in files]
                return self.reply({"id": match[1], "sha": commit_id(files), "siblings": siblings, "private": False})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+(/.*)?", path):
            files = self.server.repos.get(match[1], {})
            return self.reply([{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            files = self.server.repos.get(match[1], {})
            return self.send_file(files, match[2]) if match[2] in files else self.missing("EntryNotFound")
        return self.missing("RepoNotFound")

    do_HEAD = do_GET

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def upload_mode(self, path: str) -> dict:
        lfs = path.endswith((".safetensors", ".bin"))
        return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}

    def upload_action(self, each: dict) -> dict:
        return {**each, "actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{each['oid']}"}}}

    def commit(self, repo: str, lines: list[dict]):
        files = self.server.repos[repo]
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                content = self.server.lfs[line["value"]["oid"]]
                assert hashlib.sha256(content).hexdigest() == line["value"]["oid"]
                files[line["value"]["path"]] = content
        oid = commit_id(files)
        self.reply({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def send_file(self, files: dict[str, bytes], path: str):
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        self.reply(files[path], headers={"X-Repo-Commit": commit_id(files), "ETag": etag})

    def missing(self, code: str):
        self.reply({"error": code}, status=404, headers={"X-Error-Code": code})

    def reply(self, content: bytes | dict | list, status: int = 200, headers: dict[str, str] | None = None):
        is_file = isinstance(content, bytes)
        data = content if is_file else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if is_file else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
