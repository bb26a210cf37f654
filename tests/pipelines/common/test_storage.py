"""Writing a file: what survives a crash, and that every file is written so."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.common import progress, storage
from pipelines.common.storage import StorageError

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path) -> Path:
    """Where files are written: what holds for a folder holds for a bucket."""
    return tmp_path if request.param == "folder" else request.getfixturevalue("in_bucket").path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != storage._WHOLE}


def full_disk(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


# ------------------------------------------------------------------------------------- the order of events
@pytest.fixture
def events(tmp_path, monkeypatch) -> list[tuple[str, str]]:
    """What is done to files below `tmp_path`, in order: (mkdir, write, fsync or rename; path). Random names are cut."""
    log: list[tuple[str, str]] = []

    def note(what: str, path: str | Path) -> None:
        name = os.path.relpath(path, tmp_path)
        name = re.sub(r"\.([^/]+)\.[0-9a-f]{32}\.tmp", r"\1.tmp", name)
        log.append((what, re.sub(r"\.([^/]+)-[0-9a-f]{32}\.new", r"\1.new", name)))

    def watch(method: str, what: str, told_by_argument: bool = False) -> None:
        original = getattr(Path, method)

        def watched(self: Path, *args: Any, **kwargs: Any) -> Any:
            note(what, args[0] if told_by_argument else self)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Path, method, watched)

    watch("mkdir", "mkdir")
    watch("write_bytes", "write")
    watch("replace", "rename", told_by_argument=True)
    watch("rename", "rename", told_by_argument=True)
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        note("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    return log


def test_a_file_in_a_missing_folder_is_on_the_disk_before_its_name_and_its_name_before_the_call_returns(
    tmp_path, events
):
    with storage.writing(tmp_path / "a/b/state.json") as temporary:
        temporary.write_bytes(b"new")
    assert events == [
        ("mkdir", "a"),
        ("fsync", "."),
        ("mkdir", "a/b"),
        ("fsync", "a"),
        ("write", "a/b/state.json.tmp"),
        ("fsync", "a/b/state.json.tmp"),
        ("rename", "a/b/state.json"),
        ("fsync", "a/b"),
    ]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: storage.write_bytes(path, b"1"),
        lambda path: storage.write_text(path, "1"),
        lambda path: storage.write_json(path, 1),
        lambda path: storage.write_parquet(path, pa.table({"a": [1]})),
    ],
    ids=["bytes", "text", "json", "parquet"],
)
def test_every_kind_of_file_is_written_in_this_order(write, tmp_path, events):
    write(tmp_path / "file")
    order = [("fsync", "file.tmp"), ("rename", "file"), ("fsync", ".")]
    assert [event for event in events if event[0] != "write"] == order


def test_the_files_of_a_folder_and_the_folder_are_on_the_disk_before_its_name(tmp_path, events):
    storage.put_folder(tmp_path, "best", 7, {"a": b"1", "b": b"2"})
    assert events == [
        ("mkdir", "best.new"),
        ("fsync", "."),
        ("write", "best.new/a.tmp"),
        ("fsync", "best.new/a.tmp"),
        ("rename", "best.new/a"),
        ("fsync", "best.new"),
        ("write", "best.new/b.tmp"),
        ("fsync", "best.new/b.tmp"),
        ("rename", "best.new/b"),
        ("fsync", "best.new"),
        ("rename", "best-00000007"),
        ("fsync", "."),
    ]


def test_a_tree_is_on_the_disk_with_all_that_is_in_it(tmp_path, events):
    (tmp_path / "tree/empty").mkdir(parents=True)
    (tmp_path / "tree/deep/deeper").mkdir(parents=True)
    for name in ("tree/a", "tree/deep/b", "tree/deep/deeper/c"):
        (tmp_path / name).write_bytes(b"1")
    events.clear()
    storage.tree_to_disk(tmp_path / "tree")
    everything = ["tree/a", "tree/deep", "tree/deep/b", "tree/deep/deeper", "tree/deep/deeper/c", "tree/empty", "tree"]
    assert sorted(events) == sorted(("fsync", name) for name in everything)
    assert events[-1] == ("fsync", "tree")


# ---------------------------------------------------------------------------------------- writing one file
def test_writing_makes_folders_and_replaces(place):
    path = place / "a" / "b.json"
    storage.write_bytes(path, b"old")
    storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.json"]


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    storage.write_bytes(tmp_path / "state.json", b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(tmp_path / "state.json", b"new")
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(tmp_path / "other.json", b"new")
    assert contents(tmp_path) == {"state.json": b"old"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_content_and_nothing_else(error, place):
    storage.write_bytes(place / "state.json", b"old")

    def write_half() -> None:
        with storage.writing(place / "state.json") as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    with pytest.raises(error), storage.writing(place / "state.json"):
        raise error  # before anything is written
    assert contents(place) == {"state.json": b"old"}


def test_two_that_write_one_file_at_once_do_not_mix(place):
    path = place / "state.json"
    with storage.writing(path) as slow:
        slow.write_bytes(b"slow")
        with storage.writing(path) as quick:
            quick.write_bytes(b"quick")
        assert path.read_bytes() == b"quick"
    assert contents(place) == {"state.json": b"slow"}


def dies_at(method: str, action: str, path: Path) -> None:
    """Run `action` in a process that is killed when it calls this method of Path."""
    code = f"""
