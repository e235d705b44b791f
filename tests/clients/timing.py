"""How long a real replica set takes to elect, to step down, to take over: the real column of docs/timing.md.

    cargo run --release -p stepdown --example timing > simulated.txt
    python3 tests/clients/timing.py --mongod PATH --runs 10 --sets 3 --simulated simulated.txt

Each run starts three mongods on loopback ports with default settings and measures everything once, one
thing after the other, with a random pause before each so that heartbeats are met in any phase. Needs PyMongo.
`--keep DIR` keeps the logs of the mongods. Samples are printed as `name<TAB>milliseconds ...`, the table after them.
"""

import argparse
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

import pymongo
from pymongo.errors import PyMongoError

POLL_SECONDS = 0.005
LIMIT_SECONDS = 90
NAMES = {
    "initiate": "`replSetInitiate` to first primary",
    "kill": "kill -9 of the primary to next accepted write",
    "terminate": "SIGTERM to the primary to next accepted write",
    "lost_majority": "partition of the primary to its step-down",
    "takeover": "`replSetReconfig` that raises a priority to that member's first write",
    # Last, because whoever has stepped down does not stand for a minute.
    "step_down": "`replSetStepDown` to next accepted write",
}


class Member:
    """One mongod, and a direct connection to it."""

    def __init__(self, binary, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.binary, self.directory = binary, directory / str(self.port)
        self.directory.mkdir(parents=True)
        self.process = self.client = None

    def start(self):
        command = [self.binary, "--replSet", "foo", "--bind_ip", "127.0.0.1", "--port", str(self.port)]
        command += ["--dbpath", str(self.directory), "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--logpath", str(self.directory / "mongod.log"), "--logappend"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        began = time.monotonic()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() - began > LIMIT_SECONDS:
                    raise
                time.sleep(0.05)
        if self.client is None:
            self.client = pymongo.MongoClient(
                self.host,
                directConnection=True,
                retryWrites=False,
                retryReads=False,
                serverSelectionTimeoutMS=2000,
                socketTimeoutMS=20000,
            )

    def hello(self):
        try:
            return self.client.admin.command("hello")
        except PyMongoError:
            return {}

    def writable(self):
        return self.hello().get("isWritablePrimary", False)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class Set:
    """Three mongods that become one set."""

    def __init__(self, binary, directory):
        self.members = [Member(binary, directory) for _ in range(3)]
        for member in self.members:
            member.start()

    def primary(self, among=None):
        began = time.monotonic()
        while time.monotonic() - began < LIMIT_SECONDS:
            for member in among or self.members:
                if member.writable():
                    return member
            time.sleep(POLL_SECONDS)
        raise TimeoutError("no primary")

    def next_write(self, among):
        """The member that acknowledges the next write, at once after it can."""
        began = time.monotonic()
        while time.monotonic() - began < LIMIT_SECONDS:
            member = self.primary(among)
            try:
                notes = member.client.test.get_collection("notes", write_concern=pymongo.WriteConcern(w=1))
                notes.insert_one({})
                return member
            except PyMongoError:
                pass
        raise TimeoutError("no write")

    def settle(self):
        """Waits until all follow one primary, then for a moment in any phase of the heartbeats."""
        began = time.monotonic()
        while True:
            states = [member.hello() for member in self.members]
            if sum(state.get("isWritablePrimary", False) for state in states) == 1:
                if sum(state.get("secondary", False) for state in states) == 2:
                    break
            if time.monotonic() - began > LIMIT_SECONDS:
                raise TimeoutError("not settled")
            time.sleep(0.05)
        primary = self.primary()
        majority = pymongo.WriteConcern(w=3, wtimeout=60000)
        primary.client.test.get_collection("notes", write_concern=majority).insert_one({})
        time.sleep(random.uniform(5, 8))
        return primary

    def others(self, member):
        return [other for other in self.members if other is not member]

    def initiate(self):
        hosts = [{"_id": ix, "host": member.host} for ix, member in enumerate(self.members)]
        began = time.monotonic()
        self.members[0].client.admin.command("replSetInitiate", {"_id": "foo", "members": hosts})
        self.primary()
        return time.monotonic() - began

    def step_down(self):
        primary = self.settle()
        began = time.monotonic()
        primary.client.admin.command("replSetStepDown", 60)
        self.next_write(self.others(primary))
        return time.monotonic() - began

    def terminate(self):
        return self.lose(signal.SIGTERM)

    def kill(self):
        return self.lose(signal.SIGKILL)

    def lose(self, how):
        primary = self.settle()
        began = time.monotonic()
        primary.signal(how)
        self.next_write(self.others(primary))
        took = time.monotonic() - began
        primary.process.wait()
        primary.start()
        return took

    def lost_majority(self):
        """Nothing leaves a stopped process and nothing is answered: that is a partition, seen from the primary."""
        primary = self.settle()
        began = time.monotonic()
        for other in self.others(primary):
            other.signal(signal.SIGSTOP)
        while primary.writable():
            time.sleep(POLL_SECONDS)
        took = time.monotonic() - began
        for other in self.others(primary):
            other.signal(signal.SIGCONT)
        return took

    def takeover(self):
        primary = self.settle()
        config = primary.client.admin.command("replSetGetConfig")["config"]
        heir = random.choice(self.others(primary))
        config["version"] += 1
        next(member for member in config["members"] if member["host"] == heir.host)["priority"] = 2
        began = time.monotonic()
        primary.client.admin.command("replSetReconfig", config)
        self.next_write([heir])
        return time.monotonic() - began

    def end(self):
        for member in self.members:
            member.end()


def run(binary, keep, samples, lock):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="stepdown-timing-", dir=keep))
    real = Set(binary, directory)
    try:
        for name in NAMES:
            took = getattr(real, name)() * 1000
            with lock:
                samples[name].append(took)
                print(f"# {name} {took:.0f}", flush=True)
    finally:
        real.end()
        if keep:
            for log in directory.glob("*/mongod.log"):
                shutil.copy(log, directory / f"{log.parent.name}.log")
                shutil.rmtree(log.parent)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def read_samples(path):
    lines = (line.split("\t") for line in pathlib.Path(path).read_text().splitlines() if "\t" in line)
    return {name: [float(word) for word in values.split()] for name, values in lines}


