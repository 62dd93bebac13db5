"""What a process gives up before it runs code of a user: memory, files, processes, network and signals.

No mechanism needs privileges. Each one holds until the process ends, and its children inherit it.

    rlimits     memory, size and number of open files, no core dump
    seccomp     a filter of system calls: no other process, no socket, no signal to others, no change of the machine
    landlock    rules for files: write only in the own folder, read only the interpreter, the system's libraries and the code

The standard library is enough, because the child loads this file by its path, and the host imports it as a module.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

SET_PDEATHSIG, SET_NO_NEW_PRIVS, SET_SECCOMP = 1, 38, 22
_SET_DUMPABLE, _FILTER = 4, 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_X32 = 0x40000000
"""Bit of a system call's number on x86_64 that names a second table, which no program here uses."""
_THREAD, _NAMESPACES = 0x00010000, 0x7E020000
"""Flags of `clone`: a thread of this process, and every kind of new namespace."""
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> the number by which the kernel calls it, and the column of `_CALLS`."""

_CALLS: dict[str, tuple[int | None, int | None]] = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "lchown": (94, None),
    "listen": (50, 201),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "sendto": (44, 206),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "setrlimit": (160, 164),
    "setsid": (112, 157),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vfork": (58, None),
}
"""Name of a system call -> its number on x86_64 and on aarch64."""
_ATTRIBUTES = frozenset({"chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat"})
"""Calls that seem to succeed and do nothing. A copy of a file uses them, but they would also reach files outside of the folder."""
_GROUP = frozenset({"setsid", "setpgid"})
"""The same for calls with which a process would leave the group that is ended with the sandbox."""
_FORKS, _PROGRAMS = frozenset({"fork", "vfork"}), frozenset({"execve", "execveat"})
_NETWORK = frozenset({"accept", "accept4", "bind", "connect", "listen"})

Test = tuple[int, int, frozenset[int], bool]
"""One test of a call's argument: its word, a mask, values, and whether the masked word has to be one of them or none of them."""


def _word(argument: int, half: int = 0) -> int:
    """Return where the filter finds the lower or upper half of an argument."""
    return 16 + 8 * argument + 4 * half


def _rules(allow: Iterable[str], own: int, signals_are_scoped: bool) -> dict[str, tuple[int, tuple[Test, ...]]]:
    """Return call -> what a refused call answers, and the tests that let it through. Without tests it is always refused.

    Every call of `_CALLS` is refused unless this function says otherwise. `own` is the process that may send signals to itself.
    """
    network, processes = "network" in allow, "processes" in allow
    rules: dict[str, tuple[int, tuple[Test, ...]]] = dict.fromkeys(_CALLS, (errno.EPERM, ()))
    rules |= dict.fromkeys(_ATTRIBUTES | _GROUP, (0, ()))
    rules["clone3"] = (
        errno.ENOSYS,
        (),
    )  # its flags are in memory, where no filter can read; libraries then take `clone`
    whole = 0xFFFFFFFF
    itself: Test = (_word(0), whole, frozenset({own}), True)
    rules["kill"] = rules["tgkill"] = (errno.EPERM, (itself,))
    rules["clone"] = (errno.EPERM, ((_word(0), _THREAD, frozenset({_THREAD}), True),))
    rules["prctl"] = (errno.EPERM, ((_word(0), whole, frozenset({SET_PDEATHSIG, _SET_DUMPABLE}), False),))
    null = [(_word(2, half), whole, frozenset({0}), True) for half in (0, 1)]
    rules["prlimit64"] = (errno.EPERM, tuple(null))
    rules["socketpair"] = (errno.EPERM, ((_word(1), 0xF, frozenset({1}), True),))
    unaddressed = [(_word(4, half), whole, frozenset({0}), True) for half in (0, 1)]
    rules["sendto"] = (errno.EPERM, tuple(unaddressed))
    if network:
        internet = ((_word(0), whole, frozenset({2, 10}), True), (_word(1), 0xF, frozenset({1, 2}), True))
        rules["socket"] = (errno.EPERM, internet)
        rules = {name: rule for name, rule in rules.items() if name not in _NETWORK | {"sendto"}}
    if processes:
        rules["clone"] = (errno.EPERM, ((_word(0), _NAMESPACES, frozenset({0}), True),))
        free = _FORKS | _PROGRAMS | _ATTRIBUTES | (frozenset({"kill", "tgkill"}) if signals_are_scoped else frozenset())
        rules = {name: rule for name, rule in rules.items() if name not in free}
    return rules


