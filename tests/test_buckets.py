"""Workdirs in a bucket: the real clients, of the small files and of checkpoints, against an emulator of the service."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from dpm_jax.errors import UserError
from dpm_jax.training import loop, metrics, storage
from dpm_jax.training.checkpoints import Checkpoints
from tests.commands import QUICK, run
from tests.test_training import run_steps_of, same, small

ROOT = Path(__file__).parent.parent
fsspec = pytest.importorskip("fsspec", reason="needs the extra 'gcs'")
gcsfs = pytest.importorskip("gcsfs", reason="needs the extra 'gcs'")
server = pytest.importorskip("gcp_storage_emulator.server", reason="needs the emulator of the extra 'test'")


@pytest.fixture(scope="module")
def bucket():
    """Its address, gs://..., with everything set for this process and its children to find the emulator."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    objects, download = server.objects, server.objects.download

    def download_with_generation(request, response, store, *arguments, **more):
        """As the service does; without it, what is written on top of what is there is refused by the client."""
        download(request, response, store, *arguments, **more)
        if response.status == 200:
            found = store.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = found["generation"]

    objects.download = download_with_generation
    serving = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    serving.start()
    address = f"http://127.0.0.1:{port}"
    told = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_CLOUD_PROJECT": "none",
        # No credentials are looked for, and none are asked for.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "GCE_METADATA_HOST": "127.0.0.1:1",
        "NO_GCE_CHECK": "true",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    yield "gs://bucket"
    serving.stop()
    objects.download = download
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def test_a_run_in_a_bucket_goes_on_with_the_same_bits(bucket, tmp_path):
    built, source = small()
    whole = loop.train(built, source, tmp_path)
    where = storage.folder(f"{bucket}/cut")
    assert storage.is_remote(where)
    state, _ = run_steps_of(built, source)(loop.step_lib.init(built), 40)
    with Checkpoints(where) as checkpoints:
        checkpoints.save(40, state, 1e9)
    said = []
    resumed = loop.train(built, source, where, said.append)
    assert said == [f"resuming from step 40 in {bucket}/cut"]
    same(resumed, whole)
    same(loop.load_params(built, where)[1], whole.params)
    ours, theirs = metrics.read(where / "metrics.jsonl"), metrics.read(tmp_path / "metrics.jsonl")
    assert [line["validation_bits"] for line in ours] == [theirs[-1]["validation_bits"]]
    assert any(path.name.startswith("events.out") for path in (where / "tensorboard").iterdir())


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(bucket, monkeypatch):
    async def copy_and_remove(self, old, new, **_):
        await self._cp_file(old, new)
        await self._rm_file(old)

    # The emulator moves no files, which the client asks it to for half a minute before it does the same.
    monkeypatch.setattr(gcsfs.GCSFileSystem, "_mv_file", copy_and_remove, raising=False)
    built, source = small()
    where = storage.folder(f"{bucket}/damaged")
    loop.train(built, source, where)
    files = fsspec.filesystem("gs")
    for name in files.find(f"{bucket}/damaged/checkpoints/60"):
        content = files.cat_file(name)
        files.pipe_file(name, content[: len(content) // 2])
    said = []
    again = loop.train(built, source, where, said.append)
    assert "60: damaged" in said[0]
    assert said[-1].startswith("resuming from step 40")
    assert again.step == 60
    names = {path.name for path in (where / "checkpoints").iterdir()}
    assert {"40", "60", "60.damaged"} <= names


def test_the_commands_on_a_bucket(bucket):
    where = f"{bucket}/runs/roll"
    flags = [*QUICK, "--config.train.checkpoint_every=20"]
    for steps in (40, 60):
        done = run("train", f"--workdir={where}", *flags, f"--config.train.steps={steps}")
        assert done.code == 0, done.err
    assert f"resuming from step 40 in {where}" in done.out
    done = run("evaluate", f"--workdir={where}", "--ais_k=0")
    assert done.code == 0, done.err
    assert f"wrote {where}/evaluation.json" in done.out
    done = run("sample", f"--workdir={where}", "--num_samples=30", "--checkpoint=best")
    assert done.code == 0, done.err
    folder = storage.folder(where)
    assert json.loads((folder / "evaluation.json").read_text())["step"] == 60
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "samples" / "samples.npz").open("rb") as file, np.load(file) as drawn:
        assert drawn["samples"].shape == (30, 2)
    assert [line["step"] for line in metrics.read(folder / "metrics.jsonl")] == [20, 40, 40, 60, 60]
    # The emulator serves from this process, and complains of connections that are closed on stderr.
    done = run("train", f"--workdir={where}", *flags, "--config.seed=3")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: {where}: belongs to another config")


def test_other_services_and_missing_packages_are_refused(monkeypatch):
    with pytest.raises(UserError, match="must be a folder, or gs://BUCKET/FOLDER"):
        storage.folder("s3://bucket/run")
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'dpm_jax\[gcs\]'"):
        storage.folder("gs://bucket/run")


def test_what_is_staged_is_copied_once_it_has_changed(bucket):
    where = storage.folder(f"{bucket}/staged")
    with storage.Staged(where) as staged:
        (staged.folder / "a").write_text("1")
        staged.push()
        (where / "a").write_text("kept")
        (staged.folder / "deep").mkdir()
        (staged.folder / "deep" / "b").write_text("2")
        staged.push(after=60)
        assert not (where / "deep" / "b").exists()
    assert not staged.folder.exists()
    assert ((where / "a").read_text(), (where / "deep" / "b").read_text()) == ("kept", "2")


def test_a_folder_of_this_machine_is_written_to_itself(tmp_path):
    with storage.Staged(tmp_path) as staged:
        assert staged.folder == tmp_path
    assert tmp_path.exists()
