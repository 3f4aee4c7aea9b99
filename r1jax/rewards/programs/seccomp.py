"""A filter on system calls for the sandbox, in addition to its namespaces.

It refuses system calls that no solution of a problem needs: mounts, new
namespaces, access to other processes' memory, kernel modules, keys, io_uring,
and sockets other than local ones. This reduces the kernel's attack surface,
against which the sandbox's other protections do not help.
"""

from __future__ import annotations

import platform
import struct

# Numbers by machine: the tables of Linux (unistd_64.h, asm-generic/unistd.h).
_SHARED = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442)
_MACHINES = {
    "x86_64": (0xC000003E, 56, 435, 41, (
        101,  # ptrace
        103, 155, 161, 163,  # syslog, pivot_root, chroot, acct
        165, 166, 167, 168, 169, 170, 171,  # mount ... reboot, names
        172, 173, 175, 176, 179, 212,  # ports, modules, quotactl, dcookie
        246, 248, 249, 250, 272,  # kexec_load, keys, unshare
        298, 303, 304, 308,  # perf_event_open, handles, setns
        310, 311, 312, 313, 320, 321, 323)),  # process_vm ... bpf, userfaultfd
    "aarch64": (0xC00000B7, 220, 435, 198, (
        117, 116, 41, 51, 89, 40, 39, 224, 225, 142, 161, 162, 105, 106, 60,
        18, 104, 217, 218, 219, 97, 241, 264, 265, 268, 270, 271, 272, 273,
        294, 280, 282)),
}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE, _UNKNOWN = (
    0x7FFF0000, 0x80000000, 0x00050001, 0x00050000 | 38)  # EPERM, ENOSYS
_NAMESPACES = 0x7E020000  # the flags of clone that make namespaces
_LOCAL = 1  # AF_UNIX
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in seccomp_data


def program() -> bytes:
  """The BPF program for bubblewrap's --seccomp; b"" on unsupported machines."""
  if platform.machine() not in _MACHINES:
    return b""
  architecture, clone, clone3, socket, refused = _MACHINES[platform.machine()]
  refused = (*refused, *_SHARED)
  lines = [
      (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture),
      (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
  if platform.machine() == "x86_64":  # the calls of the x32 interface
    lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
  for number in refused:
    lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
  lines += [
      # glibc then uses clone, whose flags can be checked.
      (_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _UNKNOWN),
      (_EQUAL, 0, 4, clone), (_LOAD, 0, 0, _ARGUMENT),
      (_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, _REFUSE),
      (_RETURN, 0, 0, _ALLOW),
      (_EQUAL, 0, 3, socket), (_LOAD, 0, 0, _ARGUMENT),
      (_EQUAL, 1, 0, _LOCAL), (_RETURN, 0, 0, _REFUSE),
      (_RETURN, 0, 0, _ALLOW)]
  return b"".join(struct.pack("=HBBI", *line) for line in lines)