import os, signal, sys
from pathlib import Path
from pipelines.common import storage
Path.{method} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
path = Path(sys.argv[1])
{action}
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_process_that_is_killed_before_the_rename_leaves_the_old_content(tmp_path):
    path = tmp_path / "state.json"
    storage.write_text(path, "old")
    dies_at("replace", 'storage.write_text(path, "new")', path)
    assert path.read_text() == "old"
    (leftover,) = tmp_path.glob(".*")
    assert re.fullmatch(r"\.state\.json\.[0-9a-f]{32}\.tmp", leftover.name)
    assert leftover.read_text() == "new"  # all was written but the name
    storage.write_text(path, "newer")
    assert path.read_text() == "newer"


def test_json_comes_back_and_broken_json_says_what_to_do(place):
    storage.write_json(place / "a.json", {"b": [1, None], "a": 0.1})
    assert storage.read_json(place / "a.json") == {"b": [1, None], "a": 0.1}
    for broken in (b'{"a": ', b"\xff\xfe"):
        storage.write_bytes(place / "a.json", broken)
        with pytest.raises(StorageError, match=f"a.json is not readable JSON .*delete {place}"):
            storage.read_json(place / "a.json")


def test_a_table_comes_back(place):
    table = pa.table({"video_id": ["ffpp/1", "ffpp/2"], "score": [0.25, None]})
    storage.write_parquet(place / "a/b.parquet", table)
    assert pq.read_table(place / "a/b.parquet").equals(table)


# ---------------------------------------------------------------------------------------- writing a folder
def test_put_folder_keeps_the_two_newest(place):
    for number in (5, 20, 100, 1000):
        storage.put_folder(place, "checkpoint", number, {"w": str(number).encode(), "s": b"state"})
    kept = storage.folders(place, "checkpoint")
    assert [storage.number_of(folder) for folder in kept] == [100, 1000]
    assert [contents(folder) for folder in kept] == [{"w": b"100", "s": b"state"}, {"w": b"1000", "s": b"state"}]
    assert sorted(place.iterdir()) == kept


