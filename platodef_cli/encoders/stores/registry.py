"""Models of MLflow's registry: their files are read as artifacts; MLflow would run code to load them."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platodef_cli.encoders.stores.address import StoreAddress
from platodef_cli.encoders.stores.interface import StoredFile
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.images.remote import line

_CONFIGURATIONS = ("config.json", "open_clip_config.json")
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # MLflow's own default waits for four minutes
_MODEL = "model"  # where the transformers flavour of MLflow keeps the network


class Registered:
    """One version of a registered model, at the tracking server of ``MLFLOW_TRACKING_URI``.

    Args:
        address: Of the version.

    Raises:
        UsageError: MLflow is not installed, or there is no such model or version.
        IncompleteError: The server does not answer.
    """

    def __init__(self, address: StoreAddress):
        try:
            import mlflow
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise UsageError(
                f"{address.uri}: models:/ needs the package mlflow-skinny; install platodef[mlflow]"
            ) from None
        self._artifacts: Any = mlflow.artifacts
        client = mlflow.MlflowClient()
        version = address.version
        try:
            with _quiet():
                if version.startswith("@"):
                    found = client.get_model_version_by_alias(address.name, version[1:])
                elif version.isdecimal():
                    found = client.get_model_version(address.name, version)
                else:
                    raise UsageError(
                        f"{address.uri}: give a version, models:/{address.name}/1, or an alias, "
                        f"models:/{address.name}@ALIAS"
                    )
                self._version = str(found.version)
                self._root = str(client.get_model_version_download_uri(address.name, self._version))
        except MlflowException as error:
            missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            text = f"{address.uri}: MLflow does not give it ({line(error)})"
            if missing:
                raise UsageError(text) from None
            raise IncompleteError(
                f"{text}; check MLFLOW_TRACKING_URI and your credentials there (MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            ) from None
        except UsageError:
            raise
        except Exception as error:
            raise IncompleteError(
                f"{address.uri}: MLflow does not answer ({line(error)}); check MLFLOW_TRACKING_URI"
            ) from None
        self._folder = address.folder
        self.uri = "/".join(filter(None, (f"models:/{address.name}/{self._version}", address.folder)))

    def listed(self) -> dict[str, StoredFile]:
        """Return the files of the model; see :class:`~platodef_cli.encoders.stores.interface.Store`."""
        files = self._list(self._folder)
        if not self._folder and not any(name in files for name in _CONFIGURATIONS):
            inner = self._list(_MODEL) if _MODEL in self._folders else {}
            if any(name in inner for name in _CONFIGURATIONS):
                self._folder, files = _MODEL, inner
        if not files:
            raise UsageError(f"{self.uri}: holds no files; name the folder, as in {self.uri}/model")
        return files

    def _list(self, folder: str) -> dict[str, StoredFile]:
        try:
            with _quiet():
                entries = self._artifacts.list_artifacts(artifact_uri=self._below(folder))
        except Exception as error:
            raise IncompleteError(f"{self.uri}: its files cannot be listed ({line(error)})") from None
        self._folders = {Path(entry.path).name for entry in entries if entry.is_dir}
        # MLflow tells no checksums, and the files of a version can be written over: nothing identifies them
        return {
            Path(entry.path).name: StoredFile(entry.file_size, "") for entry in entries if not entry.is_dir
        }

    def _below(self, path: str) -> str:
        return "/".join(filter(None, (self._root.rstrip("/"), path)))

    def fetch(self, name: str, target: Path, most: int) -> None:
        """Bring one file here; see :class:`~platodef_cli.encoders.stores.interface.Store`."""
        path = "/".join(filter(None, (self._folder, name)))
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            try:
                with _quiet():
                    got = self._artifacts.download_artifacts(artifact_uri=self._below(path), dst_path=folder)
                if Path(got).stat().st_size <= most:
                    shutil.move(got, target)
                    return
            except Exception as error:
                raise IncompleteError(f"{self.uri}/{name}: MLflow does not give it ({line(error)})") from None
        raise RefusedError(f"{self.uri}/{name}: is longer than its listing says")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's log and bars off the terminal, and its patience with a dead server within a minute."""
    logger, level = logging.getLogger("mlflow"), logging.getLogger("mlflow").level
    settings = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", _RETRIES: os.environ.get(_RETRIES, "3")}
    before = {name: os.environ.get(name) for name in settings}
    logger.setLevel(logging.CRITICAL)
    os.environ.update(settings)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
