"""A name → a folder: a local one, the package's own, a cached snapshot, or a download.

huggingface_hub fetches and caches. It reads these environment variables at its first import:

| environment variable | what it does | default |
| --- | --- | --- |
| HF_HOME, HF_HUB_CACHE | the folder of the cache | ~/.cache/huggingface/hub |
| HF_HUB_OFFLINE | 1: the network is never used | the network is used |
| HF_ENDPOINT | the server | https://huggingface.co |
| HF_TOKEN | access to private and gated models | the token that `hf auth login` saved |
"""

import os
import re
from pathlib import Path

from minbert.files import one_line

from .weights import WEIGHTS_FILES, find_weights, index_parts

EMBEDDED = "minbert-mini"  # a small real BERT; its card: minbert/mini/README.md

VOCABULARIES = ("vocab.txt", "tokenizer.json")  # at least one is needed, both are taken
SMALL_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json",
               "added_tokens.json", *VOCABULARIES)

# The hub's alphabet, for what becomes part of a path: neither may lead elsewhere.
_NAME = re.compile(r"(?!.*(--|\.\.))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)
_REVISION = re.compile(r"(?!.*(//|\.\.))\w[\w./+-]{0,199}", re.ASCII)


class HubError(OSError):
    """A checkpoint cannot be fetched; one line says which, why, and what to do."""


def resolve(name_or_folder: str | Path, revision: str = "main") -> Path:
    """Returns the folder of a checkpoint, and downloads it only if it is not on this machine.

    Args:
        name_or_folder: `minbert-mini`, a folder (returned as it is), or a name on the hub,
            `bert-base-uncased` or `org/name`. A complete cached snapshot is used without asking
            the hub.
        revision: A branch, tag or commit of that name.

    Raises:
        ValueError: It is neither a folder nor a possible name.
        HubError: The checkpoint cannot be fetched.

    >>> str(resolve("."))
    '.'
    """
    # a Path shortens "./minbert-mini", a folder of the user's, to the bundled model's name
    is_folder = isinstance(name_or_folder, Path) and name_or_folder.is_dir()
    if str(name_or_folder) == EMBEDDED and not is_folder:
        return Path(__file__).parents[1] / "mini"

    path = os.path.expanduser(name_or_folder)
    if os.path.isdir(path):
        return Path(path)
    if os.path.isfile(path):
        raise ValueError(f"{path} is a file: name the folder that holds the checkpoint")

    name = name_or_folder.as_posix() if isinstance(name_or_folder, Path) else name_or_folder
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not an existing folder, nor is it a hub name, which looks "
                         "like 'bert-base-uncased' or 'org/name' (letters, digits, '-', '_', '.'): "
                         "check the spelling")
    if not _REVISION.fullmatch(revision):
        raise ValueError(f"revision {revision!r} is not a branch, tag or commit: "
                         "expected one such as 'main'")

    return _cached(name, revision) or _downloaded(name, revision)


def _cached(name: str, revision: str) -> Path | None:
    """The snapshot in the cache, if it is complete."""
    from huggingface_hub import try_to_load_from_cache  # here: it takes a while to import

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):  # None, or a note that the hub has no such file
        return None
    folder = Path(config).parent
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """True if the folder holds config.json, a vocabulary, and all files of its weights."""
    if not (folder / "config.json").is_file():
        return False
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return False

    try:
        parts = index_parts(find_weights(folder))
    except (FileNotFoundError, ValueError):  # no weights, a broken index
        return False
    return all(part.is_file() for part in parts)


def _downloaded(name: str, revision: str) -> Path:
    """Fetches the small files and one form of weights into the cache."""
    from huggingface_hub import constants, snapshot_download, utils

    label = f"{name!r} (revision {revision!r})"
    remedy = "name a folder that holds a checkpoint"
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"HF_HUB_OFFLINE is set, and {label} is not complete in the cache "
                       f"{constants.HF_HUB_CACHE}: unset it to download, or {remedy}")

    try:
        wanted = _choose_files(name, revision, label)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except HubError:
        raise
    except utils.GatedRepoError:
        raise HubError(f"{label} is gated: ask for access on its page at {constants.ENDPOINT}, "
                       "and set HF_TOKEN") from None
    except utils.RevisionNotFoundError:
        raise HubError(f"{constants.ENDPOINT} has no revision {revision!r} of {name!r}: "
                       "check the spelling") from None
    except utils.RepositoryNotFoundError:
        raise HubError(f"{constants.ENDPOINT} has no model {name!r} that you may read: check the "
                       "spelling, or set HF_TOKEN if it is private") from None
    except Exception as error:  # each major version has another HTTP library, with its own errors
        reason = one_line(str(error) or type(error).__name__)
        raise HubError(f"could not download {label} from {constants.ENDPOINT} ({reason}): check "
                       f"the network and the disk and run again, or {remedy}") from error

    if not _is_complete(folder):
        raise HubError(f"{label} arrived incomplete in {folder}: run again")
    return folder


def _choose_files(name: str, revision: str, label: str) -> list[str]:
    """The files to fetch: what the model has of the small ones, and its best form of weights."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(name, revision=revision)
    present = {entry.rfilename for entry in info.siblings}

    if "config.json" not in present:
        raise HubError(f"{label} has no config.json: choose a BERT checkpoint")
    if not present.intersection(VOCABULARIES):
        raise HubError(f"{label} has no vocabulary, {' or '.join(VOCABULARIES)}: choose another")

    weights = [file for file in WEIGHTS_FILES if file in present]
    if not weights:
        raise HubError(f"{label} has no weights, {' or '.join(WEIGHTS_FILES)}: choose another")

    wanted = [file for file in SMALL_FILES if file in present]
    wanted.append(weights[0])
    if weights[0].endswith(".index.json"):
        index = Path(hf_hub_download(name, weights[0], revision=info.sha))
        parts = [part.name for part in index_parts(index)]
        lacking = [part for part in parts if part not in present]
        if lacking:
            raise HubError(f"{label} lacks {lacking[0]}, which its {weights[0]} names: "
                           "choose another")
        wanted += parts
    return wanted
