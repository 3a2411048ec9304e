"""A folder through a Ray cluster that runs already, as on many machines; on loopback."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from flowerseg.images import write_jpeg
from flowerseg.shipped import shipped_model

pytest.importorskip("ray", reason="Ray is not installed: pip install 'flowerseg[ray]'")

# Not 127.0.0.1, for which Ray puts the address of a network card.
HOST = "127.0.0.2"
PHOTOS = 40


@dataclass(frozen=True)
class Cluster:
    """Where it listens, and to whom."""

    address: str
    token: str

    def environment(self, token: str | None = None) -> dict[str, str]:
        """That of a command that is to join it."""
        own = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token or self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return os.environ | own | {"RAY_ADDRESS": self.address}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One machine of two CPUs, started as people start the first of several."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    started = Cluster(f"{HOST}:{port}", secrets.token_hex(32))
    environment = started.environment()
    del environment["RAY_ADDRESS"]
    # Its sockets lie there, whose names may not be as long as pytest's folders are.
    with TemporaryDirectory(prefix="ray-") as folder:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address", HOST, "--port", str(port), "--num-cpus", "2"),
            *("--include-dashboard", "false", "--object-store-memory", str(100 * 2**20)),
            *("--temp-dir", folder, "--disable-usage-stats"),
        ]
        head = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert head.stdout is not None
        said = ""
        for line in head.stdout:
            said += line
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail(f"Ray did not start:\n{said}")
        try:
            yield started
        finally:
            # All processes of the session that it was started in; it does not heed SIGTERM.
            os.killpg(head.pid, signal.SIGKILL)
            head.communicate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    rng = np.random.default_rng(0)
    for index in range(PHOTOS):
        height, width = rng.integers(40, 90, 2).tolist()
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_jpeg(folder / f"{index % 3}" / f"{index:02}.jpg", rgb)
    (folder / "text.jpg").write_text("no photo")
    return folder


def _predict(
    photos: Path, out: Path, environment: dict[str, str], *options: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flowerseg", "predict", str(photos), "--out", str(out)]
    command += ["--model", str(shipped_model()), "--device", "cpu", "--batch", "2"]
    return subprocess.run(
        [*command, *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def _masks(out: Path) -> dict[str, bytes]:
    folder = out / "masks"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.slow
def test_cluster_that_runs_already_makes_the_masks_of_one_machine(
    cluster: Cluster, photos: Path, tmp_path: Path
) -> None:
    here = _predict(photos, tmp_path / "here", dict(os.environ))
    there = _predict(
        photos, tmp_path / "there", cluster.environment(), "--engine", "ray", "--workers", "1"
    )
    assert (here.returncode, there.returncode) == (1, 1), there.stderr  # one is no photo
    assert len(_masks(tmp_path / "here")) == PHOTOS
    assert _masks(tmp_path / "there") == _masks(tmp_path / "here")
    assert "text.jpg: is a text file" in there.stderr
    assert cluster.address in there.stderr


@pytest.mark.slow
def test_cluster_that_does_not_know_the_token_is_named_with_what_to_do(
    cluster: Cluster, photos: Path, tmp_path: Path
) -> None:
    stranger = cluster.environment(secrets.token_hex(32))
    run = _predict(photos, tmp_path / "out", stranger, "--engine", "ray")
    assert run.returncode == 1
    assert f"RAY_ADDRESS={cluster.address}: no Ray cluster answers" in run.stderr
    assert "RAY_AUTH_TOKEN" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out/masks").exists()
