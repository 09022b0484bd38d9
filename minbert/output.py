"""How a model returns its tensors: by attribute, by key and by place."""

from collections.abc import Iterator
from dataclasses import fields

import torch


class Output:
    """The base of a dataclass of tensors. One that is None counts as absent."""

    def keys(self) -> list[str]:
        """The names of the tensors that are present."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def __contains__(self, key: str) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (getattr(self, key) for key in self.keys())

    def __getitem__(self, key: str | int | slice) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if not isinstance(key, str):
            return tuple(self)[key]
        self._check(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: torch.Tensor) -> None:
        self._check(key)
        setattr(self, key, value)

    def _check(self, key: str) -> None:
        if key not in self:
            raise KeyError(f"{key!r}: {type(self).__name__} has {', '.join(self.keys())}")
