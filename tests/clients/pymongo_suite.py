"""PyMongo's own test suite, its synchronous half, against `stepdown serve`.

    pymongo_suite.py [--stepdown PATH] [--against HOST:PORT] [--only WORD ...] [--jobs N]

Fetches the current source distribution of PyMongo (it carries `test/`) and, beside it, the built package of the
same version; serves a set of three members with default settings; runs the tests that a replica set with test
commands enabled would run, each under a time limit; and ends with the line `pymongo: P passed, F failed, S skipped`.
Every test that fails is named with the last line of its error; exit code 1 if less than 97 % of those that ran pass.
`--against` takes a set that runs already, a real one for example, as one of its members.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("STEPDOWN_CACHE", ROOT / ".cache")) / "pymongo-suite"
# Seconds for one test. The slowest that pass against a real set take some twenty.
LIMIT = 60
ENOUGH = 0.97

# Left out by name, with the reason: what these test is not the server.
LEFT_OUT = {
    "test/test_dns.py": "resolves names of the public internet",
    "test/test_srv_polling.py": "resolves names of the public internet",
    "test/test_typing.py": "runs a type checker",
    "test/test_typing_strict.py": "is for a type checker",
    "test/test_daemon.py": "starts mongocryptd",
    "test/test_encryption.py": "client-side encryption",
    "test/test_on_demand_csfle.py": "client-side encryption",
    "test/test_kms_connect.py": "client-side encryption",
    "test/test_kms_connect_prose.py": "client-side encryption",
    "test/test_azure_helpers.py": "a cloud's credentials",
    "test/test_gcp_helpers.py": "a cloud's credentials",
}

# Single tests of other files, likewise: parts of their names.
LEFT_OUT_TESTS = {
    "SRV_URI_with": "resolves names of the public internet",
    "test_connection_timeout_ms_propagates_to_DNS_resolver": "resolves names of the public internet",
    "test_repr_srv_host": "resolves names of the public internet",
    "test_service_name_from_kwargs": "resolves names of the public internet",
    "test_srv_max_hosts_kwarg": "resolves names of the public internet",
}

# Loaded into pytest. The tests of the handshake expect it to tell of no container, and many machines that
# run this are one.
PLUGIN = f"""
import pymongo.pool_options

pymongo.pool_options.DOCKER_ENV_PATH = "/nonexistent"
LEFT_OUT = {list(LEFT_OUT_TESTS)!r}


