"""Open HDF5 files that may end the process that opens them; run as a program by ``hdf5.py``, with nothing else loaded.

Each line of the input is the name of a file in JSON; the answer is one byte. What Python can tell is not told: the
other process will meet the same error, and say it.
"""

import contextlib
import json
import sys

SMALL = 2**22  # bytes of a dataset that is read whole, as texts and masks are


def touch(name: str) -> None:
    """Read what a file says of itself, and of each dataset the first number."""
    import h5py

    with h5py.File(name, "r") as file:
        groups = [file]
        for key in file:
            with contextlib.suppress(Exception):
                if _is_own(file, key) and isinstance(file[key], h5py.Group):
                    groups.append(file[key])
        for group in groups:
            for key in group:
                with contextlib.suppress(Exception):
                    if _is_own(group, key) and isinstance(group[key], h5py.Dataset):
                        _touch_dataset(group[key])
        for key in file.attrs:
            with contextlib.suppress(Exception):
                file.attrs[key]


def _is_own(group, key: str) -> bool:
    """Return whether a name is of the group's own, and no link to elsewhere."""
    import h5py

    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _touch_dataset(data) -> None:
    """Read a dataset's places and its first number; of lists of numbers, as acquisitions are, the first and last."""
    if data.external or data.is_virtual:  # of another file, which nobody opens
        return
    if data.chunks is not None:
        for index in range(data.id.get_num_chunks()):
            data.id.get_chunk_info(index)
    if data.dtype.kind == "V" and data.ndim == 1 and len(data):
        data[0], data[len(data) - 1]
    elif data.nbytes <= SMALL:
        data[()]
    else:
        data[(0,) * data.ndim]


if __name__ == "__main__":
    for line in sys.stdin:
        with contextlib.suppress(Exception):
            touch(json.loads(line))
        sys.stdout.write(".")
        sys.stdout.flush()
