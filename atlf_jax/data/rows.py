"""The rows of every batch that one of several processes loads."""

from typing import Any

import grain

__all__ = ["Rows"]


class Rows(grain.MapDataset):
    """Some rows of every batch of a dataset of records, one after the other.

    Grain's own sharding would shuffle the records of each process by themselves, so that the batches depended on the
    number of processes.

    Args:
        parent: all records, in the order of training.
        batch_size: records a batch, over all processes.
        first: the first row of this process.
        number: its rows.
    """

    def __init__(self, parent: grain.MapDataset, *, batch_size: int, first: int, number: int) -> None:
        super().__init__(parent)
        self._batch_size, self._first, self._number = batch_size, first, number

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._number

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._number)
        return self._parent[batch * self._batch_size + self._first + row]
