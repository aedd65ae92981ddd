"""What cameras and clients have said is shown, and steers no terminal."""

import io

import pytest
from rich.console import Console

from rt_embed.cli.inspect import render
from rt_embed.cli.terminal import Terminal, printable

ESCAPES = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.exe \r\x08"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Tür №1\n", "plain, Tür №1\n"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x07\x9b", "\\x07\\x9b"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_would_steer_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_tables_and_facts_hold_no_escape_sequence() -> None:
    wide = {f"field{number}": ESCAPES for number in range(8)}
    found = {
        "dead": [{"id": "job:1-0", "error": ESCAPES, ESCAPES: [ESCAPES]}],
        "request": wide,
        "lanes": [{"lane": "video", "workers": [{"name": ESCAPES}]}],
    }
    out = io.StringIO()
    Console(file=out, width=500, force_terminal=False).print(render(found))
    assert set(out.getvalue()) - {"\n"} == {letter for letter in out.getvalue() if letter.isprintable()}
    assert "\\x1b[2J" in out.getvalue()


def test_nor_does_json(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().json({"error": ESCAPES})
    Terminal().json_line({"error": ESCAPES})
    written = capsys.readouterr().out
    assert set(written) - {"\n"} == {letter for letter in written if letter.isprintable()}
