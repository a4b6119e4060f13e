"""The filter of system calls that a sandboxed program lives under: what namespaces and limits leave open, by number.

A filter is a program in classic BPF that the kernel runs at each call, see seccomp(2). This one denies, with EPERM, what no computation
needs and no limit counts: a namespace of its own, in which a program would be root and mount memory without bound; System V memory, which
outlives its place in an address space; keyrings, which are inherited from whoever started us; sockets, since AF_VSOCK reaches the host from
any network namespace and AF_UNIX whoever listens in a folder that is shown, but for pairs of Unix ones; a look into other processes or the
kernel; a share of what the machine has once, such as its places for asynchronous input; and locks on files and news of them, which reach
the host even where its files are read only.
"""

import struct

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # by os.uname(); AUDIT_ARCH_*, of 64 bits: 32 have other numbers
DENIED = {  # as on x86_64, as on aarch64 (and every machine since); None where it has no such call
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "syslog": (103, 116),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "flock": (73, 32),
    "socket": (41, 198),
    "io_setup": (206, 0),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "statmount": (457, 457),
    "listmount": (458, 458),
}
SOCKET_PAIR, CLONE, FCNTL, CLONE3 = (53, 199), (56, 220), (72, 25), 435
HELD_BY_HOST = (6, 7, 37, 38, 1024, 1026)  # commands of fcntl(2): F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE, F_NOTIFY
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
UNIX_SOCKETS = 1
X32 = 0x40000000  # the first number of a second table that x86_64 kernels may have

LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENT, SECOND = 0, 4, 16, 24  # where they are in seccomp_data; the low halves of the first two arguments
ALLOW, KILL, NOT_PERMITTED, NOT_THERE = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38


def build(machine: str) -> bytes:
    """Return the filter for one of MACHINES.

    clone3 keeps its flags in memory, where a filter cannot look: it is said not to be there, and libraries then take clone.
    """
    column = list(MACHINES).index(machine)
    steps = [(LOAD, 0, 0, ARCHITECTURE), (IF_EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    steps += _if((IF_AT_LEAST, X32), (RETURN, 0, 0, NOT_THERE)) + _if((IF_EQUAL, CLONE3), (RETURN, 0, 0, NOT_THERE))
    for numbers in DENIED.values():
        number = numbers[column]
        steps += _if((IF_EQUAL, number), (RETURN, 0, 0, NOT_PERMITTED)) if number is not None else []
    spaces = [(LOAD, 0, 0, ARGUMENT), (IF_ANY_BIT, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, NOT_PERMITTED), (RETURN, 0, 0, ALLOW)]
    sockets = [(LOAD, 0, 0, ARGUMENT), (IF_EQUAL, 1, 0, UNIX_SOCKETS), (RETURN, 0, 0, NOT_PERMITTED), (RETURN, 0, 0, ALLOW)]
    locks = [step for command in HELD_BY_HOST for step in _if((IF_EQUAL, command), (RETURN, 0, 0, NOT_PERMITTED))]
    steps += _if((IF_EQUAL, FCNTL[column]), (LOAD, 0, 0, SECOND), *locks, (RETURN, 0, 0, ALLOW))
    steps += _if((IF_EQUAL, CLONE[column]), *spaces) + _if((IF_EQUAL, SOCKET_PAIR[column]), *sockets) + [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _if(condition: tuple[int, int], *steps: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """`steps` where the condition holds for the value loaded last; they end with a return. A step is code, two jumps, a value."""
    code, value = condition
    return [(code, 0, len(steps), value), *steps]
