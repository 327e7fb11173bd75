"""One process at a time writes in a folder, also where several machines see it.

    with Lease(folder) as lease:    # raises InUse
        lease.check()               # before each write; raises InUse when the folder was taken over

Advisory locks (flock, fcntl) do not do that on a network: over NFS they need a lock daemon on both
sides and the right mount options, and Lustre and BeeGFS often keep them to one machine, or refuse
them. What every file system does in one step is to give a file a second name where none is, and to
replace a name. So the lease is a file, `.lease`, made by a link. It says who holds it, and the
holder renews its time every RENEW seconds.

Who dies leaves the file. On the same machine it is seen at once that the process is gone; from
another one, when the file's time is STALE seconds behind the file server's, which is that of a file
written just now: the clocks of two clients are never compared. A holder that was only asleep finds
another's name in the lease before it writes.
"""

import errno
import json
import logging
import os
import platform
import threading
import time
import uuid
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from src.data.files import remove, writing

log = logging.getLogger(__name__)

LEASE = ".lease"
RENEW, STALE = 15.0, 120.0  # seconds
LOOK, SETTLE = 1.0, 0.1
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # of file systems without them, as exFAT

Holder = dict[str, Any]


class InUse(RuntimeError):
    """Another process has the folder; says which."""


class Lease(AbstractContextManager["Lease"]):
    """Held until `close`. renew, stale: seconds, as above.

    Waits while it may be that the holder, on another machine, is dead. Raises InUse, WriteError.
    """

    def __init__(self, folder: Path, renew: float = RENEW, stale: float = STALE) -> None:
        self.folder, self.path, self._token = folder, folder / LEASE, uuid.uuid4().hex
        self._scratch = folder / f"{LEASE}.{self._token}"
        self._renew, self._stale, self._ended = renew, stale, threading.Event()
        try:
            with writing(self._scratch):
                self._scratch.write_text(json.dumps(holder(os.getpid()) | {"token": self._token}))
            while not (self._made() or self._taken_over()):
                pass
        finally:
            remove(self._scratch)
        threading.Thread(target=self._keep, daemon=True, name="lease").start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError):
            if self._read()[0].get("token") == self._token:
                self.path.unlink()

    def check(self) -> None:
        """Raise InUse when the lease is another's, or gone; WriteError when it cannot be read."""
        with writing(self.path):
            other = self._read()[0]
        if other.get("token") != self._token:
            by = f"by {_named(other)}" if other else "and given back"
            raise InUse(
                f"{self.folder} was taken over {by} while this process did not answer: it writes "
                "no more"
            )

    def _keep(self) -> None:
        """Renew the lease's time. A file server that does not answer is asked again."""
        while not self._ended.wait(self._renew):
            with suppress(OSError):
                if self._read()[0].get("token") != self._token:
                    return
                os.utime(self.path)

    def _made(self) -> bool:
        """Make the lease, where there is none."""
        with writing(self.path):
            try:
                os.link(self._scratch, self.path)
            except FileExistsError:  # by another; or by this, and the answer was lost on its way
                return self._scratch.stat().st_nlink > 1
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                try:
                    self.path.open("x").close()
                except FileExistsError:
                    return False
                self._scratch.replace(self.path)
        return True

    def _taken_over(self) -> bool:
        """Whether this is now the holder in the place of one that has ended; False where there is
        no lease any more. Waits for the holder's end as long as it may be. Raises InUse."""
        began, said = self._read()[1], False
        while True:
            other, renewed = self._read()
            if renewed is None:
                return False
            here = holder(other.get("pid", 0))
            with writing(self._scratch):
                os.utime(self._scratch)
                left = renewed + self._stale - self._scratch.stat().st_mtime
            if here["machine"] is not None and here["machine"] == other.get("machine"):
                lives, left = here["born"] == other.get("born"), 0.0
            else:
                lives = renewed != began
            if lives:
                raise InUse(f"{self.folder} is in use by {_named(other)}")
            if left <= 0:
                break
            if not said:
                log.info(
                    "%s was in use by %s, which may have ended: waiting for it, %.0f s at most",
                    *(self.folder, _named(other), left),
                )
                said = True
            time.sleep(min(LOOK, left, self._renew))
        log.info("%s was in use by %s, which has ended", self.folder, _named(other))
        with writing(self.path):
            if self._read()[0] != other:
                return False
            self._scratch.replace(self.path)
        time.sleep(SETTLE)  # another that saw the same end replaces this by now, or never
        now = self._read()[0]
        if now.get("token") != self._token:
            raise InUse(f"{self.folder} is in use by {_named(now)}")
        return True

    def _read(self) -> tuple[Holder, float | None]:
        return _read(self.path)


def _read(path: Path) -> tuple[Holder, float | None]:
    """Who holds a lease, and its time; {} and None where there is none. To open a file has NFS ask
    the server, where a mere look may give what is remembered."""
    try:
        with path.open() as file:
            found, renewed = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return {}, None
    try:
        return dict(json.loads(found)), renewed
    except ValueError:
        return {}, renewed


def holder(pid: int) -> Holder:
    """A process of this machine: its host and number; `machine`, which tells one start of a system
    and one container from another; `born`, which tells it from a later process of its number, None
    where there is none. Without /proc the machine is None: nobody can be asked whether it lives."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        machine = None
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        born = (
            state[19] if state[0] not in "ZX" else None
        )  # dead, and not yet fetched by its parent
    except OSError:
        born = None
    return {"host": platform.node(), "pid": pid, "machine": machine, "born": born}


def _named(other: Holder) -> str:
    return f"another process, {other.get('pid', 'unknown')} on {other.get('host', 'unknown')}"