def program(machine: str, allow: Iterable[str], own: int, signals_are_scoped: bool) -> list[tuple[int, int, int, int]]:
    """Return the filter as instructions of the kernel's packet filter. A call that no rule names is let through."""
    architecture, column = _ARCHITECTURES[machine]
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for name, (answer, tests) in _rules(allow, own, signals_are_scoped).items():
        number = _CALLS[name][column]
        if number is not None:
            body = _body(answer, tests)
            code += [(_EQUAL, 0, len(body), number), *body]
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _body(answer: int, tests: Sequence[Test]) -> list[tuple[int, int, int, int]]:
    """Return what is done for one call: a failed test goes on to the refusal, which is the last instruction."""
    refuse, code = [(_RETURN, 0, 0, _ERRNO | answer)], list[tuple[int, int, int, int]]()
    for word, mask, values, wanted in tests:
        code += [(_LOAD, 0, 0, word), (_AND, 0, 0, mask)]
        for left, value in zip(range(len(values) - 1, -1, -1), sorted(values), strict=True):
            code.append((_EQUAL, left + 1, 0, value) if wanted else (_EQUAL, left, 0 if left else 1, value))
        code += refuse  # reached by a word that is none of the wanted values, or one of the others
    return [*code, (_RETURN, 0, 0, _ALLOW)] if tests else refuse


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, pointer: object = 0) -> None:
    """Call `prctl`. Raises `OSError` when the kernel refuses."""
    if _libc().prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"prctl {option}")


def filter_calls(allow: Iterable[str]) -> None:
    """Install the filter of system calls. Raises `OSError` where the kernel has none."""
    code = program(platform.machine(), allow, os.getpid(), landlock_version() >= 6)
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(packed, len(packed))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    prctl(SET_SECCOMP, _FILTER, ctypes.byref(Program(len(code), ctypes.addressof(buffer))))


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_SHARE = 1 << 13
"""To link or move a file between two folders. Landlock can allow it from its second version on."""
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/proc/self", "/sys/devices/system"),
    *("/dev/zero", "/dev/random", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems"),
    *(
        f"/etc/{name}"
        for name in ("ld.so.cache", "ld.so.conf", "localtime", "passwd", "group", "nsswitch.conf", "hosts")
    ),
    *(
        f"/etc/{name}"
        for name in ("resolv.conf", "host.conf", "gai.conf", "ssl", "pki", "ca-certificates", "mime.types")
    ),
    *("/etc/alternatives", "/etc/services", "/etc/protocols", "/proc/sys/vm/overcommit_memory", "/etc/ld.so.conf.d"),
)
"""What of the system may be read. Homes, mounted secrets, other processes and temporary files of others are not in it."""


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has, or 0."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))))


def restrict_files(readable: Iterable[str], writable: Iterable[str], network: bool) -> int:
    """Let this process read and write only beneath these paths. Return the version of Landlock; with 0 nothing was restricted."""
    version, libc = landlock_version(), _libc()
    if not version:
        return 0
    newest = {1: 12, 2: 13, 3: 14, 4: 14}.get(version, 15)
    files = (1 << (newest + 1)) - 1
    tcp = 0 if network or version < 4 else 0b11
    scoped = 0b11 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("QQQ", files, tcp, scoped)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "landlock_create_ruleset")
    for paths, access in ((readable, _READ), (writable, files), (("/dev/null",), _READ_FILE | _WRITE_FILE)):
        for path in paths:
            _allow_beneath(libc, ruleset, path, access & files)
    if libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "landlock_restrict_self")
    os.close(ruleset)
    return version


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what does not exist needs no rule
    try:
        allowed = access if Path(path).is_dir() else access & _FOR_FILES
        if libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, beneath), ctypes.c_uint(0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"landlock_add_rule {path}")
    finally:
        os.close(beneath)


def interpreter_folders() -> list[str]:
    """Return the folders from which this interpreter imports and loads libraries."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folders = [*sys.path, *libraries, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    return sorted({str(Path(folder).resolve()) for folder in folders if folder} - {"/"})


def limit(memory_mb: int, file_mb: int) -> None:
    """Set the hard limits. Memory counts from what the process has now: its address space may grow by `memory_mb`."""
    now = 0
    if Path("/proc/self/statm").exists():
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: now + (memory_mb << 20),
        resource.RLIMIT_FSIZE: file_mb << 20,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def die_first() -> None:
    """Let the kernel end this process, not its host, when the machine or the container has no memory left."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def die_with(parent: int, death: signal.Signals = signal.SIGKILL) -> None:
    """End this process when `parent`, the process that started it, has ended. Linux only; elsewhere a closed channel ends it."""
    if sys.platform.startswith("linux"):
        prctl(SET_PDEATHSIG, int(death))
    if os.getppid() != parent:
        os._exit(1)


def protections() -> dict[str, bool]:
    """Return which mechanisms this machine has. Nothing is changed in the process that asks."""
    linux, version = sys.platform.startswith("linux"), landlock_version()
    filtered = False
    if linux and platform.machine() in _ARCHITECTURES:
        number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
        action = ctypes.c_uint32(_ERRNO)
        filtered = _libc().syscall(number, ctypes.c_uint(2), ctypes.c_uint(0), ctypes.byref(action)) == 0
    return {
        "system calls are filtered (seccomp)": filtered,
        "files are restricted (Landlock)": version >= 1,
        "files outside cannot be cut (Landlock 3)": version >= 3,
        "TCP is restricted (Landlock 4)": version >= 4,
        "signals are restricted (Landlock 6)": version >= 6,
        "ends with its parent": linux,
        "limits of memory, files and time": hasattr(resource, "RLIMIT_AS"),
    }
