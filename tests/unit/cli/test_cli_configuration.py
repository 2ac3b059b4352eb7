"""What apply and plan ask beyond the manifest."""

from __future__ import annotations

import click
import pytest

from services.cli.configuration import configuration


def test_variables_have_the_value_that_is_given_or_the_callers_own() -> None:
    """A secret need not stand on the command line."""
    made = configuration(["A=1=2", "TOKEN", "EMPTY="], ["profiles=a,b"], {"TOKEN": "s3cret", "OTHER": "x"})
    assert dict(made.env) == {"A": "1=2", "TOKEN": "s3cret", "EMPTY": ""}
    assert dict(made.engine_options) == {"profiles": "a,b"}


@pytest.mark.parametrize(("env", "options"), [(["NOBODY"], []), (["=x"], []), ([], ["profiles"]), ([], ["=x"])])
def test_what_is_no_pair_is_refused(env: list[str], options: list[str]) -> None:
    """Before anything is asked of the node."""
    with pytest.raises(click.UsageError):
        configuration(env, options, {})
