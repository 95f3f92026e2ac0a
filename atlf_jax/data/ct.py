"""What is done to a CT before it is brought to the MR: Hounsfield units in, Hounsfield units out.

Windows are applied when a prepared dataset is read (``transforms.window_ct``), so that one dataset serves them all.
"""

import dataclasses

import numpy as np
from beartype import beartype

from atlf_jax.data.registration import AIR, body_mask
from atlf_jax.data.volume import Volume

__all__ = ["AIR", "clean_ct"]


@beartype
def clean_ct(ct: Volume) -> Volume:
    """Replace all that is not the patient by air: table, head holder, blankets, and scanners' marks outside the field.

    Everything outside ``body_mask`` becomes -1000 HU, and so does everything below it. Air inside the body stays.

    Args:
        ct: in Hounsfield units; parts of the body may be cut off by the field of view.

    Raises:
        ValueError: when no body is found.

    Example:
        >>> data = np.full((24, 24, 24), -1000, np.float32)
        >>> data[6:18, 6:18, 6:18], data[:, 2] = 40, 300  # a body, and a table
        >>> cleaned = clean_ct(Volume(data, np.diag([5.0, 5.0, 5.0, 1.0]))).data
        >>> float(cleaned[12, 12, 12]), float(cleaned[12, 2, 12])
        (40.0, -1000.0)
    """
    data = np.where(body_mask(ct), np.maximum(ct.data, AIR), AIR).astype(np.float32)
    return dataclasses.replace(ct, data=data)
