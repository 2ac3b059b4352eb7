"""The node's id as a service remembers it in its own directory, so that it can start while nobody can be asked."""

from __future__ import annotations

from pathlib import Path

from services.data_dir import faults
from services.data_dir.files import write_atomically
from services.errors import DataLoss, InvalidArgument
from services.identity import check_node_id

FILE = "node_id"


def remembered(directory: Path) -> str:
    """The id, or "" where none is remembered yet; raises DataLoss(NODE_ID_DAMAGED), FailedPrecondition."""
    path = directory / FILE
    try:
        return check_node_id(path.read_text(errors="replace").strip())
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise faults.at_start(error, path) from error
    except InvalidArgument as error:
        raise DataLoss(
            f"{path} is damaged: it holds no node id; remove it, and the provider is asked again",
            reason="NODE_ID_DAMAGED",
            metadata={"path": str(path)},
        ) from error


def remember(directory: Path, node_id: str) -> None:
    """Keep it, durably; raises what a disk that cannot be written is told as."""
    path = directory / FILE
    try:
        write_atomically(path, f"{node_id}\n".encode())
    except OSError as error:
        raise faults.at_start(error, path) from error
