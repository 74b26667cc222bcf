"""Where a study may live, in words: what is read, what is refused, and that no password is repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import places
from sweeps.errors import SpaceError, StorageError
from sweeps.places import Place, chosen, overruled, password, withdraw_passwords
from sweeps.space import dump, load_space

URL = "postgresql://ada@db.example:5432/sweeps"


@pytest.fixture(autouse=True)
def _nothing_withdrawn(monkeypatch):
    monkeypatch.setattr(places, "_withdrawn", {})
    for name in (places.VARIABLE, places.PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "text", ["sqlite", "journal", URL, "postgresql:///sweeps?host=%2Ftmp%2Fsocket", f"{URL}?sslmode=require"]
)
def test_a_place_is_what_was_said(text):
    assert str(Place.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sqllite", "'sqllite' is no place for a study. Did you mean sqlite?"),
        ("", "Accepted: sqlite, journal, postgresql://user@host:port/database"),
        ("mysql://ada:hidden@db/sweeps", "'mysql' is no place"),
        ("postgresql:/ada:hidden@db/sweeps", "Accepted: sqlite"),
        ("postgresql://ada:hidden@db/sweeps", "holds a password"),
        ("postgresql://ada@db/sweeps?password=hidden", "holds a password"),
        ("postgresql://ada@db/sweeps?sslpassword=hidden", "holds a password"),
        ("postgresql://ada:a@hidden@db/sweeps", "is no URL of the form"),
        ("postgresql://ada:a@b:hidden@db/sweeps", "is no URL of the form"),
        ("postgresql://ada:a@b/hidden@db/sweeps", "is no URL of the form"),
        ("postgresql://ada:hidden@db", "names no database"),
    ],
)
def test_what_is_no_place_is_refused_and_a_password_is_not_repeated(text, message):
    with pytest.raises(ValueError, match=r"\w") as refused:
        Place.parse(text)
    assert message in str(refused.value)
    assert "hidden" not in str(refused.value)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=4), st.sampled_from(["postgresql", "postgres", "mysql"])
)
def test_whatever_the_password_is_no_message_and_no_place_holds_it(secret, scheme):
    try:
        shown = str(places._split(f"{scheme}://ada:{secret}@db.example:5432/sweeps")[0])
    except ValueError as error:
        shown = str(error)
    told = f"{URL} {places.PASSWORD_PLACES} '@', ':', '/' and '%' in a name or a password are written as %40, %3A, %2F, %25"
    assert secret not in shown or secret in told or secret in "is no place for a study. Accepted: sqlite, journal, postgresql"


def test_the_space_comes_before_the_variable_which_comes_before_sqlite(monkeypatch):
    assert chosen(None) == Place("sqlite")
    monkeypatch.setenv(places.VARIABLE, URL.replace("@", ":hidden@"))
    assert chosen(None) == Place.parse(URL)
    assert overruled(chosen(None)) is None
    assert chosen("journal") == Place("journal")
    assert overruled(chosen("journal")) == f"as its search space says; SWEEPS_STORAGE says {URL}"
    monkeypatch.setenv(places.VARIABLE, "sqllite")
    with pytest.raises(StorageError, match=r"SWEEPS_STORAGE: 'sqllite' is no place for a study\. Did you mean sqlite"):
        chosen(None)


def test_a_password_is_for_its_own_place_and_nothing_that_is_started_inherits_it(monkeypatch):
    import os

    monkeypatch.setenv(places.VARIABLE, URL.replace("@", ":hid%20den@"))
    monkeypatch.setenv(places.PASSWORD_VARIABLE, "other")
    place, elsewhere = Place.parse(URL), Place.parse("postgresql://ada@elsewhere/sweeps")
    assert (password(place), password(elsewhere)) == ("hid den", None)  # libpq takes PGPASSWORD by itself
    withdraw_passwords()
    assert (password(place), password(elsewhere)) == ("hid den", "other")
    assert os.environ[places.VARIABLE] == URL
    assert places.PASSWORD_VARIABLE not in os.environ
    withdraw_passwords()
    assert (password(place), password(elsewhere)) == ("hid den", "other")


def test_a_variable_that_is_no_place_is_not_inherited_either_and_told_when_it_is_needed(monkeypatch):
    import os

    monkeypatch.setenv(places.VARIABLE, "postgres://ada:hidden@db/sweeps")
    withdraw_passwords()
    assert places.VARIABLE not in os.environ
    with pytest.raises(StorageError, match="'postgres' is no place for a study") as refused:
        chosen(None)
    assert "hidden" not in str(refused.value)


def test_a_misspelt_place_ends_in_one_full_stop(monkeypatch):
    monkeypatch.setenv(places.VARIABLE, "jurnal")
    with pytest.raises(StorageError, match=r"Did you mean journal\?.*[^.]\.$"):
        chosen(None)


def test_a_space_says_where_its_study_lives(make_space, tmp_path):
    for text in ("sqlite", "journal", URL):
        space = make_space(f"storage: {text}\n")
        assert space.storage == text
        (tmp_path / "again.yaml").write_text(dump(space))
        assert load_space(tmp_path / "again.yaml") == space
    assert "storage" not in dump(make_space())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("postgresql://ada:hidden@db/sweeps", ":7: storage: holds a password, which would be written down with it. It belongs"),
        ("sqlit", ":7: storage: 'sqlit' is no place for a study. Did you mean sqlite?"),
        ("{path: hidden}", ":7: storage: a text is expected: sqlite, journal, postgresql://user@host:port/database"),
        ("null", ":7: storage: a text is expected: sqlite, journal, postgresql://user@host:port/database"),
    ],
)
def test_a_space_with_a_password_or_no_place_is_refused_with_its_line(make_space, value, message):
    with pytest.raises(SpaceError) as refused:
        make_space(f"storage: {value}\n")
    assert message in str(refused.value)
    assert "hidden" not in str(refused.value)
