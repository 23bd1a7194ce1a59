"""What was typed, as it stands beside results."""

import pytest

from headwater.cli.console import command_line


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["--data", "da", "--output", "da/run"], "--data DATA --output da/run"),
        (["--data=my data", "--output", "x"], "--data=DATA --output x"),
        (["--data", "my data/", "--page", "a b.md"], "--data DATA --page 'a b.md'"),
        (["--output", "data"], "--output data"),
    ],
)
def test_a_place_can_stand_for_a_folder(monkeypatch, typed, shown):
    monkeypatch.setattr("sys.argv", ["headwater", "eval", "run", *typed])
    assert command_line(data="DATA") == f"headwater eval run {shown}"
    assert "DATA" not in command_line()