def test_put_folder_removes_what_killed_processes_have_left_long_ago(tmp_path):
    for name, age_s in ((".best-a.new", 4000), (".best-b.new", 3000), (".checkpoint-c.new", 4000)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    storage.put_folder(tmp_path, "best", 1, {"w": b""})
    assert {path.name for path in tmp_path.iterdir()} == {".best-b.new", ".checkpoint-c.new", "best-00000001"}


def test_put_folder_knows_its_own_prefix_only(place):
    for number in (1, 2, 3):
        storage.put_folder(place, "best", number, {"w": b""})
    storage.put_folder(place, "checkpoint", 1, {"w": b""})
    assert len(storage.folders(place, "best")) == 2
    assert len(storage.folders(place, "checkpoint")) == 1


def test_put_folder_shows_a_folder_whole_or_not_at_all(tmp_path, monkeypatch):
    storage.put_folder(tmp_path, "best", 1, {"a": b"1", "b": b"1"})
    seen = []

    def die_at_second_file(descriptor: int) -> None:
        seen.append(storage.folders(tmp_path, "best"))
        if len(seen) == 2:
            full_disk(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die_at_second_file)
        with pytest.raises(OSError, match="No space left"):
            storage.put_folder(tmp_path, "best", 2, {"a": b"2", "b": b"2"})
    (only,) = storage.folders(tmp_path, "best")
    assert contents(only) == {"a": b"1", "b": b"1"}
    assert seen == [[only], [only]]
    storage.put_folder(tmp_path, "best", 3, {"b": b"3"})  # nothing of the half-written one is left in it
    assert contents(storage.folders(tmp_path, "best")[-1]) == {"b": b"3"}
    assert len(list(tmp_path.iterdir())) == 2


def test_put_folder_of_a_process_that_is_killed_before_the_rename_shows_nothing(tmp_path):
    storage.put_folder(tmp_path, "best", 1, {"a": b"1"})
    dies_at("rename", 'storage.put_folder(path, "best", 2, {"a": b"2"})', tmp_path)
    assert [contents(folder) for folder in storage.folders(tmp_path, "best")] == [{"a": b"1"}]
    storage.put_folder(tmp_path, "best", 2, {"a": b"2"})
    assert [contents(folder) for folder in storage.folders(tmp_path, "best")] == [{"a": b"1"}, {"a": b"2"}]


def test_put_folder_leaves_one_that_exists_as_it_is(place):
    storage.put_folder(place, "best", 1, {"a": b"first"})
    storage.put_folder(place, "best", 1, {"a": b"again"})
    assert contents(storage.folders(place, "best")[0]) == {"a": b"first"}


def test_put_folder_is_not_disturbed_by_another_process_at_the_same_point(tmp_path, monkeypatch):
    """A worker on a node that was given up for lost writes its checkpoint while its successor does."""
    synced = os.fsync
    others = []

    def other_writes_too(descriptor: int) -> None:
        synced(descriptor)
        if not others:
            others.append(True)
            storage.put_folder(tmp_path, "checkpoint", 7, {"a": b"1", "b": b"1"})

    monkeypatch.setattr(os, "fsync", other_writes_too)
    storage.put_folder(tmp_path, "checkpoint", 7, {"a": b"1", "b": b"1"})
    assert [contents(folder) for folder in tmp_path.iterdir()] == [{"a": b"1", "b": b"1"}]


def test_all_folders_of_a_prefix_go_and_no_others(place):
    for prefix in ("best", "checkpoint"):
        storage.put_folder(place, prefix, 1, {"w": b"", "s": b""})
    storage.remove_folders(place, "best")
    assert [path.name[:10] for path in place.iterdir()] == ["checkpoint"]
    assert len(storage.folders(place, "checkpoint")) == 1


def test_no_folders_where_nothing_was_put(place):
    assert storage.folders(place / "missing", "best") == []


# ------------------------------------------------------------------------------------- the storage folder
def test_storage_is_made_and_left_empty(tmp_path):
    path = storage.check_storage(str(tmp_path / "new" / "storage"))
    assert path == tmp_path / "new" / "storage"
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("uri", ["http://bucket/run", "file:///run", "s3://bucket/../run", "s3:/bucket/run", "gs:run"])
def test_storage_that_is_neither_a_folder_nor_in_a_bucket_is_refused(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=re.escape(uri)):
        storage.check_storage(uri)
    assert list(tmp_path.iterdir()) == []


def test_storage_in_a_bucket_is_tried_and_left_empty(in_bucket):
    path = storage.check_storage(f"{in_bucket.path}/")
    assert (path, type(path)) == (in_bucket.path, type(in_bucket.path))
    assert not path.exists()
    with pytest.raises(StorageError, match="there is no bucket not-there"):
        storage.check_storage("s3://not-there/run", write=False)


def test_of_a_bucket_that_is_slow_to_answer_it_is_said_that_it_is_waited_for(monkeypatch, caplog):
    def after_a_word(path):
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(storage, "_QUIET_S", 0.05)
    monkeypatch.setattr(storage.BucketPath, "is_dir", after_a_word)
    storage.check_storage("s3://bucket/run", write=False)
    said = ["s3://bucket/run has not answered yet; waiting for it, or for credentials, up to 5 min"]
    assert [record.getMessage() for record in caplog.records] == said
    monkeypatch.setattr(storage.BucketPath, "is_dir", lambda path: True)
    storage.check_storage("s3://bucket/run", write=False)
    time.sleep(0.1)
    assert len(caplog.records) == 1


def test_storage_without_a_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=r"--storage is empty; name a folder"):
        storage.check_storage("")  # of a shell's variable that is not set, say
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_storage_that_is_a_file_or_below_one_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't be written .*name a folder that can"):
        storage.check_storage(str(tmp_path / "file" / below))
    with pytest.raises(StorageError, match=rf"--storage {tmp_path}/file.* is a file, or below one; name a folder"):
        storage.check_storage(str(tmp_path / "file" / below), write=False)


