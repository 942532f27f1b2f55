"""The contract in Python, generated from proto/ into target/python/gen when that is older.

Importing this module puts the generated packages on the path:

    import stubs
    from taffrail.v1 import log_pb2
"""

import pathlib
import shutil
import sys

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
GENERATED = ROOT / "target" / "python" / "gen"


def generate():
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    done = GENERATED / "done"
    newest = max(proto.stat().st_mtime for proto in protos)
    if done.exists() and newest < done.stat().st_mtime:
        return
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    arguments += [f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"]
    if protoc.main(arguments + [str(proto) for proto in protos]) != 0:
        raise SystemExit("protoc failed, see above")
    done.touch()


generate()
sys.path.insert(0, str(GENERATED))