def table(simulated, real):
    def column(values):
        if not values:
            return "", ""
        low, middle, high = min(values), statistics.median(values), max(values)
        if middle < 1000:
            return f"{middle:.0f} ms", f"{low:.0f} – {high:.0f} ms"
        return f"{middle / 1000:.2f} s", f"{low / 1000:.2f} – {high / 1000:.2f} s"

    print("| what | simulated median | range | real median | range | medians apart |")
    print("|---|---|---|---|---|---|")
    for name, text in NAMES.items():
        ours, theirs = simulated.get(name, []), real.get(name, [])
        apart = ""
        if ours and theirs:
            apart = f"{100 * (statistics.median(ours) / statistics.median(theirs) - 1):+.1f} %"
        print("| " + " | ".join([text, *column(ours), *column(theirs), apart]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mongod", help="the binary")
    parser.add_argument("--runs", type=int, default=10, help="how often everything is measured")
    parser.add_argument("--sets", type=int, default=1, help="how many sets at once")
    parser.add_argument("--keep", help="a folder that keeps the logs of the mongods")
    parser.add_argument("--real", help="samples of an earlier run instead of a measurement")
    parser.add_argument("--simulated", help="what the example `timing` printed")
    arguments = parser.parse_args()
    samples = {name: [] for name in NAMES}
    if arguments.real:
        samples = read_samples(arguments.real)
    else:
        lock, left = threading.Lock(), iter(range(arguments.runs))

        def work():
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                run(arguments.mongod, arguments.keep, samples, lock)

        workers = [threading.Thread(target=work) for _ in range(arguments.sets)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for name, values in samples.items():
            print(name + "\t" + " ".join(f"{value:.0f}" for value in values), flush=True)
    table(read_samples(arguments.simulated) if arguments.simulated else {}, samples)


if __name__ == "__main__":
    main()
