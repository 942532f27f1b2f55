"""Starts the real binary on a port of its own choice, and stops it."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading

import grpc
import stubs  # noqa: F401, puts the generated packages on the path
from taffrail.v1 import admin_pb2_grpc, group_pb2_grpc, log_pb2_grpc, queue_pb2_grpc

START_SECONDS = 30
STOP_SECONDS = 30


class Broker:
    """A running broker, and a channel with stock settings to it."""

    def __init__(self, binary, data):
        self.binary = binary
        self.data = pathlib.Path(data)
        self.errors = tempfile.TemporaryFile()
        command = [binary, "serve", "--data", data, "--listen", "127.0.0.1:0"]
        if not self.data.exists():
            command.append("--init")
        self.process = subprocess.Popen(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        try:
            self.target = self._wait_until_ready()
        except BaseException:
            self.process.kill()
            raise
        self.channel = grpc.insecure_channel(self.target, [("grpc.enable_http_proxy", 0)])
        self.log = log_pb2_grpc.LogServiceStub(self.channel)
        self.groups = group_pb2_grpc.GroupServiceStub(self.channel)
        self.queues = queue_pb2_grpc.QueueServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def _wait_until_ready(self):
        """The address on the line that says so: `taffrail is ready on http://127.0.0.1:7245 ...`."""
        late = threading.Timer(START_SECONDS, self.process.kill)
        late.start()
        try:
            for line in self.process.stdout:
                found = re.search(r"ready on http://([0-9.]+:[0-9]+)", line)
                if found:
                    return found[1]
        finally:
            late.cancel()
        self.process.wait()
        raise AssertionError(f"the broker did not get ready:\n{self.said()}")

    @staticmethod
    def _environment():
        """What tells tests where things are is no setting of a broker."""
        return {name: value for name, value in os.environ.items() if not name.startswith("TAFFRAIL_")}

    def stop(self):
        """Asks it to stop, and returns its exit code."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the broker did not stop:\n{self.said()}") from None

    def said(self):
        """What it wrote on standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def run(self, *arguments, **more):
        """Runs a command of the product that talks to this broker."""
        command = [self.binary, "--server", f"http://{self.target}", *arguments]
        subprocess.run(command, env=self._environment(), check=True, capture_output=True, **more)

    def segments(self, topic_id, partition=0):
        """The segment files of a partition, ascending by offset."""
        return sorted(self.data.glob(f"logs/{topic_id}-{partition}/*.log"))


@contextlib.contextmanager
def running(binary, data=None):
    """A broker that is gone at the end of the block, however that ends."""
    with contextlib.ExitStack() as stack:
        if data is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="taffrail-"))
            data = str(pathlib.Path(folder) / "data")
        broker = Broker(binary, data)
        try:
            yield broker
        finally:
            broker.channel.close()
            broker.process.kill()
            broker.process.wait()
            broker.process.stdout.close()
