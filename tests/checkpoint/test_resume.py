"""Outputs made in steps: whole or not there, continued after a kill, one writer at a time."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from dsv4c.checkpoint import quantize
from dsv4c.checkpoint.conversion import Change, Conversion, Unit, Write
from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.resume import resumable_folder
from dsv4c.checkpoint.writer import CheckpointWriter
from dsv4c.errors import DsvError

JOB: dict[str, object] = {"what": "test", "parts": [1, 2]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_whole(tmp_path: Path) -> None:
    with resumable_folder(tmp_path / "deep" / "out", JOB) as work:
        (work.folder / "x").write_text("1")
        work.commit({"a": [1.0]})
        assert names(tmp_path / "deep") == [".out.partial"]
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["x"]


def interrupt(out: Path, job: Mapping[str, object], error: BaseException) -> None:
    with resumable_folder(out, job) as work:
        (work.folder / "x").write_text("1")
        work.commit({"a": [1.0, 2.5]})
        work.commit({"b": []})
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_interrupted_work_goes_on(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises((KeyboardInterrupt, DsvError)):
        interrupt(tmp_path / "out", JOB, error)
    assert names(tmp_path) == [".out.partial"]
    with resumable_folder(tmp_path / "out", JOB) as work:
        assert work.done == {"a": [1.0, 2.5], "b": []}
        assert names(work.folder) == ["x"]
    assert names(tmp_path) == ["out"]


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "out", JOB, KeyboardInterrupt())
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    journal.write_text(journal.read_text()[:-3])
    with pytest.raises(KeyboardInterrupt), resumable_folder(tmp_path / "out", JOB) as work:  # noqa: PT012
        assert work.done == {"a": [1.0, 2.5]}
        work.commit({"c": []})
        raise KeyboardInterrupt
    with resumable_folder(tmp_path / "out", JOB) as work:
        assert list(work.done) == ["a", "c"]


def test_another_job_starts_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "out", JOB, KeyboardInterrupt())
    with resumable_folder(tmp_path / "out", JOB | {"parts": [1]}) as work:
        assert work.done == {}
        assert names(work.folder) == []


def test_errors_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DsvError, match="DSV213"):
        interrupt(tmp_path / "out", JOB, DsvError("DSV213", "bad"))
    assert names(tmp_path) == []


def test_disk_errors_are_told(tmp_path: Path) -> None:
    with pytest.raises(DsvError, match="No space left") as error:
        interrupt(tmp_path / "out", JOB, OSError(errno.ENOSPC, "No space left", "some/file"))
    assert (error.value.code, error.value.where) == ("DSV603", "some/file")
    assert str(tmp_path / ".out.partial") in error.value.hint


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with resumable_folder(tmp_path / "out", JOB):
        with pytest.raises(DsvError, match="another process is writing"):
            interrupt(tmp_path / "out", JOB, KeyboardInterrupt())
        with resumable_folder(tmp_path / "other", JOB):
            pass
    with pytest.raises(DsvError, match="the output path exists"):
        interrupt(tmp_path / "out", JOB, KeyboardInterrupt())
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DsvError, match="the output path exists"):
        interrupt(tmp_path / "link", JOB, KeyboardInterrupt())


def test_quantize_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every unit is done once over two runs, and the result is that of one run."""
    monkeypatch.setattr(quantize, "_COMMIT_BYTES", 1)
    expected = quantize_checkpoint(checkpoint, tmp_path / "whole")
    ran: list[str] = []
    run = Conversion.run

    def fail_at(count: int) -> None:
        def counted(self: Conversion, unit: Unit, write: Write) -> Change:
            ran.append(unit.name)
            if len(ran) == count:
                raise KeyboardInterrupt
            return run(self, unit, write)

        monkeypatch.setattr(Conversion, "run", counted)

    fail_at(40)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(checkpoint, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()
    committed = len((tmp_path / ".out.partial" / "journal.jsonl").read_text().splitlines())
    # The worker may be past the interrupted unit before the main thread hears of it.
    assert 30 <= committed <= len(ran) - 1
    ran.clear()
    fail_at(-1)
    report = quantize_checkpoint(checkpoint, tmp_path / "out", jobs=1)
    assert (
        len(ran) + committed == sum(one.matrices for one in expected.classes) - 9
    )  # w1 and w3 are one
    assert report == expected
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    for name in names(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_changed_source_starts_from_nothing(checkpoint: Path, tmp_path: Path) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "whole")
    partial = tmp_path / ".out.partial"
    (partial / "folder").mkdir(parents=True)
    (partial / "job.json").write_text(json.dumps({"dsv4c": "0"}))
    (partial / "journal.jsonl").write_text('["embed", [1, 0.0, 0.0]]\n')
    (partial / "folder" / "stray").write_text("x")
    quantize_checkpoint(checkpoint, tmp_path / "out")
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_lost_shard_starts_from_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "_COMMIT_BYTES", 1)

    def interrupted(self: CheckpointWriter) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(checkpoint, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / ".out.partial" / "folder" / "model.safetensors").unlink()
    quantize_checkpoint(checkpoint, tmp_path / "out")
    quantize_checkpoint(checkpoint, tmp_path / "whole")
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
