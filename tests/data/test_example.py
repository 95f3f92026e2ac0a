import numpy as np
import pytest

from atlf_jax.data import Example, validate_example

GOOD = Example("41007", "41", np.full((16, 20), 0.5, np.float32), np.ones((16, 20), np.complex64))


def test_a_good_record_comes_back_unchanged():
    assert validate_example(GOOD) is GOOD


def spoiled(image, value):
    image = image.copy()
    image[3, 4] = value
    return image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": ""}, "non-empty strings"),
        ({"ct": GOOD.ct.astype(np.float64)}, "ct is float64; wanted a numpy float32"),
        ({"target": GOOD.target.real}, "target is float32; wanted a numpy complex64"),
        ({"ct": GOOD.ct.tolist()}, "ct is list"),
        ({"ct": GOOD.ct[None]}, r"shape \(1, 16, 20\)"),
        ({"ct": np.stack([GOOD.ct[:, :18]] * 2)}, r"ct \(2, 16, 18\) and target \(16, 20\) differ"),
        ({"target": GOOD.target[:15]}, "at least 16 pixels"),
        ({"ct": spoiled(GOOD.ct, np.nan)}, "ct holds 1 non-finite"),
        ({"target": spoiled(GOOD.target, np.inf * 1j)}, "target holds 1 non-finite"),
        ({"ct": np.zeros((16, 16), np.float32)}, "differ in shape"),
        ({"ct": spoiled(GOOD.ct, 1.001)}, r"spans \[0.5, 1.001\]"),
        ({"ct": spoiled(GOOD.ct, -1000)}, r"spans \[-1000, 0.5\].*window_ct"),
    ],
)
def test_a_bad_record_is_refused_in_one_line_that_names_it(change, message):
    with pytest.raises(ValueError, match=message) as error:
        validate_example(GOOD._replace(**change))
    assert "'41007'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_without_a_name_is_refused():
    with pytest.raises(ValueError, match="non-empty strings"):
        validate_example(GOOD._replace(name=""))
