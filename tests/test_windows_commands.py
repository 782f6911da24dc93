"""Printed commands on Windows: cmd.exe and the program behind it read back what was meant."""

import random
import re
import sys
from pathlib import Path

import pytest
from conftest import QUICK_FLAGS, one_line

from charlm.files import install_command, shell_command


def handed_on_by_cmd(line, variables):
    """Return what cmd.exe hands to a program, by its rules for a line that is typed.

    First variables are put in. Then quotes begin and end, and outside of them ^ takes the meaning
    of the character behind it, and others separate or redirect commands.
    """
    for name, value in variables.items():
        line = line.replace(f"%{name}%", value)
    handed, quoted, characters = "", False, iter(line)
    for character in characters:
        if character == "^" and not quoted:
            handed += next(characters)
            continue
        assert quoted or character not in "&|<>()", f"{character} outside of quotes: {line}"
        quoted ^= character == '"'
        handed += character
    return handed


def arguments_of(line):
    r"""Return the words of a line, by the documented rules of CommandLineToArgvW.

    Spaces and tabs outside of quotes separate words. 2n backslashes before a quote are n, and the
    quote begins or ends a quoted part; 2n + 1 are n, and the quote is a character of the word.
    Backslashes before anything else are as many.
    """
    found, word, quoted = [], None, False
    for backslashes, character in re.findall(r"(\\*)(\Z|.)", line, re.DOTALL):
        is_quote = character == '"'
        word = (word or "") + backslashes[: len(backslashes) // 2 if is_quote else None] \
            if backslashes else word  # fmt: skip
        if is_quote and len(backslashes) % 2 == 0:
            quoted, word = not quoted, word or ""
        elif (character in " \t" and not quoted) or not character:
            found += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + character
    return found


def drawn_word(rng):
    pieces = ["a", "Z", "7", "ä", "漢", " ", "  ", "\\", "\\\\", '"', "'", "%", "%PATH%", "^", "&"]
    pieces += ["|", "<", ">", "(", ")", "!", ";", ",", "=", "-", ".", ":", "/", "$", "`", "~", "*"]
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(9)))


def test_the_parser_of_words_follows_its_documented_examples():
    assert arguments_of(r'"abc" d e') == ["abc", "d", "e"]
    assert arguments_of(r"a\\b d\"e f\"g h".replace(r"\"", '"')) == [r"a\\b", "de fg", "h"]
    assert arguments_of(r"a\\\"b c d") == [r"a\"b", "c", "d"]
    assert arguments_of(r'a\\\\"b c" d e') == [r"a\\b c", "d", "e"]
    assert arguments_of('"" x') == ["", "x"]


@pytest.mark.parametrize("seed", range(20))
def test_windows_reads_back_what_is_printed(windows, seed):
    rng = random.Random(seed)
    for _ in range(200):
        words = ["charlm", *(drawn_word(rng) for _ in range(rng.randint(1, 5)))]
        line = handed_on_by_cmd(shell_command(words), {"PATH": "C:\\Windows"})
        assert arguments_of(line) == words, line


def test_windows_commands_that_are_known(windows):
    path = "C:\\My Texts\\Krieg & Frieden\\"
    assert shell_command(["charlm", "train", path]) == f'charlm train "{path}\\"'
    words = ["charlm", "resume", "checkpoints\\english", "--steps", "20"]
    assert shell_command(words) == " ".join(words)
    assert install_command("charlm[serve]") == 'pip install "charlm[serve]"'


def test_windows_gets_commands_of_its_own_for_a_run(run, windows):
    Path("a text.txt").write_text(Path("text.txt").read_text("utf-8"), encoding="utf-8")
    status, _, err = run("train", "a text.txt", *QUICK_FLAGS, "--out", "a run")
    assert status == 0
    assert re.search(r'^repeat:   charlm train "a text.txt" --', err, re.MULTILINE)
    assert re.search(r'^more:     charlm generate "a run" --', err, re.MULTILINE)
    assert run("info", "a run", "--json")[0] == 0


def test_a_package_that_is_missing_is_named_with_a_command_for_windows(run, windows, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    one_line(*(result := run("completion", "bash")), expected=1)
    assert 'pip install "charlm[completion]"' in result[2]
