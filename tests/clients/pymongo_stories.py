"""Both founding stories, told by PyMongo against `stepdown serve --speed 10`.

    pymongo_stories.py [PATH-OF-STEPDOWN]      (or the environment variable STEPDOWN)

Prints a line per step; the first step that does not hold ends the script with exit code 1.
Needs the current PyMongo, and nothing else.
"""

import collections
import os
import subprocess
import sys
import tempfile
import threading
import time

import pymongo
from pymongo import MongoClient, ReadPreference, monitoring
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure

# Real seconds. The set lives ten times as fast: an election timeout takes one second.
PATIENCE = 30.0
SPEED = "10"
# The shortest heartbeat a driver allows is 0.5 s.
HEARTBEAT_MS = 1000


class Set:
    """A set served by a process of its own, and `stepdown ctl` beside it."""

    def __init__(self, binary, *arguments):
        self.binary = binary
        # Written by the process and read here by a file of its own: one shared by both would have one
        # place for reading and writing.
        self.story = tempfile.NamedTemporaryFile(mode="ab")
        command = [binary, "serve", "--port", "0", "--speed", SPEED, *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.story, text=True
        )
        self.uri = self.process.stdout.readline().strip()
        assert self.uri.startswith("mongodb://127.0.0.1:"), self.narration()
        self.hosts = self.uri.removeprefix("mongodb://").split("/")[0].split(",")
        self.control = wait_for("the control port's address", self._control)

    def _control(self):
        lines = self.narration().splitlines()
        found = [line.split()[-1] for line in lines if line.startswith("control port: ")]
        return found[0] if found else None

    def narration(self):
        with open(self.story.name, encoding="utf-8") as story:
            return story.read()

    def ctl(self, *arguments):
        command = [self.binary, "ctl", "--control", self.control, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"ctl {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def states(self):
        """Each member's state, by address."""
        lines = self.ctl("members").splitlines()
        return {line.split()[1]: " ".join(line.split()[2:]) for line in lines}

    def is_settled(self):
        states = list(self.states().values())
        followers = states.count("SECONDARY")
        return "PRIMARY (writable)" in states and followers == len(states) - 1

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            print("---- the last of what the set tells:", file=sys.stderr)
            print("\n".join(self.narration().splitlines()[-40:]), file=sys.stderr)
        self.process.terminate()
        code = self.process.wait(timeout=PATIENCE)
        if kind is None:
            assert code == 0, f"stepdown serve ended with {code}"


def wait_for(what, condition, patience=PATIENCE):
    """Tries until it holds; a member in transition (rolling back, say) refuses, and is tried again."""
    deadline = time.monotonic() + patience
    refusal = None
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
        except AutoReconnect as error:
            refusal = error
        time.sleep(0.02)
    raise AssertionError(f"waited {patience} s in vain for {what}; refused with: {refusal}")


def refused(what, action, code):
    """`action` must be refused with this code."""
    try:
        action()
    except (OperationFailure, NotPrimaryError) as error:
        seen = (error.details or {}).get("code")
        assert seen == code, f"{what}: refused with {seen} instead of {code}: {error}"
        return error
    raise AssertionError(f"{what} was not refused")


def say(text):
    print(f"  {text}", flush=True)


def direct(host, **options):
    return MongoClient(f"mongodb://{host}/?directConnection=true", **options)


def on_member(host, filter, collection="notes"):
    """What one member holds, whatever its state."""
    with direct(host) as client:
        found = client.app[collection].find(filter)
        return sorted(document["_id"] for document in found)


# ---- failing over


def failing_over(binary):
    print("Failing over")
    with Set(binary, "--uninitiated") as served:
        first, second, third = served.hosts
        before_initiate(first)
        with direct(first) as client:
            reply = client.admin.command("replSetInitiate", {})
            assert reply["ok"] == 1, reply
            refused("a second initiate", lambda: client.admin.command("replSetInitiate", {}), 23)
        say("replSetInitiate without a configuration: the members given at start are the set")
        wait_for("a settled set", served.is_settled)
        say("the members have elected a primary")
        discovery(served, third)
        told(served)
        transparent(served)
        rollback(served)


def before_initiate(host):
    with direct(host) as client:
        hello = client.admin.command("hello")
        assert hello["isreplicaset"] is True and not hello["isWritablePrimary"], hello
        assert not hello["secondary"] and "setName" not in hello, hello
        refused("a write before the initiate", lambda: client.app.notes.insert_one({}), 10107)
        refused("a read before the initiate", lambda: client.app.notes.find_one(), 13436)
        refused("the set's status", lambda: client.admin.command("replSetGetStatus"), 94)
    say("nothing is initiated: no primary, reads and writes are refused")


def discovery(served, seed):
    uri = f"mongodb://{seed}/?replicaSet=foo"
    with MongoClient(uri, heartbeatFrequencyMS=HEARTBEAT_MS) as client:
        client.admin.command("ping")
        nodes = wait_for("all members", lambda: len(client.nodes) == 3 and client.nodes)
        assert {f"{host}:{port}" for host, port in nodes} == set(served.hosts), nodes
        host, port = wait_for("the primary", lambda: client.primary)
        assert served.states()[f"{host}:{port}"] == "PRIMARY (writable)"
        say(f"one seed is enough: the driver knows {len(nodes)} members, {host}:{port} leads")
    dead = "127.0.0.1:1"
    with MongoClient(f"mongodb://{dead},{seed}/?replicaSet=foo") as client:
        client.admin.command("ping")
    say("any one living seed is enough")


def told(served):
    """With retries off the application is told, and decides for itself."""
    with MongoClient(
        served.uri,
        retryReads=False,
        retryWrites=False,
        heartbeatFrequencyMS=HEARTBEAT_MS,
        # The monitors may know of the death before the write does; then it would wait for the next
        # primary, as long as this says.
        serverSelectionTimeoutMS=300,
    ) as client:
        notes = client.app.get_collection("notes", write_concern=pymongo.WriteConcern("majority"))
        notes.insert_one({"_id": 1, "text": "hello"})
        assert notes.find_one({"_id": 1})["text"] == "hello"
        old = client.primary
        say("a document is saved and read back")

        killed = served.ctl("kill", "primary")
        assert killed == f"{old[0]}:{old[1]} killed", killed
        try:
            notes.insert_one({"_id": 2})
        except AutoReconnect as error:
            say(f"{killed}; the next operation raises {type(error).__name__}")
        else:
            raise AssertionError("the write after the kill succeeded with retries off")

        attempts = 0

        def saved():
            nonlocal attempts
            attempts += 1
            try:
                notes.update_one({"_id": 3}, {"$set": {"text": "again"}}, upsert=True)
                return True
            except AutoReconnect:
                return False

        began = time.monotonic()
        wait_for("the other members' primary", saved)
        took = time.monotonic() - began
        new = wait_for("the new primary", lambda: client.primary)
        assert new != old, new
        say(f"the same client succeeds at attempt {attempts} after {took:.1f} s, on {new[1]}")

        served.ctl("restart", f"{old[0]}:{old[1]}")
        wait_for("the old primary to follow", served.is_settled)
        wait_for("what it missed", lambda: on_member(f"{old[0]}:{old[1]}", {}) == [1, 3])
        say("the old primary is back, a secondary, and has what it missed")


def transparent(served):
    """With retries on, as they are by default, it does not notice."""
    with MongoClient(served.uri, heartbeatFrequencyMS=HEARTBEAT_MS) as client:
        notes = client.app.notes
        assert notes.find_one({"_id": 1})
        for _ in range(2):
            killed = served.ctl("kill", "primary")
            old = killed.split()[0]
            began = time.monotonic()
            assert notes.find_one({"_id": 1})["text"] == "hello"
            notes.insert_one({"killed": old})
            took = time.monotonic() - began
            say(f"{killed}; with retries on a read and a write succeed, {took:.1f} s later")
            assert notes.count_documents({"killed": old}) == 1
            served.ctl("restart", old)
            wait_for("the old primary to follow", served.is_settled)


def rollback(served):
    """What nobody else had is undone when its only holder returns."""
    states = served.states()
    old = next(host for host, state in states.items() if state.startswith("PRIMARY"))
    others = ",".join(host for host in states if host != old)
    served.ctl("partition", f"{old},clients", f"{others},clients")
    with direct(old) as client:
        notes = client.app.get_collection("notes", write_concern=pymongo.WriteConcern(1, j=True))
        notes.insert_one({"_id": "lonely"})
    served.ctl("kill", old)
    with MongoClient(served.uri, heartbeatFrequencyMS=HEARTBEAT_MS) as client:
        client.app.notes.insert_one({"_id": "after"})
    served.ctl("heal")
    served.ctl("restart", old)
    wait_for("the old primary to follow", served.is_settled)
    wait_for("the rollback", lambda: on_member(old, {"_id": {"$in": ["lonely", "after"]}}) == ["after"])
    assert "rollback" in served.narration()
    say("a write that only the old primary had is rolled back when it returns")


def explicit_configuration(binary):
    print("An explicit configuration")
    with Set(binary, "--uninitiated", "--members", "3") as served:
        first, second, third = served.hosts
        members = [{"_id": 0, "host": first, "priority": 5}, {"_id": 1, "host": second}]
        members.append({"_id": 2, "host": third, "arbiterOnly": True})
        with direct(first) as client:
            client.admin.command("replSetInitiate", {"_id": "foo", "members": members})
        states = {first: "PRIMARY (writable)", second: "SECONDARY", third: "ARBITER"}
        wait_for("the states asked for", lambda: served.states() == states)
        with MongoClient(second, replicaSet="foo") as client:
            client.admin.command("ping")
            wait_for("the arbiter", lambda: client.arbiters)
            assert {f"{host}:{port}" for host, port in client.arbiters} == {third}
        say("replSetInitiate with a configuration: a primary, a secondary, an arbiter")


# ---- balanced reads


class Listener(monitoring.CommandListener, monitoring.ConnectionPoolListener):
    """Counts who answers reads, and whose connections are closed."""

    def __init__(self):
        self.lock = threading.Lock()
        self.reset()

    def reset(self):
        with self.lock:
            self.reads = collections.Counter()
            self.cleared = collections.Counter()

    def share(self):
        with self.lock:
            return dict(self.reads)

    def started(self, event):
        pass

    def succeeded(self, event):
        if event.command_name == "find":
            with self.lock:
                self.reads["%s:%s" % event.connection_id] += 1

    def failed(self, event):
        pass

    def pool_cleared(self, event):
        with self.lock:
            self.cleared["%s:%s" % event.address] += 1

    def _ignore(self, event):
        pass

    pool_created = pool_ready = pool_closed = connection_created = connection_ready = _ignore
    connection_closed = connection_check_out_started = connection_check_out_failed = _ignore
    connection_checked_out = connection_checked_in = _ignore


# Exceeded once in a thousand runs, by degrees of freedom.
CHI_SQUARE = {1: 10.828, 2: 13.816, 3: 16.266}


def assert_even(counts, hosts, what):
    assert set(counts) == set(hosts), f"{what}: {counts}, not {hosts}"
    mean = sum(counts.values()) / len(hosts)
    chi_square = sum((count - mean) ** 2 / mean for count in counts.values())
    assert chi_square <= CHI_SQUARE[len(hosts) - 1], f"{what}: {counts}, chi-square {chi_square}"
    shares = ", ".join(f"{host.split(':')[1]} {count}" for host, count in sorted(counts.items()))
    say(f"{what}: {shares} (chi-square {chi_square:.1f})")


class Application(threading.Thread):
    """Writes to the primary and reads from the secondaries until told to stop."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client = client
        self.errors = []
        self.operations = 0
        self.stopping = threading.Event()

    def run(self):
        orders = self.client.shop.orders
        nearby = orders.with_options(read_preference=ReadPreference.SECONDARY)
        while not self.stopping.is_set():
            try:
                if self.operations % 20 == 0:
                    orders.insert_one({"number": self.operations})
                nearby.find_one({"_id": "first"})
            except Exception as error:  # Whatever it is, the application sees it.
                self.errors.append(error)
            self.operations += 1
            time.sleep(0.001)

    def stop(self):
        self.stopping.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "the application hangs"


def balanced_reads(binary):
    print("Balanced reads")
    with Set(binary, "--members", "4") as served:
        states = served.states()
        secondaries = sorted(host for host, state in states.items() if state == "SECONDARY")
        late, serviced, steady = secondaries
        served.ctl("shutdown", late)
        wait_for("the shutdown", lambda: served.states()[late] == "not running")

        listener = Listener()
        with MongoClient(
            served.uri,
            heartbeatFrequencyMS=HEARTBEAT_MS,
            # All members are equally near, whatever the machine is busy with.
            localThresholdMS=1000,
            event_listeners=[listener],
        ) as client:
            orders = client.shop.orders
            three = pymongo.WriteConcern(3, wtimeout=10_000)
            orders.with_options(write_concern=three).insert_one({"_id": "first", "item": "tea"})
            say("a member is down, and the application starts all the same")
            measure(client, listener, [serviced, steady], "two secondaries share the reads")

            served.ctl("restart", late)
            back(client, late, "the late member")
            wait_for("its data", lambda: on_orders(late))
            measure(client, listener, secondaries, "three secondaries share the reads")
            maintenance(served, client, listener, serviced)
            measure(client, listener, secondaries, "the serviced one has its share again")
            replaced(client, listener, serviced, [late, steady], secondaries)


def on_orders(host):
    with direct(host) as client:
        return client.shop.orders.find_one({"_id": "first"}) is not None


def known_secondaries(client):
    return {"%s:%s" % node for node in client.secondaries}


def back(client, host, what):
    """A driver sees a member again within a heartbeat of its return."""
    began = time.monotonic()
    wait_for(what, lambda: host in known_secondaries(client))
    took = time.monotonic() - began
    say(f"{what} is seen {took:.1f} s after its return")
    return took


def measure(client, listener, hosts, what, count=900):
    """Reads through the same client and judges who answered."""
    wait_for(f"the secondaries {hosts}", lambda: known_secondaries(client) == set(hosts))
    nearby = client.shop.orders.with_options(read_preference=ReadPreference.SECONDARY)
    # The first reads open connections.
    for _ in range(50):
        nearby.find_one({"_id": "first"})
    listener.reset()
    for _ in range(count):
        assert nearby.find_one({"_id": "first"})["item"] == "tea"
    assert_even(listener.share(), hosts, what)


def maintenance(served, client, listener, host):
    listener.reset()
    application = Application(client)
    application.start()
    wait_for("the application", lambda: application.operations > 200)
    served.ctl("shutdown", host)
    wait_for("the shutdown", lambda: served.states()[host] == "not running")
    assert host not in known_secondaries(client), "a member without a process is believed alive"
    so_far = application.operations
    wait_for("reads without it", lambda: application.operations > so_far + 200)
    without = listener.share().get(host, 0)
    assert host not in known_secondaries(client), "a member without a process is believed alive"
    served.ctl("restart", host)
    took = back(client, host, "the serviced member")
    # It is a secondary at once: a heartbeat, and something for a busy machine.
    assert took <= HEARTBEAT_MS / 1000 + 1, f"more than one heartbeat: {took}"
    wait_for("its share", lambda: listener.share().get(host, 0) > without + 50)
    application.stop()
    assert not application.errors, application.errors[:3]
    others = {other: count for other, count in listener.cleared.items() if other != host}
    assert not others, f"connections to other members were disturbed: {others}"
    say(f"maintenance: {application.operations} operations went on, not one error was seen,")
    say("  and no connection to another member was disturbed")


def replaced(client, listener, host, others, everybody):
    """A host that leaves the configuration is dropped; one that enters it is picked up."""
    config = client.admin.command("replSetGetConfig")["config"]
    members = config["members"]
    config["members"] = [member for member in members if member["host"] != host]
    config["version"] += 1
    client.admin.command("replSetReconfig", config)
    wait_for("the host to be dropped", lambda: host not in known_secondaries(client))
    measure(client, listener, others, "a removed host is dropped")
    config = client.admin.command("replSetGetConfig")["config"]
    config["members"] = members
    config["version"] += 1
    client.admin.command("replSetReconfig", config)
    measure(client, listener, everybody, "a host that joins is picked up")


def main():
    arguments = sys.argv[1:]
    binary = arguments[0] if arguments else os.environ.get("STEPDOWN")
    if not binary or len(arguments) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    print(f"PyMongo {pymongo.version} against {binary}")
    began = time.monotonic()
    failing_over(binary)
    explicit_configuration(binary)
    balanced_reads(binary)
    print(f"both stories hold ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