def test_storage_that_cannot_be_written_is_refused(tmp_path):
    locked = tmp_path
    if os.geteuid() == 0:
        locked = Path("/proc")  # root may write anywhere but into the kernel's own file systems
    else:
        locked.chmod(0o500)
    with pytest.raises(StorageError, match=r"can't be written .*name a folder that can"):
        storage.check_storage(str(locked / "storage"))


# ------------------------------------------------------- nothing is written past it: what the source says
ALWAYS = -1  # whatever the arguments
FUNCTIONS = {  # that write a file -> which argument is the file
    "cv2.imwrite": 0,
    "json.dump": 1,
    "matplotlib.image.imsave": 0,
    "numpy.save": 0,
    "numpy.savetxt": 0,
    "numpy.savez": 0,
    "numpy.savez_compressed": 0,
    "os.link": ALWAYS,
    "os.rename": ALWAYS,
    "os.renames": ALWAYS,
    "os.replace": ALWAYS,
    "os.symlink": ALWAYS,
    "pickle.dump": 1,
    "pyarrow.parquet.ParquetWriter": 0,
    "pyarrow.parquet.write_table": 1,
    "pyarrow.parquet.write_to_dataset": 1,
    "safetensors.numpy.save_file": 1,
    "safetensors.torch.save_file": 1,
    "shutil.copy": 1,
    "shutil.copy2": 1,
    "shutil.copyfile": 1,
    "shutil.copyfileobj": 1,
    "shutil.copytree": 1,
    "shutil.make_archive": 0,
    "shutil.move": ALWAYS,
    "shutil.unpack_archive": ALWAYS,
    "tempfile.mkstemp": ALWAYS,
    "torch.save": 1,
    "yaml.dump": 1,
    "yaml.safe_dump": 1,
}
OF_A_PATH = ("write_text", "write_bytes", "touch", "rename", "symlink_to", "hardlink_to")  # methods; it is the file
TO_A_PATH = ("savefig", "save", "tofile", "to_csv", "to_json", "to_parquet", "to_pickle", "extractall")  # argument 0
OF_A_DATASET = ("write_parquet", "write_csv", "write_json", "write_images")  # Ray Data writes files of its own
MEMORY = ("BytesIO", "StringIO", "TemporaryFile", "SpooledTemporaryFile")  # gone with the process
TO_BYTES = ("safetensors.torch.save", "safetensors.numpy.save")
OWN = ("pipelines.", "models.", "sweeps.")  # functions that are looked at where they stand


