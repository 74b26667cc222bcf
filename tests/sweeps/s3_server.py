"""A server that speaks as much of Amazon's S3 as a file system needs: buckets, objects, listings, uploads in parts. In memory,
on loopback, without looking at signatures. `python s3_server.py` prints its port; it is a program, and no module of the tests.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKETS: dict[str, dict[str, bytes]] = {"sweeps": {}, "readonly": {}}
UPLOADS: dict[str, dict[int, bytes]] = {}
LOCK = threading.Lock()
WHEN = "Mon, 01 Jan 2024 00:00:00 GMT"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def place(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        return bucket, key, {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", "") or "STREAMING" in self.headers.get(
            "x-amz-content-sha256", ""
        ):
            plain, rest = b"", content
            while rest:
                header, _, rest = rest.partition(b"\r\n")
                size = int(header.split(b";")[0], 16)
                if not size:
                    break
                plain, rest = plain + rest[:size], rest[size + 2 :]
            content = plain
        return content

    def answer(self, status: int, content: bytes | str = b"", length: int | None = None, **headers: str) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", Content_Type="application/xml")

    def do_HEAD(self) -> None:
        bucket, key, _ = self.place()
        content = BUCKETS.get(bucket, {}).get(key)
        if bucket not in BUCKETS or (key and content is None):
            self.answer(404)
        else:
            self.answer(200, length=len(content or b""), ETag=etag(content or b""), Last_Modified=WHEN)

    def do_GET(self) -> None:
        bucket, key, query = self.place()
        if bucket not in BUCKETS:
            self.refuse(404, "NoSuchBucket")
        elif not key:
            self.answer(200, listing(bucket, query), Content_Type="application/xml")
        elif key not in BUCKETS[bucket]:
            self.refuse(404, "NoSuchKey")
        else:
            content = BUCKETS[bucket][key]
            if span := self.headers.get("Range"):
                first, _, last = span.removeprefix("bytes=").partition("-")
                part = content[int(first) : int(last) + 1 if last else None]
                end = int(first) + len(part) - 1
                self.answer(206, part, ETag=etag(content), Content_Range=f"bytes {first}-{end}/{len(content)}")
            else:
                self.answer(200, content, ETag=etag(content), Last_Modified=WHEN)

    def do_PUT(self) -> None:
        bucket, key, query = self.place()
        content = self.body()
        if bucket not in BUCKETS:
            self.refuse(404, "NoSuchBucket")
        elif bucket == "readonly":
            self.refuse(403, "AccessDenied")
        elif "uploadId" in query:
            UPLOADS[query["uploadId"]][int(query["partNumber"])] = content
            self.answer(200, ETag=etag(content))
        else:
            BUCKETS[bucket][key] = content
            self.answer(200, ETag=etag(content))

    def do_POST(self) -> None:
        bucket, key, query = self.place()
        content = self.body()
        if bucket not in BUCKETS:
            self.refuse(404, "NoSuchBucket")
        elif bucket == "readonly":
            self.refuse(403, "AccessDenied")
        elif "uploads" in query:
            with LOCK:
                name = f"upload{len(UPLOADS)}"
                UPLOADS[name] = {}
            self.answer(200, f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")
        elif "uploadId" in query:
            parts = UPLOADS.pop(query["uploadId"])
            BUCKETS[bucket][key] = b"".join(parts[number] for number in sorted(parts))
            self.answer(200, f"<CompleteMultipartUploadResult><ETag>{etag(content)}</ETag></CompleteMultipartUploadResult>")
        elif "delete" in query:
            for part in content.decode().split("<Key>")[1:]:
                BUCKETS[bucket].pop(part.partition("</Key>")[0], None)
            self.answer(200, "<DeleteResult/>", Content_Type="application/xml")

    def do_DELETE(self) -> None:
        bucket, key, _ = self.place()
        BUCKETS.get(bucket, {}).pop(key, None)
        self.answer(204)


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def listing(bucket: str, query: dict[str, str]) -> str:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    entries, common = [], set()
    for key, content in sorted(BUCKETS[bucket].items()):
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            common.add(prefix + rest.partition(delimiter)[0] + delimiter)
        else:
            entries.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            )
    above = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(common))
    count = len(entries) + len(common)
    return (
        f"<ListBucketResult><Name>{quote(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count}</KeyCount>"
        f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(entries)}{above}</ListBucketResult>"
    )


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # whoever started it is gone
    server.serve_forever()
