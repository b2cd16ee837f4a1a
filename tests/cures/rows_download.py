"""Cures for downloads, from a server on the loopback address."""

import re
import threading

from data_scripts.download import fetch
from data_scripts.download_checkpoint import download_checkpoint
from tests.cures.world import EACCES, Cure, find
from tests.data_scripts.test_download import BODY, CHECKPOINT, Server, cut_after, hub


def serve(world):
    """A server that has a checkpoint, owner/bert, until the test ends."""
    world.patch.setenv("no_proxy", "*")
    server = world.until_the_end.enter_context(Server())
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    world.until_the_end.callback(server.shutdown)
    hub(server, CHECKPOINT)
    return server


def get(world, name="owner/bert", revision="main", **changes):
    """The download of a checkpoint. changes: in what the hub lists of its files."""
    server = serve(world)
    if changes:
        hub(server, CHECKPOINT, **changes)
    return again(world, server, name, revision)


def again(world, server, name="owner/bert", revision="main"):
    """The same from the same server."""
    world.server = server
    return lambda: download_checkpoint(name, world.folder / "bert", revision, server.url)


def first_cut(world):
    """A connection that breaks once."""
    server = serve(world)
    remote = server.file(cut_after(1000))

    def whole(handler):
        server.routes["/file.bin"] = BODY
        cut_after(1000)(handler)

    server.routes["/file.bin"] = whole
    return lambda: fetch(remote, world.folder)


def silent(world):
    """A server that is not there yet."""
    server = serve(world)
    world.patch.setattr("urllib.request.OpenerDirector.open", refuse)
    return again(world, server)


def refuse(*arguments, **options):
    raise OSError("no route to host")


def mended(world, argv, line):
    """Does outside what the line says."""
    find("(check the network, try again|mend that and run it again)", line)
    world.patch.undo()
    world.patch.setenv("no_proxy", "*")


def failing_once(world, status):
    """A hub that has too much to do once."""
    server = serve(world)
    path, listing = next((path, content) for path, content in server.routes.items() if path.startswith("/api/"))

    def busy(handler):
        server.routes[path] = listing
        handler.send(b"", status)

    server.routes[path] = busy
    return again(world, server)


def closed_folder(world):
    """A folder into which no file can be put."""
    remote = serve(world).file()
    world.full(EACCES, "file.bin", "os.replace")
    return lambda: fetch(remote, world.folder)


def without_weights(world):
    """A repository that is no checkpoint."""
    server = serve(world)
    hub(server, {"config.json": b"{}"}, name="owner/other")
    return again(world, server, "owner/other")


ROWS = [
    Cure("check the name and the revision", lambda w: get(w, "owner/brt"), lambda w, *_: again(w, w.server)),
    Cure("check the name and the revision", lambda w: get(w, revision="v2"), lambda w, *_: again(w, w.server)),
    Cure(
        "check the name; private and gated ones are not supported", lambda w: failing_once(w, 401), lambda w, *_: None
    ),
    Cure("try later", lambda w: failing_once(w, 503), lambda w, *_: None),
    Cure("{}: no answer: {}; check the network, try again", silent, mended),
    Cure("; run the same command again to go on", first_cut, lambda w, *_: None),
    Cure(
        "{}: can't be read or written: {}; mend that and run it again",
        closed_folder,
        mended,
    ),
    Cure("{}: lacks {}; choose another checkpoint", without_weights, lambda w, *_: again(w, w.server)),
    Cure(
        "not a hub name; write it like bert-base-uncased or owner/model",
        lambda w: get(w, "https://hub/owner/bert"),
        lambda w, argv, line: again(w, w.server, re.sub("model", "bert", find("or (owner/model)", line))),
    ),
    Cure(
        "{}: the hub announces no usable size and hash for {}; try again later",
        lambda w: get(w, config_json={"size": None}),
        lambda w, argv, line: hub(w.server, CHECKPOINT),
    ),
]
