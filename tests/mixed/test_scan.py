import pytest
from hypothesis import given
from hypothesis import strategies as st

from canopy_stats.mixed.formulas.scan import call, split_at, translate, unquoted
from canopy_stats.schema import UserError


@pytest.mark.parametrize(("text", "expected"), [
    ("I(x^2)", "I(x**2)"), ("(x + z)^2", "(x + z)^2"), ("log((x)^2)", "log((x)**2)"), ("{x^2}", "{x**2}"),
    ("(x + I(z^2))^2", "(x + I(z**2))^2"), ("C(f, levels=['a^b'])", "C(f, levels=['a^b'])"), ("`a^b`", "`a^b`"),
    ("as.factor(h)", "factor(h)"), ("I(x^2)^2", "I(x**2)^2"), ("np.log (x^2)", "np.log (x**2)"),
])
def test_translate(text, expected):
    assert translate(text) == expected


@pytest.mark.parametrize(("text", "instead"), [
    ("I(x %% 2)", "np.mod"), ("ifelse(x > 0, 1, 0)", "np.where"), ("relevel(f, 'b')", "reference="),
    ("d$x", "name alone"), ("as.numeric(x)", "to_numeric"),
])
def test_other_spellings_are_refused_with_what_to_write(text, instead):
    with pytest.raises(UserError, match=instead):
        translate(text)


def test_quoted_text_is_left_alone():
    assert split_at("`a+b` + f(c + d) + 'e+f'", "+") == ["`a+b`", "f(c + d)", "'e+f'"]
    assert "(" not in "".join(letter for _, letter, _ in unquoted("`(` + x"))
    for text in ("(x", "x)", "`x", ")x("):
        with pytest.raises(UserError, match="do not match"):
            list(unquoted(text))


@pytest.mark.parametrize(("text", "inner"), [
    ("offset(log(n))", "log(n)"), ("offset (n)", "n"), ("offset(a) + offset(b)", None), ("xoffset(a)", None),
    ("offset", None), ("offset()", ""),
])
def test_call(text, inner):
    assert call(text, "offset") == inner


@pytest.mark.slow
@given(st.text(alphabet="xyz^*:+-() ", max_size=20))
def test_powers_change_only_inside_functions(text):
    """Without a name before a bracket nothing is Python code, so nothing changes."""
    spaced = text.replace("x(", "").replace("y(", "").replace("z(", "")
    spaced = "".join(letter for letter in spaced if letter not in "xyz") + "x"
    try:
        assert translate(spaced) == spaced
    except UserError as error:
        assert "do not match" in str(error)
