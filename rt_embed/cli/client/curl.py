"""Calls as commands for curl, to be read and repeated."""

import shlex
from urllib.parse import urlencode

import msgspec

from rt_embed.calls import Call
from rt_embed.cli.client.inline_file import InlineFile
from rt_embed.upload_body import UploadBody


def curl_command(call: Call, url: str, *, with_key: bool) -> str:
    """Return the command. An API key is named by its variable, not written out."""
    query = f"?{urlencode(call.params)}" if call.params else ""
    words = ["curl", "--fail-with-body", "-X", call.method]
    if call.stream:
        words.append("--no-buffer")
    words = [shlex.quote(word) for word in words]
    if with_key:
        words += ["-H", '"Authorization: Bearer $RTEMBED_API_KEY"']
    before = ""
    match call.upload:
        case UploadBody() as upload:
            for name, value in upload.fields.items():
                words += ["-F", shlex.quote(f"{name}={value}")]
            words += ["-F", shlex.quote(f"file=@{_quoted(str(upload.path))};filename={_quoted(upload.name)}")]
        case InlineFile() as inline:
            head, tail = (shlex.quote(part.decode()) for part in (inline.head, inline.tail))
            before = (
                f"{{ printf %s {head}; base64 -w 0 {shlex.quote(str(inline.path))}; printf %s {tail}; }} | "
            )
            words += ["-H", "'Content-Type: application/json'", "--data-binary", "@-"]
        case _ if call.form is not None:
            for name, value in call.form.items():
                words += ["--data-urlencode", shlex.quote(f"{name}={value}")]
        case _ if call.json is not None:
            words += ["-H", "'Content-Type: application/json'"]
            words += ["-d", shlex.quote(msgspec.json.encode(call.json).decode())]
    return before + " ".join([*words, shlex.quote(f"{url}{call.path}{query}")])


def _quoted(name: str) -> str:
    """Return a name as curl reads it after `-F`: in quotes where it has more than plain characters."""
    if name.replace("/", "").replace(".", "").replace("-", "").replace("_", "").isalnum():
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