class Writes(ast.NodeVisitor):
    """Collect the writes of a file that bypass `common.storage`: (line, function, what is called, source).

    Writes are allowed to the temporary path of a `with writing(...)`, to a temporary folder, and to memory.
    """

    def __init__(self, source: str) -> None:
        self.bypasses: list[tuple[int, str, str, str]] = []
        self._inside: list[str] = []
        self._allowed: list[set[str]] = [set()]  # names of temporary files, per function
        self._called: set[int] = set()
        self._imported: dict[str, str] = {}
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    root = alias.name.partition(".")[0]
                    self._imported[alias.asname or root] = alias.name if alias.asname else root
            elif isinstance(node, ast.ImportFrom):
                self._imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        self.visit(tree)

    def _full_name(self, node: ast.expr) -> str:
        """`pyarrow.parquet.write_table` of `pq.write_table`; "" of what is no part of an imported module."""
        root, *rest = ast.unparse(node).split(".")
        return ".".join((self._imported[root], *rest)) if root in self._imported else ""

    def _is_allowed(self, target: ast.expr | None) -> bool:
        match target:
            case ast.Name(id=name):
                return any(name in names for names in self._allowed)
            case ast.BinOp(left=left):
                return self._is_allowed(left)
            case ast.Attribute(value=value):
                return self._full_name(target) == "os.devnull" or self._is_allowed(value)
            case ast.Call(func=function, args=args):
                name = ast.unparse(function).rpartition(".")[2]
                if name in MEMORY or (name in ("str", "open", "ParquetWriter") and args and self._is_allowed(args[0])):
                    return True
                return isinstance(function, ast.Attribute) and self._is_allowed(function.value)
        return False

    def _visit_scope(self, node: Any) -> None:
        self._inside.append(node.name)
        self._allowed.append(set())
        self.generic_visit(node)
        self._allowed.pop()
        self._inside.pop()

    visit_FunctionDef = visit_ClassDef = _visit_scope

    def visit_With(self, node: ast.With) -> None:
        added = set()
        for item in node.items:
            self.visit(item.context_expr)
            made = item.context_expr
            maker = ast.unparse(made.func).rpartition(".")[2] if isinstance(made, ast.Call) else ""
            if isinstance(item.optional_vars, ast.Name) and (
                maker in ("writing", "TemporaryDirectory") or self._is_allowed(made)
            ):
                added.add(item.optional_vars.id)
                self._allowed[-1].add(item.optional_vars.id)
        for statement in node.body:
            self.visit(statement)
        self._allowed[-1] -= added

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if self._is_allowed(node.value):
            self._allowed[-1] |= names
        else:
            self._allowed[-1] -= names

    def visit_Call(self, node: ast.Call) -> None:
        self._called.add(id(node.func))
        if self._writes(node):
            self._note(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        handed_on = node.attr in ("write_text", "write_bytes") and id(node) not in self._called
        if handed_on and not self._full_name(node).startswith(OWN) and not self._is_allowed(node.value):
            self._note(node)
        self.generic_visit(node)

    def _note(self, node: ast.expr) -> None:
        name = node.func if isinstance(node, ast.Call) else node
        called = name.attr if isinstance(name, ast.Attribute) else ast.unparse(name)
        self.bypasses.append((node.lineno, ".".join(self._inside), called, ast.unparse(node)))

    def _writes(self, call: ast.Call) -> bool:
        full, name = self._full_name(call.func), ast.unparse(call.func).rpartition(".")[2]
        first = call.args[0] if call.args else None
        if full.startswith(OWN) or full in TO_BYTES:
            return False
        if full in FUNCTIONS:
            place = FUNCTIONS[full]
            target = call.args[place] if ALWAYS < place < len(call.args) else None
            return not self._is_allowed(target)
        if full == "os.open":
            flags = " ".join(ast.unparse(argument) for argument in call.args[1:])
            return bool(re.search("O_WRONLY|O_RDWR|O_CREAT|O_APPEND", flags)) and not self._is_allowed(first)
        if name == "open":
            return self._opens_for_writing(call)
        if not isinstance(call.func, ast.Attribute):
            return False
        receiver = call.func.value
        if name == "replace":  # of a path; a string's has two arguments, that of dataclasses or of a date has names
            return not full and len(call.args) == 1 and not call.keywords
        if name in OF_A_PATH:
            return not self._is_allowed(receiver)
        if name in TO_A_PATH:
            return first is not None and not self._is_allowed(first)  # without an argument it returns text
        return name in OF_A_DATASET

    def _opens_for_writing(self, call: ast.Call) -> bool:
        given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
        # `open(path, mode)`, but `path.open(mode)`
        modes = [a.value for a in (*call.args[:2], *given) if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        writes = any(re.fullmatch(r"[rbtUwax+]{1,4}([:|]\w*)?", mode) and set(mode) & set("wax+") for mode in modes)
        unknown = (isinstance(call.func, ast.Name) and len(call.args) > 1 and not modes) or (given and not modes)
        target = call.func.value if isinstance(call.func, ast.Attribute) and len(call.args) == 1 else None
        files = [target, *call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "fileobj")]
        return bool(writes or unknown) and not any(self._is_allowed(file) for file in files)


_CORPUS = "made aside, brought to the disk by `tree_to_disk`, then renamed"
_UPLOAD = "in a temporary folder that MLflow uploads"
ALLOWED = {  # (file, function, what it calls) -> why
    ("pipelines/common/slow.py", "SlowFile.download", "copyfileobj"): "to the unfinished copy of `bucket_cache`",
    ("pipelines/datasets/sample/corpus.py", "make", "open"): "the file of a lock, empty",
    ("pipelines/datasets/sample/corpus.py", "_replace", "rename"): _CORPUS,
    ("pipelines/datasets/sample/corpus.py", "_write_lists", "write_text"): _CORPUS,
    ("pipelines/datasets/sample/corpus.py", "outlined", "touch"): "in a temporary folder, of which only names are read",
    ("pipelines/datasets/sample/corpus.py", "_write_pictures", "write_bytes"): _CORPUS,
    ("pipelines/datasets/sample/corpus.py", "_pack", "open"): _CORPUS,
    ("pipelines/datasets/sample/corpus.py", "_pack", "rename"): _CORPUS,
    ("pipelines/datasets/sample/corpus.py", "encode", "open"): _CORPUS,
    ("pipelines/faces/writer.py", "_write_faces", "ParquetWriter"): "to the temporary file that `_write_file` has",
    ("pipelines/tracking/registry.py", "save", "copyfile"): _UPLOAD,
    ("pipelines/tracking/registry.py", "save", "write_text"): _UPLOAD,
    ("pipelines/tracking/registry.py", "_forget_paths", "save"): _UPLOAD,
    ("pipelines/training/loop.py", "_train", "save"): "by `put_folder`",
}


ROOM = tuple(f"pipelines/common/{name}.py" for name in ("storage", "bucket", "bucket_cache", "lease"))


def test_every_file_is_written_by_storage():
    bypassed: dict[tuple[str, str, str], list[str]] = {}
    for path in (*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "sweeps").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        if file not in ROOM:
            for line, function, called, source in Writes(path.read_text()).bypasses:
                bypassed.setdefault((file, function, called), []).append(f"{file}:{line}: {source}")
    new = [line for place, lines in bypassed.items() if place not in ALLOWED for line in lines]
    assert not new, "write these files by pipelines.common.storage:\n" + "\n".join(new)
    assert set(ALLOWED) <= set(bypassed), "no longer needed: take them out of ALLOWED"


IMPORTS = """
import dataclasses, io, json, os, pickle, shutil, tempfile, cv2, torch, yaml
from dataclasses import replace
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
from os import replace as move
from pyarrow.parquet import write_table
from pipelines.common import storage
from pipelines.common.storage import write_bytes, write_text, writing
"""


@pytest.mark.parametrize(
    "snippet",
    [
        "path.write_text('a')",
        "Path('a').write_bytes(data)",
        "(folder / 'a').write_text('a')",
        "pool.map(path.write_bytes, parts)",
        "open(path, 'w')",
        "open(path, mode='wb')",
        "open(path, 'x')",
        "open(path, 'ab')",
        "open(path, 'r+b')",
        "open(path, how)",
        "path.open('w')",
        "path.open(mode='a')",
        "io.open(path, 'w')",
        "gzip.open(path, 'wt')",
        "tarfile.open(path, 'w:gz')",
        "av.open(str(path), 'w')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "pq.write_table(table, path)",
        "write_table(table, path)",
        "pq.ParquetWriter(path, schema)",
        "figure.savefig(path)",
        "plt.savefig(folder / 'a.png', dpi=130)",
        "os.replace(a, b)",
        "os.rename(a, b)",
        "move(a, b)",
        "a.rename(b)",
        "a.replace(b)",
        "shutil.copy(a, b)",
        "shutil.copyfile(a, b)",
        "shutil.copytree(a, b)",
        "shutil.move(a, b)",
        "cv2.imwrite(path, picture)",
        "json.dump(value, file)",
        "pickle.dump(value, file)",
        "yaml.safe_dump(value, file)",
        "torch.save(state, path)",
        "np.save(path, array)",
        "safetensors.torch.save_file(weights, path)",
        "image.save(path)",
        "dataset.write_parquet(uri)",
        "with open(path, 'w') as file:\n    json.dump(value, file)",
        "with writing(path) as temporary:\n    path.write_text('a')",
        "with writing(path) as temporary:\n    pass\ntemporary.write_text('a')",
        "with writing(path) as temporary:\n    temporary.replace(path)",
        "file = io.BytesIO()\nfile = path\nnp.save(file, array)",
        "def f():\n    file = io.BytesIO()\ndef g(file):\n    np.save(file, array)",
        "class A:\n    def f(self):\n        self.path.write_text('a')",
    ],
)
def test_a_write_past_storage_is_seen(snippet):
    assert Writes(IMPORTS + snippet).bypasses


@pytest.mark.parametrize(
    "snippet",
    [
        "storage.write_bytes(path, data)",
        "write_text(path, 'a')",
        "pool.map(storage.write_bytes, paths, parts)",
        "with writing(path) as temporary:\n    temporary.write_text('a')",
        "with storage.writing(path) as temporary:\n    figure.savefig(temporary, format='png')",
        "with writing(path) as temporary:\n    pq.write_table(table, temporary)",
        "with writing(path) as temporary, pq.ParquetWriter(temporary, schema) as out:\n    out.write_table(table)",
        "with writing(path) as temporary, open(temporary, 'w') as file:\n    json.dump(value, file)",
        "with writing(path) as temporary, temporary.open('w') as file:\n    json.dump(value, file)",
        "with writing(path) as temporary:\n    torch.save(state, str(temporary))",
        "with tempfile.TemporaryDirectory() as folder:\n    shutil.copyfile(path, folder / 'a')",
        "data = io.BytesIO()\nfigure.savefig(data, format='svg')\nnp.save(data, array)",
        "image.save(io.BytesIO(), 'PNG')",
        "weights = safetensors.torch.save(state)",
        "open(path)",
        "open(path, 'rb')",
        "path.open()",
        "path.open('rb')",
        "tarfile.open(path, 'r:gz')",
        "os.open(path, os.O_RDONLY)",
        "os.open(os.devnull, os.O_WRONLY)",
        "text.replace('a', 'b')",
        "dataclasses.replace(value, a=1)",
        "replace(value, a=1)",
        "json.dumps(value)",
        "table.to_json()",
    ],
)
def test_a_write_by_storage_or_to_memory_is_allowed(snippet):
    assert Writes(IMPORTS + snippet).bypasses == []


# ---------------------------------------------------- nothing is written past it: what the file system is told
RECORDER = """
import json, os, sys
from pathlib import Path

folder = sys.argv[1]
events = []

def below(path):
    return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(folder + os.sep)

def record(event, args):
    if event == "open" and below(args[0]) and args[2] & (os.O_WRONLY | os.O_RDWR):
        events.append(("write", os.path.abspath(args[0])))
    elif event == "os.mkdir" and below(args[0]):
        events.append(("mkdir", os.path.abspath(args[0])))
    elif event == "os.rename" and (below(args[0]) or below(args[1])):
        source, target = os.path.abspath(args[0]), os.path.abspath(args[1])
        moved = [os.path.join(top, name) for top, _, names in os.walk(source) for name in names] or [source]
        events.append(("rename", source, target, moved))

fsync = os.fsync

def recorded_fsync(descriptor):
    fsync(descriptor)
    events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))

os.fsync = recorded_fsync
sys.addaudithook(record)
"""
REPORT = """
print(json.dumps(events))
"""


def recorded(code: str, folder: Path) -> list[list[Any]]:
    """Run code in a process of its own; return what it did to files below a folder, as `unsafe` wants it."""
    command = [sys.executable, "-c", RECORDER + code + REPORT, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def unsafe(events: Sequence[Sequence[Any]], folder: Path) -> list[str]:
    """Replay events; name the files in a folder that a power cut could have left empty, half-written or nameless.

    Whatever was named before must be on the disk under its name when the next file or folder is named: the next may be
    the marker that says that all is there.
    """
    synced: set[str] = set()  # files whose bytes are on the disk
    named: set[str] = set()  # files that got their name by a rename
    nameless: set[str] = set()  # files and folders that got a name that is not on the disk yet
    problems = []

    def relative(path: str) -> str:
        return os.path.relpath(path, folder)

    for what, path, *rest in events:
        if what == "write":
            synced.discard(path)
            named.discard(path)
        elif what == "fsync":
            synced.add(path)
            nameless = {name for name in nameless if os.path.dirname(name) != path}
        elif what == "mkdir":
            nameless.add(path)
        else:
            target, moved = rest
            problems += [f"{relative(target)}: is named before {relative(name)} is on the disk" for name in nameless]
            problems += [
                f"{relative(target)}: {relative(file)} is not on the disk" for file in moved if file not in synced
            ]
            renamed = {file: target + file.removeprefix(path) for file in moved}
            synced = {renamed.get(file, file) for file in synced}
            named = {file for file in named if file not in renamed} | set(renamed.values())
            nameless.add(target)
    for file in (str(path) for path in sorted(folder.rglob("*")) if path.is_file()):
        if file not in named:
            problems.append(f"{relative(file)}: written under its own name")
    problems += [f"{relative(name)}: its name is not on the disk" for name in sorted(nameless)]
    return problems


WORK = """
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common import progress, storage
from pipelines.experiments.experiment import Experiment
from pipelines.training import stages

experiment = Experiment(model="delocate", train_on="ffpp", test_on=("dfdc",), preset="small")
rows = {"real_clips": "r1", "clips": "c1", "frames": "f1", "domain_frames": "d1"}
trained, going_on, _ = stages.plan(experiment, rows, Path(folder))
for stage in (trained, going_on):
    storage.write_json(stage.folder / "spec.json", stage.spec)
    storage.write_text(stage.folder / "curves.jsonl", "{}\\n")
    for step in (1, 2, 3):
        files = {"weights.safetensors": b"weights", "optimizer.pt": b"state", "state.json": b"{}"}
        storage.put_folder(stage.folder, "checkpoint", step, files)
        storage.put_folder(stage.folder, "best", step, {"weights.safetensors": b"weights"})
    progress.note(stage.folder, "training", 3, 3)
trained.finish(2, {"best_epoch": 2})
table = pa.table({"video_id": ["ffpp/1"], "score": [0.5]})
storage.write_parquet(trained.folder / "predictions" / "a.parquet", table)
with storage.writing(Path(folder) / "faces/part.parquet") as temporary:
    with pq.ParquetWriter(temporary, table.schema) as writer:
        writer.write_table(table)
"""


def test_a_power_cut_can_spoil_nothing_in_a_stage_store(tmp_path):
    """But for `progress.json`, which is written each second for who looks on, and on which nothing depends."""
    events = [event for event in recorded(WORK, tmp_path) if progress.FILE not in event[1]]
    assert [problem for problem in unsafe(events, tmp_path) if f"/{progress.FILE}:" not in problem] == []
    files = sorted(re.sub("/[0-9a-f]{16}/", "/*/", str(p.relative_to(tmp_path))) for p in tmp_path.rglob("*.*"))
    files = [file for file in files if "-0" not in Path(file).name]
    checkpoints = [f"checkpoint-{step:08d}/{name}" for step in (2, 3) for name in ("optimizer.pt", "state.json")]
    assert [file.removeprefix("stages/delocate/") for file in files] == sorted(
        [
            "faces/part.parquet",
            *(f"recover/*/{name}" for name in ("_done.json", "curves.jsonl", "progress.json", "spec.json")),
            *("recover/*/predictions/a.parquet", "recover/*/weights.safetensors"),
            *(f"finetune/*/{name}" for name in ("curves.jsonl", "progress.json", "spec.json", *checkpoints)),
            *(
                f"finetune/*/{name}-{step:08d}/weights.safetensors"
                for name in ("best", "checkpoint")
                for step in (2, 3)
            ),
        ]
    )


def test_a_note_that_a_power_cut_has_spoiled_is_none(tmp_path):
    progress.note(tmp_path / "new", "training", 3, 4)
    assert progress.noted(tmp_path / "new") == {"phase": "training", "done": 3, "total": 4}
    (tmp_path / "new" / progress.FILE).write_bytes(b"")
    assert progress.noted(tmp_path / "new") is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == [progress.FILE]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("os.mkdir(folder + '/a'); open(folder + '/a/b', 'w').close()", "a: its name is not on the disk"),
        (
            "from pipelines.common import storage; storage.to_disk = lambda path: None; "
            "storage.put_folder(Path(folder), 'best', 1, {'w': b''})",
            "best-00000001: is named before",
        ),
        ("Path(folder, 'a').write_text('a')", "a: written under its own name"),
        (
            "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'x': [1]}), folder + '/a')",
            "own name",
        ),
        ("Path(folder, 't').write_text('a'); os.replace(folder + '/t', folder + '/a')", "a: t is not on the disk"),
        (
            "os.mkdir(folder + '/t'); open(folder + '/t/b', 'w').close(); Path(folder, 't').rename(folder + '/a')",
            "t/b is",
        ),
        (
            "from pipelines.common.storage import *; write_text(Path(folder, 'a'), 'a'); open(folder + '/a', 'a')",
            "own name",
        ),
        (
            "from pipelines.common import storage; p = Path(folder); (p / 't').write_text('a'); "
            "storage.tree_to_disk(p); (p / 't').rename(p / 'a')",
            "a: its name is not on the disk",
        ),
    ],
)
def test_what_a_power_cut_can_spoil_is_seen(code, problem, tmp_path):
    assert any(problem in found for found in unsafe(recorded(code, tmp_path), tmp_path))


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    storage.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        storage.write_text(tmp_path / "pipe", "new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_cannot_be_flushed_refuses_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    storage.write_text(tmp_path / "new" / "file", "whole")
    assert (tmp_path / "new" / "file").read_text() == "whole"