def pytest_collection_modifyitems(items, config):
    left_out = [item for item in items if any(part in item.name for part in LEFT_OUT)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
"""


# Some of its tests connect to the default port, whatever they are told.
DEFAULT_PORT_ALONE = "test/test_retryable_writes.py"


def python():
    return CACHE / "venv" / "bin" / "python"


def set_up():
    """A virtual environment with the built package, and the tests of the same version next to it."""
    done = CACHE / "done"
    if done.exists():
        return pathlib.Path(done.read_text().strip())
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    venv.create(CACHE / "venv", with_pip=True)
    pip = [python(), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "pymongo", "pytest>=8.2", "pytest-timeout", "pytest-asyncio"], check=True)
    version = subprocess.run(
        [python(), "-c", "import pymongo; print(pymongo.version)"], check=True, capture_output=True, text=True
    ).stdout.strip()
    source = ["download", "--no-binary", ":all:", "--no-deps", f"pymongo=={version}", "--dest", CACHE]
    subprocess.run([*pip, *source], check=True)
    archive = next(CACHE.glob("pymongo-*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(CACHE, filter="data")
    tree = CACHE / archive.name.removesuffix(".tar.gz")
    # The tests must find the built package, with its C extensions, and not its sources.
    for package in ("pymongo", "bson", "gridfs"):
        shutil.rmtree(tree / package)
    done.write_text(f"{tree}\n")
    return tree


class Served:
    """`stepdown serve` with default settings; on free ports unless it may have the default ones."""

    def __init__(self, binary, port):
        self.story = tempfile.NamedTemporaryFile(mode="ab")
        self.process = subprocess.Popen(
            [binary, "serve", "--port", port], stdout=subprocess.PIPE, stderr=self.story, text=True
        )
        uri = self.process.stdout.readline().strip()
        found = re.match(r"mongodb://([^,/]+)", uri)
        if not found:
            sys.exit(f"stepdown serve said {uri!r}: {pathlib.Path(self.story.name).read_text()}")
        self.address = found.group(1)

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=30)


def share(tree, names, number, jobs):
    """The files of one of several runs: like amounts of text, in their own order."""
    by_size = sorted(names, key=lambda name: (name != DEFAULT_PORT_ALONE, -(tree / name).stat().st_size))
    # The first run has the default port.
    return sorted(by_size[number::jobs])


def are_free(*ports):
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def files(tree, only):
    """The test files in their own order, which some rely on: they find what others leave."""
    names = [f"test/{path.name}" for path in sorted((tree / "test").glob("test_*.py"))]
    names = [name for name in names if name not in LEFT_OUT]
    if only:
        names = [name for name in names if any(word in name for word in only)]
    return names


def start(tree, address, names, number, keyword):
    """One run of pytest over `names`; its results go to a file of the JUnit form."""
    host, port = address.rsplit(":", 1)
    (CACHE / "stepdown_plugin.py").write_text(PLUGIN)
    environment = {**os.environ, "DB_IP": host, "DB_PORT": port, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(CACHE)
    results = CACHE / f"results-{number}.xml"
    log = open(CACHE / f"log-{number}.txt", "w", encoding="utf-8")
    command = [python(), "-m", "pytest", "-p", "no:cacheprovider", "-p", "stepdown_plugin", "-v", f"--timeout={LIMIT}"]
    command += ["-m", "default", f"--junitxml={results}", "--override-ini=log_cli_level=ERROR"]
    # Nothing but the test is timed: a limit that strikes while a failure is written down would end everything.
    command += ["--override-ini=timeout_func_only=true", "--tb=native"]
    command += [*(["-k", keyword] if keyword else []), *names]
    results.unlink(missing_ok=True)
    return subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT), results


def count(results):
    """Passed, failed (with the last line of the error) and skipped tests of one result file."""
    passed, failed, skipped = [], [], []
    if not results.exists():
        return passed, [(f"the run itself, see {CACHE}", "pytest wrote no results")], skipped
    outcomes = {}
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('test.')}.{case.get('name', '')}"
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            outcomes[name] = ("failed", (problem.get("message") or "").strip().splitlines())
        elif case.find("skipped") is not None:
            outcomes.setdefault(name, ("skipped", None))
        else:
            outcomes.setdefault(name, ("passed", None))
    for name, (outcome, lines) in outcomes.items():
        if outcome == "failed":
            failed.append((name, lines[0][:200] if lines else ""))
        else:
            (passed if outcome == "passed" else skipped).append(name)
    return passed, failed, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stepdown", default=os.environ.get("STEPDOWN", str(ROOT / "target/release/stepdown")))
    parser.add_argument("--against", help="host:port of a member of a set that runs already")
    parser.add_argument("--only", nargs="*", help="files whose names have one of these words in them")
    parser.add_argument("-k", dest="keyword", help="tests, as pytest -k takes them")
    parser.add_argument("--jobs", type=int, default=1, help="so many runs at once, each with a set of its own")
    parser.add_argument("--limit", type=float, help="seconds after which to stop and report")
    arguments = parser.parse_args()
    tree = set_up()
    names = files(tree, arguments.only)
    jobs = 1 if arguments.against else max(1, min(arguments.jobs, len(names)))
    began = time.monotonic()
    runs = []
    for number in range(jobs):
        port = "27017" if number == 0 and are_free(27017, 27018, 27019, 28017) else "0"
        served = None if arguments.against else Served(arguments.stepdown, port)
        address = arguments.against or served.address
        runs.append((served, *start(tree, address, share(tree, names, number, jobs), number, arguments.keyword)))
    passed, failed, skipped = [], [], []
    for served, process, results in runs:
        try:
            process.wait(arguments.limit and max(1, arguments.limit - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            # What has run so far is reported.
            process.send_signal(signal.SIGINT)
            process.wait()
        if served:
            ended = served.process.poll()
            if ended is not None:
                failed.append(("the set itself", f"stepdown serve ended with {ended}"))
            elif served.stop() != 0:
                failed.append(("the set itself", "stepdown serve did not end cleanly"))
        for all_of_them, some in zip((passed, failed, skipped), count(results)):
            all_of_them.extend(some)
    for name, error in sorted(failed):
        print(f"FAILED {name}: {error}")
    print(f"({tree.name}, {time.monotonic() - began:.0f} s; logs in {CACHE})")
    print(f"pymongo: {len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped")
    ran = len(passed) + len(failed)
    return 0 if ran and len(passed) / ran >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
