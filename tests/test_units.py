from itertools import groupby

import numpy as np
import pytest

from slm.units import deduplicate, expand


@pytest.mark.parametrize("codes", [[], [3], [1, 1, 1], [1, 2, 3], [5, 5, 1, 5, 5, 5, 0, 0]])
def test_deduplicate_equals_groupby_and_expands_back(codes):
    array = np.array(codes, np.uint16).reshape(-1, 1)
    units, durations = deduplicate(array)
    runs = [(unit, len(list(run))) for unit, run in groupby(codes)]
    assert units[:, 0].tolist() == [u for u, _ in runs]
    assert durations.tolist() == [d for _, d in runs]
    assert np.array_equal(expand(units, durations), array)


def test_several_codebooks_are_refused():
    with pytest.raises(ValueError, match="one codebook"):
        deduplicate(np.zeros((3, 2), np.uint16))
