import io

import numpy as np
import pytest
from PIL import Image

from mpamatch.files.rasters import encode_instances


def test_instances_beyond_eight_bits_come_back_as_they_were() -> None:
    instances = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_instances(instances)))), instances)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.int32), np.zeros((2, 2, 3), np.uint16)])
def test_what_is_no_raster_of_instances_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint16"):
        encode_instances(wrong)
