"""What was asked of a folder: the same request resumes there, another one is refused."""

from pathlib import Path

from minbert.files import read_object, write_json


def claim_folder(path: Path, request: dict, has_results: bool, **free: object) -> None:
    """Saves the request in `path`.

    Args:
        free: saved with it, and may change.

    Raises:
        ValueError: the folder has results of another request.
    """
    if has_results:
        begun = read_object(path)
        for key, value in request.items():
            before = begun.get(key)
            if key == "settings" and isinstance(before, dict):
                before.pop("note", None)  # a text about the preset, which older versions saved
            if before != value:
                raise ValueError(f"{path.parent} holds trainings with another {key} "
                                 f"({before}, not {value}); name another --out")

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**request, **free})
