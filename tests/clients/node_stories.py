"""The Node driver, mongoose and mongosh against `stepdown serve --speed 10`.

    node_stories.py [PATH-OF-STEPDOWN]      (or the environment variable STEPDOWN)

Installs the current packages with npm into `.cache/node` (STEPDOWN_CACHE) unless they are there. Says that it is
skipped, with exit code 0, where there is no npm. Prints a line per step; the first that does not hold ends it with
exit code 1.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("STEPDOWN_CACHE", HERE.parents[1] / ".cache")) / "node"
PACKAGES = ["mongodb", "mongoose", "mongosh"]
# Real seconds for each client.
PATIENCE = 120


def install():
    """The folder of the packages; None where they cannot be had."""
    modules = CACHE / "node_modules"
    if all((modules / package).exists() for package in PACKAGES):
        return modules
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "package.json").write_text('{"private": true}\n')
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([npm, "install", *quiet, *PACKAGES], cwd=CACHE, check=True)
    return modules


def serve(binary, story):
    command = [binary, "serve", "--port", "0", "--speed", "10"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=story, text=True)
    uri = process.stdout.readline().strip()
    deadline = time.monotonic() + 10
    control = None
    while not control and time.monotonic() < deadline:
        control = re.search(r"control port: (\S+)", pathlib.Path(story.name).read_text())
        time.sleep(0.02)
    if not uri or not control:
        sys.exit(f"stepdown serve said {uri!r}: {pathlib.Path(story.name).read_text()}")
    return process, uri, control.group(1)


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("STEPDOWN")
    if not binary:
        sys.exit(__doc__)
    modules = install()
    if modules is None:
        print("SKIPPED: there is no npm here, and so no Node driver, mongoose or mongosh")
        return 0
    versions = {}
    for package in PACKAGES:
        text = (modules / package / "package.json").read_text()
        versions[package] = re.search(r'"version": *"([^"]+)"', text).group(1)
    print(", ".join(f"{package} {version}" for package, version in versions.items()), f"against {binary}")
    environment = {**os.environ, "NODE_PATH": str(modules)}
    environment["HOME"] = tempfile.mkdtemp(prefix="stepdown-node-")
    stories = [
        lambda uri, control: ["node", HERE / "node/driver.js", uri, binary, control],
        lambda uri, control: ["node", HERE / "node/mongoose.js", uri, binary, control],
        lambda uri, _: [modules / ".bin/mongosh", uri, "--quiet", "--norc", "--file", HERE / "node/shell.js"],
    ]
    code = 0
    for story in stories:
        with tempfile.NamedTemporaryFile(mode="w") as told:
            process, uri, control = serve(binary, told)
            try:
                code = subprocess.run(story(uri, control), env=environment, timeout=PATIENCE).returncode
            except subprocess.TimeoutExpired:
                print(f"not done after {PATIENCE} s")
                code = 1
            if code:
                print("---- the last of what the set tells:", file=sys.stderr)
                print("\n".join(pathlib.Path(told.name).read_text().splitlines()[-30:]), file=sys.stderr)
            process.terminate()
            process.wait(timeout=30)
        if code:
            return 1
    shutil.rmtree(environment["HOME"], ignore_errors=True)
    print("all stories hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
