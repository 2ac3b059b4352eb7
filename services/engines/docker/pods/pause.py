"""The program of the container that holds a pod's network: it sleeps for ever, and no registry is needed to have it.

It ignores SIGCHLD, so that the kernel itself reaps what is left to it where it is process 1 of a whole pod. An argument
is what it writes into /etc/resolv.conf first: docker shares that file among the containers of a network namespace, and
in a network of the user's own would name none but its own name server there. Nothing ends it but SIGKILL, which costs
nothing, as it has nothing to lose.
"""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import dataclass

PROGRAM = "/pause"
_BASE = 0x400000
_HEAD = 64 + 56
"""Bytes of the ELF header and its only program header."""

# push 0; push 0; push 2; push 1        ; struct sigaction: SIG_IGN, SA_NOCLDWAIT, no restorer, no mask
# mov eax, 13; mov edi, 17; mov rsi, rsp; xor edx, edx; mov r10d, 8; syscall      ; rt_sigaction(SIGCHLD, it, 0, 8)
# cmp qword [rsp+32], 2; jl sleep                                                 ; argc
# mov eax, 2; lea rdi, [rip+path]; mov esi, O_WRONLY|O_TRUNC; syscall             ; open
# mov edi, eax; mov rsi, [rsp+48]; xor edx, edx                                   ; argv[1]
# count: cmp byte [rsi+rdx], 0; je write; inc rdx; jmp count
# write: mov eax, 1; syscall
# sleep: mov eax, 34; syscall; jmp sleep                                          ; pause
# path: "/etc/resolv.conf"
_X86_64 = """
6a006a006a026a01b80d000000bf110000004889e631d241ba080000000f0548
837c2420027c2eb802000000488d3d2b000000be010200000f0589c7488b7424
3031d2803c1600740548ffc2ebf5b8010000000f05b8220000000f05ebf72f65
74632f7265736f6c762e636f6e6600
"""

# sub sp, sp, #32; mov x9, #1; mov x10, #2; stp x9, x10, [sp]; stp xzr, xzr, [sp, #16]
# mov x0, #17; mov x1, sp; mov x2, #0; mov x3, #8; mov x8, #134; svc #0           // rt_sigaction
# ldr x9, [sp, #32]; cmp x9, #2; b.lt sleep
# mov x0, #-100; adr x1, path; mov x2, #0x201; mov x3, #0; mov x8, #56; svc #0    // openat(AT_FDCWD, …)
# ldr x1, [sp, #48]; mov x2, #0
# count: ldrb w9, [x1, x2]; cbz w9, write; add x2, x2, #1; b count
# write: mov x8, #64; svc #0
# sleep: mov x0, #0; mov x1, #0; mov x2, #0; mov x3, #0; mov x8, #73; svc #0; b sleep   // ppoll
# path: "/etc/resolv.conf"
_AARCH64 = """
ff8300d1290080d24a0080d2e92b00a9ff7f01a9200280d2e1030091020080d2
030180d2c81080d2010000d4e91340f93f0900f1eb010054600c809281020010
224080d2030080d2080780d2010000d4e11b40f9020080d22968623869000034
42040091fdffff17080880d2010000d4000080d2010080d2020080d2030080d2
280980d2010000d4faffff172f6574632f7265736f6c762e636f6e6600
"""


@dataclass(frozen=True, slots=True)
class _Machine:
    number: int
    """ELF's."""
    code: str


_MACHINES = {"amd64": _Machine(62, _X86_64), "arm64": _Machine(183, _AARCH64)}
"""By docker's names of architectures."""

ARCHITECTURES = tuple(_MACHINES)


def program(architecture: str) -> bytes:
    """A static ELF executable; raises KeyError for what is not among `ARCHITECTURES`."""
    machine = _MACHINES[architecture]
    code = bytes.fromhex(machine.code)
    size = _HEAD + len(code)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    # executable; entry; program headers behind this header; no sections
    head = struct.pack("<HHIQQQIHHHHHH", 2, machine.number, 1, _BASE + _HEAD, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    # PT_LOAD, readable and executable: the whole file
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + head + load + code


def file_system(architecture: str) -> bytes:
    """A tar archive with nothing in it but the program."""
    content = program(architecture)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(PROGRAM.removeprefix("/"))
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
