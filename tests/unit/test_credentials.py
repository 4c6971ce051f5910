"""CHAP credentials: what is refused, what is warned of, and that no text of them shows a secret."""

from __future__ import annotations

import pytest

from gateway.credentials import Credentials, Secret
from gateway.errors import BadInput

PLAIN = "correct-horse-1"


@pytest.mark.parametrize(
    ("user", "secret", "mutual_user", "mutual_secret", "said"),
    [
        ("", PLAIN, "", None, "CHAP user ''"),
        ("a b", PLAIN, "", None, "CHAP user 'a b'"),
        ("u" * 256, PLAIN, "", None, "1 to 255"),
        ("NULLuser", PLAIN, "", None, "begins with NULL"),
        ("u", "short-11-ch", "", None, "has 11 characters: use 12 to 255"),
        ("u", "x" * 256, "", None, "has 256 characters"),
        ("u", "with a space 1", "", None, "or a space"),
        ("u", "umlaut-\u00e4-12345", "", None, "no printable ASCII"),
        ("u", "newline-12345\n", "", None, "no printable ASCII"),
        ("u", "NULL-1234567890", "", None, "which LIO takes for none"),
        ("u", "0x1234567890ab", "", None, "turn into bytes"),
        ("u", PLAIN, "t", None, "needs both"),
        ("u", PLAIN, "", "target-secret-1", "needs both"),
        ("u", PLAIN, "t", "short", "the target's secret has 5"),
        ("u", PLAIN, "NULL", "target-secret-1", "mutual CHAP user 'NULL'"),
        ("u", PLAIN, "t", PLAIN, "must differ"),
    ],
)
def test_what_is_refused(user: str, secret: str, mutual_user: str, mutual_secret: str | None, said: str) -> None:
    """Credentials that cannot work or prove nothing are refused, in words without the secret."""
    with pytest.raises(BadInput) as refused:
        Credentials(user, Secret(secret), mutual_user, Secret(mutual_secret) if mutual_secret else None)
    assert said in str(refused.value)
    assert secret not in str(refused.value)


def test_a_secret_never_shows() -> None:
    """However the value is printed, as text, in a format, in a container or in an error, it says three stars."""
    whole = Credentials("u", Secret(PLAIN), "t", Secret("target-secret-1"))
    for text in (str(whole), repr(whole), f"{whole.secret}", f"{whole.secret!r:>40}", str([whole.secret])):
        assert PLAIN not in text
        assert "target-secret" not in text
        assert "***" in text


def test_what_windows_does_not_take_is_warned_of() -> None:
    """Up to 16 characters nothing is said, beyond that whom it leaves out."""
    assert Credentials("u", Secret("x" * 16), "t", Secret("y" * 16)).warning == ""
    assert "Windows" in Credentials("u", Secret("x" * 12), "t", Secret("y" * 17)).warning
